"""Splits, as every format of data gives them: each has inputs, labels, and further columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aradals.data.images import MEMORY_LIMIT, EncodedImage
from aradals.errors import InputError

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLIT_NAMES)})(?![a-z])")

USUAL_INPUTS = ("inputs", "images", "image", "img", "x", "data", "pixel_values", "input")
"""Usual names of images and other inputs, the most certain first; case does not matter."""

USUAL_LABELS = ("labels", "label", "fine_label", "fine_labels", "targets", "target", "class", "y", "cls")
"""Usual names of labels, the most certain first; case does not matter."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns (or arrays) to read; None = choose by type.

    Attributes:
        image: column of inputs.
        label: column of labels.
        recorded: names that a checkpoint records, by "image" and "label"; they count for data that has these columns.
    """

    image: str | None = None
    label: str | None = None
    recorded: Mapping[str, str] = field(default_factory=dict, compare=False)

    def known_in(self, names: Iterable[str]) -> Columns:
        """Take the recorded names among ``names`` where no other is given."""
        known = {what: name for what, name in self.recorded.items() if name in set(names)}
        return Columns(self.image or known.get("image"), self.label or known.get("label"))


@dataclass(frozen=True)
class Rows:
    """Inputs and labels of one split, as its source has them.

    Attributes:
        inputs: uint8 (N, C, H, W) or floats (N, ...), or N encoded images.
        labels: any array that `aradals.data.labels.class_indices` converts; None if the source has none.
        class_names: names of the classes, if the source has them.
        label_column: name of the labels in the source.
        features: names of the numeric columns that the inputs consist of, for a table without images.
        upright: True if orientation tags of images are obeyed.
        unlabeled: the error that tells why there are no labels.
        notes: sentences about choices that the reader has made.
    """

    inputs: npt.NDArray[Any] | Sequence[EncodedImage]
    labels: npt.NDArray[Any] | None
    class_names: tuple[str, ...] | None = None
    label_column: str = "labels"
    features: tuple[str, ...] = ()
    upright: bool = False
    unlabeled: InputError | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Companions:
    """The columns beside the inputs of a table.

    Attributes:
        schema: Arrow schema of all columns, with metadata.
        inputs: name of the column of images, or names of the columns of numbers.
        others: Arrow table of all columns except images.
    """

    schema: Any
    inputs: tuple[str, ...]
    others: Any


@dataclass(frozen=True)
class Split:
    """Readers of one split.

    Attributes:
        rows: reads inputs and labels.
        column: reads the values of a column by its name, one for each row.
        companions: reads all columns beside the inputs, if the split is a table.
    """

    rows: Callable[[Columns], Rows]
    column: Callable[[str], npt.NDArray[Any]]
    companions: Callable[[Columns], Companions | None] | None = None


OpenSplits = dict[str, Split]
"""Name of a split -> its readers."""


# Names of splits


def split_name(word: str) -> str:
    """Return the usual name of a split: "val" and "valid" mean "validation"."""
    return _SPLIT_NAMES.get(word.lower(), word)


def is_split(word: str) -> bool:
    """Return True for words that name a split."""
    return word.lower() in _SPLIT_NAMES


def find_split(text: str) -> tuple[str, str] | None:
    """Return the text before the last split word of ``text``, and the split of this word; None if there is no word.

    >>> find_split("cifar10-train-00000-of-00001")
    ('cifar10', 'train')
    """
    words = list(_SPLIT_WORD.finditer(text.lower()))
    if not words:
        return None
    return text[: words[-1].start()].rstrip("-_./ "), split_name(words[-1].group())


# Columns


def choose_column(
    what: str,
    preferred: Sequence[str],
    possible: Sequence[str],
    given: str | None,
    where: str,
    names: Sequence[str],
    *,
    needed: str,
) -> str:
    """Choose a column: the given one, the only one of its kind, or the one with the most usual name.

    Args:
        what: "image" or "label".
        preferred: columns of the most certain kind.
        possible: columns that ``given`` may name.
        given: the value of ``--image-column`` or ``--label-column``.
        where: name of the source.
        names: all columns.
        needed: what to try if no column is possible.

    Raises:
        InputError: there is no such column, or several columns are possible.
    """
    kinds = {"image": "inputs", "label": "labels"}[what]
    if given is not None:
        if given in possible:
            return given
        raise InputError(
            expected=f"--{what}-column to name a column of {kinds} in {where}",
            got=repr(given) + ("" if given in names else f", which is not one of the columns {', '.join(names)}"),
            hint=" or ".join(possible) or needed,
        )
    usual = USUAL_INPUTS if what == "image" else USUAL_LABELS
    by_name = sorted((name for name in preferred if name.lower() in usual), key=lambda name: usual.index(name.lower()))
    if chosen := list(preferred) if len(preferred) == 1 else by_name:
        return chosen[0]
    raise InputError(
        expected=f"one column of {kinds} in {where}",
        got=", ".join(preferred) if preferred else f"no such column among {', '.join(names)}",
        hint=f"--{what}-column NAME" if possible else needed,
    )


def refuse_columns(columns: Columns, name: str) -> None:
    """Refuse names of columns for data without named columns."""
    if columns != Columns():
        raise InputError(
            expected="--image-column and --label-column only for data with named columns",
            got=name,
            hint="the command without these options",
        )


def no_such_column(column: str, where: str, columns: Sequence[str]) -> InputError:
    """Make the error for a column that ``where`` does not have, or that does not have one value for each row."""
    return InputError(
        expected=f"a column of {where} with one value for each row",
        got=repr(column),
        hint="one of: " + ", ".join(columns)
        if columns
        else "a parquet file, a CSV file, an .npz file or a Hugging Face data set, which can have columns",
    )


def no_columns(where: str, column: str) -> npt.NDArray[Any]:
    """Refuse to read a column of data without columns; this is `Split.column` with a name of the data."""
    raise no_such_column(column, where, [])


# Size


MAX_PACKING = 100
"""Largest ratio of unpacked size to file size, for a large file."""


def check_unpacked(path: Any, unpacked: int, packed: int) -> None:
    """Raise InputError for a file that would fill the memory: it unpacks to over 2 GiB and over 100 times its size."""
    if unpacked > max(MEMORY_LIMIT, MAX_PACKING * packed):
        raise InputError(
            expected=f"a file that unpacks to at most {MAX_PACKING} times its size in {path}",
            got=f"{packed:,} bytes that unpack to {unpacked:,} or more",
            hint="a file with fewer rows",
        )


def contiguous_images(inputs: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """Arrange uint8 images as (N, C, H, W); convert floats to float32, and keep their shape.

    Floats of shape (N, H, W, 1 or 3) are images, too.

    Raises:
        InputError: inputs are neither.
    """
    is_image = inputs.ndim in (3, 4) and inputs.dtype == np.uint8
    is_float = inputs.ndim > 1 and inputs.dtype.kind == "f"
    if is_float:
        inputs = inputs.astype(np.float32)
        is_image = inputs.ndim == 4
    elif inputs.dtype == np.uint8 and inputs.ndim == 3:
        inputs = inputs[:, None]
    if is_image and inputs.shape[1] not in (1, 3) and inputs.shape[3] in (1, 3):
        return np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    if is_float or (is_image and inputs.shape[1] in (1, 3)):
        return inputs
    raise InputError(
        expected=f"inputs in {where} as uint8 images with 1 or 3 channels, or as floats in [0, 1]",
        got=f"{inputs.dtype} of shape {inputs.shape}",
        hint="uint8 of shape (N, H, W, C) or (N, C, H, W), or floats of shape (N, ...)",
    )
