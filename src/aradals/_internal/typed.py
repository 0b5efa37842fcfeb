"""Typed values from plain values: dataclasses from the dicts and lists of JSON, with checks by pydantic."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any, TypeVar, cast

from aradals._internal.optional import load_extra
from aradals.errors import InputError

T = TypeVar("T")

_LARGEST = 1e300
"""A few thousand numbers of this size still have a finite sum."""


def read_typed(kind: type[T], value: Any) -> T:
    """Make a value of a type from dicts, lists, text and numbers.

    Args:
        kind: a dataclass, or a type that consists of dataclasses and plain types.
        value: dicts, lists, text and numbers as they are in JSON.

    Raises:
        ValueError: the value has another form or an unknown key, or contains a number so large that sums overflow.
        MissingExtraError: pydantic is not installed.
    """
    _refuse_huge(value)
    read: T = type_adapter(cast(Hashable, kind)).validate_python(value, extra="forbid")
    return read


@cache
def type_adapter(kind: Any) -> Any:
    """Return the pydantic adapter of a type.

    Raises:
        MissingExtraError: pydantic is not installed.
    """
    return load_extra("pydantic").TypeAdapter(kind)


def first_problem(error: Exception) -> str:
    """Say in one line what is wrong with a value, and where in it; the first of several problems is enough."""
    if not (details := getattr(error, "errors", None)):
        return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    [first, *_] = details(include_url=False, include_input=False)
    cause = first.get("ctx", {}).get("error")
    return str(cause) if isinstance(cause, InputError) else f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _refuse_huge(value: Any) -> None:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_huge(item)
    elif isinstance(value, int | float) and abs(value) > _LARGEST:
        raise ValueError(f"the number {value:.3g}" if isinstance(value, float) else f"{len(str(value))} digits")
