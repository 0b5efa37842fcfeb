"""Sources of data: files, folders, built-in names, code of the user and the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from aradals.checks import ROUNDING
from aradals.data.arrays import open_array_folder, open_cifar, open_npy, open_npz, open_torch
from aradals.data.corrupted_sets import open_corrupted_set, parse_condition, split_conditions
from aradals.data.digits import open_digits
from aradals.data.examples import Examples
from aradals.data.folders import open_image_folder
from aradals.data.formats import (
    Columns,
    Companions,
    OpenSplits,
    Rows,
    contiguous_images,
    find_split,
    split_name,
)
from aradals.data.images import Decoding, describe_images, read_images
from aradals.data.labels import class_indices
from aradals.data.scaling import Scaling
from aradals.data.shards import open_tar
from aradals.data.splits import cut_test
from aradals.data.tables import open_csv, open_hub, open_labeled_images, open_parquet, open_saved
from aradals.data.user_data import open_user_data
from aradals.errors import InputError

OutOfRange = Literal["refuse", "clip"]
"""What to do with inputs outside [0, 1]."""

FILE_READERS: dict[str, Callable[[Sequence[Path], str], OpenSplits]] = {
    ".parquet": open_parquet,
    ".npz": open_npz,
    ".tar": open_tar,
    ".pt": open_torch,
    ".pth": open_torch,
    ".csv": open_csv,
    ".tsv": open_csv,
    ".npy": open_npy,
}
"""Formats of files by suffix; each opens the files of one split, and the first one that a folder has is read."""

FOLDER_READERS: tuple[Callable[[Path], OpenSplits | None], ...] = (
    open_corrupted_set,
    open_saved,
    open_cifar,
    open_array_folder,
)
"""Formats of whole folders, which are tried before the files in the folder."""

IMAGE_READERS: tuple[Callable[[Path], OpenSplits | None], ...] = (open_labeled_images, open_image_folder)
"""Formats of folders with images, which are tried before tables of numbers."""

_BESIDE_IMAGES = (".parquet", ".npz", ".tar")
"""Formats that are read although there are images in the same folder."""

_HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
MAX_UNNAMED = 1000
"""Number of classes up to which names are not needed, even if there are few rows."""

_SHARD = re.compile(r"(^|[-_])\d{4,}(-of-\d+)?$")

_ALL = "all"
"""Name of the only split of data without named splits."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class _DataSet:
    name: str
    splits: OpenSplits


@dataclass(frozen=True)
class Reading:
    """The settings of reading, which are the same for all splits of a data set.

    Attributes:
        image_column: column of images, of names of image files, or array of inputs, if types and usual names do not
            identify it.
        label_column: column of labels, if types and usual names do not identify it.
        num_classes: number of classes, if the labels are numbers and the largest class may be missing.
        resize: height and width to which every image is resized.
        out_of_range: refuse inputs outside [0, 1], or clip them.
        preparation: what a checkpoint records of the preparation of its training data, see `Examples`; it decides the
            scaling of numeric columns, and the size of images if ``resize`` is None.
    """

    image_column: str | None = None
    label_column: str | None = None
    num_classes: int | None = None
    resize: int | None = None
    out_of_range: OutOfRange = "refuse"
    preparation: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.out_of_range not in get_args(OutOfRange):
            raise InputError(expected="out_of_range refuse or clip", got=repr(self.out_of_range), hint="clip")
        if self.num_classes is not None and self.num_classes < 2:
            raise InputError(expected="num_classes of at least 2", got=str(self.num_classes), hint="--num-classes 10")

    @property
    def columns(self) -> Columns:
        """The columns that are named."""
        return Columns(self.image_column, self.label_column)

    @property
    def decoding_size(self) -> int | None:
        """The size of images: as asked, or as recorded."""
        recorded = (self.preparation or {}).get("resize")
        return self.resize if self.resize is not None or not isinstance(recorded, int) else recorded

    @property
    def scaling(self) -> Scaling | None:
        """The recorded scaling of numeric columns."""
        recorded = (self.preparation or {}).get("scaling")
        return None if recorded is None else Scaling.read(recorded)


