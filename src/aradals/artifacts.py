"""Files between the stages: score tables, predictions, JSON; written atomically, each with its provenance."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import platform
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aradals.calibration import CALIBRATORS, Calibrator
from aradals.data import Examples
from aradals.errors import InputError, MissingExtraError
from aradals.files import atomic_path
from aradals.inference import Predictions, check_labels, check_logits
from aradals.robustness import ScoreTable

SCHEMA_VERSION = "2"
"""Changes when the meaning of a file changes; part of every stage's inputs, so old outputs are made anew."""


def versions() -> dict[str, str]:
    """Versions of what determines a number: Python, this package, torch, numpy and lightning."""
    found = {"python": platform.python_version()}
    for package in ("ar-adals", "torch", "numpy", "lightning"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, the first 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def settings_digest(settings: object) -> str:
    """SHA-256 of JSON-able settings, the first 16 hex digits; independent of key order."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_json(path: Path, content: object) -> None:
    """Write JSON, with null for NaN and infinities (which JSON lacks)."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")


def json_text(content: object, indent: int | None = None) -> str:
    """JSON, with null for NaN and infinities (which JSON lacks)."""
    return json.dumps(_finite(content), indent=indent)


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            expected=f"a readable file {path}", got=error.strerror or "an error", hint="another path"
        ) from error
    except ValueError as error:
        raise InputError(
            expected=f"JSON in {path}",
            got=str(error),
            hint="making the file again with the stage that writes it",
        ) from error


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def save_scores(path: Path, scores: ScoreTable, provenance: Mapping[str, str]) -> None:
    """Write a score table as parquet; ``norm`` is null where none was verified.

    Args:
        path: ends in .parquet.
        scores: the table.
        provenance: model digest, data fingerprint, split and so on, for the metadata.
    """
    norm = scores.norm.double().numpy()
    columns = {
        "id": scores.ids.numpy(),
        "predicted": scores.predicted.numpy(),
        "score": scores.score.double().numpy(),
        "norm": np.ma.masked_array(norm, mask=~np.isfinite(norm)),
        "success": scores.success.numpy(),
        "num_forward": scores.num_forward.numpy(),
        "num_backward": scores.num_backward.numpy(),
    }
    _write_parquet(path, columns, {"attack": scores.attack, **provenance})


def load_scores(path: Path) -> tuple[ScoreTable, dict[str, str]]:
    """Read a score table and its metadata.

    Raises:
        InputError: the file is missing, not parquet, or lacks a column.
    """
    columns, metadata = _read_parquet(
        path, ["id", "predicted", "score", "norm", "success", "num_forward", "num_backward"]
    )
    return (
        ScoreTable(
            ids=torch.from_numpy(columns["id"].astype(np.int64)),
            predicted=torch.from_numpy(columns["predicted"].astype(np.int64)),
            score=torch.from_numpy(columns["score"].astype(np.float64)),
            norm=torch.from_numpy(columns["norm"].astype(np.float64)).nan_to_num(math.inf, math.inf),
            success=torch.from_numpy(columns["success"].astype(bool)),
            num_forward=torch.from_numpy(columns["num_forward"].astype(np.int64)),
            num_backward=torch.from_numpy(columns["num_backward"].astype(np.int64)),
            attack=metadata.get("attack", "unknown"),
        ),
        metadata,
    )


