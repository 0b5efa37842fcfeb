"""Labeled data of any kind become examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

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


@pytest.mark.parametrize("labels", [LABELS + 0.5, LABELS[:9], torch.ones(10, 3), LABELS.view(5, 2), torch.tensor(1)])
def test_other_labels_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(InputError, match="one label for each input"):
        as_examples((INPUTS, labels))


def test_inputs_out_of_range_and_no_examples() -> None:
    with pytest.raises(InputError, match=r"inputs of photos in \[0, 1\]"):
        as_examples((INPUTS * 255, LABELS), name="photos")
    with pytest.raises(InputError, match="at least one example"):
        as_examples([])