def load_data(
    spec: str,
    split: str | None = None,
    *,
    limit: int | None = None,
    labeled: bool = True,
    log: Log = lambda line: None,
    **reading: Any,
) -> Examples:
    """Load one split of a data set.

    ``spec`` is one of

    - a folder of images, ``split/class/image.png`` or ``class/image.png``, or of images beside a CSV file;
    - a parquet, CSV, ``.npz``, ``.npy``, ``.pt`` or ``.tar`` (WebDataset) file, or a folder of such files; the words
      train, validation and test in file names name the splits;
    - the beginning of such names: ``dir/cifar10`` for ``dir/cifar10-train.parquet``, ``dir/cifar10-test.parquet``;
    - a folder that ``save_to_disk`` of Hugging Face datasets has written, or the published files of CIFAR;
    - the id of a Hugging Face data set, e.g. ``uoft-cs/cifar10``; ``cifar10`` is a short name for it;
    - ``digits``: scikit-learn's digits, with a fixed division into "train" (997) and "test" (800);
    - ``file.py:callable``, which returns data as for `aradals.data.as_examples`, or a mapping of splits to such data;
    - a folder of CIFAR-10-C, CIFAR-100-C (checksums of the published files are verified) or ImageNet-C, whose splits
      have names such as ``fog-3``. Tables with the columns ``corruption`` and ``severity`` have such splits, too.

    The search for files begins in the folder that the environment variable ``ARADALS_DATA`` names. All images must
    have the same size, unless ``resize`` gives one. They are kept in memory as uint8. If they need more than 2 GiB,
    they are decoded on demand. Columns of numbers are scaled to [0, 1] by the range of the training data.

    Args:
        spec: the data set.
        split: the split; by default the only split, or "test". If the data has no test split, "test" is its validation
            split, or else the fifth that a study cuts off, and "train" is the rest.
        limit: largest number of examples: a random sample, always the same, in the order of the source. A larger
            sample contains every smaller one. (The first rows would be no fair sample: in a sorted source they have
            one class.)
        labeled: False accepts data without labels.
        log: called with each choice that was made in reading.
        **reading: the settings of `Reading`.

    Returns:
        Examples whose ids are their rows in the split.

    Raises:
        InputError: the data cannot be found or read, the split is unknown, or labels are out of range.
        MissingExtraError: a package of the extra ``data`` is missing.
    """
    data_set, settings = _find(spec), Reading(**reading)
    source, part = _choose_split(data_set, split)
    if part is not None:
        pair = _cut(data_set, source, settings, None, log, labeled=labeled)
        examples = pair[part]
        _check_size(len(examples), limit, examples.name)
        chosen = _sample(len(examples), limit)
        return examples if len(chosen) == len(examples) else examples.select(chosen)
    rows = data_set.splits[source].rows(settings.columns)
    name = _name(data_set, source)
    _check_size(len(rows.inputs), limit, name)
    scaling = _scaling(data_set, source, rows, settings, name)
    return _examples(data_set, rows, settings, scaling, name, log, limit=limit, labeled=labeled)


def load_splits(
    spec: str, *, test_size: int | None = None, log: Log = lambda line: None, **reading: Any
) -> tuple[Examples, Examples]:
    """Load the training and the test examples of a study.

    If the data has no test split, its validation split is the test split. If the data has a single split, examples are
    cut off for the test: by their content, so that duplicates are not divided, and always the same ones.

    Args:
        spec: see `load_data`.
        test_size: number of test examples to cut off; default: a fifth, at most 10,000.
        log: called with each choice that was made in reading.
        **reading: the settings of `Reading`.

    Raises:
        InputError: see `load_data`.
    """
    data_set, settings = _find(spec), Reading(**reading)
    known = list(data_set.splits)
    test = "test" if "test" in known else "validation"
    if "train" in known and test in known:
        unused = [each for each in known if each not in ("train", test) and not parse_condition(each)]
        if test == "validation":
            log(f"{data_set.name} has no test split: its validation split is the test split")
        elif unused:
            log(f"{data_set.name}: the splits {', '.join(unused)} are not used; splits.validation is cut from train")
        rows = data_set.splits["train"].rows(settings.columns)
        scaling = settings.scaling or _ranges(rows)
        train = _examples(data_set, rows, settings, scaling, _name(data_set, "train"), log)
        rows = data_set.splits[test].rows(settings.columns)
        return _same_classes(train, _examples(data_set, rows, settings, scaling, _name(data_set, test), log))
    if len(known) > 1:
        raise InputError(
            expected=f"a training split of {data_set.name}",
            got=f"the splits {', '.join(known)}",
            hint="data with the splits train and test, or with a single split",
        )
    pair = _cut(data_set, known[0], settings, test_size, log)
    return pair["train"], pair["test"]


