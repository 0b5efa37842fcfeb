"""Labeled data of any kind become examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from aradals.data import Examples, as_batch, as_examples
from aradals.errors import InputError

INPUTS = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(10) % 3


@pytest.mark.parametrize(
    "data",
    [
        (INPUTS, LABELS),
        [INPUTS, LABELS],
        DataLoader(TensorDataset(INPUTS, LABELS), batch_size=4),
        [(INPUTS[:3], LABELS[:3]), (INPUTS[3:], LABELS[3:])],
        ((INPUTS[rows], LABELS[rows]) for rows in torch.arange(10).split(7)),
        Examples(INPUTS, LABELS, num_classes=3),
        Examples(INPUTS, LABELS, num_classes=3).batches(4),
    ],
    ids=["tuple", "list", "loader", "batches", "generator", "examples", "loader of examples"],
)
def test_the_same_examples(data: Any) -> None:
    examples = as_examples(data)
    ids, inputs, labels = next(iter(examples.batches(10)))
    assert torch.equal(ids, torch.arange(10))
    assert torch.equal(inputs, INPUTS)
    assert torch.equal(labels, LABELS)
    assert examples.num_classes == 3


def test_examples_stay_as_they_are() -> None:
    examples = Examples(INPUTS, LABELS, num_classes=5, ids=torch.arange(10) + 7)
    assert as_examples(examples) is examples
    assert as_examples(examples.batches()) is examples


def test_the_names_of_a_mapping_are_listed() -> None:
    with pytest.raises(InputError, match=r"inputs, images, .*pixel_values.*labels, label.*got a mapping with picture"):
        as_examples([{"picture": INPUTS, "label": LABELS}])


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (INPUTS, "inputs without labels"),
        (iter([INPUTS]), "inputs without labels"),
        (DataLoader(TensorDataset(INPUTS), batch_size=4), "inputs without labels"),
        (DataLoader(TensorDataset(INPUTS, LABELS, LABELS), batch_size=4), "a list of 3"),
        ([{"picture": INPUTS, "label": LABELS}], "a mapping with picture, label"),
        ("digits", "str"),
        (3, "int"),
        (
            DataLoader(
                Examples(INPUTS, LABELS, num_classes=3), sampler=SubsetRandomSampler([1, 2]), collate_fn=as_batch
            ),
            "a tuple of 3",
        ),
    ],
)
def test_data_without_labels_are_refused(data: Any, got: str) -> None:
    with pytest.raises(InputError, match="expected labeled data") as caught:
        as_examples(data)
    assert f"got {got}; try" in str(caught.value)


def test_token_ids_are_refused_with_the_way_to_their_embeddings() -> None:
    with pytest.raises(InputError, match=r"embedded\(model, batch\)"):
        as_examples([{"input_ids": LABELS, "labels": LABELS}])


@pytest.mark.parametrize("labels", [LABELS + 0.5, LABELS[:9], torch.ones(10, 3), LABELS.view(5, 2), torch.tensor(1)])
def test_other_labels_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(InputError, match="one label for each input"):
        as_examples((INPUTS, labels))


def test_inputs_out_of_range_and_no_examples() -> None:
    with pytest.raises(InputError, match=r"inputs of photos in \[0, 1\]"):
        as_examples((INPUTS * 255, LABELS), name="photos")
    with pytest.raises(InputError, match="at least one example"):
        as_examples([])


# Tensors, arrays and lists; loaders of every kind


class Dicts(Dataset[dict[str, Any]]):
    """Data set as that of a processor of Transformers."""

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"pixel_values": INPUTS[row], "labels": int(LABELS[row]), "file": f"{row}.png"}


class Stream(IterableDataset[tuple[torch.Tensor, int]]):
    """Stream that does not divide itself among workers."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        yield from zip(INPUTS, LABELS.tolist(), strict=True)


