"""Noise, which is independent for every value (pixel and channel)."""

from __future__ import annotations

import torch
from torch import Tensor

from aradals.corruptions.randomness import Randomness


def gaussian_noise(images: Tensor, random: Randomness, scale: float) -> Tensor:
    """Add independent normal noise."""
    return images + random.normal(*images.shape[1:]) * scale


def shot_noise(images: Tensor, random: Randomness, photons: float) -> Tensor:
    """Replace each value by Poisson noise, where a white value has ``photons`` photons on average."""
    return random.poisson(images * photons) / photons


def impulse_noise(images: Tensor, random: Randomness, amount: float) -> Tensor:
    """Set a share ``amount`` of the values to 0 or 1, with equal probability."""
    chance = random.uniform(0, 1, *images.shape[1:])
    return torch.where(chance < amount, (chance < amount / 2).float(), images)


def speckle_noise(images: Tensor, random: Randomness, scale: float) -> Tensor:
    """Add normal noise in proportion to the value."""
    return images + images * random.normal(*images.shape[1:]) * scale
