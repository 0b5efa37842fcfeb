"""The batches of a training, in an order that depends only on the seed and the epoch."""

from __future__ import annotations

import math
import multiprocessing
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from aradals.data import Examples, as_batch
from aradals.data.examples import as_float
from aradals.errors import InputError
from aradals.inference.predictions import Batch
from aradals.pipeline.train.module import epoch_seed, member_seed
from aradals.pipeline.workers import num_own_cores

_MAX_LOADER_WORKERS = 8


def member_batches(
    num_examples: int,
    batch_size: int,
    seed: int,
    epoch: int,
    num_members: int = 1,
    *,
    rank: int = 0,
    num_ranks: int = 1,
) -> tuple[list[list[int]], torch.Generator]:
    """Iterate over the batches of one epoch: positions of the examples, one part for each member of an ensemble.

    The order of a member depends only on its seed and the epoch. So a resumed run sees the same batches as an
    uninterrupted one, and a member of an ensemble in step sees the same batches as if it were trained alone. If several
    processes train together, each has an equal part of every batch, so that the batches are those of one process.

    Returns:
        The batches, and the generator of the first member's order.
    """
    generators = [torch.Generator().manual_seed(epoch_seed(member_seed(seed, m), epoch)) for m in range(num_members)]
    orders = [torch.randperm(num_examples, generator=generator) for generator in generators]
    parts = zip(*(order.split(batch_size) for order in orders), strict=True)
    batches = [torch.cat([member[rank::num_ranks] for member in part]).tolist() for part in parts]
    # A last batch of one example would break batch norm.
    return batches[: max(1, num_examples // batch_size)], generators[0]


def part_of(examples: Examples, rank: int, num_ranks: int) -> Examples:
    """Select the part of one of several processes; some examples are repeated, so that all parts are equally large."""
    rows = torch.arange(math.ceil(len(examples) / num_ranks) * num_ranks) % len(examples)
    return examples.select(rows[rank::num_ranks])


class StoredExamples(Dataset[Any]):
    """Examples in batches as they are stored, because bytes travel to the device faster than floats.

    A batch is an InputError if it cannot be read: a loader would raise it as a RuntimeError if it came from a worker.
    """

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, positions: list[int]) -> Batch | InputError:
        """Read a batch; a DataLoader calls this method by its name."""
        try:
            return self.examples.stored_batch(positions)
        except InputError as error:
            return error


class Batches(LightningDataModule):
    """Data module with a new loader of fixed order for each epoch, because Lightning may iterate more than once.

    Args:
        train: the training split.
        validation: the validation split.
        batch_size: examples per step, for each member of an ensemble.
        seed: seed of the first member.
        num_members: number of members of an ensemble in step.
        loader_workers: number of processes that read ahead; None lets `choose_loader_workers` decide.
    """

    def __init__(
        self,
        train: Examples,
        validation: Examples,
        batch_size: int,
        seed: int,
        num_members: int,
        loader_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.train, self.validation, self.batch_size = train, validation, batch_size
        self.seed, self.num_members, self.loader_workers = seed, num_members, loader_workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Make the loader of the current epoch."""
        assert self.trainer is not None
        batches, generator = member_batches(
            len(self.train),
            self.batch_size,
            self.seed,
            self.trainer.current_epoch,
            self.num_members,
            rank=self.trainer.global_rank,
            num_ranks=self.trainer.world_size,
        )
        # The loader gets the generator, too, because it would draw from the global one, which dropout uses.
        return self._loader(self.train, batch_sampler=batches, generator=generator)

    def val_dataloader(self) -> DataLoader[Any]:
        """Make the loader of this process's part of the validation split."""
        assert self.trainer is not None
        part = part_of(self.validation, self.trainer.global_rank, self.trainer.world_size)
        return self._loader(part, batch_size=max(self.batch_size, 256))

    def _loader(self, examples: Examples, **order: Any) -> DataLoader[Any]:
        assert self.trainer is not None
        return DataLoader(
            StoredExamples(examples),
            num_workers=choose_loader_workers(examples, self.loader_workers),
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            collate_fn=as_batch,
            **order,
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Raise the error of a batch that could not be read."""
        if isinstance(batch, InputError):
            raise batch
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Convert the inputs to floats, on the device."""
        ids, inputs, labels = batch
        return ids, as_float(inputs), labels


def choose_loader_workers(examples: Examples, wanted: int | None = None) -> int:
    """Choose the number of processes that read batches ahead; it changes no result.

    By default, data in memory needs none, and data that is read on demand gets one for each core of this process, up to
    8. A process that has one core for itself, such as a worker of a study, reads between its steps.
    """
    if wanted is not None:
        return wanted
    cores = num_own_cores()
    may_start_processes = not multiprocessing.current_process().daemon
    return min(cores, _MAX_LOADER_WORKERS) if cores > 1 and may_start_processes and not examples.in_memory else 0
