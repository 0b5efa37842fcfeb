"""Corrupted images and rows of numbers as parquet files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import Tensor

from aradals._internal.files import atomic_path
from aradals._internal.optional import load_extra
from aradals.corruptions import corrupt
from aradals.data.examples import Examples
from aradals.data.formats import Companions
from aradals.data.scaling import Scaling


def corrupted_columns(
    examples: Examples, corruption: str, severity: int, *, preset: str | None = None, companions: Companions
) -> Iterator[dict[str, Any]]:
    """Corrupt examples batch by batch: images become lossless PNG, and numbers have the scale of the table.

    Args:
        examples: images or rows of numbers; the random numbers depend on their ids, as in an evaluation.
        corruption: see :func:`corrupt`.
        severity: see :func:`corrupt`.
        preset: see :func:`corrupt`.
        companions: the table of the examples, without its rows.

    Yields:
        The Arrow columns of a batch, by name.

    Raises:
        InputError: the inputs cannot be corrupted.
    """
    make_columns = _image_column if len(examples.input_shape) > 1 else _number_columns
    for ids, inputs, _ in examples.batches():
        corrupted = corrupt(inputs, ids, corruption, severity, preset=preset, means=examples.column_means)
        yield make_columns(corrupted, examples, companions)


def write_corrupted(
    path: Path,
    made: Iterable[Mapping[str, Any]],
    examples: Examples,
    companions: Companions,
    *,
    request: str | None = None,
) -> None:
    """Write corrupted columns beside all other columns of their table.

    Args:
        path: the parquet file.
        made: the columns of each batch, in order, see `corrupted_columns`.
        examples: the clean examples.
        companions: the table of the examples, where row i is the example with the id i.
        request: digest of everything that determines the content, for the metadata of the file.

    Raises:
        OutputError: the path cannot be written.
    """
    arrow, parquet = load_extra("pyarrow"), load_extra("pyarrow.parquet")
    description = json.dumps({"kind": "corrupted", "request": request})
    schema = companions.schema if len(examples.input_shape) > 1 else _with_floats(companions.schema, companions.inputs)
    schema = schema.with_metadata({**(schema.metadata or {}), b"aradals": description.encode()})
    rest = examples.ids
    with (
        atomic_path(path) as temporary,
        parquet.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
    ):
        for batch in made:
            number = len(next(iter(batch.values())))
            own, rest = rest[:number], rest[number:]
            others = companions.others.take(own.numpy())
            columns = [
                batch[name] if name in batch else others[name].cast(schema.field(name).type) for name in schema.names
            ]
            writer.write_table(arrow.table(columns, schema=schema))


def _image_column(images: Tensor, examples: Examples, companions: Companions) -> dict[str, Any]:
    """Make the column of encoded images."""
    levels = (images * 255).round().byte().movedim(1, 3).contiguous().numpy()
    [name] = companions.inputs
    kind = companions.schema.field(name).type
    return {name: load_extra("pyarrow").array([_cell(pixels, kind) for pixels in levels], kind)}


def _number_columns(rows: Tensor, examples: Examples, companions: Companions) -> dict[str, Any]:
    """Make the columns of numbers, on the scale that they had before they were scaled to [0, 1]."""
    recorded = examples.preparation.get("scaling")
    names, values = companions.inputs, rows.double().numpy()
    if recorded is not None:
        scaling = Scaling.read(recorded)
        names, values = scaling.features, scaling.invert(values)
    return {name: load_extra("pyarrow").array(column) for name, column in zip(names, values.T, strict=True)}


def _with_floats(schema: Any, names: Sequence[str]) -> Any:
    """Change the type of these columns to float64, in the description by Hugging Face ``datasets``, too."""
    for name in names:
        place = schema.get_field_index(name)
        schema = schema.set(place, schema.field(place).with_type(load_extra("pyarrow").float64()))
    if b"huggingface" not in (schema.metadata or {}):
        return schema
    content = json.loads(schema.metadata[b"huggingface"])
    content["info"]["features"] |= {name: {"dtype": "float64", "_type": "Value"} for name in names}
    return schema.with_metadata({**schema.metadata, b"huggingface": json.dumps(content).encode()})


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
    """Make the columns of the inputs and ``label``, with the names of the classes, for rows 0 to the largest id."""
    arrow, datasets = load_extra("pyarrow"), load_extra("datasets")
    is_image = len(examples.input_shape) > 1
    names = ("image",) if is_image else tuple(f"x{number}" for number in range(examples.input_shape[0]))
    kinds = dict.fromkeys(names, datasets.Image() if is_image else datasets.Value("float64"))
    features = datasets.Features({**kinds, "label": datasets.ClassLabel(names=list(examples.class_names))})
    labels = examples.labels.new_zeros(int(examples.ids.max()) + 1)
    labels[examples.ids] = examples.labels
    return Companions(features.arrow_schema, names, arrow.table({"label": labels.numpy()}))
