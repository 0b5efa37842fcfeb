"""Random augmentations of batches of training images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aradals.data.augmix import augmix

Augmentation = Callable[[Tensor], Tensor]
"""Function from a batch of inputs, shape (N, C, H, W), to a batch of the same shape."""


def random_flip_crop(inputs: Tensor, *, padding: int = 4) -> Tensor:
    """Flip each image left to right with probability 1/2, pad it with zeros and crop it at random.

    This is the usual augmentation for CIFAR (He et al. 2016, section 4.2). Random numbers come from the global
    generator of torch.

    Args:
        inputs: shape (N, C, H, W).
        padding: width of the border of zeros, in pixels.

    Returns:
        New images, shape (N, C, H, W).
    """
    num, _, height, width = inputs.shape
    device = inputs.device
    # A view of every possible crop, (N, C, offsets, offsets, H, W). Indexing copies only one crop for each image.
    crops = F.pad(inputs, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(2 * padding + 1, (2, num), device=device)
    cropped = crops[torch.arange(num, device=device), :, top, left]
    flip = torch.rand(num, 1, 1, 1, device=device) < 0.5
    return torch.where(flip, cropped.flip(3), cropped)


_NUM_TRIES = 10


def random_resized_crop(
    inputs: Tensor, *, area: tuple[float, float] = (0.08, 1.0), aspect: tuple[float, float] = (3 / 4, 4 / 3)
) -> Tensor:
    """Cut a box at random out of each image, resize it to the size of the image, and flip it with probability 1/2.

    This is the usual augmentation for ImageNet (Szegedy et al. 2015, arXiv 1409.4842, section 6). A box that does not
    fit into its image is drawn again, up to ten times, and cut to the image then. The interpolation is bilinear. Random
    numbers come from the global generator of torch.

    Args:
        inputs: shape (N, C, H, W), values in [0, 1].
        area: least and largest share of the image that the box covers, uniform.
        aspect: least and largest ratio of width to height of the box, uniform in the logarithm.

    Returns:
        New images, shape (N, C, H, W).
    """
    num, _, height, width = inputs.shape
    device = inputs.device
    shares = torch.empty(_NUM_TRIES, num, device=device).uniform_(*area)
    ratios = torch.empty_like(shares).uniform_(*map(math.log, aspect)).exp()
    # Width and height of the box as shares of those of the image.
    shape = torch.stack([(shares * ratios * height / width).sqrt(), (shares / ratios * width / height).sqrt()])
    first = (shape <= 1).all(0).int().argmax(0)  # the first box that fits; 0 if none does
    across, down = shape[:, first, torch.arange(num, device=device)].clamp(max=1)
    left, top = torch.rand(2, num, device=device) * (1 - torch.stack([across, down]))
    flip = torch.rand(num, device=device) < 0.5
    # The map from places in the new image to those in the old one; both go from -1 to 1.
    to_old = torch.zeros(num, 2, 3, device=device)
    to_old[:, 0, 0], to_old[:, 0, 2] = torch.where(flip, -across, across), 2 * left + across - 1
    to_old[:, 1, 1], to_old[:, 1, 2] = down, 2 * top + down - 1
    places = F.affine_grid(to_old, list(inputs.shape), align_corners=False).to(inputs.dtype)
    return F.grid_sample(inputs, places, padding_mode="border", align_corners=False).clamp(0, 1)


def unchanged(inputs: Tensor) -> Tensor:
    """Return the inputs as they are."""
    return inputs


def random_flip_crop_augmix(inputs: Tensor) -> Tensor:
    """Apply `random_flip_crop`, then `augmix`: new images in [0, 1], shape (N, C, H, W)."""
    return augmix(random_flip_crop(inputs))


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "flip_crop": random_flip_crop,
    "resized_crop": random_resized_crop,
    "augmix": random_flip_crop_augmix,
}
