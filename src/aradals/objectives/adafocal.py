"""AdaFocal: focal loss whose γ follows the calibration gap of bins of confidence on validation data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aradals.checks import check_between, check_positive
from aradals.errors import InputError
from aradals.geometry import working_dtype
from aradals.objectives.base import StatefulObjective


class AdaFocal(StatefulObjective):
    r"""Focal loss with a γ for each bin of confidence, which becomes inverse focal loss where the model is too unsure.

    .. math:: -(1 - p_y)^{\gamma_b} \log p_y \text{ if } \gamma_b > 0, \qquad
        -(1 + p_y)^{|\gamma_b|} \log p_y \text{ if } \gamma_b < 0

    :math:`p_y` is the probability of the label, and b the bin that contains it. After each pass over the validation
    split, the bins divide its confidences into equal parts, and each γ adapts to the gap of its bin, which is the mean
    confidence minus the accuracy:

    .. math:: \gamma_b \leftarrow \gamma_b \, e^{\mathrm{sign}(\gamma_b) \, \lambda \, \mathrm{gap}_b}

    If \|γ\| falls below the switch point s, γ becomes s with the other sign. Then γ is clipped. The gap of an empty bin
    is 0.

    Args:
        gamma: γ of all bins at the start, not 0.
        rate: λ > 0.
        num_bins: number of bins.
        switch: s > 0.
        lowest: least γ, negative.
        highest: largest γ, positive.

    Attributes:
        gammas: γ of each bin, the least confident first, shape (num_bins,).
        edges: lower edges of all bins but the first, shape (num_bins - 1,).

    Raises:
        InputError: a setting is out of its range.

    References:
        Ghosh, Schaaf and Gormley, AdaFocal: calibration-aware adaptive focal loss, NeurIPS 2022, arXiv:2211.11838. The
        defaults are those of the authors' code, which sums the loss over a batch; this loss is a mean, as all others.
    """

    gammas: Tensor
    edges: Tensor

    def __init__(
        self,
        *,
        gamma: float = 1.0,
        rate: float = 1.0,
        num_bins: int = 15,
        switch: float = 0.2,
        lowest: float = -2.0,
        highest: float = 20.0,
    ) -> None:
        super().__init__()
        check_positive(rate=rate, num_bins=num_bins, switch=switch)
        check_between(switch, float("inf"), highest=highest)
        check_between(switch, float("inf"), **{"-lowest": -lowest})
        if gamma == 0 or not lowest <= gamma <= highest:
            raise InputError(
                expected=f"gamma other than 0, from {lowest} to {highest}", got=f"gamma={gamma}", hint="gamma=1.0"
            )
        self.rate, self.switch, self.lowest, self.highest = rate, switch, lowest, highest
        self.register_buffer("gammas", torch.full((num_bins,), float(gamma)))
        self.register_buffer("edges", torch.arange(1, num_bins) / num_bins)

    def forward(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch, a scalar, and the logits of the inputs, shape (N, K)."""
        logits: Tensor = model(inputs)
        log_prob = logits.log_softmax(1, dtype=working_dtype(logits)).gather(1, labels[:, None])[:, 0]
        gamma = self.gammas[self._bins(log_prob.detach().exp())]
        base = torch.where(gamma > 0, -torch.expm1(log_prob), 1 + log_prob.exp())
        # A power below 1 has an infinite gradient at 0, where the label has all probability.
        weight = base.clamp(min=torch.finfo(base.dtype).tiny) ** gamma.abs()
        return -(weight * log_prob).mean(), logits

    @torch.no_grad()
    def update(self, labels: Tensor, logits: Tensor) -> None:
        """Divide the validation split into bins, and move each γ by the gap of its bin."""
        probs = logits.softmax(1, dtype=working_dtype(logits))
        confidence, predicted = probs.max(1)
        starts = torch.arange(1, len(self.gammas)) * len(confidence) // len(self.gammas)
        self.edges.copy_(confidence.sort().values[starts])
        gap = self._gaps(confidence, predicted == labels).to(self.gammas)
        moved = self.gammas * (self.gammas.sign() * self.rate * gap).exp()
        switched = torch.where(moved.abs() < self.switch, -self.switch * moved.sign(), moved)
        self.gammas.copy_(switched.clamp(self.lowest, self.highest))

    def _gaps(self, confidence: Tensor, correct: Tensor) -> Tensor:
        """Compute confidence minus accuracy of each bin."""
        bins = self._bins(confidence)
        count = bins.bincount(minlength=len(self.gammas)).clamp(min=1)
        return bins.bincount(confidence - correct.to(confidence), len(self.gammas)) / count

    def _bins(self, values: Tensor) -> Tensor:
        return torch.bucketize(values.to(self.edges), self.edges, right=True)
