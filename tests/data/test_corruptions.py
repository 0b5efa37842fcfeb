from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from aradals.data import CORRUPTIONS, corrupt
from aradals.errors import InputError

IMAGES = torch.rand(12, 3, 9, 7, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(12) * 1000


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12), st.sampled_from(sorted(CORRUPTIONS)), st.integers(1, 5))
def test_an_example_is_corrupted_alike_in_any_batch(order: list[int], size: int, name: str, severity: int) -> None:
    whole = corrupt(IMAGES, IDS, name, severity)
    part = order[:size]
    torch.testing.assert_close(corrupt(IMAGES[part], IDS[part], name, severity), whole[part], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_result_has_shape_dtype_and_range_and_input_is_kept(name: str) -> None:
    original = IMAGES.clone()
    for severity in range(1, 6):
        for dtype in (torch.float32, torch.float64):
            corrupted = corrupt(IMAGES.to(dtype), IDS, name, severity)
            assert corrupted.shape == IMAGES.shape
            assert corrupted.dtype == dtype
            assert 0 <= corrupted.min() <= corrupted.max() <= 1
            assert not torch.equal(corrupted, IMAGES.to(dtype))
    assert torch.equal(IMAGES, original)
    assert torch.equal(corrupt(IMAGES, IDS, name, 0), IMAGES)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_severity_grows(name: str) -> None:
    changes = [float((corrupt(IMAGES, IDS, name, severity) - IMAGES).square().mean()) for severity in range(6)]
    assert changes == sorted(changes)


@pytest.mark.parametrize(("severity", "scale"), list(enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1)))
def test_noise_has_the_published_scale_and_differs_between_examples(severity: int, scale: float) -> None:
    grey = torch.full((40, 3, 32, 32), 0.5)
    noise = corrupt(grey, torch.arange(40), "gaussian_noise", severity) - 0.5
    # 122,880 values: the standard deviation is known to 0.2 %, the mean to 0.3 % of it.
    assert float(noise.std()) == pytest.approx(scale, rel=0.01)
    assert abs(float(noise.mean())) < 0.015 * scale
    between = torch.corrcoef(noise.flatten(1)) - torch.eye(40)
    assert between.abs().max() < 0.12
    assert abs(float((noise[:, :, :, 1:] * noise[:, :, :, :-1]).mean())) < 0.02 * scale**2


def test_noise_differs_between_severities() -> None:
    grey = torch.full((1, 3, 32, 32), 0.5)
    first, second = (corrupt(grey, IDS[:1], "gaussian_noise", severity).flatten() for severity in (1, 2))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1


@pytest.mark.parametrize(("severity", "scale"), list(enumerate((0.4, 0.6, 0.7, 0.8, 1.0), 1)))
def test_blur_is_scipys_gaussian_filter(severity: int, scale: float) -> None:
    images = IMAGES.double()
    expected = gaussian_filter(images.numpy(), (0, 0, scale, scale), mode="nearest", truncate=4)
    torch.testing.assert_close(corrupt(images, IDS, "gaussian_blur", severity), torch.from_numpy(expected))


@pytest.mark.parametrize(("severity", "factor"), list(enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1)))
def test_contrast_keeps_the_mean_and_scales_deviations(severity: int, factor: float) -> None:
    corrupted = corrupt(IMAGES, IDS, "contrast", severity)
    torch.testing.assert_close(corrupted.mean((2, 3)), IMAGES.mean((2, 3)))
    torch.testing.assert_close(corrupted.std((2, 3)), factor * IMAGES.std((2, 3)))


@pytest.mark.parametrize(
    ("name", "severity", "shape", "message"),
    [
        ("fogg", 1, (2, 3, 4, 4), "got 'fogg'; try .*contrast"),
        ("contrast", 6, (2, 3, 4, 4), "0 to 5, got 6"),
        ("contrast", -1, (2, 3, 4, 4), "0 to 5, got -1"),
        ("contrast", 1, (2, 16), "images of shape"),
    ],
)
def test_what_cannot_be_done_is_refused(name: str, severity: int, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrupt(torch.rand(shape), torch.arange(2), name, severity)
