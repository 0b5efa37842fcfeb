"""Common corruptions of images at five severities, the same for an example id whatever the batch.

Constants are those of CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich, *Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations*, ICLR 2019). CIFAR-10-C stores its images with 8 bits; the
ones here are not rounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aradals.errors import InputError

Corruption = Callable[[Tensor, int, Iterator[np.random.Generator]], Tensor]
"""From inputs in [0, 1], a severity from 1 to 5 and one random generator per input to corrupted inputs.

The result may leave [0, 1]; :func:`corrupt` clips it.
"""


def corrupt(inputs: Tensor, ids: Tensor, corruption: str, severity: int) -> Tensor:
    """Corrupt a batch of inputs.

    The result for an example depends on its content, the corruption, the severity and its id alone.

    Args:
        inputs: float in [0, 1], shape (N, C, H, W).
        ids: int64, shape (N,).
        corruption: a key of ``CORRUPTIONS``.
        severity: 1 to 5; 0 returns the inputs as they are.

    Returns:
        Corrupted inputs in [0, 1], of the same shape, dtype and device.

    Raises:
        InputError: an unknown corruption or severity, or inputs that are not images.
    """
    if corruption not in CORRUPTIONS:
        raise InputError(expected="a known corruption", got=repr(corruption), hint=", ".join(CORRUPTIONS))
    if severity not in range(6):
        raise InputError(expected="a severity from 0 to 5", got=str(severity), hint="1 (mild) to 5 (strong)")
    if inputs.ndim != 4 or not inputs.is_floating_point():
        raise InputError(
            expected="float images of shape (N, C, H, W)",
            got=f"{inputs.dtype} of shape {tuple(inputs.shape)}",
            hint="an image data set; corruptions are defined for images only",
        )
    if severity == 0:
        return inputs
    # One counter-based generator per example, keyed by what may decide its noise; made only if asked for.
    kind = hashlib.blake2b(f"{corruption}/{severity}".encode(), digest_size=8).digest()
    seed = int.from_bytes(kind, "little")
    generators = (
        np.random.Generator(np.random.Philox(key=np.array([seed, example], dtype=np.uint64)))
        for example in ids.tolist()
    )
    return CORRUPTIONS[corruption](inputs, severity, generators).clamp(0, 1)


def gaussian_noise(inputs: Tensor, severity: int, generators: Iterator[np.random.Generator]) -> Tensor:
    """Independent normal noise on every value."""
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    noise = np.empty(inputs.shape, dtype=np.float32)
    for row, generator in zip(noise, generators, strict=True):
        generator.standard_normal(out=row, dtype=np.float32)
    return inputs + scale * torch.from_numpy(noise).to(inputs)


def gaussian_blur(inputs: Tensor, severity: int, generators: Iterator[np.random.Generator]) -> Tensor:
    """Convolution with a normal density, cut off at 4 standard deviations; edge pixels are repeated."""
    scale = (0.4, 0.6, 0.7, 0.8, 1.0)[severity - 1]
    radius = int(4 * scale + 0.5)
    offsets = torch.arange(-radius, radius + 1) / scale
    weights = (-0.5 * offsets.double() ** 2).softmax(0).tolist()
    blurred = inputs
    # Sums of shifted images, one axis after the other: several times as fast as conv2d on single channels.
    for axis, border in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded, size = F.pad(blurred, border, mode="replicate"), inputs.shape[axis]
        shifted = (weight * padded.narrow(axis, i, size) for i, weight in enumerate(weights))
        blurred = sum(shifted, torch.zeros_like(inputs))
    return blurred


def contrast(inputs: Tensor, severity: int, generators: Iterator[np.random.Generator]) -> Tensor:
    """Shrink every channel towards its mean over the image."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = inputs.mean((2, 3), keepdim=True)
    return (inputs - mean) * factor + mean


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "gaussian_blur": gaussian_blur,
    "contrast": contrast,
}
