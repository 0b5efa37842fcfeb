"""Beside what others make of the same images with the same random numbers, as benchmarks/corruptions recorded it."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aradals.data import CORRUPTIONS, corrupt

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "corruptions"))
from compare import NUM_IMAGES, SIZES, statistics
from photographs import photograph_crops

RECORDED = json.loads(Path(__file__).with_name("corruption_statistics.json").read_text())

# Levels of 8 bits. Impulse noise and glass blur draw their own random numbers there.
TOLERANCE = 0.15
SAMPLED = {"impulse_noise": 1.2, "glass_blur": 0.6}
# The package rounds the flakes of snow, and cuts them off at another side; it has one more texture of frost and
# enlarges all of them. Its elastic transform is another one and not compared.
PACKAGE = {"snow": 0.75, "frost": 15}


@functools.cache
def ours(preset: str, corruption: str) -> list[list[float]]:
    images = photograph_crops(NUM_IMAGES[preset], SIZES[preset])
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2)) / 255
    found = []
    for severity in range(1, 6):
        corrupted = corrupt(inputs, torch.arange(len(images)), corruption, severity, preset=preset)
        levels = (corrupted * 255).round().permute(0, 2, 3, 1).double().numpy()
        found.append(statistics(levels, images.astype(float)))
    return found


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("preset", SIZES)
def test_statistics_are_those_of_the_published_programs(preset: str, corruption: str) -> None:
    expected = RECORDED["published"][preset][corruption]
    np.testing.assert_allclose(ours(preset, corruption), expected, rtol=0, atol=TOLERANCE + SAMPLED.get(corruption, 0))


@pytest.mark.parametrize("corruption", sorted(set(CORRUPTIONS) - {"elastic_transform"}))
def test_statistics_are_those_of_the_package(corruption: str) -> None:
    expected = RECORDED["package"]["imagenet"][corruption]
    tolerance = TOLERANCE + SAMPLED.get(corruption, 0) + PACKAGE.get(corruption, 0)
    np.testing.assert_allclose(ours("imagenet", corruption), expected, rtol=0, atol=tolerance)
