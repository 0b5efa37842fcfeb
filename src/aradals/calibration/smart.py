"""SMART: a temperature from the logit margin, by a small network that minimizes a smooth calibration error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, read_state
from aradals.inference.gradients import class_margin

WIDTH = 16
LEAST_TEMPERATURE = 0.1

_SIZES = (WIDTH, WIDTH, WIDTH * WIDTH, WIDTH, WIDTH, 1)
"""Weights and offsets of the three layers of the network."""
_NUM_BINS, _BIN_SPREAD, _DELTA = 15, 0.05, 1e-3
_LEARNING_RATE, _MAX_STEPS, _PATIENCE, _LEAST_GAIN = 5e-3, 2000, 200, 1e-4
_LARGEST_MARGIN = 1e30


class SmartTemperature(Calibrator):
    r"""Divide logits by a temperature that a small network computes from the logit margin (SMART).

    .. math:: T(m) = 0.1 + \log\big(1 + e^{h((m - \mu) / s)}\big)

    m is the difference of the two largest logits, μ and s are its mean and standard deviation on the calibration split,
    and h has two hidden layers of 16 rectified units. Adam minimizes the smooth calibration error of `smooth_soft_ece`
    for at most 2,000 steps, each with all examples. The initial weights are always the same. The order of the classes
    does not change, and so the accuracy does not change. Unlike the temperatures of `ConditionalTemperature`, T may
    rise and fall, and the fit looks only at the confidence: the NLL can rise.

    References:
        Guo, Tao, Luo, Dong and Xu, Sample margin-aware recalibration of temperature scaling, ICML 2026,
        arXiv:2506.23492. The settings are those of the authors' code.
    """

    method = "smart_temperature"
    _margin: Tensor
    _weights: Tensor

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        logits = logits.clone()  # a tensor of the inference mode has no gradients
        margin = _margins(logits)
        usual = margin[margin < _LARGEST_MARGIN] if (margin < _LARGEST_MARGIN).any() else torch.zeros_like(margin)
        statistics = torch.stack([usual.mean(), usual.std(correction=0).clamp(min=1e-8)])
        # The confidence needs only the differences to the largest logit; -inf would have no gradient.
        lag = (logits - logits.amax(1, keepdim=True)).clamp(min=-_LARGEST_MARGIN)
        correct = (logits.argmax(1) == labels).double()

        def loss(weights: Tensor) -> Tensor:
            beta = 1 / _temperatures(margin, statistics, weights)
            return smooth_soft_ece(1 / (beta[:, None] * lag).exp().sum(1), correct)

        self._keep(statistics, _learn(loss, _initial_weights().to(logits)))

    def temperature_for(self, margins: Tensor) -> Tensor:
        """Compute the temperature at each logit margin, float64, shape (N,)."""
        self.check_fitted()
        return _temperatures(margins.to(self._weights.dtype), self._margin, self._weights)

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """``logits / T(margin)``; ``scores`` are ignored."""
        logits = logits.to(self._weights.dtype)
        return logits / _temperatures(_margins(logits), self._margin, self._weights)[:, None]

    def to_dict(self) -> dict[str, Any]:
        """Return ``method``, ``margin`` (mean and standard deviation) and the ``weights`` of the network."""
        self.check_fitted()
        return {"method": self.method, "margin": self._margin.tolist(), "weights": self._weights.tolist()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`.

        Raises:
            InputError: the state is that of another method, or no fit makes such a state.
        """
        margin, weights = read_state(fields, cls.method, margin=1, weights=1)
        if len(margin) != 2 or margin[1] <= 0 or len(weights) != sum(_SIZES):
            raise bad_state(fields, cls.method, f"margin: mean and standard deviation; {sum(_SIZES)} weights")
        calibrator = cls()
        calibrator._keep(*(torch.tensor(values, dtype=torch.float64) for values in (margin, weights)))
        return calibrator

    def _keep(self, margin: Tensor, weights: Tensor) -> None:
        self.register_buffer("_margin", margin)
        self.register_buffer("_weights", weights)


def smooth_soft_ece(confidence: Tensor, correct: Tensor) -> Tensor:
    r"""Smooth upper bound of a calibration error with soft bins (Charbonnier-SoftECE).

    .. math:: \sum_b \frac{n_b}{N} \sqrt{(\mathrm{conf}_b - \mathrm{acc}_b)^2 + \delta^2}, \qquad n_b = \sum_i w_{ib}

    Each example i has a share :math:`w_{ib} \propto \exp(-(c_i - \mu_b)^2 / 2 \sigma^2)` in each of 15 bins with
    equally spaced centers μ_b, σ = 0.05 and δ = 0.001. conf_b and acc_b are means with these shares.

    Args:
        confidence: c, float, shape (N,).
        correct: 1 for right predictions and 0 for wrong ones, shape (N,).

    Returns:
        Scalar, at least δ.
    """
    centers = (torch.arange(_NUM_BINS).to(confidence) + 0.5) / _NUM_BINS
    share = (-((confidence[:, None] - centers) / _BIN_SPREAD).square() / 2).softmax(1)
    # n_b is a factor inside the root, because a division by a tiny n_b would be inexact.
    gap = (share * (confidence - correct)[:, None]).sum(0)
    return (gap.square() + (_DELTA * share.sum(0)).square()).sqrt().sum() / len(confidence)


def _margins(logits: Tensor) -> Tensor:
    # The margin is infinite if all classes but one are masked.
    return class_margin(logits)[0].nan_to_num(posinf=_LARGEST_MARGIN)


def _temperatures(margins: Tensor, statistics: Tensor, weights: Tensor) -> Tensor:
    w_in, b_in, w_middle, b_middle, w_out, b_out = weights.split(_SIZES)
    standardized = (margins - statistics[0]) / statistics[1]
    hidden = F.relu(standardized[:, None] * w_in + b_in)
    hidden = F.relu(hidden @ w_middle.view(WIDTH, WIDTH) + b_middle)
    output: Tensor = hidden @ w_out + b_out
    # onnxruntime has no softplus in double precision.
    return LEAST_TEMPERATURE + F.relu(output) + (-output.abs()).exp().log1p()


def _initial_weights() -> Tensor:
    """Draw weights as ``nn.Linear`` does: uniform, up to 1 / sqrt(number of inputs)."""
    bound = torch.full((sum(_SIZES),), WIDTH**-0.5, dtype=torch.float64)
    bound[: 2 * WIDTH] = 1
    return bound * (2 * torch.rand(len(bound), generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1)


def _learn(loss: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    """Minimize by Adam until 200 steps gain less than 1e-4; return the best weights."""
    best, lowest, best_step = weights, float("inf"), 0
    weights = weights.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=_LEARNING_RATE)
    for step in range(_MAX_STEPS):
        value = loss(weights)
        if value.item() < lowest - _LEAST_GAIN:
            best, lowest, best_step = weights.detach().clone(), value.item(), step
        elif step - best_step >= _PATIENCE:
            break
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return best
