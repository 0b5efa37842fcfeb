"""Arrays: ``.npz``, ``.npy``, files of torch, and the published files of CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import TensorDataset

from aradals.data.formats import (
    USUAL_INPUTS,
    USUAL_LABELS,
    Columns,
    OpenSplits,
    Rows,
    Split,
    check_unpacked,
    choose_column,
    contiguous_images,
    is_split,
    no_columns,
    no_such_column,
    refuse_columns,
    split_name,
)
from aradals.errors import InputError

Arrays = Mapping[str, npt.NDArray[Any]]
"""Arrays by name; each is read when it is needed."""

OpenArrays = Callable[[], AbstractContextManager[Arrays]]

_ARRAY_KINDS = {**dict.fromkeys(USUAL_INPUTS, "image"), **dict.fromkeys(USUAL_LABELS, "label")}


def open_npz(files: Sequence[Path], split: str) -> OpenSplits:
    """Open the splits of an ``.npz`` of arrays, see `open_arrays`."""
    return open_arrays(partial(_npz, _only(files)), str(files[0]), split)


def open_npy(files: Sequence[Path], split: str) -> OpenSplits:
    """Open the splits of ``.npy`` files with names such as ``X.npy, y.npy`` or ``x_train.npy, y_train.npy``.

    A file of inputs finds the labels with the same split in its folder.
    """
    folder, roles = files[0].parent, [_role(file.stem) for file in files]
    splits = {role[0] for role in roles if role}
    beside = [file for file in sorted(folder.glob("*.npy")) if (role := _role(file.stem)) and role[0] in splits]
    return open_arrays(partial(_npy, dict.fromkeys([*files, *beside])), str(folder), split)


def open_array_folder(folder: Path) -> OpenSplits | None:
    """Open a folder of ``.npy`` files, see `open_npy`; None for other folders."""
    files = [file for file in sorted(folder.glob("*.npy")) if _role(file.stem)]
    return open_npy(files, "all") if files else None


def open_torch(files: Sequence[Path], split: str) -> OpenSplits:
    """Open a file of ``torch.save`` with a ``TensorDataset``, (inputs, labels), or a mapping of tensors.

    A mapping has names as in `open_arrays`, or it maps splits to any of these. The file runs no code.
    """
    path = _only(files)
    return open_arrays(partial(_torch, path), str(path), split)


def open_arrays(opened: OpenArrays, where: str, split: str) -> OpenSplits:
    """Open the splits of named arrays.

    The names consist of a kind, such as ``x`` or ``labels``, and perhaps a split: ``x_train``, ``train_images``,
    ``y_val``. If no name has a split, ``split`` is the only split. An array ``class_names`` may name the classes.
    """
    with opened() as arrays:
        roles = {name: role for name in arrays if (role := _role(name))}
    found = sorted({place for place, kind in roles.values() if kind == "image"} - {""}, key=_in_usual_order)
    return {
        name or split: Split(partial(_read, opened, where, name), partial(_read_column, opened, where, name))
        for name in found or [""]
    }


def _role(name: str) -> tuple[str, str] | None:
    """Return the split of an array (or "") and its kind; None for other names.

    >>> _role("train_images"), _role("y"), _role("x_extra"), _role("weight_y")
    (('train', 'image'), ('', 'label'), ('extra', 'image'), None)
    """
    if kind := _ARRAY_KINDS.get(name.lower()):
        return "", kind
    first, _, last = name.rpartition("_")
    if is_split(first) and (kind := _ARRAY_KINDS.get(last.lower())):
        return split_name(first), kind
    kind_name, _, place = name.partition("_")
    if place and (kind := _ARRAY_KINDS.get(kind_name.lower())) and (is_split(place) or kind_name.lower() in "xy"):
        return split_name(place), kind
    return None


def _in_usual_order(split: str) -> tuple[int, str]:
    usual = ("train", "validation", "test")
    return (usual.index(split) if split in usual else len(usual)), split


def _read(opened: OpenArrays, where: str, split: str, columns: Columns) -> Rows:
    """Read the arrays of one split."""
    with opened() as arrays:
        roles, columns = {name: _role(name) for name in arrays}, columns.known_in(arrays)
        inputs = _choose("image", split, roles, columns.image, where)
        values = contiguous_images(arrays[inputs], where)
        has_labels = columns.label or (split, "label") in roles.values()
        label = _choose("label", split, roles, columns.label, where) if has_labels else "labels"
        labels = arrays[label] if has_labels else None
        names = tuple(map(str, arrays["class_names"])) if "class_names" in arrays else None
    if labels is not None and labels.shape[:1] != values.shape[:1]:
        raise InputError(
            expected=f"one label for each input in {where}",
            got=f"inputs of shape {values.shape}, labels of shape {labels.shape}",
            hint="arrays of the same length",
        )
    return Rows(values, labels, names, columns.label or _without_split(label, split))


def _choose(what: str, split: str, roles: Mapping[str, tuple[str, str] | None], given: str | None, where: str) -> str:
    """Choose the array of a split, by its kind and its usual name."""
    usual = {name: _without_split(name, split).lower() for name, role in roles.items() if role == (split, what)}
    if given is None and usual:
        order = USUAL_INPUTS if what == "image" else USUAL_LABELS
        return min(usual, key=lambda name: order.index(usual[name]))
    return choose_column(what, [], list(roles), given, where, list(roles), needed="arrays such as inputs and labels")


def _without_split(name: str, split: str) -> str:
    """Return an array's name without its split, which is at the start or at the end."""
    first, _, rest = name.partition("_")
    start, _, last = name.rpartition("_")
    if split and split_name(first) == split:
        return rest
    return start if split and split_name(last) == split else name


