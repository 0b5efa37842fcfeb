from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from aradals.data import Examples, as_batch, overlap
from aradals.errors import InputError


class CountingReader:
    """A lazy source of images that counts how often it is asked."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.calls = images, 0

    def __call__(self, rows: Sequence[int]) -> Tensor:
        self.calls += 1
        return self.images[list(rows)]


def make_images(num: int = 10) -> Tensor:
    return torch.randint(256, (num, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def make_examples(num: int = 10) -> Examples:
    return Examples(make_images(num), torch.arange(num) % 3, num_classes=3, ids=torch.arange(num) + 100, name="toy")


def test_one_example_is_id_float_input_and_label() -> None:
    example_id, inputs, label = make_examples()[4]
    assert (example_id, label) == (104, 1)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs, make_images()[4].float() / 255)


def test_uint8_and_float_sources_give_the_same_inputs() -> None:
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    _, inputs, _ = Examples(images, torch.zeros(1), num_classes=2)[0]
    assert inputs.flatten().tolist() == pytest.approx([0, 0.2, 1])
    _, inputs, _ = Examples(torch.tensor([[0.0, 0.2, 1.0]]).double(), torch.zeros(1), num_classes=2)[0]
    assert inputs.dtype == torch.float32
    assert inputs.tolist() == pytest.approx([0, 0.2, 1])


def test_a_loader_fetches_each_batch_in_one_operation() -> None:
    reader = CountingReader(make_images())
    examples = Examples(reader, torch.zeros(10), num_classes=2)
    batches = list(DataLoader(examples, batch_size=4, sampler=RandomSampler(examples), collate_fn=as_batch))
    assert reader.calls == 3
    ids = torch.cat([batch[0] for batch in batches])
    assert sorted(ids.tolist()) == list(range(10))
    torch.testing.assert_close(torch.cat([batch[1] for batch in batches]), make_images()[ids].float() / 255)


def test_batches_are_in_order_and_leave_nothing_out() -> None:
    ids, inputs, labels = (torch.cat(parts) for parts in zip(*make_examples().batches(4), strict=True))
    assert ids.tolist() == list(range(100, 110))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    torch.testing.assert_close(inputs, make_images().float() / 255)


@given(st.lists(st.integers(0, 9), max_size=12), st.data())
def test_selections_compose_and_keep_ids(outer: list[int], data: st.DataObject) -> None:
    inner = data.draw(st.lists(st.integers(0, len(outer) - 1), max_size=5)) if outer else []
    examples = make_examples()
    examples.hashes  # noqa: B018 - cached hashes have to follow the selection
    twice = examples.select(outer).select(inner)
    once = make_examples().select([outer[position] for position in inner])
    for ours, theirs in zip(twice.batch(range(len(twice))), once.batch(range(len(once))), strict=True):
        assert torch.equal(ours, theirs)
    assert twice.hashes.tolist() == once.hashes.tolist()
    assert twice.ids.tolist() == [100 + outer[position] for position in inner]


def test_select_takes_masks() -> None:
    mask = np.zeros(10, dtype=bool)
    mask[[2, 7]] = True
    assert make_examples().select(mask).ids.tolist() == [102, 107]


def test_shape_is_known_of_an_empty_selection_and_of_a_lazy_source() -> None:
    examples = Examples(CountingReader(make_images()), torch.zeros(10), num_classes=2)
    assert examples.select([]).input_shape == make_examples().select([]).input_shape == (3, 4, 5)


def test_hashes_are_blake2b_of_shape_and_values() -> None:
    on_16_bits = make_images(3).numpy().astype(np.uint16) * 257
    expected = [
        int.from_bytes(hashlib.blake2b(b"(3, 4, 5)" + image.tobytes(), digest_size=8).digest(), "little")
        for image in on_16_bits
    ]
    assert make_examples(3).hashes.tolist() == expected
    assert make_examples(3).hashes.dtype == np.uint64


def test_hashes_ignore_memory_layout_labels_and_ids_but_not_shape() -> None:
    images = make_images(600)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    ours = Examples(images, torch.zeros(600), num_classes=2).hashes
    assert np.array_equal(ours, Examples(channels_last, torch.ones(600), num_classes=2).hashes)
    assert np.array_equal(ours, Examples(CountingReader(images), torch.ones(600), num_classes=2).hashes)
    assert overlap(ours, Examples(images.flatten(1), torch.zeros(600), num_classes=2).hashes) == 0


def test_overlap_counts_examples_of_the_second() -> None:
    examples = make_examples()
    assert overlap(examples.select([0, 1, 2]).hashes, examples.select([2, 2, 3, 1]).hashes) == 3


def test_fingerprint_depends_on_inputs_labels_and_order() -> None:
    images, labels = make_images(), torch.arange(10) % 3
    fingerprint = make_examples().fingerprint
    assert len(fingerprint) == 16
    assert Examples(images, labels, num_classes=3).fingerprint == fingerprint
    changed = images.clone()
    changed[9, 2, 3, 4] ^= 1
    assert Examples(changed, labels, num_classes=3).fingerprint != fingerprint
    assert Examples(images, (labels + 1) % 3, num_classes=3).fingerprint != fingerprint
    assert make_examples().select([1, 0, *range(2, 10)]).fingerprint != fingerprint


def test_pickles_with_a_lazy_source() -> None:
    examples = Examples(CountingReader(make_images()), torch.zeros(10), num_classes=2).select([3, 1])
    copy = pickle.loads(pickle.dumps(examples))
    assert copy.fingerprint == examples.fingerprint
    assert copy.ids.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.tensor([0, 2, 1]), "got 2 in row 1"),
        (torch.zeros(3, 2), torch.tensor([0, 0, -1]), "got -1 in row 2"),
        (torch.zeros(3, 2), torch.zeros(2), "3 inputs"),
        (torch.tensor([[0.0, 1.5]]), torch.zeros(1), r"\[0, 1\], got values from 0 to 1.5"),
        (torch.tensor([[0.0, float("nan")]]), torch.zeros(1), "nan"),
        (torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1), "int64"),
    ],
)
def test_what_cannot_be_used_is_refused(inputs: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Examples(inputs, labels, num_classes=2)


def test_the_same_image_as_bytes_and_as_floats_has_the_same_hash() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(16, 1, 4, 4)
    labels = torch.zeros(16, dtype=torch.int64)
    stored = [images, images.float() / 255, images.double() / 255]
    hashes = [Examples(inputs, labels, num_classes=2).hashes.tolist() for inputs in stored]
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes[0])) == 16


@pytest.mark.parametrize(("side", "size"), [(8, 256), (64, 256), (224, 20), (4000, 1)])
def test_batches_of_large_inputs_are_small(side: int, size: int) -> None:
    inputs = torch.zeros(1, 3, 1, 1, dtype=torch.uint8).expand(300, 3, side, side)
    examples = Examples(lambda rows: inputs[: len(rows)], torch.zeros(300), num_classes=2)
    assert len(next(iter(examples.batches()))[0]) == size
