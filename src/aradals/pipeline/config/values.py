"""Checks of values that several settings share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aradals.errors import InputError

MAX_SEED = 2**32 - 1
"""Largest seed that every generator takes."""

_MAX_COUNT = 10**9


def at_least(minimum: float, values: Mapping[str, float], *, at_most: float = _MAX_COUNT) -> None:
    """Raise InputError for a value, by its name, outside of the limits."""
    for name, value in values.items():
        if not value >= minimum:
            raise InputError(expected=f"{name} of at least {minimum}", got=str(value), hint="a larger number")
        if value > at_most:
            raise InputError(expected=f"{name} of at most {at_most:,}", got=str(value), hint="a smaller number")


def once_each(what: str, given: Sequence[object]) -> None:
    """Raise InputError for values that occur twice."""
    if len(set(given)) < len(given):
        raise InputError(expected=f"every {what} once", got=str(given), hint="removing the duplicates")


def check_seeds(*seeds: int) -> None:
    """Raise InputError for a seed that some generator does not take."""
    if not 0 <= min(seeds) <= max(seeds) <= MAX_SEED:
        raise InputError(
            expected=f"seeds of at least 0 and at most {MAX_SEED}", got=", ".join(map(str, seeds)), hint="0, 1, 2"
        )
