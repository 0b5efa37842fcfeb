"""Files in the IDX format, in which MNIST and its relatives are published."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aradals.data.arrays import open_arrays
from aradals.data.formats import MAX_PACKING, OpenSplits, check_unpacked
from aradals.data.images import MEMORY_LIMIT
from aradals.errors import InputError

_NAME = re.compile(r"(train|t10k|test|validation)-(images|labels)[-.]idx\d-ubyte(\.gz)?")
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""Code in the third byte of a file -> type of its numbers."""
_MOST_DIMS = 4


def open_idx_folder(folder: Path) -> OpenSplits | None:
    """Open a folder of files such as ``train-images-idx3-ubyte.gz`` and ``t10k-labels-idx1-ubyte``; None for others."""
    found = {file: match for file in sorted(folder.iterdir()) if (match := _NAME.fullmatch(file.name))}
    files = {f"{match[1].replace('t10k', 'test')}_{match[2]}": file for file, match in found.items()}
    if not any(name.endswith("_images") for name in files):
        return None
    return open_arrays(lambda: nullcontext(_Arrays(files)), str(folder), "all")


class _Arrays(Mapping[str, npt.NDArray[Any]]):
    """The arrays of some files, each of which is read when it is needed."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return read_idx(self._files[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def read_idx(path: Path) -> npt.NDArray[Any]:
    """Read one array: two zero bytes, the code of the type, the number of dimensions, the sizes, and the numbers.

    Raises:
        InputError: the file is damaged, or in another format.
    """
    try:
        content = _unpacked(path)
        zeros, code, num_dims = int.from_bytes(content[:2]), content[2], content[3]
        if zeros or code not in _TYPES or not 1 <= num_dims <= _MOST_DIMS:
            raise ValueError(f"a file that begins with the bytes {content[:4].hex(' ')}")
        shape = np.frombuffer(content, ">u4", num_dims, offset=4).tolist()
        start, dtype = 4 + 4 * num_dims, np.dtype(_TYPES[code])
        if len(content) - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(content) - start} bytes for an array of shape {tuple(shape)}")
    except (ValueError, IndexError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            expected=f"an array in the IDX format in {path}",
            got=str(error) or type(error).__name__,
            hint="downloading the file again",
        ) from error
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _unpacked(path: Path) -> bytes:
    packed = path.stat().st_size
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        content = file.read(max(MEMORY_LIMIT, MAX_PACKING * packed) + 1)
    check_unpacked(path, len(content), packed)
    return content
