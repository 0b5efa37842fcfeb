"""Shards of WebDataset: tar files in which the members of an example share the start of their names."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aradals.data.formats import Columns, OpenSplits, Rows, Split, check_unpacked, no_columns, refuse_columns
from aradals.data.images import IMAGE_SUFFIXES, MEMORY_LIMIT
from aradals.errors import InputError

_LABEL_SUFFIXES = ("cls", "label", "json")
_LABEL_KEYS = ("label", "cls", "class", "target", "class_name", "label_name")


def open_tar(files: Sequence[Path], split: str) -> OpenSplits:
    """Open one split of shards: ``key.jpg`` is an image, and ``key.cls`` or ``key.json`` has its label."""
    return {split: Split(partial(_read_shards, files), partial(no_columns, str(files[0])))}


def _read_shards(files: Sequence[Path], columns: Columns) -> Rows:
    refuse_columns(columns, str(files[0]))
    images: list[bytes] = []
    labels: list[Any] = []
    size = 0
    for example in (each for file in files for each in _examples(file)):
        image = next((content for suffix, content in example.items() if f".{suffix}" in IMAGE_SUFFIXES), None)
        if image is None:
            continue
        size += len(image)
        if size > MEMORY_LIMIT:
            raise InputError(
                expected=f"shards of at most {MEMORY_LIMIT:,} bytes of images",
                got=f"more, beginning with {files[0]}",
                hint="a parquet file, which can be larger",
            )
        images.append(image)
        labels.append(_label(example, f"{files[0]}, example {len(labels)}"))
    if not images:
        raise InputError(
            expected=f"examples such as key.jpg and key.cls in {files[0]}", got="no image", hint="another --data"
        )
    unlabeled = [row for row, label in enumerate(labels) if label is None]
    if unlabeled and len(unlabeled) < len(labels):
        raise InputError(
            expected=f"a label for each image in {files[0]}",
            got=f"no label for image {unlabeled[0]}",
            hint="a file key.cls beside each image",
        )
    return Rows(images, None if unlabeled else np.array(labels), label_column="cls")


def _examples(file: Path) -> Iterator[dict[str, bytes]]:
    """Yield the members of each example by their suffix; the name before the first dot is the key."""
    current, key, size = dict[str, bytes](), None, 0
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if not member.isfile() or name.startswith("."):
                    continue
                stem, _, suffix = name.partition(".")
                size += member.size
                check_unpacked(file, size, file.stat().st_size)
                if (folder, stem) != key and current:
                    yield current
                    current = {}
                key = (folder, stem)
                content = archive.extractfile(member)
                current[suffix.lower().rpartition(".")[2]] = content.read() if content else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(expected=f"a tar file in {file}", got=str(error), hint="an intact copy of the file") from error
    if current:
        yield current


def _label(example: dict[str, bytes], where: str) -> int | str | None:
    """Read the label of an example: a number or a name; None if there is none."""
    suffix = next((each for each in _LABEL_SUFFIXES if each in example), None)
    if suffix is None:
        return None
    text = example[suffix].decode(errors="replace").strip()
    if suffix == "json":
        try:
            content = json.loads(text)
        except ValueError as error:
            raise InputError(expected=f"JSON in {where}", got=str(error), hint="an intact shard") from error
        values = [content[key] for key in _LABEL_KEYS if key in content] if isinstance(content, dict) else []
        return values[0] if values and isinstance(values[0], int | str) else None
    return int(text) if text.lstrip("-").isdigit() else text
