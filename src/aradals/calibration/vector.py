"""Vector scaling: a factor and an offset for the logit of every class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, check_examples, check_num_classes, read_state
from aradals.calibration.newton import minimize_convex
from aradals.calibration.temperature import best_temperature
from aradals.errors import InputError


class VectorScaling(Calibrator):
    r"""Map logits :math:`z \mapsto w \odot z + b`, with the least NLL on the calibration split and a pull to one T.

    Guo et al. 2017, section 4.2. The map corrects classes that are predicted too often or too confidently. It can
    change the order of the classes and the accuracy. The published method minimizes only the NLL. The NLL has no
    minimum if a class is separable or absent from the calibration split, and its minimum is never unique, because a
    constant added to b changes nothing. So this method minimizes, with the best single temperature T and
    :math:`w = (1 + u) / T`,

    .. math:: \mathrm{NLL}(w, b) + \frac{\mathrm{pull}}{2 N} (|u|^2 + |b|^2),

    For pull = 1, this is a standard normal prior on every u and b, which has the weight of about one example for each
    class.

    Args:
        pull: > 0; a smaller pull is closer to the published method.

    Raises:
        InputError: ``pull`` is not positive.
    """

    method = "vector"
    _weight: Tensor
    _bias: Tensor

    def __init__(self, pull: float = 1.0) -> None:
        super().__init__()
        if not pull > 0:
            raise InputError(expected="pull > 0", got=f"{pull}", hint="pull=1, or pull=1e-6 for almost no pull")
        self.pull = pull

    @property
    def weight(self) -> Tensor:
        """The factor w, float64, shape (K,)."""
        self.check_fitted()
        return self._weight

    @property
    def bias(self) -> Tensor:
        """The offset b, float64, shape (K,), which sums to 0."""
        self.check_fitted()
        return self._bias

    def fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None = None) -> Self:
        """Minimize the sum of NLL and pull, which is convex, by Newton's method.

        Args:
            logits: finite floats, shape (N, K).
            labels: integer, shape (N,), in [0, K).
            scores: ignored.

        Raises:
            InputError: there are no examples; logits are NaN, infinite or probabilities; labels are wrong.
        """
        logits, labels = check_examples(logits, labels)
        num_examples, num_classes = logits.shape
        beta = 1 / best_temperature(logits, labels)
        scaled = beta * logits
        one_hot = torch.nn.functional.one_hot(labels, num_classes).to(scaled)
        strength = self.pull / num_examples

        def loss(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            weight, bias = 1 + point[:num_classes], point[num_classes:]
            log_probs = (weight * scaled + bias).log_softmax(1)
            probs = log_probs.exp()
            weighted = probs * scaled
            value = -log_probs.gather(1, labels[:, None]).mean() + strength / 2 * point.square().sum()
            error = probs - one_hot
            gradient = torch.cat([(error * scaled).mean(0), error.mean(0)]) + strength * point
            # This is the mean of diag(p) - p p^T in blocks; each index of a weight multiplies p by z.
            both = torch.cat([weighted, probs], 1)
            hessian = -both.T @ both / num_examples
            hessian.diagonal().add_(torch.cat([(weighted * scaled).mean(0), probs.mean(0)]) + strength)
            hessian.diagonal(num_classes).add_(weighted.mean(0))
            hessian.diagonal(-num_classes).add_(weighted.mean(0))
            return value, gradient, hessian

        start = torch.zeros(2 * num_classes).to(scaled)
        best = minimize_convex(loss, start, lambda _, gradient, hessian: -torch.linalg.solve(hessian, gradient))
        self._keep(beta * (1 + best[:num_classes]), best[num_classes:])
        return self

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """``weight * logits + bias``; ``scores`` are ignored."""
        check_num_classes(logits, len(self._weight))
        return self._weight * logits.to(self._weight.dtype) + self._bias

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"method": "vector", "weight": [...], "bias": [...]}``, ready for JSON."""
        return {"method": self.method, "weight": self.weight.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Make the fitted calibrator; the inverse of `to_dict`.

        Raises:
            InputError: the state is that of another method, or it does not have one weight and one bias for each of
                K >= 2 classes.
        """
        weight, bias = read_state(fields, cls.method, weight=1, bias=1)
        if len(weight) != len(bias) or len(weight) < 2:
            raise bad_state(fields, cls.method, "a weight and a bias for each of two or more classes")
        scaling = cls()
        scaling._keep(torch.tensor(weight, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64))
        return scaling

    def _keep(self, weight: Tensor, bias: Tensor) -> None:
        self.register_buffer("_weight", weight)
        self.register_buffer("_bias", bias)
