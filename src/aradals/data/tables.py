"""Tables of images, of names of image files, or of numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from aradals._internal.optional import load_extra
from aradals.data.folders import list_images
from aradals.data.formats import (
    USUAL_LABELS,
    Columns,
    Companions,
    Rows,
    Split,
    choose_column,
    is_split,
    no_such_column,
)
from aradals.data.images import MEMORY_LIMIT, EncodedImage, NamedImage, SelectedImages
from aradals.errors import InputError

_NEEDED = {
    "image": "data with a column of images, of names of image files in the folder of the table or below, or with "
    "columns of numbers",
    "label": "data that has a column of class indices or of class names",
}
_LABEL_KINDS = ("ClassLabel", "integer", "text")
_NUMBERS_OF_ROWS = ("index", "row", "unnamed: 0", "")
"""Names of columns that number the rows; they are no features."""

_MANY_ROWS = 100
"""Number of rows from which on measurements in whole numbers hardly ever all differ."""

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


class ImageFiles:
    """The image files below a folder, which a column of a table may name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """Map each path, each file name and each name without suffix to the only path that it can mean."""
        paths = [path.as_posix() for path in list_images(self.folder, links=False)]
        names: dict[str, list[str]] = {}
        for path in paths:
            for name in {PurePath(path).name, PurePath(path).stem}:
                names.setdefault(name, []).append(path)
        return {**{name: found[0] for name, found in names.items() if len(found) == 1}, **{p: p for p in paths}}

    @property
    def are_there(self) -> bool:
        """True if there are image files."""
        return bool(self._by_name)

    def find(self, name: str) -> NamedImage | None:
        """Find the file that a cell names by its path, or by the end of its path; None if there is none."""
        parts = PurePath(name.strip().replace("\\", "/")).parts
        for start in range(len(parts)):
            if path := self._by_name.get("/".join(parts[start:])):
                return NamedImage(path, (self.folder.resolve(),))
        return None


@dataclass(frozen=True)
class Table:
    """A table, whose columns are read when they are needed.

    Attributes:
        where: name for errors.
        schema: Arrow schema.
        read: reads some columns as an Arrow table.
        images: reads a column of encoded images.
        files: the image files that a column of text may name.
        is_datasets: True if the Hugging Face library, which obeys orientation tags, reads such tables, too.
    """

    where: str
    schema: Any
    read: Callable[[list[str]], Any]
    images: Callable[[str], Sequence[EncodedImage]]
    files: ImageFiles | None
    is_datasets: bool = True

    def split(self) -> Split:
        """Make the readers of this table as one split."""
        return Split(partial(read_rows, self), self.column, partial(_companions, self))

    def column(self, name: str) -> npt.NDArray[Any]:
        """Read a column of single values."""
        _check_column(self.schema, name, self.where)
        return _values(self.read([name])[name], name, self.where)

    def of_rows(self, rows: npt.NDArray[np.int64]) -> Table:
        """Select some rows."""
        return replace(
            self,
            read=lambda names: self.read(names).take(rows),
            images=lambda name: SelectedImages(self.images(name), rows),
        )


def read_rows(table: Table, columns: Columns) -> Rows:
    """Read the inputs and the labels of a table.

    Inputs are images, image files that a column names, or all columns of numbers.

    Raises:
        InputError: the columns of the inputs, or a named column of labels, are not clear.
    """
    kinds, columns = _kinds(table), columns.known_in(table.schema.names)
    image = _choose_image(table, kinds, columns)
    label, unlabeled = _choose_label(table, kinds, columns, image)
    labels = None if label is None else table.column(label)
    rows = Rows(
        inputs=[],
        labels=labels,
        class_names=_class_names(table, label, kinds),
        label_column=label or "labels",
        upright=table.is_datasets,
        unlabeled=unlabeled,
        notes=() if label is None or table.is_datasets else (f"labels are in the column {label!r} of {table.where}",),
    )
    if image is None:
        return _with_features(table, kinds, rows)
    named = kinds[image] == "text"
    return replace(rows, inputs=_named_images(table, image) if named else table.images(image))


def _kinds(table: Table) -> dict[str, str]:
    """Find the kind of each column: Image, ClassLabel, integer, float, text or other."""
    types, features = load_extra("pyarrow").types, _features(table.schema, table.where)

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
        if types.is_integer(field.type) or types.is_boolean(field.type):
            return "integer"
        if types.is_floating(field.type):
            return "float"
        is_text = types.is_string(field.type) or types.is_large_string(field.type) or types.is_dictionary(field.type)
        return "text" if is_text else "other"

    return {field.name: kind(field) for field in table.schema}


def _choose_image(table: Table, kinds: dict[str, str], columns: Columns) -> str | None:
    """Choose the column of images or of their names; None for a table whose inputs are numbers."""
    images = _of_kinds(kinds, "Image")
    files = [] if images else columns_of_files(table)
    if not images and not files and columns.image is None and _of_kinds(kinds, "integer", "float", "ClassLabel"):
        return None
    texts = _of_kinds(kinds, "text") if not images and table.files and table.files.are_there else []
    return choose_column(
        "image", images or files, images + texts, columns.image, table.where, list(kinds), needed=_NEEDED["image"]
    )


