"""Names of classes: their order, and their numbers in a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from aradals.checks import FITTING_DATA, check_labels
from aradals.data.examples import Examples
from aradals.errors import InputError

_PLACEHOLDER = re.compile(r"LABEL_\d+")
"""Name that Transformers gives to a class without a name."""

NAME_THEM = "--class-names (in Python class_names=) with the names of the model's classes, in the order of its logits"
"""Hint for data whose classes cannot be found in the model."""


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names of classes: by number if every name is a number, else as text.

    >>> in_order(["10", "9", "8"]), in_order(["owl", "cat"])
    (['8', '9', '10'], ['cat', 'owl'])
    """
    found = list(names)
    return sorted(found, key=int) if all(map(_is_number, found)) else sorted(found)


def real_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a model's classes; empty if they are placeholders such as ``LABEL_0``."""
    return () if all(map(_PLACEHOLDER.fullmatch, names)) else tuple(names)


def read_names(names: Sequence[str]) -> tuple[str, ...]:
    """Read the names of classes from a text file, if ``names`` is the path of one; one name is on each line."""
    if len(names) != 1 or not Path(names[0]).is_file():
        return tuple(names)
    try:
        lines = Path(names[0]).read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise InputError(
            expected="a text file of class names", got=f"{names[0]} ({error})", hint="one name on each line, in UTF-8"
        ) from error
    return tuple(line.strip() for line in lines if line.strip())


def match_classes(examples: Examples, class_names: Sequence[str], num_classes: int) -> tuple[Examples, str]:
    """Give the labels of examples the numbers that a model uses.

    Classes are found by their names if both the data and the model have names. Case, spaces, dashes and underscores do
    not matter. Labels without names are numbers of the model already. If only the data has names, these may be numbers
    that start at 0, which are those of the model. Other names count in their order if there are as many as the model
    has classes.

    Args:
        examples: labeled examples.
        class_names: names of the model's classes, in the order of its logits; empty if they are not known.
        num_classes: number of the model's logits K.

    Returns:
        The examples, and what could not be checked; empty if the numbers are certain.

    Raises:
        InputError: the data has more classes than the model, a class that the model does not have, or fewer classes
            without a way to find them in the model.
    """
    if class_names and len(class_names) != num_classes:
        raise InputError(
            expected=f"{num_classes} names of classes, one for each logit of the model",
            got=f"{len(class_names)} names",
            hint=NAME_THEM,
        )
    if examples.has_names and class_names:
        return _by_name(examples, class_names), ""
    check_labels(examples.labels, num_classes, hint=FITTING_DATA)
    if not examples.has_names:
        named = examples.renumbered(torch.arange(num_classes), class_names) if class_names else examples
        return named, _doubt_numbers(examples, num_classes)
    numbers = [int(name) for name in examples.class_names if _is_number(name)]
    if len(numbers) == examples.num_classes and 0 in numbers and max(numbers) < num_classes:
        return _by_name(examples, list(map(str, range(num_classes)))), ""
    if examples.num_classes == num_classes:
        return examples, "the model has no names for its classes, so that their order in the data counts"
    raise InputError(
        expected=f"the {num_classes} classes of the model in {examples.name}",
        got=f"{examples.num_classes}: {', '.join(examples.class_names[:20])}",
        hint=NAME_THEM,
    )


def _doubt_numbers(examples: Examples, num_classes: int) -> str:
    occurring = len(examples.labels.unique())
    if occurring >= num_classes:
        return ""
    return f"its labels are numbers without names, and only {occurring} of the model's {num_classes} classes occur"


def _by_name(examples: Examples, class_names: Sequence[str]) -> Examples:
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(class_names):
        positions.setdefault(_spelling(name), []).append(position)
    found = [positions.get(_spelling(name), []) for name in examples.class_names]
    occurring = examples.labels.unique().tolist()
    if unclear := [examples.class_names[k] for k in occurring if len(found[k]) != 1]:
        raise InputError(
            expected=f"classes of {examples.name} that the model has once: {', '.join(class_names[:20])}",
            got=", ".join(unclear[:20]),
            hint=f"the model's spelling of these classes, or {NAME_THEM}, as the data spells them",
        )
    return examples.renumbered(torch.tensor([each[0] if each else -1 for each in found]), class_names)


def _spelling(name: str) -> str:
    return str(int(name)) if _is_number(name) else re.sub(r"[\s_-]+", " ", name.strip().casefold())


def _is_number(name: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,9}", name))