def as_arrays(batch: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.stack([inputs.numpy() for inputs, _ in batch]), np.array([int(label) for _, label in batch])


PLAIN = TensorDataset(INPUTS, LABELS)


@pytest.mark.parametrize(
    "data",
    [
        (INPUTS.numpy(), LABELS.numpy()),
        (INPUTS.tolist(), LABELS.tolist()),
        (list(INPUTS), list(LABELS)),
        (INPUTS, LABELS.to(torch.uint8)),
        (INPUTS, LABELS.to(torch.uint16)),
        (INPUTS, LABELS[:, None].int()),
        (INPUTS, torch.eye(3)[LABELS]),
        (INPUTS, LABELS.float()),
        {"inputs": INPUTS, "labels": LABELS},
        PLAIN,
        Dicts(),
        DataLoader(Dicts(), batch_size=4),
        DataLoader(PLAIN, batch_size=4, collate_fn=as_arrays),
        DataLoader(PLAIN, batch_size=4, shuffle=True, drop_last=True),
        DataLoader(PLAIN, batch_size=4, num_workers=2),
        DataLoader(Stream(), batch_size=4),
        DataLoader(Stream(), batch_size=4, num_workers=2),
        DataLoader(PLAIN, batch_sampler=BatchSampler(SequentialSampler(PLAIN), 3, drop_last=False)),
        DataLoader(PLAIN, batch_size=None),
        list(zip(INPUTS, LABELS.tolist(), strict=True)),
    ],
    ids=[
        *("arrays", "lists", "lists of tensors", "uint8", "uint16", "column", "one-hot", "floats", "mapping"),
        *("data set", "dicts", "loader of dicts", "loader of arrays", "shuffled", "workers", "stream"),
        *("stream and workers", "batches of a sampler", "no batches", "list of examples"),
    ],
)
def test_other_kinds_are_the_same_examples(data: Any) -> None:
    examples = as_examples(data)
    _, inputs, labels = examples.batch(range(len(examples)))
    torch.testing.assert_close(inputs, INPUTS)
    assert labels.tolist() == LABELS.tolist()
    assert (examples.num_classes, examples.has_names) == (3, False)


def test_a_sampler_that_repeats_or_drops_is_told() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [0.0] * 5 + [1.0] * 5
    loader = DataLoader(PLAIN, batch_size=4, sampler=WeightedRandomSampler(weights, 20, generator=generator))
    with pytest.warns(UserWarning, match="chooses 5 of 10 examples, 15 of its draws are repeats; each is read once"):
        examples = as_examples(loader)
    assert torch.equal(examples.batch(range(5))[1], INPUTS[5:])
    with pytest.warns(UserWarning, match="SubsetRandomSampler chooses 3 of 10 examples; each is read once"):
        examples = as_examples(DataLoader(PLAIN, sampler=SubsetRandomSampler([7, 1, 3])))
    assert torch.equal(examples.batch(range(3))[1], INPUTS[[1, 3, 7]])
    with pytest.warns(UserWarning, match="chooses 8 of 10"):
        as_examples(DataLoader(PLAIN, batch_sampler=BatchSampler(SequentialSampler(PLAIN), 4, drop_last=True)))


def test_names_as_labels_and_classes_of_a_data_set() -> None:
    examples = as_examples((INPUTS, np.array(["cat", "ant", "bee"])[LABELS]))
    assert (examples.class_names, examples.labels.tolist()[:3]) == (("ant", "bee", "cat"), [2, 0, 1])
    data = TensorDataset(INPUTS, LABELS)
    data.classes = ["x", "y", "z", "unseen"]  # type: ignore[attr-defined]
    examples = as_examples(DataLoader(data, batch_size=4))
    assert (examples.class_names, examples.num_classes) == (("x", "y", "z", "unseen"), 4)


@pytest.mark.parametrize("data", [INPUTS, INPUTS.numpy(), (INPUTS,), DataLoader(TensorDataset(INPUTS), batch_size=3)])
def test_scores_need_no_labels(data: Any) -> None:
    examples = as_examples(data, labeled=False)
    assert (len(examples), examples.is_labeled) == (10, False)
    with pytest.raises(InputError, match="examples without labels"):
        as_examples(examples)
