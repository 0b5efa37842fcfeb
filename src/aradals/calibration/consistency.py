"""Consistency calibration: how often a class wins if noise is added to the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, read_state
from aradals.calibration.temperature import best_temperature, find_problem, warn_of_problem

GUMBEL_SPREAD = math.pi / math.sqrt(6)
"""The standard deviation of the noise with which the winner has exactly the probabilities of the softmax."""

_GRID = tuple(step / 2 for step in range(-16, 17))
_MASKED = -1e4


class ConsistencyCalibration(Calibrator):
    r"""Set the probability of a class to that of winning under normal noise on the logits.

    .. math:: p_k = P\big(\arg\max_j (z_j + \sigma \varepsilon_j) = k\big)
        = \int \varphi(t - z_k / \sigma) \prod_{j \ne k} \Phi(t - z_j / \sigma) \, dt,
        \qquad \varepsilon \sim N(0, I)

    The authors count the winners of random draws. This code computes the integral, which is what the share of winners
    tends to, so that the result has no chance in it and no probability of 0. The strength σ has the least sum of NLL
    on the calibration split and of a weak pull, (log(σ / σ_0))^2 / 2. At :math:`\sigma_0 = \pi / \sqrt 6` the noise
    has the spread of the Gumbel noise whose winners have the probabilities of the softmax. The order of the classes
    does not change, and so the accuracy does not change.

    References:
        Tao, Guo, Dong and Xu, Consistency calibration: improving uncertainty calibration via consistency among
        perturbed neighbors, 2024, arXiv:2410.12295, with noise on the logits. The authors' code also tries uniform
        noise, which gives probabilities of 0, and chooses σ by the ECE or the NLL.
    """

    method = "consistency"
    _noise: Tensor

    @property
    def noise(self) -> float:
        """The fitted standard deviation σ of the noise, in logits."""
        self.check_fitted()
        return float(self._noise)

    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        """Search from 1/e^2 to e^2 times the noise that has the spread of the best temperature's."""
        rows = torch.arange(len(labels))

        def loss(log_noise: float) -> float:
            label_log_probs = winning_log_probs(logits, logits.new_tensor(math.exp(log_noise)))[rows, labels]
            return float(-label_log_probs.sum()) + (log_noise - math.log(GUMBEL_SPREAD)) ** 2 / 2

        center = math.log(best_temperature(logits, labels) * GUMBEL_SPREAD)
        self._keep(math.exp(golden_section(loss, center - 2, center + 2)))
        warn_of_problem("the noise rests on the pull to that of the softmax", find_problem(logits, labels))

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """Logarithms of the probabilities; ``scores`` are ignored."""
        return winning_log_probs(logits.to(self._noise.dtype), self._noise)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"method": "consistency", "noise": σ}``, ready for JSON."""
        return {"method": self.method, "noise": self.noise}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`.

        Raises:
            InputError: the state is that of another method, or the noise is not a positive number.
        """
        (noise,) = read_state(fields, cls.method, noise=0)
        if noise <= 0:
            raise bad_state(fields, cls.method, "noise: a positive number")
        calibrator = cls()
        calibrator._keep(noise)
        return calibrator

    def _keep(self, noise: float) -> None:
        self.register_buffer("_noise", torch.tensor(noise, dtype=torch.float64))


def winning_log_probs(logits: Tensor, noise: Tensor) -> Tensor:
    """Compute the logarithm of each class's probability to win under normal noise, shape (N, K).

    The trapezoidal rule with a step of σ/2, from 8 σ below the largest logit to 8 σ above it, has an error below
    1e-8 for probabilities. (The rule converges exponentially for such integrands.) Probabilities below 1e-28 are only
    bounded.

    Args:
        logits: shape (N, K), -inf for masked classes.
        noise: σ, a scalar.
    """
    masked = logits == -math.inf
    lag = ((logits - logits.amax(1, keepdim=True)) / noise).clamp(min=_MASKED)
    total = torch.full_like(lag, -math.inf)
    for point in _GRID:
        log_below = torch.special.log_ndtr(point - lag)
        others_below = log_below.sum(1, keepdim=True) - log_below
        total = torch.logaddexp(total, others_below - (point - lag).square() / 2)
    return total.masked_fill(masked, -math.inf).log_softmax(1)


def golden_section(loss: Callable[[float], float], low: float, high: float, num_steps: int = 30) -> float:
    """Find the minimum of a function with one valley between two points, to 1e-6 of their distance.

    References:
        Kiefer, Sequential minimax search for a maximum, 1953.
    """
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(num_steps):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return (low + high) / 2
