"""Residual networks with pre-activation bottlenecks, "v2" (He et al. 2016b)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aradals.models.layers import Normalize, conv1x1, conv3x3, count_blocks, initialize_he, make_stage


class PreActBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after batch norm and ReLU; the inner width is a quarter of the outer width.

    If the shape changes, the shortcut is a 1x1 convolution of the activated inputs, which both paths share.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = out_channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1x1(in_channels, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner)
        self.bn3 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        same_shape = in_channels == out_channels and stride == 1
        self.shortcut = None if same_shape else conv1x1(in_channels, out_channels, stride)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map shape (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        activated = F.relu(self.bn1(inputs))
        shortcut = inputs if self.shortcut is None else self.shortcut(activated)
        hidden = self.conv1(activated)
        hidden = self.conv2(F.relu(self.bn2(hidden)))
        residual: Tensor = self.conv3(F.relu(self.bn3(hidden)))
        return shortcut + residual


class PreActResNet(nn.Module):
    """ResNet v2 for CIFAR: depth 9n+2, three stages of n pre-activation bottlenecks, widths 64, 128, 256.

    Source: He et al., Identity Mappings in Deep Residual Networks, 2016 (arXiv 1603.05027), the design of its
    ResNet-164 and ResNet-1001: inner widths 16, 32, 64, and downsampling in the first 1x1 convolution of a
    stage. The Keras CIFAR-10 example with the same name differs: its inner widths are 16, 64, 128.

    Args:
        depth: 29, 164, 1001, ...
        num_classes: K, the number of logits.
        in_channels: C; inputs are float images in [0, 1], shape (N, C, H, W).
        mean: mean of each input channel; see ``Normalize``.
        std: standard deviation of each input channel; see ``Normalize``.

    Raises:
        InputError: the depth is not 9n+2.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        num_blocks = count_blocks(depth, step=9, offset=2)
        self.normalize = Normalize(in_channels, mean, std)
        self.conv1 = conv3x3(in_channels, 16)
        self.layer1 = make_stage(PreActBottleneck, 16, 64, num_blocks, stride=1)
        self.layer2 = make_stage(PreActBottleneck, 64, 128, num_blocks, stride=2)
        self.layer3 = make_stage(PreActBottleneck, 128, 256, num_blocks, stride=2)
        self.bn = nn.BatchNorm2d(256)
        self.linear = nn.Linear(256, num_classes)
        initialize_he(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (N, K), of inputs in [0, 1], shape (N, C, H, W)."""
        hidden = self.conv1(self.normalize(inputs))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(F.relu(self.bn(hidden)).mean((2, 3)))
        return logits
