from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from aradals.corruptions.blur import glass_blur
from aradals.corruptions.randomness import Randomness
from aradals.data import CORRUPTIONS, GROUPS, PRESETS, choose_preset, corrupt, corruption_names
from aradals.errors import InputError

NAMES = sorted(CORRUPTIONS)
IMAGES = torch.rand(12, 3, 13, 11, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
IDS = torch.arange(12) * 1000


@settings(max_examples=60)
@given(
    st.permutations(range(12)),
    st.integers(1, 12),
    st.sampled_from(NAMES),
    st.integers(1, 5),
    st.sampled_from(sorted(PRESETS)),
)
def test_an_example_is_corrupted_alike_in_any_batch(
    order: list[int], size: int, name: str, severity: int, preset: str
) -> None:
    whole = corrupt(IMAGES, IDS, name, severity, preset=preset)
    part = order[:size]
    assert torch.equal(corrupt(IMAGES[part], IDS[part], name, severity, preset=preset), whole[part])


def corrupt_all(_: int) -> list[Tensor]:
    return [corrupt(IMAGES, IDS, name, 4) for name in NAMES]


def test_an_example_is_corrupted_alike_in_any_process_and_with_any_number_of_threads() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    here = corrupt_all(0)
    torch.set_num_threads(threads)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for there in pool.map(corrupt_all, range(2), chunksize=1):
            assert all(map(torch.equal, here, there))


def test_a_batch_of_many_chunks_is_corrupted_as_its_parts() -> None:
    images = torch.rand(300, 3, 32, 32)
    for name in ("gaussian_noise", "zoom_blur", "elastic_transform", "contrast", "spatter"):
        whole = corrupt(images, torch.arange(300), name, 3)
        assert torch.equal(corrupt(images[257:], torch.arange(257, 300), name, 3), whole[257:])


@pytest.mark.parametrize("name", NAMES)
def test_results_are_images_of_8_bits_and_inputs_are_kept(name: str) -> None:
    original = IMAGES.clone()
    for severity in range(1, 6):
        for dtype in (torch.float32, torch.float64):
            corrupted = corrupt(IMAGES.to(dtype), IDS, name, severity)
            assert corrupted.shape == IMAGES.shape
            assert corrupted.dtype == dtype
            assert 0 <= corrupted.min() <= corrupted.max() <= 1
            assert torch.equal((corrupted * 255).round().float() / 255, corrupted.float())
            assert not torch.equal(corrupted, IMAGES.to(dtype))
    assert torch.equal(IMAGES, original)
    assert torch.equal(corrupt(IMAGES, IDS, name, 0), IMAGES)


@pytest.mark.parametrize("name", NAMES)
def test_random_numbers_differ_between_examples_and_severities_but_not_between_calls(name: str) -> None:
    same = IMAGES[:1].expand(2, -1, -1, -1)
    first, second = corrupt(same, torch.tensor([5, 6]), name, 5, preset="tiny")
    is_random = name in {*GROUPS["noise"], "speckle_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"}
    assert torch.equal(first, second) != (is_random or name in ("elastic_transform", "spatter"))
    assert torch.equal(corrupt(same[:1], torch.tensor([6]), name, 5, preset="tiny")[0], second)
    noise = [Randomness(name, severity, IDS).normal(1000)[0] for severity in (4, 5)]
    assert abs(float(torch.corrcoef(torch.stack(noise))[0, 1])) < 0.15


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur"])
def test_severity_grows(name: str, preset: str) -> None:
    smooth = torch.linspace(0.2, 0.8, 32).expand(20, 3, 32, 32)
    images = IMAGES.repeat(2, 1, 4, 4)[:20, :, :32, :32] if name == "gaussian_blur" else smooth
    changes = [
        float((corrupt(images, torch.arange(20), name, severity, preset=preset) - images).square().mean())
        for severity in range(6)
    ]
    assert changes == sorted(changes)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("severity", range(1, 6))
def test_noise_has_the_published_scale(preset: str, severity: int) -> None:
    # 122,880 values; truncation takes half a level from the mean and clipping some of the largest deviations.
    gray = torch.full((40, 3, 32, 32), 128 / 255)
    (scale,) = PRESETS[preset]["gaussian_noise"][severity - 1]
    noise = corrupt(gray, torch.arange(40), "gaussian_noise", severity, preset=preset) + 0.5 / 255 - 128 / 255
    expected = torch.distributions.Normal(0, scale).icdf(torch.linspace(0.01, 0.99, 50)).clamp(-0.5, 0.5)
    torch.testing.assert_close(
        noise.flatten()[::2].quantile(torch.linspace(0.01, 0.99, 50)), expected, rtol=0.02, atol=0.004
    )
    (photons,) = PRESETS[preset]["shot_noise"][severity - 1]
    dark = corrupt(gray / 4, torch.arange(40), "shot_noise", severity, preset=preset)
    # Of the Poisson law: the variance is the mean over the number of photons, and 0 has the probability exp(-mean).
    if photons >= 50:
        assert float(dark.std()) == pytest.approx((32 / 255 / photons) ** 0.5, rel=0.02)
    zeros = torch.exp(torch.tensor(-photons * 32 / 255))
    assert float((dark == 0).float().mean()) == pytest.approx(float(zeros), abs=0.006)
    (amount,) = PRESETS[preset]["impulse_noise"][severity - 1]
    spoiled = corrupt(gray, torch.arange(40), "impulse_noise", severity, preset=preset)
    for value in (0, 1):
        assert float((spoiled == value).float().mean()) == pytest.approx(amount / 2, rel=0.1)


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("preset", PRESETS)
def test_blur_is_scipys_gaussian_filter(preset: str, severity: int) -> None:
    (scale,) = PRESETS[preset]["gaussian_blur"][severity - 1]
    expected = gaussian_filter(IMAGES.double().numpy(), (0, 0, scale, scale), mode="nearest", truncate=4)
    blurred = corrupt(IMAGES, IDS, "gaussian_blur", severity, preset=preset).double().numpy()
    assert np.abs(blurred - np.floor(expected * 255) / 255).max() <= 1.01 / 255
    assert (np.round(blurred * 255) == np.floor(expected * 255)).mean() > 0.99


@pytest.mark.parametrize(("severity", "factor"), list(enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1)))
def test_contrast_keeps_the_mean_and_scales_deviations(severity: int, factor: float) -> None:
    corrupted = corrupt(IMAGES, IDS, "contrast", severity) + 0.5 / 255  # truncated
    torch.testing.assert_close(corrupted.mean((2, 3)), IMAGES.mean((2, 3)), rtol=0, atol=0.5 / 255)
    torch.testing.assert_close(corrupted.std((2, 3)), factor * IMAGES.std((2, 3)), rtol=0, atol=0.2 / 255)


