"""Labels of any kind become class indices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from aradals.data.classes import in_order
from aradals.errors import InputError


def class_indices(
    labels: npt.NDArray[Any], where: str, *, all_names: Callable[[], Iterable[Any]] | None = None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...] | None]:
    """Convert labels to class indices.

    Labels are whole numbers, booleans, names, one-hot rows, or any of these with a second axis of length 1.

    Args:
        labels: array of N labels.
        where: name of the labels in errors.
        all_names: finds the names in all splits, so that a class has the same number in each; default: ``labels``.

    Returns:
        Class indices, shape (N,), and the names of the classes in order, if the labels are names.

    Raises:
        InputError: labels are of another kind.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:  # Keras and MedMNIST store labels like this
        labels = labels[:, 0]
    if labels.dtype.kind in "OUS" and labels.ndim == 1:
        return _numbered(labels, where, all_names)
    if labels.ndim == 2 and labels.dtype.kind in "iufb" and _is_one_hot(labels):
        return labels.argmax(1).astype(np.int64), None
    whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all()))
    if labels.ndim != 1 or not whole or (len(labels) and not -(2**63) <= float(labels.max()) < 2**63):
        raise InputError(
            expected=f"one label for each input in {where}: a class index, a name or a one-hot row",
            got=f"{labels.dtype} of shape {labels.shape}",
            hint="integers from 0 to K - 1, shape (N,)",
        )
    return labels.astype(np.int64), None


def _is_one_hot(labels: npt.NDArray[Any]) -> bool:
    return labels.shape[1] > 1 and bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())


def _numbered(
    labels: npt.NDArray[Any], where: str, all_names: Callable[[], Iterable[Any]] | None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Replace the names of classes by their positions in the order of names."""
    names = list(map(_text, labels.tolist()))
    missing = next((row for row, name in enumerate(names) if not name), None)
    if missing is not None:
        raise InputError(
            expected=f"a label in every row of {where}", got=f"no label in row {missing}", hint="removing such rows"
        )
    others = filter(None, map(_text, all_names() if all_names else ()))
    known = in_order({*names, *others})
    index = {name: number for number, name in enumerate(known)}
    return np.array([index[name] for name in names], dtype=np.int64), tuple(known)


def _text(label: object) -> str:
    """Return the name of a class; empty if there is none."""
    if label is None or label != label:
        return ""
    return (label.decode(errors="replace") if isinstance(label, bytes) else str(label)).strip()
