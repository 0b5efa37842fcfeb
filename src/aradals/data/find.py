"""Data sets by name: files, folders, built-in names, code of the user and the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aradals.data.arrays import open_array_folder, open_cifar, open_npy, open_npz, open_torch
from aradals.data.builtin import BUILTIN
from aradals.data.corrupted_sets import open_corrupted_set, parse_condition, split_conditions
from aradals.data.folders import open_image_folder
from aradals.data.formats import OpenSplits, find_split, split_name
from aradals.data.idx import open_idx_folder
from aradals.data.shards import open_tar
from aradals.data.table_files import open_csv, open_hub, open_labeled_images, open_parquet, open_saved
from aradals.data.user_data import open_user_data
from aradals.errors import InputError

FILE_READERS: dict[str, Callable[[Sequence[Path], str], OpenSplits]] = {
    ".parquet": open_parquet,
    ".npz": open_npz,
    ".tar": open_tar,
    ".csv": open_csv,
    ".tsv": open_csv,
    ".jsonl": open_csv,
    ".npy": open_npy,
    ".pt": open_torch,
    ".pth": open_torch,
}
"""Formats of files by suffix; each opens the files of one split, and the first one that a folder has is read."""

FOLDER_READERS: tuple[Callable[[Path], OpenSplits | None], ...] = (
    open_corrupted_set,
    open_saved,
    open_cifar,
    open_idx_folder,
    open_array_folder,
)
"""Formats of whole folders, which are tried before the files in the folder."""

IMAGE_READERS: tuple[Callable[[Path], OpenSplits | None], ...] = (open_labeled_images, open_image_folder)
"""Formats of folders with images, which are tried before tables of numbers."""

_BESIDE_IMAGES = (".parquet", ".npz", ".tar")
"""Formats that are read although there are images in the same folder."""


@dataclass(frozen=True)
class _Published:
    """A data set of the Hugging Face Hub with a short name, and another way to get it."""

    repository: str
    otherwise: str


_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html, and --data FOLDER"

_PUBLISHED = {
    "cifar10": _Published("uoft-cs/cifar10", f"unpacking cifar-10-python.tar.gz of {_CIFAR}"),
    "cifar100": _Published("uoft-cs/cifar100", f"unpacking cifar-100-python.tar.gz of {_CIFAR}"),
    "fashion-mnist": _Published(
        "zalando-datasets/fashion_mnist",
        "installing the package dataset-fashion-mnist of Debian, and --data /usr/share/datasets/fashion-mnist",
    ),
    "imagenet": _Published(
        "ILSVRC/imagenet-1k",
        "accepting the terms on https://huggingface.co/datasets/ILSVRC/imagenet-1k and `hf auth login`; "
        "or --data FOLDER with the images as train/CLASS/IMAGE.JPEG and val/CLASS/IMAGE.JPEG",
    ),
    "tiny-imagenet": _Published(
        "zh-plus/tiny-imagenet", "unpacking https://cs231n.stanford.edu/tiny-imagenet-200.zip, and its folder"
    ),
}
"""Short name -> data set."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SHARD = re.compile(r"(^|[-_])\d{4,}(-of-\d+)?$")

ALL = "all"
"""Name of the only split of data without named splits."""


@dataclass(frozen=True)
class DataSet:
    """The splits of a data set, with their readers."""

    name: str
    splits: OpenSplits


def find_data(spec: str) -> DataSet:
    """Look for ``spec`` in ARADALS_DATA, among the built-in names, in the file system, as code and on the Hub."""
    folder, path = os.environ.get("ARADALS_DATA"), Path(spec).expanduser()
    if spec and folder and not spec.startswith(".") and (found := _find_local(Path(folder).expanduser() / spec)):
        return found
    if spec in BUILTIN:
        return DataSet(spec, BUILTIN[spec]())
    if spec and (found := _find_local(path)):
        return found
    if ":" in spec and "/" not in spec.rpartition(":")[2]:
        return DataSet(spec.rpartition(":")[2], open_user_data(spec))
    # If the first part of a name is a local folder, the name is a mistyped path, and the Hub is not asked.
    is_hub_id = _HUB_ID.fullmatch(spec) and path.suffix not in FILE_READERS and not path.parent.is_dir()
    if known := _PUBLISHED.get(spec):
        return DataSet(known.repository.rpartition("/")[2], open_hub(known.repository, otherwise=known.otherwise))
    if is_hub_id:
        return DataSet(spec.rpartition("/")[2], open_hub(spec))
    raise InputError(
        expected="a data set",
        got=f"{spec!r}, which is not a file, a folder or a built-in name ({', '.join(BUILTIN)})",
        hint="--data PATH, a Hugging Face id such as uoft-cs/cifar10, or setting the environment variable ARADALS_DATA "
        "to the folder that contains the data",
    )


def _find_local(path: Path) -> DataSet | None:
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


def _find_in_folder(folder: Path) -> DataSet:
    """Try the readers of whole folders, then files beside images, then images, then all other files."""
    name = folder.resolve().name
    whole, images = (partial(_first_found, readers, folder) for readers in (FOLDER_READERS, IMAGE_READERS))
    if splits := whole():
        return DataSet(name, splits)
    if found := _find_files(folder, _BESIDE_IMAGES):
        return found
    if splits := images():
        return DataSet(name, splits)
    if found := _find_files(folder, FILE_READERS):
        return found
    raise InputError(
        expected=f"images, or files that end in {', '.join(FILE_READERS)}, in {folder}",
        got="no such files",
        hint="a folder of images by class, or of files named train* and test*",
    )


def _first_found(readers: Iterable[Callable[[Path], OpenSplits | None]], folder: Path) -> OpenSplits | None:
    return next((splits for reader in readers if (splits := reader(folder))), None)


def _find_files(folder: Path, suffixes: Iterable[str]) -> DataSet | None:
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


def _open_files(files: Sequence[Path], folder: Path) -> DataSet:
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
    return DataSet(name, splits)


def choose_split(data_set: DataSet, split: str | None) -> tuple[str, str | None]:
    """Choose a split of the data, and the part of it: "train" or "test" if it has to be cut, else None."""
    known = list(data_set.splits)
    wanted = split_name(split) if split else known[0] if len(known) == 1 else "test"
    if wanted not in known and parse_condition(wanted):
        data_set.splits.update(split_conditions(data_set.splits))
    if wanted in data_set.splits:
        return wanted, None
    if wanted == "test" and "validation" in known:
        return "validation", None
    if len(known) == 1 and known[0] in (ALL, "train") and wanted in ("train", "test"):
        return known[0], wanted
    raise InputError(expected=f"a split of {data_set.name}", got=repr(wanted), hint=f"--split {' or '.join(known)}")
