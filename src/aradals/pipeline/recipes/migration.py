"""Recipes of an earlier version, whose methods had all settings side by side. Only this file knows their form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from aradals._internal.deprecation import warn_deprecated
from aradals.pipeline.settings import resolved
from aradals.results.previous import label_of

_TARGETS = {"initial_target_prob", "rule", "update_every", "num_subsets"}
_SUBSETS = {"grouping", "group_column", "cross_fit", "score_every", "matching"}


def migrate(settings: dict[str, Any]) -> dict[str, Any]:
    """Convert a recipe of an earlier version to this version, and warn once with the new spelling.

    Args:
        settings: the content of a recipe; returned unchanged if no method has the earlier form.
    """
    methods = settings.get("methods")
    if not isinstance(methods, dict) or not any(map(_is_old, methods.values())):
        return settings
    settings = resolved(settings)
    methods, ensembles = settings["methods"], settings.get("ensembles") or {}
    new: dict[str, Any] = {
        "reference": "vanilla" if "vanilla" in methods else next(iter(methods)),
        "methods": {
            name: {**_method(method), **_as_reported(name, methods)} if isinstance(method, dict) else method
            for name, method in methods.items()
        },
        "ensembles": {name: {**ensemble, **_as_reported(name)} for name, ensemble in ensembles.items()},
    }
    lines = [
        f"reference: {new['reference']}",
        *_spelling("methods", new, settings),
        *_spelling("ensembles", new, settings),
    ]
    text = "\n".join(lines)
    warn_deprecated(
        "the recipe is of an earlier version",
        removal="1.0",
        instead=f"this is the new spelling of the changed settings:\n{text}",
    )
    return {**settings, **new}


def _spelling(group: str, new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Write YAML with a line for each entry of a changed group."""
    changed = {name: settings for name, settings in new[group].items() if settings != old[group][name]}
    flow = {
        name: yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=1000)
        for name, settings in changed.items()
    }
    return [f"{group}:", *(f"  {name}: {text.strip()}" for name, text in flow.items())] if changed else []


def _is_old(method: Any) -> bool:
    return isinstance(method, dict) and "targets" not in method and not (_TARGETS | _SUBSETS).isdisjoint(method)


def _method(old: dict[str, Any]) -> dict[str, Any]:
    """Convert a method, so that the settings of targets and subsets have separate places."""
    targets = {
        "smoothing": _smoothing(old.get("initial_target_prob", 1)),
        "rule": _rule(old.get("rule")),
        "update_every": _unless(1, old.get("update_every")),
        "subsets": _subsets(old),
    }
    kept = {key: value for key, value in old.items() if key not in _TARGETS | _SUBSETS}
    return {**kept, **({"targets": given} if (given := _given(targets)) else {})}


def _subsets(old: dict[str, Any]) -> dict[str, Any] | None:
    """Convert the subsets of a method; None if there was only one, without settings."""
    by_itself = None if old.get("score_every") is None else "self"
    settings = _given(
        {
            "by": _unless("robustness", old.get("grouping")) or by_itself,
            "column": old.get("group_column"),
            "every": old.get("score_every"),
            "folds": 2 if old.get("cross_fit") else None,
            "matching": _unless("rank", old.get("matching")),
        }
    )
    count = old.get("num_subsets", 1)
    return {"count": count, **settings} if settings or count != 1 else None


def _smoothing(target_prob: Any) -> Any:
    """Convert a target probability to smoothing, rounded to the digits that a person would write."""
    return _unless(0, round(1 - target_prob, 12)) if isinstance(target_prob, int | float) else target_prob


def _rule(rule: Any) -> Any:
    if not isinstance(rule, Mapping):
        return rule
    return {"proportional_gain" if key == "shape_rate" else key: value for key, value in rule.items()}


def _unless(default: object, value: Any) -> Any:
    return None if value == default else value


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _as_reported(name: str, methods: Iterable[str] = ()) -> dict[str, str]:
    """Give the label that reports had for a method of this name, and the method whose name this one continues."""
    return _given(
        {
            "label": _unless(name.replace("_", " "), label_of(name)),
            "variant_of": next((other for other in methods if name.startswith(f"{other}_")), None),
        }
    )