def _cut(
    data_set: _DataSet, source: str, settings: Reading, test_size: int | None, log: Log, *, labeled: bool = True
) -> dict[str, Examples]:
    """Cut a single split into training and test examples by content."""
    rows, name = data_set.splits[source].rows(settings.columns), _name(data_set, source)
    _check_size(len(rows.inputs), None, name)
    unscaled = replace(settings, preparation=None)
    whole = _examples(data_set, rows, unscaled, _ranges(rows), name, lambda line: None, labeled=False)
    train, test = cut_test(whole, test_size)
    scaling = settings.scaling or _ranges(rows, train)
    final = _examples(data_set, rows, settings, scaling, data_set.name, log, labeled=labeled)
    log(f"{data_set.name} has no test split: {len(test)} of {len(whole)} examples are cut off, by their content")
    parts = {"train": final.select(train), "test": final.select(test)}
    for split, part in parts.items():
        part.name = f"{data_set.name}-{split}"
    return parts


def _ranges(rows: Rows, chosen: npt.NDArray[np.int64] | slice = slice(None)) -> Scaling | None:
    """Measure the ranges of columns of numbers, in the chosen rows; None for other inputs."""
    return Scaling.fit(np.asarray(rows.inputs)[chosen], rows.features) if rows.features else None


def _same_classes(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """Give two splits the same number of classes, because numbered classes may be missing from one of them."""
    num_classes = max(train.num_classes, test.num_classes)
    if train.has_names or test.has_names:
        return train, test
    return train.with_num_classes(num_classes), test.with_num_classes(num_classes)


def _examples(
    data_set: _DataSet,
    rows: Rows,
    settings: Reading,
    scaling: Scaling | None,
    name: str,
    log: Log,
    *,
    limit: int | None = None,
    labeled: bool = True,
) -> Examples:
    """Make examples from the rows of a split."""
    for note in rows.notes:
        log(note)
    chosen = _sample(len(rows.inputs), limit)
    labels, names = _labels(data_set, rows, name) if labeled or rows.labels is not None else (None, rows.class_names)
    num_classes = 1 if labels is None else _num_classes(labels, names, rows, settings, name)
    preparation: dict[str, Any] = {}
    inputs: Any
    if rows.features:
        assert isinstance(rows.inputs, np.ndarray)
        values = rows.inputs if scaling is None else scaling.apply(rows.inputs, rows.features, name)
        if scaling is not None:
            preparation["scaling"] = scaling.record
            log(f"{name}: columns are scaled to [0, 1] by their ranges in the training data")
        inputs = torch.from_numpy(values[chosen].astype(np.float32))
    elif isinstance(rows.inputs, np.ndarray):
        inputs = torch.from_numpy(contiguous_images(rows.inputs, name)[chosen])
    else:
        decoding = Decoding(settings.decoding_size, upright=rows.upright)
        for note in describe_images(rows.inputs, chosen.tolist(), decoding):
            log(f"{name}: {note}")
        preparation |= {} if decoding.resize is None else {"resize": decoding.resize}
        inputs = read_images(rows.inputs, chosen.tolist(), name, decoding)
    if isinstance(inputs, torch.Tensor) and inputs.is_floating_point():
        inputs = _in_range(inputs, settings, name, log)
    return Examples(
        inputs,
        None if labels is None else torch.from_numpy(labels[chosen]),
        num_classes=num_classes,
        class_names=names if labels is not None else None,
        ids=torch.from_numpy(chosen),
        name=name,
        preparation=preparation,
    )


def _scaling(data_set: _DataSet, source: str, rows: Rows, settings: Reading, name: str) -> Scaling | None:
    """Choose the scaling of columns of numbers: the recorded one, or that of the training split; None if not needed."""
    if not rows.features or settings.scaling is not None:
        return settings.scaling if rows.features else None
    if "train" in data_set.splits:
        return _ranges(rows if source == "train" else data_set.splits["train"].rows(settings.columns))
    values = np.asarray(rows.inputs)
    if values.min() >= 0 and values.max() <= 1:
        return None
    raise InputError(
        expected=f"columns of {name} in [0, 1], or the ranges of the training data to scale them by",
        got=f"values from {values.min():.4g} to {values.max():.4g}",
        hint="--checkpoint of a model of `aradals train`, which records the ranges; a folder with train.csv and "
        "test.csv; or --split test, which is scaled by the other rows",
    )


def _in_range(inputs: torch.Tensor, settings: Reading, name: str, log: Log) -> torch.Tensor:
    """Clip inputs to [0, 1] if this is asked; others are left to `Examples`, which refuses them."""
    outside = (inputs < 0) | (inputs > 1)
    if not outside.any():
        return inputs
    if settings.out_of_range == "clip":
        log(f"{name}: {int(outside.flatten(1).any(1).sum())} of {len(inputs)} examples are clipped to [0, 1]")
        return inputs.clamp(0, 1)
    low, high = (float(bound) for bound in inputs.aminmax())
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return inputs
    raise InputError(
        expected=f"inputs of {name} in [0, 1]",
        got=f"values from {low:.4g} to {high:.4g}",
        hint="scaling the inputs to [0, 1], and putting the normalization inside the model; or --out-of-range clip",
    )


def _labels(data_set: _DataSet, rows: Rows, name: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...] | None]:
    """Convert labels to class indices; names are numbered over all splits together."""
    if rows.labels is None:
        raise rows.unlabeled or InputError(
            expected=f"labels in {name}", got="none", hint="data with labels, or --label-column NAME"
        )

    def all_names() -> Iterable[Any]:
        for split in data_set.splits.values() if len(data_set.splits) > 1 else ():
            with suppress(InputError):  # a split may have no labels
                yield from split.column(rows.label_column).tolist()

    labels, names = class_indices(rows.labels, f"{rows.label_column} of {name}", all_names=all_names)
    return labels, rows.class_names or names


