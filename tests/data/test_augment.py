from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aradals.data import AUGMENTATIONS, random_flip_crop


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
