"""Settings from YAML or options, converted to the dataclasses that declare them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from aradals.errors import InputError

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "3"),
    float: ("a number", "0.1"),
    bool: ("true or false", "true"),
    str: ("text", "quotation marks around it"),
    Path: ("a path", "quotation marks around it"),
    list: ("a list", "[1, 2]"),
    dict: ("a mapping", "{key: value}"),
    NoneType: ("null", "null"),
}
"""Name of each type in errors, and a value for the hint."""


class OptionText(str):
    """Text of an option; a number in it is read as a number even if any value is allowed."""


def read(kind: Any, value: object, key: str = "") -> Any:
    """Read a value as the type ``kind``, which consists of dataclasses, unions, lists, dicts and plain types.

    Args:
        kind: annotation of a field, or a dataclass.
        value: value from YAML; text is parsed as YAML if ``kind`` is not text.
        key: name of the value in errors, such as ``training.epochs``.

    Raises:
        InputError: a key is unknown or missing, a value has another type, or a dataclass refuses a value.
    """
    kinds = _alternatives(kind)
    if isinstance(value, Mapping):
        if records := list(filter(is_dataclass, kinds)):
            return _read_record(records[0] if len(records) == 1 else _choose(records, value, key), value, key)
        if get_origin(kind) is dict:
            return {str(name): read(get_args(kind)[1], item, _join(key, name)) for name, item in value.items()}
    for each in sorted(kinds, key=lambda each: each is str):  # text is last, because any text is text
        with suppress(ValueError):
            return _convert(each, value)
    raise _wrong_type(kinds, value, key)


def parse_yaml(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        ValueError: the text is not YAML.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    finally:
        loader.dispose()


def nearest(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """Find the known name that is most similar to a misspelled one."""
    return next(iter(difflib.get_close_matches(name, known, n=1)), otherwise)


def is_required(field: Field[Any]) -> bool:
    """Return True if a field of a dataclass has no default."""
    return field.default is MISSING and field.default_factory is MISSING


class _Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-3 as a number, like YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _read_record(kind: Any, value: Mapping[Any, object], key: str) -> Any:
    """Read a dataclass from its keys and values."""
    known, hints = {field.name: field for field in fields(kind)}, get_type_hints(kind)
    for name in value:
        if name not in known:
            place = ("--" if isinstance(name, OptionText) else "") + _join(key, "")
            meant = nearest(str(name), known, otherwise="")
            raise InputError(
                expected=f"a setting of {key or 'the recipe'}",
                got=repr(f"{place}{name}"),
                hint=f"{place}{meant}" if meant else f"one of {', '.join(known)}",
            )
    for name, field in known.items():
        if is_required(field) and value.get(name) is None:
            raise InputError(expected=f"a value for {_join(key, name)}", got="none", hint=f"{name}: ...")
    settings = {name: read(hints[name], item, _join(key, name)) for name, item in value.items()}
    try:
        return kind(**settings)
    except InputError as error:
        if "." in key:  # the error of a group of the recipe, such as ``training``, has its name already
            error.args = (f"expected {key}: {str(error).removeprefix('expected ')}",)
        raise


def _choose(records: list[Any], value: Mapping[Any, object], key: str) -> Any:
    """Choose the dataclass of a mapping: by a common key of fixed values, such as ``by``, then by its keys."""
    choices = {record: _literals(record) for record in records}
    for tag in set.intersection(*map(set, choices.values())) & value.keys():
        records = [record for record in records if value[tag] in choices[record][tag]]
        if not records:
            known = tuple(choice for each in choices.values() for choice in each[tag])
            raise _wrong_type((Literal[known],), value[tag], _join(key, tag))
    return max(records, key=lambda record: len(value.keys() & {field.name for field in fields(record)}))


def _literals(record: Any) -> dict[str, tuple[Any, ...]]:
    """Return the keys of a dataclass that have fixed values, with these values."""
    return {name: get_args(hint) for name, hint in get_type_hints(record).items() if get_origin(hint) is Literal}


def _convert(kind: Any, value: object) -> Any:
    """Convert ``value`` to a type that is not a dataclass.

    Raises:
        ValueError: the value has another type.
    """
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Any:
        return _unquoted(value) if isinstance(value, OptionText) else value
    if origin in (str, Path) and isinstance(value, str):
        return origin(value)
    if isinstance(value, str) and origin not in (str, Path) and value not in inner:
        value = parse_yaml(value)
    if origin is Literal and value in inner:
        return inner[inner.index(value)]
    if origin is list and isinstance(value, list):
        return [read(inner[0], item) for item in value]
    if origin is dict and isinstance(value, dict):
        return {str(name): read(inner[1], item) for name, item in value.items()}
    if origin is float and type(value) is int:
        return float(value)
    if origin in (int, float, bool, NoneType) and type(value) is origin:
        return value
    raise ValueError(kind)


def _unquoted(text: OptionText) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        return str(text)


def _wrong_type(kinds: tuple[Any, ...], value: object, key: str) -> InputError:
    said = [_described(kind) for kind in kinds if kind is not NoneType]
    return InputError(
        expected=f"{key} to be {' or '.join(words for words, _ in said)}".strip(), got=repr(value), hint=said[0][1]
    )


def _described(kind: Any) -> tuple[str, str]:
    """Name a type in an error, and choose a value for the hint."""
    if get_origin(kind) is Literal:
        choices = list(map(str, get_args(kind)))
        return (f"one of {', '.join(choices)}" if len(choices) > 1 else repr(choices[0])), choices[0]
    if is_dataclass(kind):
        return f"settings ({', '.join(field.name for field in fields(kind))})", "{} for the defaults"
    words, example = _WORDS[get_origin(kind) or kind]
    inner = [_described(each)[0] for each in get_args(kind) if get_origin(kind) is list]
    return f"{words} ({inner[0]} each)" if inner else words, example


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)
