"""What is wrong with arguments or a recipe, said as every other error says it: expected, got, try."""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentParser
from dataclasses import fields

from aradals.errors import InputError
from aradals.pipeline.config import MethodConfig
from aradals.smoothing.update_rules import UpdateRule

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list": "a list, such as [1,2]",
    "dict": "a mapping, such as {key: value}",
    "PositiveInt": "a whole number from 1",
    "NoneType": "nothing",
    "MethodConfig": "settings of a method ({} for the vanilla one)",
    "EnsembleConfig": "settings of an ensemble ({method: vanilla})",
    "UpdateRule": "settings of an update rule ({} for the default one)",
}
_UNKNOWN = (
    re.compile(r"unrecognized arguments: (?P<name>\S+)"),
    re.compile(r"Group '(?P<group>[^']*)' does not accept option '(?P<name>[^']*)'"),
    re.compile(r"Option '(?P<name>[^']*)' is not accepted"),
)
_WRONG_VALUE = re.compile(
    r"""Parser\ key\ "(?P<key>[^"]*)":\ (?!Problem)       # the innermost key
        (?:Expected\ an?\ (?P<kind>.*?)\.\ |.*Subtypes:\ \[(?P<kinds>.*)\]\ Errors.*|.*subclass\ of\ (?P<class>\w+)\.\ )
        (?:Got|Given)\ value:\ (?P<value>.*?)(?:\ Subclass\ types.*)?$""",
    re.VERBOSE,
)
_MISSING = re.compile(r"arguments are required: (?P<keys>.*)")
_NOT_YAML = re.compile(r"(?:Problems parsing|Unexpected) config: ?(?P<problem>.*)")


def explain(message: str, parser: ArgumentParser, *, example: str) -> InputError:
    """Turn the parser's message, which is for developers, into an error for users.

    Args:
        message: of jsonargparse or argparse.
        parser: that raised it; its options are what a misspelt name may have meant.
        example: a command line that works, for what to try.
    """
    message = " ".join(message.split())
    for pattern in _UNKNOWN:
        if found := pattern.search(message):
            return _unknown_name(found.groupdict(), parser)
    if found := _WRONG_VALUE.search(message):
        kinds = found["kind"] or found["kinds"] or found["class"]
        return InputError(
            expected=f"{found['key']} to be {_kinds(kinds)}", got=found["value"], hint=f"{parser.prog} --help"
        )
    if found := _MISSING.search(message):
        return InputError(expected=f"a value for {found['keys']}", got="none", hint=example)
    if found := _NOT_YAML.search(message):
        return InputError(
            expected="a recipe in YAML, keys and values",
            got=found["problem"] or "an empty file",
            hint="aradals recipes show demo",
        )
    return InputError(expected="arguments that can be read", got=message, hint=f"{parser.prog} --help")


def _unknown_name(found: dict[str, str], parser: ArgumentParser) -> InputError:
    """Make the error for an option or key that does not exist, with the nearest that exists."""
    given = found["name"].partition("=")[0]
    options = [action.dest for action in parser._actions]
    name = ".".join(filter(None, (found.get("group"), given.lstrip("-").replace("-", "_"))))
    first = name.partition(".")[0]
    if "." in name and first not in {option.partition(".")[0] for option in options}:
        name, options = first, [option.partition(".")[0] for option in options]
    # Methods have names of their own, so that their settings are no options.
    settings = [field.name for kind in (MethodConfig, UpdateRule) for field in fields(kind)]
    nearest = difflib.get_close_matches(name, [*options, *settings], n=1)
    return InputError(
        expected=f"an option or key that {parser.prog} knows",
        got=repr(given),
        hint=repr(_spelt_like(given, nearest[0])) if nearest else f"{parser.prog} --help",
    )


def _spelt_like(given: str, name: str) -> str:
    """Write an option as on the command line, or a key as in a recipe."""
    if not given.startswith("--"):
        return name
    return f"--{name if '.' in name else name.replace('_', '-')}"


def _kinds(kinds: str) -> str:
    """``<class 'int'>, typing.Literal['auto']`` in words."""
    names = re.findall(r"<class '(?:[\w.]*\.)?(\w+)'>|Literal\[([^\]]*)\]|(\w+)", kinds.replace("typing.", ""))
    spoken = [_KINDS.get(name or word, name or word or f"one of {choices}") for name, choices, word in names]
    return " or ".join(word for word in spoken if word != _KINDS["NoneType"])
