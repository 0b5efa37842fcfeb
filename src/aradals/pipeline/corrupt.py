"""Corrupted copies of a data set as files, which several workers can make together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aradals.data import Examples
from aradals.data.corrupted_parquet import corrupted_columns, labels_alone, write_corrupted
from aradals.data.formats import Companions
from aradals.pipeline.artifacts import as_arrow, merged_rows
from aradals.pipeline.shards import Sharing, Work, do_shards

_BATCHES_PER_WORKER = 16


def corrupt_file(
    examples: Examples,
    path: Path,
    corruption: str,
    severity: int,
    *,
    preset: str | None,
    request: str,
    companions: Companions | None = None,
    sharing: Sharing[Examples] | None = None,
) -> None:
    """Corrupt examples, and write them in order: images as lossless PNG, and numbers on the scale of the table.

    Finished batches are written to a hidden folder beside the file, see `do_shards`, so that an interrupted call
    continues.

    Args:
        examples: images or rows of numbers; the random numbers depend on their ids, as in an evaluation.
        path: the parquet file.
        corruption: see `aradals.data.corrupt`.
        severity: see `aradals.data.corrupt`.
        preset: see `aradals.data.corrupt`.
        request: digest of everything that determines the content.
        companions: the table of the examples, whose columns the file gets; default: the inputs and ``label``.
        sharing: workers that corrupt a part each; default: this process.

    Raises:
        InputError: the inputs cannot be corrupted.
        OutputError: the path cannot be written.
    """
    table = companions or labels_alone(examples)
    work = Corrupting(
        (corruption, severity, preset),
        replace(table, others=None),
        num_examples=len(examples),
        batch_size=examples.batches().batch_size or 1,
        batches_per_worker=_BATCHES_PER_WORKER,
    )
    done = do_shards(work, examples, path.with_name(f".{path.name}.shards"), request, sharing)
    rows = merged_rows(list(done.shards.values()), work.batch_size)
    made = ({name: batch.column(name).combine_chunks() for name in batch.column_names} for batch in rows)
    write_corrupted(path, made, examples, table, request=request)
    done.remove()


@dataclass(frozen=True)
class Corrupting(Work[Examples]):
    """Corrupted inputs.

    Attributes:
        settings: corruption, severity and preset.
        companions: the table of the examples, without its rows.
    """

    settings: tuple[str, int, str | None]
    companions: Companions

    def identity(self, loaded: Examples, rows: range) -> dict[str, str]:
        """Describe these examples."""
        return {"data_fingerprint": loaded.select(rows).fingerprint}

    def tables(self, loaded: Examples, file: int, rows: range) -> Iterator[Any]:
        """Corrupt batch by batch."""
        corruption, severity, preset = self.settings
        own = loaded.select(rows)
        for columns in corrupted_columns(own, corruption, severity, preset=preset, companions=self.companions):
            yield as_arrow(columns)
