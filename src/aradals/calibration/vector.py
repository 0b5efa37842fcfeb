"""Vector scaling: a factor and an offset for the logit of every class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from aradals.calibration.base import Calibrator, bad_state, check_num_classes, read_state, zero_masked
from aradals.calibration.newton import minimize_convex
from aradals.calibration.temperature import best_temperature
from aradals.errors import InputError

MAX_SOLVED = 300
"""With more classes, Newton's system of 2K equations is solved by conjugate gradients, which need no matrix."""


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

    def _fit(self, logits: Tensor, labels: Tensor, scores: Tensor | None) -> None:
        """Minimize the sum of NLL and pull, which is convex, by Newton's method."""
        num_classes = logits.shape[1]
        beta = 1 / best_temperature(logits, labels)
        loss = partial(_loss, beta * logits, labels, self.pull / len(labels))
        start = logits.new_zeros(2 * num_classes)
        best = minimize_convex(loss, start, solve if num_classes <= MAX_SOLVED else conjugate_gradients)
        self._keep(beta * (1 + best[:num_classes]), best[num_classes:])

    def forward(self, logits: Tensor, scores: Tensor | None = None) -> Tensor:
        """``weight * logits + bias``; ``scores`` are ignored."""
        check_num_classes(logits, len(self._weight))
        masked = logits == -math.inf
        return (self._weight * logits.to(self._weight.dtype) + self._bias).masked_fill(masked, -math.inf)

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


@dataclass(frozen=True)
class _Hessian:
    """Hessian of `_loss`: the mean of diag(p) - p p^T in blocks, where each index of a weight multiplies p by z.

    Attributes:
        probs: p, shape (N, K).
        logits: z, 0 for masked classes, shape (N, K).
        strength: weight of the pull.
    """

    probs: Tensor
    logits: Tensor
    strength: float

    def matrix(self) -> Tensor:
        """Make the matrix, shape (2K, 2K)."""
        num_examples, num_classes = self.probs.shape
        weighted = self.probs * self.logits
        both = torch.cat([weighted, self.probs], 1)
        matrix = -both.T @ both / num_examples
        squares = (weighted * self.logits).mean(0)
        matrix.diagonal().add_(torch.cat([squares, self.probs.mean(0)]) + self.strength)
        matrix.diagonal(num_classes).add_(weighted.mean(0))
        matrix.diagonal(-num_classes).add_(weighted.mean(0))
        return matrix

    def times(self, direction: Tensor) -> Tensor:
        """Multiply with a vector of shape (2K,)."""
        weight, bias = direction.chunk(2)
        change = self.logits * weight + bias
        change = self.probs * (change - torch.linalg.vecdot(self.probs, change)[:, None])
        products = torch.cat([(change * self.logits).mean(0), change.mean(0)])
        return products + self.strength * direction

    def blocks(self) -> Tensor:
        """Make the block of weight and bias of each class, shape (K, 2, 2)."""
        variance = self.probs * (1 - self.probs)
        moments = [(variance * self.logits**power).mean(0) for power in (2, 1, 1, 0)]
        return torch.stack(moments, 1).view(-1, 2, 2) + self.strength * torch.eye(2).to(variance)


def _loss(logits: Tensor, labels: Tensor, strength: float, point: Tensor) -> tuple[Tensor, Tensor, _Hessian]:
    """Compute NLL plus pull at ``point`` = (u, b), its gradient and its Hessian."""
    num_classes = logits.shape[1]
    finite = zero_masked(logits)
    scaled = ((1 + point[:num_classes]) * finite + point[num_classes:]).masked_fill(logits == -math.inf, -math.inf)
    log_probs = scaled.log_softmax(1)
    value = -log_probs.gather(1, labels[:, None]).mean() + strength / 2 * point.square().sum()
    probs = log_probs.exp()
    error = probs.scatter_add(1, labels[:, None], -torch.ones_like(probs[:, :1]))
    gradient = torch.cat([(error * finite).mean(0), error.mean(0)]) + strength * point
    return value, gradient, _Hessian(probs, finite, strength)


def solve(_: Tensor, gradient: Tensor, hessian: _Hessian) -> Tensor:
    """Compute Newton's step exactly."""
    step: Tensor = -torch.linalg.solve(hessian.matrix(), gradient)
    return step


def conjugate_gradients(_: Tensor, gradient: Tensor, hessian: _Hessian, num_steps: int = 200) -> Tensor:
    """Compute Newton's step by conjugate gradients, more exactly as the gradient vanishes.

    The blocks of the classes are the preconditioner, because a class's weight and bias have similar effects.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, algorithms 5.3 and 7.1.
    """
    inverse = torch.linalg.inv(hessian.blocks())

    def precondition(residual: Tensor) -> Tensor:
        changed: Tensor = (inverse @ residual.view(2, -1).T[:, :, None])[:, :, 0].T.flatten()
        return changed

    step, residual = torch.zeros_like(gradient), -gradient
    direction = preconditioned = precondition(residual)
    product = residual @ preconditioned
    enough = product * min(0.01, float(product))
    for _step in range(num_steps):
        curved = hessian.times(direction)
        size = product / (direction @ curved)
        step, residual = step + size * direction, residual - size * curved
        preconditioned = precondition(residual)
        product, previous = residual @ preconditioned, product
        if product <= enough:
            break
        direction = preconditioned + product / previous * direction
    return step
