from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from aradals.data.augment import AUGMENTATIONS
from aradals.data.augmix import OPERATIONS, augmix
from aradals.errors import InputError

LEVELS = [2.9, -2.9, 0.3, -1.2, 2.0, -7.0, 10.0]
HEIGHT, WIDTH = 36, 48


def affine(image: Image.Image, *coefficients: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR)


IN_PIL: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "posterize": lambda image, level: ImageOps.posterize(image, max(1, 4 - int(abs(level) * 4 / 10))),
    "solarize": lambda image, level: ImageOps.solarize(image, 256 - int(abs(level) * 256 / 10)),
    "rotate": lambda image, level: image.rotate(int(level * 30 / 10), resample=Image.Resampling.BILINEAR),
    "shear_x": lambda image, level: affine(image, 1, level * 0.3 / 10, 0, 0, 1, 0),
    "shear_y": lambda image, level: affine(image, 1, 0, 0, level * 0.3 / 10, 1, 0),
    "translate_x": lambda image, level: affine(image, 1, 0, int(level * WIDTH / 3 / 10), 0, 1, 0),
    "translate_y": lambda image, level: affine(image, 1, 0, 0, 0, 1, int(level * HEIGHT / 3 / 10)),
}


def smooth_images(num: int, channels: int) -> np.ndarray:
    """Color gradients with some noise, of different contrast, uint8, shape (num, H, W, channels)."""
    random = np.random.default_rng(0)
    low, high = random.integers(0, 100, (num, 1, 1, channels)), random.integers(120, 256, (num, 1, 1, channels))
    slope = np.linspace(0, 1, HEIGHT)[:, None, None] * np.linspace(0.2, 1, WIDTH)[:, None]
    noise = random.normal(0, 8, (num, HEIGHT, WIDTH, channels))
    return np.clip(low + (high - low) * slope + noise, low, high).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_operations_are_those_of_pil(name: str, channels: int) -> None:
    arrays = smooth_images(len(LEVELS), channels)
    arrays[-2] = 77  # constant
    arrays[-3] = arrays[-3] // 128 * 200  # two values
    images = torch.from_numpy(arrays).permute(0, 3, 1, 2) / 255
    results = OPERATIONS[name](images, torch.tensor(LEVELS))
    assert results.shape == images.shape
    # PIL cuts off to whole values where it interpolates.
    tolerance = 1e-3 if name in ("equalize", "posterize", "solarize", "translate_x", "translate_y") else 1.001
    for array, level, result in zip(arrays, LEVELS, results, strict=True):
        image = Image.fromarray(array.squeeze(2) if channels == 1 else array)
        expected = np.asarray(IN_PIL[name](image, level)).reshape(array.shape)
        difference = np.abs(result.permute(1, 2, 0).numpy() * 255 - expected)
        assert difference.max() <= tolerance, (level, difference.max())


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_operations_stay_in_range_and_treat_images_alone(name: str) -> None:
    torch.manual_seed(0)
    images, level = torch.rand(6, 2, 7, 5), torch.linspace(-10, 10, 6)
    results = OPERATIONS[name](images, level)
    assert 0 <= results.min() <= results.max() <= 1 + 1e-6
    for row in range(6):
        torch.testing.assert_close(OPERATIONS[name](images[row, None], level[row, None])[0], results[row])


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (5, 1, 9, 6), (4, 3, 32, 32), (3, 4, 1, 1)])
def test_shape_and_range(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    images = torch.rand(shape)
    original = images.clone()
    results = augmix(images)
    assert results.shape == images.shape
    assert results.dtype == images.dtype
    assert 0 <= results.min() <= results.max() <= 1
    assert torch.equal(images, original)


def test_weights_of_the_mixture() -> None:
    """Nothing at weight 0; at weight 1 and with one chain of one operation, an operation itself."""
    torch.manual_seed(0)
    images = torch.rand(40, 3, 8, 8)
    assert torch.equal(augmix(images, mix_weight=torch.zeros(40)), images)
    halfway = []
    for weight in (0.0, 0.5, 1.0):
        torch.manual_seed(1)
        halfway.append(augmix(images, mix_weight=torch.full((40,), weight)))
    torch.testing.assert_close(halfway[1], (halfway[0] + halfway[2]) / 2)


def test_one_chain_of_one_operation_is_each_operation_equally_often() -> None:
    torch.manual_seed(0)
    num = 1800
    image = torch.from_numpy(smooth_images(1, 3)).permute(0, 3, 1, 2) / 255
    # At level 0.1 the shifts and the rotation are 0 and nothing is solarized: four operations change the image.
    results = augmix(image.expand(num, -1, -1, -1), severity=0.1, width=1, max_depth=1, mix_weight=torch.ones(num))
    level = torch.tensor([0.1])
    for name in ("autocontrast", "equalize", "posterize"):
        hits = (results - OPERATIONS[name](image, level)).abs().amax((1, 2, 3)) < 1e-6
        assert abs(int(hits.sum()) - num / 9) < 6 * (num / 9) ** 0.5, name
    unchanged = (results - image).abs().amax((1, 2, 3)) < 1e-5
    assert abs(int(unchanged.sum()) - num * 4 / 9) < 6 * (num * 4 / 9) ** 0.5


def test_chains_of_each_depth_are_equally_likely() -> None:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setitem(OPERATIONS, name, lambda images, level: images + 1 / 8)
        values = augmix(torch.zeros(3000, 1, 1, 1), width=1, mix_weight=torch.ones(3000)).flatten()
    counts = (8 * values).round().long().bincount(minlength=4)
    assert counts[0] == 0
    assert counts.sum() == 3000
    assert (counts[1:] - 1000).abs().max() < 6 * (3000 * 2 / 9) ** 0.5


def test_levels_are_uniform_up_to_the_severity_and_of_either_sign() -> None:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setitem(OPERATIONS, name, lambda images, level: (level.view(-1, 1, 1, 1) + 10) / 20)
        values = augmix(torch.zeros(4000, 1, 1, 1), severity=5.0, width=1, mix_weight=torch.ones(4000)).flatten()
    levels = 20 * values - 10
    assert abs(int((levels > 0).sum()) - 2000) < 6 * 1000**0.5
    quantiles = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    torch.testing.assert_close(levels.abs().quantile(quantiles), 0.1 + 4.9 * quantiles, atol=0.25, rtol=0)


def test_the_global_seed_decides() -> None:
    images = torch.rand(8, 3, 8, 8)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(AUGMENTATIONS["augmix"](images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_mean_weights_are_those_of_the_paper() -> None:
    """With operations that turn a white image black, or leave it, its value tells the weights."""

    def black(images: Tensor, level: Tensor) -> Tensor:
        return torch.zeros_like(images)

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setitem(OPERATIONS, name, black)
        values = augmix(torch.ones(4000, 1, 1, 1)).flatten()
        assert values.mean().item() == pytest.approx(1 / 2, abs=0.03)
        assert values.var().item() == pytest.approx(1 / 12, abs=0.01)
        patch.setitem(OPERATIONS, "rotate", lambda images, level: images)
        chains = augmix(torch.ones(4000, 1, 1, 1), max_depth=1, mix_weight=torch.ones(4000)).flatten()
    # Each chain is white with probability 1/9. Dirichlet(1, 1, 1) weights have E w² = 1/6 and E w w' = 1/12.
    share = 1 / 9
    assert chains.mean().item() == pytest.approx(share, abs=0.02)
    expected = 3 * share / 6 + 6 * share**2 / 12
    assert chains.square().mean().item() == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("settings", [{"severity": 0.0}, {"severity": 11}, {"width": 0}, {"max_depth": 0}])
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="severity from"):
        augmix(torch.rand(2, 3, 4, 4), **settings)
