"""Data sets without ids get them, and every sampler keeps them beside their examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from aradals.errors import InputError
from aradals.integrations.loops import WithIds, take_ids

INPUTS, LABELS = torch.arange(20).double()[:, None] / 20, torch.arange(20) % 3
PAIRS = TensorDataset(INPUTS, LABELS)
DICTS = [{"input": each, "labels": int(label)} for each, label in zip(INPUTS, LABELS, strict=True)]


@pytest.mark.parametrize("dataset", [PAIRS, DICTS, ConcatDataset([PAIRS, PAIRS])], ids=["pairs", "dicts", "joined"])
@pytest.mark.parametrize(
    "settings",
    [
        {"shuffle": True},
        {"shuffle": True, "drop_last": True},
        {"sampler": RandomSampler(range(20), replacement=True, num_samples=33)},
        {"sampler": WeightedRandomSampler([1.0] * 5 + [0.0] * 15, 13), "drop_last": True},
        {"batch_sampler": [[3, 3, 1], [19], [0, 2]]},
    ],
    ids=["shuffle", "drop last", "replacement", "weights", "batches"],
)
def test_an_id_is_beside_its_example(dataset: Any, settings: dict[str, Any]) -> None:
    sized: dict[str, Any] = {} if "batch_sampler" in settings else {"batch_size": 6}
    batches = list(DataLoader(WithIds(dataset), **sized, **settings))
    assert batches
    for batch in batches:
        ids, rest = take_ids(batch)
        inputs, labels = rest.values() if isinstance(rest, dict) else rest
        assert inputs.equal(INPUTS[ids % 20])
        assert labels.equal(LABELS[ids % 20])


def test_a_part_of_a_wrapped_data_set_keeps_the_ids_of_the_whole() -> None:
    wrapped = WithIds(PAIRS)
    part = Subset(wrapped, [7, 2])
    assert [part[row][0] for row in range(2)] == [7, 2]
    assert wrapped[-1][0] == 19
    with pytest.raises(IndexError):
        wrapped[20]


class Stream(IterableDataset[Any]):
    """Examples without positions."""

    def __iter__(self) -> Iterator[Any]:
        return iter(DICTS)


def test_what_has_no_ids_is_refused() -> None:
    with pytest.raises(InputError, match="got Stream; try list"):
        WithIds(Stream())
    assert WithIds(list(Stream()))[4]["ids"] == 4
    for example in (torch.zeros(3), {"ids": 3, "input": 0.5}):
        with pytest.raises(InputError, match="examples that are tuples"):
            WithIds([example])[0]
    for batch in (torch.zeros(3), {"input": torch.zeros(3)}, [torch.zeros(3), torch.zeros(3)], [torch.tensor([[1]])]):
        with pytest.raises(InputError, match=r"DataLoader\(WithIds"):
            take_ids(batch)
