"""Formats of data: arrays, folders of images, scikit-learn's digits.

Each ``open_...`` function returns one `Split` for each split, which reads labels and inputs, or one further column.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aradals._internal.optional import load_extra
from aradals.data.images import MEMORY_LIMIT, EncodedImage
from aradals.errors import InputError

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLIT_NAMES)})(?![a-z])")


@dataclass(frozen=True)
class Columns:
    """Names of the columns (or arrays) to read; None = choose by type."""

    image: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Rows:
    """Inputs and labels of one split, as its source has them.

    Attributes:
        inputs: uint8 (N, C, H, W) or float32 (N, ...), or N encoded images.
        labels: int64, shape (N,).
        class_names: names of the classes, if the source has them.
        label_column: name of the labels in the source.
    """

    inputs: npt.NDArray[np.uint8 | np.float32] | Sequence[EncodedImage]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...] | None = None
    label_column: str = "labels"


@dataclass(frozen=True)
class Companions:
    """Table without its images.

    Attributes:
        schema: Arrow schema of all columns, with metadata.
        image: name of the column of images.
        others: Arrow table of the other columns.
    """

    schema: Any
    image: str
    others: Any


@dataclass(frozen=True)
class Split:
    """Readers of one split.

    Attributes:
        rows: reads inputs and labels.
        column: reads the values of a column by its name, one for each row.
        companions: reads all columns except the images, if the split is a table.
    """

    rows: Callable[[Columns], Rows]
    column: Callable[[str], npt.NDArray[Any]]
    companions: Callable[[Columns], Companions] | None = None


OpenSplits = dict[str, Split]
"""Name of a split -> its readers."""


def split_name(word: str) -> str:
    """Return the usual name of a split: "val" and "valid" mean "validation"."""
    return _SPLIT_NAMES.get(word.lower(), word)


def find_split(text: str) -> tuple[str, str] | None:
    """Return the text before the last split word of ``text``, and the split of this word; None if there is no word.

    >>> find_split("cifar10-train-00000-of-00001")
    ('cifar10', 'train')
    """
    words = list(_SPLIT_WORD.finditer(text.lower()))
    if not words:
        return None
    return text[: words[-1].start()].rstrip("-_./ "), split_name(words[-1].group())


# Digits


def open_digits() -> OpenSplits:
    """Open the 1,797 handwritten digits of scikit-learn: 8x8, gray, 17 levels, as floats in [0, 1].

    Scikit-learn does not divide them into splits. In this package the test split has 800 of them, chosen at random but
    always the same, and the training split has the other 997.
    """
    order = np.random.default_rng(0).permutation(1797)
    return {
        "train": Split(partial(_read_digits, np.sort(order[800:])), partial(_no_columns, "digits")),
        "test": Split(partial(_read_digits, np.sort(order[:800])), partial(_no_columns, "digits")),
    }


def _read_digits(rows: npt.NDArray[np.int64], columns: Columns) -> Rows:
    _refuse_columns(columns, "digits")
    digits = load_extra("sklearn.datasets").load_digits()
    return Rows((digits.images[rows, None] / 16).astype(np.float32), digits.target[rows].astype(np.int64))


# Arrays


def open_npz(path: Path, split: str) -> OpenSplits:
    """Open the splits of an ``.npz`` of arrays.

    Arrays such as ``x_train, y_train, x_test, y_test`` name the splits. If there are no such arrays, ``split`` is the
    only split, with inputs in ``inputs``, ``images`` or ``x`` and labels in ``labels`` or ``y``. An array
    ``class_names`` may name the classes.
    """
    with _npz(path) as arrays:
        names = [key.removeprefix("x_") for key in arrays if key.startswith("x_")]
    suffixes = {split_name(name): f"_{name}" for name in names} or {split: ""}
    return {
        name: Split(partial(_read_npz, path, suffix), partial(_read_npz_column, path, suffix))
        for name, suffix in suffixes.items()
    }


def _read_npz(path: Path, suffix: str, columns: Columns) -> Rows:
    input_names = [columns.image] if columns.image else [name + suffix for name in ("inputs", "images", "x")]
    label_names = [columns.label] if columns.label else [name + suffix for name in ("labels", "y")]
    with _npz(path) as arrays:
        inputs = arrays[_first_name(arrays, path, input_names, "--image-column")]
        label = _first_name(arrays, path, label_names, "--label-column")
        labels = arrays[label]
        class_names = tuple(map(str, arrays["class_names"])) if "class_names" in arrays else None
    if labels.ndim == 2 and labels.shape[1] == 1:  # Keras stores CIFAR like this
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or inputs.ndim == 0 or len(labels) != len(inputs):
        raise InputError(
            expected=f"one integer label for each input in {path}",
            got=f"inputs of shape {inputs.shape}, labels of shape {labels.shape} and type {labels.dtype}",
            hint="an array of class indices of shape (N,)",
        )
    return Rows(_arranged(inputs, path), labels.astype(np.int64), class_names, label)


def _read_npz_column(path: Path, suffix: str, column: str) -> npt.NDArray[Any]:
    """Read a 1-D array as long as the labels, named ``column``, or ``column_train`` for the split train."""
    with _npz(path) as arrays:
        lengths = [len(arrays[name + suffix]) for name in ("labels", "y") if name + suffix in arrays]

        def is_column(name: str) -> bool:
            return arrays[name].ndim == 1 and len(arrays[name]) in (lengths[:1] or [len(arrays[name])])

        for name in (column + suffix, column):
            if name in arrays and is_column(name):
                return arrays[name]
        raise no_such_column(column, str(path), [name for name in arrays if is_column(name)])


def _arranged(inputs: npt.NDArray[Any], path: Path) -> npt.NDArray[np.uint8 | np.float32]:
    """Arrange uint8 images as (N, C, H, W); convert floats to float32, and keep their shape."""
    if inputs.dtype.kind == "f" and inputs.ndim > 1:
        return inputs.astype(np.float32)
    if inputs.dtype == np.uint8:
        if inputs.ndim == 3:
            return inputs[:, None]
        if inputs.ndim == 4 and inputs.shape[1] in (1, 3):
            return inputs
        if inputs.ndim == 4 and inputs.shape[3] in (1, 3):
            return np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    raise InputError(
        expected=f"inputs in {path} as uint8 images with 1 or 3 channels, or as floats in [0, 1]",
        got=f"{inputs.dtype} of shape {inputs.shape}",
        hint="uint8 of shape (N, H, W, C) or (N, C, H, W), or floats of shape (N, ...)",
    )


def _first_name(arrays: Mapping[str, npt.NDArray[Any]], path: Path, names: Sequence[str], option: str) -> str:
    for name in names:
        if name in arrays:
            return name
    raise InputError(
        expected=f"an array {' or '.join(names)} in {path}",
        got=", ".join(arrays) or "no arrays",
        hint=f"{option} NAME",
    )


@contextmanager
def _npz(path: Path) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except InputError:
        raise
    except NPZ_ERRORS as error:
        raise InputError(
            expected=f"an .npz file of numeric arrays in {path}",
            got=str(error) or type(error).__name__,
            hint="writing the file with numpy.savez(path, inputs=..., labels=...)",
        ) from error


MAX_PACKING = 100
"""Largest ratio of unpacked size to file size, for a large file."""


NPZ_ERRORS = (ValueError, EOFError, OSError, TypeError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Errors of reading an ``.npz`` that is damaged or that another program has made."""


