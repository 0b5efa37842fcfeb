"""The corruptions of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C, for images of any size.

Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*, ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from aradals.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from aradals.corruptions.constants import PRESETS
from aradals.corruptions.digital import (
    brightness,
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
    saturate,
)
from aradals.corruptions.filters import truncate
from aradals.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from aradals.corruptions.randomness import Randomness
from aradals.corruptions.weather import fog, frost, snow, spatter
from aradals.errors import InputError

__all__ = ["CORRUPTIONS", "GROUPS", "PRESETS", "Corruption", "choose_preset", "corrupt", "corruption_names"]

Corruption = Callable[..., Tensor]
"""``(images, random, *constants) -> images``: float32, shape (N, C, H, W), from 256 levels in [0, 1].

The result may leave [0, 1] and the levels; :func:`corrupt` clips and truncates it.
"""

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "speckle_noise": speckle_noise,
    "gaussian_blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
"""All 19 corruptions, in the order of the paper."""

_NAMES = tuple(CORRUPTIONS)
GROUPS: dict[str, tuple[str, ...]] = {
    "noise": _NAMES[:3],
    "blur": _NAMES[3:7],
    "weather": _NAMES[7:11],
    "digital": _NAMES[11:15],
    "standard": _NAMES[:15],
    "extra": _NAMES[15:],
    "all": _NAMES,
}
"""The four groups of the paper, the 15 standard corruptions in these groups, the 4 held-out corruptions, and all."""

_COLORS = {"saturate": (3,)} | dict.fromkeys(("snow", "frost", "spatter", "brightness", "jpeg_compression"), (1, 3))
_CHUNK = 128 * 3 * 32 * 32  # number of values in a chunk, small enough for the cache of the processor


def corrupt(inputs: Tensor, ids: Tensor, corruption: str, severity: int, *, preset: str | None = None) -> Tensor:
    """Corrupt a batch of images.

    The result for an example depends only on its content, the corruption, the severity, the preset and its id. It is
    bit for bit the same in any batch, order or process. As in the published files, images have 8 bits: inputs are
    rounded to the nearest of 256 levels, and most results are truncated to the next lower level.

    Args:
        inputs: images in [0, 1], float, shape (N, C, H, W), sides of at least 4 pixels.
        ids: int64, shape (N,); the random numbers of an image depend on its id.
        corruption: a key of ``CORRUPTIONS``.
        severity: 1 to 5; 0 returns the inputs as they are.
        preset: a key of ``PRESETS``, which sets the constants; by default the preset of the nearest image size
            (:func:`choose_preset`).

    Returns:
        Corrupted images in [0, 1], of the same shape, dtype and device. The CPU computes them.

    Raises:
        InputError: an unknown corruption, severity or preset; inputs that are not images, or that do not have the
            color channels that the corruption needs.
        MissingExtraError: pillow or scipy is missing.
    """
    if corruption not in CORRUPTIONS:
        raise InputError(expected="a known corruption", got=repr(corruption), hint="one of: " + ", ".join(CORRUPTIONS))
    if severity not in range(6):
        raise InputError(expected="a severity from 0 to 5", got=str(severity), hint="1 (mild) to 5 (strong)")
    if preset is not None and preset not in PRESETS:
        raise InputError(expected="a known preset", got=repr(preset), hint="one of: " + ", ".join(PRESETS))
    _check_images(inputs, corruption)
    if severity == 0 or not len(inputs):
        return inputs
    height, width = inputs.shape[2:]
    constants = PRESETS[preset or choose_preset(height, width)][corruption][severity - 1]
    size = max(1, _CHUNK // inputs[0].numel())
    chunks = zip(inputs.split(size), ids.split(size), strict=True)
    with _one_thread():
        parts = [
            _corrupt_chunk(images, constants, corruption, Randomness(corruption, severity, some))
            for images, some in chunks
        ]
    return torch.cat(parts).to(inputs)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: steps on a chunk are so short that several threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _corrupt_chunk(inputs: Tensor, constants: Sequence[float], corruption: str, random: Randomness) -> Tensor:
    images = (inputs.detach().cpu().double() * 255).round().float().contiguous() / 255
    return truncate(CORRUPTIONS[corruption](images, random, *constants))


def choose_preset(height: int, width: int) -> str:
    """Choose the benchmark whose images are nearest in size, by the ratio of sides.

    Returns:
        ``cifar`` if the longer side has up to 45 pixels, ``tiny`` for up to 119 pixels, else ``imagenet``.
    """
    side = max(height, width)
    return "cifar" if side**2 <= 32 * 64 else "tiny" if side**2 <= 64 * 224 else "imagenet"


def corruption_names(names: Sequence[str]) -> list[str]:
    """Replace every group (a key of ``GROUPS``) by its corruptions, and keep each name once.

    Raises:
        InputError: a name is neither a corruption nor a group.

    >>> corruption_names(["noise", "fog", "shot_noise"])
    ['gaussian_noise', 'shot_noise', 'impulse_noise', 'fog']
    """
    for name in names:
        if name not in GROUPS and name not in CORRUPTIONS:
            raise InputError(
                expected="a corruption or a group of corruptions",
                got=repr(name),
                hint=f"one of: {', '.join(CORRUPTIONS)}; or one of the groups: {', '.join(GROUPS)}",
            )
    return list(dict.fromkeys(each for name in names for each in GROUPS.get(name, (name,))))


def _check_images(inputs: Tensor, corruption: str) -> None:
    if inputs.ndim != 4 or not inputs.is_floating_point() or min(inputs.shape[2:]) < 4 or not inputs.shape[1]:
        raise InputError(
            expected="float images of shape (N, C, H, W), sides of at least 4 pixels",
            got=f"{inputs.dtype} of shape {tuple(inputs.shape)}",
            hint="images, or --evaluation.corruptions [] in a study; corruptions are defined for images only",
        )
    allowed = _COLORS.get(corruption)
    if allowed and inputs.shape[1] not in allowed:
        raise InputError(
            expected=f"images with {' or '.join(map(str, allowed))} channels for {corruption}",
            got=f"{inputs.shape[1]} channels",
            hint="noise, blur or contrast, which accept any number of channels",
        )
