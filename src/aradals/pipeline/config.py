"""The settings of a study: each field is a key of the YAML recipe and an option ``--a.b=c``.

Settings that contradict each other cannot be written, or are refused when the object is made. Adaptive smoothing has a
rule and may have subsets; fixed smoothing has neither; each way to cut subsets has its own settings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, ClassVar, Literal

from torch import Tensor

from aradals.errors import InputError
from aradals.pipeline.settings import read
from aradals.smoothing.shapes import shaped_target_prob
from aradals.smoothing.update_rules import UpdateRule

Augment = Literal["none", "flip_crop", "resized_crop", "augmix"]

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

OTHER_FOLDERS = ("scores", "scorer", "runs")
"""Folders of a study beside those of its methods."""


MAX_SEED = 2**32 - 1
"""Largest seed that every generator takes."""

_MAX_COUNT = 10**9

_WHERE_TO_TRAIN = ("devices", "num_nodes", "strategy", "sync_batchnorm", "loader_workers", "logger")


def _at_least(minimum: float, values: Mapping[str, float], *, at_most: float = _MAX_COUNT) -> None:
    for name, value in values.items():
        if not value >= minimum:
            raise InputError(expected=f"{name} of at least {minimum}", got=str(value), hint="a larger number")
        if value > at_most:
            raise InputError(expected=f"{name} of at most {at_most:,}", got=str(value), hint="a smaller number")


def _once_each(what: str, given: Sequence[object]) -> None:
    if len(set(given)) < len(given):
        raise InputError(expected=f"every {what} once", got=str(given), hint="removing the duplicates")


def check_seeds(*seeds: int) -> None:
    """Raise InputError for a seed that some generator does not take."""
    if not 0 <= min(seeds) <= max(seeds) <= MAX_SEED:
        raise InputError(
            expected=f"seeds of at least 0 and at most {MAX_SEED}", got=", ".join(map(str, seeds)), hint="0, 1, 2"
        )


@dataclass(frozen=True)
class SplitConfig:
    """The division of the training data, and the number of test examples.

    Args:
        validation: number of examples that drive the adaptive update.
        calibration: number of examples that calibrators are fitted on.
        train: number of examples to train on; default: all other examples.
        test: number of test examples: a fixed random sample of the test split; default: all of them. If the data has
            a single split, the number to cut off first; default: a fifth, at most 10,000. Their content decides which
            ones, so that duplicates are not divided.
    """

    validation: int
    calibration: int
    train: int | None = None
    test: int | None = None

    def __post_init__(self) -> None:
        _at_least(1, {"splits.validation": self.validation})
        _at_least(0, {"splits.calibration": self.calibration})
        if self.train is not None:
            _at_least(2, {"splits.train": self.train})
        if self.test is not None:
            _at_least(1, {"splits.test": self.test})


@dataclass(frozen=True)
class TrainingConfig:
    """The training of every model of the study, whose weights are those of the last epoch.

    Args:
        epochs: passes over the training split.
        batch_size: examples per step.
        optimizer: adam, adamw or sgd (with Nesterov momentum 0.9).
        learning_rate: highest learning rate of the schedule.
        weight_decay: L2 penalty of the optimizer.
        schedule: constant, one_cycle, cosine, or steps.
        milestones: epochs at which `steps` multiplies the learning rate.
        gamma: factor at the milestones.
        augment: none, flip_crop (for CIFAR), resized_crop (for ImageNet), or augmix (which flips and crops first).
        precision: 32-true, or bf16-mixed or 16-mixed, which use half precision for the operations that allow this. auto
            is bf16-mixed on GPUs with bfloat16 units, and 32-true elsewhere, so on every CPU.
        compile: translate the model by torch.compile, which takes time before the first step and needs a C++ compiler.
        loader_workers: processes that read and decode data that does not fit in memory; default: one for each core that
            no other worker uses, at most 8. They change no result.
        devices: number of devices that train each model together; each has an equal part of every batch.
        num_nodes: number of machines with so many devices each; srun or torchrun starts the command on all of them.
        strategy: Lightning's strategy for several devices: auto (ddp), ddp, or ddp_find_unused_parameters_true for
            models some of whose parameters have no gradient.
        sync_batchnorm: batch norm by the statistics of the whole batch, not of a device's part (several GPUs only).
        logger: tensorboard, mlflow or wandb (Weights & Biases), which gets the loss, the NLL and ECE of the validation
            split and each subset's target after every epoch; its files are in OUTPUT/logs. It changes no result.
    """

    epochs: int
    batch_size: int = 128
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "one_cycle", "cosine", "steps"] = "constant"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    augment: Augment = "none"
    precision: Literal["auto"] | Precision = "auto"
    compile: bool = False
    loader_workers: int | None = None
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    sync_batchnorm: bool = False
    logger: Literal["none", "tensorboard", "mlflow", "wandb"] = "none"

    def __post_init__(self) -> None:
        _at_least(1, {"training.epochs": self.epochs})
        _at_least(1, {"training.devices": self.devices, "training.num_nodes": self.num_nodes}, at_most=100_000)
        self._check_ranks()
        _at_least(2, {"training.batch_size": self.batch_size})
        _at_least(0, {"training.weight_decay": self.weight_decay}, at_most=1000)
        _at_least(0, {"training.loader_workers": self.loader_workers or 0}, at_most=1000)
        for name, rate in {"learning_rate": self.learning_rate, "gamma": self.gamma}.items():
            if not 0 < rate <= 1000:
                raise InputError(expected=f"training.{name} above 0 and up to 1000", got=str(rate), hint="0.001")
        _at_least(
            1, {f"milestone {number} of training.milestones": each for number, each in enumerate(self.milestones)}
        )
        if (self.schedule == "steps") != bool(self.milestones):
            raise InputError(
                expected="training.schedule=steps and training.milestones, or neither",
                got=f"schedule={self.schedule}, milestones={self.milestones}",
                hint="both, or another schedule and milestones=[]",
            )
        if self.schedule != "steps" and self.gamma != TrainingConfig.gamma:
            raise InputError(
                expected="training.gamma with schedule=steps only", got=f"schedule={self.schedule}", hint="no gamma"
            )

    def _check_ranks(self) -> None:
        if self.num_ranks == 1 and (self.strategy != "auto" or self.sync_batchnorm):
            raise InputError(
                expected="training.strategy and training.sync_batchnorm with several devices only",
                got="one device",
                hint="training.devices=2",
            )
        if self.num_ranks > 1 and (self.batch_size % self.num_ranks or self.batch_size < 2 * self.num_ranks):
            raise InputError(
                expected=f"a training.batch_size that {self.num_ranks} devices divide into equal parts of at least 2",
                got=str(self.batch_size),
                hint=f"{max(2, math.ceil(self.batch_size / self.num_ranks)) * self.num_ranks}",
            )

    @property
    def num_ranks(self) -> int:
        """The number of processes that train a model together, one on each device."""
        return self.devices * self.num_nodes

    @property
    def course(self) -> dict[str, Any]:
        """All settings that change the trained model, as plain values.

        The number of devices does, because each of them draws its own augmentations and has its own batch statistics.
        """
        several = {"num_ranks": self.num_ranks, "sync_batchnorm": self.sync_batchnorm} if self.num_ranks > 1 else {}
        return {name: value for name, value in asdict(self).items() if name not in _WHERE_TO_TRAIN} | several


@dataclass(frozen=True)
class RankedSubsets:
    """Equal parts of a ranking of the examples, which another model scores before training.

    Args:
        count: number R of subsets.
        by: robustness or confidence.
        matching: training subsets by rank within the training split, or by the thresholds of the validation subsets.
        folds: 1 = one model scores all examples; 2 = each half of the training split is scored by a model that was
            trained on the other half.
    """

    count: int = 10
    by: Literal["robustness", "confidence"] = "robustness"
    matching: Literal["rank", "thresholds"] = "rank"
    folds: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        _check_count(self.count)


@dataclass(frozen=True)
class SelfScoredSubsets:
    """Equal parts of a ranking by first-order margins, which the model in training measures itself.

    Args:
        every: epochs between two scorings; before the first scoring, all subsets share one target.
        count: number R of subsets.
        by: self.
    """

    every: int
    count: int = 10
    by: Literal["self"] = "self"

    def __post_init__(self) -> None:
        _check_count(self.count)
        _at_least(1, {"every": self.every})


@dataclass(frozen=True)
class RandomSubsets:
    """Equal parts at random, the control.

    Args:
        count: number R of subsets.
        by: random.
    """

    count: int = 10
    by: Literal["random"] = "random"

    def __post_init__(self) -> None:
        _check_count(self.count)


@dataclass(frozen=True)
class ColumnSubsets:
    """One subset for each category in a column of the data, or equal parts of the ranking by a column of fractions.

    Args:
        column: name of the column.
        count: number R of subsets.
        by: column.
    """

    column: str
    count: int = 10
    by: Literal["column"] = "column"

    def __post_init__(self) -> None:
        _check_count(self.count)


Subsets = RankedSubsets | SelfScoredSubsets | RandomSubsets | ColumnSubsets
"""The groups of examples with separate targets; ``by`` distinguishes the ways to make the groups."""


def _check_count(count: int) -> None:
    if count < 2:
        raise InputError(expected="a count of at least 2", got=str(count), hint="10, or no subsets for a single target")


@dataclass(frozen=True)
class FixedTargets:
    """Targets that do not change.

    Args:
        smoothing: probability of all other classes together, in equal parts; 0 = one-hot. The ``label_smoothing`` of
            PyTorch is K/(K - 1) times as large, because PyTorch also gives a part to the true class.
    """

    smoothing: float = 0.0

    rule: ClassVar[None] = None
    subsets: ClassVar[None] = None
    update_every: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_smoothing(self.smoothing)


@dataclass(frozen=True)
class AdaptiveTargets:
    """Targets that follow the gap between confidence and accuracy on the validation split.

    Args:
        rule: rule of the updates ({} = the default rule).
        subsets: R groups with separate targets (AR-AdaLS); default: one target for all examples (AdaLS).
        update_every: epochs between two updates.
        smoothing: smoothing of the targets at the start.
    """

    rule: UpdateRule
    subsets: Subsets | None = None
    update_every: int = 1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_smoothing(self.smoothing)
        _at_least(1, {"update_every": self.update_every})
        for key in ("proportional_gain", "shrink", "monotone"):
            if self.subsets is None and getattr(self.rule, key) != getattr(UpdateRule, key):
                raise InputError(expected=f"subsets for rule.{key}", got="none", hint="subsets: {count: 10}")
        if self.rule.monotone and isinstance(self.subsets, RandomSubsets):
            raise InputError(
                expected="subsets that have an order for rule.monotone", got="by: random", hint="monotone: false"
            )


@dataclass(frozen=True)
class ShapedTargets:
    """Targets that stay, and that change evenly from the least robust subset to the most robust one.

    Args:
        smoothing: level: mean probability of all other classes together.
        slope: shape: share of the level that the least robust subset has more than the mean, and the most robust one
            less; negative values soften the most robust subset.
        subsets: R groups with separate targets.
    """

    smoothing: float
    slope: float
    subsets: Subsets

    rule: ClassVar[None] = None
    update_every: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_smoothing(self.smoothing)
        if not -1 <= self.slope <= 1:
            raise InputError(expected="a slope from -1 to 1", got=str(self.slope), hint="0.4")

    def shape(self, num_classes: int) -> Tensor:
        """Compute the target of each subset, see `shaped_target_prob`."""
        return shaped_target_prob(self.smoothing, self.slope, self.subsets.count, num_classes)


Targets = FixedTargets | AdaptiveTargets | ShapedTargets
"""The probability of the true class that the model learns."""


def _check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing < 1:
        raise InputError(expected="smoothing of at least 0 and below 1", got=str(smoothing), hint="0.05")


@dataclass(frozen=True)
class MethodConfig:
    """A training method; the defaults are plain training.

    Args:
        objective: loss of a batch: cross_entropy, mixup, ccat, focal, margin_smoothing, logit_norm, sample_focal,
            dual_focal, adafocal, fedlas, calmo, or file.py:function.
        objective_args: settings of the objective.
        augment: another augmentation than the recipe's.
        consistency: weight of AugMix's Jensen-Shannon term between an image and two AugMix views of it (12 in AugMix).
        targets: {} = one-hot; {smoothing: 0.05} = label smoothing; {rule: {rate: auto}} = AdaLS; with subsets AR-AdaLS;
            {smoothing: 0.2, slope: 0.4, subsets: {count: 10}} = a fixed shape around a level.
        choose: settings with several values, such as {targets.smoothing: [0.05, 0.1, 0.2]}. One model is trained with
            each combination. The model with the lowest NLL on the calibration split, after a temperature, is kept.
        label: name in reports; default: the name with spaces.
        variant_of: the method that this one varies; large reports fold variants.
    """

    objective: str = "cross_entropy"
    objective_args: dict[str, Any] = field(default_factory=dict)
    augment: Augment | None = None
    consistency: float = 0.0
    targets: Targets = field(default_factory=FixedTargets)
    choose: dict[str, list[Any]] = field(default_factory=dict)
    label: str | None = field(default=None, compare=False)
    variant_of: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for key, values in self.choose.items():
            _at_least(2, {f"the number of values of choose.{key}": len(values)})
        _at_least(0, {"consistency": self.consistency}, at_most=1_000_000)
        if self.consistency and self.objective in ("mixup", "ccat"):
            raise InputError(
                expected="an objective that leaves images as they are, because of consistency",
                got=self.objective,
                hint="augment: augmix",
            )

    @property
    def num_subsets(self) -> int:
        """The number R of subsets; 1 if there are no subsets."""
        return self.targets.subsets.count if self.targets.subsets else 1

    @property
    def initial_target_prob(self) -> float:
        """The true-class target probability at the start."""
        return 1 - self.targets.smoothing

    @property
    def training(self) -> dict[str, Any]:
        """All settings that change the trained model, as plain values."""
        return {name: value for name, value in asdict(self).items() if name not in ("label", "variant_of", "choose")}

    @cached_property
    def candidates(self) -> list[MethodConfig]:
        """The methods among which ``choose`` chooses; the method itself if it has no choice.

        Raises:
            InputError: a key is not a setting of a method, or a value cannot be meant.
        """
        found = []
        for values in product(*self.choose.values()):
            settings = self.training
            for key, value in zip(self.choose, values, strict=True):
                settings = _with_setting(settings, key.split("."), value)
            found.append(read(MethodConfig, settings, "choose"))
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The settings that a report lists."""
        return {
            "objective": self.objective,
            "num_subsets": self.num_subsets,
            "initial_target_prob": self.initial_target_prob,
            "rule": asdict(self.targets.rule) if self.targets.rule else None,
            "update_every": self.targets.update_every,
        }


