"""Logit normalization after training: logits of one length, for selective prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, read_state, zero_masked
from aradals.calibration.temperature import best_temperature, find_problem, warn_of_problem
from aradals.metrics.outcomes import rank
from aradals.metrics.selective import selective_risk

MAX_ORDER = 8


class PNormScaling(Calibrator):
    r"""Give all logit vectors one length in a p-norm, so that the confidence tells right from wrong predictions better.

    .. math:: z \mapsto \ell \, \frac{z - \bar z}{\|z - \bar z\|_p}

    :math:`\bar z` is the mean of an example's logits. The order p is the one of 0, 1, ..., 8 with the least area under
    the risk-coverage curve on the calibration split, where p = 0 means no normalization (plain temperature scaling).
    It is the smallest of equally good ones. For each p, the length ℓ has the least NLL, by a temperature as in
    `TemperatureScaling`. The order of the classes does not change, and so the accuracy does not change.

    Training with label smoothing shrinks the largest logits of right predictions most, which spoils this ranking;
    the normalization is the repair that Xia et al. find.

    References:
        Cattelan and Silva, How to fix a broken confidence estimator: evaluating post-hoc methods for selective
        classification with deep neural networks, UAI 2024, arXiv:2305.15508. This code departs from the paper's
        MSP-pNorm in one point: ℓ has the least NLL, so that the probabilities are calibrated; the authors choose it by
        the ranking too. Xia, Laurent, Franchi and Bouganis, Towards understanding why label smoothing degrades
        selective classification and how to fix it, ICLR 2025, arXiv:2403.14715, section 5.
    """

    method = "pnorm"
    _order: Tensor
    _length: Tensor

    @property
    def order(self) -> int:
        """The order p of the norm; 0 for no normalization."""
        self.check_fitted()
        return int(self._order)

    @property
    def length(self) -> float:
        """The length ℓ of the calibrated logits in the p-norm; for p = 0 it is 1 / T."""
        self.check_fitted()
        return float(self._length)

    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        correct = (logits.argmax(1) == labels).double()
        candidates = []
        for p in range(MAX_ORDER + 1):
            order = logits.new_tensor(float(p))
            norm = _norms(logits, order)
            # At the mean length, the pull of the temperature to 1 means the same for every p.
            length = norm.mean() / best_temperature(_normalized(logits, order) * norm.mean(), labels)
            confidence = (length * _normalized(logits, order)).softmax(1).amax(1)
            candidates.append((float(selective_risk(rank(confidence, correct)).mean()), order, length))
        _, order, length = min(candidates, key=lambda candidate: candidate[0])
        self._keep(order, length)
        warn_of_problem("the length of the logits rests on the pull to T = 1", find_problem(logits, labels))

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """Logits of the length ℓ; ``scores`` are ignored."""
        return self._length * _normalized(logits.to(self._length.dtype), self._order)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"method": "pnorm", "order": p, "length": ℓ}``, ready for JSON."""
        return {"method": self.method, "order": self.order, "length": self.length}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`.

        Raises:
            InputError: the state is that of another method, or no fit makes such a state.
        """
        order, length = read_state(fields, cls.method, order=0, length=0)
        if order not in range(MAX_ORDER + 1) or length <= 0:
            raise bad_state(fields, cls.method, f"order: an integer from 0 to {MAX_ORDER}; length: a positive number")
        scaling = cls()
        scaling._keep(*(torch.tensor(float(value), dtype=torch.float64) for value in (order, length)))
        return scaling

    def _keep(self, order: Tensor, length: Tensor) -> None:
        self.register_buffer("_order", order)
        self.register_buffer("_length", length)


def _normalized(logits: Tensor, order: Tensor) -> Tensor:
    """Divide centered logits by their norms; masked classes stay masked."""
    unit = _centered(logits) / _norms(logits, order)[:, None]
    return unit.masked_fill(logits == -math.inf, -math.inf)


def _norms(logits: Tensor, order: Tensor) -> Tensor:
    """Compute the p-norm of each example's centered logits, shape (N,); 1 for p = 0."""
    size = _centered(logits).abs()
    tiny = torch.finfo(size.dtype).tiny
    largest = size.amax(1, keepdim=True).clamp(min=tiny)
    norms = largest[:, 0] * ((size / largest) ** order).sum(1) ** (1 / order.clamp(min=1))
    return torch.where(order > 0, norms.clamp(min=tiny), 1.0)


def _centered(logits: Tensor) -> Tensor:
    """Subtract the mean over the classes that are not masked; masked classes get 0."""
    masked = logits == -math.inf
    finite = zero_masked(logits)
    mean = finite.sum(1, keepdim=True) / (~masked).sum(1, keepdim=True)
    return (finite - mean).masked_fill(masked, 0)
