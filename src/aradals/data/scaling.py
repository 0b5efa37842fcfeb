"""Columns of numbers, scaled to [0, 1] by the smallest and the largest values of the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aradals.errors import InputError


@dataclass(frozen=True)
class Scaling:
    """Ranges of numeric columns.

    Attributes:
        features: names of the columns, in the order of the inputs.
        low: smallest value of each column in the training data.
        high: largest value of each column in the training data.
    """

    features: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @staticmethod
    def fit(values: npt.NDArray[np.float64], features: Sequence[str]) -> Scaling:
        """Measure the ranges of values, shape (N, columns)."""
        return Scaling(tuple(features), tuple(values.min(0).tolist()), tuple(values.max(0).tolist()))

    @staticmethod
    def read(record: object) -> Scaling:
        """Read the ranges from the `record` in a file.

        Raises:
            InputError: the content is of another kind.
        """
        found = record if isinstance(record, Mapping) else {}
        parts = [found.get(name) for name in ("features", "low", "high")]
        lists = [part for part in parts if isinstance(part, list)]
        numbers = [value for part in lists[1:] for value in part]
        if (
            len(lists) < 3
            or len(set(map(len, lists))) > 1
            or not all(isinstance(name, str) for name in lists[0])
            or not all(isinstance(value, int | float) and np.isfinite(value) for value in numbers)
        ):
            raise InputError(
                expected="the names, the lowest and the highest values of columns",
                got=f"{record!r:.100}",
                hint="a checkpoint that `aradals train` has written",
            )
        return Scaling(tuple(lists[0]), tuple(map(float, lists[1])), tuple(map(float, lists[2])))

    @property
    def record(self) -> dict[str, Any]:
        """The ranges as plain values for JSON."""
        return {name: list(values) for name, values in asdict(self).items()}

    def apply(self, values: npt.NDArray[np.float64], features: Sequence[str], where: str) -> npt.NDArray[np.float32]:
        """Scale values, shape (N, columns), and put the columns in the order of the training data.

        A column with one value in the training data becomes 0 where it has this value.

        Raises:
            InputError: a column is missing.
        """
        missing = [name for name in self.features if name not in features]
        if missing:
            raise InputError(
                expected=f"the columns of the training data in {where}: {', '.join(self.features[:20])}",
                got=f"a table without {', '.join(missing[:20])}",
                hint="a table with these columns",
            )
        chosen = values[:, [list(features).index(name) for name in self.features]]
        low, high = np.array(self.low), np.array(self.high)
        scaled: npt.NDArray[np.float32] = ((chosen - low) / np.where(high > low, high - low, 1)).astype(np.float32)
        return scaled
