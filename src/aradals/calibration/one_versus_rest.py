"""Calibration class by class without a parametric form: isotonic regression and histogram binning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from aradals._internal.optional import load_extra
from aradals.calibration.base import Calibrator, bad_state, check_num_classes, quantiles, read_state
from aradals.calibration.interpolation import interpolate
from aradals.errors import InputError

MAX_PADDED = 50_000_000
"""A padded table of a saved state with at most so many numbers may have rows of any lengths."""

MAX_PADDING = 20
"""A larger padded table may have at most so many times the numbers of the state itself."""


class OneVersusRest(Calibrator):
    r"""Map the probability of each class by a separate function, and normalize (Zadrozny and Elkan 2002, section 5).

    The function of a class is piecewise linear through the points (``knots``, ``values``), and constant outside; a step
    is two points at one knot. The order of the classes and the accuracy may change.

    These functions reach 0, and then the NLL of a single unexpected label is infinite. So the N examples of the fit get
    one imaginary example, spread over all K classes: after normalization, :math:`p \mapsto (N p + 1/K) / (N + 1)`.
    This keeps every probability above 1 / (K (N + 1)). If all functions are 0, p is uniform.
    """

    _knots: Tensor
    _values: Tensor
    _num_examples: Tensor

    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        """Fit a function for every class on the softmax probabilities."""
        labels = labels.cpu()
        by_class = enumerate(logits.cpu().softmax(1).T.contiguous())
        functions = [self._fit_class(probs, (labels == k).double()) for k, probs in by_class]
        self._keep([knots for knots, _ in functions], [values for _, values in functions], len(labels))

    @abstractmethod
    def _fit_class(self, probs: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
        """Fit one class's function to its probabilities and its labels, 0 or 1; return sorted knots, and values.

        All tensors are float64, with shapes (N,), (N,) -> (M,), (M,).
        """

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """Compute the logarithms of the calibrated probabilities; ``scores`` are ignored."""
        num_examples, num_classes = self._num_examples, len(self._knots)
        check_num_classes(logits, num_classes)
        probs = logits.to(self._knots.dtype).softmax(1)
        by_class = interpolate(probs.T.contiguous(), self._knots, self._values).T
        total = by_class.sum(1, keepdim=True)
        probs = torch.where(total > 0, by_class / total, 1 / num_classes)
        return ((num_examples * probs + 1 / num_classes) / (num_examples + 1)).log()

    def to_dict(self) -> dict[str, Any]:
        """Return ``method``, ``num_examples``, and ``knots`` and ``values``, which have a list for every class."""
        self.check_fitted()
        return {
            "method": self.method,
            "num_examples": int(self._num_examples),
            "knots": self._knots.tolist(),
            "values": self._values.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`, which needs no scikit-learn.

        Raises:
            InputError: the state is that of another method, or no fit makes such a state.
        """
        num_examples, knots, values = read_state(fields, cls.method, num_examples=0, knots=2, values=2)
        knots, values = ([torch.tensor(row, dtype=torch.float64) for row in table] for table in (knots, values))
        same_lengths = [len(row) for row in knots] == [len(row) for row in values]
        rising = all((row.diff() >= 0).all() for row in knots)
        in_range = all(((row >= 0) & (row <= 1)).all() for row in values)
        lengths = [len(row) for row in knots]
        # Rows are padded to the longest row, so that one long row among very many would fill the memory.
        fits = max(lengths) * len(lengths) <= max(MAX_PADDED, MAX_PADDING * sum(lengths))
        if not 1 <= num_examples < 2**53 or len(knots) < 2 or not (same_lengths and rising and in_range and fits):
            raise bad_state(
                fields, cls.method, "num_examples >= 1; for every class, rising knots and as many values in [0, 1]"
            )
        calibrator = cls()
        calibrator._keep(knots, values, num_examples)
        return calibrator

    def _keep(self, knots: list[Tensor], values: list[Tensor], num_examples: int) -> None:
        self.register_buffer("_knots", _stack(knots))
        self.register_buffer("_values", _stack(values))
        self.register_buffer("_num_examples", torch.tensor(num_examples))


class IsotonicCalibration(OneVersusRest):
    """Map each class's probability by the non-decreasing function with the least squared error, then normalize.

    Zadrozny and Elkan 2002, by scikit-learn. The function is constant on pooled examples, and linear between them.
    `OneVersusRest` explains the treatment of zeros.
    """

    method = "isotonic"

    def _fit_class(self, probs: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
        regression = (
            load_extra("sklearn.isotonic").IsotonicRegression(y_min=0, y_max=1).fit(probs.numpy(), hits.numpy())
        )
        return torch.from_numpy(regression.X_thresholds_), torch.from_numpy(regression.y_thresholds_)


class HistogramBinning(OneVersusRest):
    """Replace each class's probability by the share of that class among the examples in its bin, then normalize.

    Zadrozny and Elkan 2001; class by class as in Guo et al. 2017, section 4.2. Bins are (low, high], and the
    first bin is closed on both sides. An empty bin keeps its center. `OneVersusRest` explains the treatment of zeros.

    Args:
        num_bins: number of bins of each class; fewer if quantiles coincide.
        equal_mass: make bins of equal numbers of examples, by the quantiles of each class's probability; else bins of
            equal width.

    Raises:
        InputError: ``num_bins`` is less than 1.
    """

    method = "histogram"

    def __init__(self, num_bins: int = 15, *, equal_mass: bool = True) -> None:
        super().__init__()
        if num_bins < 1:
            raise InputError(expected="num_bins >= 1", got=f"{num_bins}", hint="15")
        self.num_bins, self.equal_mass = num_bins, equal_mass

    def _fit_class(self, probs: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
        inner = torch.linspace(0, 1, self.num_bins + 1, dtype=torch.float64)[1:-1]
        if self.equal_mass and len(inner):
            inner = quantiles(probs, inner).unique()
        bins = torch.bucketize(probs, inner)
        count, total = (torch.bincount(bins, weights, minlength=len(inner) + 1) for weights in (None, hits))
        edges = torch.cat([torch.zeros(1), inner, torch.ones(1)])
        centers = (edges[1:] + edges[:-1]) / 2
        share = torch.where(count > 0, total / count, centers)
        # A step is two points at one knot: (0, v_0), (e_1, v_0), (e_1, v_1), ..., (1, v_last).
        return torch.stack([edges[:-1], edges[1:]], 1).flatten(), share.repeat_interleave(2)


def _stack(rows: list[Tensor]) -> Tensor:
    """Make one table of rows; shorter rows repeat their last number, which does not change the functions."""
    width = max(2, *map(len, rows))
    return torch.stack([torch.cat([row, row[-1:].expand(width - len(row))]) for row in rows])
