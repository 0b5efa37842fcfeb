"""Examples in memory, batches and loaders, as batches whose examples have ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from aradals.errors import InputError

InputBatches = Tensor | Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]
"""Inputs of shape (N, ...), a tuple (inputs, labels), or batches of inputs, (inputs, labels) or (ids, inputs, labels);
values in [0, 1]."""


def numbered(batches: InputBatches, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield (ids, inputs, labels) for every batch; labels are None if the batches have none.

    If the batches have no ids, the id of an example is its running number.

    Args:
        batches: inputs, or inputs and labels, or batches of them.
        batch_size: number of examples in a batch of inputs that are in memory.

    Raises:
        InputError: a batch of another kind, or rows without a clear identity.
    """
    num_seen = 0
    for batch in _in_batches(batches, batch_size):
        parts = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        if not 1 <= len(parts) <= 3 or not all(isinstance(part, Tensor) for part in parts):
            raise InputError(
                expected="batches of inputs, (inputs, labels) or (ids, inputs, labels)",
                got=f"{type(batch).__name__} of {', '.join(type(part).__name__ for part in parts)}",
                hint="a collate function that returns tensors",
            )
        if len(parts) == 3:
            ids, inputs, labels = parts
            _check_ids(ids, len(inputs))
            yield ids, inputs, labels
        else:
            if isinstance(batches, DataLoader) and not _in_order(batches):
                raise InputError(
                    expected="ids with the batches, or batches in the order of the data set",
                    got="a shuffling DataLoader without ids",
                    hint="shuffle=False, or a data set of (id, input, label) examples",
                )
            inputs = parts[0]
            yield torch.arange(num_seen, num_seen + len(inputs)), inputs, parts[1] if len(parts) == 2 else None
        num_seen += len(inputs)


def in_memory(batches: Any) -> tuple[Tensor, ...] | None:
    """Return the tensors of examples that are in memory, (inputs,) or (inputs, labels); None for batches.

    Labels are integers of shape (N,), which no batch of inputs consists of.
    """
    if isinstance(batches, Tensor):
        return (batches,)
    if not isinstance(batches, tuple) or len(batches) != 2 or not all(isinstance(each, Tensor) for each in batches):
        return None
    labels: Tensor = batches[1]
    return None if labels.ndim != 1 or labels.is_floating_point() else batches


def _in_batches(batches: InputBatches, batch_size: int) -> Iterable[Any]:
    """Divide examples that are in memory into batches."""
    tensors = in_memory(batches)
    if tensors is None:
        return batches
    if batch_size < 1:
        raise InputError(expected="batch_size >= 1", got=f"batch_size={batch_size}", hint="batch_size=256")
    if len({len(each) for each in tensors}) > 1:
        raise InputError(
            expected="as many labels as inputs",
            got=f"{len(tensors[0])} inputs and {len(tensors[1])} labels",
            hint="the labels of these inputs, in the same order",
        )
    return zip(*(each.split(batch_size) for each in tensors), strict=True) if len(tensors[0]) else ()


def _check_ids(ids: Tensor, num_inputs: int) -> None:
    if ids.is_floating_point() or ids.shape != (num_inputs,):
        raise InputError(
            expected=f"{num_inputs} integer ids",
            got=f"{ids.dtype} of shape {tuple(ids.shape)}",
            hint="batches of (ids, inputs, labels), in this order",
        )


def _in_order(loader: DataLoader[Any]) -> bool:
    """Return True if the rows are known to come in the order of the data set."""
    if isinstance(loader.dataset, IterableDataset):
        return True
    sampler = loader.sampler if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", None)
    return isinstance(sampler, SequentialSampler)
