"""Sources of data: files, folders, built-in names and the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aradals.data.corrupted_sets import open_corrupted_set, parse_condition, split_conditions
from aradals.data.examples import Examples
from aradals.data.formats import (
    Columns,
    Companions,
    OpenSplits,
    Rows,
    Split,
    find_split,
    open_digits,
    open_image_folder,
    open_npz,
    split_name,
)
from aradals.data.images import ImageReader, read_images
from aradals.data.tables import open_hub, read_column, read_companions, read_parquet
from aradals.errors import InputError

_HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_TABLES = (".parquet", ".npz")
MAX_UNNAMED = 1000
"""Number of classes up to which names are not needed, even if there are few rows."""

_SHARD = re.compile(r"(^|[-_])\d{4,}(-of-\d+)?$")


@dataclass(frozen=True)
class _DataSet:
    name: str
    splits: OpenSplits


def load_data(
    spec: str,
    split: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
) -> Examples:
    """Load one split of a data set.

    ``spec`` is one of

    - ``digits``: scikit-learn's digits, with a fixed division into "train" (997) and "test" (800);
    - a parquet file, or a folder of parquet files; the words train, validation and test in file names name the splits;
    - the beginning of such names: ``dir/cifar10`` for ``dir/cifar10-train.parquet``, ``dir/cifar10-test.parquet``;
    - a folder of images, ``split/class/image.png`` or ``class/image.png``;
    - an ``.npz`` of arrays: ``inputs, labels``, or ``x_train, y_train, x_test, y_test``; uint8 images with 1 or
      3 channels, or floats in [0, 1] of any shape;
    - the id of a Hugging Face data set, e.g. ``uoft-cs/cifar10``; ``cifar10`` is a short name for it;
    - a folder of CIFAR-10-C, CIFAR-100-C (checksums of the published files are verified) or ImageNet-C, whose splits
      have names such as ``fog-3``. Tables with the columns ``corruption`` and ``severity`` have such splits, too.

    The search for files begins in the folder that the environment variable ``ARADALS_DATA`` names. All images must
    have the same size. They are kept in memory as uint8. If they need more than 2 GiB, they are decoded on demand.

    Args:
        spec: the data set.
        split: the split; by default the only split, or "test".
        image_column: column of images (array of an ``.npz``), if types and usual names do not identify it.
        label_column: column of labels, if types and usual names do not identify it.
        limit: largest number of examples: a random sample, always the same, in the order of the source. A larger
            sample contains every smaller one. (The first rows would be no fair sample: in a sorted source they have
            one class.)

    Returns:
        Examples whose ids are their rows in the split.

    Raises:
        InputError: the data cannot be found or read, the split is unknown, or labels are out of range.
        MissingExtraError: a package of the extra ``data`` is missing.
    """
    data_set = _find(spec)
    split = _choose_split(data_set, split)
    rows = data_set.splits[split].rows(Columns(image_column, label_column))
    name = data_set.name if split == "all" else f"{data_set.name}-{split}"
    if not len(rows.labels) or (limit is not None and limit < 1):
        raise InputError(
            expected=f"at least one example in {name}", got="no example", hint="another split or a larger --limit"
        )
    num_classes = _num_classes(rows, name)
    chosen = _sample(len(rows.labels), limit)
    if isinstance(rows.inputs, np.ndarray):
        inputs: Tensor | ImageReader = torch.from_numpy(rows.inputs[chosen])
    else:
        inputs = read_images(rows.inputs, chosen.tolist(), name)
    return Examples(
        inputs,
        torch.from_numpy(rows.labels[chosen]),
        num_classes=num_classes,
        class_names=rows.class_names,
        ids=torch.from_numpy(chosen),
        name=name,
    )


def load_companions(spec: str, split: str | None, *, image_column: str | None = None) -> Companions | None:
    """Load all columns of a parquet file or Hugging Face data set except the images; None for other formats.

    Raises:
        InputError: see `load_data`.
    """
    data_set = _find(spec)
    companions = data_set.splits[_choose_split(data_set, split)].companions
    return companions(Columns(image_column)) if companions else None


def load_column(spec: str, split: str | None, column: str) -> npt.NDArray[Any]:
    """Load a further column besides images and labels, for example the place of a picture or its difficulty.

    Args:
        spec: a parquet file, a folder of parquet files, an ``.npz``, or a Hugging Face id, as for `load_data`. In an
            ``.npz`` of several splits, the array ``column_train`` belongs to train.
        split: as for `load_data`.
        column: name of the column.

    Returns:
        One value for each row of the split, shape (rows,): numbers, booleans, or strings. The values of any examples of
        the split are ``values[examples.ids]``.

    Raises:
        InputError: the data cannot be found or read; the split or the column does not exist; or the column has missing
            values, or values that are not single.
        MissingExtraError: a package of the extra ``data`` is missing.
    """
    data_set = _find(spec)
    return data_set.splits[_choose_split(data_set, split)].column(column)


def data_paths(spec: str) -> list[Path]:
    """List the file, the folder, or the group of files that ``spec`` names on this machine; empty for other data."""
    folder = os.environ.get("ARADALS_DATA")
    found: list[Path] = []
    for path in (Path(folder).expanduser() / spec, Path(spec).expanduser()) if folder else (Path(spec).expanduser(),):
        if path.exists():
            found.append(path)
        elif path.parent.is_dir():
            beside = (each for each in path.parent.iterdir() if each.suffix in _TABLES)
            found += [each for each in beside if each.name.startswith(path.name)]
    return found


def files_digest(spec: str) -> str:
    """Digest of the files of ``spec`` on this machine, by their names, sizes and times: 16 hexadecimal digits.

    The digest does not read the content, because a corrupted data set can have millions of images.
    """
    digest = hashlib.sha256()
    for root in data_paths(spec):
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file():
                state = path.stat()
                digest.update(
                    f"{path.relative_to(root)!s}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="replace")
                )
    return digest.hexdigest()[:16]


def list_splits(spec: str) -> list[str]:
    """List the splits of ``spec`` (see :func:`load_data`); this downloads a Hugging Face data set."""
    return list(_find(spec).splits)


def list_conditions(spec: str) -> dict[tuple[str, int], str]:
    """Map corruptions and severities of a corrupted data set to their splits: ``{("fog", 3): "fog-3", ...}``.

    Raises:
        InputError: the data cannot be found, or it is not divided by corruption and severity.
    """
    splits = _find(spec).splits
    names = [*splits, *split_conditions(splits)]
    found = {condition: name for name in names if (condition := parse_condition(name))}
    if not found:
        raise InputError(
            expected="a corrupted data set",
            got=f"{spec!r}, which has the splits {', '.join(splits)}",
            hint="a folder of CIFAR-10-C or ImageNet-C, or a table with the columns corruption and severity",
        )
    return found


def load_condition(spec: str, corruption: str, severity: int, clean: Examples) -> Examples:
    """Load the corrupted copies of the examples ``clean`` from a corrupted data set.

    Args:
        spec: a corrupted data set (see `list_conditions`), in the order of the clean split.
        corruption: name of the corruption.
        severity: 1 to 5.
        clean: examples of the clean split, whose ids are their rows in that split.

    Returns:
        The corrupted examples, with the same ids and labels, in the same order.

    Raises:
        InputError: the corruption or severity does not exist, the set has too few rows, or its labels differ.
    """
    known = list_conditions(spec)
    if (corruption, severity) not in known:
        raise InputError(
            expected=f"a corruption and severity of {spec}",
            got=f"{corruption}-{severity}",
            hint="one of: " + ", ".join(known.values()),
        )
    examples = load_data(spec, known[corruption, severity])
    fits = not len(clean) or int(clean.ids.max()) < len(examples)
    chosen = examples.select(clean.ids) if fits else examples
    if not fits or not torch.equal(chosen.labels, clean.labels):
        raise InputError(
            expected=f"the rows of {examples.name} in the order of {clean.name}",
            got="other labels" if fits else f"only {len(examples)} rows",
            hint="the split that was corrupted, in its published order",
        )
    return chosen


def _choose_split(data_set: _DataSet, split: str | None) -> str:
    known = list(data_set.splits)
    wanted = split_name(split) if split else known[0] if len(known) == 1 else "test"
    if wanted not in known and parse_condition(wanted):
        data_set.splits.update(split_conditions(data_set.splits))
    if wanted in data_set.splits:
        return wanted
    raise InputError(expected=f"a split of {data_set.name}", got=repr(wanted), hint=f"--split {' or '.join(known)}")


def _num_classes(rows: Rows, name: str) -> int:
    """Count the classes: the number of names if there are names, else the largest label plus 1.

    Raises:
        InputError: the labels seem to number rows, not classes; a table of so many classes would fill the memory.
    """
    if rows.class_names:
        return len(rows.class_names)
    num_classes = max(int(rows.labels.max()) + 1, 1)
    if num_classes > MAX_UNNAMED and 2 * num_classes > len(rows.labels):
        raise InputError(
            expected=f"labels of {name} that number its classes from 0",
            got=f"{num_classes:,} classes by the largest label, but only {len(rows.labels):,} rows; perhaps "
            f"{rows.label_column!r} is not the label column",
            hint="--label-column NAME, or data with names of the classes",
        )
    return num_classes


def _sample(num_rows: int, limit: int | None) -> npt.NDArray[np.int64]:
    if limit is None or limit >= num_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(0).permutation(num_rows)[:limit])


def _find(spec: str) -> _DataSet:
    """Look for ``spec`` in ARADALS_DATA, among the built-in names, in the file system and on the Hub."""
    folder, path = os.environ.get("ARADALS_DATA"), Path(spec).expanduser()
    if spec and folder and not spec.startswith(".") and (found := _find_local(Path(folder).expanduser() / spec)):
        return found
    if spec == "digits":
        return _DataSet("digits", open_digits())
    if spec and (found := _find_local(path)):
        return found
    # If the first part of a name is a local folder, the name is a mistyped path, and the Hub is not asked.
    is_hub_id = _HUB_ID.fullmatch(spec) and path.suffix not in _TABLES and not path.parent.is_dir()
    if spec in _HUB_NAMES or is_hub_id:
        repository = _HUB_NAMES.get(spec, spec)
        return _DataSet(repository.rpartition("/")[2], open_hub(repository))
    raise InputError(
        expected="a data set",
        got=f"{spec!r}, which is not a file, a folder or a built-in name",
        hint="--data PATH, a Hugging Face id such as uoft-cs/cifar10, or setting the environment variable ARADALS_DATA "
        "to the folder that contains the data",
    )


def _find_local(path: Path) -> _DataSet | None:
    """Find the data set at a file, in a folder, or in files whose names begin with ``path``; None if there is none."""
    if path.is_file():
        return _open_files([path], path.parent)
    if path.is_dir():
        return _find_in_folder(path)
    for suffix in _TABLES:
        exact = path.with_name(path.name + suffix)
        if exact.is_file():
            return _open_files([exact], path.parent)
        group = _group(path.parent.glob(f"*{suffix}"), path.parent).get(path.name)
        if group:
            return _open_files(group, path.parent)
    return None


def _find_in_folder(folder: Path) -> _DataSet:
    if corrupted := open_corrupted_set(folder):
        return _DataSet(folder.resolve().name, corrupted)
    for suffix in _TABLES:
        groups = _group(folder.rglob(f"*{suffix}"), folder)
        if "" in groups:  # files train*, test* belong to the folder; other files in the folder are ignored
            groups = {"": groups[""]}
        if len(groups) > 1:
            candidates = sorted(str(folder / name) for name in groups)
            raise InputError(
                expected=f"one data set in {folder}",
                got=f"several data sets: {', '.join(candidates)}",
                hint=candidates[0],
            )
        for group in groups.values():
            return _open_files(group, folder)
    return _DataSet(folder.resolve().name, open_image_folder(folder))


def _group(files: Iterable[Path], folder: Path) -> dict[str, list[Path]]:
    """Group files by data set: the part of their names before the split or the shard number."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(files):
        parts = file.relative_to(folder)
        if not any(part.startswith(".") for part in parts.parts):
            groups.setdefault(_name_and_split(parts)[0], []).append(file)
    return groups


def _name_and_split(file: Path) -> tuple[str, str]:
    stem = file.with_suffix("").as_posix()
    return find_split(stem) or (_SHARD.sub("", stem), "all")


def _open_files(files: Sequence[Path], folder: Path) -> _DataSet:
    """Open the data set in ``files``, which all have the same format."""
    name = _name_and_split(files[0].relative_to(folder))[0] or folder.resolve().name
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_name_and_split(file.relative_to(folder))[1], []).append(file)
    splits: OpenSplits = {}
    for split, parts in by_split.items():
        if parts[0].suffix == ".parquet":
            splits[split] = Split(
                partial(read_parquet, parts), partial(read_column, parts), partial(read_companions, parts)
            )
        elif parts[0].suffix == ".npz" and len(parts) == 1:
            splits |= open_npz(parts[0], split)
        else:
            raise InputError(
                expected="parquet files, or one .npz file for each split",
                got=", ".join(map(str, parts)),
                hint="converting the files to one of these layouts",
            )
    return _DataSet(name, splits)
