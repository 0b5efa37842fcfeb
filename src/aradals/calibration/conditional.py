"""Temperatures that depend on the robustness of a prediction."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, quantiles, read_state, zero_masked
from aradals.calibration.interpolation import interpolate
from aradals.calibration.newton import Face, minimize_convex, step_over_faces
from aradals.calibration.temperature import best_temperature, find_problem, relative_logits, warn_of_problem
from aradals.errors import InputError
from aradals.inference.gradients import class_margin

MAX_DEGREES = 3
NUM_FOLDS = 5

_MIN_FACTOR, _MAX_FACTOR = 0.01, 100.0
_EXAMPLES_PER_KNOT = 25
_METHODS = {"logit_margin": "margin_temperature", "first_order_margin": "robustness_temperature"}
"""The names in `CALIBRATORS`, by score."""
_TABLE_SIZE = 101
_LARGEST_MARGIN = 1e30


class ConditionalTemperature(Calibrator):
    r"""Divide logits by a temperature that is a monotone function of a robustness score.

    The inverse temperature depends on the score's quantile q among the calibration examples. The quantile is
    interpolated in a table of 101 quantiles, in which ties have their mean level; it is constant outside the table.

    .. math:: \beta(q) = \frac{1}{T} \Big(b + \sum_{j=1}^d w_j h_j(q)\Big),
        \qquad h_j(q) = \mathrm{clip}(d q - j + 1, 0, 1)

    with the temperature T of `TemperatureScaling`, all :math:`w_j \ge 0` or all :math:`w_j \le 0`, and factors of 1/T
    from 1/100 to 100. So it is piecewise linear between d + 1 equally spaced knots, and rises or falls. Logits are
    multiplied by it, so that the NLL is convex in (b, w), and the fit is exact. The factor v at each knot has a weak
    pull to 1: the fit minimizes the sum of the NLL over the N examples and of (v - 1)^2 / 2 over the knots. d = 0 is
    plain temperature scaling. d is the smallest of 0, 1, 2, 3 whose cross-validated NLL (5 folds) is within one
    standard error of the best. The order of the classes does not change, and so the accuracy does not change.

    Two methods are close: `SmartTemperature` computes the temperature from the logit margin by a network that need not
    be monotone. QaTS has a monotone temperature of the quantile of the confidence.

    Args:
        score: ``logit_margin`` is computed from the logits: ``scores`` are ignored, and the map needs only a forward
            pass, so that exporters accept it. ``first_order_margin`` must be given as ``scores``, by
            ``aradals.score(model, inputs, "first_order_margin").score`` on the inputs as they are, also on corrupted
            inputs. (Any other score works if the fit and the predictions use the same score.)
        num_degrees: d; None to choose d by cross-validation.

    Raises:
        InputError: ``score`` is another name, or ``num_degrees`` is not 0, 1, 2 or 3.

    References:
        Guo, Tao, Luo, Dong and Xu, Sample margin-aware recalibration of temperature scaling, ICML 2026,
        arXiv:2506.23492. Chakraborty, Fillioux, Ben Ayed and Dolz, Quantile-adaptive temperature scaling for confidence
        calibration, 2026, arXiv:2606.21749.
    """

    _temperatures: Tensor
    _scores: Tensor
    _levels: Tensor

    def __init__(self, score: str, *, num_degrees: int | None = None) -> None:
        super().__init__()
        if score not in _METHODS:
            raise InputError(expected=" or ".join(_METHODS), got=f"score={score!r}", hint="logit_margin")
        if num_degrees not in (None, *range(MAX_DEGREES + 1)):
            raise InputError(expected="num_degrees from 0 to 3", got=f"{num_degrees}", hint="None, to choose a number")
        self.score, self.method = score, _METHODS[score]
        self._wanted_degrees = num_degrees

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The fitted temperatures at the d + 1 knots, the least robust first.

        Raises:
            InputError: the calibrator is not fitted.
        """
        self.check_fitted()
        return tuple(self._temperatures.tolist())

    @property
    def num_degrees(self) -> int:
        """d, the number of degrees of freedom beyond one temperature."""
        return len(self.temperatures) - 1

    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        """Choose d by cross-validation, unless the caller has set it, and fit the temperatures.

        A warning says that the examples are too few (25 for each knot) or their scores too similar for a choice among
        all d, or that only the pull keeps the temperatures.
        """
        scores = self._scores_of(logits, scores)
        table = quantile_table(scores)
        levels = piecewise_linear(scores, *table)
        num_degrees, single = self._wanted_degrees, best_temperature(logits, labels)
        if num_degrees is None:
            limit = min(MAX_DEGREES, max(0, len(logits) // _EXAMPLES_PER_KNOT - 1), len(table[0]) - 1)
            if limit < MAX_DEGREES:
                warnings.warn(
                    f"{len(logits)} calibration examples, with {len(table[0])} distinct quantiles of their scores, are "
                    f"too few for a temperature of 3 degrees of freedom: choosing among 0 to {limit}",
                    stacklevel=4,
                )
            num_degrees = choose_num_degrees(logits, labels, levels, range(limit + 1))
        self._keep(fit_temperatures(logits, labels, levels, single, num_degrees), *table)
        warn_of_problem("the temperatures rest on the pull to 1", find_problem(logits, labels))

    def temperature_for(self, scores: Tensor) -> Tensor:
        """Compute the temperature at each score, float64, shape (N,)."""
        self.check_fitted()
        return 1 / self._betas(scores)

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """``logits / T(score)``."""
        logits = logits.to(self._temperatures.dtype)
        return self._betas(self._scores_of(logits, scores))[:, None] * logits

    def to_dict(self) -> dict[str, Any]:
        """Return ``method``, ``temperatures`` at the knots, and the quantiles: ``scores`` and their ``levels``."""
        self.check_fitted()
        return {
            "method": self.method,
            "temperatures": self._temperatures.tolist(),
            "scores": self._scores.tolist(),
            "levels": self._levels.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`.

        Raises:
            InputError: the state is that of another method, or no fit makes such a state.
        """
        scores_by_method = {method: score for score, method in _METHODS.items()}
        method = str(fields.get("method"))
        if method not in scores_by_method:
            raise bad_state(fields, " or ".join(scores_by_method), "method")
        state = read_state(fields, method, temperatures=1, scores=1, levels=1)
        temperatures, scores, levels = (torch.tensor(values, dtype=torch.float64) for values in state)
        rising = len(scores) == len(levels) and bool((scores.diff() > 0).all() and (levels.diff() > 0).all())
        if not rising or not (temperatures > 0).all():
            raise bad_state(fields, method, "positive temperatures, rising scores and as many rising levels")
        calibrator = cls(scores_by_method[method])
        calibrator._keep(temperatures, scores, levels)
        return calibrator

    def _betas(self, scores: Tensor) -> Tensor:
        betas = 1 / self._temperatures
        levels = piecewise_linear(scores.to(betas.dtype), self._scores, self._levels)
        return piecewise_linear(levels, _knots(len(betas) - 1).to(betas), betas)

    def _scores_of(self, logits: Tensor, scores: Tensor | None) -> Tensor:
        if self.score != "logit_margin":
            scores = self.check_scores(logits, None) if scores is None else scores
            assert scores is not None
            return scores
        # The margin is infinite if all classes but one are masked.
        return class_margin(logits)[0].nan_to_num(posinf=_LARGEST_MARGIN)

    def _keep(self, temperatures: Tensor, scores: Tensor, levels: Tensor) -> None:
        self.register_buffer("_temperatures", temperatures)
        self.register_buffer("_scores", scores)
        self.register_buffer("_levels", levels)


def quantile_table(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Compute up to 101 distinct quantiles of ``scores``, and their levels in [0, 1]; ties get their mean level."""
    levels = torch.linspace(0, 1, _TABLE_SIZE).to(scores)
    distinct, index, count = quantiles(scores, levels).unique(return_inverse=True, return_counts=True)
    return distinct, torch.zeros_like(distinct).index_add(0, index, levels) / count


def piecewise_linear(points: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Interpolate (knots, values), both of shape (M,), at points of shape (N,); constant outside the knots."""
    if len(knots) == 1:
        return values.expand_as(points)
    return interpolate(points[None], knots[None], values[None])[0]


def choose_num_degrees(logits: Tensor, labels: Tensor, levels: Tensor, candidates: Sequence[int]) -> int:
    """Choose the smallest d whose cross-validated NLL is within one standard error (of the difference) of the best.

    Args:
        logits: float64, shape (N, K).
        labels: int64, shape (N,).
        levels: quantile of each example's score, float64, shape (N,).
        candidates: numbers of degrees, ascending.
    """
    if len(candidates) == 1:
        return candidates[0]
    folds = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0)).to(logits.device) % NUM_FOLDS
    losses = logits.new_zeros(len(candidates), len(logits))
    for fold in range(NUM_FOLDS):
        fitted, held_out = folds != fold, folds == fold
        single, relative = best_temperature(logits[fitted], labels[fitted]), relative_logits(logits, labels)[held_out]
        for row, num_degrees in enumerate(candidates):
            temperatures = fit_temperatures(logits[fitted], labels[fitted], levels[fitted], single, num_degrees)
            beta = piecewise_linear(levels[held_out], _knots(num_degrees).to(levels), 1 / temperatures)
            losses[row, held_out] = (beta[:, None] * relative).logsumexp(1)
    worse = losses - losses[losses.mean(1).argmin()]
    good_enough = worse.mean(1) <= worse.std(1) / len(logits) ** 0.5
    return candidates[int(good_enough.nonzero()[0])]


def fit_temperatures(logits: Tensor, labels: Tensor, levels: Tensor, single: float, num_degrees: int) -> Tensor:
    """Fit monotone temperatures at d + 1 knots: the rising or the falling ones, with the smaller NLL plus pull.

    Args:
        logits: float64, shape (N, K).
        labels: int64, shape (N,).
        levels: quantile of each example's score, float64, shape (N,).
        single: the best single temperature, which is the result for d = 0.
        num_degrees: d.
    """
    if num_degrees == 0:
        return logits.new_tensor([single])
    relative = relative_logits(logits, labels) / single
    finite = zero_masked(relative)
    knots = _knots(num_degrees).to(levels)
    hats = torch.stack([piecewise_linear(levels, knots, unit) for unit in torch.eye(len(knots)).to(levels)], 1)

    def loss(factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return NLL plus pull, gradient and Hessian; each example adds E_p[z] - z_label and Var_p[z] to these."""
        scaled = (hats @ factors)[:, None] * relative
        probs = scaled.softmax(1)
        mean = (probs * finite).sum(1)
        variance = (probs * (finite - mean[:, None]).square()).sum(1)
        value = scaled.logsumexp(1).sum() + (factors - 1).square().sum() / 2
        gradient = mean @ hats + factors - 1
        hessian = (hats * variance[:, None]).T @ hats + torch.eye(len(knots)).to(hats)
        return value / len(hats), gradient / len(hats), hessian / len(hats)

    def falling_loss(factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, gradient, hessian = loss(factors.flip(0))
        return value, gradient.flip(0), hessian.flip(0, 1)

    flat = torch.ones_like(knots)
    rising = _rising(minimize_convex(loss, flat, rising_step))
    falling = _rising(minimize_convex(falling_loss, flat, rising_step)).flip(0)
    return single / min(rising, falling, key=lambda factors: float(loss(factors)[0]))


def rising_step(point: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
    """Find the step to the exact minimum of a quadratic over 1/100 <= v_0 <= v_1 <= ... <= v_d <= 100.

    On each face of this set, some neighbors of the chain are tied. d is so small that all faces can be tried.

    Args:
        point: v, the point where the quadratic has this gradient, float64, shape (d + 1,).
        gradient: shape (d + 1,).
        hessian: shape (d + 1, d + 1).
    """
    return step_over_faces(point, gradient, hessian, _faces(len(point)), _is_allowed)


@lru_cache
def _faces(size: int) -> list[Face]:
    """List the faces of 1/100 <= v_0 <= ... <= v_d <= 100: each has a point and the directions (columns) that span it.

    On a face some neighbors of this chain are tied, so that it consists of blocks. The outer two are at the bounds.
    """
    faces = []
    for tied in itertools.product((False, True), repeat=size + 1):
        if not all(tied):  # otherwise the two bounds would be equal
            blocks = torch.tensor(tied).logical_not().cumsum(0)
            members = torch.nn.functional.one_hot(blocks).double()[:-1]
            faces.append((_MIN_FACTOR * members[:, 0] + _MAX_FACTOR * members[:, -1], members[:, 1:-1]))
    return faces


def _is_allowed(factors: Tensor) -> bool:
    chain = [_MIN_FACTOR, *factors.tolist(), _MAX_FACTOR]
    return all(high - low >= -1e-12 for low, high in itertools.pairwise(chain))


def _rising(factors: Tensor) -> Tensor:
    """Remove rounding errors, so that the chain rises and is within its bounds."""
    return factors.clamp(_MIN_FACTOR, _MAX_FACTOR).cummax(0).values


def _knots(num_degrees: int) -> Tensor:
    return torch.linspace(0, 1, num_degrees + 1, dtype=torch.float64)
