"""Noise. Every value (pixel and channel) has its own."""

from __future__ import annotations

import torch
from torch import Tensor

from aradals.corruptions.randomness import Randomness


def gaussian_noise(images: Tensor, random: Randomness, scale: float) -> Tensor:
    """Independent normal noise."""
    return images + random.normal(*images.shape[1:]) * scale


def shot_noise(images: Tensor, random: Randomness, photons: float) -> Tensor:
    """Poisson noise of light that has ``photons`` photons where it is white."""
    return random.poisson(images * photons) / photons


def impulse_noise(images: Tensor, random: Randomness, amount: float) -> Tensor:
    """A share ``amount`` of the values becomes 0 or 1, as often as not."""
    chance = random.uniform(0, 1, *images.shape[1:])
    return torch.where(chance < amount, (chance < amount / 2).float(), images)


def speckle_noise(images: Tensor, random: Randomness, scale: float) -> Tensor:
    """Normal noise in proportion to the value."""
    return images + images * random.normal(*images.shape[1:]) * scale
