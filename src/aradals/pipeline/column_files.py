"""Files of columns: tables, arrays and tensors, in the formats in which programs save predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aradals._internal.optional import load_extra
from aradals.data.arrays import NPZ_ERRORS, check_npz
from aradals.data.table_files import check_names, read_csv
from aradals.errors import InputError
from aradals.pipeline.artifacts import as_arrays, read_parquet

Columns = dict[str, npt.NDArray[Any]]
"""Arrays with one row for each example, by name."""


def read_columns(path: Path) -> tuple[Columns, dict[str, str]]:
    """Read the columns of a file, and the metadata of a parquet file.

    Raises:
        InputError: the file has another format, or is damaged.
    """
    readers: dict[str, Callable[[Path], Columns]] = {
        ".csv": _read_text,
        ".tsv": _read_text,
        ".jsonl": _read_text,
        ".npz": _read_npz,
        ".npy": _read_npy,
        ".pt": _read_torch,
        ".pth": _read_torch,
    }
    suffix = path.suffix.lower()
    if suffix not in (".parquet", *readers):
        raise InputError(
            expected="predictions in a .parquet, .csv, .tsv, .jsonl, .npz, .npy or .pt file",
            got=str(path),
            hint="numpy.savez('predictions.npz', logits=logits, labels=labels)",
        )
    try:
        columns, metadata = read_parquet(path, None) if suffix == ".parquet" else (readers[suffix](path), {})
        if records := [name for name, values in columns.items() if values.dtype.kind == "V"]:
            raise InputError(
                expected=f"numbers or text in {path}", got=f"records in {records[0]!r}", hint="an array for each field"
            )
        return {name: np.atleast_1d(_readable(values)) for name, values in columns.items()}, metadata
    except InputError:
        raise
    except Exception as error:  # each reader has errors of its own for damaged files
        got = f"{type(error).__name__} ({str(error).partition(chr(10))[0]})" if path.exists() else "no such file"
        hint = _LAYOUTS.get(suffix, "a file of numbers alone")
        raise InputError(expected=f"a readable {suffix} file {path}", got=got, hint=hint) from error


_LAYOUTS = {
    ".csv": "commas between the columns, and points in the numbers",
    ".tsv": "tabs between the columns, and points in the numbers",
    ".jsonl": "one JSON object on each line",
}


def _readable(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return numbers in the byte order of this machine, because torch takes no other, and bytes as text."""
    if values.dtype.kind == "S" or (values.dtype == object and any(isinstance(each, bytes) for each in values.flat)):
        texts = [each.decode() if isinstance(each, bytes) else each for each in values.flat]
        return np.array(texts, dtype=object if values.dtype == object else None).reshape(values.shape)
    return values.astype(values.dtype.newbyteorder("="))


def _read_text(path: Path) -> Columns:
    if path.suffix.lower() == ".jsonl":
        table = load_extra("pyarrow.json").read_json(path)
    else:
        table = read_csv(path, "\t" if path.suffix.lower() == ".tsv" else ",")
    check_names(table.column_names, str(path))
    return as_arrays(table)


def _read_npz(path: Path) -> Columns:
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except InputError:
        raise
    except NPZ_ERRORS as error:
        got = "another kind of file, or pickled objects" if path.exists() else "no such file"
        hint = "numpy.savez with arrays of numbers, or of text by labels.astype(str)"
        raise InputError(expected=f"a readable .npz file of arrays {path}", got=got, hint=hint) from error


def _read_npy(path: Path) -> Columns:
    return {"outputs": np.load(path, allow_pickle=False)}


def _read_torch(path: Path) -> Columns:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Tensor):
        content = {"outputs": content}
    elif isinstance(content, list | tuple) and len(content) == 2 and not isinstance(content[0], dict):
        content = {"outputs": content[0], "labels": content[1]}
    if isinstance(content, list) and content and all(isinstance(each, dict) for each in content):  # of batches
        content = {name: [batch.get(name) for batch in content] for name in content[0]}
    if not isinstance(content, dict) or not all(isinstance(each, Tensor | list) for each in content.values()):
        raise InputError(
            expected=f"a tensor, or tensors by name, in {path}",
            got=type(content).__name__,
            hint="torch.save({'logits': logits, 'labels': labels}, path)",
        )
    tensors = {str(name): _joined(each).detach() for name, each in content.items()}
    return {name: (each.float() if each.dtype == torch.bfloat16 else each).numpy() for name, each in tensors.items()}


def _joined(values: Tensor | list[Any]) -> Tensor:
    """Join the tensors of several batches; numbers become a tensor."""
    if isinstance(values, list) and values and all(isinstance(each, Tensor) and each.ndim for each in values):
        return torch.cat(values)
    return torch.as_tensor(values)


def read_lines(path: Path) -> npt.NDArray[Any]:
    """Read a text file with one label on each line.

    Raises:
        InputError: the file is missing, or is no text.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(expected=f"a text file {path}", got=str(error), hint="one label on each line") from error
    return np.array([int(line) for line in lines] if all(map(str.isdigit, lines)) else lines)
