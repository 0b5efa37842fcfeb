"""Files of tables: parquet, CSV, and data sets of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aradals._internal.optional import load_extra
from aradals.data.folders import list_images
from aradals.data.formats import OpenSplits, check_unpacked, is_split, split_name
from aradals.data.images import MEMORY_LIMIT, EncodedImage, NamedImage
from aradals.data.tables import ImageFiles, Table, columns_of_files, split_column
from aradals.errors import InputError

Folders = tuple[tuple[int, tuple[Path, ...]], ...]
"""Folders that may contain the files that the rows of a table name: (the first row after a part, its folders)."""


@dataclass(frozen=True)
class DatasetImages(Sequence[EncodedImage]):
    """Encoded images of a Hugging Face ``Dataset``, which stay on disk until they are needed.

    Attributes:
        dataset: a data set with a column of encoded images.
        column: name of this column.
        folders: folders that may contain the files that the rows name.
    """

    dataset: Any
    column: str
    folders: Folders

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: Any) -> Any:
        folders = next(folders for end, folders in self.folders if row < end)
        return _encoded(self.dataset[int(row)][self.column], folders)


def open_parquet(files: Sequence[Path], split: str) -> OpenSplits:
    """Open one split of parquet files, in this order."""
    return _by_column(parquet_table(files), split)


def open_csv(files: Sequence[Path], split: str) -> OpenSplits:
    """Open one split of a CSV file, whose first line names the columns, or of a file with a JSON object in each line.

    Commas, semicolons or tabs separate the columns of a CSV file.
    """
    return _by_column(_csv_table(files), split)


def open_saved(folder: Path) -> OpenSplits | None:
    """Open a folder that ``save_to_disk`` of Hugging Face datasets has written; None for other folders."""
    if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    datasets = load_extra("datasets")
    try:
        with _without_progress_bars():
            found = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged folder raises many kinds of errors
        raise InputError(
            expected=f"a data set that save_to_disk has written in {folder}",
            got=f"{type(error).__name__}: {error}",
            hint="writing the data set again",
        ) from error
    splits = found if isinstance(found, datasets.DatasetDict) else {"all": found}
    return _dataset_splits(splits, str(folder), (folder.resolve(),))


def open_labeled_images(folder: Path) -> OpenSplits | None:
    """Open images whose labels are in CSV files of the same folder; None if no CSV file names images of the folder.

    Raises:
        InputError: several CSV files of one split name images.
    """
    files = [file for suffix in ("csv", "tsv", "jsonl") for file in sorted(folder.glob(f"*.{suffix}"))]
    found: dict[str, list[Path]] = {}
    for file in files if files and list_images(folder) else []:
        with suppress(InputError):  # a file that is not about the images may be of any kind
            if columns_of_files(_csv_table([file])):
                found.setdefault(split_name(file.stem) if is_split(file.stem) else "all", []).append(file)
    if several := next((each for each in found.values() if len(each) > 1), None):
        raise InputError(
            expected=f"one CSV file that names the images of {folder}",
            got=", ".join(file.name for file in several),
            hint=f"--data {several[0]}",
        )
    splits = [open_csv(each, split) for split, each in found.items()]
    return {name: split for part in splits for name, split in part.items()} or None


def parquet_table(files: Sequence[Path], *, memory_limit: int = MEMORY_LIMIT) -> Table:
    """Open parquet files as one table.

    Images in files of more than ``memory_limit`` bytes are converted once to the cache of Hugging Face ``datasets``,
    which can read single rows.

    Raises:
        InputError: the files are not parquet.
    """
    where = _where(files)

    def read(names: list[str]) -> Any:
        with _opened_parquet(files, where) as opened:
            tables = [read_columns(*each, names) for each in zip(opened, files, strict=True)]
            return load_extra("pyarrow").concat_tables(tables)

    def images(name: str) -> Sequence[EncodedImage]:
        with _opened_parquet(files, where) as opened:
            sizes = [file.metadata.row_group(i).total_byte_size for file in opened for i in range(file.num_row_groups)]
            if sum(sizes) > memory_limit:
                ends = np.cumsum([file.metadata.num_rows for file in opened]).tolist()
                folders = tuple(zip(ends, map(_folders, files), strict=True))
                return _dataset_images(_dataset(files, where), folders, name)
            tables = [read_columns(*each, [name]) for each in zip(opened, files, strict=True)]
        return [
            _encoded(cell, _folders(file))
            for file, table in zip(files, tables, strict=True)
            for chunk in table[name].chunks
            for cell in chunk.to_pylist()
        ]

    with _opened_parquet(files, where) as opened:
        schema = opened[0].schema_arrow
    return Table(where, schema, read, images, ImageFiles(files[0].parent))


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


def _csv_table(files: Sequence[Path]) -> Table:
    """Read CSV files as one table."""
    tables = [_read_csv(file) for file in files]
    content = load_extra("pyarrow").concat_tables(tables, promote_options="permissive")
    return Table(
        where=_where(files),
        schema=content.schema,
        read=content.select,
        images=lambda name: content[name].to_pylist(),
        files=ImageFiles(files[0].parent),
        is_datasets=False,
    )


def _read_csv(file: Path) -> Any:
    arrow = load_extra("pyarrow")
    try:
        if file.suffix == ".jsonl":
            return load_extra("pyarrow.json").read_json(file)
        with file.open(encoding="utf-8-sig") as stream:
            header = stream.readline()
        delimiter = max(",;\t", key=header.count)
        table = read_csv(file, delimiter)
    except InputError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InputError(
            expected=f"a CSV file with names of columns in its first line, or JSON in each line, in {file}",
            got=str(error),
            hint="writing the file again, in UTF-8",
        ) from error
    names = table.schema.names
    if all(map(_is_decimal, names)) and names != list(map(str, range(len(names)))):
        raise InputError(
            expected=f"names of columns in the first line of {file}",
            got=", ".join(names[:5]),
            hint="a first line such as " + ",".join([*(f"x{n}" for n in range(1, len(names))), "label"])[:60],
        )
    if len(set(names)) < len(names):
        raise InputError(
            expected=f"columns with different names in {file}", got=", ".join(names[:20]), hint="other names"
        )
    return table


def _is_decimal(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _by_column(table: Table, split: str) -> OpenSplits:
    """Divide a table by its column ``split``, if every value in it names a split."""
    column = split_column(table) if split == "all" else None
    if column is None:
        return {split: table.split()}
    places = np.array([split_name(value) for value in table.column(column).tolist()])
    return {name: table.of_rows(np.flatnonzero(places == name)).split() for name in dict.fromkeys(places.tolist())}


def _folders(file: Path) -> tuple[Path, ...]:
    """Return the folders that may contain the image files that a table names."""
    return (file.parent.resolve(),)


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


def read_csv(path: Path, delimiter: str) -> Any:
    """Read a CSV file as an Arrow table.

    Raises:
        InputError: text is not in UTF-8; Arrow would return it as bytes.
    """
    csv, arrow = load_extra("pyarrow.csv"), load_extra("pyarrow")
    missing = [*csv.ConvertOptions().null_values, "?", " ?"]  # tables of the UCI repository have question marks

    def read(decimal_point: str) -> Any:
        options = csv.ConvertOptions(null_values=missing, decimal_point=decimal_point)
        return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter), convert_options=options)

    def num_texts(table: Any) -> int:
        return sum(map(arrow.types.is_string, table.schema.types))

    table = min(map(read, "." if delimiter == "," else ".,"), key=num_texts)
    if columns := [field.name for field in table.schema if arrow.types.is_binary(field.type)]:
        raise InputError(
            expected=f"text in UTF-8 in {path}",
            got=f"bytes of another encoding in the column {columns[0]!r}",
            hint="saving the file in UTF-8",
        )
    return table


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
    packed, size, batches = path.stat().st_size, 0, []
    for batch in file.iter_batches(batch_size=1024, columns=names):
        size += batch.nbytes
        check_unpacked(path, size, packed)
        batches.append(batch)
    if (found := sum(map(len, batches))) != file.metadata.num_rows:  # the number of rows in a page has no checksum
        raise InputError(expected=f"{file.metadata.num_rows} rows in {path}", got=str(found), hint="an intact copy")
    if not batches:
        fields = [file.schema_arrow.field(name) for name in names]
        return arrow.schema(fields, metadata=file.schema_arrow.metadata).empty_table()
    return arrow.Table.from_batches(batches).select(names)


def open_hub(repository: str, *, otherwise: str = "--data PATH") -> OpenSplits:
    """Open the splits of a Hugging Face data set, and download them if they are not in the cache of ``datasets``.

    Args:
        repository: id of the data set.
        otherwise: another way to get the data, for the hint of the error.

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
            hint=f"{otherwise}; or setting the environment variable ARADALS_DATA to the folder that contains the data; "
            "or setting HF_HUB_OFFLINE=1 if the data was downloaded before",
        ) from error
    caches = (Path(datasets.config.HF_DATASETS_CACHE), Path(hub.constants.HF_HUB_CACHE))
    return _dataset_splits(splits, repository, caches)


def _dataset_splits(splits: Any, where: str, folders: tuple[Path, ...]) -> OpenSplits:
    return {
        split_name(str(split)): Table(
            where=where,
            schema=dataset.features.arrow_schema,
            read=partial(_read_dataset, dataset),
            images=partial(_dataset_images, dataset, ((len(dataset), folders),)),
            files=None,
        ).split()
        for split, dataset in splits.items()
    }


def _read_dataset(dataset: Any, names: list[str]) -> Any:
    return dataset.select_columns(names).with_format("arrow")[:]


def _dataset_images(dataset: Any, folders: Folders, name: str) -> DatasetImages:
    encoded = load_extra("datasets").Image(decode=False)
    return DatasetImages(dataset.select_columns([name]).cast_column(name, encoded), name, folders)


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
