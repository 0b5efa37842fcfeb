"""Published corrupted data sets, where each corruption and severity is a split, named ``fog-3``.

The rows of every split are in the order of the clean test split, so that an example has the same id in all splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aradals.corruptions import CORRUPTIONS, GROUPS
from aradals.data.folders import open_image_folder
from aradals.data.formats import Columns, OpenSplits, Rows, Split, no_columns, refuse_columns
from aradals.data.images import SelectedImages
from aradals.errors import InputError

SEVERITIES = range(1, 6)
_SEVERITY_COLUMNS = ("severity", "corruption_severity")
_CORRUPTION_COLUMNS = ("corruption", "corruption_name", "corruption_type")

MAX_CORRUPTIONS = 1000
"""Largest number of corruptions in a table. It is limited because the search for each one reads all rows."""

CHECKSUMS: dict[str, dict[str, str]] = {
    "CIFAR-10-C": {
        "brightness.npy": "0a81ef75e0b523c3383219c330a85d48",
        "contrast.npy": "3c8262171c51307f916c30a3308235a8",
        "defocus_blur.npy": "7d1322666342a0702b1957e92f6254bc",
        "elastic_transform.npy": "9421657c6cd452429cf6ce96cc412b5f",
        "fog.npy": "7b397314b5670f825465fbcd1f6e9ccd",
        "frost.npy": "31f6ab3bce1d9934abfb0cc13656f141",
        "gaussian_blur.npy": "c33370155bc9b055fb4a89113d3c559d",
        "gaussian_noise.npy": "ecaf8b9a2399ffeda7680934c33405fd",
        "glass_blur.npy": "7361fb4019269e02dbf6925f083e8629",
        "impulse_noise.npy": "2090e01c83519ec51427e65116af6b1a",
        "jpeg_compression.npy": "2b9cc4c864e0193bb64db8d7728f8187",
        "labels.npy": "c439b113295ed5254878798ffe28fd54",
        "motion_blur.npy": "fffa5f852ff7ad299cfe8a7643f090f4",
        "pixelate.npy": "0f14f7e2db14288304e1de10df16832f",
        "saturate.npy": "1cfae0964219c5102abbb883e538cc56",
        "shot_noise.npy": "3a7239bb118894f013d9bf1984be7f11",
        "snow.npy": "bb238de8555123da9c282dea23bd6e55",
        "spatter.npy": "8a5a3903a7f8f65b59501a6093b4311e",
        "speckle_noise.npy": "ef00b87611792b00df09c0b0237a1e30",
        "zoom_blur.npy": "6ea8e63f1c5cdee1517533840641641b",
    },
    "CIFAR-100-C": {
        "brightness.npy": "f22d7195aecd6abb541e27fca230c171",
        "contrast.npy": "322bb385f1d05154ee197ca16535f71e",
        "defocus_blur.npy": "d923e3d9c585a27f0956e2f2ad832564",
        "elastic_transform.npy": "a0792bd6581f6810878be71acedfc65a",
        "fog.npy": "4efc7ebd5e82b028bdbe13048e3ea564",
        "frost.npy": "3a39c6823bdfaa0bf8b12fe7004b8117",
        "gaussian_blur.npy": "5204ba0d557839772ef5a4196a052c3e",
        "gaussian_noise.npy": "ecc4d366eac432bdf25c024086f5e97d",
        "glass_blur.npy": "0bf384f38e5ccbf8dd479d9059b913e1",
        "impulse_noise.npy": "3b3c210ddfa0b5cb918ff4537a429fef",
        "jpeg_compression.npy": "c851b7f1324e1d2ffddeb76920576d11",
        "labels.npy": "bb4026e9ce52996b95f439544568cdb2",
        "motion_blur.npy": "732a7e2e54152ff97c742d4c388c5516",
        "pixelate.npy": "96c00c60f144539e14cffb02ddbd0640",
        "saturate.npy": "c0697e9fdd646916a61e9c312c77bf6b",
        "shot_noise.npy": "b0a1fa6e1e465a747c1b204b1914048a",
        "snow.npy": "0237be164583af146b7b144e73b43465",
        "spatter.npy": "12ccf41d62564d36e1f6a6ada5022728",
        "speckle_noise.npy": "e3f215b1a0f9fd9fd6f0d1cf94a7ce99",
        "zoom_blur.npy": "0204613400c034a81c4830d5df81cb82",
    },
}
"""MD5 of the published files (https://zenodo.org/records/2535967 and 3555552), as torch-uncertainty lists them."""


def condition_name(corruption: str, severity: int) -> str:
    """Name the split of a corruption at a severity: ``fog-3``."""
    return f"{corruption}-{severity}"


def parse_condition(split: str) -> tuple[str, int] | None:
    """Return the corruption and the severity in the name of a split, or None for names of another form."""
    corruption, _, severity = split.rpartition("-")
    return (corruption, int(severity)) if corruption and severity in map(str, SEVERITIES) else None


def open_corrupted_set(folder: Path) -> OpenSplits | None:
    """Open the splits of CIFAR-10-C, CIFAR-100-C, ImageNet-C, or a folder with their layout; None for other folders.

    - ``labels.npy``, and an array such as ``fog.npy`` for each corruption, uint8 (5 N, H, W, C), severity 1 first;
    - ``fog/3/class/image``, also in a folder such as ``weather``, as in the published archives.

    Raises:
        InputError: a folder named CIFAR-10-C or CIFAR-100-C has other labels than the published set.
    """
    if (folder / "labels.npy").is_file():
        return _open_arrays(folder)
    inside = (folder / group / name for group in ("", *GROUPS) for name in CORRUPTIONS)
    corruptions = [folder] if folder.name in CORRUPTIONS else [path for path in inside if path.is_dir()]
    conditions = {
        condition_name(path.name, severity): path / str(severity)
        for path in corruptions
        for severity in SEVERITIES
        if (path / str(severity)).is_dir()
    }
    return {
        name: Split(partial(_read_folder, path), partial(no_columns, str(path))) for name, path in conditions.items()
    }


def _open_arrays(folder: Path) -> OpenSplits | None:
    files = {name: folder / f"{name}.npy" for name in CORRUPTIONS if (folder / f"{name}.npy").is_file()}
    known = _known_checksums(folder)
    return {
        condition_name(name, severity): Split(
            partial(_read_array, file, severity, known), partial(no_columns, str(file))
        )
        for name, file in files.items()
        for severity in SEVERITIES
    }


def _known_checksums(folder: Path) -> Mapping[str, str]:
    """Find the checksums of the published set with these labels; empty for other sets."""
    labels = folder / "labels.npy"
    digest = _md5(labels, labels.stat().st_mtime_ns)
    name = folder.resolve().name
    if name in CHECKSUMS and CHECKSUMS[name]["labels.npy"] != digest:
        raise _damaged(labels, CHECKSUMS[name]["labels.npy"], digest)
    return next((sums for sums in CHECKSUMS.values() if sums["labels.npy"] == digest), {})


def _read_array(file: Path, severity: int, checksums: Mapping[str, str], columns: Columns) -> Rows:
    refuse_columns(columns, str(file))
    digest = _md5(file, file.stat().st_mtime_ns) if file.name in checksums else None
    if digest != checksums.get(file.name):
        raise _damaged(file, checksums[file.name], str(digest))
    try:
        images = np.load(file, mmap_mode="r", allow_pickle=False)
        labels = np.load(file.with_name("labels.npy"), mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise InputError(
            expected=f"an array in {file}", got=str(error), hint="a folder with the published layout"
        ) from error
    fits = labels.ndim == 1 and labels.dtype.kind in "iu" and images.ndim == 4 and len(images) == len(labels)
    if not fits or images.dtype != np.uint8 or len(labels) % 5:
        raise InputError(
            expected=f"five severities of uint8 images (5 N, H, W, C) in {file}, and an integer label for each",
            got=f"{images.dtype} of shape {images.shape}, and labels {labels.dtype} of shape {labels.shape}",
            hint="a folder with the published layout",
        )
    number = len(labels) // 5
    part = slice((severity - 1) * number, severity * number)
    return Rows(np.ascontiguousarray(images[part].transpose(0, 3, 1, 2)), labels[part].astype(np.int64))


@lru_cache(maxsize=64)
def _md5(file: Path, modified: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _damaged(file: Path, expected: str, got: str) -> InputError:
    return InputError(
        expected=f"the published {file} (MD5 {expected})",
        got=f"another file (MD5 {got})",
        hint="downloading the file again, or renaming the folder if the data is your own",
    )


def _read_folder(folder: Path, columns: Columns) -> Rows:
    splits = open_image_folder(folder)
    if splits is None:
        raise InputError(expected=f"images in {folder}", got="none", hint="a folder with the published layout")
    return next(iter(splits.values())).rows(columns)


# Tables with a column of severities


def split_conditions(splits: OpenSplits) -> OpenSplits:
    """Split tables by corruption and severity, if they have columns for both.

    The columns are ``severity`` (or ``corruption_severity``) and ``corruption`` (or ``corruption_name``,
    ``corruption_type``). If there is no column of corruptions, the name of the split counts as the corruption:
    ``test-3``. Rows of severity 0 are left out.
    """
    found: OpenSplits = {}
    for name, split in splits.items():
        severities = _first_column(split, _SEVERITY_COLUMNS)
        if severities is None:
            continue
        corruptions = _first_column(split, _CORRUPTION_COLUMNS)
        corruptions = np.full(len(severities), name) if corruptions is None else corruptions
        names = sorted(set(corruptions.tolist()))
        if len(names) > MAX_CORRUPTIONS:
            raise InputError(
                expected=f"a column of corruptions with at most {MAX_CORRUPTIONS} names",
                got=f"{len(names):,} names, {names[0]!r:.40} and others",
                hint="renaming the column if it does not contain corruptions",
            )
        for corruption in names:
            for severity in SEVERITIES:
                rows = np.flatnonzero((corruptions == corruption) & (severities == severity))
                if len(rows):
                    found[condition_name(corruption, severity)] = Split(
                        partial(_read_rows, split, rows), partial(_read_column, split, rows)
                    )
    return found


def _read_rows(split: Split, chosen: npt.NDArray[np.int64], columns: Columns) -> Rows:
    rows = split.rows(columns)
    inputs = rows.inputs[chosen] if isinstance(rows.inputs, np.ndarray) else SelectedImages(rows.inputs, chosen)
    return replace(rows, inputs=inputs, labels=None if rows.labels is None else rows.labels[chosen])


def _read_column(split: Split, chosen: npt.NDArray[np.int64], column: str) -> npt.NDArray[Any]:
    return split.column(column)[chosen]


def _first_column(split: Split, names: Sequence[str]) -> npt.NDArray[Any] | None:
    for name in names:
        try:
            return split.column(name)
        except InputError:
            pass
    return None
