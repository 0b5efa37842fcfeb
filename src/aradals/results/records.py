"""The records of all results: numbers with their intervals, and the origin of each number.

A study, an evaluation and a diagnosis are all `Results`: rows of metrics for each method, calibrator, seed, condition
and robustness subset, and other records that explain the rows. A diagnosis has one method. Records are immutable and
contain plain values, no tensors. `aradals.results.files` writes and reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from aradals._internal.json_files import settings_digest
from aradals.errors import InputError
from aradals.robustness.audit import Audit
from aradals.robustness.scores import failed_too_often

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

Metric = Literal[
    "accuracy",
    "confidence",
    "nll",
    "brier",
    "brier_calibration",
    "brier_refinement",
    "ece",
    "binary_ece",
    "adaptive_ece",
    "classwise_ece",
    "mce",
    "smooth_ece",
    "debiased_l2_ece",
    "ks_error",
    "aurc",
    "error_auroc",
    "ood_auroc",
    "accuracy_at_coverage_90",
    "coverage_at_error_1",
    "coverage_at_error_5",
    "subset_calibration_error",
    "largest_subset_calibration_error",
    "ece_noise_floor",
    "ece_noise_floor_p95",
    "subset_noise_floor",
    "subset_noise_floor_p95",
    "largest_subset_noise_floor",
    "largest_subset_noise_floor_p95",
    "gap",
]
"""The keys of `aradals.metrics.summarize`; ``ood_auroc``, see `DataSummary`; and ``gap``, confidence minus accuracy."""

METRICS: tuple[Metric, ...] = get_args(Metric)

RANGES: dict[Metric, tuple[float, float]] = {
    "nll": (0.0, math.inf),
    "gap": (-1.0, 1.0),
    **dict.fromkeys(("brier", "brier_calibration", "brier_refinement"), (0.0, 2.0)),
}
"""The least and the largest value of a metric, if these are not 0 and 1."""

Place = Literal["clean", "all_shifts"]
"""Places where methods are compared: the clean data, or the mean over all shifted conditions."""

Kind = Literal["study", "evaluation", "diagnosis"]


@dataclass(frozen=True)
class Measure:
    """A number and its uncertainty; NaN stands for an unknown value.

    Attributes:
        value: the estimate, or a mean of estimates.
        low: lower end of a 95 % interval.
        high: upper end.
        spread: standard deviation over seeds; NaN for fewer than two.
        num_seeds: number of seeds that have a value.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan
    num_seeds: int = 1

    @property
    def known(self) -> bool:
        """True if the value is known."""
        return math.isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        """True if both ends of the interval are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def sign(self) -> int:
        """1 or -1 for a number significantly above or below zero, 0 if the interval contains zero or is unknown."""
        return 1 if self.low > 0 and self.value > 0 else -1 if self.high < 0 and self.value < 0 else 0

    @property
    def size(self) -> Measure:
        """The number without its sign."""
        return self if self.value >= 0 else Measure(-self.value, -self.high, -self.low)

    def times(self, factor: float) -> Measure:
        """Convert the number to other units; the factor is positive."""
        return Measure(factor * self.value, factor * self.low, factor * self.high)


class Condition(NamedTuple):
    """A corruption and its severity, 1 to 5; clean data by default."""

    corruption: str = "none"
    severity: int = 0

    @property
    def is_clean(self) -> bool:
        """True for clean data."""
        return self.severity == 0

    @property
    def label(self) -> str:
        """``gaussian noise 3``, or ``clean``."""
        return "clean" if self.is_clean else f"{self.corruption.replace('_', ' ')} {self.severity}"


CLEAN = Condition()


@dataclass(frozen=True)
class Variant:
    """A training method with or without a calibrator: one line of every table."""

    method: str
    calibrator: str = "none"

    @property
    def is_calibrated(self) -> bool:
        """True if a calibrator changes the outputs of the trained model."""
        return self.calibrator != "none"


@dataclass(frozen=True)
class Method:
    """A training method, or an ensemble of several models of a method.

    Attributes:
        name: key in the recipe and in all records.
        label: name in tables and figures.
        variant_of: method that this one changes in a detail; None if this method is not a variant.
        num_members: number of models; more than 1 for an ensemble.
    """

    name: str
    label: str
    variant_of: str | None = None
    num_members: int = 1


class OfVariant:
    """Base of the records of one method and one calibrator."""

    method: str
    calibrator: str

    @property
    def variant(self) -> Variant:
        """The method and the calibrator."""
        return Variant(self.method, self.calibrator)


Metrics: TypeAlias = Mapping[Metric, Measure]


@dataclass(frozen=True)
class Row(OfVariant):
    """All metrics of one model under one condition, on all examples or on one robustness subset.

    Attributes:
        method: name of the method.
        calibrator: name of the calibrator that was fitted afterwards, or "none".
        seed: seed of the training.
        corruption: "none" for clean data.
        severity: 1 to 5, 0 for clean data.
        n: number of examples.
        metrics: fractions, not percent (NLL in nats).
        subset: robustness subset from 0, the least robust; None for all examples.
    """

    method: str
    calibrator: str
    seed: int
    corruption: str
    severity: int
    n: int
    metrics: Metrics
    subset: int | None = None

    @property
    def condition(self) -> Condition:
        """The corruption of the inputs."""
        return Condition(self.corruption, self.severity)

    def __getitem__(self, metric: Metric) -> Measure:
        return measured(self.metrics, metric)


def measured(metrics: Metrics, metric: Metric) -> Measure:
    """Return a metric, or an unknown one.

    The interval of ``gap`` follows from those of confidence and accuracy as if their errors were
    independent. The true interval is narrower, because right predictions are more confident. So this interval is
    rather too wide. If the confidence has no interval, because there are few examples, that of the accuracy is enough.
    """
    if metric != "gap":
        return metrics.get(metric, Measure())
    accuracy, confidence = measured(metrics, "accuracy"), measured(metrics, "confidence")
    gap = confidence.value - accuracy.value
    below, above = accuracy.high - accuracy.value, accuracy.value - accuracy.low
    if confidence.has_interval:
        below = math.hypot(below, confidence.value - confidence.low)
        above = math.hypot(above, confidence.high - confidence.value)
    return Measure(gap, gap - below, gap + above)


def measures_of(flat: Mapping[str, Any], metrics: Iterable[Metric] = METRICS) -> dict[Metric, Measure]:
    """Collect the metrics of a flat row, whose intervals are in ``<metric>_low`` and ``<metric>_high``."""
    return {metric: measure_of(flat, metric) for metric in metrics if flat.get(metric) is not None}


def measure_of(flat: Mapping[str, Any], name: str) -> Measure:
    """Read a number of a flat row with its interval; missing values and None are unknown."""
    ends = (flat.get(name), flat.get(f"{name}_low"), flat.get(f"{name}_high"))
    value, low, high = (math.nan if end is None else float(end) for end in ends)
    return Measure(value, low, high)


@dataclass(frozen=True)
class Bin:
    """A bin of a reliability diagram; NaN if the bin is empty."""

    low: float
    high: float
    count: int
    confidence: float = math.nan
    accuracy: float = math.nan
    accuracy_low: float = math.nan
    accuracy_high: float = math.nan


@dataclass(frozen=True)
class Reliability(OfVariant):
    """The bins of a reliability diagram; the other fields are those of `Row`."""

    method: str
    calibrator: str
    seed: int
    corruption: str
    severity: int
    bins: tuple[Bin, ...]
    subset: int | None = None

    @property
    def condition(self) -> Condition:
        """The corruption of the inputs."""
        return Condition(self.corruption, self.severity)


@dataclass(frozen=True)
class ClassRow(OfVariant):
    """All examples of one true class, on clean data."""

    method: str
    calibrator: str
    label: int
    name: str
    n: int
    metrics: Metrics

    def __getitem__(self, metric: Metric) -> Measure:
        return measured(self.metrics, metric)


@dataclass(frozen=True)
class ClassShare:
    """A true class within the least robust subset.

    Attributes:
        label: number of the class.
        name: name of the class.
        n: number of its examples in the subset.
        share: its share of the subset.
        base_share: its share of all examples.
        accuracy: accuracy on its examples in the subset.
        confidence: mean confidence on these examples.
    """

    label: int
    name: str
    n: int
    share: float
    base_share: float
    accuracy: float = math.nan
    confidence: float = math.nan


@dataclass(frozen=True)
class Threshold:
    """A confidence threshold for accepting predictions, with a guarantee, see `aradals.metrics.confidence_threshold`.

    The threshold was found on the evaluated examples, and ``coverage`` and ``error`` describe them. The guarantee is
    for new examples of the same population.

    Attributes:
        max_error: largest share of wrong predictions among those that are accepted.
        threshold: smallest accepted confidence; None if no threshold can be guaranteed.
        coverage: share of the predictions that are accepted; of those of the subset, if there is one.
        n: number of accepted predictions.
        error: share of wrong predictions among the accepted ones.
        bound: upper confidence bound of the error on new examples, at most ``max_error``.
        level: level of this bound; it is higher for a subset, so that the bounds of all subsets hold together.
        calibrator: calibrator whose confidence is meant, or "none".
        subset: robustness subset, within which the promise holds; None for all examples.
    """

    max_error: float
    threshold: float | None = None
    coverage: float = 0.0
    n: int = 0
    error: float = math.nan
    bound: float = math.nan
    level: float = 0.95
    calibrator: str = "none"
    subset: int | None = None

    @property
    def is_guaranteed(self) -> bool:
        """True if there is a threshold, and its bound keeps the promise."""
        return self.threshold is not None and self.bound <= self.max_error

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise _other_form("a finite threshold, or none", str(self.threshold))


@dataclass(frozen=True)
class Comparison(OfVariant):
    """A variant minus a reference on the same examples and seeds.

    Attributes:
        method: method of the variant.
        calibrator: calibrator of the variant.
        reference_method: method of the reference.
        reference_calibrator: calibrator of the reference.
        place: clean data, or the mean over all shifts.
        metric: the metric that is compared.
        num_seeds: number of seeds that both have.
        value: mean of the variant over these seeds.
        reference_value: mean of the reference over these seeds.
        difference: value minus reference value; negative if the variant is lower.
        low: lower end of the difference's 95 % interval, which for calibration errors allows for their bias.
        high: upper end of this interval.
        p: p value of the paired t test over seeds; NaN for fewer than three seeds.
        p_holm: p, adjusted for all variants that are compared with one reference.
    """

    method: str
    calibrator: str
    reference_method: str
    reference_calibrator: str
    place: Place
    metric: Metric
    num_seeds: int
    value: float
    reference_value: float
    difference: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan

    @property
    def reference(self) -> Variant:
        """The variant that this one is compared with."""
        return Variant(self.reference_method, self.reference_calibrator)

    @property
    def measure(self) -> Measure:
        """The difference with its interval."""
        return Measure(self.difference, self.low, self.high)


@dataclass(frozen=True)
class Update:
    """One update of the targets; every tuple has one value for each subset, None if nothing could be measured."""

    target_prob: tuple[float | None, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training split."""

    loss: float = math.nan
    accuracy: float = math.nan
    seconds: float = math.nan


