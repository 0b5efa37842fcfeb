"""Blur."""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from aradals.corruptions.filters import filter_images, motion, smooth, to_levels, truncate, zoom_blur_matrix
from aradals.corruptions.randomness import Randomness


def gaussian_blur(images: Tensor, random: Randomness, sigma: float) -> Tensor:
    """Convolve with a normal density, cut off at 4 standard deviations; edge pixels are repeated."""
    return smooth(images, sigma)


def defocus_blur(images: Tensor, random: Randomness, radius: float, softness: float) -> Tensor:
    """Average over a disk, whose edge is softened by a normal density on 3x3 (large disks: 5x5) pixels.

    If the disk touches the border of its array, softening mirrors it there. The sum of the disk grows by this (by 1 %
    at radius 8 and 10), and with it the brightness of the image, as in the published programs.
    """
    half, soft = (8, 1) if radius <= 8 else (int(radius), 2)
    distance = np.arange(-half, half + 1) ** 2
    disk = ((distance[:, None] + distance) <= radius**2).astype(float)
    edge = np.exp(-0.5 * (np.arange(-soft, soft + 1) / softness) ** 2)
    softener = np.outer(edge, edge) / edge.sum() ** 2
    patches = sliding_window_view(np.pad(disk / disk.sum(), soft, mode="reflect"), softener.shape)
    return filter_images(images, (patches * softener).sum((2, 3)))


def glass_blur(images: Tensor, random: Randomness, sigma: float, largest_shift: int, rounds: int) -> Tensor:
    """Smooth, exchange neighboring pixels at random, and smooth again.

    The published programs intend to swap two pixels, but copy one over the other, from the lower right corner to the
    upper left: the pixel at p takes the current value at s(p). This is the old value of s(p), unless s(p) was changed
    before p. In that case it is the new value of s(p), which came from s(s(p)), and so on along a chain. The code
    follows the chains of all pixels at once, and doubles the length in each step.
    """
    smoothed = truncate(smooth(images, sigma))
    height, width = images.shape[2:]
    inner = max(height - 2 * largest_shift, 0), max(width - 2 * largest_shift, 0)
    if not all(inner):
        return smooth(smoothed, sigma)
    shifts = random.integers(-largest_shift, largest_shift, rounds, *inner, 2)
    places = torch.arange(height * width).reshape(height, width)
    region = slice(largest_shift + 1, height - largest_shift + 1), slice(largest_shift + 1, width - largest_shift + 1)
    pixels = smoothed.flatten(2)
    for shift in shifts.unbind(1):
        source = places.repeat(len(images), 1, 1)
        source[:, *region] += shift[..., 1] * width + shift[..., 0]
        source = source.flatten(1)
        link = torch.maximum(source, places.flatten())  # to the source if it was changed before, else to itself
        while not torch.equal(link, further := link.gather(1, link)):
            link = further
        pixels = pixels.gather(2, source.gather(1, link)[:, None].expand_as(pixels))
    return smooth(pixels.reshape(images.shape), sigma)


def motion_blur(images: Tensor, random: Randomness, radius: float, sigma: float) -> Tensor:
    """Blur along a line that is at most 45 degrees from horizontal."""
    return motion(images, radius, sigma, random.uniform(-45, 45))


def zoom_blur(images: Tensor, random: Randomness, end: float, step: float) -> Tensor:
    """Average the image and its enlargements about the center, by 1, 1 + step, 1 + 2 step, ..."""
    number, channels, height, width = images.shape
    # The last bits of the factors must be those of numpy.arange, because 26 * 1.25 pixels are rounded down, but a
    # slightly larger factor is rounded up.
    factors = tuple(np.arange(1, end, step).tolist())
    pixels = to_levels(images).flatten(0, 1).flatten(1).T.contiguous()
    blurred = torch.from_numpy(zoom_blur_matrix(height, width, factors) @ pixels.numpy())
    return blurred.T.reshape(number, channels, height, width) / 255
