"""Tables of encoded images: parquet files, and data sets of the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aradals._internal.optional import load_extra
from aradals.data.formats import (
    MAX_PACKING,
    Columns,
    Companions,
    OpenSplits,
    Rows,
    Split,
    no_such_column,
    split_name,
    too_packed,
)
from aradals.data.images import MEMORY_LIMIT, EncodedImage, NamedImage
from aradals.errors import InputError

_USUAL_IMAGES = ("image", "img", "images")
_USUAL_LABELS = ("label", "labels", "fine_label", "target", "class", "y")
_NEEDED = {
    "image": "data that has an image column",
    "label": "data that has a column of class indices, with the numbers that the model uses",
}


@dataclass(frozen=True)
class DatasetImages(Sequence[EncodedImage]):
    """Encoded images of a Hugging Face ``Dataset``, which stay on disk until they are needed.

    Attributes:
        dataset: a data set with a column of encoded images.
        column: name of this column.
        folders: folders that may contain the files that the rows name: (the first row after a part of the data set,
            the folders of this part), in order.
    """

    dataset: Any
    column: str
    folders: tuple[tuple[int, tuple[Path, ...]], ...]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: Any) -> Any:
        folders = next(folders for end, folders in self.folders if row < end)
        return _encoded(self.dataset[int(row)][self.column], folders)


def read_parquet(files: Sequence[Path], columns: Columns, *, memory_limit: int = MEMORY_LIMIT) -> Rows:
    """Read the rows of one split, which consists of ``files`` in this order.

    Files of more than ``memory_limit`` bytes are converted once to the cache of Hugging Face ``datasets``, which can
    read single rows.

    Raises:
        InputError: the files are not parquet, or their image and label columns are not clear.
    """
    where = _where(files)
    with _opened_parquet(files, where) as opened:
        sizes = [file.metadata.row_group(i).total_byte_size for file in opened for i in range(file.num_row_groups)]
        image, label, class_names = choose_columns(opened[0].schema_arrow, columns, where)
        if sum(sizes) > memory_limit:
            dataset = _dataset(files, where)
            ends = np.cumsum([file.metadata.num_rows for file in opened]).tolist()
            return _dataset_rows(dataset, columns, where, tuple(zip(ends, map(_folders, files), strict=True)))
        tables = [read_columns(*each, [image, label]) for each in zip(opened, files, strict=True)]
    encoded = [
        _encoded(cell, _folders(file))
        for file, table in zip(files, tables, strict=True)
        for chunk in table[image].chunks
        for cell in chunk.to_pylist()
    ]
    labels = load_extra("pyarrow").concat_tables([table.select([label]) for table in tables])[label]
    return Rows(encoded, _labels(labels, label, where), class_names, label)


def _dataset(files: Sequence[Path], where: str) -> Any:
    """Load the rows of ``files`` as a ``Dataset``."""
    datasets = load_extra("datasets")
    try:
        with _without_progress_bars():
            return datasets.Dataset.from_parquet([str(file) for file in files])
    except Exception as error:  # wrong metadata raises many kinds of errors
        raise InputError(
            expected=f"parquet files that Hugging Face datasets can read in {where}",
            got=f"{type(error).__name__}: {error}",
            hint="writing the files again",
        ) from error


def _folders(file: Path) -> tuple[Path, ...]:
    """Return the folders that may contain the image files that a table names."""
    return (file.parent.resolve(),)


def read_column(files: Sequence[Path], column: str) -> npt.NDArray[Any]:
    """Read only one column, from ``files`` in this order.

    Raises:
        InputError: the files are not parquet, or they have no such column of single values.
    """
    where = _where(files)
    with _opened_parquet(files, where) as opened:
        _check_column(opened[0].schema_arrow, column, where)
        tables = [read_columns(*each, [column]) for each in zip(opened, files, strict=True)]
        table = load_extra("pyarrow").concat_tables(tables)
    return _values(table[column], column, where)


def read_companions(files: Sequence[Path], columns: Columns) -> Companions:
    """Read all columns of ``files`` except the images.

    Raises:
        InputError: the files are not parquet, or their image and label columns are not clear.
    """
    where = _where(files)
    with _opened_parquet(files, where) as opened:
        schema = opened[0].schema_arrow
        image, _, _ = choose_columns(schema, columns, where)
        names = [name for name in schema.names if name != image]
        tables = [read_columns(*each, names) for each in zip(opened, files, strict=True)]
        return Companions(schema, image, load_extra("pyarrow").concat_tables(tables))


def _dataset_companions(dataset: Any, where: str, columns: Columns) -> Companions:
    schema = dataset.features.arrow_schema
    image, _, _ = choose_columns(schema, columns, where)
    others = dataset.remove_columns([image]).with_format("arrow")
    return Companions(schema, image, others[:])


def _where(files: Sequence[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


@contextmanager
def _opened_parquet(files: Sequence[Path], where: str) -> Iterator[list[Any]]:
    parquet, arrow = load_extra("pyarrow.parquet"), load_extra("pyarrow")
    try:
        opened = [parquet.ParquetFile(file, page_checksum_verification=True) for file in files]
        for each in opened:
            check_names(each.schema_arrow.names, where)
        yield opened
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            expected=f"parquet files with the same columns in {where}",
            got=str(error),
            hint="writing the files again",
        ) from error


def check_names(names: Sequence[str], where: str) -> None:
    """Raise InputError for a column whose name is that of another column, because one of them would be lost."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(
            expected=f"every column once in {where}", got=f"{twice[0]!r} twice", hint="another name for one of them"
        )


