"""Recipes on the command line: ``RECIPE`` by name or path, any of its keys as ``--a.b=c``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aradals.config import StudyConfig
from aradals.recipes import find_recipe

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
    for position, argument in enumerate(arguments):
        follows_option = (
            position > 0 and arguments[position - 1].startswith("--") and "=" not in arguments[position - 1]
        )
        if not argument.startswith("-") and not follows_option:
            rest = arguments[:position] + arguments[position + 1 :]
            return ["--recipe", str(find_recipe(argument)), *rest]
    return arguments