@pytest.mark.parametrize("largest_shift", [1, 2, 4])
def test_glass_blur_is_its_loop(largest_shift: int) -> None:
    """Chains of copies, followed for all pixels at once, against the loop of the published programs."""
    images, height, width = IMAGES[:3], 13, 11
    inner = height - 2 * largest_shift, width - 2 * largest_shift
    shifts = Randomness("glass_blur", 1, IDS[:3]).integers(-largest_shift, largest_shift, 2, *inner, 2)
    expected = images.clone()
    for image, shift in zip(expected, shifts, strict=True):
        for turn in range(2):
            for h in range(height - largest_shift, largest_shift, -1):
                for w in range(width - largest_shift, largest_shift, -1):
                    dx, dy = shift[turn, h - largest_shift - 1, w - largest_shift - 1].tolist()
                    image[:, h, w] = image[:, h + dy, w + dx]
    result = glass_blur(images, Randomness("glass_blur", 1, IDS[:3]), 0.05, largest_shift, 2)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert not torch.equal(expected, images)


def test_an_even_image_stays_even_under_blur_and_distortion() -> None:
    even = torch.full((2, 3, 40, 40), 200 / 255)
    for preset in PRESETS:
        for name in ("gaussian_blur", "glass_blur", "zoom_blur", "elastic_transform", "pixelate", "contrast"):
            for severity in range(1, 6):
                assert torch.equal(corrupt(even, IDS[:2], name, severity, preset=preset), even), (name, severity)


