"""The parser of a command line, which turns words into the dataclasses that a command takes as parameters."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import docstring_parser

from aradals.errors import InputError
from aradals.pipeline.settings import OptionText, is_required, nearest, read


class CommandParser(argparse.ArgumentParser):
    """Parser for the words of one command, a module with ``run`` and ``EXAMPLE``; it raises `InputError`."""

    def __init__(self, name: str, command: ModuleType) -> None:
        self.example: str = command.EXAMPLE
        super().__init__(
            prog=f"aradals {name}",
            description=command.__doc__,
            epilog=f"example: {self.example}",
            allow_abbrev=False,
        )
        self.records = {name: kind for name, kind in get_type_hints(command.run).items() if is_dataclass(kind)}
        metadata = [each.metadata for record in self.records.values() for each in fields(record)]
        self.keys_of = next((each["keys_of"]() for each in metadata if "keys_of" in each), None)
        if self.keys_of is not None:
            self.usage = f"{self.prog} RECIPE [options]"
        self.options: list[str] = []
        for record in self.records.values():
            group = self.add_argument_group(_texts(record)[""])
            for option, settings in _declarations(record):
                group.add_argument(*option, default=argparse.SUPPRESS, **settings)
                self.options += option
        if self.keys_of is not None:
            group = self.add_argument_group("Keys of the recipe")
            for key, text in _merged(_keys(self.keys_of)).items():
                group.add_argument(f"--{key}", metavar="VALUE", default=argparse.SUPPRESS, help=text)
                self.options.append(f"--{key}")

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Read the dataclasses, and return them by the name of the parameter.

        Raises:
            InputError: an option is unknown, or a value is missing or wrong.
        """
        overrides, rest = self._split_overrides(words)
        given, unknown = self.parse_known_args(rest)
        if unknown:
            word = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            hint = nearest(word, self.options, otherwise=f"{self.prog} --help")
            raise InputError(expected=f"an option that {self.prog} knows", got=repr(word), hint=hint)
        return {name: self._read_record(kind, vars(given), overrides) for name, kind in self.records.items()}

    def error(self, message: str) -> NoReturn:
        """Raise InputError for words that argparse cannot read."""
        raise InputError(expected="arguments that can be read", got=message, hint=self.example)

    def _split_overrides(self, words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Separate keys of the recipe (``--a.b=c`` or ``--a.b c``) from all other words, in which _ becomes -."""
        known = {each.name for each in fields(self.keys_of)} if self.keys_of else set()
        overrides: dict[str, str] = {}
        rest: list[str] = []
        left = iter(words)
        for word in left:
            option, equals, value = word.partition("=")
            first, dot, below = option.partition(".")
            key = first.removeprefix("--").replace("-", "_")
            if not word.startswith("--"):
                rest.append(word)
            elif known and (dot or key in known):
                if not equals and (value := next(left, "--")).startswith("--"):
                    self.error(f"argument {option}: expected one argument")
                overrides[f"{key}{dot}{below}"] = value
            else:
                rest.append(f"{option.replace('_', '-')}{equals}{value}")
        return overrides, rest

    def _read_record(self, kind: Any, given: Mapping[str, Any], overrides: dict[str, str]) -> Any:
        hints, values = get_type_hints(kind), {}
        for each in fields(kind):
            if "keys_of" in each.metadata:
                values[each.name] = overrides
            elif each.name in given:
                values[each.name] = read(
                    hints[each.name], _as_text(hints[each.name], given[each.name]), _spelling(each)
                )
            elif is_required(each):
                raise InputError(expected=f"a value for {_spelling(each)}", got="none", hint=self.example)
        return kind(**values)


def _declarations(record: Any) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield names and settings for ``add_argument``, once for each field."""
    texts, hints = _texts(record), get_type_hints(record)
    for each in fields(record):
        text = _escaped(texts[each.name] + _default(each))
        if "positional" in each.metadata:
            optional = {} if is_required(each) else {"nargs": "?"}
            yield [each.name], {"metavar": _spelling(each), "help": text, **optional}
        elif "keys_of" not in each.metadata:
            flag = {"action": "store_true"} if hints[each.name] is bool else {}
            yield [_spelling(each)], {"help": text, **flag}


def _keys(kind: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of a dataclass, and of the dataclasses in it, with their help."""
    texts, hints = _texts(kind), get_type_hints(kind)
    for each in fields(kind):
        key, hint = f"{above}{each.name}", hints[each.name]
        records, is_named = _records_in(hint), get_origin(hint) is dict
        for record in records:
            yield from _keys(record, f"{key}.NAME." if is_named else f"{key}.")
        if not records:
            is_tag = len(get_args(hint)) == 1  # such as ``by``, which distinguishes the members of a union
            yield key, _escaped(texts[each.name] + ("" if is_tag else _default(each)))


def _merged(keys: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Give each key one help text, because members of a union share keys."""
    found: dict[str, dict[str, None]] = {}
    for key, text in keys:
        found.setdefault(key, {})[text] = None
    return {key: "; ".join(texts) for key, texts in found.items()}


def _records_in(kind: Any) -> list[Any]:
    """List the dataclasses that a type consists of."""
    return [kind] if is_dataclass(kind) else [record for part in get_args(kind) for record in _records_in(part)]


def _as_text(kind: Any, given: object) -> object:
    """Mark the words of an option, which YAML may read as another type; a flag is True already."""
    if kind == list[Path] and isinstance(given, str) and os.path.exists(given):
        return [given]  # the name of a file may have commas
    return OptionText(given) if isinstance(given, str) else given


def _spelling(option: Field[Any]) -> str:
    """Return the name of a field on the command line."""
    return option.name.upper() if "positional" in option.metadata else f"--{option.name.replace('_', '-')}"


def _texts(record: Any) -> dict[str, str]:
    """Read the texts of the fields from the docstrings of a dataclass and its bases; the first line has the key ""."""
    found: dict[str, str] = {}
    for each in reversed(record.__mro__[:-1]):
        parsed = docstring_parser.parse(each.__doc__ or "")
        found |= {param.arg_name: " ".join((param.description or "").split()) for param in parsed.params}
        found[""] = (parsed.short_description or "").rstrip(".")
    return found


def _default(option: Field[Any]) -> str:
    shown = isinstance(option.default, str | int | float) and option.default is not False and option.default != ""
    return f" (default: {option.default})" if shown else ""


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
