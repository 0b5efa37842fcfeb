"""Linear filters whose results do not depend on the batch.

A sum of floats depends on the order of its terms, and libraries choose that order by the size of the batch and the
number of threads. In this module, the weights of filters are multiples of 2^-16 that sum to 1, and the filtered values
are whole multiples of a grid. So every partial sum is exact, and any order gives the same bits.
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

_UNIT = 2.0**16  # weights are multiples of 1 / _UNIT
_GRID = 2.0**20  # layers are multiples of 1 / _GRID; with two weights, products have 52 bits, which fit float64
_TINY = 1e-3  # share of a level by which float32 may be below a whole number


def to_levels(images: Tensor) -> Tensor:
    """Round images in [0, 1] to the nearest of 256 levels: float32 whole numbers from 0 to 255."""
    return (images * 255).round()


def truncate(images: Tensor) -> Tensor:
    """Truncate images in [0, 1] to the next lower of 256 levels, as the published programs do with most results."""
    return (images.clamp(0, 1) * 255 + _TINY).floor() / 255


def exact_weights(weights: npt.NDArray[np.float64], unit: float = _UNIT) -> npt.NDArray[np.float64]:
    """Round ``weights`` to multiples of 1 / ``unit``, and change the largest so that the sum stays the same."""
    rounded = np.rint(weights * unit)
    rounded.flat[rounded.argmax()] += np.rint(weights.sum() * unit) - rounded.sum()
    exact: npt.NDArray[np.float64] = rounded / unit
    return exact


def gaussian_weights(sigma: float, truncate: float) -> npt.NDArray[np.float64]:
    """Compute a normal density at whole numbers, cut off at ``truncate`` standard deviations."""
    radius = int(truncate * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    density = np.exp(-0.5 * (offsets / max(sigma, 1e-9)) ** 2)
    return exact_weights(density / density.sum())


def smooth(layers: Tensor, sigma: float, *, truncate: float = 4, border: str = "edge") -> Tensor:
    """Apply a Gaussian filter to the last two axes.

    Args:
        layers: values of absolute size below 4, shape (..., H, W).
        sigma: standard deviation in pixels; below 1/8, with ``truncate`` = 4, the filter changes nothing.
        truncate: end of the filter, in standard deviations.
        border: values outside the image: "edge" repeats the last pixel, "symmetric" mirrors the image.
    """
    rows, columns = (_smoothing_matrix(size, sigma, truncate, border) for size in layers.shape[-2:])
    return apply_separable(layers, rows, columns)


def apply_separable(layers: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compute ``rows @ layer @ columns.T`` exactly for every layer; shapes (..., H, W), (H', H), (W', W)."""
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
    """Make the matrix that enlarges the middle of ``size`` pixels ``factor`` times, by linear interpolation.

    Pixels beyond ``size`` are cut off. Positions are those of ``scipy.ndimage.zoom``, which maps the first pixel to
    the first and the last pixel to the last.

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
    """Make one sparse matrix that averages an image and its enlargements: float32, shape (HW, HW)."""
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
    """Correlate every channel with a symmetric kernel of odd sides that sums to less than 2; borders are mirrored.

    Levels of 8 bits and weights of 15 bits give sums of at most 24 bits, which fit float32.
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
    """Blur along a line like ImageMagick's ``MotionBlurImage``: to one side, in whole pixels.

    Args:
        layers: values in [0, 1], shape (N, C, H, W).
        radius: 2 * radius + 1 pixels are averaged.
        sigma: standard deviation of the weights, which are one half of a normal density.
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
    """Pad images by ``width`` pixels on every side, in mode "edge", "reflect" or "symmetric" of ``numpy.pad``."""
    sides = ((0, 0), (0, 0), (width, width), (width, width))
    return torch.from_numpy(np.pad(images.numpy(), sides, mode=mode))
