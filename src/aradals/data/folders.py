"""Folders of images: in a folder for each class, beside a table of labels, or without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from aradals.data.classes import in_order
from aradals.data.formats import Columns, OpenSplits, Rows, Split, is_split, no_columns, refuse_columns, split_name
from aradals.data.images import IMAGE_SUFFIXES
from aradals.errors import InputError

Folders = dict[PurePath, tuple[str, ...]]
"""Path of each image -> the folders around it that may be classes."""


def open_image_folder(folder: Path) -> OpenSplits | None:
    """Open the splits of ``folder/split/class/image.png``, or the split "all" of ``folder/class/image.png``.

    Folders that contain everything, such as ``images`` in ``photos/images/class/image.png``, do not count. Classes are
    numbered over all splits together, in the order of their folders' names, or by number if every name is a number.
    Rows are in the order of class and file name. Images that are not in two or more folders of classes have no labels.

    Returns:
        The splits; None if there are no images.
    """
    splits = {split: _without_constants(paths) for split, paths in _by_split(list_images(folder)).items()}
    named = {split: {inner[0] for inner in paths.values() if inner} for split, paths in splits.items()}
    problems = {
        split: _problem(folder, paths, set().union(*(named[each] for each in named if each != split)))
        for split, paths in splits.items()
    }
    classes = in_order(set().union(*(named[split] for split in splits if problems[split] is None)))
    return {
        split: Split(
            partial(_read_image_folder, folder, splits[split], tuple(classes), problems[split]),
            partial(no_columns, str(folder)),
        )
        for split in sorted(splits)
    } or None


def list_images(folder: Path, *, links: bool = True) -> list[PurePath]:
    """List the image files below ``folder`` by their paths in it; hidden files and folders are left out.

    Args:
        folder: the folder.
        links: also list the files in folders that are symbolic links.

    Raises:
        InputError: a folder comes twice, because of a link.
    """
    found: list[PurePath] = []
    for root, files in _walk(folder, links):
        inner = PurePath(root).relative_to(folder)
        if not any(part.startswith(".") for part in inner.parts):
            found += [inner / file for file in files if _is_image(file)]
    return sorted(found, key=_parts)


def _is_image(file: str) -> bool:
    return not file.startswith(".") and os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES


def _parts(path: PurePath) -> tuple[str, ...]:
    """Return the key by which paths are sorted as they sort themselves, in a tenth of the time."""
    return path.parts


def _by_split(paths: Sequence[PurePath]) -> dict[str, Folders]:
    """Divide the paths of images by split, and find the folders of each that are not a split and do not wrap all."""
    folders = {path: path.parts[:-1] for path in paths}
    while folders and _is_wrapped(folders):
        folders = {path: inner[1:] for path, inner in folders.items()}
    if not all(inner and is_split(inner[0]) for inner in folders.values()):
        return {"all": folders}
    splits: dict[str, Folders] = {}
    for path, inner in folders.items():
        splits.setdefault(split_name(inner[0]), {})[path] = inner[1:]
    return splits


def _is_wrapped(folders: Folders) -> bool:
    """Return True if all images are in one folder, which is not a split, and have folders of classes below it."""
    outer = {inner[:1] for inner in folders.values()}
    return len(outer) == 1 and all(len(inner) > 1 for inner in folders.values()) and not is_split(*outer.pop())


def _without_constants(folders: Folders) -> Folders:
    """Leave out levels that have one name everywhere, such as ``images`` in ``class/images/1.png``."""
    if len(set(map(len, folders.values()))) != 1:
        return folders
    varies = [len(set(level)) > 1 for level in zip(*folders.values(), strict=True)]
    return {
        path: tuple(part for part, changes in zip(inner, varies, strict=True) if changes) or inner[:1]
        for path, inner in folders.items()
    }


def _problem(folder: Path, folders: Folders, other_classes: set[str]) -> InputError | None:
    """Make the error for folders of a split that are not classes, or are so in an unclear way; None for classes.

    Args:
        folder: the folder of the data.
        folders: the folders around each image.
        other_classes: names of folders in other splits.
    """
    table = "a CSV file of file names and labels in the folder"
    layout = f"a layout such as class/image.png or split/class/image.png, or {table}"
    loose = next((path for path, inner in folders.items() if not inner), None)
    if loose is not None:
        return InputError(
            expected=f"the images of {folder} in one folder for each class",
            got=f"{loose}, which is in no such folder",
            hint=layout,
        )
    deep = next((path for path, inner in folders.items() if len(inner) > 1), None)
    if deep is not None:
        above, inside, *_ = folders[deep]
        below = sorted({inner[1] for inner in folders.values() if inner[0] == above and len(inner) > 1})
        place = folder.joinpath(*deep.parts[: deep.parts.index(above) + 1])
        step = f"--data {place} if these are classes: {', '.join(below)}"
        return InputError(
            expected=f"the images of {folder} in one folder for each class",
            got=f"{deep}, where {above!r} or {inside!r} could be the class",
            hint=f"{step if len(below) > 1 else f'moving the images below {place} into it'}; or {table}",
        )
    classes = {inner[0] for inner in folders.values()}
    if len(classes) == 1 and not classes < other_classes:
        return InputError(
            expected=f"folders of two or more classes in {folder}",
            got=f"one folder with images, {classes.pop()!r}",
            hint=layout,
        )
    return None


def _walk(folder: Path, links: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below ``folder`` with its file names; no folder may come twice."""
    seen: dict[str, str] = {}
    for root, _, files in os.walk(folder, followlinks=links):
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
    folder: Path, folders: Folders, classes: tuple[str, ...], problem: InputError | None, columns: Columns
) -> Rows:
    refuse_columns(columns, str(folder))
    if problem is not None:
        return Rows([os.path.join(folder, path) for path in sorted(folders, key=_parts)], None, unlabeled=problem)
    number = {name: position for position, name in enumerate(classes)}
    labels = {path: number[inner[0]] for path, inner in folders.items()}
    paths = sorted(labels, key=lambda path: (labels[path], path.parts))
    return Rows([os.path.join(folder, path) for path in paths], np.array([labels[path] for path in paths]), classes)
