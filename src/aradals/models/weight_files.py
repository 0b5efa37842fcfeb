"""Files of weights, read without running code from them."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray  # the module of NumPy that pickles of its scalars and arrays name
from torch.serialization import safe_globals

from aradals._internal.optional import optional_imports
from aradals.errors import InputError

_IN_FOLDERS = (
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("*.safetensors", "*.ckpt", "*.pt", "*.pth", "*.bin", "*.tar"),
)
"""The files of weights in a folder, in the order of preference; a pattern must fit one file."""

_NO_WEIGHTS = {
    b"version https://git-lfs": "a pointer of Git LFS instead of the file; `git lfs pull` gets the file",
    b"<!DOCTYPE html": "a web page; a download has failed",
    b"<html": "a web page; a download has failed",
}
"""First bytes -> the kind of a file that only has the name of a checkpoint."""


def _make_dict(factory: object = None) -> dict[Any, Any]:
    """Make the dict that stands for a ``defaultdict``, whose factory is one of the builtins below."""
    return {}


_HARMLESS: list[Any] = [
    *(argparse.Namespace, (_make_dict, "collections.defaultdict"), *(list, dict, int, float, str)),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
    *(np.ndarray, np.dtype, *(getattr(np.dtypes, name) for name in np.dtypes.__all__)),
    *(
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for core in ("core", "_core")
    ),
    *(
        (pathlib.PurePath, f"pathlib.{module}{name}")
        for module in ("", "_local.")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
]
"""Types beside the weights whose objects can be made without running other code."""


def find_files(path: str | os.PathLike[str]) -> list[Path]:
    """List the files that hold the weights: the file itself, or the shards that its index or a folder names.

    Raises:
        InputError: there is no such file, or no file of weights or several ones in the folder.
    """
    path = Path(path)
    if path.is_dir():
        found = next(filter(None, (sorted(path.glob(name)) for name in _IN_FOLDERS)), [])
        if len(found) != 1:
            names = ", ".join(each.name for each in found) or "none"
            raise InputError(
                expected=f"a checkpoint file, or a folder with one file of weights, not {path}",
                got=names,
                hint="the path of the file itself, or the index of its shards (model.safetensors.index.json)",
            )
        path = found[0]
    if not path.is_file():
        raise InputError(expected="a checkpoint file", got=f"{path}, which is not a file", hint="another path")
    return _shards(path) if path.name.endswith(".index.json") else [path]


def is_safetensors(path: Path) -> bool:
    """Return True for the name of a safetensors file."""
    return path.suffix.lower() == ".safetensors"


def read_content(path: Path, *, shapes_alone: bool = False) -> tuple[Any, dict[str, str]]:
    """Read one file: its content, and the metadata of a safetensors file.

    Args:
        path: a safetensors file; any other file is read as a file of ``torch.save``.
        shapes_alone: the tensors may be on the device "meta", without values.

    Raises:
        InputError: the file cannot be read, or it could run code.
        MissingExtraError: the file is a safetensors file, but safetensors is not installed.
    """
    _refuse_other_files(path)
    return _read_safetensors(path, shapes_alone=shapes_alone) if is_safetensors(path) else (_read_torch(path), {})


def _shards(index: Path) -> list[Path]:
    """List the files that an index names, which all are beside it."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _unreadable(index, f"{type(error).__name__}: not an index of shards") from error
    shards = [index.parent / str(name) for name in names]
    for shard in shards:
        if shard.parent != index.parent or not shard.is_file():
            raise InputError(
                expected=f"every file that {index} names, in its folder",
                got=f"no file {shard}",
                hint="downloading all shards",
            )
    return shards


def _read_safetensors(path: Path, *, shapes_alone: bool) -> tuple[dict[str, Any], dict[str, str]]:
    with optional_imports():
        from safetensors import safe_open
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if shapes_alone:
                state = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
            else:
                state = {name: file.get_tensor(name) for name in names}
            return state, file.metadata() or {}
    except Exception as error:  # safetensors documents no closed list of errors
        raise _unreadable(path, _reason(error)) from error


def is_script(path: Path) -> bool:
    """Return True if the file is a TorchScript program."""
    try:
        with zipfile.ZipFile(path) as file:
            return any("/code/" in name for name in file.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _read_torch(path: Path) -> Any:
    if is_script(path):
        raise InputError(
            expected="a checkpoint of tensors", got=f"{path}, a TorchScript program", hint=f"--model {path}"
        )
    _refuse_packed(path)
    try:
        with safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything, from EOFError to KeyError
        if "Unsupported" in str(error):
            raise InputError(
                expected="a checkpoint of tensors only",
                got=f"{path}, a pickle that could run code when it is read",
                hint="a file that contains only the model's state_dict(), or a safetensors file",
            ) from error
        raise _unreadable(path, _reason(error)) from error


def _refuse_other_files(path: Path) -> None:
    """Raise InputError for an empty file, and for a file of another kind with the name of a checkpoint."""
    with path.open("rb") as file:
        start = file.read(64)
    reason = "" if start else "an empty file"
    for first, kind in _NO_WEIGHTS.items():
        if start.lower().startswith(first.lower()):
            reason = kind
    if start.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        reason = "a file that ends too early"
    if reason:
        raise _unreadable(path, reason)


def _refuse_packed(path: Path) -> None:
    """Raise InputError for a zip file that unpacks to more than its size; torch.save never writes such files."""
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(entry.file_size for entry in file.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # an old file of torch.save, or a file for which torch itself raises the error
    if unpacked > path.stat().st_size:
        raise InputError(
            expected=f"a checkpoint without compression, as torch.save writes it, in {path}",
            got=f"{path.stat().st_size} bytes that unpack to {unpacked}",
            hint="a safetensors file",
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(expected="a readable checkpoint", got=f"{path} ({reason})", hint="an intact copy of the file")


def describe_content(content: object) -> str:
    """Name what a file without a state dict contains."""
    if isinstance(content, Mapping):
        return f"only the keys {', '.join(map(repr, list(content)[:5]))}" if content else "nothing"
    return f"an object of type {type(content).__name__}"
