"""Digital corruptions: changes of contrast and color, distortion, and loss of detail."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aradals._internal.optional import load_extra
from aradals.corruptions.filters import smooth, to_levels
from aradals.corruptions.randomness import Randomness


def brightness(images: Tensor, random: Randomness, change: float) -> Tensor:
    """Increase the value (the largest channel) of HSV; hue and saturation stay."""
    value = images.amax(1, keepdim=True)
    brighter = (value + change).clamp(0, 1)
    return torch.where(value > 0, images / value * brighter, brighter)


def saturate(images: Tensor, random: Randomness, factor: float, offset: float) -> Tensor:
    """Change the saturation of HSV; hue and value stay.

    A gray pixel counts as red with saturation 0, so that an ``offset`` gives it a color.
    """
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    saturation = torch.where(value > 0, (value - least) / value, 0)
    red = torch.tensor([0.0, 1.0, 1.0]).reshape(1, 3, 1, 1) * value
    missing = torch.where(
        saturation > 0, (value - images) / saturation, red
    )  # difference to the value, at full saturation
    return value - missing * (saturation * factor + offset).clamp(0, 1)


def contrast(images: Tensor, random: Randomness, factor: float) -> Tensor:
    """Shrink every channel towards its mean over the image."""
    # The levels are whole numbers, whose sum is exact in any order.
    mean = (to_levels(images).double().mean((2, 3), keepdim=True) / 255).float()
    return (images - mean) * factor + mean


def elastic_transform(images: Tensor, random: Randomness, strength: float, smoothness: float, affine: float) -> Tensor:
    """Apply a random affine map, then move every pixel by a smoothed random field.

    Args:
        images: shape (N, C, H, W).
        random: random numbers of the examples.
        strength: range of the field before smoothing, as a share of the shorter side.
        smoothness: standard deviation of the smoothing, as a share of the shorter side.
        affine: largest shift of the corners of a triangle, which defines the affine map, as a share of the shorter
            side.
    """
    height, width = images.shape[2:]
    side = min(height, width)
    triangle = _triangle(height, width).repeat(len(images), 1, 1)
    moved = triangle + random.uniform(-affine * side, affine * side, 3, 2).double()
    ones = torch.ones(len(images), 3, 1, dtype=torch.float64)
    # The image at x goes to moved(x), so that a pixel x shows the image at the inverse map of x.
    maps = np.linalg.solve(torch.cat([moved, ones], 2).numpy(), triangle.numpy())
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    to_x, to_y = torch.from_numpy(maps).float()[..., None, None].unbind(2)
    x, y = (to[:, 0] * column + to[:, 1] * row + to[:, 2] for to in (to_x, to_y))
    warped = _sample(images, x, y, mirror_at_centers=True)
    fields = random.uniform(-1, 1, 2, height, width)
    fields = smooth(fields, smoothness * side, truncate=3, border="symmetric") * (strength * side)
    return _sample(warped, column + fields[:, 0], row + fields[:, 1], mirror_at_centers=False)


def _triangle(height: int, width: int) -> Tensor:
    """Return three points (x, y) about the center, float64, shape (3, 2)."""
    # The published programs use (height, width) as (x, y), which is the same for square images.
    center, third = (width // 2, height // 2), min(height, width) // 3
    signs = torch.tensor([[1, 1], [1, -1], [-1, -1]], dtype=torch.float64)
    return torch.tensor(center, dtype=torch.float64) + signs * third


def _sample(images: Tensor, x: Tensor, y: Tensor, *, mirror_at_centers: bool) -> Tensor:
    """Interpolate linearly at ``x`` and ``y``, shape (N, H, W), in pixels.

    Outside the image is its mirror image. The mirror is at the centers or at the outer edges of the last pixels.
    """
    height, width = images.shape[2:]
    if mirror_at_centers:
        grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
    else:
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=mirror_at_centers)


def pixelate(images: Tensor, random: Randomness, share: float) -> Tensor:
    """Shrink each side to a ``share``, by means over boxes, and enlarge the image to its old size."""
    image = load_extra("PIL.Image")
    height, width = images.shape[2:]
    small = max(int(width * share), 1), max(int(height * share), 1)
    levels = to_levels(images).byte().numpy()
    for plane in levels.reshape(-1, height, width):
        pixels = image.fromarray(plane)
        plane[:] = np.asarray(pixels.resize(small, image.Resampling.BOX).resize((width, height), image.Resampling.BOX))
    return torch.from_numpy(levels) / 255


def jpeg_compression(images: Tensor, random: Randomness, quality: int) -> Tensor:
    """Compress as JPEG with color at half the resolution."""
    image = load_extra("PIL.Image")
    levels = to_levels(images).byte().movedim(1, 3).contiguous().numpy()
    for pixels in levels:
        file = io.BytesIO()
        image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(file, "JPEG", quality=quality)
        pixels[:] = np.asarray(image.open(file)).reshape(pixels.shape)
    return torch.from_numpy(levels).movedim(3, 1).contiguous() / 255