def _choose_label(
    table: Table, kinds: dict[str, str], columns: Columns, image: str | None
) -> tuple[str | None, InputError | None]:
    """Choose the column of labels; if it is not clear and no column is named, return the error instead."""
    named = [name for name in _of_kinds(kinds, "float") if name == columns.label or name.lower() in USUAL_LABELS]
    whole = [name for name in named if _is_whole(table.column(name))]
    possible = [name for name in kinds if name != image and (kinds[name] in _LABEL_KINDS or name in whole)]
    usual = [name for name in possible if name.lower() in USUAL_LABELS]
    integers = _of_kinds(kinds, "integer") if image else []
    texts = [] if image and len(kinds) > 2 else _texts_of_classes(table, kinds, image)  # beside images may be any text
    preferred = _of_kinds(kinds, "ClassLabel") or usual or integers or texts
    try:
        name = choose_column(
            "label", preferred, possible, columns.label, table.where, list(kinds), needed=_NEEDED["label"]
        )
    except InputError as error:
        if columns.label is not None:
            raise
        return None, error
    return name, None


def _texts_of_classes(table: Table, kinds: dict[str, str], image: str | None) -> list[str]:
    """List the columns of text that may name classes: no splits, and no text that is another one in each row.

    In a small table, a single column is taken as it is, because every row can be of another class.
    """
    others = (image, split_column(table))
    texts = [name for name in _of_kinds(kinds, "text") if name not in others]
    least = 2 if len(texts) > 1 else _MANY_ROWS
    return [name for name in texts if not _is_different_in_all_rows(table.read([name])[name], least)]


def split_column(table: Table) -> str | None:
    """Find the column ``split``, if every value in it names a split."""
    name = next((name for name in table.schema.names if name.lower() == "split"), None)
    if name is None or not load_extra("pyarrow").types.is_string(table.schema.field(name).type):
        return None
    values = set(table.read([name])[name].unique().to_pylist())
    return name if values and all(value is not None and is_split(value) for value in values) else None


def _is_whole(values: npt.NDArray[Any]) -> bool:
    return bool((values == np.rint(values)).all())


def _of_kinds(kinds: dict[str, str], *wanted: str) -> list[str]:
    return [name for name, kind in kinds.items() if kind in wanted]


def columns_of_files(table: Table) -> list[str]:
    """List the columns of text whose first values name image files beside the table."""
    if table.files is None:
        return []
    found = []
    for name in _of_kinds(_kinds(table), "text"):
        values = [value for value in table.read([name])[name][:100].to_pylist() if isinstance(value, str)]
        if values and any(map(table.files.find, values)):
            found.append(name)
    return found


def _named_images(table: Table, column: str) -> list[EncodedImage]:
    """Find the image files that a column names."""
    assert table.files is not None
    names = table.column(column).tolist()
    found = [table.files.find(name) for name in names]
    if missing := [name for name, image in zip(names, found, strict=True) if image is None]:
        raise InputError(
            expected=f"the image files that column {column!r} of {table.where} names, below {table.files.folder}",
            got=f"no file {missing[0]!r}, and {len(missing) - 1} more such rows",
            hint="the missing files, or a table without these rows",
        )
    return list(found)


def _with_features(table: Table, kinds: dict[str, str], rows: Rows) -> Rows:
    """Add the columns of numbers as inputs."""
    numbers = [name for name in _of_kinds(kinds, "integer", "float") if name != rows.label_column]
    features = [name for name in numbers if not _is_identifier(name)]
    if not features:
        raise InputError(expected=f"columns of numbers in {table.where}", got=", ".join(kinds), hint=_NEEDED["image"])
    left_out = [name for name in kinds if name not in features and name != rows.label_column]
    content = table.read(features)
    values = np.stack([_numbers(content[name]) for name in features], axis=1)
    bad = np.flatnonzero(np.isinf(values).any(1))
    if len(bad):
        raise InputError(
            expected=f"finite numbers in {table.where}",
            got=f"an infinite value in row {bad[0]}, and in {len(bad) - 1} more rows",
            hint="removing these rows, or leaving these cells empty",
        )
    different = [name for name in features if kinds[name] == "integer" and _is_different_in_all_rows(content[name])]
    note = f"inputs are {len(features)} columns of numbers of {table.where}"
    without = f"; left out: {', '.join(left_out[:10])}" if left_out else ""
    warning = f"; with another value in each row, as an id has: {', '.join(different[:10])}" if different else ""
    return replace(rows, inputs=values, features=tuple(features), notes=(*rows.notes, note + without + warning))


def _is_different_in_all_rows(column: Any, least: int = _MANY_ROWS) -> bool:
    """Return True for a column of at least ``least`` values that are all different."""
    return len(column) >= least and len(column.unique()) == len(column)


def _is_identifier(name: str) -> bool:
    """Return True for the name of a column that tells rows apart: ``index``, ``customer_id``, ``userId``."""
    return name.lower() in _NUMBERS_OF_ROWS or "id" in map(str.lower, _WORDS.findall(name))


def _numbers(column: Any) -> npt.NDArray[np.float64]:
    """Convert an Arrow column of numbers to float64; missing values become NaN."""
    values: npt.NDArray[np.float64] = column.to_numpy().astype(np.float64)
    return values


def _class_names(table: Table, label: str | None, kinds: dict[str, str]) -> tuple[str, ...] | None:
    if label is None or kinds[label] != "ClassLabel":
        return None
    names = _features(table.schema, table.where)[label].get("names")
    if not isinstance(names, list | None) or not all(type(name) in (str, int, float) for name in names or []):
        raise _bad_metadata(table.where, f"the names of the classes of column {label!r} as a list of text", names)
    return tuple(map(str, names)) if names else None


def _companions(table: Table, columns: Columns) -> Companions | None:
    """Read the columns beside the inputs of a table; None if the table has names of image files."""
    kinds, columns = _kinds(table), columns.known_in(table.schema.names)
    image = _choose_image(table, kinds, columns)
    if image is None:
        return Companions(table.schema, read_rows(table, columns).features, table.read(list(kinds)))
    if kinds[image] == "text":
        return None
    return Companions(table.schema, (image,), table.read([name for name in kinds if name != image]))


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
