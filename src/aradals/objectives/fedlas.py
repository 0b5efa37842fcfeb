"""FedLAS: label smoothing by the norm of the features, in a direction that a gate network learns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.checks import check_between, check_positive
from aradals.errors import InputError
from aradals.geometry import working_dtype
from aradals.objectives.base import StatefulObjective

_EPSILON = 1e-3
"""Added to the standard deviation of the norms."""


class FedLAS(StatefulObjective):
    r"""Cross-entropy with a smoothing for each example, by the norm of its features.

    .. math:: (1 - r) \, CE(z, y) - r \, \frac{1}{K} \sum_k \log p_k, \qquad
        r = 2 \alpha \, \mathrm{sigmoid}(\beta \, g(z) \, m)

    m is the L1 norm of the features that the model's last linear layer takes, less its running mean and divided by its
    running standard deviation. The gate g is a network of one hidden layer of K/2 units on the logits, whose output is
    rounded to -1 or 1. Its gradient ignores the rounding. Neither m nor g sends gradients to the model.

    Args:
        num_classes: K.
        alpha: the mean smoothing, from 0 to 0.5.
        beta: > 0, the steepness.
        momentum: the weight of a batch in the running mean and standard deviation, in [0, 1].

    Raises:
        InputError: a setting is out of its range; later, the model has no last linear layer.

    References:
        Bahavan, Seneviratne and Halgamuge, FedLAS: feature-modulated bidirectional label smoothing for neural network
        calibration, ECCV 2026, arXiv:2606.28654. The equations and the defaults, those for CIFAR-10, are those of the
        authors' code. This standard deviation divides by N, so that a batch of one example has one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int, *, alpha: float = 0.05, beta: float = 4.0, momentum: float = 0.95) -> None:
        super().__init__()
        check_between(0, 0.5, alpha=alpha)
        check_between(0, 1, momentum=momentum)
        check_positive(beta=beta)
        self.alpha, self.beta, self.momentum = alpha, beta, momentum
        hidden = num_classes // 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the gate always begins with the same weights
            self.gate = nn.Sequential(nn.Linear(num_classes, hidden), nn.LeakyReLU(), nn.Linear(hidden, 2))
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))

    def forward(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch, a scalar, and the logits of the inputs, shape (N, K)."""
        logits, features = _logits_and_features(model, inputs)
        if logits.shape[1] != self.gate[0].in_features:
            raise InputError(
                expected=f"logits of {self.gate[0].in_features} classes",
                got=str(logits.shape[1]),
                hint="a model with as many outputs as the data has classes",
            )
        log_probs = logits.log_softmax(1, dtype=working_dtype(logits))
        deviation = self._standardized(features.to(log_probs.dtype).norm(1, dim=1))
        smoothing = 2 * self.alpha * torch.sigmoid(self.beta * self._direction(logits.detach()) * deviation)
        nll = F.nll_loss(log_probs, labels, reduction="none")
        return ((1 - smoothing) * nll - smoothing * log_probs.mean(1)).mean(), logits

    def _standardized(self, norms: Tensor) -> Tensor:
        """Standardize norms by the running values, which a training batch moves first."""
        if self.training:
            self.mean.lerp_(norms.mean().to(self.mean), self.momentum)
            self.std.lerp_(norms.std(correction=0).to(self.std), self.momentum)
        return (norms - self.mean) / (self.std + _EPSILON)

    def _direction(self, logits: Tensor) -> Tensor:
        """Compute the gate of each example: -1 or 1, with the gradient of the difference of two probabilities."""
        probs: Tensor = self.gate(logits.to(self.std)).softmax(1)
        soft = probs[:, 1] - probs[:, 0]
        return soft.sign() + (soft - soft.detach())


def _logits_and_features(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Call the model, and note what its last linear layer takes, shape (N, D), without gradients."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    taken: list[Tensor] = []
    hooks = [layers[-1].register_forward_pre_hook(lambda _, given: taken.append(given[0]))] if layers else []
    try:
        logits: Tensor = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if len(taken) != 1 or layers[-1].out_features != logits.shape[1] or taken[0].shape[:-1] != inputs.shape[:1]:
        raise InputError(
            expected="a model whose last layer is a linear layer with one output for each class, not compiled",
            got=type(model).__name__,
            hint="another objective, for example sample_focal",
        )
    return logits, taken[0].detach()