def _read_column(opened: OpenArrays, where: str, split: str, column: str) -> npt.NDArray[Any]:
    """Read a 1-D array as long as the inputs, named ``column``, or with the split before or after: ``column_train``."""
    with opened() as arrays:
        roles = {name: _role(name) for name in arrays}
        length = (
            len(arrays[_choose("image", split, roles, None, where)]) if (split, "image") in roles.values() else None
        )

        def is_column(name: str) -> bool:
            values = arrays[name]
            is_single = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
            return is_single and len(values) == (len(values) if length is None else length)

        for name in arrays:
            if column in (name, _without_split(name, split)) and is_column(name):
                return arrays[name].reshape(-1)
        raise no_such_column(column, where, [name for name in arrays if is_column(name)])


def _only(files: Sequence[Path]) -> Path:
    if len(files) > 1:
        raise InputError(
            expected="one file of arrays for each split", got=", ".join(map(str, files)), hint=f"--data {files[0]}"
        )
    return files[0]


# Files


NPZ_ERRORS = (ValueError, EOFError, OSError, TypeError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Errors of reading an ``.npz`` that is damaged or that another program has made."""


@contextmanager
def _npz(path: Path) -> Iterator[Arrays]:
    with _readable(path, "an .npz file of numeric arrays"):
        check_npz(path)
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays


@contextmanager
def _npy(files: Iterable[Path]) -> Iterator[Arrays]:
    arrays = {}
    for file in files:
        with _readable(file, "an .npy file of a numeric array"):
            arrays[file.stem] = np.load(file, mmap_mode="r", allow_pickle=False)
    yield arrays


@contextmanager
def _torch(path: Path) -> Iterator[Arrays]:
    if zipfile.is_zipfile(path):
        with _readable(path, "a file of tensors"), zipfile.ZipFile(path) as file:
            check_unpacked(path, sum(entry.file_size for entry in file.infolist()), path.stat().st_size)
    try:
        with torch.serialization.safe_globals([TensorDataset]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        raise InputError(
            expected=f"a file of tensors in {path}",
            got=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}",
            hint='torch.save({"inputs": inputs, "labels": labels}, path)',
        ) from error
    arrays = dict(_named_tensors(content, ""))
    if not arrays:
        raise InputError(
            expected=f"a TensorDataset, (inputs, labels) or a mapping of tensors in {path}",
            got=type(content).__name__,
            hint='torch.save({"inputs": inputs, "labels": labels}, path)',
        )
    yield arrays


def _named_tensors(content: object, split: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Name the tensors in a file as `open_arrays` expects; a split may contain another mapping or pair."""
    if isinstance(content, TensorDataset):
        content = tuple(content.tensors)
    if isinstance(content, tuple | list) and 1 <= len(content) <= 2:
        content = dict(zip(("x", "y"), content, strict=False))
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            values = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
            yield f"{split}_{name}" if split else str(name), values.numpy()
        elif not split and isinstance(name, str):
            if name in ("class_names", "classes") and isinstance(value, list | tuple):
                yield "class_names", np.array(list(map(str, value)))
            else:
                yield from _named_tensors(value, name)


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except NPZ_ERRORS as error:
        raise InputError(
            expected=f"{kind} in {path}",
            got=str(error) or type(error).__name__,
            hint="writing the file with numpy.savez(path, inputs=..., labels=...)",
        ) from error


def check_npz(path: Path) -> None:
    """Refuse an ``.npz`` that would fill the memory: a small file that unpacks to more than 2 GiB.

    Raises:
        InputError: see `aradals.data.formats.check_unpacked`.
        ValueError: a member of the file is not an array; numpy would return its bytes.
        Exception: another one of `NPZ_ERRORS`, for a file that is not a zip file, or is damaged.
    """
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            with file.open(entry) as member:
                if member.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                    raise ValueError(f"{entry.filename!r}, which is not an array")
        check_unpacked(path, sum(entry.file_size for entry in file.infolist()), path.stat().st_size)


# CIFAR as its authors publish it


def open_cifar(folder: Path) -> OpenSplits | None:
    """Open the batches for Python or the binary batches of CIFAR-10 and CIFAR-100; None for other folders."""
    for inside in (folder, *(path for path in sorted(folder.glob("cifar-*")) if path.is_dir())):
        for suffix in ("", ".bin"):
            ten = [inside / f"data_batch_{number}{suffix}" for number in range(1, 6)]
            for train, test in ((ten, f"test_batch{suffix}"), ([inside / f"train{suffix}"], f"test{suffix}")):
                if all(path.is_file() for path in (*train, inside / test)):
                    read = _read_binary if suffix else _read_pickles
                    files = {"train": train, "test": [inside / test]}
                    return {
                        split: Split(partial(read, parts), partial(no_columns, str(inside)))
                        for split, parts in files.items()
                    }
    return None


def _read_pickles(files: Sequence[Path], columns: Columns) -> Rows:
    refuse_columns(columns, str(files[0].parent))
    batches = [_unpickled(file) for file in files]
    label = "fine_labels" if "fine_labels" in batches[0] else "labels"
    try:
        pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([np.asarray(batch[label]) for batch in batches])
    except (KeyError, ValueError, TypeError) as error:
        raise _no_cifar(files[0], error) from error
    meta = next((path for name in ("batches.meta", "meta") if (path := files[0].parent / name).is_file()), None)
    names = _unpickled(meta) if meta else {}
    found = names.get("fine_label_names", names.get("label_names"))
    return Rows(pixels, labels, tuple(map(_text, found)) if isinstance(found, list) else None, label)


def _read_binary(files: Sequence[Path], columns: Columns) -> Rows:
    refuse_columns(columns, str(files[0].parent))
    folder = files[0].parent
    is_hundred = len(files) == 1 and files[0].name in ("train.bin", "test.bin")
    row = (2 if is_hundred else 1) + 3072  # CIFAR-100 has a coarse label before the fine one
    values = np.concatenate([np.fromfile(file, np.uint8) for file in files])
    if not len(values) or len(values) % row:
        raise _no_cifar(files[0], f"{len(values)} bytes, which are not rows of {row}")
    values = values.reshape(-1, row)
    names = folder / ("fine_label_names.txt" if is_hundred else "batches.meta.txt")
    words = tuple(names.read_text(encoding="utf-8").split()) if names.is_file() else None
    return Rows(np.ascontiguousarray(values[:, -3072:]).reshape(-1, 3, 32, 32), values[:, -3073], words)


def _unpickled(file: Path) -> dict[str, Any]:
    """Read a pickle that contains nothing but arrays, text and numbers; anything else is refused before it runs."""
    try:
        content = _ArraysAlone(io.BytesIO(file.read_bytes()), encoding="latin1").load()
        return {_text(name): value for name, value in content.items()}
    except Exception as error:  # a damaged pickle raises almost anything
        raise _no_cifar(file, error) from error


def _text(word: object) -> str:
    return word.decode("latin1") if isinstance(word, bytes) else str(word)


class _ArraysAlone(pickle.Unpickler):
    """Reader of pickles that knows the three names of which NumPy makes arrays, and no other code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if module.endswith("core.multiarray") and module.startswith("numpy.") and name == "_reconstruct":
            return np.ndarray.__reduce__(np.empty(0))[0]  # the function of this version of NumPy
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        raise pickle.UnpicklingError(f"{module}.{name}, and no code from a file is run")


def _no_cifar(file: Path, problem: object) -> InputError:
    return InputError(
        expected=f"the published layout of CIFAR-10 or CIFAR-100 in {file}",
        got=str(problem) or type(problem).__name__,
        hint="downloading the archive again",
    )
