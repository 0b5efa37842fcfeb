"""The metrics as torchmetrics classes, for training loops on one or many devices; needs the extra ``train``.

    >>> import torch
    >>> ece = ExpectedCalibrationError()
    >>> ece.update(torch.tensor([0, 1]), probs=torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
    >>> round(float(ece.compute()), 6)
    0.4

`update` takes labels and exactly one of ``logits=`` and ``probs=``, like the functions. Metrics of fixed bins, and
means, keep sums, whose size does not grow with the number of examples. The smooth ECE keeps sums on its grid. Metrics
that need the ranks of all confidences keep the confidence and correctness of every example (16 bytes each):
`AdaptiveCalibrationError`, `DebiasedL2CalibrationError`, `KSCalibrationError`, `AURC`, `AccuracyAtCoverage`,
`ErrorAUROC` and `AllMetrics`. With several processes, sums are added and examples are gathered, so that the result is
the metric of all examples together. If a sampler repeats examples to fill the last batch, they count twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from aradals._internal.optional import optional_imports
from aradals._internal.precision import only_moving
from aradals.checks import Values, check_subsets
from aradals.errors import InputError
from aradals.metrics.calibration import (
    BinSums,
    bin_sums,
    binary_gap,
    debiased_l2_gap,
    equal_mass_sums,
    equal_width_sums,
    largest_abs_gap,
    largest_cumulative_gap,
    mean_abs_gap,
    mean_class_gap,
)
from aradals.metrics.family import family
from aradals.metrics.outcomes import ClassGaps, Outcomes, Ranking, outcomes, outcomes_and_class_gaps, rank
from aradals.metrics.proper import brier_calibration_part
from aradals.metrics.selective import most_confident, ranked_auroc, selective_risk
from aradals.metrics.smooth import GRID_CELLS, grid_gaps, smooth_error

with optional_imports():
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat


class PredictionMetric(Metric):
    """Base class, which reduces labels and logits or probabilities to states, and states to a number.

    The states stay in float64 if the module around the metric is cast to another precision.
    """

    is_differentiable = False
    full_state_update = False

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        super()._apply(only_moving(fn), exclude_state)
        return self

    def add_sums(self, **shapes: tuple[int, ...]) -> None:
        """Add states that are summed over batches and processes; float64."""
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def add_columns(self, *names: str) -> None:
        """Add states with one number for each example, gathered from all batches and processes."""
        for name in names:
            self.add_state(name, [], dist_reduce_fx="cat")

    def sums(self, name: str) -> Tensor:
        """Return a state of `add_sums`."""
        state: Tensor = getattr(self, name)
        return state

    def column(self, name: str) -> Tensor:
        """Return a state of `add_columns`, shape (N,)."""
        state = getattr(self, name)
        return dim_zero_cat(state) if len(state) else torch.zeros(0, dtype=torch.float64)

    def update(self, labels: Values, *, logits: Values | None = None, probs: Values | None = None) -> None:
        """Add a batch.

        Args:
            labels: integer, shape (N,), in [0, K).
            logits: finite floats, shape (N, K); or
            probs: rows in [0, 1] that sum to 1, as `aradals.checks.check_probs` has it, shape (N, K).

        Raises:
            InputError: see `outcomes`.
        """
        self._add(outcomes(labels, logits=logits, probs=probs))

    def compute(self) -> Any:
        """Compute the metric of all examples, a float64 scalar.

        Raises:
            InputError: there were no examples.
        """
        if self._num_examples() == 0:
            raise InputError(expected="at least one example", got="no example", hint="calling update before compute")
        value = self._value()
        return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value

    def _add(self, examples: Outcomes) -> None:
        """Add outcomes to the states."""
        raise NotImplementedError

    def _num_examples(self) -> int:
        """Count the examples so far."""
        raise NotImplementedError

    def _value(self) -> float | dict[str, Tensor]:
        """Compute the metric from its states."""
        raise NotImplementedError


class _Mean(PredictionMetric):
    outcome: str

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_sums(total=(), count=())

    def _add(self, examples: Outcomes) -> None:
        self.total = self.sums("total") + getattr(examples, self.outcome).sum()
        self.count = self.sums("count") + len(examples.correct)

    def _num_examples(self) -> int:
        return int(self.sums("count"))

    def _value(self) -> float:
        return float(self.sums("total") / self.sums("count"))


class Accuracy(_Mean):
    """Metric class of `accuracy`. States: sums."""

    higher_is_better = True
    outcome = "correct"


class MeanConfidence(_Mean):
    """Metric class of `mean_confidence`. States: sums."""

    outcome = "confidence"


class NLL(_Mean):
    """Metric class of `nll`. States: sums."""

    higher_is_better = False
    outcome = "nll"


class BrierScore(_Mean):
    """Metric class of `brier_score`. States: sums."""

    higher_is_better = False
    outcome = "brier"


class _Binned(PredictionMetric):
    higher_is_better = False
    of_bins: Callable[[BinSums], float]

    def __init__(self, num_bins: int = 15, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins = num_bins
        self.add_sums(bins=(3, num_bins))

    def _add(self, examples: Outcomes) -> None:
        sums = equal_width_sums(examples.confidence, examples.correct, self.num_bins)
        self.bins = self.sums("bins") + torch.stack([sums.count, sums.confidence, sums.correct])

    def _num_examples(self) -> int:
        return int(self.sums("bins")[0].sum())

    def _value(self) -> float:
        return type(self).of_bins(BinSums(*self.sums("bins")))


class ExpectedCalibrationError(_Binned):
    """Metric class of `expected_calibration_error`. States: sums over ``num_bins`` bins."""

    of_bins = staticmethod(mean_abs_gap)


class MaxCalibrationError(_Binned):
    """Metric class of `max_calibration_error`. States: sums over ``num_bins`` bins."""

    of_bins = staticmethod(largest_abs_gap)


class _Subsets(PredictionMetric):
    higher_is_better = False

    def __init__(self, num_subsets: int = 10, **options: Any) -> None:
        super().__init__(**options)
        self.num_subsets = num_subsets
        self.add_sums(subsets=(3, num_subsets))

    def update(  # type: ignore[override]
        self, labels: Values, subsets: Values, *, logits: Values | None = None, probs: Values | None = None
    ) -> None:
        """Add a batch; ``subsets`` are integers in [0, num_subsets), shape (N,)."""
        examples = outcomes(labels, logits=logits, probs=probs)
        subsets = check_subsets(subsets, len(labels))
        if int(subsets.max()) >= self.num_subsets:
            raise InputError(
                expected=f"subsets below {self.num_subsets}",
                got=str(int(subsets.max())),
                hint=f"num_subsets={int(subsets.max()) + 1}",
            )
        sums = bin_sums(subsets.to(examples.gap.device), examples.confidence, examples.correct, self.num_subsets)
        self.subsets = self.sums("subsets") + torch.stack([sums.count, sums.confidence, sums.correct])

    def _num_examples(self) -> int:
        return int(self.sums("subsets")[0].sum())

    def errors(self) -> Tensor:
        """Compute |confidence - accuracy| of each subset that contains examples."""
        sums = BinSums(*self.sums("subsets"))
        filled = sums.count > 0
        return (sums.gap[filled] / sums.count[filled]).abs()


class MeanSubsetCalibrationError(_Subsets):
    """Metric class of the mean of `subset_calibration_error`. States: sums over ``num_subsets`` subsets."""

    def _value(self) -> float:
        return float(self.errors().mean())


class LargestSubsetCalibrationError(_Subsets):
    """Metric class of the largest error of `subset_calibration_error`. States: sums over ``num_subsets`` subsets."""

    def _value(self) -> float:
        return float(self.errors().max())


class _ClassBinned(PredictionMetric):
    higher_is_better = False

    def __init__(self, num_classes: int, num_bins: int = 15, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins = num_bins
        self.add_sums(class_count=(num_classes, num_bins), class_gap=(num_classes, num_bins), brier=(), count=())

    def update(self, labels: Values, *, logits: Values | None = None, probs: Values | None = None) -> None:
        examples, gaps = outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=self.num_bins)
        self.class_count = self.sums("class_count") + gaps.count
        self.class_gap = self.sums("class_gap") + gaps.gap
        self.brier = self.sums("brier") + examples.brier.sum()
        self.count = self.sums("count") + len(labels)

    def _num_examples(self) -> int:
        return int(self.sums("count"))

    def gaps(self) -> ClassGaps:
        return ClassGaps(self.sums("class_count"), self.sums("class_gap"))


class ClasswiseCalibrationError(_ClassBinned):
    """Metric class of `classwise_calibration_error`. States: sums over K times ``num_bins`` bins."""

    def _value(self) -> float:
        return mean_class_gap(self.gaps(), self._num_examples())


class BinaryCalibrationError(_ClassBinned):
    """Metric class of `binary_calibration_error`. States: sums over 2 times ``num_bins`` bins."""

    def __init__(self, num_bins: int = 15, **options: Any) -> None:
        super().__init__(2, num_bins, **options)

    def _value(self) -> float:
        return binary_gap(self.gaps(), self._num_examples())


class BrierCalibration(_ClassBinned):
    """Metric class of `brier_calibration`. States: sums over K times ``num_bins`` bins."""

    def _value(self) -> float:
        return brier_calibration_part(self.gaps(), self._num_examples())


class BrierRefinement(_ClassBinned):
    """Metric class of `brier_refinement`. States: sums over K times ``num_bins`` bins."""

    def _value(self) -> float:
        n = self._num_examples()
        return max(0.0, float(self.sums("brier")) / n - brier_calibration_part(self.gaps(), n))


class SmoothCalibrationError(PredictionMetric):
    """Metric class of `smooth_calibration_error`. States: sums of gaps at the points of its grid."""

    higher_is_better = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_sums(grid=(GRID_CELLS + 1,), count=())

    def _add(self, examples: Outcomes) -> None:
        self.grid = self.sums("grid") + grid_gaps(examples.confidence, examples.gap)
        self.count = self.sums("count") + len(examples.gap)

    def _num_examples(self) -> int:
        return int(self.sums("count"))

    def _value(self) -> float:
        return smooth_error(self.sums("grid") / self.sums("count"))


class _Ranked(PredictionMetric):
    higher_is_better = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_columns("confidence", "correct")

    def _add(self, examples: Outcomes) -> None:
        self.confidence.append(examples.confidence)  # type: ignore[operator,union-attr]
        self.correct.append(examples.correct)  # type: ignore[operator,union-attr]

    def _num_examples(self) -> int:
        return len(self.column("correct"))

    def ranking(self) -> Ranking:
        return rank(self.column("confidence"), self.column("correct"))


class AdaptiveCalibrationError(_Ranked):
    """Metric class of `adaptive_calibration_error`. States: every confidence."""

    def __init__(self, num_bins: int = 15, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins = num_bins

    def _value(self) -> float:
        return mean_abs_gap(equal_mass_sums(self.ranking(), self.num_bins))


class DebiasedL2CalibrationError(_Ranked):
    """Metric class of `debiased_l2_calibration_error`. States: every confidence."""

    def __init__(self, num_bins: int = 15, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins = num_bins

    def _value(self) -> float:
        return debiased_l2_gap(equal_mass_sums(self.ranking(), self.num_bins))


class KSCalibrationError(_Ranked):
    """Metric class of `ks_calibration_error`. States: every confidence."""

    def _value(self) -> float:
        return largest_cumulative_gap(self.ranking())


class AURC(_Ranked):
    """Metric class of `aurc`. States: every confidence."""

    def _value(self) -> float:
        return float(selective_risk(self.ranking()).mean())


class AccuracyAtCoverage(_Ranked):
    """Metric class of `accuracy_at_coverage`. States: every confidence."""

    higher_is_better = True

    def __init__(self, coverage: float = 0.9, **options: Any) -> None:
        super().__init__(**options)
        self.coverage = coverage

    def _value(self) -> float:
        return float(most_confident(self.ranking(), self.coverage).mean())


class ErrorAUROC(_Ranked):
    """Metric class of `error_auroc`. States: every confidence."""

    higher_is_better = True

    def _value(self) -> float:
        return ranked_auroc(self.ranking())


class AllMetrics(PredictionMetric):
    """Metric class of `all_metrics`, from one softmax. States: every confidence, NLL and Brier score."""

    def __init__(self, num_classes: int, num_bins: int = 15, coverage: float = 0.9, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins, self.coverage = num_bins, coverage
        self.add_columns("confidence", "correct", "nll", "brier")
        self.add_sums(class_count=(num_classes, num_bins), class_gap=(num_classes, num_bins))

    def update(self, labels: Values, *, logits: Values | None = None, probs: Values | None = None) -> None:
        """Add a batch, like `PredictionMetric.update`."""
        examples, gaps = outcomes_and_class_gaps(labels, logits=logits, probs=probs, num_bins=self.num_bins)
        for name in ("confidence", "correct", "nll", "brier"):
            getattr(self, name).append(getattr(examples, name))
        self.class_count = self.sums("class_count") + gaps.count
        self.class_gap = self.sums("class_gap") + gaps.gap

    def _num_examples(self) -> int:
        return len(self.column("correct"))

    def _value(self) -> dict[str, Tensor]:
        examples = Outcomes(*(self.column(name) for name in ("confidence", "correct", "nll", "brier")))
        gaps = ClassGaps(self.sums("class_count"), self.sums("class_gap"))
        values = family(examples, gaps, coverage=self.coverage)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
