"""Images for benchmarks and tests that need no download."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_sample_images


@cache
def photograph_crops(number: int, size: int) -> npt.NDArray[np.uint8]:
    """Crops at random, but always the same, places of the two photographs of scikit-learn: (number, size, size, 3)."""
    photographs, places = load_sample_images().images, np.random.default_rng(0)
    crops = []
    for row in range(number):
        photograph = photographs[row % len(photographs)]
        top, left = (places.integers(side - size + 1) for side in photograph.shape[:2])
        crops.append(photograph[top : top + size, left : left + size])
    return np.stack(crops)