def test_saturation_colors_gray_pixels_red_as_published() -> None:
    # Saturation 0.2 of a gray pixel, whose hue counts as 0: (v, v (1 - 0.2), v (1 - 0.2)).
    gray = torch.full((1, 3, 32, 32), 100 / 255)
    red, green, blue = corrupt(gray, IDS[:1], "saturate", 5)[0, :, 0, 0] * 255
    assert (round(float(red)), round(float(green)), round(float(blue))) == (100, 80, 80)


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 1, 8, 8), (2, 3, 4, 7), (2, 3, 50, 90), (1, 3, 120, 140)])
def test_other_sizes_and_gray_images(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    for name in NAMES:
        if name == "saturate" and shape[1] == 1:
            continue
        for severity in (1, 3, 5):
            corrupted = corrupt(images, torch.arange(len(images)), name, severity)
            assert corrupted.shape == shape
            assert corrupted.isfinite().all()


def test_gray_images_are_corrupted_as_color_images_without_color() -> None:
    gray = IMAGES[:, :1]
    for name in ("fog", "snow", "frost", "brightness", "contrast", "zoom_blur", "motion_blur", "pixelate"):
        color = corrupt(gray.expand(-1, 3, -1, -1), IDS, name, 3)
        luma = sum(weight * color[:, [i]] for i, weight in enumerate((0.299, 0.587, 0.114)))
        difference = (corrupt(gray, IDS, name, 3) - luma).abs()
        assert difference.max() < 1.6 / 255, name


def test_preset_follows_the_size() -> None:
    sizes = {
        8: "cifar",
        32: "cifar",
        45: "cifar",
        46: "tiny",
        64: "tiny",
        119: "tiny",
        120: "imagenet",
        500: "imagenet",
    }
    assert {size: choose_preset(size, size - 1) for size in sizes} == sizes
    images = torch.rand(1, 3, 64, 64)
    named = corrupt(images, IDS[:1], "gaussian_noise", 5, preset="tiny")
    assert torch.equal(corrupt(images, IDS[:1], "gaussian_noise", 5), named)
    assert not torch.equal(corrupt(images, IDS[:1], "gaussian_noise", 5, preset="cifar"), named)


def test_presets_have_the_same_corruptions_at_five_severities() -> None:
    for constants in PRESETS.values():
        assert set(constants) == set(CORRUPTIONS)
        for table in constants.values():
            assert len(table) == 5
            assert len({len(values) for values in table}) == 1


def test_groups() -> None:
    assert [len(GROUPS[name]) for name in ("noise", "blur", "weather", "digital", "standard", "extra", "all")] == [
        *(3, 4, 4, 4, 15, 4, 19)
    ]
    assert corruption_names(["extra", "saturate", "fog"]) == [*GROUPS["extra"], "fog"]
    with pytest.raises(InputError, match=r"'mist'.*fog.*groups: noise"):
        corruption_names(["mist"])


@pytest.mark.parametrize(
    ("name", "severity", "shape", "message"),
    [
        ("fogg", 1, (2, 3, 4, 4), "got 'fogg'; try .*contrast"),
        ("contrast", 6, (2, 3, 4, 4), "0 to 5, got 6"),
        ("contrast", -1, (2, 3, 4, 4), "0 to 5, got -1"),
        ("contrast", 1, (2, 16), "images of shape"),
        ("contrast", 1, (2, 3, 3, 9), "at least 4 pixels"),
        ("saturate", 1, (2, 1, 8, 8), "3 channels for saturate, got 1"),
        ("jpeg_compression", 1, (2, 4, 8, 8), "1 or 3 channels for jpeg_compression, got 4"),
    ],
)
def test_what_cannot_be_done_is_refused(name: str, severity: int, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrupt(torch.rand(shape), torch.arange(2), name, severity)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(InputError, match=r"known preset, got 'mnist'; try one of: cifar, tiny, imagenet"):
        corrupt(IMAGES, IDS, "fog", 1, preset="mnist")


def test_no_examples() -> None:
    assert corrupt(IMAGES[:0], IDS[:0], "fog", 1).shape == (0, 3, 13, 11)


def test_channels_that_are_no_colors_can_be_blurred() -> None:
    images = torch.rand(2, 5, 16, 16)
    for name in ("gaussian_noise", "defocus_blur", "zoom_blur", "motion_blur", "fog", "contrast", "pixelate"):
        assert corrupt(images, torch.arange(2), name, 3).shape == images.shape
