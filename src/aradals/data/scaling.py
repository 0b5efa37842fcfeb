"""Columns of numbers, scaled to [0, 1] by the smallest and the largest values of the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from aradals.errors import InputError


@dataclass(frozen=True)
class Scaling:
    """Ranges and means of numeric columns.

    Attributes:
        features: names of the columns, in the order of the inputs.
        low: smallest value of each column in the training data.
        high: largest value of each column in the training data.
        mean: mean of each column over the rows of the training data that have a value.
    """

    features: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]

    @staticmethod
    def fit(values: npt.NDArray[np.float64], features: Sequence[str], where: str) -> Scaling:
        """Measure the columns of values, shape (N, columns), where NaN is a missing value.

        Raises:
            InputError: a column has no value.
        """
        if empty := [name for name, column in zip(features, values.T, strict=True) if np.isnan(column).all()]:
            raise InputError(
                expected=f"at least one value in each column of the training data in {where}",
                got=f"no value in {', '.join(empty[:20])}",
                hint="a table without these columns",
            )
        measured = (np.nanmin(values, 0), np.nanmax(values, 0), np.nanmean(values, 0))
        low, high, mean = (tuple(each.tolist()) for each in measured)
        return Scaling(tuple(features), low, high, mean)

    @staticmethod
    def read(record: object) -> Scaling:
        """Read the ranges and means from the `record` in a file.

        Raises:
            InputError: the content is of another kind.
        """
        found = record if isinstance(record, Mapping) else {}
        parts = [found.get(each.name) for each in fields(Scaling)]
        lists = [part for part in parts if isinstance(part, list)]
        numbers = [value for part in lists[1:] for value in part]
        if (
            len(lists) < len(parts)
            or len(set(map(len, lists))) > 1
            or not all(isinstance(name, str) for name in lists[0])
            or not all(isinstance(value, int | float) and np.isfinite(value) for value in numbers)
        ):
            raise InputError(
                expected="the names, the lowest and highest values, and the means of columns",
                got=f"{record!r:.100}",
                hint="a checkpoint that `aradals train` has written",
            )
        low, high, mean = (tuple(map(float, part)) for part in lists[1:])
        return Scaling(tuple(lists[0]), low, high, mean)

    @property
    def record(self) -> dict[str, Any]:
        """The ranges and means as plain values for JSON."""
        return {name: list(values) for name, values in asdict(self).items()}

    @property
    def scaled_mean(self) -> npt.NDArray[np.float32]:
        """The mean of each column after the scaling."""
        return self._scale(np.array(self.mean))

    def apply(self, values: npt.NDArray[np.float64], features: Sequence[str], where: str) -> npt.NDArray[np.float32]:
        """Scale values, shape (N, columns), and put the columns in the order of the training data.

        A missing value becomes the mean of its column. A column with one value in the training data becomes 0 where it
        has this value.

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
        return self._scale(np.where(np.isnan(chosen), self.mean, chosen))

    def invert(self, inputs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Compute the values that `apply` scales to these inputs, shape (N, columns)."""
        values: npt.NDArray[np.float64] = inputs * self._widths + np.array(self.low)
        return values

    @property
    def _widths(self) -> npt.NDArray[np.float64]:
        low, high = np.array(self.low), np.array(self.high)
        return np.where(high > low, high - low, 1.0)

    def _scale(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        scaled: npt.NDArray[np.float32] = ((values - np.array(self.low)) / self._widths).astype(np.float32)
        return scaled
