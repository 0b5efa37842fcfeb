"""Ensemble temperature scaling: a mixture of scaled, plain and uniform probabilities."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Self

import torch
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, read_state
from aradals.calibration.newton import Face, minimize_convex, step_over_faces
from aradals.calibration.temperature import best_temperature, find_problem, warn_of_problem


class EnsembleTemperatureScaling(Calibrator):
    r"""Mix the probabilities at a temperature, the plain ones, and uniform ones (ETS).

    .. math:: w_1 \, \mathrm{softmax}(z / T) + w_2 \, \mathrm{softmax}(z) + w_3 / K,
        \qquad w \ge 0, \quad w_1 + w_2 + w_3 = 1

    T is that of `TemperatureScaling`. The weights have the least NLL on the calibration split, which is convex in them,
    so that the fit is exact. The order of the classes does not change, and so the accuracy does not change (if all
    probability is uniform, every class is tied). Classes that are masked count in no part; K is the number of the
    others.

    References:
        Zhang, Kailkhura and Han, Mix-n-match: ensemble and compositional methods for uncertainty calibration in deep
        learning, ICML 2020, arXiv:2003.07329, section 4.2. The authors also use the squared error in place of the NLL.
    """

    method = "ensemble_temperature"
    _temperature: Tensor
    _weights: Tensor

    @property
    def temperature(self) -> float:
        """The fitted temperature T."""
        self.check_fitted()
        return float(self._temperature)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights of the scaled, the plain and the uniform probabilities, which sum to 1."""
        self.check_fitted()
        return tuple(self._weights.tolist())

    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        temperature = logits.new_tensor(best_temperature(logits, labels))
        label_probs = _log_parts(logits, temperature).exp()[:, torch.arange(len(labels)), labels].T
        start = torch.full_like(label_probs[0], 1 / 3)
        weights = minimize_convex(partial(_loss, label_probs), start, simplex_step).clamp(0, 1)
        self._keep(temperature, weights / weights.sum())
        warn_of_problem("the temperature rests on the pull to 1", find_problem(logits, labels))

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """Logarithms of the mixed probabilities; ``scores`` are ignored."""
        log_parts = _log_parts(logits.to(self._temperature.dtype), self._temperature)
        return (log_parts + self._weights.log()[:, None, None]).logsumexp(0)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"method": "ensemble_temperature", "temperature": T, "weights": [...]}``, ready for JSON."""
        return {"method": self.method, "temperature": self.temperature, "weights": list(self.weights)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`.

        Raises:
            InputError: the state is that of another method, or no fit makes such a state.
        """
        temperature, weights = read_state(fields, cls.method, temperature=0, weights=1)
        is_mixture = len(weights) == 3 and min(weights) >= 0 and math.isclose(sum(weights), 1, abs_tol=1e-6)
        if temperature <= 0 or not is_mixture:
            raise bad_state(fields, cls.method, "a positive temperature, and three weights that sum to 1")
        scaling = cls()
        scaling._keep(*(torch.tensor(value, dtype=torch.float64) for value in (temperature, weights)))
        return scaling

    def _keep(self, temperature: Tensor, weights: Tensor) -> None:
        self.register_buffer("_temperature", temperature)
        self.register_buffer("_weights", weights)


def simplex_step(weights: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
    """Find the step to the exact minimum of a quadratic over the weights that are at least 0 and sum to 1.

    Args:
        weights: the point where the quadratic has this gradient, float64, shape (D,).
        gradient: shape (D,).
        hessian: shape (D, D).
    """
    return step_over_faces(weights, gradient, hessian, _faces(len(weights)), lambda w: float(w.min()) >= -1e-12)


@lru_cache
def _faces(size: int) -> list[Face]:
    """List the faces of the simplex: each has a corner, and the directions (columns) from it to the other corners."""
    corners = torch.eye(size, dtype=torch.float64)
    supports = (kept for num in range(1, size + 1) for kept in itertools.combinations(range(size), num))
    return [(corners[kept[0]], (corners[list(kept[1:])] - corners[kept[0]]).T) for kept in supports]


def _loss(label_probs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the mean of -log(w · c), its gradient and its Hessian; ``label_probs`` c have shape (N, 3)."""
    mixed = label_probs @ weights
    ratio = label_probs / mixed[:, None]
    return -mixed.log().mean(), -ratio.mean(0), ratio.T @ ratio / len(ratio)


def _log_parts(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logarithms of the scaled, the plain and the uniform probabilities, shape (3, N, K)."""
    uniform = torch.zeros_like(logits).masked_fill(logits == -math.inf, -math.inf)
    return torch.stack([(logits / temperature), logits, uniform]).log_softmax(2)
