"""Weather, and spatter on the lens, as random layers that are put over each image."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import resources

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aradals._internal.optional import load_extra
from aradals.corruptions.filters import apply_separable, motion, smooth, truncate, zoom_matrix
from aradals.corruptions.randomness import Randomness

_LUMA = (0.299, 0.587, 0.114)
_TEXTURES = ("frost1.webp", "frost2.webp", "frost2.webp", "frost4.jpg", "frost5.jpg")
"""The published programs draw from five files; the second and the third file are the same picture."""


def gray(images: Tensor) -> Tensor:
    """Compute the luma (perceived brightness), shape (N, 1, H, W); gray images stay as they are."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (images[:, [i]] * weight for i, weight in enumerate(_LUMA))
    return red + green + blue


def snow(
    images: Tensor,
    random: Randomness,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    image_weight: float,
) -> Tensor:
    """Add falling flakes (enlarged normal noise above a threshold, blurred to streaks) to a paler image."""
    size = images.shape[2:]
    flakes = apply_separable(random.normal(1, *size) * deviation + mean, *(zoom_matrix(side, zoom) for side in size))
    flakes = truncate(torch.where(flakes < threshold, 0, flakes))
    flakes = truncate(motion(flakes, radius, sigma, random.uniform(-135, -45)))
    paled = torch.maximum(images, gray(images) * 1.5 + 0.5)
    return images * image_weight + paled * (1 - image_weight) + flakes + flakes.rot90(2, (2, 3))


def frost(images: Tensor, random: Randomness, image_weight: float, frost_weight: float, scale: float) -> Tensor:
    """Add a part of a photograph of frosted glass to the image."""
    size = images.shape[2], images.shape[3]
    crops = torch.empty(len(images), 3, *size)
    choices = random.integers(0, len(_TEXTURES)).tolist()
    corners = random.uniform(0, 1, 2).double()
    for crop, choice, corner in zip(crops, choices, corners, strict=True):
        texture = _texture(_TEXTURES[choice], scale, size)
        space = torch.tensor([texture.shape[1] - size[0], texture.shape[2] - size[1]])
        top, left = (corner * space).long().tolist()
        crop.copy_(texture[:, top : top + size[0], left : left + size[1]])
    return images * image_weight + (crops if images.shape[1] == 3 else gray(crops)) * frost_weight


@lru_cache(maxsize=16)
def _texture(file: str, scale: float, at_least: tuple[int, int]) -> Tensor:
    """Load a texture and scale it, at least to the size of the image; in [0, 1], shape (3, H, W)."""
    texture = _load_texture(file)
    scale = max(scale, *((side + 1) / full for side, full in zip(at_least, texture.shape[1:], strict=True)))
    if scale == 1:
        return texture / 255
    # The published programs resize without antialiasing, too: at scale 0.2 they use one of 25 pixels.
    resized = F.interpolate(texture[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=False)
    return resized[0].round() / 255


@cache
def _load_texture(file: str) -> Tensor:
    """Load a texture as it is stored: float32 from 0 to 255, shape (3, H, W)."""
    path = resources.files("aradals.corruptions") / "frost" / file
    with path.open("rb") as stream, load_extra("PIL.Image").open(stream) as image:
        pixels = np.asarray(image.convert("RGB"))
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))


def fog(images: Tensor, random: Randomness, thickness: float, decay: float) -> Tensor:
    """Add a plasma fractal, then darken the sum so that white is as bright as the brightest pixel was before."""
    height, width = images.shape[2:]
    clouds = plasma(random, 1 << (max(height, width) - 1).bit_length(), decay)[:, None, :height, :width]
    brightest = images.amax((1, 2, 3), keepdim=True)
    return (images + clouds * thickness) * brightest / (brightest + thickness)


def plasma(random: Randomness, size: int, decay: float) -> Tensor:
    """Make height maps by the diamond-square algorithm on a torus.

    Each point is the mean of four neighbors plus a uniform number. The range of this number shrinks by ``decay``^2
    from one scale to the next (the published programs apply the factor twice).

    Returns:
        Heights in [0, 1], shape (N, size, size); ``size`` is a power of 2.
    """
    wobbles = random.uniform(-1, 1, size * size)
    heights = torch.zeros(len(wobbles), size, size)
    step, spread, used = size, 100.0**2, 0

    def moved(points: Tensor, rows: int, columns: int) -> Tensor:
        return points.roll((rows, columns), (1, 2))

    def mean_and_wobble(total: Tensor) -> Tensor:
        nonlocal used
        wobble = wobbles[:, used : used + total[0].numel()].reshape(total.shape)
        used += total[0].numel()
        return total / 4 + wobble * spread

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        above_and_below = corners + moved(corners, -1, 0)
        centers = mean_and_wobble(above_and_below + moved(above_and_below, 0, -1))
        heights[:, half::step, half::step] = centers
        tops = (centers + moved(centers, 1, 0)) + (corners + moved(corners, 0, -1))
        heights[:, ::step, half::step] = mean_and_wobble(tops)
        lefts = (centers + moved(centers, 0, 1)) + (corners + moved(corners, -1, 0))
        heights[:, half::step, ::step] = mean_and_wobble(lefts)
        step, spread = half, spread / decay**2
    heights -= heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)


