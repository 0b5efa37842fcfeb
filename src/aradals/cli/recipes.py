"""List the recipes that come with the package, show one, or copy one to change it.

aradals recipes, aradals recipes show NAME, aradals recipes copy NAME [--output FILE]
"""

from __future__ import annotations

from pathlib import Path

from aradals.cli.arguments import RecipeArguments
from aradals.cli.terminal import print_result

EXAMPLE = "aradals recipes copy cifar10-small --output my-study.yaml"
RESUMES = False


def run(recipe: RecipeArguments) -> Path | None:
    """List recipes, or show or copy one."""
    from aradals._internal.files import atomic_path
    from aradals.errors import InputError
    from aradals.pipeline.recipes import find_recipe, list_recipes, recipes_with_smoke

    if recipe.action == "list":
        for name, summary in list_recipes().items():
            print_result(f"{name:<20} {summary}")
        print_result(f"With --smoke, every stage runs in minutes: {', '.join(recipes_with_smoke())}.")
        return None
    if recipe.name is None:
        known = ", ".join(list_recipes())
        raise InputError(expected=f"the recipe to {recipe.action}: {known}", got="none", hint=EXAMPLE)
    source = find_recipe(recipe.name)
    text = source.read_text(encoding="utf-8")
    if recipe.action == "show":
        print_result(text.removesuffix("\n"))
        return None
    target = recipe.output or Path(f"{source.stem}.yaml")
    if target.exists():
        raise InputError(expected="a file that does not exist", got=str(target), hint="another --output")
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print_result(f"recipe: {target}")
    return target
