"""The records that every result is made of: what was evaluated, each number with its interval, and how it came about.

A study, an evaluation and a diagnosis are all `Results`: rows of metrics for each method, calibrator, seed, condition
and robustness subset, and around them the records that explain the rows. A diagnosis has one method. Records are
immutable, hold plain values and no tensors; `aradals.results.files` writes and reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from aradals.errors import InputError
from aradals.robustness.audit import Audit

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
    "adaptive_ece",
    "classwise_ece",
    "mce",
    "smooth_ece",
    "debiased_l2_ece",
    "ks_error",
    "aurc",
    "error_auroc",
    "accuracy_at_coverage_90",
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
"""The keys of `aradals.metrics.summarize`, and ``gap``, which is confidence minus accuracy."""

METRICS: tuple[Metric, ...] = get_args(Metric)

Place = Literal["clean", "all_shifts"]
"""What methods are compared on: the clean data, or the mean over all shifted conditions."""

Kind = Literal["study", "evaluation", "diagnosis"]


@dataclass(frozen=True)
class Measure:
    """A number and its uncertainty; NaN stands for what is not known.

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
        """Whether the value is known."""
        return math.isfinite(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def sign(self) -> int:
        """1 or -1 for a number that is significantly above or below zero, 0 where the interval holds zero."""
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
        """Whether nothing was changed."""
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
        """Whether a calibrator changes the outputs of the trained model."""
        return self.calibrator != "none"


@dataclass(frozen=True)
class Method:
    """A training method, or an ensemble of several models of one.

    Attributes:
        name: key in the recipe and in all records.
        label: name for people.
        variant_of: method that this one changes in a detail; None for a method that stands for itself.
        num_members: number of models; more than 1 for an ensemble.
    """

    name: str
    label: str
    variant_of: str | None = None
    num_members: int = 1


class OfVariant:
    """What records of one method and one calibrator have in common."""

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
        method: what was trained.
        calibrator: what was fitted afterwards, or "none".
        seed: of the training.
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
        """What the inputs were changed by."""
        return Condition(self.corruption, self.severity)

    def __getitem__(self, metric: Metric) -> Measure:
        return measured(self.metrics, metric)


def measured(metrics: Metrics, metric: Metric) -> Measure:
    """Return a metric, or an unknown one.

    The interval of ``gap`` follows from those of confidence and accuracy as for independent errors. Being right and
    being confident go together, which narrows the true interval: this one errs on the wide side.
    """
    if metric != "gap":
        return metrics.get(metric, Measure())
    accuracy, confidence = measured(metrics, "accuracy"), measured(metrics, "confidence")
    gap = confidence.value - accuracy.value
    below = math.hypot(confidence.value - confidence.low, accuracy.high - accuracy.value)
    above = math.hypot(confidence.high - confidence.value, accuracy.value - accuracy.low)
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
    """A bin of a reliability diagram; NaN where no prediction falls into it."""

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
        """What the inputs were changed by."""
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
        name: its name.
        n: its examples in the subset.
        share: of the subset.
        base_share: of all examples.
        accuracy: on its examples in the subset.
        confidence: on these.
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
    """The confidence from which on predictions can be accepted, so that few of them are wrong.

    Attributes:
        max_error: largest share of wrong predictions among the accepted ones.
        threshold: least confidence; None if no confidence is enough.
        coverage: share of the predictions that are accepted.
        n: their number.
        error: share of them that is wrong.
    """

    max_error: float
    threshold: float | None = None
    coverage: float = 0.0
    n: int = 0
    error: float = math.nan


@dataclass(frozen=True)
class Comparison(OfVariant):
    """A variant minus a reference on the same examples and seeds.

    Attributes:
        method: of the variant.
        calibrator: of the variant.
        reference_method: of what it is compared with.
        reference_calibrator: of what it is compared with.
        place: clean data, or the mean over all shifts.
        metric: what is compared.
        num_seeds: seeds that both have.
        value: mean of the variant over these seeds.
        reference_value: mean of the reference.
        difference: the first minus the second; negative is lower than the reference.
        low: lower end of its 95 % interval, which for calibration errors allows for their bias.
        high: upper end.
        p: of the paired t test over seeds; NaN for fewer than three.
        p_holm: the same, adjusted for all variants that are compared with one reference.
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
        """What the variant is compared with."""
        return Variant(self.reference_method, self.reference_calibrator)

    @property
    def measure(self) -> Measure:
        """The difference with its interval."""
        return Measure(self.difference, self.low, self.high)


@dataclass(frozen=True)
class Update:
    """One update of the targets; every tuple has one value per subset, None where nothing could be measured."""

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
class Training:
    """How the training of one method went.

    Attributes:
        method: what was trained.
        seed: of initialization, order and splits.
        settings: of the method, as the recipe spells them.
        update_rate: of the targets; 0 where they stay.
        update_every: epochs between two updates.
        seconds: on the machine that trained.
        epochs: one record each.
        scorings: by the model itself: epochs before it, seconds, passes and failures.
        updates: of the targets, in order; their ``target_prob`` is the one before the update.
        target_prob: of each subset at the end.
        at_lower_bound: subsets whose target ran down to its lower bound 1/K.
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


@dataclass(frozen=True)
class Fitted(OfVariant):
    """A calibrator that was fitted to one trained model; ``temperature`` is NaN for those that have none."""

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
    """How much independently trained models of one method disagree on the same examples.

    Attributes:
        method: what was trained.
        models: seeds, or members of an ensemble.
        num_models: number of models.
        n: number of examples.
        subset: robustness subset, or None.
        seed: of the ensemble; None over seeds.
        prediction_variance: of the predicted probabilities.
        matched_prediction_variance: the same with all models at one mean confidence.
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
class OutOfDistribution:
    """How well the confidence tells the evaluated examples from those of other data."""

    calibrator: str
    ood_data: str
    n: int
    ood_n: int
    ood_auroc: float = math.nan


@dataclass(frozen=True)
class FailedRun:
    """A run of a study without results."""

    method: str
    seed: int
    reason: str


@dataclass(frozen=True)
class Picture:
    """One example as the report shows it; ``png`` is in base64, ``score`` is None without robustness scores."""

    id: int
    label: str
    predicted: str
    confidence: float
    png: str
    score: float | None = None


@dataclass(frozen=True)
class Pictures:
    """Examples that say most about a model."""

    least_robust: tuple[Picture, ...] = ()
    most_wrongly_confident: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class DataSummary:
    """The data that the results are about.

    Attributes:
        name: id, path or built-in name, as it was given.
        num_classes: K.
        class_names: one per class, or empty.
        splits: number of examples of each split.
        splits_hash: digest of the splits of each seed.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    splits_hash: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name, or the last part of a path."""
        return Path(self.name).name if self.name.startswith((".", "/", "~")) else self.name


@dataclass(frozen=True)
class Results:
    """What a study, an evaluation or a diagnosis has found out about one data set.

    Attributes:
        kind: which of the three.
        name: of the study or of the model.
        data: what was evaluated.
        methods: in the order of the recipe, also those of which all runs failed.
        reference: the method that the others are compared with.
        rows: all metrics.
        reliability: reliability diagrams.
        description: what the study shows, in the words of the recipe.
        config: settings, as they were given.
        versions: of what determines a number.
        device: that computed.
        training: one record per method and seed.
        calibrators: what was fitted.
        scoring: robustness scores that were made or read.
        costs: of each run.
        failed: runs without results.
        comparisons: paired differences.
        stability: of independently trained models.
        classes: by true class.
        least_robust_classes: what the least robust subset is made of, the largest share first.
        thresholds: confidences from which on predictions can be accepted.
        out_of_distribution: other data, told by the confidence.
        pictures: examples for the report.
        audit: of the ranking by robustness.
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
    out_of_distribution: tuple[OutOfDistribution, ...] = ()
    pictures: Pictures = field(default_factory=Pictures)
    audit: Audit | None = None

    def __post_init__(self) -> None:
        named = {method.name for method in self.methods}
        for row in self.rows:
            if row.method not in named or not (row.subset is None or row.subset in range(len(self.rows))):
                raise InputError(
                    expected="rows of the methods of the results, with subsets numbered from 0",
                    got=f"method {row.method!r}, subset {row.subset!r:.40}",
                    hint="a results file as `aradals run`, `evaluate` or `diagnose` writes it",
                )
        if self.reference not in named:
            raise InputError(
                expected=f"a reference among the methods {', '.join(sorted(named))}",
                got=repr(self.reference),
                hint="naming one of them in the recipe",
            )

    @cached_property
    def by_key(self) -> Mapping[tuple[Variant, Condition, int | None], Mapping[int, Row]]:
        """The row of each seed, by variant, condition and subset."""
        found: dict[tuple[Variant, Condition, int | None], dict[int, Row]] = {}
        for row in self.rows:
            seeds = found.setdefault((row.variant, row.condition, row.subset), {})
            if seeds.setdefault(row.seed, row) is not row:
                raise InputError(
                    expected="one row per variant, seed, condition and subset",
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
        """Methods that have rows, in order, each without calibrator first."""
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
        """Number of robustness subsets; 0 without any."""
        return max((row.subset + 1 for row in self.rows if row.subset is not None), default=0)

    @cached_property
    def num_examples(self) -> int:
        """Size of the split that is reported on."""
        return max((row.n for row in self.rows if row.subset is None), default=0)

    def method(self, name: str) -> Method:
        """Look up a method by its name.

        Raises:
            InputError: results that have no such method.
        """
        found = next((method for method in self.methods if method.name == name), None)
        if found is None:
            known = ", ".join(method.name for method in self.methods)
            raise InputError(expected=f"a method of the results: {known}", got=repr(name), hint="one of them")
        return found

    def table(self) -> Any:
        """Return the main table, as rich prints it in a terminal.

        Raises:
            MissingExtraError: without rich.
        """
        from aradals.report.terminal import results_table

        return results_table(self)

    def report(self, path: str | Path) -> Path:
        """Write the HTML report, one file that needs nothing else, and return its path.

        Raises:
            MissingExtraError: without Jinja2.
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
            MissingExtraError: without pandas.
        """
        from aradals.results.files import to_frame

        return to_frame(self)

    def _repr_html_(self) -> str:
        from aradals.report import html_table

        return html_table(self)
