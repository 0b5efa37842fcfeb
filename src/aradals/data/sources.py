"""Sources of data: files, folders, built-in names, code of the user and the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from aradals.data.builtin import BUILTIN
from aradals.data.classes import match_classes
from aradals.data.corrupted_sets import parse_condition, split_conditions
from aradals.data.examples import Examples
from aradals.data.find import ALL, FILE_READERS, DataSet, choose_split, find_data
from aradals.data.formats import (
    Columns,
    Companions,
    Rows,
    split_name,
)
from aradals.data.prepare import Log, Reading, check_labeled, choose_scaling, fit_scaling, make_examples, sample
from aradals.data.splits import cut_test
from aradals.errors import InputError


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
    - a folder that ``save_to_disk`` of Hugging Face datasets has written, or the published files of CIFAR or MNIST;
    - the id of a Hugging Face data set, e.g. ``uoft-cs/cifar10``; the short names are
      ``cifar10``, ``cifar100``, ``fashion-mnist``, ``imagenet`` and ``tiny-imagenet``;
    - ``digits``: scikit-learn's digits, with a fixed division into "train" (997) and "test" (800);
    - ``letter``: Letter Recognition (Slate 1991), a table of 20,000 rows in a single split;
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
    data_set, settings = find_data(spec), Reading(**reading)
    if labeled and split_name(split or "test") == "test":
        data_set = _without_unlabeled_test(data_set, settings, log)
    source, part = choose_split(data_set, split)
    if part is not None:
        pair = _cut(data_set, source, settings, None, log, labeled=labeled)
        examples = pair[part]
        _check_size(len(examples), limit, examples.name)
        chosen = sample(len(examples), limit)
        return examples if len(chosen) == len(examples) else examples.select(chosen)
    rows = data_set.splits[source].rows(settings.columns)
    name = _name(data_set, source)
    _check_size(len(rows.inputs), limit, name)
    if labeled:
        check_labeled(rows, name)
    scaling = choose_scaling(data_set, source, rows, settings, name)
    return make_examples(data_set, rows, settings, scaling, name, log, limit=limit, labeled=labeled)


def load_splits(
    spec: str, *, test_size: int | None = None, log: Log = lambda line: None, **reading: Any
) -> tuple[Examples, Examples]:
    """Load the training and the test examples of a study.

    If the data has no test split, its validation split is the test split. If the data has a single split, examples are
    cut off for the test: by their content, so that duplicates are not divided, and always the same ones.

    Args:
        spec: see `load_data`.
        test_size: number of examples of the test split, a fixed random sample; default: all of them. If the data has
            a single split, the number to cut off; default: a fifth, at most 10,000.
        log: called with each choice that was made in reading.
        **reading: the settings of `Reading`.

    Raises:
        InputError: see `load_data`.
    """
    settings = Reading(**reading)
    data_set = _without_unlabeled_test(find_data(spec), settings, log)
    known = list(data_set.splits)
    test = "test" if "test" in known else "validation"
    if "train" in known and test in known:
        unused = [each for each in known if each not in ("train", test) and not parse_condition(each)]
        if test == "validation":
            log(f"{data_set.name} has no test split: its validation split is the test split")
        elif unused:
            log(f"{data_set.name}: not used: the split {', '.join(unused)}; validation examples are cut from train")
        rows = data_set.splits["train"].rows(settings.columns)
        scaling = settings.scaling or fit_scaling(rows, data_set.name)
        train = make_examples(data_set, rows, settings, scaling, _name(data_set, "train"), log)
        rows = data_set.splits[test].rows(settings.columns)
        name = _name(data_set, test)
        return _same_classes(train, make_examples(data_set, rows, settings, scaling, name, log, limit=test_size))
    if len(known) > 1:
        raise InputError(
            expected=f"a training split of {data_set.name}",
            got=f"the splits {', '.join(known)}",
            hint="data with the splits train and test, or with a single split",
        )
    pair = _cut(data_set, known[0], settings, test_size, log)
    return pair["train"], pair["test"]


def _without_unlabeled_test(data_set: DataSet, settings: Reading, log: Log) -> DataSet:
    """Leave out a test split without labels, which those of competitions have, if there is a training split."""
    splits = data_set.splits
    if not {"train", "test"} <= splits.keys() or _has_labels(splits["test"].rows(settings.columns)):
        return data_set
    log(f"{data_set.name}: not used: the split test, which has no labels")
    return replace(data_set, splits={name: split for name, split in splits.items() if name != "test"})


def _has_labels(rows: Rows) -> bool:
    """Return False if there are no labels, or if -1 stands for all of them, as on the Hugging Face Hub."""
    labels = rows.labels
    return labels is not None and not (labels.dtype.kind == "i" and labels.size > 0 and bool((labels == -1).all()))


def _cut(
    data_set: DataSet, source: str, settings: Reading, test_size: int | None, log: Log, *, labeled: bool = True
) -> dict[str, Examples]:
    """Cut a single split into training and test examples by content."""
    rows, name = data_set.splits[source].rows(settings.columns), _name(data_set, source)
    _check_size(len(rows.inputs), None, name)
    # The cut must not depend on a recorded scaling, because the training data, which it comes from, is cut first.
    every, quiet = replace(settings, preparation=None, resize=settings.decoding_size), lambda line: None
    whole = make_examples(
        data_set, rows, every, fit_scaling(rows, name), name, quiet if rows.features else log, labeled=labeled
    )
    train, test = cut_test(whole, test_size)
    if rows.features:
        scaling = settings.scaling or fit_scaling(rows, name, train)
        whole = make_examples(data_set, rows, settings, scaling, name, log, labeled=labeled)
    log(f"{data_set.name} has no test split: {len(test)} of {len(whole)} examples are cut off, by their content")
    parts = {"train": whole.select(train), "test": whole.select(test)}
    for split, part in parts.items():
        part.name = f"{data_set.name}-{split}"
    return parts


def _same_classes(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """Give two splits the same number of classes, because numbered classes may be missing from one of them."""
    num_classes = max(train.num_classes, test.num_classes)
    if train.has_names or test.has_names:
        return train, test
    return train.with_num_classes(num_classes), test.with_num_classes(num_classes)


def _check_size(size: int, limit: int | None, name: str) -> None:
    if not size or (limit is not None and limit < 1):
        raise InputError(
            expected=f"at least one example in {name}", got="no example", hint="another split or a larger --limit"
        )


def _name(data_set: DataSet, split: str) -> str:
    return data_set.name if split == ALL else f"{data_set.name}-{split}"


def load_companions(
    spec: str, split: str | None, *, image_column: str | None = None, label_column: str | None = None
) -> Companions | None:
    """Load the columns beside the inputs of a table or a Hugging Face data set; None for other formats.

    Raises:
        InputError: see `load_data`.
    """
    data_set = find_data(spec)
    companions = data_set.splits[choose_split(data_set, split)[0]].companions
    return companions(Columns(image_column, label_column)) if companions else None


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
    data_set = find_data(spec)
    return data_set.splits[choose_split(data_set, split)[0]].column(column)


def data_paths(spec: str) -> list[Path]:
    """List the file, the folder, or the group of files that ``spec`` names on this machine; empty for other data."""
    folder = os.environ.get("ARADALS_DATA")
    found: list[Path] = []
    candidates = [Path(folder).expanduser() / spec] if folder else []
    if spec not in BUILTIN:  # a built-in name means no file of the present folder
        candidates.append(Path(spec).expanduser())
    for path in candidates:
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
    return list(find_data(spec).splits)


def list_conditions(spec: str) -> dict[tuple[str, int], str]:
    """Map corruptions and severities of a corrupted data set to their splits: ``{("fog", 3): "fog-3", ...}``.

    Raises:
        InputError: the data cannot be found, or it is not divided by corruption and severity.
    """
    splits = find_data(spec).splits
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
    if clean.has_names and examples.has_names:
        examples, _ = match_classes(examples, clean.class_names, clean.num_classes)
    fits = not len(clean) or int(clean.ids.max()) < len(examples)
    chosen = examples.select(clean.ids) if fits else examples
    if not fits or not torch.equal(chosen.labels, clean.labels):
        raise InputError(
            expected=f"the rows of {examples.name} in the order of {clean.name}",
            got="other labels" if fits else f"only {len(examples)} rows",
            hint="the split that was corrupted, in its published order",
        )
    return chosen
