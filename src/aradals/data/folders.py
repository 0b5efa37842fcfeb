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

Parts = tuple[str, ...]


def open_image_folder(folder: Path) -> OpenSplits | None:
    """Open the splits of ``folder/split/class/image.png``, or the split "all" of ``folder/class/image.png``.

    Folders that contain everything, such as ``images`` in ``photos/images/class/image.png``, do not count. Classes are
    numbered over all splits together, in the order of their folders' names, or by number if every name is a number.
    Rows are in the order of class and file name. Images that are not in two or more folders of classes have no labels.

    Returns:
        The splits; None if there are no images.
    """
    paths = list_images(folder)
    if not paths:
        return None
    layout, problem = _layout(folder, [path.parts for path in paths])
    names = [layout[path.parts] for path in paths]
    classes = in_order({name for _, name in names})
    splits = {split: [path for path, (own, _) in zip(paths, names, strict=True) if own == split] for split, _ in names}
    number = {name: position for position, name in enumerate(classes)}

    def place(path: PurePath) -> tuple[int, PurePath]:
        return number[layout[path.parts][1]], path

    return {
        split: Split(
            partial(
                _read_image_folder,
                folder,
                members := sorted(splits[split], key=place),
                [place(path)[0] for path in members],
                tuple(classes),
                problem,
            ),
            partial(no_columns, str(folder)),
        )
        for split in sorted(splits)
    }


def list_images(folder: Path, *, links: bool = True) -> list[PurePath]:
    """List the image files below ``folder`` by their paths in it; hidden files and folders are left out.

    Args:
        folder: the folder.
        links: also list the files in folders that are symbolic links.

    Raises:
        InputError: a folder comes twice, because of a link.
    """
    found = [
        PurePath(root, file).relative_to(folder)
        for root, files in _walk(folder, links)
        for file in files
        if PurePath(file).suffix.lower() in IMAGE_SUFFIXES
    ]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.parts))


def _layout(folder: Path, paths: Sequence[Parts]) -> tuple[dict[Parts, tuple[str, str]], InputError | None]:
    """Find the split and the class of each path.

    Returns:
        (split, class) of each path, and the reason why the classes cannot be labels.
    """
    folders = {path: path[:-1] for path in paths}
    home = folder
    while _is_wrapped(list(folders.values())):
        home = home / next(iter(folders.values()))[0]
        folders = {path: inner[1:] for path, inner in folders.items()}
    split = dict.fromkeys(paths, "all")
    if all(inner and is_split(inner[0]) for inner in folders.values()):
        split = {path: split_name(inner[0]) for path, inner in folders.items()}
        folders = {path: inner[1:] for path, inner in folders.items()}
    shallow = {path: _without_constants(inner, list(folders.values())) for path, inner in folders.items()}
    problem = _problem(home, shallow)
    return {path: (split[path], inner[0] if inner else "") for path, inner in shallow.items()}, problem


def _is_wrapped(folders: Sequence[Parts]) -> bool:
    """Return True if all images are in one folder, which is not a split, and have folders of classes below it."""
    outer = {inner[0] for inner in folders if inner}
    return len(outer) == 1 and not is_split(*outer) and all(len(inner) > 1 for inner in folders)


def _without_constants(inner: Parts, all_folders: Sequence[Parts]) -> Parts:
    """Leave out levels that have one name everywhere, such as ``images`` in ``class/images/1.png``."""
    if len({len(each) for each in all_folders}) != 1:
        return inner
    varies = [len(set(level)) > 1 for level in zip(*all_folders, strict=True)]
    return tuple(part for part, changes in zip(inner, varies, strict=True) if changes) or inner[:1]


def _problem(home: Path, folders: dict[Parts, Parts]) -> InputError | None:
    """Make the error for folders that are not classes, or are so in an unclear way."""
    table = "a CSV file of file names and labels in the folder"
    loose = next((path for path, inner in folders.items() if not inner), None)
    if loose is not None:
        return InputError(
            expected=f"the images of {home} in one folder for each class",
            got=f"{PurePath(*loose)}, which is in no such folder",
            hint=f"a layout such as class/image.png or split/class/image.png, or {table}",
        )
    deep = next((path for path, inner in folders.items() if len(inner) > 1), None)
    if deep is not None:
        above = folders[deep][0]
        below = {inner[1] for inner in folders.values() if inner[0] == above and len(inner) > 1}
        moved = f"moving the images below {home / above} into it, or "
        return InputError(
            expected=f"the images of {home} in one folder for each class",
            got=f"{PurePath(*deep)}, where {above!r} or {folders[deep][1]!r} could be the class",
            hint=f"--data {home / above} if these are classes: {', '.join(sorted(below))}; or {table}"
            if len(below) > 1
            else moved + table,
        )
    classes = {inner[0] for inner in folders.values()}
    if len(classes) < 2:
        return InputError(
            expected=f"folders of two or more classes in {home}",
            got=f"one folder with images, {classes.pop()!r}",
            hint=f"a layout such as class/image.png or split/class/image.png, or {table}",
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
    folder: Path,
    paths: Sequence[PurePath],
    labels: Sequence[int],
    classes: tuple[str, ...],
    problem: InputError | None,
    columns: Columns,
) -> Rows:
    refuse_columns(columns, str(folder))
    images = [str(folder / path) for path in paths]
    if problem is not None:
        return Rows(images, None, unlabeled=problem)
    return Rows(images, np.array(labels, dtype=np.int64), classes)
