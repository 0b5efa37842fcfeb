"""Residual networks for ImageNet, "v1" (He et al. 2015), with the parameter names of torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.models.layers import Normalize, conv1x1, conv3x3, initialize_he, make_stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; a 1x1 convolution in the shortcut if the shape changes (option B)."""

    expansion = 1

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = _projection(in_channels, out_channels, stride)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map shape (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return F.relu(self.bn2(self.conv2(hidden)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm; the inner width is a quarter of the outer width.

    The 3x3 convolution has the stride, as in torchvision ("v1.5"); in the paper, the first 1x1 convolution has it.
    """

    expansion = 4

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = out_channels // self.expansion
        self.conv1 = conv1x1(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _projection(in_channels, out_channels, stride)
        nn.init.zeros_(self.bn3.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map shape (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return F.relu(self.bn3(self.conv3(hidden)) + shortcut)


_LAYOUTS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""Depth -> the block, and the number of blocks in each of the four stages."""


class ImageNetResNet(nn.Module):
    """ResNet for ImageNet: a 7x7 convolution, max pooling, and four stages, whose inner widths are w, 2w, 4w, 8w.

    Source: He et al., Deep Residual Learning for Image Recognition, 2015 (arXiv 1512.03385), table 1. Names and shapes
    of the parameters are those of torchvision, whose weights fit. The last batch norm of each block starts with a
    weight of 0, so that each block starts as its shortcut (Goyal et al. 2017, arXiv 1706.02677, section 5.1).

    Args:
        depth: 18, 34, 50, 101 or 152.
        width: w, 64 in the paper.
        num_classes: K, the number of logits.
        in_channels: C; inputs are float images in [0, 1], shape (N, C, H, W), of 224x224 pixels in the paper.
        mean: mean of each input channel; see ``Normalize``.
        std: standard deviation of each input channel; see ``Normalize``.

    Raises:
        InputError: the network has no such depth, or the width is below 1.
    """

    def __init__(
        self,
        depth: int,
        *,
        width: int = 64,
        num_classes: int = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if depth not in _LAYOUTS or width < 1:
            raise InputError(
                expected=f"a depth of {', '.join(map(str, _LAYOUTS))}, and a width of at least 1",
                got=f"depth {depth} and width {width}",
                hint="resnet50, with width=64",
            )
        block, (num1, num2, num3, num4) = _LAYOUTS[depth]
        outer = block.expansion * width
        self.normalize = Normalize(in_channels, mean, std)
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = make_stage(block, width, outer, num1, stride=1)
        self.layer2 = make_stage(block, outer, 2 * outer, num2, stride=2)
        self.layer3 = make_stage(block, 2 * outer, 4 * outer, num3, stride=2)
        self.layer4 = make_stage(block, 4 * outer, 8 * outer, num4, stride=2)
        self.fc = nn.Linear(8 * outer, num_classes)
        initialize_he(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits, shape (N, K), of inputs in [0, 1], shape (N, C, H, W)."""
        hidden = F.relu(self.bn1(self.conv1(self.normalize(inputs))))
        hidden = F.max_pool2d(hidden, 3, stride=2, padding=1)
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Make the shortcut of a block that changes the shape; None if the shape stays."""
    if in_channels == out_channels and stride == 1:
        return None
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
