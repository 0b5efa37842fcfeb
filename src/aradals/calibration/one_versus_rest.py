"""Calibration class by class without a parametric form: isotonic regression and histogram binning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from aradals._internal.optional import load_extra
from aradals.calibration.base import Calibrator, bad_state, check_examples, check_num_classes, read_state
from aradals.errors import InputError

MAX_PADDED = 50_000_000
"""Numbers of the padded table of a saved state up to which its rows may be of any lengths."""

MAX_PADDING = 20
"""Beyond that, how many times as many numbers the padded table may have as the state itself."""


class OneVersusRest(Calibrator):
    r"""Map every class's probability by a function of its own, and normalize (Zadrozny and Elkan 2002, section 5).

    A class's function is piecewise linear, through the points (``knots``, ``values``), and constant outside; a step
    is two points at one knot. Both the order of the classes and the accuracy may change.

    These functions reach 0, at which the NLL of a single surprise is infinite. So the N examples of the fit are joined
    by an imaginary one, spread over all K classes: after normalization, :math:`p \mapsto (N p + 1/K) / (N + 1)`,
    which keeps every probability above 1 / (K (N + 1)). Where all functions are 0, p is uniform.
    """

    _knots: Tensor
    _values: Tensor
    _num_examples: Tensor

    def fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None = None) -> Self:
        """Fit a function for every class on the softmax probabilities.

        Args:
            logits: finite floats, shape (N, K).
            labels: integer, shape (N,), in [0, K).
            scores: ignored.

        Raises:
            InputError: no examples, NaN or infinite logits, probabilities in place of logits, wrong labels.
            MissingExtraError: isotonic regression without scikit-learn.
        """
        logits, labels = (tensor.cpu() for tensor in check_examples(logits, labels))
        by_class = enumerate(logits.softmax(1).T.contiguous())
        functions = [self._fit_class(probs, (labels == k).double()) for k, probs in by_class]
        self._keep([knots for knots, _ in functions], [values for _, values in functions], len(labels))
        return self

    @abstractmethod
    def _fit_class(self, probs: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
        """Knots, not decreasing, and values of one class's function, from its probabilities and 0 or 1 for its labels.

        All float64, shapes (N,), (N,) -> (M,), (M,).
        """

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """Logarithms of the calibrated probabilities; ``scores`` are ignored."""
        num_examples, num_classes = self._num_examples.to(logits), len(self._knots)
        check_num_classes(logits, num_classes)
        by_class = interpolate(logits.softmax(1).T.contiguous(), self._knots.to(logits), self._values.to(logits)).T
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
        """Inverse of `to_dict`; needs no scikit-learn.

        Raises:
            InputError: another method, or a state that no fit leaves.
        """
        num_examples, knots, values = read_state(fields, cls.method, num_examples=0, knots=2, values=2)
        knots, values = ([torch.tensor(row, dtype=torch.float64) for row in table] for table in (knots, values))
        same_lengths = [len(row) for row in knots] == [len(row) for row in values]
        rising = all((row.diff() >= 0).all() for row in knots)
        in_range = all(((row >= 0) & (row <= 1)).all() for row in values)
        lengths = [len(row) for row in knots]
        # Rows are padded to the longest: one long row among very many would fill the memory.
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
    """The non-decreasing function of each class's probability with the least squared error, then normalized.

    Zadrozny and Elkan 2002, through scikit-learn: constant on pooled examples, linear between. For what becomes of
    zeros see `OneVersusRest`.
    """

    method = "isotonic"

    def _fit_class(self, probs: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
        regression = (
            load_extra("sklearn.isotonic").IsotonicRegression(y_min=0, y_max=1).fit(probs.numpy(), hits.numpy())
        )
        return torch.from_numpy(regression.X_thresholds_), torch.from_numpy(regression.y_thresholds_)


class HistogramBinning(OneVersusRest):
    """Replace each class's probability by the share of that class among the examples in its bin, then normalize.

    Zadrozny and Elkan 2001; class by class as in Guo et al. 2017, section 4.2. Bins are (low, high], the first closed
    on both sides; an empty one keeps its center. For what becomes of zeros see `OneVersusRest`.

    Args:
        num_bins: of every class; fewer where quantiles coincide.
        equal_mass: bins of equal numbers of examples, by the quantiles of each class's probability; else of equal
            width.

    Raises:
        InputError: fewer than one bin.
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
            inner = torch.quantile(probs, inner).unique()
        bins = torch.bucketize(probs, inner)
        count, total = (torch.bincount(bins, weights, minlength=len(inner) + 1) for weights in (None, hits))
        edges = torch.cat([torch.zeros(1), inner, torch.ones(1)])
        centers = (edges[1:] + edges[:-1]) / 2
        share = torch.where(count > 0, total / count, centers)
        # A step is two points at one knot: (0, v_0), (e_1, v_0), (e_1, v_1), ..., (1, v_last).
        return torch.stack([edges[:-1], edges[1:]], 1).flatten(), share.repeat_interleave(2)


def interpolate(points: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear functions, one for each row, constant outside their knots; at a step, the value on its left.

    Args:
        points: shape (K, N).
        knots: in each row not decreasing, shape (K, M), M >= 2.
        values: at the knots, shape (K, M).

    Returns:
        Shape (K, N).
    """
    right = torch.searchsorted(knots, points).clamp(1, knots.shape[1] - 1)
    start, end = knots.gather(1, right - 1), knots.gather(1, right)
    share = ((points - start) / (end - start).clamp(min=torch.finfo(points.dtype).tiny)).clamp(0, 1)
    return torch.lerp(values.gather(1, right - 1), values.gather(1, right), share)


def _stack(rows: list[Tensor]) -> Tensor:
    """As one table, shorter rows extended by their last number, which leaves the functions as they are."""
    width = max(2, *map(len, rows))
    return torch.stack([torch.cat([row, row[-1:].expand(width - len(row))]) for row in rows])
