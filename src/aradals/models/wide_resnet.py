"""Wide residual networks (Zagoruyko & Komodakis 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.models.layers import Normalize, conv1x1, conv3x3, count_blocks, initialize_he, make_stage


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU.

    If the shape changes, the shortcut is a 1x1 convolution of the activated inputs, which both paths share.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        same_shape = in_channels == out_channels and stride == 1
        self.shortcut = None if same_shape else conv1x1(in_channels, out_channels, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map shape (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        activated = F.relu(self.bn1(inputs))
        shortcut = inputs if self.shortcut is None else self.shortcut(activated)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return shortcut + residual


class WideResNet(nn.Module):
    """Wide ResNet-d-k: depth d = 6n+4, three stages of n pre-activation blocks, widths 16k, 32k, 64k.

    Source: Zagoruyko & Komodakis, Wide Residual Networks, 2016 (arXiv 1605.07146), table 1, blocks B(3,3),
    without dropout.

    Args:
        depth: d: 16, 22, 28, 40, ...
        widen_factor: k: 1, 2, 4, 8, 10, ...
        num_classes: K, the number of logits.
        in_channels: C; inputs are float images in [0, 1], shape (N, C, H, W).
        mean: mean of each input channel; see ``Normalize``.
        std: standard deviation of each input channel; see ``Normalize``.

    Raises:
        InputError: the depth is not 6n+4, or the widen factor is below 1.
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        num_blocks = count_blocks(depth, step=6, offset=4)
        if widen_factor < 1:
            raise InputError(expected="a widen factor of at least 1", got=str(widen_factor), hint="widen_factor=10")
        widths = [16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.normalize = Normalize(in_channels, mean, std)
        self.conv1 = conv3x3(in_channels, 16)
        self.layer1 = make_stage(PreActBlock, 16, widths[0], num_blocks, stride=1)
        self.layer2 = make_stage(PreActBlock, widths[0], widths[1], num_blocks, stride=2)
        self.layer3 = make_stage(PreActBlock, widths[1], widths[2], num_blocks, stride=2)
        self.bn = nn.BatchNorm2d(widths[2])
        self.linear = nn.Linear(widths[2], num_classes)
        initialize_he(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (N, K), of inputs in [0, 1], shape (N, C, H, W)."""
        hidden = self.conv1(self.normalize(inputs))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(F.relu(self.bn(hidden)).mean((2, 3)))
        return logits
