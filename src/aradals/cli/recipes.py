"""List the recipes that come with the package, show one, or copy one to change it.

aradals recipes, aradals recipes show NAME, aradals recipes copy NAME [--output FILE]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aradals.cli.terminal import print_result

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

EXAMPLE = "aradals recipes copy cifar10-small --output my-study.yaml"
RESUMES = False


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Add the options for the action and its recipe."""
    parser.add_argument("action", nargs="?", choices=["list", "show", "copy"], default="list", help="list by default")
    parser.add_argument("name", nargs="?", type=str | None, default=None, help="the recipe to show or copy")
    parser.add_argument("--output", type=Path | None, default=None, help="copy to this file; NAME.yaml by default")
    return arguments


def run(action: str, name: str | None, output: Path | None) -> None:
    """List, print or copy."""
    from aradals._internal.files import atomic_path
    from aradals.errors import InputError
    from aradals.pipeline.recipes import find_recipe, list_recipes

    if action == "list":
        for recipe, summary in list_recipes().items():
            print_result(f"{recipe:<18} {summary}")
        return
    if name is None:
        raise InputError(expected=f"the recipe to {action}: {', '.join(list_recipes())}", got="none", hint=EXAMPLE)
    source = find_recipe(name)
    if action == "show":
        print_result(source.read_text(encoding="utf-8").removesuffix("\n"))
        return
    target = output or Path(f"{source.stem}.yaml")
    if target.exists():
        raise InputError(expected="a file that does not exist", got=str(target), hint="another --output")
    with atomic_path(target) as temporary:
        temporary.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    print_result(f"recipe: {target}")
