from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aradals.data import AUGMENTATIONS, random_flip_crop, random_resized_crop


def possible_crops(image: torch.Tensor, padding: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every result that flipping and cropping one image can have."""
    _, height, width = image.shape
    padded = F.pad(image, (padding,) * 4)
    crops = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + height, left : left + width]
            for flip in (False, True):
                result = crop.flip(2) if flip else crop
                crops[result.contiguous().numpy().tobytes()] = (top, left, flip)
    return crops


def test_every_outcome_occurs_equally_often_and_no_other() -> None:
    torch.manual_seed(0)
    image = torch.rand(3, 5, 4)
    crops = possible_crops(image, 1)
    assert len(crops) == 18
    num = 9000
    augmented = random_flip_crop(image.expand(num, -1, -1, -1), padding=1)
    counts = dict.fromkeys(crops, 0)
    for result in augmented:
        counts[result.numpy().tobytes()] += 1
    # Six standard deviations of a binomial count.
    assert all(abs(count - num / 18) < 6 * (num / 18) ** 0.5 for count in counts.values())


def test_images_are_changed_independently_and_stay_in_their_row() -> None:
    torch.manual_seed(1)
    images = torch.rand(64, 1, 6, 6)
    outcomes = set()
    for image, result in zip(images, random_flip_crop(images, padding=2), strict=True):
        outcomes.add(possible_crops(image, 2)[result.numpy().tobytes()])
    assert len(outcomes) > 20


def test_the_global_seed_decides_and_the_input_is_left_alone() -> None:
    images = torch.rand(8, 3, 8, 8)
    original = images.clone()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(random_flip_crop(images))
    assert torch.equal(*results)
    assert torch.equal(images, original)
    assert torch.equal(random_flip_crop(images, padding=0).sum((1, 2, 3)) > 0, torch.ones(8, dtype=torch.bool))


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentations_keep_shape_dtype_and_range(name: str) -> None:
    images = torch.rand(5, 3, 7, 9)
    augmented = AUGMENTATIONS[name](images)
    assert augmented.shape == images.shape
    assert augmented.dtype == images.dtype
    assert 0 <= augmented.min() <= augmented.max() <= 1


def coordinates(num: int, height: int, width: int) -> torch.Tensor:
    """Images whose two channels are the place of each pixel, from 0 to 1 between the centers of the outer pixels."""
    down, across = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([across, down]).expand(num, -1, -1, -1)


def test_resized_crops_are_boxes_of_the_given_areas_and_aspects() -> None:
    torch.manual_seed(0)
    height, width = 30, 40
    results = random_resized_crop(coordinates(4000, height, width))
    inner = results[:, :, height // 4 : -height // 4, width // 4 : -width // 4]  # away from the border
    steps = inner[:, 0].diff(dim=2), inner[:, 1].diff(dim=1)
    across, down = (step.mean((1, 2)) for step in steps)
    # Every step between pixels is the same: the box is resized without any other distortion.
    assert all((step - step.mean((1, 2), keepdim=True)).abs().max() < 1e-4 for step in steps)
    flipped = across < 0
    assert abs(flipped.double().mean() - 0.5) < 0.05
    assert (down > 0).all()
    widths, heights = across.abs() * (width - 1) * width, down * (height - 1) * height
    areas, aspects = widths * heights / (height * width), widths / heights
    for values, low, high in ((areas, 0.08, 1.0), (aspects, 3 / 4, 4 / 3)):
        assert low - 1e-3 < values.min() < low + 0.05
        assert high - 0.05 < values.max() < high + 1e-3


@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_a_crop_of_the_whole_image_is_the_image_or_its_mirror_image(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    images, ratio = torch.rand(32, 3, *size), size[1] / size[0]
    for image, result in zip(images, random_resized_crop(images, area=(1, 1), aspect=(ratio, ratio)), strict=True):
        nearest = min((result - each).abs().max() for each in (image, image.flip(2)))
        assert nearest < 1e-5


def test_a_box_that_never_fits_is_cut_to_the_image() -> None:
    images = torch.rand(8, 1, 4, 40)
    result = random_resized_crop(images, area=(0.9, 1.0), aspect=(1.0, 1.0))  # 12 x 12 at least
    assert result.shape == images.shape
    # All rows of the image remain, about a third of its columns.
    assert result.diff(dim=3).abs().mean() < images.diff(dim=3).abs().mean() / 2


def test_the_global_seed_decides_resized_crops_which_differ_between_images() -> None:
    images = torch.rand(1, 3, 16, 16).expand(12, -1, -1, -1)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(random_resized_crop(images))
    assert torch.equal(*results)
    assert len({result.numpy().tobytes() for result in results[0]}) == 12