def spatter(
    images: Tensor,
    random: Randomness,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    strength: float,
    is_mud: bool,
) -> Tensor:
    """Add drops (smoothed normal noise above a threshold): water drops shine, mud drops cover the image."""
    liquid = smooth(random.normal(1, *images.shape[2:]) * deviation + mean, sigma)
    liquid = torch.where(liquid < threshold, 0, liquid)
    if is_mud:
        cover = smooth((liquid > threshold).float(), strength)
        cover = torch.where(cover < 0.8, 0, cover)
        return images * (1 - cover) + _color((63, 42, 20), images) * cover
    depth = (liquid * 255).floor().clamp(0, 255)
    shine = depth * _relief(depth)
    brightest = shine.amax((1, 2, 3), keepdim=True)
    shine = torch.where(brightest > 0, shine / brightest, 0) * strength
    return images + _color((175, 238, 238), images) * shine


def _color(levels: tuple[int, int, int], images: Tensor) -> Tensor:
    color = torch.tensor(levels, dtype=torch.float32).reshape(1, 3, 1, 1) / 255
    return color if images.shape[1] == 3 else gray(color)


def _relief(depth: Tensor) -> Tensor:
    """Compute how drops reflect light: the distance from their edges, equalized, embossed and smoothed."""
    distance = _distance(_edges(depth, weak=50, strong=150), limit=20)
    flattened = _equalize(_mean3(distance).floor())
    emboss = torch.tensor([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])
    embossed = F.conv2d(_mirror(flattened), emboss[None, None]).clamp(0, 255)
    return _mean3(embossed).round()


def _mirror(layers: Tensor) -> Tensor:
    return F.pad(layers, (1, 1, 1, 1), mode="reflect")


def _mean3(layers: Tensor) -> Tensor:
    """Average over 3x3 pixels."""
    rows = _mirror(layers).unfold(2, 3, 1).unfold(3, 3, 1)
    total = torch.zeros_like(layers)
    for i in range(9):
        total += rows[..., i // 3, i % 3]
    return total / 9


def _edges(levels: Tensor, *, weak: float, strong: float) -> Tensor:
    """Find edges as Canny does: ridges of the gradient above ``weak`` that are connected to a ridge above ``strong``.

    Args:
        levels: whole numbers from 0 to 255, shape (N, 1, H, W).
        weak: lower threshold of |dx| + |dy|, where dx and dy are the Sobel derivatives.
        strong: upper threshold of |dx| + |dy|.

    Returns:
        Edges, bool, of the same shape.
    """
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    dx, dy = F.conv2d(F.pad(levels, (1, 1, 1, 1), mode="replicate"), torch.stack([sobel, sobel.T])[:, None]).split(1, 1)
    size = dx.abs() + dy.abs()
    around = F.pad(size, (1, 1, 1, 1))
    height, width = size.shape[2:]

    def neighbor(row: int, column: int) -> Tensor:
        return around[:, :, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    tangent = 0.41421356  # tangent of 22.5 degrees
    level, steep = dy.abs() < tangent * dx.abs(), dy.abs() > (tangent + 2) * dx.abs()
    falling = (dx * dy) >= 0
    before = torch.where(falling, neighbor(-1, -1), neighbor(-1, 1))
    after = torch.where(falling, neighbor(1, 1), neighbor(1, -1))
    ridge = (size > before) & (size > after)
    ridge = torch.where(steep, (size > neighbor(-1, 0)) & (size >= neighbor(1, 0)), ridge)
    ridge = torch.where(level, (size > neighbor(0, -1)) & (size >= neighbor(0, 1)), ridge)
    ridge &= size > weak
    edges: Tensor = ridge & (size > strong)
    while not torch.equal(edges, grown := ridge & (F.max_pool2d(edges.float(), 3, 1, 1) > 0)):
        edges = grown
    return edges


_LENGTHS = {1: 1.0, 2: 1.4, 5: 2.1969}
_STEPS = {
    (rows, columns): _LENGTHS[rows**2 + columns**2]
    for rows in range(-2, 3)
    for columns in range(-2, 3)
    if rows**2 + columns**2 in _LENGTHS
}
"""Step (rows, columns) -> length, OpenCV's approximation of the Euclidean distance on 5x5 pixels."""


def _distance(marks: Tensor, *, limit: float) -> Tensor:
    """Compute the distance to the nearest mark along ``_STEPS``, at most ``limit``."""
    distance = torch.where(marks, 0.0, limit)
    height, width = marks.shape[2:]
    while True:
        padded, nearer = F.pad(distance, (2, 2, 2, 2), value=limit), distance
        for (rows, columns), length in _STEPS.items():
            there = padded[:, :, 2 + rows : 2 + rows + height, 2 + columns : 2 + columns + width]
            nearer = torch.minimum(nearer, there + length)
        if torch.equal(nearer, distance):
            return distance
        distance = nearer


def _equalize(levels: Tensor) -> Tensor:
    """Equalize the histogram of every layer like OpenCV: the darkest level that occurs becomes 0."""
    number, pixels = len(levels), levels[0].numel()
    flat = levels.flatten(1).long()
    counts = torch.zeros(number, 256).scatter_add_(1, flat, torch.ones(flat.shape))
    darkest = counts.gather(1, flat.amin(1, keepdim=True))
    new = ((counts.cumsum(1) - darkest) * (255 / (pixels - darkest).clamp(min=1))).round()
    return torch.where(darkest == pixels, flat, new.gather(1, flat)).reshape(levels.shape)
