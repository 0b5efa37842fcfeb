"""The subsets that a method trains with, before it starts: by robustness, confidence, chance, or a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from aradals.errors import InputError
from aradals.pipeline.artifacts import settings_digest
from aradals.pipeline.config import ColumnSubsets, RankedSubsets
from aradals.smoothing.subsets import (
    assign_subsets,
    column_subsets,
    fold_of,
    match_subsets,
    subset_thresholds,
)


@dataclass(frozen=True)
class TrainingSubsets:
    """Subset of each example, int64, in the order of its split.

    Attributes:
        train: of the training split.
        validation: of the validation split.
    """

    train: Tensor
    validation: Tensor

    @property
    def digest(self) -> str:
        """Of which example is in which subset."""
        return settings_digest([self.train.tolist(), self.validation.tolist()])


def folds_of(ids: Tensor, num_folds: int, seed: int) -> Tensor:
    """The fold of each training example, int64, shape (N,)."""
    return fold_of(ids, seed) if num_folds > 1 else torch.zeros_like(ids)


def score_subsets(
    settings: RankedSubsets, train: Tensor, validation: Tensor, folds: Tensor, scores: Sequence[tuple[Tensor, Tensor]]
) -> TrainingSubsets:
    """Subsets by rank within the fold for training examples, and by the mean of all ranks for validation examples.

    Two models' scores are not on one scale, so that they are compared by their ranks alone.

    Args:
        settings: of the subsets.
        train: ids of the training split.
        validation: ids of the validation split.
        folds: of each training example, see `folds_of`.
        scores: by fold, those of its training examples, and those of all validation examples.
    """
    subsets, ranks = torch.empty_like(train), torch.zeros_like(validation)
    for fold, (train_scores, validation_scores) in enumerate(scores):
        own = folds == fold
        subsets[own] = _matched(settings, train_scores, train[own], validation_scores)
        ranks += assign_subsets(validation_scores, len(validation), validation)  # each a subset of its own
    return TrainingSubsets(subsets, assign_subsets(ranks, settings.count, validation))


def _matched(settings: RankedSubsets, scores: Tensor, ids: Tensor, validation_scores: Tensor) -> Tensor:
    """Training subsets: by rank, or by the thresholds between the validation subsets."""
    if settings.matching == "thresholds":
        return match_subsets(scores, subset_thresholds(validation_scores, settings.count))
    return assign_subsets(scores, settings.count, ids)


def value_subsets(
    settings: ColumnSubsets, train: Tensor, validation: Tensor, values: npt.NDArray[Any]
) -> TrainingSubsets:
    """One subset for each value of a column of categories, or the ranks of a column of numbers with a fraction.

    Args:
        settings: of the subsets.
        train: ids of the training split.
        validation: ids of the validation split.
        values: of the column, by id.

    Raises:
        InputError: another number of categories than of subsets.
    """
    if values.dtype.kind == "f":
        scores = torch.tensor(values)
        return TrainingSubsets(*(assign_subsets(scores[ids], settings.count, ids) for ids in (train, validation)))
    subsets, names = column_subsets(values)
    if len(names) != settings.count:
        raise InputError(
            expected=f"count={len(names)}, one for each value of the column {settings.column}",
            got=str(settings.count),
            hint=f"count={len(names)}",
        )
    return TrainingSubsets(subsets[train], subsets[validation])
