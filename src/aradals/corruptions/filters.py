"""Linear filters whose results do not depend on the batch.

A sum of floats depends on the order of its terms, and libraries choose that order by the size of the batch and the
number of threads. Here the weights of filters are multiples of 2^-16 that sum to 1, and what they are applied to are
whole multiples of a grid, so that every partial sum is exact and any order gives the same bits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from aradals._internal.optional import load_extra

_UNIT = 2.0**16  # of weights
_GRID = 2.0**20  # of layers: with two weights 52 bits, which float64 holds
_TINY = 1e-3  # of a level: what float32 may be short of a whole number


def to_levels(images: Tensor) -> Tensor:
    """Images in [0, 1] as the nearest of 256 levels: float32 whole numbers from 0 to 255."""
    return (images * 255).round()


def truncate(images: Tensor) -> Tensor:
    """Images in [0, 1] on the next lower of 256 levels: what the published programs do to most of their results."""
    return (images.clamp(0, 1) * 255 + _TINY).floor() / 255


def exact_weights(weights: npt.NDArray[np.float64], unit: float = _UNIT) -> npt.NDArray[np.float64]:
    """``weights`` as multiples of 1 / ``unit`` with (to that precision) the same sum; the largest takes the rest."""
    rounded = np.rint(weights * unit)
    rounded.flat[rounded.argmax()] += np.rint(weights.sum() * unit) - rounded.sum()
    exact: npt.NDArray[np.float64] = rounded / unit
    return exact


def gaussian_weights(sigma: float, truncate: float) -> npt.NDArray[np.float64]:
    """A normal density at whole numbers, cut off at ``truncate`` standard deviations."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    density = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    return exact_weights(density / density.sum())


def smooth(layers: Tensor, sigma: float, *, truncate: float = 4, border: str = "edge") -> Tensor:
    """Gaussian filter of the last two axes.

    Args:
        layers: values below 4 in size, shape (..., H, W).
        sigma: standard deviation in pixels; below 1/8 at ``truncate`` = 4, nothing is done.
        truncate: where the filter ends, in standard deviations.
        border: what lies outside: "edge" repeats the last pixel, "symmetric" mirrors the image.
    """
    rows, columns = (_smoothing_matrix(size, sigma, truncate, border) for size in layers.shape[-2:])
    return apply_separable(layers, rows, columns)


def apply_separable(layers: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ layer @ columns.T`` for every layer, exact: shapes (..., H, W), (H', H), (W', W)."""
    result: Tensor = rows @ (layers.double() * _GRID).round() @ columns.T / _GRID
    return result.float()


@lru_cache(maxsize=64)
def _smoothing_matrix(size: int, sigma: float, truncate: float, border: Any) -> Tensor:
    weights = gaussian_weights(sigma, truncate)
    sources = sliding_window_view(np.pad(np.arange(size), len(weights) // 2, mode=border), len(weights))
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], sources), weights)
    return torch.from_numpy(matrix)


@lru_cache(maxsize=256)
def zoom_matrix(size: int, factor: float) -> Tensor:
    """Linear interpolation that enlarges the middle of ``size`` pixels ``factor`` times, and cuts off what is too much.

    Positions are those of ``scipy.ndimage.zoom``, which maps the first pixel to the first and the last to the last.

    Returns:
        float64 matrix, shape (size, size).
    """
    part = math.ceil(size / factor)
    enlarged = round(part * factor)
    positions = (size - part) // 2 + (np.arange(size) + (enlarged - size) // 2) * (part - 1) / max(enlarged - 1, 1)
    lower = np.clip(np.floor(positions).astype(int), 0, size - 2)
    upper_weight = np.rint((positions - lower) * _UNIT) / _UNIT
    matrix = np.zeros((size, size))
    matrix[np.arange(size), lower] = 1 - upper_weight
    matrix[np.arange(size), lower + 1] = upper_weight
    return torch.from_numpy(matrix)


@lru_cache(maxsize=8)
def zoom_blur_matrix(height: int, width: int, factors: tuple[float, ...]) -> Any:
    """Mean of the image and its enlargements, as one sparse matrix on its pixels: float32, shape (HW, HW)."""
    sparse = load_extra("scipy.sparse")
    total = sparse.identity(height * width, format="csr")
    for factor in factors:
        rows, columns = (sparse.csr_matrix(zoom_matrix(size, factor).numpy()) for size in (height, width))
        total = total + sparse.kron(rows, columns, format="csr")
    total.sort_indices()
    total.data = np.rint(total.data / (len(factors) + 1) * _UNIT)
    total.data[total.indptr[:-1]] += _UNIT - np.add.reduceat(total.data, total.indptr[:-1])
    return (total / _UNIT).astype(np.float32)


def filter_images(images: Tensor, kernel: npt.NDArray[np.float64]) -> Tensor:
    """Correlation of every channel with a symmetric kernel of odd sides that sums to less than 2; borders mirror.

    Levels of 8 bits and weights of 15 make sums of 24, which float32 holds.
    """
    weights = exact_weights(kernel, _UNIT / 2)
    border = int(np.flatnonzero(weights.any(0))[0])
    weights = weights[border : len(kernel) - border, border : len(kernel) - border]
    padded = pad(to_levels(images), len(weights) // 2, "reflect")
    num_planes = padded.shape[0] * padded.shape[1]
    filters = torch.from_numpy(weights).float().expand(num_planes, 1, *weights.shape)
    result = F.conv2d(padded.flatten(0, 1)[None], filters, groups=num_planes)
    return result.reshape(images.shape) / 255


def motion(layers: Tensor, radius: float, sigma: float, angles: Tensor) -> Tensor:
    """Blur along a line, as ImageMagick's ``MotionBlurImage``: one-sided, in whole pixels.

    Args:
        layers: in [0, 1], shape (N, C, H, W).
        radius: 2 * radius + 1 pixels are averaged.
        sigma: of the half of a normal density by which they are weighted.
        angles: direction for each example, in degrees, shape (N,).
    """
    length = 2 * math.ceil(radius) + 1
    weights = np.exp(-0.5 * (np.arange(length) / sigma) ** 2)
    weights /= weights.sum()
    windows = sliding_window_view(pad(layers, length, "edge").numpy(), layers.shape[2:], axis=(2, 3))
    radians = [math.radians(angle) for angle in angles.tolist()]
    along_rows, along_columns = (np.array([turn(angle) for angle in radians]) for turn in (math.sin, math.cos))
    blurred, examples = torch.zeros_like(layers), np.arange(len(layers))
    for step, weight in enumerate(weights.tolist()):
        row, column = (np.ceil(step * way - 0.5).astype(int) + length for way in (along_rows, along_columns))
        blurred += torch.from_numpy(windows[examples, :, row, column]) * weight
    return blurred


def pad(images: Tensor, width: int, mode: Any) -> Tensor:
    """Images with ``width`` more pixels on every side: mode "edge", "reflect" or "symmetric" of ``numpy.pad``."""
    sides = ((0, 0), (0, 0), (width, width), (width, width))
    return torch.from_numpy(np.pad(images.numpy(), sides, mode=mode))
