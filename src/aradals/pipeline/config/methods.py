"""The settings of a method, its targets and subsets, and of an ensemble.

Settings that contradict each other cannot be written, or are refused when the object is made. Adaptive smoothing has a
rule and may have subsets; fixed smoothing has neither; each way to cut subsets has its own settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, ClassVar, Literal

from torch import Tensor

from aradals.errors import InputError
from aradals.pipeline.config.values import at_least
from aradals.pipeline.settings import read
from aradals.smoothing.shapes import shaped_target_prob
from aradals.smoothing.update_rules import UpdateRule

Augment = Literal["none", "flip_crop", "resized_crop", "augmix"]


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
        at_least(1, {"every": self.every})


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
        at_least(1, {"update_every": self.update_every})
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
            at_least(2, {f"the number of values of choose.{key}": len(values)})
        at_least(0, {"consistency": self.consistency}, at_most=1_000_000)
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
        at_least(2, {"num_members": self.num_members}, at_most=1000)
