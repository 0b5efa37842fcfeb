"""Data from code of the user: ``file.py:callable`` or ``package.module:callable``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy.typing as npt

from aradals._internal.specs import imported
from aradals.data.convert import gather
from aradals.data.formats import Columns, OpenSplits, Rows, Split, no_columns, refuse_columns
from aradals.errors import InputError


def open_user_data(spec: str) -> OpenSplits:
    """Open what a callable returns: data as for `aradals.data.as_examples`, or a mapping of splits to such data.

    A callable with a parameter ``split`` is called with "train", "validation" or "test" when this split is needed.

    Raises:
        InputError: there is no such code, or it raises an error.
    """
    with imported(spec, "return data") as target:
        if not callable(target):
            raise InputError(expected=f"a function in {spec}", got=type(target).__name__, hint="def data(): ...")
        if "split" in inspect.signature(target).parameters:
            names = ("train", "validation", "test")
            return {name: Split(partial(_read_split, spec, name), partial(no_columns, spec)) for name in names}
        content = target()
    splits = content if isinstance(content, Mapping) and not _is_batch(content) else {"all": content}
    return {str(name): Split(partial(_read, spec, data), partial(no_columns, spec)) for name, data in splits.items()}


def _is_batch(content: Mapping[Any, Any]) -> bool:
    return not {"train", "test", "validation", "val"} & content.keys()


def _read_split(spec: str, split: str, columns: Columns) -> Rows:
    with imported(spec, "return data") as target:
        assert callable(target)
        return _read(spec, target(split=split), columns)


def _read(spec: str, data: Any, columns: Columns) -> Rows:
    refuse_columns(columns, spec)
    gathered = gather(data)
    inputs: npt.NDArray[Any] = gathered.inputs.numpy()
    labels = None if gathered.labels is None else gathered.labels
    return Rows(inputs, labels, gathered.class_names, notes=gathered.notes)
