"""Typed values from plain values: dataclasses from the dicts and lists that JSON stores."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from aradals.errors import InputError


def decode(form: Any, value: object) -> Any:
    """Make a value of the type ``form`` from dicts, lists, strings and numbers; the inverse of `dataclasses.asdict`.

    Args:
        form: a dataclass, a union, a literal, a list, a tuple of given types, a dict or a type of JSON. A number does
            not change: 1 does not become 1.0, so that the digest of a value is the same after reading.
        value: a value from `dataclasses.asdict` or from JSON.

    Raises:
        InputError: ``value`` has another form.
    """
    origin, inner = get_origin(form), get_args(form)
    if is_dataclass(form) and isinstance(form, type):
        return _decode_fields(form, value)
    if origin in (Union, UnionType):
        for each in inner:
            with suppress(InputError):
                return decode(each, value)
    elif origin is Literal and value in inner:
        return value
    elif origin is list and isinstance(value, list | tuple):
        return [decode(inner[0], item) for item in value]
    elif origin is tuple and isinstance(value, list | tuple) and len(value) == len(inner):
        return tuple(decode(each, item) for each, item in zip(inner, value, strict=True))
    elif origin is dict and isinstance(value, Mapping):
        return {decode(inner[0], key): decode(inner[1], item) for key, item in value.items()}
    elif form is Any or type(value) is form or (form is float and type(value) is int):
        return value
    raise InputError(expected=f"a value of the form {form}", got=repr(value)[:100], hint="a record as it was written")


def _decode_fields(form: type, value: object) -> Any:
    hints = get_type_hints(form)
    names = {field.name for field in fields(form)}
    if not isinstance(value, Mapping) or value.keys() != names:
        raise InputError(
            expected=f"a record of a {form.__name__} with the keys {', '.join(sorted(names))}",
            got=", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)[:100],
            hint="a record as it was written",
        )
    return form(**{name: decode(hints[name], value[name]) for name in names})
