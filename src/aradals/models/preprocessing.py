"""Preparation of images for a network, as layers in front of it, so that attacks stay in the [0, 1] of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.models.layers import RGB_MEAN, RGB_STD, Normalize

CONSTANTS = {
    "imagenet": (RGB_MEAN, RGB_STD),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""Name of a data set -> mean and standard deviation of its channels, as checkpoints commonly expect them."""


@dataclass(frozen=True)
class Preprocessing:
    """Preparation that a network expects of its images.

    Attributes:
        mean: mean of each channel, or one number for all, in the units of ``bounds``; None for 0.
        std: standard deviation of each channel, or one number for all; None for 1.
        bounds: the values that 0 and 1 in the data stand for, such as (-1, 1) or (0, 255).
        resize: height and width, or the length of the shorter side; None to keep the size.
        crop: height and width of the center that is cut out after this; None for the whole image.
        mode: interpolation of the resizing: bilinear, bicubic or nearest.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    resize: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    mode: str = "bilinear"

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images that the network gets, if they are fixed."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    def __str__(self) -> str:
        return ", ".join(self._parts())

    def _parts(self) -> Iterator[str]:
        if self.size is not None:
            yield f"images of another size are resized to {self.size[0]}x{self.size[1]} pixels ({self.mode})"
        if self.bounds != (0.0, 1.0):
            yield f"values from {self.bounds[0]:g} to {self.bounds[1]:g}"
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                yield f"{name} {' '.join(f'{value:.4g}' for value in values)}"


class Preprocessed(nn.Module):
    """A network behind the layers that prepare images with values in [0, 1] for it.

    Args:
        model: the network.
        preprocessing: what it expects.
        num_channels: C of the images, shape (N, C, H, W).
        class_names: one name for each class, or empty.
    """

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing, num_channels: int = 3, class_names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.preprocessing, self.class_names = preprocessing, tuple(class_names)
        mean, std = (
            (default,) * num_channels if given is None else given * num_channels if len(given) == 1 else given
            for given, default in ((preprocessing.mean, 0.0), (preprocessing.std, 1.0))
        )
        self.normalize = Normalize(num_channels, mean, std, bounds=preprocessing.bounds)
        self.model = model

    def forward(self, inputs: Tensor) -> Any:
        """Prepare the images, and call the network."""
        return self.model(self.normalize(resized(inputs, self.preprocessing)))


def resized(inputs: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize images and cut out their center; images of the right size stay as they are."""
    if preprocessing.size is None or tuple(inputs.shape[2:]) == preprocessing.size:
        return inputs
    size = preprocessing.resize
    if isinstance(size, int):
        shorter = min(inputs.shape[2:])
        size = (size * inputs.shape[2] // shorter, size * inputs.shape[3] // shorter)
    if size is not None:
        smooth = preprocessing.mode != "nearest"
        inputs = F.interpolate(inputs, size, mode=preprocessing.mode, antialias=smooth)
    if preprocessing.crop is None:
        return inputs
    height, width = preprocessing.crop
    top, left = (round((have - want) / 2) for have, want in zip(inputs.shape[2:], (height, width), strict=True))
    return inputs[:, :, top : top + height, left : left + width]


def named_constants(mean: str | None, std: str | None, bounds: str | None) -> Preprocessing | None:
    """Read constants as they are written: ``imagenet``, ``cifar10``, or numbers with commas; None for no constants.

    Raises:
        InputError: a text is neither, or the mean or the standard deviation is missing.
    """
    if mean is None and std is None and bounds is None:
        return None
    if mean in CONSTANTS and std is None:
        std = mean
    if (mean is None) != (std is None):
        raise InputError(
            expected="both --mean and --std", got="one of them", hint="--mean imagenet, or --mean 0.5 --std 0.25"
        )
    values = [None if text is None else _numbers(text, which) for which, text in enumerate((mean, std))]
    limits = (0.0, 1.0) if bounds is None else _numbers(bounds, 2)
    if len(limits) != 2 or limits[0] >= limits[1]:
        raise InputError(expected="--bounds LOW,HIGH", got=str(bounds), hint="--bounds=-1,1 or --bounds 0,255")
    return Preprocessing(mean=values[0], std=values[1], bounds=(limits[0], limits[1]))


def _numbers(text: str, which: int) -> tuple[float, ...]:
    if text in CONSTANTS and which < 2:
        return CONSTANTS[text][which]
    try:
        return tuple(float(part) for part in text.strip("[]() ").replace(",", " ").split())
    except ValueError as error:
        raise InputError(
            expected=f"numbers with commas, or one of {', '.join(CONSTANTS)}", got=repr(text), hint="0.5,0.5,0.5"
        ) from error


def of_processor(config: Mapping[str, Any]) -> Preprocessing:
    """Read the preprocessing in a ``preprocessor_config.json`` of transformers."""
    normalizes, rescales = config.get("do_normalize", True), config.get("do_rescale", True)
    mean, std = config.get("image_mean"), config.get("image_std")
    factor = float(config.get("rescale_factor", 1 / 255)) if rescales else 1.0
    resize = _size(config.get("size")) if config.get("do_resize", True) else None
    crop = _size(config.get("crop_size")) if config.get("do_center_crop") else None
    if isinstance(resize, int) and crop is None:
        side = resize
        crop = (side, side)
        if "crop_pct" in config and side < _CROPPED_BELOW:  # ConvNeXt cuts the border of small images off
            resize = int(side / config["crop_pct"])
    return Preprocessing(
        mean=tuple(mean) if normalizes and mean else None,
        std=tuple(std) if normalizes and std else None,
        bounds=(0.0, round(255 * factor, 6)),
        resize=resize,
        crop=(crop, crop) if isinstance(crop, int) else crop,
        mode={0: "nearest", 2: "bilinear"}.get(config.get("resample", 2), "bicubic"),
    )


_CROPPED_BELOW = 384


def _size(given: Any) -> tuple[int, int] | int | None:
    """Read a size: a number, or a mapping with height and width or the shortest edge."""
    if isinstance(given, Mapping):
        if "shortest_edge" in given:
            return int(given["shortest_edge"])
        return (int(given["height"]), int(given["width"])) if {"height", "width"} <= given.keys() else None
    return (int(given), int(given)) if isinstance(given, int) else None
