"""The subsets of a method before its training: by robustness, confidence, chance, or a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from aradals._internal.json_files import settings_digest
from aradals.errors import InputError
from aradals.pipeline.config import ColumnSubsets, MethodConfig, RandomSubsets, RankedSubsets
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
        train: subsets of the training split.
        validation: subsets of the validation split.
    """

    train: Tensor
    validation: Tensor

    @property
    def digest(self) -> str:
        """Digest of the subsets of all examples."""
        return settings_digest([self.train.tolist(), self.validation.tolist()])


def ranking_of(method: MethodConfig) -> RankedSubsets | None:
    """Return the subsets of a method that another model scores for; None for all other methods."""
    return method.targets.subsets if isinstance(method.targets.subsets, RankedSubsets) else None


def attack_of(subsets: RankedSubsets | None) -> str | None:
    """Return the score that ranks examples, if it differs from the recipe's score."""
    return "log_odds" if subsets and subsets.by == "confidence" else None


def folds_of(ids: Tensor, num_folds: int, seed: int) -> Tensor:
    """Compute the fold of each training example, int64, shape (N,)."""
    return fold_of(ids, seed) if num_folds > 1 else torch.zeros_like(ids)


def chance_subsets(subsets: RandomSubsets, train: Tensor, validation: Tensor, seed: int) -> TrainingSubsets:
    """Cut both splits at random, so that the subsets do not depend on robustness.

    Args:
        subsets: settings of the subsets.
        train: ids of the training split.
        validation: ids of the validation split.
        seed: seed of the study.
    """
    return TrainingSubsets(*(random_subsets(ids, subsets.count, seed) for ids in (train, validation)))


def score_subsets(
    subsets: RankedSubsets,
    train: Tensor,
    validation: Tensor,
    folds: Tensor,
    scores: Sequence[Sequence[Tensor]],
) -> TrainingSubsets:
    """Cut training examples by rank within their fold, and validation examples by the mean of all their ranks.

    The scores of two models have different scales, so that only their ranks are comparable.

    Args:
        subsets: settings of the subsets.
        train: ids of the training split.
        validation: ids of the validation split.
        folds: fold of each training example, see `folds_of`.
        scores: for each fold, the scores of its training examples, and those of all validation examples.
    """
    assigned, ranks = torch.empty_like(train), torch.zeros_like(validation)
    for fold, (train_scores, validation_scores) in enumerate(scores):
        own = folds == fold
        assigned[own] = _matched(subsets, train_scores, train[own], validation_scores)
        ranks += assign_subsets(validation_scores, len(validation), validation)  # each example is a separate subset
    return TrainingSubsets(assigned, assign_subsets(ranks, subsets.count, validation))


def _matched(subsets: RankedSubsets, scores: Tensor, ids: Tensor, validation_scores: Tensor) -> Tensor:
    """Cut training examples by rank, or by the thresholds between the validation subsets."""
    if subsets.matching == "thresholds":
        return match_subsets(scores, subset_thresholds(validation_scores, subsets.count))
    return assign_subsets(scores, subsets.count, ids)


def value_subsets(
    subsets: ColumnSubsets, train: Tensor, validation: Tensor, values: npt.NDArray[Any]
) -> TrainingSubsets:
    """Make a subset of each category of a column, or cut by the ranks of a column of numbers with a fraction.

    Args:
        subsets: settings of the subsets.
        train: ids of the training split.
        validation: ids of the validation split.
        values: values of the column, by id.

    Raises:
        InputError: the number of categories is not the number of subsets.
    """
    if values.dtype.kind == "f":
        scores = torch.tensor(values)
        return TrainingSubsets(*(assign_subsets(scores[ids], subsets.count, ids) for ids in (train, validation)))
    assigned, names = column_subsets(values)
    if len(names) != subsets.count:
        raise InputError(
            expected=f"count={len(names)}, one for each value of the column {subsets.column}",
            got=str(subsets.count),
            hint=f"count={len(names)}",
        )
    return TrainingSubsets(assigned[train], assigned[validation])
