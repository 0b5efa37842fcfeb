"""Recipes on the command line: ``RECIPE`` by name or path, any of its keys as ``--a.b=c``."""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from aradals.errors import InputError
from aradals.pipeline.config import StudyConfig
from aradals.pipeline.recipes import find_recipe

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_recipe_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Add the keys of a recipe as options, and read the recipe that the arguments name before the other options.

    Returns:
        The arguments, with the positional ``RECIPE`` as an option in front, so that later options override it.
    """
    parser.usage = f"{parser.prog} RECIPE [options]"
    parser.add_argument("--recipe", action="config", help="a recipe by name (aradals recipes) or a YAML file")
    parser.add_class_arguments(StudyConfig, None)
    flags = {option for action in parser._actions if action.nargs == 0 for option in action.option_strings}
    for position, argument in enumerate(arguments):
        before = arguments[position - 1] if position else ""
        is_value = before.startswith("--") and "=" not in before and before not in flags
        if not argument.startswith("-") and not is_value:
            recipe = find_recipe(argument)
            rest = arguments[:position] + arguments[position + 1 :]
            _check_methods(recipe, rest)
            return ["--recipe", _text(recipe), *rest]
    return arguments


def _text(recipe: Path) -> str:
    """Read a recipe as UTF-8, because the parser would use the encoding of the locale."""
    try:
        text = recipe.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            expected=f"a recipe in UTF-8: {recipe}", got=f"the byte {error.object[error.start]:#x}", hint="saving it so"
        ) from error
    if not text.isascii():
        # The parser looks first whether this is the name of a file, which only the locale's characters can be.
        with suppress(yaml.YAMLError):  # the parser says what is wrong
            text = yaml.serialize(yaml.compose(text, yaml.SafeLoader), Dumper=yaml.SafeDumper)
    return text + "\n"


def _check_methods(recipe: Path, arguments: list[str]) -> None:
    """Refuse a setting of a method that the recipe lacks: misspelt, it would become a method of its own."""
    named = {found[1] for argument in arguments if (found := re.match(r"--methods\.([^.=]+)", argument))}
    try:
        known = list(yaml.safe_load(recipe.read_text(encoding="utf-8"))["methods"])
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError):
        return  # the parser says what is wrong with the recipe
    for method in named - set(known):
        nearest = difflib.get_close_matches(method, known, n=1, cutoff=0.0)
        raise InputError(
            expected=f"a method of the recipe: {', '.join(known)}",
            got=repr(method),
            hint=f"--methods.{nearest[0]}, or a recipe with that method",
        )
