"""A multilayer perceptron for rows of tables, and for quick work on anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from aradals.errors import InputError

_EPSILON = 0.01
"""Added to the variance of each input, which is in [0, 1]."""


class MLP(nn.Module):
    """Linear layers with ReLU between them, on inputs of any shape, which are flattened.

    The first layer standardizes each input by its mean and variance in training: columns of a table that a few large
    values squeeze into a small part of [0, 1] would hardly train otherwise. The variance counts as `_EPSILON` larger,
    so that an input that is constant in training is at most 10 from its mean, whatever value it has later.

    Args:
        input_shape: shape of an input, such as (16,) for a row of a table, or (3, 32, 32).
        hidden: number of units of each hidden layer; an empty list makes a linear classifier.
        num_classes: K, the number of logits.

    Raises:
        InputError: a size is below 1; later, the inputs have another number of values.
    """

    def __init__(
        self, *, input_shape: Sequence[int], hidden: Sequence[int] = (256, 256), num_classes: int = 10
    ) -> None:
        super().__init__()
        self.num_features = math.prod(input_shape)
        sizes = [self.num_features, *hidden]
        if min(sizes) < 1:
            raise InputError(
                expected="layers of at least 1 unit, and inputs of at least 1 value",
                got=f"hidden {list(hidden)} and input_shape {list(input_shape)}",
                hint="hidden: [256, 256]",
            )
        layers = [layer for ins, outs in pairwise(sizes) for layer in (nn.Linear(ins, outs), nn.ReLU())]
        self.standardize = nn.BatchNorm1d(self.num_features, eps=_EPSILON, affine=False)
        self.hidden = nn.Sequential(*layers)
        self.linear = nn.Linear(sizes[-1], num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (N, K), of inputs in [0, 1], shape (N, ...)."""
        features = inputs.flatten(1)
        if features.shape[1] != self.num_features:
            raise InputError(
                expected=f"inputs of {self.num_features} values, as the network was built for",
                got=f"shape {tuple(inputs.shape)}",
                hint="data of the shape that the network was trained on",
            )
        logits: Tensor = self.linear(self.hidden(self.standardize(features)))
        return logits
