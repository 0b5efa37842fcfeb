"""Typed values from plain ones: what JSON keeps of a dataclass, checked and made a dataclass again."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

from aradals._internal.optional import load_extra

T = TypeVar("T")

_LARGEST = 1e300
"""A few thousand numbers of this size still have a finite sum."""


def read_typed(kind: type[T], value: Any) -> T:
    """Make a value of a type from dicts, lists, text and numbers.

    Args:
        kind: a dataclass, or anything built of dataclasses and plain types.
        value: as JSON has it.

    Raises:
        ValueError: the value has another form or a key that the type lacks, or holds a number that sums cannot hold.
        MissingExtraError: without pydantic.
    """
    _refuse_huge(value)
    read: T = type_adapter(cast(Hashable, kind)).validate_python(value, extra="forbid")
    return read


@cache
def type_adapter(kind: Any) -> Any:
    """What pydantic knows about a type.

    Raises:
        MissingExtraError: without pydantic.
    """
    return load_extra("pydantic").TypeAdapter(kind)


def first_problem(error: Exception) -> str:
    """The first place that a value of another form is wrong at, in one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    # The first line of pydantic says only how many problems there are.
    return ": ".join(lines[1:3]) if len(lines) > 2 else f"{type(error).__name__}: {error}"


def _refuse_huge(value: Any) -> None:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_huge(item)
    elif isinstance(value, int | float) and abs(value) > _LARGEST:
        raise ValueError(f"the number {value:.3g}")
