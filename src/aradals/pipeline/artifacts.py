"""Files between the stages: score tables, predictions, JSON; written atomically, each with its provenance."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


_ROWS_PER_GROUP = 2**14


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
    _write_parquet(path, "scores", score_columns(scores), {"attack": scores.attack, **provenance})


def score_columns(scores: ScoreTable) -> dict[str, np.ndarray]:
    """List the columns of the file of a score table."""
    norm = scores.norm.double().numpy()
    return {
        "id": scores.ids.numpy(),
        "predicted": scores.predicted.numpy(),
        "score": scores.score.double().numpy(),
        "margin": scores.margin.double().numpy(),
        "norm": np.ma.masked_array(norm, mask=~np.isfinite(norm)),
        "success": scores.success.numpy(),
        "num_forward": scores.num_forward.numpy(),
        "num_backward": scores.num_backward.numpy(),
    }


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
    _write_parquet(path, "predictions", prediction_columns(predictions), provenance)


def prediction_columns(predictions: Predictions) -> dict[str, Any]:
    """List the columns of a file of predictions."""
    pa = load_extra("pyarrow")
    logits = predictions.logits.numpy()
    columns = {
        "id": predictions.ids.numpy(),
        "label": predictions.labels.numpy(),
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), logits.shape[1]),
    }
    if predictions.scores is not None:
        columns["score"] = predictions.scores.double().numpy()
    return columns


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


def as_arrow(columns: Mapping[str, object], metadata: Mapping[str, str] | None = None) -> Any:
    """Make an Arrow table with metadata."""
    return load_extra("pyarrow").table(dict(columns)).replace_schema_metadata(dict(metadata or {}))


def _write_parquet(path: Path, kind: str, columns: Mapping[str, object], metadata: Mapping[str, str]) -> None:
    """Write a table that shows any damage: every page has a checksum, and the whole table has a digest.

    Args:
        path: path of the file.
        kind: kind of the table, for `aradals.pipeline.outputs.describe_file`.
        columns: columns by name.
        metadata: metadata by name; ``request`` is also a part of the description.
    """
    parquet = load_extra("pyarrow.parquet")
    table, metadata = as_arrow(columns), _described(kind, metadata)
    table = table.replace_schema_metadata({**metadata, SEAL: _table_digest(as_arrays(table), metadata)})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, write_page_checksum=True)


def merge_parquet(path: Path, kind: str, shards: Sequence[Path], metadata: Mapping[str, str]) -> None:
    """Write the rows of some parquet files, one after the other, as `_write_parquet` would; memory does not grow.

    Args:
        path: path of the file.
        kind: kind of the table.
        shards: files with the same columns.
        metadata: metadata by name.
    """
    parquet, metadata = load_extra("pyarrow.parquet"), _described(kind, metadata)
    schema = parquet.read_schema(shards[0])
    num_rows = sum(parquet.read_metadata(shard).num_rows for shard in shards)
    columns = ((name, num_rows, (part for shard in shards for part in _parts(shard, name))) for name in schema.names)
    schema = schema.with_metadata({**metadata, SEAL: _digest(columns, metadata)})
    with (
        atomic_path(path) as temporary,
        parquet.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
    ):
        for rows in merged_rows(shards, _ROWS_PER_GROUP):
            writer.write_table(rows.replace_schema_metadata(schema.metadata))


def merged_rows(files: Sequence[Path], size: int) -> Iterator[Any]:
    """Read parquet files one after the other, as Arrow tables of ``size`` rows; the last one may have fewer."""
    arrow, parquet = load_extra("pyarrow"), load_extra("pyarrow.parquet")
    rest = parquet.read_schema(files[0]).empty_table().replace_schema_metadata(None)
    for path in files:
        table = parquet.read_table(path, partitioning=None).replace_schema_metadata(None)
        rest = arrow.concat_tables([rest, table])
        while len(rest) >= size:
            yield rest.slice(0, size)
            rest = rest.slice(size)
    if len(rest):
        yield rest


def verify_parquet(path: Path) -> dict[str, str]:
    """Check the digest of a table of this package column by column, so that memory does not grow.

    Returns:
        The metadata, as `read_parquet` returns them.

    Raises:
        InputError: the file is missing, not parquet, damaged, or not of this package.
    """
    parquet = load_extra("pyarrow.parquet")
    try:
        metadata, num_rows = read_metadata(path), parquet.read_metadata(path).num_rows
        columns = ((name, num_rows, _parts(path, name)) for name in parquet.read_schema(path).names)
        if metadata.pop(SEAL, None) == _digest(columns, metadata):
            return metadata
    except (OSError, load_extra("pyarrow").ArrowException) as error:
        raise changed(path) from error
    raise changed(path)


def _parts(path: Path, name: str) -> Iterator[np.ndarray]:
    """Read a column of a parquet file in parts."""
    arrow, parquet = load_extra("pyarrow"), load_extra("pyarrow.parquet")
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(batch_size=_ROWS_PER_GROUP, columns=[name]):
            yield as_arrays(arrow.Table.from_batches([batch]))[name]


def read_column(path: Path, name: str) -> np.ndarray:
    """Read a column of a parquet file whose content is known to be intact."""
    return np.concatenate(list(_parts(path, name)))


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a parquet file whose content is known to be intact."""
    return _decoded(load_extra("pyarrow.parquet").read_schema(path).metadata)


def _described(kind: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Add the kind of a table and the version of its meaning to its metadata."""
    description = {"kind": kind, **({"request": metadata["request"]} if "request" in metadata else {})}
    return {**metadata, "schema": SCHEMA_VERSION, "aradals": json.dumps(description)}


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
    metadata = _decoded(table.schema.metadata)
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


def _decoded(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    """Decode the metadata of an Arrow schema."""
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in (metadata or {}).items()}


def _table_digest(columns: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    return _digest(((name, len(values), [values]) for name, values in columns.items()), metadata)


def _digest(columns: Iterable[tuple[str, int, Iterable[np.ndarray]]], metadata: Mapping[str, str]) -> str:
    """Hash a table: its metadata, and each column as a name, a number of rows and the parts of its values."""
    digest = hashlib.sha256(json_text(dict(sorted(metadata.items()))).encode())
    for name, num_rows, parts in columns:
        for number, values in enumerate(parts):
            if not number:
                digest.update(f"{name} {values.dtype} {(num_rows, *values.shape[1:])} ".encode())
            # A table of somebody else may contain values that JSON does not have; its digest is wrong in any case.
            is_plain = values.dtype != object
            digest.update(values.tobytes() if is_plain else json.dumps(values.tolist(), default=str).encode())
    return digest.hexdigest()
