"""Files between the stages: score tables, predictions, JSON; written atomically, each with its provenance."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aradals._internal.files import atomic_path, csv_text
from aradals._internal.json_files import SEAL, changed, json_text
from aradals._internal.optional import load_extra
from aradals.calibration import Calibrator
from aradals.checks import check_labels, check_logits
from aradals.data import Examples
from aradals.data.table_files import check_names, read_columns
from aradals.errors import InputError
from aradals.inference.predictions import Predictions
from aradals.robustness.scores import ScoreTable

SCHEMA_VERSION = "4"
"""Changes when the meaning of a file changes; part of every stage's inputs, so that old outputs are made again."""


def versions() -> dict[str, str]:
    """Collect the versions that determine a number: Python, this package, torch, numpy and lightning."""
    packages = {name: _version(name) for name in ("ar-adals", "torch", "numpy", "lightning")}
    return {"python": platform.python_version(), **{name: found for name, found in packages.items() if found}}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def save_scores(path: Path, scores: ScoreTable, provenance: Mapping[str, str]) -> None:
    """Write a score table as parquet; ``norm`` is null if no norm was verified.

    Args:
        path: path that ends in .parquet.
        scores: the table.
        provenance: model digest, data fingerprint, split and so on, for the metadata.
    """
    norm = scores.norm.double().numpy()
    columns = {
        "id": scores.ids.numpy(),
        "predicted": scores.predicted.numpy(),
        "score": scores.score.double().numpy(),
        "margin": scores.margin.double().numpy(),
        "norm": np.ma.masked_array(norm, mask=~np.isfinite(norm)),
        "success": scores.success.numpy(),
        "num_forward": scores.num_forward.numpy(),
        "num_backward": scores.num_backward.numpy(),
    }
    _write_parquet(path, "scores", columns, {"attack": scores.attack, **provenance})


def load_scores(path: Path) -> tuple[ScoreTable, dict[str, str]]:
    """Read a score table and its metadata.

    Raises:
        InputError: the file is missing, not parquet, or lacks a column.
    """
    kinds = {"id": "iu", "predicted": "iu", "score": "f", "margin": "f", "norm": "f", "success": "b"}
    kinds |= {"num_forward": "iu", "num_backward": "iu"}
    columns, metadata = read_parquet(path, list(kinds))
    if "aradals" not in metadata:
        raise InputError(
            expected=f"a score table in {path}",
            got="a table that does not say that this program has written it",
            hint="a file written by `aradals score`, as it was written",
        )
    for name, kind in kinds.items():
        if columns[name].dtype.kind not in kind or columns[name].ndim != 1:
            raise InputError(
                expected=f"a column {name!r} of {'numbers' if kind != 'b' else 'booleans'} in every row of {path}",
                got=f"{columns[name].dtype} of shape {columns[name].shape}",
                hint="a file written by `aradals score`",
            )
    return (
        ScoreTable(
            ids=torch.from_numpy(columns["id"].astype(np.int64)),
            predicted=torch.from_numpy(columns["predicted"].astype(np.int64)),
            score=torch.from_numpy(columns["score"].astype(np.float64)),
            margin=torch.from_numpy(columns["margin"].astype(np.float64)),
            norm=torch.from_numpy(columns["norm"].astype(np.float64)).nan_to_num(math.inf, math.inf),
            success=torch.from_numpy(columns["success"]),
            num_forward=torch.from_numpy(columns["num_forward"].astype(np.int64)),
            num_backward=torch.from_numpy(columns["num_backward"].astype(np.int64)),
            attack=metadata.get("attack", "unknown"),
        ),
        metadata,
    )


