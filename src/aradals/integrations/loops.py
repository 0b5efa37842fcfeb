"""Data sets with ids, and what AR-AdaLS needs around the training loop of another library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from aradals._internal.processes import num_processes, of_all_processes
from aradals.checks import ROUNDING
from aradals.errors import InputError
from aradals.losses import soft_cross_entropy
from aradals.robustness.scores import ScoreTable, score, score_together
from aradals.smoothing.adaptive import AdaptiveSmoothing
from aradals.smoothing.subsets import assign_subsets

IDS = "ids"
"""The key of the ids in examples and batches that are dicts."""

ScoringBatches = Iterable[tuple[Tensor, Tensor, Tensor]]
"""Batches of (ids, inputs, labels) for `score`, with inputs in [0, 1]; scores do not use the labels."""

Prepare = Callable[[nn.Module, Iterable[Any]], tuple[nn.Module, ScoringBatches]]
"""A function that makes a model of inputs in [0, 1], and such inputs, from a model and batches of its loop."""


class WithIds(Dataset[Any]):
    """A data set whose examples carry their ids: the position of each example in the data set.

    The ids say which example is in which row of a batch, in any order, repeated or left out. Wrap the whole split: a
    ``Subset`` of a wrapped data set keeps the ids of the whole, and has no ids of its own.

    Args:
        dataset: a data set with a length, of tuples such as (input, label), or of dicts.

    Raises:
        InputError: the data set has no length; later, an example is neither a tuple nor a dict, or has ids already.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> WithIds(TensorDataset(torch.tensor([0.5, 0.25]), torch.tensor([7, 8])))[1]
        (1, tensor(0.2500), tensor(8))
        >>> WithIds([{"input": 0.5, "labels": 7}])[0]
        {'input': 0.5, 'labels': 7, 'ids': 0}
    """

    def __init__(self, dataset: Any) -> None:
        if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__"):
            raise InputError(
                expected="a data set with a length, whose examples have positions",
                got=type(dataset).__name__,
                hint="list(dataset), if the examples of a stream fit into memory",
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return the example with its id: first in a tuple, under the key "ids" in a dict."""
        position = range(len(self))[index]
        example = self.dataset[position]
        if isinstance(example, Mapping) and IDS not in example:
            return {**example, IDS: position}
        if isinstance(example, tuple | list):
            return (position, *example)
        raise InputError(
            expected='examples that are tuples such as (input, label), or dicts without the key "ids"',
            got=type(example).__name__,
            hint="a data set of (input, label) examples",
        )


def take_ids(batch: Any) -> tuple[Tensor, Any]:
    """Split a batch of a data set with ids into the ids, int64, shape (N,), and the batch without them.

    Raises:
        InputError: the batch has no ids.

    Example:
        >>> take_ids([torch.tensor([4, 2]), torch.zeros(2, 3), torch.tensor([0, 1])])[0]
        tensor([4, 2])
    """
    ids, rest = None, batch
    if isinstance(batch, Mapping) and IDS in batch:
        ids, rest = batch[IDS], {name: values for name, values in batch.items() if name != IDS}
    elif isinstance(batch, tuple | list) and len(batch) > 1:
        ids, *rest = batch
        rest = type(batch)(rest)
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 1:
        raise InputError(
            expected="batches with the ids of their examples",
            got=type(batch).__name__ + " without ids",
            hint="DataLoader(WithIds(dataset), ...), with WithIds of aradals.integrations.loops",
        )
    return ids, rest


