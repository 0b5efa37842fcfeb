"""Residual networks for small images (He et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aradals.models.layers import Normalize, conv3x3, count_blocks, initialize_he, make_stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut without parameters (the paper's option A)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.num_new_channels = out_channels - in_channels

    def forward(self, inputs: Tensor) -> Tensor:
        """Map shape (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))

    def shortcut(self, inputs: Tensor) -> Tensor:
        """Subsample the inputs, and add half of the new channels (zeros) before and half after their channels."""
        subsampled = inputs[:, :, :: self.stride, :: self.stride]
        front = self.num_new_channels // 2
        return F.pad(subsampled, (0, 0, 0, 0, front, self.num_new_channels - front))


class ResNet(nn.Module):
    """ResNet for CIFAR: depth 6n+2, three stages of n basic blocks, widths 16, 32, 64.

    Source: He et al., Deep Residual Learning for Image Recognition, 2015 (arXiv 1512.03385), section 4.2. The
    parameter names are those of the repository akamaster/pytorch_resnet_cifar10, so that its checkpoints fit.

    Args:
        depth: 20, 32, 44, 56, 110, ...
        num_classes: K, the number of logits.
        in_channels: C; inputs are float images in [0, 1], shape (N, C, H, W).
        mean: mean of each input channel; see ``Normalize``.
        std: standard deviation of each input channel; see ``Normalize``.

    Raises:
        InputError: the depth is not 6n+2.
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
        num_blocks = count_blocks(depth, step=6, offset=2)
        self.normalize = Normalize(in_channels, mean, std)
        self.conv1 = conv3x3(in_channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = make_stage(BasicBlock, 16, 16, num_blocks, stride=1)
        self.layer2 = make_stage(BasicBlock, 16, 32, num_blocks, stride=2)
        self.layer3 = make_stage(BasicBlock, 32, 64, num_blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        initialize_he(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (N, K), of inputs in [0, 1], shape (N, C, H, W)."""
        hidden = F.relu(self.bn1(self.conv1(self.normalize(inputs))))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(hidden.mean((2, 3)))
        return logits
