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
from aradals.pipeline.config import MethodConfig
from aradals.smoothing.subsets import (
    assign_subsets,
    column_subsets,
    fold_of,
    match_subsets,
    random_subsets,
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


def attack_of(settings: MethodConfig) -> str | None:
    """The score that ranks examples, where it is another than the recipe's."""
    return "log_odds" if settings.grouping == "confidence" else None


def num_folds(settings: MethodConfig) -> int:
    """Parts of the training split, each scored by a model that has not seen it; with one part, one model scores all."""
    return 2 if settings.cross_fit else 1


def folds_of(ids: Tensor, num_folds: int, seed: int) -> Tensor:
    """The fold of each training example, int64, shape (N,)."""
    return fold_of(ids, seed) if num_folds > 1 else torch.zeros_like(ids)


def chance_subsets(settings: MethodConfig, train: Tensor, validation: Tensor, seed: int) -> TrainingSubsets:
    """Subsets that have nothing to do with robustness.

    Args:
        settings: of the method.
        train: ids of the training split.
        validation: ids of the validation split.
        seed: of the study.
    """
    return TrainingSubsets(*(random_subsets(ids, settings.num_subsets, seed) for ids in (train, validation)))


def score_subsets(
    settings: MethodConfig, train: Tensor, validation: Tensor, folds: Tensor, scores: Sequence[tuple[Tensor, Tensor]]
) -> TrainingSubsets:
    """Subsets by rank within the fold for training examples, and by the mean of all ranks for validation examples.

    Two models' scores are not on one scale, so that they are compared by their ranks alone.

    Args:
        settings: of the method.
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
    return TrainingSubsets(subsets, assign_subsets(ranks, settings.num_subsets, validation))


def _matched(settings: MethodConfig, scores: Tensor, ids: Tensor, validation_scores: Tensor) -> Tensor:
    """Training subsets: by rank, or by the thresholds between the validation subsets."""
    if settings.matching == "thresholds":
        return match_subsets(scores, subset_thresholds(validation_scores, settings.num_subsets))
    return assign_subsets(scores, settings.num_subsets, ids)


def value_subsets(
    settings: MethodConfig, train: Tensor, validation: Tensor, values: npt.NDArray[Any]
) -> TrainingSubsets:
    """One subset for each value of a column of categories, or the ranks of a column of numbers with a fraction.

    Args:
        settings: of the method.
        train: ids of the training split.
        validation: ids of the validation split.
        values: of the column, by id.

    Raises:
        InputError: another number of categories than of subsets.
    """
    if values.dtype.kind == "f":
        scores = torch.tensor(values)
        return TrainingSubsets(*(assign_subsets(scores[ids], settings.num_subsets, ids) for ids in (train, validation)))
    subsets, names = column_subsets(values)
    if len(names) != settings.num_subsets:
        raise InputError(
            expected=f"num_subsets={len(names)}, one for each value of the column {settings.group_column}",
            got=str(settings.num_subsets),
            hint=f"num_subsets={len(names)}",
        )
    return TrainingSubsets(subsets[train], subsets[validation])
