"""Random numbers that belong to examples, not to batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Randomness:
    """Random numbers of a batch, from one counter-based generator (Philox) for each example.

    The key of a generator consists of the corruption, the severity and the id of the example, so that the example gets
    the same numbers in any batch, order or process. One object takes the states of all generators in turn, because a
    new object for each example takes ten times as long as the numbers of a row.

    Args:
        corruption: name of the corruption.
        severity: 1 to 5.
        ids: int64, shape (N,).
    """

    def __init__(self, corruption: str, severity: int, ids: Tensor) -> None:
        digest = hashlib.blake2b(f"{corruption}/{severity}".encode(), digest_size=8).digest()
        seed, mask = int.from_bytes(digest, "little"), 2**64 - 1
        self._bits = np.random.Philox(key=0)
        start: Any = self._bits.state
        keys = (np.array([seed, example & mask], dtype=np.uint64) for example in ids.tolist())
        self._states: list[Any] = [{**start, "state": {**start["state"], "key": key}} for key in keys]

    def _generators(self) -> Iterator[np.random.Generator]:
        """Yield the generator of each example, which is valid until the next one."""
        generator = np.random.Generator(self._bits)
        for row, state in enumerate(self._states):
            self._bits.state = state
            yield generator
            self._states[row] = self._bits.state

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, float32, shape (N, *shape)."""
        values = np.empty((len(self._states), *shape), dtype=np.float32)
        for row, generator in zip(values, self._generators(), strict=True):
            generator.standard_normal(out=row, dtype=np.float32)
        return torch.from_numpy(values)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw uniform numbers from ``low`` to ``high``, float32, shape (N, *shape)."""
        values = np.empty((len(self._states), *shape), dtype=np.float32)
        for row, generator in zip(values.reshape(len(values), -1), self._generators(), strict=True):
            generator.random(out=row, dtype=np.float32)
        return torch.from_numpy(values) * (high - low) + low

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw integers from ``low`` to ``high - 1``, int64, shape (N, *shape)."""
        values = [generator.integers(low, high, shape, dtype=np.int16) for generator in self._generators()]
        return torch.from_numpy(np.array(values, dtype=np.int64))

    def poisson(self, rates: Tensor) -> Tensor:
        """Draw Poisson numbers with the given rates, float32, shape (N, ...)."""
        values = np.empty(rates.shape, dtype=np.float32)
        for row, rate, generator in zip(values, rates.double().numpy(), self._generators(), strict=True):
            row[...] = generator.poisson(rate)
        return torch.from_numpy(values)
