"""The batches of a training, in an order that depends only on the seed and the epoch."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from aradals.data import Examples, as_batch
from aradals.pipeline.train.module import epoch_seed, member_seed


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


class Batches(LightningDataModule):
    """Data module with a new loader of fixed order for each epoch, because Lightning may iterate more than once."""

    def __init__(self, train: Examples, validation: Examples, batch_size: int, seed: int, num_members: int) -> None:
        super().__init__()
        self.train, self.validation, self.batch_size = train, validation, batch_size
        self.seed, self.num_members = seed, num_members

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
        return DataLoader(self.train, batch_sampler=batches, generator=generator, collate_fn=as_batch)

    def val_dataloader(self) -> DataLoader[Any]:
        """Make the loader of this process's part of the validation split."""
        assert self.trainer is not None
        part = part_of(self.validation, self.trainer.global_rank, self.trainer.world_size)
        return part.batches(max(self.batch_size, 256))
