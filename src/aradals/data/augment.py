"""Random augmentations of batches of training images."""

from __future__ import annotations

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


def unchanged(inputs: Tensor) -> Tensor:
    """Return the inputs as they are."""
    return inputs


def random_flip_crop_augmix(inputs: Tensor) -> Tensor:
    """Apply `random_flip_crop`, then `augmix`: new images in [0, 1], shape (N, C, H, W)."""
    return augmix(random_flip_crop(inputs))


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": unchanged,
    "flip_crop": random_flip_crop,
    "augmix": random_flip_crop_augmix,
}
