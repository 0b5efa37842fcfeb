"""Parts that the networks share: input normalization, initialization, and the depth arithmetic of their papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from aradals._internal.precision import only_moving
from aradals.errors import InputError

# Mean and standard deviation of ImageNet's channels, which published checkpoints commonly expect.
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)

MAX_DEPTH = 2000
"""Largest depth of a network, in layers. The deepest networks of the papers have 1001 and 1202 layers."""


class Normalize(nn.Module):
    """Layer ``(inputs - mean) / std`` for each channel, the first layer of a model that takes inputs in [0, 1].

    The constants are non-persistent buffers: they move with the model, but checkpoints need not have them. They stay in
    float32 if the model is cast to half precision; the result has the precision of the inputs.

    Args:
        num_channels: C of the inputs, shape (N, C, H, W).
        mean: one number for each channel. Default: ``RGB_MEAN`` for 3 channels, else 0.5.
        std: one positive number for each channel. Default: ``RGB_STD`` for 3 channels, else 0.5.
        bounds: the values that 0 and 1 in the inputs stand for, in the units of ``mean`` and ``std``.

    Raises:
        InputError: the constants do not fit the channels; later, the inputs do not fit them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_channels: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        if mean is None:
            mean = RGB_MEAN if num_channels == 3 else (0.5,) * num_channels
        if std is None:
            std = RGB_STD if num_channels == 3 else (0.5,) * num_channels
        if len(mean) != num_channels or len(std) != num_channels or min(std, default=0.0) <= 0:
            raise InputError(
                expected=f"a mean and a positive std for each of {num_channels} channels",
                got=f"mean {list(mean)} and std {list(std)}",
                hint="in_channels equal to the number of constants, or the default constants",
            )
        low, high = bounds
        mean, std = [(value - low) / (high - low) for value in mean], [value / (high - low) for value in std]
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalize inputs, shape (N, C, H, W)."""
        # This check is needed because broadcasting would turn gray images into color images.
        if inputs.ndim != 4 or inputs.shape[1] != len(self.mean):
            raise InputError(
                expected=f"inputs of shape (N, {len(self.mean)}, H, W)",
                got=f"shape {tuple(inputs.shape)}",
                hint=f"images with {len(self.mean)} channels, or a model whose in_channels is that of the images",
            )
        return ((inputs - self.mean) / self.std).to(inputs.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(only_moving(fn), recurse)  # type: ignore[no-untyped-call]
        return self


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps the image size (divided by ``stride``), without bias, because batch norm has one."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


def initialize_he(model: nn.Module) -> None:
    """Draw convolution weights from N(0, 2 / (kernel size x output channels)) and zero the linear biases.

    Source: He et al., Delving Deep into Rectifiers, 2015 (arXiv 1502.01852), section 2.2, backward case.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def count_blocks(depth: int, *, step: int, offset: int) -> int:
    """Compute the n of a network whose depth is ``step * n + offset``.

    Raises:
        InputError: there is no such n >= 1, or the depth is above `MAX_DEPTH`.
    """
    num_blocks, rest = divmod(depth - offset, step)
    if num_blocks < 1 or rest or depth > MAX_DEPTH:
        most = (MAX_DEPTH - offset) // step
        nearest = step * min(max(1, round((depth - offset) / step)), most) + offset
        raise InputError(
            expected=f"a depth of the form {step}n+{offset} with n >= 1, up to {MAX_DEPTH}",
            got=str(depth),
            hint=f"a depth of {nearest}",
        )
    return num_blocks


def make_stage(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    out_channels: int,
    num_blocks: int,
    stride: int,
) -> nn.Sequential:
    """Make ``num_blocks`` residual blocks; the first one changes the number of channels and the image size."""
    first = block(in_channels, out_channels, stride)
    return nn.Sequential(first, *(block(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))
