"""Corrupted images as parquet files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from aradals._internal.files import atomic_path
from aradals._internal.optional import load_extra
from aradals.corruptions import corrupt
from aradals.data.examples import Examples
from aradals.data.formats import Companions


def corrupted_images(
    examples: Examples, corruption: str, severity: int, *, preset: str | None = None, kind: Any
) -> Iterator[Any]:
    """Corrupt examples batch by batch, and encode them as lossless PNG.

    Args:
        examples: images; the random numbers depend on their ids, as in an evaluation.
        corruption: see :func:`corrupt`.
        severity: see :func:`corrupt`.
        preset: see :func:`corrupt`.
        kind: Arrow type of the column of images: bytes, or bytes beside a path.

    Raises:
        InputError: the inputs cannot be corrupted.
    """
    arrow = load_extra("pyarrow")
    for ids, inputs, _ in examples.batches():
        corrupted = corrupt(inputs, ids, corruption, severity, preset=preset)
        levels = (corrupted * 255).round().byte().movedim(1, 3).contiguous().numpy()
        yield arrow.array([_cell(pixels, kind) for pixels in levels], kind)


def write_corrupted(
    path: Path, images: Iterable[Any], ids: Tensor, companions: Companions, *, request: str | None = None
) -> None:
    """Write images beside all other columns of their table.

    Args:
        path: the parquet file.
        images: Arrow arrays of images, see `corrupted_images`.
        ids: id of each image.
        companions: the table of the examples, where row i is the example with the id i.
        request: digest of everything that determines the content, for the metadata of the file.

    Raises:
        OutputError: the path cannot be written.
    """
    arrow, parquet = load_extra("pyarrow"), load_extra("pyarrow.parquet")
    description = json.dumps({"kind": "corrupted", "request": request})
    schema = companions.schema.with_metadata({**(companions.schema.metadata or {}), b"aradals": description.encode()})
    rest = ids
    with (
        atomic_path(path) as temporary,
        parquet.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
    ):
        for batch in images:
            own, rest = rest[: len(batch)], rest[len(batch) :]
            others = companions.others.take(own.numpy())
            columns = [batch if name == companions.image else others[name] for name in companions.schema.names]
            writer.write_table(arrow.table(columns, schema=schema))


def _cell(pixels: npt.NDArray[Any], kind: Any) -> Any:
    """Encode an image for a column of this Arrow type: bytes, or bytes with an empty path."""
    encoded = encode_png(pixels)
    return {"bytes": encoded} if load_extra("pyarrow").types.is_struct(kind) else encoded


def encode_png(pixels: npt.NDArray[Any]) -> bytes:
    """Encode uint8 pixels, shape (H, W, 1 or 3), as a PNG file."""
    file = io.BytesIO()
    image = load_extra("PIL.Image").fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(file, "PNG")
    return file.getvalue()


def labels_alone(examples: Examples) -> Companions:
    """Make the columns ``image`` and ``label``, with the names of the classes, for rows 0 to the largest id."""
    arrow, datasets = load_extra("pyarrow"), load_extra("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(examples.class_names))}
    )
    labels = examples.labels.new_zeros(int(examples.ids.max()) + 1)
    labels[examples.ids] = examples.labels
    return Companions(features.arrow_schema, "image", arrow.table({"label": labels.numpy()}))