def read_columns(file: Any, path: Path, names: list[str]) -> Any:
    """Read some columns of an opened parquet file, as an Arrow table.

    Raises:
        InputError: the columns would fill the memory, for example because one stored value repeats in millions of rows.
    """
    arrow = load_extra("pyarrow")
    limit, size, batches = max(MEMORY_LIMIT, MAX_PACKING * path.stat().st_size), 0, []
    for batch in file.iter_batches(batch_size=1024, columns=names):
        size += batch.nbytes
        if size > limit:
            raise too_packed(path, size)
        batches.append(batch)
    if (found := sum(map(len, batches))) != file.metadata.num_rows:  # the number of rows in a page has no checksum
        raise InputError(expected=f"{file.metadata.num_rows} rows in {path}", got=str(found), hint="an intact copy")
    if not batches:
        fields = [file.schema_arrow.field(name) for name in names]
        return arrow.schema(fields, metadata=file.schema_arrow.metadata).empty_table()
    return arrow.Table.from_batches(batches).select(names)


def open_hub(repository: str) -> OpenSplits:
    """Open the splits of a Hugging Face data set, and download them if they are not in the cache of ``datasets``.

    Raises:
        InputError: there is no such data set, or no connection.
    """
    datasets, hub = load_extra("datasets"), load_extra("huggingface_hub")
    try:
        if not hub.constants.HF_HUB_OFFLINE:
            # If there is no connection, this request fails at once; load_dataset would retry for half a minute.
            hub.HfApi().dataset_info(repository, timeout=30)
        splits = datasets.load_dataset(repository)
    except Exception as error:  # connection, authorization and format raise different kinds of errors
        raise InputError(
            expected=f"a file or folder, or the reachable Hugging Face data set {repository!r}",
            got=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no details'}",
            hint="--data PATH, setting the environment variable ARADALS_DATA to the folder that contains the data, "
            "or setting HF_HUB_OFFLINE=1 if the data was downloaded before",
        ) from error
    caches = (Path(datasets.config.HF_DATASETS_CACHE), Path(hub.constants.HF_HUB_CACHE))
    return {
        split_name(str(split)): Split(
            partial(_dataset_rows, dataset, where=repository, folders=((len(dataset), caches),)),
            partial(_dataset_column, dataset, repository),
            partial(_dataset_companions, dataset, repository),
        )
        for split, dataset in splits.items()
    }


def choose_columns(schema: Any, columns: Columns, where: str) -> tuple[str, str, tuple[str, ...] | None]:
    """Choose the image and the label column of an Arrow schema by their types, then by their usual names.

    Returns:
        Name of the image column, name of the label column, names of the classes or None.

    Raises:
        InputError: there is no such column, or several columns are possible.
    """
    types = load_extra("pyarrow").types
    features = _features(schema, where)

    def kind(field: Any) -> str:
        feature = features.get(field.name, {})
        declared = feature.get("_type") if isinstance(feature, dict) else "Sequence"
        if declared in ("Image", "ClassLabel"):
            return str(declared)
        if declared not in (None, "Value"):
            return "other"  # audio, for example, is stored like images
        if types.is_binary(field.type) or types.is_large_binary(field.type):
            return "Image"
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return "Image"
        return "integer" if types.is_integer(field.type) else "other"

    kinds = {field.name: kind(field) for field in schema}
    images = [name for name in kinds if kinds[name] == "Image"]
    integers = [name for name in kinds if kinds[name] in ("ClassLabel", "integer")]
    class_labels = [name for name in integers if kinds[name] == "ClassLabel"]
    image = _choose("image", images, images, columns.image, _USUAL_IMAGES, where, list(kinds))
    label = _choose("label", class_labels or integers, integers, columns.label, _USUAL_LABELS, where, list(kinds))
    names = features[label].get("names") if kinds[label] == "ClassLabel" else None
    if not isinstance(names, list | None) or not all(type(name) in (str, int, float) for name in names or []):
        raise _bad_metadata(where, f"the names of the classes of column {label!r} as a list of text", names)
    return image, label, tuple(map(str, names)) if names else None


