"""Examples from tensors and from other data loaders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from aradals.data.examples import Examples
from aradals.errors import InputError

Data = Examples | tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
"""Labeled data: `Examples`, (inputs, labels), or a ``DataLoader`` or other iterable of batches (inputs, labels)."""


def as_examples(data: Data, *, name: str = "examples") -> Examples:
    """Turn labeled data into `Examples`, whose ids are their positions.

    A loader is read once, from its first batch to its last, and its data is kept in memory. If the data does not fit in
    memory, make `Examples` with a reader instead.

    Args:
        data: `Examples`, which stay as they are; (inputs, labels); or batches (inputs, labels). Inputs are uint8 or
            float in [0, 1], labels are class indices.
        name: name of the data in messages and reports.

    Raises:
        InputError: there are no labels or no examples, labels are not class indices, or inputs are out of range.

    Example:
        >>> len(as_examples((torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 1, 0]))))
        5
    """
    if isinstance(data, DataLoader) and isinstance(data.sampler, SequentialSampler | RandomSampler):
        data = data.dataset if isinstance(data.dataset, Examples) else data
    if isinstance(data, Examples):
        return data
    batches = [data] if _is_batch(data) else _batches(data)
    pairs = list(map(_as_pair, batches))
    if not sum(len(labels) for _, labels in pairs):
        raise InputError(expected="at least one example", got="no example", hint="data with examples")
    inputs, labels = (torch.cat(parts).detach().cpu() for parts in zip(*pairs, strict=True))
    return Examples(inputs, labels, num_classes=max(int(labels.max()) + 1, 1), name=name)


def _is_batch(data: object) -> bool:
    return isinstance(data, Tensor) or (isinstance(data, tuple | list) and isinstance(next(iter(data), None), Tensor))


def _batches(data: object) -> Iterable[Any]:
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | dict):
        raise _unlabeled(type(data).__name__)
    return data


def _as_pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Check a batch, and return its inputs and class indices."""
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        sizes = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise _unlabeled(f"a {type(batch).__name__}{sizes}")
    inputs, labels = batch
    integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not integers or labels.shape != inputs.shape[:1]:
        raise InputError(
            expected="one class index for each input",
            got=f"labels of type {str(labels.dtype).removeprefix('torch.')} and shape {tuple(labels.shape)} "
            f"for inputs of shape {tuple(inputs.shape)}",
            hint="integers from 0 to K - 1, shape (N,)",
        )
    return inputs, labels


def _unlabeled(got: str) -> InputError:
    return InputError(
        expected="labeled data: (inputs, labels) as tensors, or a DataLoader of such batches",
        got=got,
        hint="(inputs, labels), or aradals.data.load_data",
    )