def _with_setting(settings: Mapping[str, Any], path: Sequence[str], value: object) -> dict[str, Any]:
    """Copy settings with another value at a path of keys."""
    first, *below = path
    inner = settings.get(first)
    return {
        **settings,
        first: _with_setting(inner if isinstance(inner, dict) else {}, below, value) if below else value,
    }


def is_plain(method: MethodConfig) -> bool:
    """Return True for plain training: cross-entropy on one-hot targets, and no other setting."""
    return method == MethodConfig()  # labels do not count


@dataclass(frozen=True)
class EnsembleConfig:
    """Several models of one method, whose probabilities are averaged.

    Args:
        method: a method of the study, whose model is the first member.
        num_members: number M of members.
        in_step: train the members together, with shared targets that follow the averaged prediction (AR-AdaLS of the
            ensemble); default: train the members one after the other, with separate targets.
        label: name in reports; default: the name with spaces.
        variant_of: the method or ensemble that this one varies.
    """

    method: str
    num_members: int = 4
    in_step: bool = False
    label: str | None = field(default=None, compare=False)
    variant_of: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _at_least(2, {"num_members": self.num_members}, at_most=1000)


@dataclass(frozen=True)
class ScoringConfig:
    """The measurement of robustness.

    Args:
        attack: secant, or another attack that `aradals score --help` names.
        attack_args: settings of the attack.
        checkpoint: a trained model that scores; default: a vanilla model trained by the same recipe and seed.
    """

    attack: str = "secant"
    attack_args: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None


@dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation on the test split.

    Args:
        num_subsets: robustness subsets of the report, the same for all methods.
        corruptions: names or groups (noise, blur, weather, digital, standard, extra; table for rows of numbers; all for
            all that fit the data); clean data are always evaluated.
        severities: severities from 1 to 5.
        preset: constants of the corruptions: cifar, tiny or imagenet; default: those for the size of the images.
        corrupted: a corrupted copy of the test split to use instead, such as a CIFAR-10-C folder.
        num_bins: number of bins of the ECE.
        num_resamples: number of bootstrap resamples for intervals.
    """

    num_subsets: int = 10
    corruptions: list[str] = field(default_factory=list)
    severities: list[int] = field(default_factory=lambda: [1, 3, 5])
    preset: str | None = None
    corrupted: str | None = None
    num_bins: int = 15
    num_resamples: int = 1000

    def __post_init__(self) -> None:
        _at_least(1, {"evaluation.num_bins": self.num_bins}, at_most=10_000)
        _at_least(2, {"evaluation.num_resamples": self.num_resamples}, at_most=100_000)
        _once_each("corruption", self.corruptions)
        _once_each("severity", self.severities)
        if self.corruptions and not self.severities:
            raise InputError(expected="severities of the corruptions", got="none", hint="severities=[1, 3, 5]")


@dataclass(frozen=True)
class StudyConfig:
    """A study: methods x seeds x data sets.

    Args:
        data: folder, file, Hugging Face id, built-in name (digits, letter), or file.py:callable; or a list of these.
        model: built-in name, file.py:callable or package.module:callable.
        methods: settings of each method, by name.
        ensembles: method and number of members of each ensemble, by name.
        reference: the method that the others are compared with; default: the first method with plain training, else
            the first method.
        compare_with: further methods that every method is compared with, such as the best method that is known.
        splits: division of the training data.
        training: training of every model.
        description: description of the study, for the report.
        purpose: evidence, or smoke: the results show only that every stage works, and are marked so.
        image_column: column of the images or of their file names; needed if several columns could hold them.
        label_column: column of the labels; needed if several columns could hold them.
        num_classes: number of classes, if the labels are numbers and the largest class may be missing.
        resize: height and width in pixels to which every image is resized.
        out_of_range: refuse inputs outside [0, 1], or clip them; by default they are refused, but clipped where the
            training data has scaled the columns of a table.
        model_args: further arguments of the model's builder.
        scoring: measurement of robustness.
        calibrators: calibrators to fit after training; every method is reported without and with each of them.
        reference_calibrators: further calibrators of the reference method alone, to compare the methods with.
        evaluation: evaluation on the test split.
        seeds: seeds; each varies initialization, order and the splits.
    """

    data: str | list[str]
    model: str
    methods: dict[str, MethodConfig]
    splits: SplitConfig
    training: TrainingConfig
    ensembles: dict[str, EnsembleConfig] = field(default_factory=dict)
    reference: str | None = None
    compare_with: list[str] = field(default_factory=list)
    description: str = ""
    purpose: Literal["evidence", "smoke"] = "evidence"
    image_column: str | None = None
    label_column: str | None = None
    num_classes: int | None = None
    resize: int | None = None
    out_of_range: Literal["refuse", "clip"] | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    calibrators: list[str] = field(default_factory=lambda: ["temperature"])
    reference_calibrators: list[str] = field(default_factory=list)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seeds: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        _at_least(1, {"the number of data sets": len(self.data_sets), "the number of methods": len(self.methods)})
        _at_least(1, {"the number of seeds": len(self.seeds)})
        _once_each("seed", self.seeds)
        _once_each("data set", self.data_sets)
        _once_each("calibrator", self.all_calibrators)
        check_seeds(*self.seeds)
        if self.all_calibrators:
            _at_least(1, {"splits.calibration": self.splits.calibration})
        self._check_names()
        for name, method in self.methods.items():
            for candidate in method.candidates:
                _check_in_time(name, candidate, self.training)
            if method.choose:
                _at_least(1, {"splits.calibration": self.splits.calibration})
        for name, ensemble in self.ensembles.items():
            self._check_ensemble(name, ensemble)

    @property
    def data_sets(self) -> list[str]:
        """The data sets; most studies have one."""
        return [self.data] if isinstance(self.data, str) else self.data

    @property
    def runs(self) -> Mapping[str, MethodConfig | EnsembleConfig]:
        """Methods and ensembles by name."""
        return {**self.methods, **self.ensembles}

    @property
    def reference_name(self) -> str:
        """The method that the others are compared with."""
        plain = (name for name, method in self.methods.items() if is_plain(method))
        return self.reference or next(plain, next(iter(self.methods)))

    @property
    def all_calibrators(self) -> list[str]:
        """The calibrators of the reference method, which has those of every method and its own."""
        return self.calibrators + self.reference_calibrators

    @property
    def main_name(self) -> str | None:
        """The first method with subsets that is no variant; a report shows this method beside the reference."""
        names = (name for name, method in self.methods.items() if method.targets.subsets and not method.variant_of)
        return next(names, None)

    def titled(self, name: str) -> str:
        """Return the name of the study in reports, which says if the results are no evidence."""
        return f"SMOKE RUN, no evidence: {name}" if self.purpose == "smoke" else name

    def label_of(self, name: str) -> str:
        """Return the name of a method or an ensemble in reports."""
        return self.runs[name].label or name.replace("_", " ")

    def variant_of(self, name: str) -> str | None:
        """Return the method or ensemble that ``name`` varies; None if it is not a variant."""
        return self.runs[name].variant_of

    def _check_names(self) -> None:
        """Check that names can be folders, and that references to other methods exist."""
        for name in self.runs:
            if name in OTHER_FOLDERS or not re.fullmatch(r"\w[\w.-]*", name):
                raise InputError(
                    expected="methods whose names can be folders beside " + ", ".join(OTHER_FOLDERS),
                    got=repr(name),
                    hint="letters, digits, dots, dashes and underscores",
                )
        compared = {f"compare_with[{index}]": name for index, name in enumerate(self.compare_with)}
        named = {
            "reference": self.reference,
            **compared,
            **{f"{name}.variant_of": self.variant_of(name) for name in self.runs},
        }
        for key, given in named.items():
            others = [name for name in self.runs if key != f"{name}.variant_of"]
            if given is not None and given not in others:
                raise InputError(
                    expected=f"{key} to be a method of the recipe: {', '.join(others)}",
                    got=repr(given),
                    hint="one of these",
                )

    def _check_ensemble(self, name: str, ensemble: EnsembleConfig) -> None:
        if name in self.methods:
            raise InputError(expected="an ensemble whose name no method has", got=repr(name), hint=f"{name}_ensemble")
        if ensemble.method not in self.methods:
            raise InputError(
                expected=f"ensembles.{name} of a method of the recipe: {', '.join(self.methods)}",
                got=repr(ensemble.method),
                hint="one of these",
            )
        if ensemble.in_step and self.methods[ensemble.method].choose:
            raise InputError(
                expected=f"ensembles.{name} in step of a method with nothing to choose",
                got=f"{ensemble.method}, which chooses {', '.join(self.methods[ensemble.method].choose)}",
                hint="in_step=false",
            )
        if ensemble.in_step and self.methods[ensemble.method].targets.rule is None:
            raise InputError(
                expected=f"ensembles.{name} in step of a method with a rule, because it shares targets that adapt",
                got=f"{ensemble.method}, which has none",
                hint="in_step=false",
            )


def _check_in_time(name: str, method: MethodConfig, training: TrainingConfig) -> None:
    """Check that views are not made twice, and that an epoch follows each update and scoring that should count."""
    if method.consistency and (method.augment or training.augment) == "augmix":
        raise InputError(
            expected=f"methods.{name} with images that are not AugMix views already, because of consistency",
            got="augment=augmix",
            hint="augment: flip_crop",
        )
    targets, epochs = method.targets, training.epochs
    if targets.update_every > 1 and targets.update_every >= epochs:
        raise InputError(
            expected=f"methods.{name} with updates every {targets.update_every} epochs that an epoch follows",
            got=f"{epochs} epochs",
            hint="update_every: 1",
        )
    last_update = (epochs - 1) // targets.update_every * targets.update_every  # the last scoring that an epoch follows
    if isinstance(targets, ShapedTargets):
        last_update = epochs  # no update has to follow
    if isinstance(targets.subsets, SelfScoredSubsets) and targets.subsets.every >= last_update:
        raise InputError(
            expected=f"methods.{name} scored early enough for an update by subsets, and for an epoch after that",
            got=f"every={targets.subsets.every} and update_every={targets.update_every} in {epochs} epochs",
            hint="smaller ones, or more epochs",
        )