def save_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as ``path``.parquet and ``path``.csv; a key that a row lacks is null, NaN and infinities stay.

    Args:
        path: without a suffix.
        rows: flat records.
    """
    pa, _ = _pyarrow()
    from pyarrow import csv

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    _write_parquet(path.with_name(f"{path.name}.parquet"), dict(zip(names, table.columns, strict=True)), {})
    with atomic_path(path.with_name(f"{path.name}.csv")) as temporary:
        csv.write_csv(table, temporary)


def save_predictions(path: Path, predictions: Predictions, provenance: Mapping[str, str]) -> None:
    """Write ids, labels, logits (a list column) and, where there are some, scores as parquet."""
    pa, _ = _pyarrow()
    logits = predictions.logits.numpy()
    flat = pa.array(logits.reshape(-1))
    columns = {
        "id": predictions.ids.numpy(),
        "label": predictions.labels.numpy(),
        "logits": pa.FixedSizeListArray.from_arrays(flat, logits.shape[1]),
    }
    if predictions.scores is not None:
        columns["score"] = predictions.scores.double().numpy()
    _write_parquet(path, columns, provenance)


def load_predictions(path: Path) -> tuple[Predictions, dict[str, str]]:
    """Read predictions: parquet or ``.npz`` with ``label``, ``logits`` (N x K) and, where rows were left out, ``id``.

    Raises:
        InputError: the file is missing or lacks a column; logits that are NaN, probabilities, or of a wrong shape.
    """
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                columns = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            got = "another kind of file, or pickled objects" if path.exists() else "no such file"
            raise InputError(expected=f"a readable .npz file of arrays {path}", got=got, hint="numpy.savez") from error
        metadata: dict[str, str] = {}
    else:
        columns, metadata = _read_parquet(path, None)
    columns = {{"labels": "label", "ids": "id"}.get(name, name): values for name, values in columns.items()}
    for name in ("label", "logits"):
        if name not in columns:
            raise InputError(
                expected=f"a column {name!r} in {path}",
                got=f"columns {', '.join(map(repr, columns))}",
                hint="columns label, logits and, where rows were left out, id",
            )
    stacked = columns["logits"]
    columns.setdefault("id", np.arange(len(columns["label"])))
    for name in ("label", "id"):
        if columns[name].dtype.kind not in "iu" or columns[name].shape != (len(stacked),):
            raise InputError(
                expected=f"one integer {name} for each of {len(stacked)} rows of logits in {path}",
                got=f"{columns[name].dtype} of shape {columns[name].shape}",
                hint="class indices from 0" if name == "label" else "row numbers",
            )
    ids, labels = (torch.from_numpy(columns[name].astype(np.int64)) for name in ("id", "label"))
    if len(ids.unique()) < len(ids):
        raise InputError(expected=f"every id once in {path}", got="some of them again", hint="one row per example")
    if stacked.dtype == object:
        lengths = {len(row) for row in stacked}
        if len(lengths) != 1:
            raise InputError(
                expected="logits of one length",
                got=f"lengths {sorted(lengths)}",
                hint="one row of K logits each",
            )
        stacked = np.stack(list(stacked))
    logits = check_logits(torch.from_numpy(np.array(stacked)), len(labels))
    check_labels(labels, logits.shape[1])
    scores = torch.from_numpy(columns["score"].astype(np.float64)) if "score" in columns else None
    return Predictions(ids, logits, labels, scores), metadata


def save_calibrator(path: Path, calibrator: Calibrator, examples: Examples) -> None:
    """Write a fitted calibrator as JSON, with the content hashes of the examples that it was fitted on."""
    fitted_on = {
        "data": examples.name,
        "n": len(examples),
        "fingerprint": examples.fingerprint,
        "example_hashes": encode_hashes(examples.hashes),
    }
    save_json(path, {**calibrator.to_dict(), "fitted_on": fitted_on})


def load_calibrator(path: Path) -> tuple[Calibrator, np.ndarray]:
    """Read a calibrator, and the hashes (uint64) of what it was fitted on.

    Raises:
        InputError: the file is missing, or not one that `save_calibrator` has written.
    """
    content = load_json(path)
    method = content.get("method") if isinstance(content, dict) else None
    if method not in CALIBRATORS or "fitted_on" not in content:
        raise InputError(
            expected=f"a calibrator in {path} ({', '.join(CALIBRATORS)})",
            got=f"method {method!r}",
            hint="a file written by `aradals calibrate`",
        )
    return CALIBRATORS[method].from_dict(content), decode_hashes(content["fitted_on"]["example_hashes"])


def _write_parquet(path: Path, columns: Mapping[str, object], metadata: Mapping[str, str]) -> None:
    pa, parquet = _pyarrow()
    table = pa.table(dict(columns)).replace_schema_metadata({**metadata, "schema": SCHEMA_VERSION})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)


def _read_parquet(path: Path, required: list[str] | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    pa, parquet = _pyarrow()
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            expected=f"a readable parquet file {path}",
            got=str(error).splitlines()[0] if path.exists() else "no such file",
            hint="a file written by `aradals score` or `aradals evaluate`",
        ) from error
    for name in required or []:
        if name not in table.column_names:
            raise InputError(
                expected=f"a column {name!r} in {path}",
                got=f"columns {', '.join(map(repr, table.column_names))}",
                hint="a file written by `aradals score`",
            )
    columns: dict[str, np.ndarray] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            columns[name] = column.flatten().to_numpy().reshape(-1, column.type.list_size).copy()
        else:
            columns[name] = column.to_numpy(zero_copy_only=False).copy()
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return columns, metadata


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data") from error
    return pyarrow, pyarrow.parquet


def encode_hashes(hashes: np.ndarray) -> str:
    """Example hashes (uint64) as text, for the metadata of what was fitted on them."""
    return base64.b64encode(np.sort(hashes.astype("<u8")).tobytes()).decode()


def decode_hashes(text: str) -> np.ndarray:
    """The inverse of `encode_hashes`."""
    return np.frombuffer(base64.b64decode(text), dtype="<u8")
