"""Robustness scores of a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from aradals.attacks import Attack, bind_attack, describe_attack
from aradals.errors import InputError
from aradals.margins import check_inputs

InputBatches = Tensor | Iterable[Tensor | tuple[Tensor, ...] | list[Tensor]]
"""Inputs (N, ...), or batches of inputs, (inputs, labels) or (ids, inputs, labels); values in [0, 1]."""

_COLUMNS = ("predicted", "score", "norm", "success", "num_forward", "num_backward")


@dataclass(frozen=True)
class ScoreTable:
    """The robustness of every example of a data set, sorted by id; tensors on the CPU of shape (N,).

    Attributes:
        ids: int64, unique; the row of each example in its split.
        predicted: int64; the class that the model predicts.
        score: finite; ranks the examples, larger = more robust.
        norm: L2 norm of the smallest perturbation found to change the prediction; inf where none was found.
        success: bool; whether one was found.
        num_forward: int64; forward passes spent on the example.
        num_backward: int64; backward passes.
        attack: the attack and all its settings.
    """

    ids: Tensor
    predicted: Tensor
    score: Tensor
    norm: Tensor
    success: Tensor
    num_forward: Tensor
    num_backward: Tensor
    attack: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_failed(self) -> int:
        """Number of examples whose score is an estimate, because no perturbation was found."""
        return int((~self.success).sum())


def score(
    model: nn.Module,
    batches: InputBatches,
    attack: str | Attack = "deepfool",
    *,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
    **attack_args: Any,
) -> ScoreTable:
    """How far each input is from changing the model's own prediction.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K). It is left as it was found.
        batches: a tensor of inputs (N, ...); or an iterable of batches, each a tensor of inputs, a pair
            (inputs, labels) or a triple (ids, inputs, labels). Without ids, an example's id is its running number.
            Of examples with the same id, as distributed samplers add to even out batches, the first counts.
        attack: a name in ``aradals.attacks.ATTACKS``, or a function like those there.
        batch_size: number of examples attacked at a time, where ``batches`` is a tensor.
        progress: called after every batch with the number of examples done.
        **attack_args: arguments of the attack.

    Raises:
        InputError: inputs that are not floats in [0, 1]; rows that cannot be told apart; logits that are NaN, of a
            wrong shape, or probabilities; no such attack or argument; a model whose prediction nothing changes.
    """
    run_attack = bind_attack(attack, attack_args)
    parts: list[tuple[Tensor, ...]] = []
    num_done = 0
    for ids, inputs in _numbered(batches, batch_size):
        check_inputs(inputs)
        result = run_attack(model, inputs)
        # All but the perturbed inputs, so that memory does not grow with the size of an input.
        columns = (ids.long(), *(getattr(result, name) for name in _COLUMNS))
        parts.append(tuple(column.cpu() for column in columns))
        num_done += len(ids)
        if progress is not None:
            progress(num_done)
    if not parts:
        raise InputError(expected="at least one example", got="none", hint="another split or a larger limit")

    ids, *results = (torch.cat(column) for column in zip(*parts, strict=True))
    ids, order = ids.sort(stable=True)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[1:] = ids[1:] != ids[:-1]
    by_name = {name: column[order][first] for name, column in zip(_COLUMNS, results, strict=True)}
    table = ScoreTable(ids=ids[first], **by_name, attack=describe_attack(run_attack))
    if not (table.success | (table.score > 0)).any():
        raise InputError(
            expected="a model whose prediction depends on its input",
            got=f"no change of prediction and no gradient for any of {len(table)} examples",
            hint="a trained model whose forward does not detach, round or threshold",
        )
    return table


def _numbered(batches: InputBatches, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, inputs) for every batch."""
    if isinstance(batches, Tensor):
        if batch_size < 1:
            raise InputError(expected="batch_size >= 1", got=str(batch_size), hint="256")
        batches = torch.split(batches, batch_size) if len(batches) else ()
    num_seen = 0
    for batch in batches:
        parts = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        if not 1 <= len(parts) <= 3 or not all(isinstance(part, Tensor) for part in parts):
            raise InputError(
                expected="batches of inputs, (inputs, labels) or (ids, inputs, labels)",
                got=f"{type(batch).__name__} of {', '.join(type(part).__name__ for part in parts)}",
                hint="a collate function that returns tensors",
            )
        if len(parts) == 3:
            ids, inputs, _ = parts
            _check_ids(ids, len(inputs))
        else:
            if isinstance(batches, DataLoader) and not _in_order(batches):
                raise InputError(
                    expected="ids with the batches, or batches in the order of the data set",
                    got="a shuffling DataLoader without ids",
                    hint="shuffle=False, or a data set of (id, input, label)",
                )
            inputs = parts[0]
            ids = torch.arange(num_seen, num_seen + len(inputs))
        num_seen += len(inputs)
        yield ids, inputs


def _check_ids(ids: Tensor, num_inputs: int) -> None:
    if ids.is_floating_point() or ids.shape != (num_inputs,):
        raise InputError(
            expected=f"{num_inputs} integer ids",
            got=f"{ids.dtype} of shape {tuple(ids.shape)}",
            hint="batches of (ids, inputs, labels), in this order",
        )


def _in_order(loader: DataLoader[Any]) -> bool:
    """Whether the rows come in the order of the data set, as far as can be told."""
    if isinstance(loader.dataset, IterableDataset):
        return True
    sampler = loader.sampler if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", None)
    return isinstance(sampler, SequentialSampler)