@dataclass(frozen=True)
class Candidate:
    """A training among which one was chosen, with its NLL on the calibration split after a temperature, in nats."""

    settings: Mapping[str, Any]
    nll: float


@dataclass(frozen=True)
class Training:
    """The course of one training.

    Attributes:
        method: name of the method.
        seed: seed of initialization, order and splits.
        settings: settings of the method, spelled as in the recipe.
        update_rate: rate of the updates of the targets; 0 if the targets stay.
        update_every: epochs between two updates.
        seconds: duration on the machine that trained; if one of several candidates was chosen, that of all.
        epochs: one record for each epoch.
        scorings: records of the scorings by the model itself: epochs before, seconds, passes and failures.
        updates: updates of the targets, in order; their ``target_prob`` is that before the update.
        target_prob: target of each subset at the end.
        at_lower_bound: subsets whose target fell to its lower bound 1/K.
        candidates: the trainings among which this one was chosen; empty if there was no choice.
        precision: precision of the training, 32-true, bf16-mixed or 16-mixed; empty if it is unknown.
    """

    method: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    update_rate: float = 0.0
    update_every: int = 1
    seconds: float = math.nan
    epochs: tuple[Epoch, ...] = ()
    scorings: tuple[Mapping[str, float], ...] = ()
    updates: tuple[Update, ...] = ()
    target_prob: tuple[float, ...] = ()
    at_lower_bound: tuple[int, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    precision: str = ""

    def __post_init__(self) -> None:
        sizes = {len(course) for each in self.updates for course in (each.target_prob, each.confidence, each.accuracy)}
        if sizes - {len(self.target_prob)}:
            raise InputError(
                expected=f"updates of {len(self.target_prob)} targets, as many as there are at the end",
                got=" and ".join(map(str, sorted(sizes))),
                hint="the history of one training",
            )


@dataclass(frozen=True)
class Fitted(OfVariant):
    """A calibrator that was fitted to one trained model; ``temperature`` is NaN if the calibrator has none."""

    method: str
    calibrator: str
    seed: int
    temperature: float = math.nan
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scoring:
    """A table of robustness scores: the attack, its failures, and its cost per example."""

    split: str
    attack: str
    n: int
    seed: int = 0
    num_failed: int = 0
    mean_forward: float = math.nan
    mean_backward: float = math.nan
    seconds: float = math.nan

    @property
    def by_margin(self) -> bool:
        """True if the search failed too often, so that the logit margin ranks, see `aradals.robustness.ScoreTable`."""
        return failed_too_often(self.num_failed, self.n)


@dataclass(frozen=True)
class Cost:
    """Seconds until a method can predict; ``relative_cost`` is a multiple of plain training at the same seed."""

    method: str
    seed: int
    training_seconds: float = math.nan
    scorer_seconds: float = math.nan
    scoring_seconds: float = math.nan
    seconds: float = math.nan
    relative_cost: float = math.nan


@dataclass(frozen=True)
class Stability:
    """The disagreement of independently trained models of one method on the same examples.

    Attributes:
        method: name of the method.
        models: seeds, or members of an ensemble.
        num_models: number of models.
        n: number of examples.
        subset: robustness subset, or None.
        seed: seed of the ensemble; None for models of several seeds.
        prediction_variance: variance of the predicted probabilities between models.
        matched_prediction_variance: the same variance, after all models were scaled to one mean confidence.
        disagreement: share of examples on which two models predict different classes.
    """

    method: str
    models: Literal["seeds", "members"]
    num_models: int
    n: int
    subset: int | None = None
    seed: int | None = None
    prediction_variance: Measure = field(default_factory=Measure)
    matched_prediction_variance: Measure = field(default_factory=Measure)
    disagreement: Measure = field(default_factory=Measure)


@dataclass(frozen=True)
class Check:
    """A question that was asked before anything was judged; the wrong answer would have refused the judgment.

    Attributes:
        what: the statement that has to be true.
        answer: "checked" if it is true.
        reason: reason why it could not be checked.
    """

    what: str
    answer: Literal["checked", "could not be checked"] = "could not be checked"
    reason: str = ""


@dataclass(frozen=True)
class FailedRun:
    """A run of a study without results."""

    method: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Picture:
    """One example for the report; ``png`` is in base64; ``score`` is None if there are no robustness scores."""

    id: int
    label: str
    predicted: str
    confidence: float
    png: str
    score: float | None = None


@dataclass(frozen=True)
class Pictures:
    """The most informative examples of a model."""

    least_robust: tuple[Picture, ...] = ()
    most_wrongly_confident: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class DataSummary:
    """The evaluated data.

    Attributes:
        name: id, path or built-in name, as the user gave it.
        num_classes: K.
        class_names: one name for each class, or empty.
        splits: number of examples of each split.
        splits_hash: digest of the splits of each seed.
        ood: other data, and their number of examples; the rows of all clean examples then have ``ood_auroc``, the
            AUROC of the confidence for telling them from the evaluated data.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    splits_hash: Mapping[str, str] = field(default_factory=dict)
    ood: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise _other_form("at least one class", str(self.num_classes))

    @property
    def label(self) -> str:
        """The name, or the last part of a path."""
        return Path(self.name).name if self.name.startswith((".", "/", "~")) else self.name


@dataclass(frozen=True)
class Results:
    """The results of a study, an evaluation or a diagnosis on one data set.

    Attributes:
        kind: study, evaluation or diagnosis.
        name: name of the study or the model.
        data: the evaluated data.
        methods: methods in the order of the recipe, including methods without any successful run.
        reference: the method that the others are compared with.
        rows: all metrics.
        reliability: reliability diagrams.
        description: description of the study, from the recipe.
        config: settings, as the user gave them.
        versions: versions of all software that determines a number.
        device: device that computed the results.
        training: one record for each method and seed.
        calibrators: the fitted calibrators.
        scoring: robustness scores that were made or read.
        costs: cost of each run.
        failed: runs without results.
        comparisons: paired differences.
        stability: disagreement of independently trained models.
        classes: results by true class.
        least_robust_classes: classes of the least robust subset, the largest share first.
        thresholds: confidence thresholds for accepting predictions.
        pictures: examples for the report.
        audit: audit of the ranking by robustness.
        checks: questions about leakage, calibrators of other models and versions, with their answers.
        weights: digest (SHA-256) of each checkpoint that the results were made from, by path; in a study, relative to
            its folder.
        request: digest of everything that decides the results; empty for a study, whose stages have their own.
    """

    kind: Kind
    name: str
    data: DataSummary
    methods: tuple[Method, ...]
    reference: str
    rows: tuple[Row, ...]
    reliability: tuple[Reliability, ...] = ()
    description: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    training: tuple[Training, ...] = ()
    calibrators: tuple[Fitted, ...] = ()
    scoring: tuple[Scoring, ...] = ()
    costs: tuple[Cost, ...] = ()
    failed: tuple[FailedRun, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    stability: tuple[Stability, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    least_robust_classes: tuple[ClassShare, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    pictures: Pictures = field(default_factory=Pictures)
    audit: Audit | None = None
    checks: tuple[Check, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    request: str = ""

    def __post_init__(self) -> None:
        named = {method.name for method in self.methods}
        for row in self.rows:
            if row.method not in named or not (row.subset is None or row.subset in range(len(self.rows))):
                raise _other_form(
                    "rows of the methods of the results, with subsets numbered from 0",
                    f"method {row.method!r}, subset {row.subset!r:.40}",
                )
        if self.reference not in named:
            raise InputError(
                expected=f"a reference among the methods {', '.join(sorted(named))}",
                got=repr(self.reference),
                hint="naming one of these methods in the recipe",
            )

    @cached_property
    def by_key(self) -> Mapping[tuple[Variant, Condition, int | None], Mapping[int, Row]]:
        """Row of each seed, by variant, condition and subset."""
        found: dict[tuple[Variant, Condition, int | None], dict[int, Row]] = {}
        for row in self.rows:
            seeds = found.setdefault((row.variant, row.condition, row.subset), {})
            if seeds.setdefault(row.seed, row) is not row:
                raise InputError(
                    expected="one row for each variant, seed, condition and subset",
                    got=f"two of {row.method}, {row.calibrator}, seed {row.seed}, {row.condition.label}",
                    hint="the rows of one study",
                )
        return found

    @cached_property
    def by_comparison(self) -> Mapping[tuple[Variant, Variant, Place, Metric], Comparison]:
        """Each comparison, by variant, reference, place and metric."""
        return {(each.variant, each.reference, each.place, each.metric): each for each in self.comparisons}

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The methods and calibrators that have rows, in order; each method as trained comes first."""
        found = list(dict.fromkeys(row.variant for row in self.rows))
        order = {method.name: position for position, method in enumerate(self.methods)}
        return tuple(sorted(found, key=lambda variant: (order[variant.method], variant.is_calibrated)))

    @cached_property
    def shifts(self) -> tuple[Condition, ...]:
        """All conditions except the clean one, in the order of the rows."""
        return tuple(dict.fromkeys(row.condition for row in self.rows if not row.condition.is_clean))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """List the seeds, in the order of the rows."""
        return tuple(dict.fromkeys(row.seed for row in self.rows))

    @cached_property
    def num_subsets(self) -> int:
        """Number of robustness subsets; 0 if there are none."""
        return max((row.subset + 1 for row in self.rows if row.subset is not None), default=0)

    @cached_property
    def num_examples(self) -> int:
        """Number of examples in the evaluated split."""
        return max((row.n for row in self.rows if row.subset is None), default=0)

    def method(self, name: str) -> Method:
        """Look up a method by its name.

        Raises:
            InputError: the results have no such method.
        """
        found = next((method for method in self.methods if method.name == name), None)
        if found is None:
            known = ", ".join(method.name for method in self.methods)
            raise InputError(expected=f"a method of the results: {known}", got=repr(name), hint="one of them")
        return found

    def table(self) -> Any:
        """Return the main table, as rich prints it in a terminal.

        Raises:
            MissingExtraError: rich is not installed.
        """
        from aradals.report.terminal import results_table

        return results_table(self)

    @property
    def identity(self) -> str:
        """Digest of the name, the data, the settings and the request, the same for the same command."""
        return settings_digest([self.kind, self.name, self.data.name, dict(self.config), self.request])

    def report(self, path: str | Path) -> Path:
        """Write the HTML report, one self-contained file, and return its path.

        Raises:
            MissingExtraError: Jinja2 is not installed.
        """
        from aradals.report import write_report

        write_report(self, Path(path))
        return Path(path)

    def save(self, path: str | Path) -> Path:
        """Write the results as JSON, sealed by a digest, and return the path; see `aradals.results.read_results`."""
        from aradals.results.files import save_results

        save_results(self, Path(path))
        return Path(path)

    def to_frame(self) -> DataFrame:
        """Return the rows as a table of pandas, with one column for each metric and each end of an interval.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        from aradals.results.files import to_frame

        return to_frame(self)

    def _repr_html_(self) -> str:
        from aradals.report import html_table

        return html_table(self)


def _other_form(expected: str, got: str) -> InputError:
    return InputError(expected=expected, got=got, hint="a results file from `aradals run`, `evaluate` or `diagnose`")