def _check_size(size: int, limit: int | None, name: str) -> None:
    if not size or (limit is not None and limit < 1):
        raise InputError(
            expected=f"at least one example in {name}", got="no example", hint="another split or a larger --limit"
        )


def _name(data_set: _DataSet, split: str) -> str:
    return data_set.name if split == _ALL else f"{data_set.name}-{split}"


def load_companions(spec: str, split: str | None, *, image_column: str | None = None) -> Companions | None:
    """Load all columns of a parquet file or Hugging Face data set except the images; None for other formats.

    Raises:
        InputError: see `load_data`.
    """
    data_set = _find(spec)
    companions = data_set.splits[_choose_split(data_set, split)[0]].companions
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
    return data_set.splits[_choose_split(data_set, split)[0]].column(column)


def data_paths(spec: str) -> list[Path]:
    """List the file, the folder, or the group of files that ``spec`` names on this machine; empty for other data."""
    folder = os.environ.get("ARADALS_DATA")
    found: list[Path] = []
    for path in (Path(folder).expanduser() / spec, Path(spec).expanduser()) if folder else (Path(spec).expanduser(),):
        if path.exists():
            found.append(path)
        elif path.parent.is_dir():
            beside = (each for each in path.parent.iterdir() if each.suffix in FILE_READERS)
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
    examples = load_data(spec, known[corruption, severity], preparation=clean.preparation)
    fits = not len(clean) or int(clean.ids.max()) < len(examples)
    chosen = examples.select(clean.ids) if fits else examples
    if not fits or not torch.equal(chosen.labels, clean.labels):
        raise InputError(
            expected=f"the rows of {examples.name} in the order of {clean.name}",
            got="other labels" if fits else f"only {len(examples)} rows",
            hint="the split that was corrupted, in its published order",
        )
    return chosen


def _choose_split(data_set: _DataSet, split: str | None) -> tuple[str, str | None]:
    """Choose a split of the data, and the part of it: "train" or "test" if it has to be cut, else None."""
    known = list(data_set.splits)
    wanted = split_name(split) if split else known[0] if len(known) == 1 else "test"
    if wanted not in known and parse_condition(wanted):
        data_set.splits.update(split_conditions(data_set.splits))
    if wanted in data_set.splits:
        return wanted, None
    if wanted == "test" and "validation" in known:
        return "validation", None
    if len(known) == 1 and known[0] in (_ALL, "train") and wanted in ("train", "test"):
        return known[0], wanted
    raise InputError(expected=f"a split of {data_set.name}", got=repr(wanted), hint=f"--split {' or '.join(known)}")


