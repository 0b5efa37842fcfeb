"""The base of objectives that have a state of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class StatefulObjective(nn.Module, ABC):
    """An objective with numbers that adapt, or with weights that are trained beside those of the model.

    One instance serves one training. Its buffers and parameters are part of the state of this training, and the
    optimizer must have its parameters.
    """

    @abstractmethod
    def forward(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch, a scalar, and the logits of the inputs, shape (N, K)."""

    def update(self, labels: Tensor, logits: Tensor) -> None:
        """Adapt to predictions on the whole validation split; called after each pass over it.

        Args:
            labels: int64, shape (N,).
            logits: shape (N, K).
        """
