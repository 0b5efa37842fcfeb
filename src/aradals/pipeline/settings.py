"""Settings from YAML or options, converted to the dataclasses that declare them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import chain
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


class PlainText(str):
    """Text as it was written without quotation marks: the type of the setting decides if it is a number or text."""

    def __repr__(self) -> str:
        return str(self)


class OptionText(PlainText):
    """The text or the name of an option."""

    __repr__ = str.__repr__


def read(kind: Any, value: object, key: str = "") -> Any:
    """Read a value as the type ``kind``, which consists of dataclasses, unions, lists, dicts and plain types.

    Args:
        kind: annotation of a field, or a dataclass.
        value: as `read_yaml` gives it; text is parsed as YAML if ``kind`` is not text. The text of an option may be a
            list with commas and without brackets; quotation marks and brackets protect a comma: ``["a,b"]``.
        key: name of the value in errors, such as ``training.epochs``.

    Raises:
        InputError: a key is unknown or missing, a value has another type, or a dataclass refuses a value.
    """
    kinds, given = _alternatives(kind), value
    if isinstance(value, Mapping):
        if records := list(filter(is_dataclass, kinds)):
            return _read_record(records[0] if len(records) == 1 else _choose(records, value, key), value, key)
        if get_origin(kind) is dict:
            return {str(name): read(get_args(kind)[1], item, _join(key, name)) for name, item in value.items()}
    if isinstance(value, OptionText) and get_origin(kind) is list and not value.lstrip().startswith("["):
        value = [OptionText(part.strip()) for part in value.split(",")] if value.strip() else []
    # Text in quotation marks is text if it may be; other text is so only if it is nothing else.
    for each in sorted(kinds, key=lambda each: (each is str) == isinstance(value, PlainText)):
        with suppress(ValueError):
            return _convert(each, value)
    raise _wrong_type(kinds, given, key)


def parse_yaml(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        ValueError: the text is not YAML, or it is larger than any recipe.
    """
    return resolved(read_yaml(text))


def read_yaml(text: str) -> Any:
    """Parse a YAML text, but keep numbers, dates, true and false as `PlainText`; keys are text.

    So a method can be called ``1`` or ``yes``, and `read` finds the text as it was written.

    Raises:
        ValueError: see `parse_yaml`; or a key occurs twice in a mapping.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"more than {MAX_CHARACTERS} characters")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_extent(node)
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    finally:
        if loader is not None:
            loader.dispose()


def resolved(value: Any) -> Any:
    """Replace each `PlainText` in lists and mappings by the number, date, true or false that YAML sees in it."""
    if isinstance(value, dict):
        return {name: resolved(item) for name, item in value.items()}
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if not isinstance(value, PlainText):
        return value
    try:
        if isinstance(value, OptionText):
            return parse_yaml(value)
        loader = _Values("")
        tag = loader.resolve(yaml.ScalarNode, str(value), (True, False))  # type: ignore[no-untyped-call]
        return loader.construct_object(yaml.ScalarNode(tag, str(value)))
    except ValueError:  # an option such as "[a", or a date such as 2020-13-45
        return str(value)


MAX_CHARACTERS = 100_000
MAX_NODES = 20_000
MAX_DEPTH = 50
"""Limits of a YAML text, far above those of any recipe. Aliases of aliases can make a short text grow without end."""


def _check_extent(root: yaml.Node) -> None:
    """Raise ValueError for too many or too deep values, counted as if every alias were written out."""
    known: dict[yaml.Node, tuple[int, int]] = {}

    def extent(node: yaml.Node, depth: int) -> tuple[int, int]:
        """Count the values and the levels from a node on; a node within itself exceeds the depth."""
        if depth < MAX_DEPTH and node not in known:
            children = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
            below = [] if isinstance(node, yaml.ScalarNode) else [extent(child, depth + 1) for child in children]
            known[node] = 1 + sum(size for size, _ in below), 1 + max((levels for _, levels in below), default=0)
        size, levels = known.get(node, (1, 1))
        if size > MAX_NODES or depth + levels > MAX_DEPTH:
            raise ValueError(f"more than {MAX_NODES} values or {MAX_DEPTH} levels, aliases included")
        return size, levels

    extent(root, 0)


def nearest(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """Find the known name that ``name`` may mean: its last part, its initials (``lr``), or a misspelled name."""
    word, choices = name.lstrip("-").replace("-", "_"), list(known)
    last_parts = {each: each.lstrip("-").rpartition(".")[2] for each in choices}
    by_part = [each for each, part in last_parts.items() if word == part]
    by_initials = [each for each, part in last_parts.items() if len(word) > 1 and word == _initials(part)]
    return next(iter(by_part or by_initials or difflib.get_close_matches(name, choices, n=1)), otherwise)


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


def is_required(field: Field[Any]) -> bool:
    """Return True if a field of a dataclass has no default."""
    return field.default is MISSING and field.default_factory is MISSING


class _Values(yaml.SafeLoader):
    """YAML that knows 1e-3 for a number, as YAML 1.2 does."""


_Values.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class _Loader(_Values):
    """YAML in which keys and scalars stay text, except null."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Make every key text, and refuse a key that occurs twice: one of its values would be lost."""
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        for key in keys:
            key.tag = "tag:yaml.org,2002:str"
        names = [key.value for key in keys]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(problem=f"the key {twice[0]!r} occurs twice", problem_mark=node.start_mark)
        return node


_MERGE = "tag:yaml.org,2002:merge"

for _kind in ("int", "float", "bool", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", lambda _, node: PlainText(node.value))


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
        return resolved(value)
    if origin in (str, Path) and isinstance(value, str):
        return origin(str(value))
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


def _wrong_type(kinds: tuple[Any, ...], value: object, key: str) -> InputError:
    said = [_described(kind) for kind in kinds if kind is not NoneType]
    choices = [str(each) for kind in kinds if get_origin(kind) is Literal for each in get_args(kind)]
    return InputError(
        expected=f"{key} to be {' or '.join(words for words, _ in said)}".strip(),
        got=repr(value),
        hint=nearest(str(value), choices, otherwise=said[0][1]),
    )


def _described(kind: Any) -> tuple[str, str]:
    """Name a type in an error, and choose a value for the hint."""
    if get_origin(kind) is Literal:
        choices = list(map(str, get_args(kind)))
        example = next((each for each in choices if each != "none"), "none")
        return (f"one of {', '.join(choices)}" if len(choices) > 1 else repr(choices[0])), example
    if is_dataclass(kind):
        return f"settings ({', '.join(field.name for field in fields(kind))})", "{} for the defaults"
    words, example = _WORDS[get_origin(kind) or kind]
    inner = [_described(each)[0] for each in get_args(kind) if get_origin(kind) is list]
    return f"{words} ({inner[0]} each)" if inner else words, example


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)
