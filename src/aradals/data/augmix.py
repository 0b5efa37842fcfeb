"""AugMix: mixtures of chains of simple image operations, computed for a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aradals.errors import InputError

Operation = Callable[[Tensor, Tensor], Tensor]
"""``operation(images, level)``: floats in [0, 1], shape (N, C, H, W), and a signed strength for each, in [-10, 10]."""


def augmix(
    inputs: Tensor,
    *,
    severity: float = 3.0,
    width: int = 3,
    max_depth: int = 3,
    mix_weight: Tensor | None = None,
) -> Tensor:
    """Mix each image with a mixture of randomly changed copies of the image.

    1. Change ``width`` copies of each image, each by a chain of 1 to ``max_depth`` random operations of random level.
    2. Mix the copies with weights drawn from Dirichlet(1, ..., 1).
    3. Mix the image with this mixture, whose weight is drawn from Beta(1, 1).

    No operation is one of the corruptions of CIFAR-10-C. Random numbers come from the global generator of torch, on
    the CPU.

    Args:
        inputs: images with values in [0, 1], shape (N, C, H, W).
        severity: the highest level, from 0.1 to 10.
        width: number of chains for each image.
        max_depth: number of operations in the longest chain.
        mix_weight: weight of the mixture against the image, in [0, 1], shape (N,); drawn by default.

    Returns:
        New images in [0, 1], shape (N, C, H, W).

    Raises:
        InputError: a setting is out of its range.

    References:
        Hendrycks, Mu, Cubuk, Zoph, Gilmer and Lakshminarayanan, AugMix: a simple data processing method to improve
        robustness and uncertainty, ICLR 2020, arXiv:1912.02781, algorithm 1.
    """
    if not (0.1 <= severity <= 10 and width >= 1 and max_depth >= 1):
        raise InputError(
            expected="severity from 0.1 to 10, width and max_depth of at least 1",
            got=f"severity={severity}, width={width}, max_depth={max_depth}",
            hint="severity=3, width=3, max_depth=3",
        )
    num, device = len(inputs), inputs.device
    images = inputs.to(torch.promote_types(inputs.dtype, torch.float32))

    chains = images.repeat(width, 1, 1, 1)
    depth = torch.randint(1, max_depth + 1, (width * num,))
    for step in range(max_depth):
        choice = torch.randint(len(OPERATIONS), (width * num,))
        level = torch.empty(width * num).uniform_(0.1, severity) * (2 * torch.randint(2, (width * num,)) - 1)
        for index, operation in enumerate(OPERATIONS.values()):
            rows = ((choice == index) & (step < depth)).nonzero().squeeze(1)
            if len(rows):
                on_device = rows.to(device)
                chains[on_device] = operation(chains[on_device], level[rows].to(images))

    weights = torch.distributions.Dirichlet(torch.ones(width)).sample((num,)).to(images)
    mixture = torch.einsum("nk,knchw->nchw", weights, chains.unflatten(0, (width, num)))
    weight = (torch.rand(num) if mix_weight is None else mix_weight).to(images).view(-1, 1, 1, 1)
    return ((1 - weight) * images + weight * mixture).clamp(0, 1).to(inputs.dtype)


def autocontrast(images: Tensor, level: Tensor) -> Tensor:
    """Stretch each channel to the range [0, 1]; a constant channel stays. The level has no effect."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp(min=1e-6), images)


def equalize(images: Tensor, level: Tensor) -> Tensor:
    """Make the histogram of each channel, of 256 values, as flat as possible. The level has no effect."""
    values = _to_bytes(images).flatten(2).long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    below = counts.cumsum(2) - counts
    # The brightest value that occurs becomes 1. The other pixels are divided into 255 steps of equal size.
    step = below.gather(2, values.amax(2, keepdim=True)) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return (table.gather(2, values) / 255).to(images.dtype).view_as(images)


def posterize(images: Tensor, level: Tensor) -> Tensor:
    """Keep the first 4 of the 8 bits of each value, or fewer from level 2.5 on, but at least one."""
    kept_bits = (4 - (0.4 * level.abs()).trunc()).clamp(min=1)
    step = (2 ** (8 - kept_bits)).view(-1, 1, 1, 1)
    return (_to_bytes(images) / step).floor() * step / 255


def solarize(images: Tensor, level: Tensor) -> Tensor:
    """Invert the values above a threshold, which falls from 1 at level 0 to 0 at level 10."""
    threshold = (256 - (25.6 * level.abs()).trunc()).view(-1, 1, 1, 1)
    return torch.where(_to_bytes(images) < threshold, images, 1 - images)


def rotate(images: Tensor, level: Tensor) -> Tensor:
    """Rotate about the center by up to 30 degrees, counter-clockwise if the level is positive."""
    angle = (3 * level).trunc() * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    middle_x, middle_y = images.shape[3] / 2, images.shape[2] / 2
    shift_x = middle_x - cos * middle_x + sin * middle_y
    shift_y = middle_y - sin * middle_x - cos * middle_y
    return _warp(images, (cos, -sin, shift_x), (sin, cos, shift_y))


def shear_x(images: Tensor, level: Tensor) -> Tensor:
    """Shift each row by up to 0.3 of its distance from the top."""
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(images, (one, 0.03 * level, zero), (zero, one, zero))


def shear_y(images: Tensor, level: Tensor) -> Tensor:
    """Shift each column by up to 0.3 of its distance from the left."""
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(images, (one, zero, zero), (0.03 * level, one, zero))


def translate_x(images: Tensor, level: Tensor) -> Tensor:
    """Shift by whole pixels, up to a third of the width, to the left if the level is positive."""
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(images, (one, zero, (level * images.shape[3] / 30).trunc()), (zero, one, zero))


def translate_y(images: Tensor, level: Tensor) -> Tensor:
    """Shift by whole pixels, up to a third of the height, upwards if the level is positive."""
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(images, (one, zero, zero), (zero, one, (level * images.shape[2] / 30).trunc()))


OPERATIONS: dict[str, Operation] = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "posterize": posterize,
    "rotate": rotate,
    "solarize": solarize,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}


def _to_bytes(images: Tensor) -> Tensor:
    """Round values to whole numbers from 0 to 255."""
    return (images * 255).round()


def _warp(images: Tensor, row_x: tuple[Tensor, ...], row_y: tuple[Tensor, ...]) -> Tensor:
    """Warp images by an affine map from each pixel of the result to its source; bilinear, and black outside the image.

    Args:
        images: shape (N, C, H, W).
        row_x: a, b, c, each of shape (N,): x of the source is a x + b y + c, in pixels from the image's left edge.
        row_y: d, e, f, each of shape (N,): y of the source is d x + e y + f, in pixels from the image's top edge.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device, dtype=images.dtype) + 0.5
    y = torch.arange(height, device=images.device, dtype=images.dtype)[:, None] + 0.5
    (a, b, c), (d, e, f) = ([value.view(-1, 1, 1) for value in row] for row in (row_x, row_y))
    source = torch.stack([2 / width * (a * x + b * y + c) - 1, 2 / height * (d * x + e * y + f) - 1], dim=3)
    # Between its center and the edge of the image, a border pixel is extended, not blended with the black outside.
    inside = ((source >= -1) & (source < 1)).all(3)[:, None]
    return F.grid_sample(images, source, padding_mode="border", align_corners=False) * inside
