"""Corrupted copies of a data set as files, which several workers can make together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aradals.data import Examples
from aradals.data.corrupted_parquet import corrupted_images, labels_alone, write_corrupted
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
    preset: str,
    request: str,
    companions: Companions | None = None,
    sharing: Sharing[Examples] | None = None,
) -> None:
    """Corrupt examples, and write them in order as lossless PNG in a parquet file.

    Finished batches are written to a hidden folder beside the file, see `do_shards`, so that an interrupted call
    continues.

    Args:
        examples: images; the random numbers depend on their ids, as in an evaluation.
        path: the parquet file.
        corruption: see `aradals.data.corrupt`.
        severity: see `aradals.data.corrupt`.
        preset: see `aradals.data.corrupt`.
        request: digest of everything that determines the content.
        companions: the table of the examples, whose columns the file gets; default: ``image`` and ``label``.
        sharing: workers that corrupt a part each; default: this process.

    Raises:
        InputError: the inputs cannot be corrupted.
        OutputError: the path cannot be written.
    """
    table = companions or labels_alone(examples)
    work = Corrupting(
        (corruption, severity, preset),
        table.schema.field(table.image).type,
        num_examples=len(examples),
        batch_size=examples.batches().batch_size or 1,
        batches_per_worker=_BATCHES_PER_WORKER,
    )
    done = do_shards(work, examples, path.with_name(f".{path.name}.shards"), request, sharing)
    images = merged_rows(list(done.shards.values()), work.batch_size)
    batches = (rows.column("image").combine_chunks() for rows in images)
    write_corrupted(path, batches, examples.ids, table, request=request)
    done.remove()


@dataclass(frozen=True)
class Corrupting(Work[Examples]):
    """Corrupted images as PNG.

    Attributes:
        settings: corruption, severity and preset.
        kind: Arrow type of the column of images.
    """

    settings: tuple[str, int, str]
    kind: Any

    def identity(self, loaded: Examples, rows: range) -> dict[str, str]:
        """Describe these examples."""
        return {"data_fingerprint": loaded.select(rows).fingerprint}

    def tables(self, loaded: Examples, file: int, rows: range) -> Iterator[Any]:
        """Corrupt batch by batch."""
        corruption, severity, preset = self.settings
        for images in corrupted_images(loaded.select(rows), corruption, severity, preset=preset, kind=self.kind):
            yield as_arrow({"image": images})
