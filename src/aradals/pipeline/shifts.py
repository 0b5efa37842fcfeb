"""The conditions of an evaluation: clean data, corruptions in memory, or a published corrupted copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from aradals.data import Examples, corrupt, corruption_names, list_conditions, load_condition
from aradals.errors import InputError
from aradals.inference.predictions import Batch
from aradals.results.records import CLEAN, Condition

Shift = Callable[[Examples, Condition], Iterable[Batch]]
"""A function from a condition to examples in batches like those of the clean ones, with the same ids and labels."""


def corrupted_batches(examples: Examples, condition: Condition, *, preset: str | None = None) -> Iterator[Batch]:
    """Corrupt examples in memory; this is a `Shift`.

    Args:
        examples: clean images, or rows of numbers.
        condition: corruption and severity.
        preset: constants, see `aradals.data.corrupt`; default: those for the size of the images.
    """
    options: dict[str, Any] = {"preset": preset, "means": examples.column_means}
    for ids, inputs, labels in examples.batches():
        yield ids, corrupt(inputs, ids, *condition, **options) if condition != CLEAN else inputs, labels


def published_batches(examples: Examples, condition: Condition, *, data: str) -> Iterable[Batch]:
    """Load the same examples from a published corrupted set, such as CIFAR-10-C; this is a `Shift`.

    Args:
        examples: the clean examples, whose ids are the rows of every part of the copy.
        condition: corruption and severity, a part of the copy.
        data: see `aradals.data.load_condition`, which raises an error if the two do not fit.
    """
    clean = condition == CLEAN
    return (examples if clean else load_condition(data, *condition, examples)).batches(examples.batches().batch_size)


def choose_conditions(
    corruptions: Sequence[str],
    severities: Sequence[int],
    *,
    corrupted: str | None = None,
    input_shape: Sequence[int] | None = None,
) -> list[Condition]:
    """List clean data, then every corruption, or those of every group, at every severity.

    Args:
        corruptions: names or groups; if a corrupted copy is given and no name, all corruptions of the copy.
        severities: severities from 1 to 5.
        corrupted: a corrupted copy, whose conditions are listed in its order.
        input_shape: shape of an input, which decides what the group ``all`` means.

    Raises:
        InputError: a name or severity is unknown, or the copy lacks it.
    """
    names = corruption_names(corruptions, input_shape=input_shape)
    if corrupted is None:
        if wrong := [severity for severity in severities if severity not in range(1, 6)]:
            raise InputError(expected="severities from 1 to 5", got=str(wrong[0]), hint="1 (mild) to 5 (strong)")
        return [CLEAN, *(Condition(name, severity) for name in names for severity in severities)]
    found = list_conditions(corrupted)
    known = list(dict.fromkeys(name for name, _ in found))
    chosen = names or known
    wanted = [
        CLEAN,
        *(Condition(name, severity) for name, severity in found if name in chosen and severity in severities),
    ]
    if missing := set(chosen) - {name for name, _ in wanted}:
        raise InputError(
            expected=f"corruptions of {corrupted}: {', '.join(known)}", got=", ".join(sorted(missing)), hint="these"
        )
    return wanted


def shift_of(preset: str | None, corrupted: str | None) -> Shift:
    """Return the source of corrupted examples: corruptions in memory, or a corrupted copy."""
    return (
        partial(corrupted_batches, preset=preset) if corrupted is None else partial(published_batches, data=corrupted)
    )


def choose_shift(
    examples: Examples,
    corruptions: Sequence[str],
    severities: Sequence[int],
    *,
    preset: str | None = None,
    corrupted: str | None = None,
) -> tuple[list[Condition], Shift]:
    """Choose the conditions of an evaluation and the source of their examples, and test them on one example.

    Args:
        examples: clean examples.
        corruptions: see `choose_conditions`.
        severities: severities from 1 to 5.
        preset: constants, see `aradals.data.corrupt`.
        corrupted: a corrupted copy of the examples, see `published_batches`.

    Raises:
        InputError: see `choose_conditions`; or there are both a preset and a corrupted copy.
    """
    if preset is not None and corrupted is not None:
        raise InputError(
            expected="a preset or a corrupted copy", got=f"both ({preset}, {corrupted})", hint="one of them"
        )
    wanted = choose_conditions(corruptions, severities, corrupted=corrupted, input_shape=examples.input_shape)
    if corrupted is None:
        ids, inputs, _ = examples.batch([0])
        for condition in wanted[1:]:
            corrupt(inputs, ids, *condition, preset=preset, means=examples.column_means)
    return wanted, shift_of(preset, corrupted)
