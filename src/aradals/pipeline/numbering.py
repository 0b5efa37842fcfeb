"""The numbers of the classes in the data and in a model, which have to be the same before anything is judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from aradals._internal.optional import load_extra
from aradals.data import Examples, match_classes
from aradals.data.classes import real_names
from aradals.errors import InputError
from aradals.inference.predictions import Predictions
from aradals.results.records import Check

MIN_PER_CLASS = 20
"""Number of examples for each class from which on another numbering shows."""


def names_of(model: object) -> tuple[str, ...]:
    """Read the names of a model's classes, from ``class_names`` or Transformers' ``config.id2label``; may be empty."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(given := getattr(module, "class_names", None), list | tuple) and given:
            return real_names(list(map(str, given)))
        names = getattr(getattr(module, "config", None), "id2label", None)
        if isinstance(names, dict) and sorted(names) == list(range(len(names))):
            return real_names([str(names[number]) for number in range(len(names))])
    return ()


def number_as_model(examples: Examples, class_names: Sequence[str], num_classes: int) -> tuple[Examples, Check]:
    """Give the labels of examples the numbers that a model uses, see `aradals.data.match_classes`.

    Raises:
        InputError: the classes of the data cannot be found in the model.
    """
    matched, doubt = match_classes(examples, class_names, num_classes)
    return matched, Check(
        f"the classes of {examples.name} have the numbers that the model uses",
        "could not be checked" if doubt else "checked",
        doubt,
    )


def check_numbering(predictions: Predictions, where: str) -> None:
    """Refuse labels that number the classes in another way than the model.

    The sign is that the model is right for at least half of the examples if every class gets another number, and for at
    most a third as many with the numbers of the labels.

    Args:
        predictions: predictions on clean data.
        where: name of the examples.

    Raises:
        InputError: another numbering fits so much better.
    """
    labels, n = predictions.labels, len(predictions)
    predicted = predictions.logits.argmax(1)
    classes = labels.unique()
    accuracy = (predicted == labels).double().mean().item()
    if n < MIN_PER_CLASS * len(classes) or accuracy > 1 / 3:
        return
    counts = torch.zeros(len(classes), predictions.logits.shape[1])
    counts.index_put_((torch.searchsorted(classes, labels), predicted), torch.ones(n), accumulate=True)
    rows, columns = load_extra("scipy.optimize").linear_sum_assignment(counts.numpy(), maximize=True)
    best = float(counts[rows, columns].sum()) / n
    if best >= max(0.5, 3 * accuracy):
        pairs = zip(classes.tolist(), columns.tolist(), strict=True)
        changed = ", ".join(f"{theirs} for {ours}" for ours, theirs in pairs if ours != theirs)
        raise InputError(
            expected=f"labels of {where} that number the classes as the model does",
            got=f"an accuracy of {accuracy:.1%}, which would be {best:.1%} with other numbers",
            hint="--class-names with the model's classes in the order of its logits, if the data has names; or these "
            f"numbers for the classes of the data: {changed:.300}",
        )
