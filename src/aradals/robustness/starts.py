"""Choice of the examples that an attack starts from, once for a whole data set."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from aradals.attacks import Attack, get_attack
from aradals.attacks.secant import boundaries_near
from aradals.attacks.starts import NUM_STARTS, Starts, as_starts

_NUM_EXAMPLES, _NUM_PROBED, _MAX_MISSED = 128, 32, 0.05

Numbered = Iterator[tuple[Tensor, Tensor]]
"""Batches of (ids, inputs)."""


def spread_rows(num_examples: int) -> Tensor:
    """Draw the rows of the examples to start from, always the same for a data set of this size.

    These are a quarter of the examples, but at least 32 and at most 128. Their boundaries cost some 22 passes each.
    """
    count = min(max(num_examples // 4, _NUM_PROBED), _NUM_EXAMPLES)
    return torch.randperm(num_examples, generator=torch.Generator().manual_seed(0))[:count]


def sample_loader(loader: DataLoader[Any]) -> DataLoader[Any] | None:
    """Load the examples to start from, spread over the data set; None if the loader has no rows to choose from."""
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return None
    chosen = Subset(loader.dataset, spread_rows(len(loader.dataset)).tolist())  # type: ignore[arg-type]
    return DataLoader(chosen, batch_size=_NUM_PROBED, collate_fn=loader.collate_fn)


def first_examples(batches: Numbered) -> tuple[Tensor | None, Numbered]:
    """Read the first 128 examples: return them, and all batches from the beginning."""
    read: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        read.append(batch)
        if sum(len(inputs) for _, inputs in read) >= _NUM_EXAMPLES:
            break
    first = torch.cat([inputs for _, inputs in read])[:_NUM_EXAMPLES] if read else None
    return first, itertools.chain(read, batches)


def uses_starts(run_attack: Attack) -> bool:
    """Return True if the attack starts from other examples, and these are not bound yet."""
    settings = inspect.signature(run_attack).parameters
    if "starts" not in settings or settings["starts"].default is not None:
        return False
    return "num_starts" not in settings or settings["num_starts"].default != 0


def with_starts(run_attack: Attack, model: nn.Module, examples: Tensor, batch_size: int) -> Attack:
    """Bind the examples that an attack starts from, and their number for each input.

    If the number is open (None), 32 of the examples decide: if straight ways to the others find clearly nearer
    boundaries than gradients for more than 5 % of them, every input gets 3 starts, else none. The decision depends on
    the model and the examples alone. The model is called with at most ``batch_size`` inputs.
    """
    parts = [as_starts(model, part) for part in examples.split(batch_size)]
    starts = Starts(torch.cat([part.inputs for part in parts]), torch.cat([part.predicted for part in parts]))
    number = inspect.signature(run_attack).parameters.get("num_starts")
    if number is None or number.default is not None:
        return get_attack(run_attack, starts=starts)
    probed, others = torch.arange(len(starts.inputs), device=starts.inputs.device).tensor_split([_NUM_PROBED])
    boundaries = boundaries_near(model, starts, probed, batch_size)
    if not boundaries.missed.sum() > _MAX_MISSED * len(probed):
        return get_attack(run_attack, num_starts=0)
    starts.boundaries = boundaries
    if len(others) > 0:
        starts.boundaries += boundaries_near(model, starts, others, batch_size)
    return get_attack(run_attack, starts=starts, num_starts=NUM_STARTS)
