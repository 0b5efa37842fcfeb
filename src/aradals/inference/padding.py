"""Models that cannot be called with few examples: small batches are filled up."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.inference.predictions import try_model


class Padded(nn.Module):
    """A model that is never called with fewer than ``num_rows`` examples: copies fill up a smaller batch.

    The ``forward`` of many models has a ``squeeze()`` that also drops a batch dimension of one, and some models are
    made for batches of one size.
    """

    def __init__(self, model: nn.Module, num_rows: int) -> None:
        super().__init__()
        self.model, self.num_rows = model, num_rows

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the model's logits, shape (N, K), also for small N."""
        num_inputs = len(inputs)
        if num_inputs < self.num_rows:
            inputs = inputs[torch.arange(self.num_rows, device=inputs.device) % num_inputs]
        logits: Tensor = self.model(inputs)
        return logits[:num_inputs]


def padded(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Return a model that can be called with any smaller number of examples, because every search ends with few.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: a whole batch, shape (N, ...).

    Raises:
        InputError: the call fails for one example, for two and for the whole batch, or its result is not logits.
    """
    for num_rows in (1, 2):
        try:
            try_model(model, inputs[:num_rows])
        except InputError:
            continue
        return model if num_rows == 1 else Padded(model, num_rows)
    try_model(model, inputs)
    return Padded(model, len(inputs))
