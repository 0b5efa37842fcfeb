"""The recipes that come with the package: commented YAML files, found by name.

A recipe may have the key ``smoke``: other values of some of its keys, with which every stage runs in minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from aradals.errors import InputError
from aradals.pipeline.config import StudyConfig
from aradals.pipeline.recipes.migration import migrate
from aradals.pipeline.settings import MAX_CHARACTERS, OptionText, nearest, read, read_yaml

_FOLDER = Path(__file__).parent


def find_recipe(name: str) -> Path:
    """Find the YAML file of a recipe, by the name of a packaged recipe or by path.

    Raises:
        InputError: there is no such recipe.
    """
    packaged = _FOLDER / f"{name}.yaml"
    path = packaged if packaged.exists() else Path(name)
    if not path.is_file():
        raise InputError(
            expected=f"a YAML file or a recipe: {', '.join(list_recipes())}", got=name, hint="aradals recipes"
        )
    return path


def load_recipe(name: str, overrides: Mapping[str, str] | None = None, *, smoke: bool = False) -> StudyConfig:
    """Read a recipe.

    Args:
        name: name of a packaged recipe, or path of a YAML file.
        overrides: other values of some keys, such as ``{"methods.ar_adals.targets.subsets.count": "3"}``.
        smoke: use the values below the recipe's key ``smoke``, with which every stage runs in minutes. The results are
            no evidence, and reports say so.

    Raises:
        InputError: there is no such recipe; the file is not YAML in UTF-8; a key is unknown or missing; a value has
            another type; or the recipe has no smoke setting.
    """
    settings = _read_mapping(find_recipe(name))
    reduced = settings.pop(_SMOKE, None)
    if smoke:
        for key, value in _leaves(_smoke_setting(reduced, name)):
            _override(settings, key, value)
    for key, text in (overrides or {}).items():
        _override(settings, key, _mapping_or_text(text))
    config: StudyConfig = read(StudyConfig, settings)
    return replace(config, purpose="smoke") if smoke else config


_SMOKE = "smoke"


def _smoke_setting(setting: object, recipe: str) -> Mapping[str, Any]:
    """Return the key ``smoke`` of a recipe.

    Raises:
        InputError: the recipe has no such key, or its value is no mapping.
    """
    if isinstance(setting, Mapping):
        return setting
    raise InputError(
        expected="a recipe with the key smoke: other values of some of its keys",
        got=f"{recipe} with {'no such key' if setting is None else f'smoke: {setting!r}'}",
        hint=f"no --smoke, or one of {', '.join(recipes_with_smoke())}",
    )


def _leaves(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and the values below which there are no further keys."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def list_recipes() -> dict[str, str]:
    """List the packaged recipes, each with its summary, the first comment line of the file."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        for path in sorted(_FOLDER.glob("*.yaml"))
    }


def recipes_with_smoke() -> list[str]:
    """List the packaged recipes that have a smoke setting."""
    return [name for name in list_recipes() if _SMOKE in _read_mapping(find_recipe(name))]


def _read_mapping(path: Path) -> dict[str, Any]:
    """Read the keys and values of a YAML file; convert those of an earlier version to the present form."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            content = read_yaml(file.read(MAX_CHARACTERS + 1))
    except UnicodeDecodeError as error:
        raise InputError(
            expected=f"a recipe in UTF-8: {path}",
            got=f"the byte {error.object[error.start]:#x}",
            hint="saving in UTF-8",
        ) from error
    except ValueError as error:
        content = str(error)
    if not isinstance(content, dict):
        raise InputError(
            expected="a recipe in YAML, keys and values",
            got="an empty file" if content is None else str(content),
            hint="aradals recipes show demo",
        )
    return migrate(content)


def _override(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set one key of a recipe, such as ``training.epochs``, to a value as `read_yaml` gives it.

    Raises:
        InputError: the recipe lacks the method of the setting; a misspelt name must not become a new method.
    """
    *path, last = _parts(settings, key)
    for depth, part in enumerate(path):
        known = settings.get(part)
        if depth == 1 and known is None and _names_its_keys(path[0]):
            raise InputError(
                expected=f"one of the {path[0]} of the recipe: {', '.join(map(str, settings))}",
                got=repr(part),
                hint=f"--{path[0]}.{nearest(part, map(str, settings), otherwise='NAME')}, or a recipe that has {part}",
            )
        # A copy, because an anchor and its aliases are one mapping.
        settings[OptionText(part)] = dict(known) if isinstance(known, dict) else {}
        settings = settings[part]
    settings[OptionText(last)] = value


def _parts(settings: Mapping[str, Any], key: str) -> list[str]:
    """Split a key at its dots, except those in the name of a method."""
    group, _, below = key.partition(".")
    names = settings.get(group) if _names_its_keys(group) else None
    known = [name for name in names if f"{below}.".startswith(f"{name}.")] if isinstance(names, dict) else []
    if not known:
        return key.split(".")
    name = max(known, key=len)
    return [group, name, *below.removeprefix(name).split(".")[1:]]


def _names_its_keys(key: str) -> bool:
    """Return True if the keys below this one are names from the recipe, such as those of methods."""
    kind = get_type_hints(StudyConfig).get(key)
    return get_origin(kind) is dict and get_args(kind)[1] is not Any


def _mapping_or_text(text: str) -> Any:
    """Parse a mapping, so that further keys can be set in it; leave other text as text."""
    try:
        content = read_yaml(text)
    except ValueError:
        content = None
    return content if isinstance(content, dict) else OptionText(text)