def _features(schema: Any, where: str) -> dict[str, Any]:
    """Read the column features that Hugging Face ``datasets`` has written: name -> kind and settings; may be empty."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _bad_metadata(where, "JSON", text) from error
    for key in ("info", "features"):
        found = found.get(key) or {} if isinstance(found, dict) else found
    if not isinstance(found, dict):
        raise _bad_metadata(where, "columns and their features", found)
    return found


def _bad_metadata(where: str, expected: str, got: object) -> InputError:
    return InputError(
        expected=f"{expected}, in the metadata 'huggingface' of {where}",
        got=f"{got!r:.100}",
        hint="writing the table again",
    )


def _choose(
    what: str,
    preferred: list[str],
    possible: list[str],
    given: str | None,
    usual: Sequence[str],
    where: str,
    names: list[str],
) -> str:
    if given is not None:
        if given in possible:
            return given
        raise InputError(
            expected=f"--{what}-column to name a column of {'images' if what == 'image' else 'integers'} in {where}",
            got=repr(given) + ("" if given in names else f", which is not one of the columns {', '.join(names)}"),
            hint=" or ".join(possible) or _NEEDED[what],
        )
    by_name = [name for name in usual if name in preferred]
    if len(preferred) == 1:
        return preferred[0]
    if by_name:
        return by_name[0]
    raise InputError(
        expected=f"one column of {'images' if what == 'image' else 'integer labels'} in {where}",
        got=", ".join(preferred) if preferred else f"no such column among {', '.join(names)}",
        hint=f"--{what}-column NAME" if possible else _NEEDED[what],
    )


def _dataset_rows(
    dataset: Any, columns: Columns, where: str, folders: tuple[tuple[int, tuple[Path, ...]], ...]
) -> Rows:
    image, label, class_names = choose_columns(dataset.features.arrow_schema, columns, where)
    encoded = load_extra("datasets").Image(decode=False)
    images = dataset.select_columns([image]).cast_column(image, encoded)
    labels = _labels(dataset.data.column(label), label, where)
    return Rows(DatasetImages(images, image, folders), labels, class_names, label)


def _dataset_column(dataset: Any, where: str, column: str) -> npt.NDArray[Any]:
    _check_column(dataset.features.arrow_schema, column, where)
    return _values(dataset.data.column(column), column, where)


def _labels(column: Any, name: str, where: str) -> npt.NDArray[np.int64]:
    return np.asarray(_values(column, name, where), dtype=np.int64)


def _check_column(schema: Any, column: str, where: str) -> None:
    """Raise InputError unless ``column`` is one of single values: numbers, booleans, strings or categories."""
    types = load_extra("pyarrow").types
    kinds: tuple[Callable[[Any], bool], ...] = (
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_string,
        types.is_large_string,
        types.is_dictionary,
    )
    columns = [field.name for field in schema if any(is_kind(field.type) for is_kind in kinds)]
    if column not in columns:
        raise no_such_column(column, where, columns)


def _values(column: Any, name: str, where: str) -> npt.NDArray[Any]:
    """Convert an Arrow column without missing values to a numpy array; text becomes an array of strings."""
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise InputError(
            expected=f"a value in every row of column {name} of {where}",
            got=f"no value in row {row}",
            hint="removing rows without a value",
        )
    types = load_extra("pyarrow").types
    if types.is_integer(column.type) or types.is_floating(column.type):
        return np.asarray(column.to_numpy())
    values = column.to_pylist()
    longest = max((len(value) for value in values if isinstance(value, str)), default=0)
    if 4 * longest * len(values) > MEMORY_LIMIT:  # in an array of strings, every string takes the space of the longest
        raise InputError(
            expected=f"short text in column {name} of {where}",
            got=f"{longest:,} characters in one row, and {len(values):,} rows",
            hint="another column",
        )
    return np.array(values)


def _encoded(cell: Any, folders: tuple[Path, ...]) -> EncodedImage:
    """Return the bytes or the path of an image; a table stores one of them, or both as a pair."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    return NamedImage(cell, folders) if isinstance(cell, str) else cell if isinstance(cell, bytes) else None


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    datasets = load_extra("datasets")
    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()
