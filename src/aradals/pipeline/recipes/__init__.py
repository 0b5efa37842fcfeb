"""The recipes that come with the package: commented YAML files, found by name."""

from __future__ import annotations

from pathlib import Path

from aradals.errors import InputError

_FOLDER = Path(__file__).parent


def find_recipe(name: str) -> Path:
    """Find the YAML file of a recipe, by path or by the name of a packaged recipe.

    Raises:
        InputError: there is none.
    """
    packaged = _FOLDER / f"{name}.yaml"
    path = packaged if packaged.exists() else Path(name)
    if not path.is_file():
        raise InputError(
            expected=f"a YAML file or a recipe: {', '.join(list_recipes())}", got=name, hint="aradals recipes"
        )
    return path


def list_recipes() -> dict[str, str]:
    """Name of each packaged recipe and its summary, the first comment line of the file."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        for path in sorted(_FOLDER.glob("*.yaml"))
    }