def save_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as ``path``.parquet and ``path``.csv; a key that a row lacks is null, NaN and infinities stay.

    Args:
        path: path without a suffix.
        rows: flat records.
    """
    pa, csv = load_extra("pyarrow"), load_extra("pyarrow.csv")

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    _write_parquet(path.with_name(f"{path.name}.parquet"), "table", dict(zip(names, table.columns, strict=True)), {})
    with atomic_path(path.with_name(f"{path.name}.csv")) as temporary:
        csv.write_csv(_as_csv(table), temporary)


def _as_csv(table: Any) -> Any:
    """Apply `csv_text` to the text of an Arrow table, including its titles."""
    pa = load_extra("pyarrow")

    def written(column: Any) -> Any:
        if not pa.types.is_string(column.type):
            return column
        return pa.array([None if value is None else csv_text(value) for value in column.to_pylist()], pa.string())

    return pa.Table.from_arrays(list(map(written, table.columns)), names=list(map(csv_text, table.column_names)))


def save_predictions(path: Path, predictions: Predictions, provenance: Mapping[str, str]) -> None:
    """Write ids, labels, logits (a list column) and, if there are any, scores as parquet."""
    pa = load_extra("pyarrow")
    logits = predictions.logits.numpy()
    flat = pa.array(logits.reshape(-1))
    columns = {
        "id": predictions.ids.numpy(),
        "label": predictions.labels.numpy(),
        "logits": pa.FixedSizeListArray.from_arrays(flat, logits.shape[1]),
    }
    if predictions.scores is not None:
        columns["score"] = predictions.scores.double().numpy()
    _write_parquet(path, "predictions", columns, provenance)


def load_predictions(path: Path) -> tuple[Predictions, dict[str, str]]:
    """Read predictions that `save_predictions` has written, and their metadata.

    Raises:
        InputError: the file is missing, was changed, or has other columns.
    """
    columns, metadata = read_parquet(path, ["id", "label", "logits"])
    kinds, num_rows = {"id": "iu", "label": "iu", "logits": "f"}, len(columns["id"])
    for name, kind in kinds.items():
        if columns[name].dtype.kind not in kind or columns[name].shape[:1] != (num_rows,):
            raise InputError(
                expected=f"numbers in the column {name!r} of {path}",
                got=f"{columns[name].dtype} of shape {columns[name].shape}",
                hint="the file as `aradals` has written it",
            )
    logits = check_logits(torch.from_numpy(columns["logits"]), num_rows)
    ids, labels = (torch.from_numpy(columns[name].astype(np.int64)) for name in ("id", "label"))
    check_labels(labels, logits.shape[1])
    scores = torch.from_numpy(columns["score"].astype(np.float64)) if "score" in columns else None
    return Predictions(ids, logits, labels, scores), metadata


def save_calibrator(path: Path, calibrator: Calibrator, examples: Examples, *, request: str | None = None) -> None:
    """Write a fitted calibrator with the examples that it was fitted on.

    Args:
        path: path of the file.
        calibrator: a fitted calibrator, whose ``origin`` names the model.
        examples: the examples that the calibrator was fitted on.
        request: digest of everything that decides the fit.
    """
    calibrator.origin = replace(
        calibrator.origin,
        data=examples.name,
        fingerprint=examples.fingerprint,
        example_hashes=examples.hashes,
        request=request,
    )
    calibrator.save(path)


def _write_parquet(path: Path, kind: str, columns: Mapping[str, object], metadata: Mapping[str, str]) -> None:
    """Write a table that shows any damage: every page has a checksum, and the whole table has a digest.

    Args:
        path: path of the file.
        kind: kind of the table, for `aradals.pipeline.outputs.describe_file`.
        columns: columns by name.
        metadata: metadata by name; ``request`` is also a part of the description.
    """
    pa, parquet = load_extra("pyarrow"), load_extra("pyarrow.parquet")
    description = {"kind": kind, **({"request": metadata["request"]} if "request" in metadata else {})}
    metadata = {**metadata, "schema": SCHEMA_VERSION, "aradals": json.dumps(description)}
    table = pa.table(dict(columns))
    table = table.replace_schema_metadata({**metadata, SEAL: _table_digest(as_arrays(table), metadata)})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True)


def read_parquet(path: Path, required: list[str] | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the columns and the metadata of a table; the digest of this package is left out.

    Raises:
        InputError: the file is missing, not parquet, damaged, or lacks a column.
    """
    pa, parquet = load_extra("pyarrow"), load_extra("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            check_names(file.schema_arrow.names, str(path))
            table = read_columns(file, path, file.schema_arrow.names)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
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
    columns = as_arrays(table)
    metadata = {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in (table.schema.metadata or {}).items()
    }
    digest = metadata.pop(SEAL, None)
    if (digest is not None or "aradals" in metadata) and digest != _table_digest(columns, metadata):
        raise changed(path)
    return columns, metadata


def as_arrays(table: Any) -> dict[str, np.ndarray]:
    """Copy the columns of an Arrow table to arrays; lists of one length get the shape (N, length)."""
    pa = load_extra("pyarrow")
    columns: dict[str, np.ndarray] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type) and column.type.list_size:
            columns[name] = column.flatten().to_numpy().reshape(-1, column.type.list_size).copy()
        else:
            columns[name] = column.to_numpy(zero_copy_only=False).copy()
    return columns


def _table_digest(columns: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json_text(dict(sorted(metadata.items()))).encode())
    for name, values in columns.items():
        # A table of somebody else may contain values that JSON does not have; its digest is wrong in any case.
        is_plain = values.dtype != object
        content = values.tobytes() if is_plain else json.dumps(values.tolist(), default=str).encode()
        digest.update(f"{name} {values.dtype} {values.shape} ".encode() + content)
    return digest.hexdigest()
