"""The corruptions of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C, for images of any size, and two for rows of tables.

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
from aradals.corruptions.tables import TABLE_CORRUPTIONS
from aradals.corruptions.weather import fog, frost, snow, spatter
from aradals.errors import InputError

__all__ = [
    "CORRUPTIONS",
    "GROUPS",
    "PRESETS",
    "TABLE_CORRUPTIONS",
    "Corruption",
    "choose_preset",
    "corrupt",
    "corruption_names",
]

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
"""All 19 corruptions of images, in the order of the paper."""

_NAMES = tuple(CORRUPTIONS)
GROUPS: dict[str, tuple[str, ...]] = {
    "noise": _NAMES[:3],
    "blur": _NAMES[3:7],
    "weather": _NAMES[7:11],
    "digital": _NAMES[11:15],
    "standard": _NAMES[:15],
    "extra": _NAMES[15:],
    "table": tuple(TABLE_CORRUPTIONS),
    "all": _NAMES,
}
"""The four groups of the paper, the 15 standard corruptions in these groups, the 4 held-out corruptions, those of rows
of numbers, and all of images (for rows, see `corruption_names`).
"""

_COLORS = {"saturate": (3,)} | dict.fromkeys(("snow", "frost", "spatter", "brightness", "jpeg_compression"), (1, 3))
_CHUNK = 128 * 3 * 32 * 32  # number of values in a chunk, small enough for the cache of the processor


def corrupt(
    inputs: Tensor,
    ids: Tensor,
    corruption: str,
    severity: int,
    *,
    preset: str | None = None,
    means: Tensor | None = None,
) -> Tensor:
    """Corrupt a batch of images, or of rows of numbers.

    The result for an example depends only on its content, the corruption, the severity, the preset or the means, and
    its id. It is bit for bit the same in any batch, order or process. As in the published files, images have 8 bits:
    they are rounded to the nearest of 256 levels, and most results are truncated to the next lower level. Rows of
    numbers are only clipped.

    Args:
        inputs: values in [0, 1], float: images of shape (N, C, H, W), sides of at least 4 pixels; or rows of shape
            (N, C).
        ids: int64, shape (N,); the random numbers of an example depend on its id.
        corruption: a key of ``CORRUPTIONS`` for images, or of ``TABLE_CORRUPTIONS`` for rows.
        severity: 1 to 5; 0 returns the inputs as they are.
        preset: a key of ``PRESETS``, which sets the constants for images; by default the preset of the nearest image
            size (:func:`choose_preset`).
        means: mean of each column in the training data, after the scaling to [0, 1], shape (C,), for
            ``missing_columns``.

    Returns:
        Corrupted inputs in [0, 1], of the same shape, dtype and device. The CPU computes them.

    Raises:
        InputError: an unknown corruption, severity or preset; inputs of another kind than the corruption is for; or
            images without the color channels that the corruption needs.
        MissingExtraError: pillow or scipy is missing.
    """
    known = (*CORRUPTIONS, *TABLE_CORRUPTIONS)
    if corruption not in known:
        raise InputError(expected="a known corruption", got=repr(corruption), hint="one of: " + ", ".join(known))
    if severity not in range(6):
        raise InputError(expected="a severity from 0 to 5", got=str(severity), hint="1 (mild) to 5 (strong)")
    if preset is not None and preset not in PRESETS:
        raise InputError(expected="a known preset", got=repr(preset), hint="one of: " + ", ".join(PRESETS))
    if corruption in TABLE_CORRUPTIONS:
        _check_rows(inputs, corruption, preset)
    else:
        _check_images(inputs, corruption)
    if severity == 0 or not len(inputs):
        return inputs
    if corruption in TABLE_CORRUPTIONS:
        change, amounts = TABLE_CORRUPTIONS[corruption]
        random, rows = Randomness(corruption, severity, ids), inputs.detach().cpu().float()
        return change(rows, random, amounts[severity - 1], means).clamp(0, 1).to(inputs)
    height, width = inputs.shape[2:]
    constants = PRESETS[preset or choose_preset(height, width)][corruption][severity - 1]
    return _corrupt_images(inputs, constants, corruption, severity, ids)


def _corrupt_images(inputs: Tensor, constants: Sequence[float], corruption: str, severity: int, ids: Tensor) -> Tensor:
    """Corrupt images in chunks."""
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


def corruption_names(names: Sequence[str], *, input_shape: Sequence[int] | None = None) -> list[str]:
    """Replace every group (a key of ``GROUPS``) by its corruptions, and keep each name once.

    Args:
        names: corruptions and groups.
        input_shape: shape of an input, which decides whether ``all`` means all corruptions of images, as it does by
            default, or all of rows of numbers.

    Raises:
        InputError: a name is neither a corruption nor a group.

    >>> corruption_names(["noise", "fog", "shot_noise"])
    ['gaussian_noise', 'shot_noise', 'impulse_noise', 'fog']
    """
    groups = GROUPS | ({"all": GROUPS["table"]} if input_shape is not None and len(input_shape) == 1 else {})
    known = (*CORRUPTIONS, *TABLE_CORRUPTIONS)
    for name in names:
        if name not in groups and name not in known:
            raise InputError(
                expected="a corruption or a group of corruptions",
                got=repr(name),
                hint=f"one of: {', '.join(known)}; or one of the groups: {', '.join(groups)}",
            )
    return list(dict.fromkeys(each for name in names for each in groups.get(name, (name,))))


def _check_rows(inputs: Tensor, corruption: str, preset: str | None) -> None:
    if inputs.ndim != 2 or not inputs.is_floating_point() or not inputs.shape[1]:
        raise InputError(
            expected=f"rows of numbers for {corruption}, float of shape (N, columns)",
            got=f"{inputs.dtype} of shape {tuple(inputs.shape)}",
            hint=f"the columns of a table, or a corruption of images, such as {next(iter(CORRUPTIONS))}",
        )
    if preset is not None:
        raise InputError(
            expected=f"no preset for {corruption}, because presets are for images", got=preset, hint="no --preset"
        )


def _check_images(inputs: Tensor, corruption: str) -> None:
    if inputs.ndim != 4 or not inputs.is_floating_point() or min(inputs.shape[2:]) < 4 or not inputs.shape[1]:
        raise InputError(
            expected=f"float images of shape (N, C, H, W) for {corruption}, sides of at least 4 pixels",
            got=f"{inputs.dtype} of shape {tuple(inputs.shape)}",
            hint=f"for rows of numbers {' or '.join(TABLE_CORRUPTIONS)}; in a study --evaluation.corruptions table",
        )
    allowed = _COLORS.get(corruption)
    if allowed and inputs.shape[1] not in allowed:
        raise InputError(
            expected=f"images with {' or '.join(map(str, allowed))} channels for {corruption}",
            got=f"{inputs.shape[1]} channels",
            hint="noise, blur or contrast, which accept any number of channels",
        )
