"""List the recipes that come with the package, show one, or copy one to change it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

EXAMPLE = "aradals recipes --copy cifar10-small --output my-study.yaml"


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Which recipe to show or copy."""
    parser.add_argument("--show", type=str | None, default=None, help="print this recipe")
    parser.add_argument("--copy", type=str | None, default=None, help="copy this recipe to --output")
    parser.add_argument("--output", type=Path | None, default=None, help="file to write; NAME.yaml by default")
    return arguments


def run(show: str | None, copy: str | None, output: Path | None) -> None:
    """Print or copy."""
    from aradals.errors import InputError
    from aradals.files import atomic_path
    from aradals.recipes import find_recipe, list_recipes

    if show is not None:
        print(find_recipe(show).read_text(), end="")
    elif copy is not None:
        target = output or Path(f"{Path(copy).stem}.yaml")
        if target.exists():
            raise InputError(expected="a file that does not exist", got=str(target), hint="another --output")
        with atomic_path(target) as temporary:
            temporary.write_text(find_recipe(copy).read_text())
        print(f"recipe: {target}")
    else:
        for name, summary in list_recipes().items():
            print(f"{name:<18} {summary}")
