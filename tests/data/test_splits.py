from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aradals.data import Examples, make_splits, splits_hash
from aradals.errors import InputError


def make_source(num: int, *, offset: int = 0, num_classes: int = 2) -> Examples:
    inputs = (torch.arange(num).float()[:, None] + offset) / 1000
    return Examples(inputs, torch.zeros(num), num_classes=num_classes, name="toy")


@given(st.integers(1, 40), st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_parts_are_disjoint_complete_and_of_the_asked_sizes(
    train: int, validation: int, calibration: int, seed: int
) -> None:
    source, test = make_source(train + validation + calibration), make_source(5, offset=500)
    splits = make_splits(source, test, validation=validation, calibration=calibration, seed=seed)
    parts = [splits.train, splits.validation, splits.calibration]
    assert [len(part) for part in parts] == [train, validation, calibration]
    assert sorted(torch.cat([part.ids for part in parts]).tolist()) == list(range(len(source)))
    assert splits.test is test
    for part in parts:  # each example still has its own input
        assert torch.equal(part.batch(range(len(part)))[1], source.batch(part.ids)[1])


def test_seed_decides_and_train_size_limits() -> None:
    source, test = make_source(100), make_source(5, offset=500)
    first = make_splits(source, test, validation=10, calibration=20, seed=1)
    again = make_splits(source, test, validation=10, calibration=20, seed=1)
    other = make_splits(source, test, validation=10, calibration=20, seed=2)
    small = make_splits(source, test, validation=10, calibration=20, train_size=7, seed=1)
    assert splits_hash(first) == splits_hash(again) != splits_hash(other)
    assert len(small.train) == 7
    assert set(small.train.ids.tolist()) < set(first.train.ids.tolist())
    assert torch.equal(small.validation.ids, first.validation.ids)


@given(st.lists(st.integers(0, 30), min_size=40, max_size=60), st.integers(0, 100))
def test_copies_of_an_example_are_in_one_split(values: list[int], seed: int) -> None:
    inputs = torch.tensor([*values, *range(100, 160)])[:, None] / 1000
    source = Examples(inputs, torch.zeros(len(inputs)), num_classes=2)
    splits = make_splits(source, make_source(5, offset=500), validation=20, calibration=20, train_size=50, seed=seed)
    parts = [set(part.hashes.tolist()) for part in (splits.train, splits.validation, splits.calibration)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert [len(splits.validation), len(splits.calibration)] == [20, 20]  # there are enough single examples
    assert 45 <= len(splits.train) <= 50


def test_splits_of_copies_alone_are_refused() -> None:
    source = Examples(torch.zeros(30, 1), torch.zeros(30), num_classes=2, name="same")
    with pytest.raises(InputError, match=r"different examples in same.* got 1 different ones of 30"):
        make_splits(source, make_source(5, offset=500), validation=5, calibration=5, seed=0)


def test_hash_ignores_order_but_not_the_split() -> None:
    source, test = make_source(30), make_source(5, offset=500)
    splits = make_splits(source, test, validation=5, calibration=5, seed=0)
    shuffled = type(splits)(splits.train.select([*range(19, -1, -1)]), splits.validation, splits.calibration, test)
    swapped = type(splits)(splits.train, splits.calibration, splits.validation, test)
    assert splits_hash(shuffled) == splits_hash(splits)
    assert splits_hash(swapped) != splits_hash(splits)
    assert [name for name, _ in splits.items()] == ["train", "validation", "calibration", "test"]


@pytest.mark.parametrize(
    "sizes",
    [
        {"validation": 6, "calibration": 4},
        {"validation": -1, "calibration": 4},
        {"validation": 2, "calibration": 2, "train_size": 7},
        {"validation": 2, "calibration": 2, "train_size": 0},
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="10 examples of toy"):
        make_splits(make_source(10), make_source(5), **sizes, seed=0)


def test_sources_with_different_classes_are_refused() -> None:
    with pytest.raises(InputError, match="class_names"):
        make_splits(make_source(10), make_source(5, num_classes=3), validation=1, calibration=1, seed=0)
