"""The JSON files of finished stages, checked as they are read: the folder of a study may come from somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aradals.errors import InputError
from aradals.pipeline.artifacts import load_json

Form = type | list["Form"] | dict[str, "Form"]
"""What a value is: of a type, a list of one form, or an object that has at least these keys."""

_LARGEST = 1e300


class Number:
    """A number that no sum of a few thousand of them makes infinite."""


class Measured:
    """The same, or null where nothing could be measured."""


class Measurements:
    """An object of which all values are `Measured`."""


_ROW: dict[str, Form] = {"data": str, "calibrator": str, "corruption": str, "severity": int, "subset": Measured}
_EVALUATION: Form = {"rows": [{**_ROW, "n": int}], "reliability": [{**_ROW, "bins": [Measurements]}]}
_UPDATES = ("target_prob", "confidence", "accuracy")
_HISTORY: Form = {
    "settings": {"objective": str, "num_subsets": int, "num_members": int, "update_rate": Number},
    "seconds": Number,
    "epochs": [Measurements],
    "scorings": [Measurements],
    "updates": [{key: [Measured] for key in _UPDATES}],
    "target_prob": [Number],
    "at_lower_bound": [int],
}


def read_evaluation(path: Path) -> dict[str, Any]:
    """The rows and reliability diagrams of a run.

    Raises:
        InputError: the file is not as `aradals.pipeline.study.work.evaluate` writes it.
    """
    content = _read(path, _EVALUATION)
    for row in content["rows"]:
        if not _fits({key: value for key, value in row.items() if key not in ("method", *_ROW)}, Measurements):
            raise _unexpected(path)
    return content


def read_history(path: Path) -> dict[str, Any]:
    """How a training went.

    Raises:
        InputError: the file is not as `aradals.pipeline.study.work.train` writes it.
    """
    content = _read(path, _HISTORY)
    if any(len(update[name]) != len(content["target_prob"]) for update in content["updates"] for name in _UPDATES):
        raise _unexpected(path)
    return content


def _read(path: Path, form: Form) -> dict[str, Any]:
    content = load_json(path)
    if not _fits(content, form):
        raise _unexpected(path)
    found: dict[str, Any] = content
    return found


def _unexpected(path: Path) -> InputError:
    return InputError(
        expected=f"a {path.name} as `aradals run` writes it",
        got=f"something else in {path.parent}",
        hint="removing this folder, which is made anew then",
    )


def _fits(value: object, form: Form) -> bool:
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(item, form[0]) for item in value)
    if isinstance(form, dict):
        return isinstance(value, dict) and all(name in value and _fits(value[name], form[name]) for name in form)
    if form is Measurements:
        return isinstance(value, dict) and all(_fits(item, Measured) for item in value.values())
    if form is Measured and value is None:
        return True
    if form in (int, Number, Measured):
        kinds = (int,) if form is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= _LARGEST
    return isinstance(value, form)