class InBox(nn.Module):
    """A model of inputs in [low, high] as a model of inputs in [0, 1].

    A distance of this package, times (high - low), is one between the model's own inputs.
    """

    def __init__(self, model: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.model, self.low, self.high = model, low, high

    def forward(self, inputs: Tensor) -> Any:
        """Compute the model's output."""
        return self.model(self.low + (self.high - self.low) * inputs)


def in_box(low: float = 0.0, high: float = 1.0) -> Prepare:
    """Make the `Prepare` for inputs that are one float tensor with values in [low, high], such as images.

    A difference of rounding, 1e-6 of the range, is accepted.

    Raises:
        InputError: low is not below high; later, a batch has other values, or several float tensors to choose from.
    """
    if not low < high:
        raise InputError(
            expected="bounds (low, high) with low < high", got=f"({low}, {high})", hint="bounds=(0.0, 1.0)"
        )

    def scaled(batches: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for batch in batches:
            ids, rest = take_ids(batch)
            inputs = _inputs_of(rest)
            smallest, largest = float(inputs.min()), float(inputs.max())
            rounding = ROUNDING * (high - low)
            if not (low - rounding <= smallest and largest <= high + rounding):
                raise InputError(
                    expected=f"inputs from {low} to {high}, for scores of robustness",
                    got=f"values from {smallest:.4g} to {largest:.4g}",
                    hint="bounds=(low, high), the least and the largest value that an input can have",
                )
            yield ids, ((inputs - low) / (high - low)).clamp(0, 1), ids

    return lambda model, batches: (model if (low, high) == (0, 1) else InBox(model, low, high), scaled(batches))


def _inputs_of(batch: Any) -> Tensor:
    """Find the inputs of a batch: the first of a sequence, or the float tensor of a dict."""
    found = [batch[0]] if isinstance(batch, Sequence) else list(batch.values())
    floats = [each for each in found if isinstance(each, Tensor) and each.is_floating_point()]
    if len(floats) != 1:
        raise InputError(
            expected="batches of (inputs, labels), or dicts with one float tensor, the inputs",
            got=f"{type(batch).__name__} with {len(floats)} float tensors",
            hint="a data set whose inputs are one float tensor",
        )
    return floats[0]


@dataclass
class AdaptiveLoop:
    """AR-AdaLS around the training loop of another library: the subsets by id, and the validation until an update.

    Attributes:
        train_set: the training split, without random augmentation; its order gives the ids.
        validation_set: the validation split.
        scoring_model: a trained model whose robustness makes the subsets; None = the model in training.
        every: epochs between two scorings, if the model in training is the scoring model.
        attack: an attack of `score`.
        prepare: makes inputs for `score`.
        batch_size: number of examples that are scored at a time.
        usage: how the loss sees each batch, for an error.
        train: subset of each training example, int64, shape (N,); None before the first scoring.
        validation: subset of each validation example.
    """

    train_set: Any
    validation_set: Any
    scoring_model: nn.Module | None
    every: int
    attack: str
    prepare: Prepare
    batch_size: int
    usage: str
    train: Tensor | None = None
    validation: Tensor | None = None
    _observed: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.every < 1 or self.batch_size < 1:
            raise InputError(
                expected="at least 1 epoch between two scorings, and a batch size of at least 1",
                got=f"every={self.every}, batch_size={self.batch_size}",
                hint="every=5, batch_size=256",
            )

    def is_due(self, epoch: int) -> bool:
        """Return True if a scoring is due before this epoch, which counts from 0."""
        if self.scoring_model is not None:
            return self.train is None
        return epoch > 0 and epoch % self.every == 0

    def score(self, model: nn.Module, num_subsets: int, collate: Callable[[list[Any]], Any] | None = None) -> None:
        """Score both splits by the scoring model, or else by ``model``, and cut new subsets (steps 1 and 2).

        If several processes train together, each scores a part of the splits, and all cut the same subsets.

        Raises:
            InputError: the scores of a process fail, see `score`.
        """
        scoring = model if self.scoring_model is None else self.scoring_model.to(next(model.parameters()).device)
        self.train, self.validation = (
            self._subsets(scoring, dataset, num_subsets, collate) for dataset in (self.train_set, self.validation_set)
        )

    def _subsets(
        self, model: nn.Module, dataset: Any, num_subsets: int, collate: Callable[[list[Any]], Any] | None
    ) -> Tensor:
        table = score_together(partial(self._score_part, model, dataset, collate))
        return assign_subsets(table.ranking, num_subsets, table.ids)  # the ids are 0, ..., N - 1

    def _score_part(self, model: nn.Module, dataset: Any, collate: Callable[[list[Any]], Any] | None) -> ScoreTable:
        wrapped, world = WithIds(dataset), num_processes()
        rank = torch.distributed.get_rank() if world > 1 else 0
        part = Subset(wrapped, range(rank, len(wrapped), world))
        # Its own generator, because a loader would otherwise take a number from that of the training.
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(part, self.batch_size, collate_fn=collate, generator=generator)
        return score(*self.prepare(model, loader), self.attack)

    def train_subsets(self, ids: Tensor) -> Tensor:
        """Return the subsets of training examples, on the device of their ids; all 0 before the first scoring."""
        return _look_up(self.train, ids, "train").to(ids.device)

    def evaluation_loss(self, criterion: AdaptiveSmoothing, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the cross-entropy without smoothing, which can be compared between epochs."""
        return soft_cross_entropy(
            logits,
            labels,
            weight=criterion.weight,
            ignore_index=criterion.ignore_index,
            reduction=criterion.reduction,
        )

    def observe(self, ids: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Keep a batch of the validation split until the update."""
        self._observed.append((ids.cpu(), labels.detach().cpu(), logits.detach().cpu()))

    def forget(self) -> None:
        """Forget the batches that were observed since the last update."""
        self._observed.clear()

    def update(self, criterion: AdaptiveSmoothing) -> dict[str, float]:
        """Update the targets by all observed batches (step 4); every process must call this method.

        Returns:
            For a logger: the new target and the measured gap, confidence minus accuracy, of each subset.

        Raises:
            InputError: no batch was observed.
        """
        if not any(of_all_processes(bool(self._observed))):
            raise self.no_call("validation")
        for ids, labels, logits in self._observed:
            subsets = None if self.train is None else _look_up(self.validation, ids, "validation")
            criterion.observe(labels, logits, subsets, ids)
        self.forget()
        target_prob = criterion.update_as_one() if self.train is None else criterion.update()
        columns = {"target_prob": target_prob.tolist(), "gap": criterion.last_gaps()}
        return {f"{name}/{r}": value for name, column in columns.items() for r, value in enumerate(column)}

    def no_call(self, part: str) -> InputError:
        """Make the error for a part of the training that has not called the loss."""
        return InputError(
            expected=f"a {part} that computes its loss by AdaptiveSmoothing", got="no call of it", hint=self.usage
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the subsets, which training needs to continue."""
        return {"train_subsets": self.train, "validation_subsets": self.validation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the subsets.

        Raises:
            InputError: they are those of splits of other sizes.
        """
        self.train, self.validation = state["train_subsets"], state["validation_subsets"]
        sizes = (len(self.train_set), len(self.validation_set))
        if self.train is not None and self.validation is not None and (len(self.train), len(self.validation)) != sizes:
            raise InputError(
                expected=f"a checkpoint of a training on {sizes[0]} + {sizes[1]} examples",
                got=f"{len(self.train)} + {len(self.validation)} examples",
                hint="the splits that the training started with",
            )


def _look_up(subsets: Tensor | None, ids: Tensor, split: str) -> Tensor:
    """Look up the subsets of ids, on the CPU."""
    ids = ids.cpu()
    if subsets is None:
        return torch.zeros_like(ids)
    if len(ids) and int(ids.max()) >= len(subsets):
        raise InputError(
            expected=f"ids of the {len(subsets)} examples of {split}_set",
            got=f"id {int(ids.max())}",
            hint=f"WithIds around the same {split} split that the callback has",
        )
    return subsets[ids]
