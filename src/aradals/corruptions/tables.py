"""Corruptions of rows of numbers, which are the columns of a table scaled to [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from aradals.corruptions.randomness import Randomness
from aradals.errors import InputError

TableCorruption = Callable[[Tensor, Randomness, float, Tensor | None], Tensor]
"""``(rows, random, amount, means) -> rows``: float32, shape (N, C). The result may leave [0, 1]."""


def column_noise(rows: Tensor, random: Randomness, scale: float, means: Tensor | None) -> Tensor:
    """Add independent normal noise, whose standard deviation is a share of the range of each column."""
    return rows + random.normal(rows.shape[1]) * scale


def missing_columns(rows: Tensor, random: Randomness, share: float, means: Tensor | None) -> Tensor:
    """Replace a share of the values of each row, at least one, by the means of their columns.

    The columns are random, and differ between rows.

    Raises:
        InputError: there are no means.
    """
    if means is None:
        raise InputError(
            expected="the means of the columns in the training data, for missing_columns",
            got="rows without a record of them",
            hint="data that a checkpoint of `aradals train` or a training split scales, or column_noise",
        )
    number = max(1, round(share * rows.shape[1]))
    missing = random.uniform(0, 1, rows.shape[1]).argsort(1)[:, :number]
    return rows.scatter(1, missing, means[missing])


TABLE_CORRUPTIONS: dict[str, tuple[TableCorruption, tuple[float, ...]]] = {
    "column_noise": (column_noise, (0.01, 0.02, 0.04, 0.07, 0.1)),
    "missing_columns": (missing_columns, (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8)),
}
"""Corruptions of rows, with their amounts at severities 1 to 5."""