def _num_classes(
    labels: npt.NDArray[np.int64], names: Sequence[str] | None, rows: Rows, settings: Reading, name: str
) -> int:
    """Count the classes: as given, the number of names if there are names, else the largest label plus 1.

    Raises:
        InputError: there is another number of names; or the labels seem to number rows, not classes; a table of so many
            classes would fill the memory.
    """
    if names and settings.num_classes not in (None, len(names)):
        raise InputError(
            expected=f"--num-classes {len(names)} for {name}, whose classes have names",
            got=str(settings.num_classes),
            hint="no --num-classes, or labels that are numbers",
        )
    if settings.num_classes is not None or names:
        return settings.num_classes or len(names or ())
    num_classes = max(int(labels.max()) + 1, 1)
    if num_classes > MAX_UNNAMED and 2 * num_classes > len(labels):
        raise InputError(
            expected=f"labels of {name} that number its classes from 0",
            got=f"{num_classes:,} classes by the largest label, but only {len(labels):,} rows; perhaps "
            f"{rows.label_column!r} is not the label column",
            hint="--label-column NAME, --num-classes, or data with names of the classes",
        )
    return num_classes


def _sample(num_rows: int, limit: int | None) -> npt.NDArray[np.int64]:
    if limit is None or limit >= num_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(0).permutation(num_rows)[:limit])


def _find(spec: str) -> _DataSet:
    """Look for ``spec`` in ARADALS_DATA, among the built-in names, in the file system, as code and on the Hub."""
    folder, path = os.environ.get("ARADALS_DATA"), Path(spec).expanduser()
    if spec and folder and not spec.startswith(".") and (found := _find_local(Path(folder).expanduser() / spec)):
        return found
    if spec == "digits":
        return _DataSet("digits", open_digits())
    if spec and (found := _find_local(path)):
        return found
    if ":" in spec and "/" not in spec.rpartition(":")[2]:
        return _DataSet(spec.rpartition(":")[2], open_user_data(spec))
    # If the first part of a name is a local folder, the name is a mistyped path, and the Hub is not asked.
    is_hub_id = _HUB_ID.fullmatch(spec) and path.suffix not in FILE_READERS and not path.parent.is_dir()
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
    for suffix in FILE_READERS:
        exact = path.with_name(path.name + suffix)
        if exact.is_file():
            return _open_files([exact], path.parent)
        group = _group(path.parent.glob(f"*{suffix}"), path.parent).get(path.name)
        if group:
            return _open_files(group, path.parent)
    return None


def _find_in_folder(folder: Path) -> _DataSet:
    """Try the readers of whole folders, then files beside images, then images, then all other files."""
    name = folder.resolve().name
    whole, images = (partial(_first_found, readers, folder) for readers in (FOLDER_READERS, IMAGE_READERS))
    if splits := whole():
        return _DataSet(name, splits)
    if found := _find_files(folder, _BESIDE_IMAGES):
        return found
    if splits := images():
        return _DataSet(name, splits)
    if found := _find_files(folder, FILE_READERS):
        return found
    raise InputError(
        expected=f"images, or files that end in {', '.join(FILE_READERS)}, in {folder}",
        got="no such files",
        hint="a folder of images by class, or of files named train* and test*",
    )


def _first_found(readers: Iterable[Callable[[Path], OpenSplits | None]], folder: Path) -> OpenSplits | None:
    return next((splits for reader in readers if (splits := reader(folder))), None)


def _find_files(folder: Path, suffixes: Iterable[str]) -> _DataSet | None:
    """Find the data set in the files below a folder, whose format is the first of ``suffixes`` that occurs."""
    for suffix in suffixes:
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
    return None


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
        reader = FILE_READERS.get(parts[0].suffix.lower())
        if reader is None:
            raise InputError(
                expected=f"a file that ends in {', '.join(FILE_READERS)}",
                got=str(parts[0]),
                hint="converting the file to one of these formats",
            )
        splits |= reader(parts, split)
    return _DataSet(name, splits)
