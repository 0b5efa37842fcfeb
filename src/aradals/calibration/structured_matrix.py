"""Structured matrix scaling: a matrix and an offset, each part of which is pulled to plain temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, check_num_classes, read_state
from aradals.calibration.temperature import best_temperature


class StructuredMatrixScaling(Calibrator):
    r"""Map log-probabilities x at a temperature to :math:`(I + M) x + b` (SMS).

    T is that of `TemperatureScaling`. A little of the uniform distribution keeps x finite:

    .. math:: x = \log \Big(\frac{N}{N + 1} \mathrm{softmax}(z / T) + \frac{1}{N + 1} \frac{1}{K}\Big)

    M and b minimize, over the N examples of the calibration split and K classes,

    .. math:: \mathrm{NLL}(M, b) + \frac{K}{N} \Big(\sum_k b_k^2 + \sum_k M_{kk}^2\Big)
        + \frac{K (K - 1)}{N} \sum_{k \ne l} M_{kl}^2

    So the K (K - 1) numbers beside the diagonal have a stronger pull to 0 than the others. The sum is strictly convex,
    and so it has one minimum. The map can change the order of the classes and the accuracy. Masked classes stay masked.

    References:
        Berta, Holzmüller, Jordan and Bach, Structured matrix scaling for multi-class calibration, AISTATS 2026. The
        pulls and the uniform part are the default of the authors' library probmetrics, which does not pull its T.
    """

    method = "structured_matrix"
    _temperature: Tensor
    _uniform: Tensor
    _weight: Tensor
    _bias: Tensor

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        num_classes = logits.shape[1]
        temperature, uniform = (logits.new_tensor(v) for v in (best_temperature(logits, labels), 1 / (len(labels) + 1)))
        log_probs, labels = scaled_log_probs(logits, temperature, uniform).clone(), labels.clone()
        weak = num_classes / len(labels)
        diagonal = torch.eye(num_classes).to(logits)
        pulls = weak * (diagonal + (num_classes - 1) * (1 - diagonal))
        matrix = torch.zeros_like(diagonal, requires_grad=True)
        bias = torch.zeros_like(log_probs[0], requires_grad=True)

        def loss() -> Tensor:
            nll = F.cross_entropy(log_probs + F.linear(log_probs, matrix, bias), labels)
            return nll + weak * bias.square().sum() + (pulls * matrix.square()).sum()

        minimize_smooth(loss, [matrix, bias])
        self._keep(temperature, uniform, diagonal + matrix.detach(), bias.detach())

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """``weight @ x + bias`` with the log-probabilities x of `scaled_log_probs`; ``scores`` are ignored."""
        check_num_classes(logits, len(self._bias))
        log_probs = scaled_log_probs(logits.to(self._weight.dtype), self._temperature, self._uniform)
        return F.linear(log_probs, self._weight, self._bias).masked_fill(logits == -math.inf, -math.inf)

    def to_dict(self) -> dict[str, Any]:
        """Return ``method``, T, the share of the uniform distribution, the rows of I + M, and b, ready for JSON."""
        self.check_fitted()
        return {
            "method": self.method,
            "temperature": float(self._temperature),
            "uniform": float(self._uniform),
            "weight": self._weight.tolist(),
            "bias": self._bias.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`.

        Raises:
            InputError: the state is that of another method, or no fit makes such a state.
        """
        state = read_state(fields, cls.method, temperature=0, uniform=0, weight=2, bias=1)
        temperature, uniform, weight, bias = state
        is_square = len(bias) > 1 and {len(weight), *map(len, weight)} == {len(bias)}
        if temperature <= 0 or not 0 < uniform < 1 or not is_square:
            raise bad_state(fields, cls.method, "a temperature and a share above 0, K rows of K weights, and K biases")
        scaling = cls()
        scaling._keep(*(torch.tensor(values, dtype=torch.float64) for values in state))
        return scaling

    def _keep(self, temperature: Tensor, uniform: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.register_buffer("_temperature", temperature)
        self.register_buffer("_uniform", uniform)
        self.register_buffer("_weight", weight)
        self.register_buffer("_bias", bias)


def scaled_log_probs(logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    """Compute log-probabilities at a temperature, mixed with a share of the uniform distribution."""
    probs = (logits / temperature).softmax(1)
    return ((1 - uniform) * probs + uniform / logits.shape[1]).log()


def minimize_smooth(loss: Callable[[], Tensor], points: list[Tensor]) -> None:
    """Move the tensors to the minimum of a smooth, strictly convex loss, by the method L-BFGS with a line search."""
    optimizer = torch.optim.LBFGS(
        points, max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    optimizer.step(closure)