def check_npz(path: Path) -> None:
    """Refuse an ``.npz`` that would fill the memory: a small file that unpacks to more than 2 GiB.

    Raises:
        InputError: the file unpacks to more than `MEMORY_LIMIT`, and to more than `MAX_PACKING` times its size.
        ValueError: a member of the file is not an array; numpy would return its bytes.
        Exception: another one of `NPZ_ERRORS`, for a file that is not a zip file, or is damaged.
    """
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            with file.open(entry) as member:
                if member.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                    raise ValueError(f"{entry.filename!r}, which is not an array")
        unpacked = sum(entry.file_size for entry in file.infolist())
    if unpacked > max(MEMORY_LIMIT, MAX_PACKING * path.stat().st_size):
        raise too_packed(path, unpacked)


def too_packed(path: Path, unpacked: int) -> InputError:
    """Make the error for a file that would fill the memory."""
    return InputError(
        expected=f"a file that unpacks to at most {MAX_PACKING} times its size in {path}",
        got=f"{path.stat().st_size:,} bytes that unpack to {unpacked:,} or more",
        hint="a file with fewer rows",
    )


# Folders of images


def open_image_folder(folder: Path) -> OpenSplits:
    """Open the splits of ``folder/split/class/image.png``, or the split "all" of ``folder/class/image.png``.

    Classes are numbered in the order of their folders' names, over all splits together. Rows are in the order of class
    and file name.

    Raises:
        InputError: there are no images, or an image is not in the folder of a class.
    """
    paths = [
        Path(root, file).relative_to(folder)
        for root, files in _walk(folder)
        for file in files
        if Path(file).suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
    ]
    if not paths:
        raise InputError(
            expected=f"parquet files, .npz files or images in {folder}",
            got="no such files",
            hint="a folder of images by class, or of parquet files named train* and test*",
        )
    has_splits = all(path.parts[0].lower() in _SPLIT_NAMES and len(path.parts) > 2 for path in paths)
    depth = 1 if has_splits else 0
    loose = next((path for path in paths if len(path.parts) < depth + 2), None)
    if loose:
        raise InputError(
            expected=f"the images of {folder} in one folder for each class",
            got=f"{loose}, which is in no such folder",
            hint="a layout such as class/image.png or split/class/image.png",
        )
    classes = sorted({path.parts[depth] for path in paths})
    splits = {split_name(path.parts[0]) if has_splits else "all" for path in paths}
    by_split = {
        split: sorted(path for path in paths if not has_splits or split_name(path.parts[0]) == split)
        for split in sorted(splits)
    }
    return {
        split: Split(
            partial(_read_image_folder, folder, members, classes, depth),
            partial(_no_columns, str(folder)),
        )
        for split, members in by_split.items()
    }


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below ``folder`` with its file names; links are followed, but no folder may come twice."""
    seen: dict[str, str] = {}
    for root, _, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            raise InputError(
                expected=f"every folder below {folder} once",
                got=f"{root}, which is {seen[real]} again, by a symbolic link",
                hint="removing the link",
            )
        seen[real] = root
        yield root, files


def _read_image_folder(
    folder: Path, paths: Sequence[Path], classes: Sequence[str], depth: int, columns: Columns
) -> Rows:
    _refuse_columns(columns, str(folder))
    index = {name: label for label, name in enumerate(classes)}
    labels = np.array([index[path.parts[depth]] for path in paths], dtype=np.int64)
    return Rows([str(folder / path) for path in paths], labels, tuple(classes))


def _refuse_columns(columns: Columns, name: str) -> None:
    if columns != Columns():
        raise InputError(
            expected="--image-column and --label-column only for data with named columns",
            got=name,
            hint="the command without these options",
        )


# Columns


def no_such_column(column: str, where: str, columns: Sequence[str]) -> InputError:
    """Make the error for a column that ``where`` does not have, or that does not have one value for each row."""
    return InputError(
        expected=f"a column of {where} with one value for each row",
        got=repr(column),
        hint="one of: " + ", ".join(columns)
        if columns
        else "a parquet file, an .npz file or a Hugging Face data set, which can have columns",
    )


def _no_columns(where: str, column: str) -> npt.NDArray[Any]:
    raise no_such_column(column, where, [])
