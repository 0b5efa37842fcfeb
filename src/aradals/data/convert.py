"""Examples from tensors, arrays, lists and data loaders."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from aradals.data.examples import Examples
from aradals.data.formats import USUAL_INPUTS, USUAL_LABELS
from aradals.data.labels import class_indices
from aradals.errors import InputError

Data = Examples | tuple[Any, Any] | Iterable[Any]
"""Labeled data: `Examples`, (inputs, labels), or a ``DataLoader``, ``Dataset`` or other iterable of batches."""


@dataclass(frozen=True)
class Gathered:
    """Data in memory.

    Attributes:
        inputs: shape (N, ...), uint8 or float.
        labels: labels of any kind, one for each input; None if there are none.
        class_names: names of the classes, if the data set has them in ``classes``, as those of torchvision do.
        notes: sentences about examples that are left out.
    """

    inputs: Tensor
    labels: npt.NDArray[Any] | None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def as_examples(data: Data, *, name: str = "examples", labeled: bool = True) -> Examples:
    """Turn data into `Examples`, whose ids are their positions.

    Data is read once and kept in memory. If the data does not fit in memory, make `Examples` with a reader instead.
    Every example of a data set with a length is read once, in its order, even if a loader shuffles, drops the last
    batch or has several workers. If a loader's sampler chooses examples, each of these is read once, and a warning
    tells how many there are.

    Args:
        data: `Examples`, which stay as they are; (inputs, labels) as tensors, arrays or lists; a ``Dataset``; or a
            ``DataLoader`` or other iterable of batches. A batch is (inputs, labels), or a mapping with usual names such
            as ``pixel_values`` and ``labels``. Inputs are uint8, or float in [0, 1]. Labels are class indices, names or
            one-hot rows.
        name: name of the data in messages and reports.
        labeled: False accepts data without labels, which are then all -1.

    Raises:
        InputError: there are no labels or no examples, labels are of an unknown kind, or inputs are out of range.

    Example:
        >>> len(as_examples((torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 1, 0]))))
        5
    """
    plain = _plain_loader(data)
    if isinstance(plain, Examples):
        if labeled and not plain.is_labeled:
            raise _unlabeled(f"{plain.name} without labels")
        return plain
    found = gather(data)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    if found.labels is None:
        if labeled:
            raise _unlabeled("inputs without labels")
        return Examples(found.inputs, None, num_classes=1, name=name)
    labels, names = class_indices(found.labels, name)
    names = names or found.class_names
    return Examples(
        found.inputs,
        torch.from_numpy(labels),
        num_classes=len(names) if names else max(int(labels.max(initial=0)) + 1, 1),
        class_names=names,
        name=name,
    )


def _plain_loader(data: Any) -> Any:
    """Return the data set of a loader that shows all examples."""
    if isinstance(data, DataLoader) and isinstance(data.sampler, SequentialSampler | RandomSampler):
        return data.dataset
    return data


def gather(data: Any) -> Gathered:
    """Read data into memory, see `as_examples`.

    Raises:
        InputError: there are no examples, or batches are of an unknown kind.
    """
    if isinstance(data, Examples):
        named = data.class_names if data.has_names else None
        _, every, numbers = data.batch(range(len(data)))
        return Gathered(every, numbers.numpy() if data.is_labeled else None, named)
    batches, notes = ([data], ()) if _is_batch(data) else _batches(data)
    pairs = [_as_pair(batch if _is_batch(data) else _as_batch(batch)) for batch in batches]
    if not sum(len(inputs) for inputs, _ in pairs):
        raise InputError(expected="at least one example", got="no example", hint="data with examples")
    joined = torch.cat([_as_inputs(inputs) for inputs, _ in pairs]).detach().cpu()
    labels = [labels for _, labels in pairs if labels is not None]
    if labels and len(labels) < len(pairs):
        raise _unlabeled("some batches without labels")
    classes = getattr(getattr(data, "dataset", data), "classes", None)
    names = tuple(map(str, classes)) if isinstance(classes, list | tuple) and classes else None
    return Gathered(joined, np.concatenate(labels) if labels else None, names, notes)


def _is_batch(data: object) -> bool:
    """Return True for (inputs, labels) or inputs of all examples, not a sequence of batches."""
    if isinstance(data, Tensor | np.ndarray):
        return True
    if isinstance(data, Mapping):
        return True
    if not isinstance(data, tuple | list) or not 1 <= len(data) <= 2:
        return False
    if all(isinstance(part, Tensor | np.ndarray) for part in data):
        return True
    first, second = data[0], data[-1]
    is_plain = isinstance(second, list | tuple | Tensor | np.ndarray) and not any(map(_is_array, second[:1]))
    return len(data) == 2 and is_plain and isinstance(first, list | tuple | Tensor | np.ndarray)


def _as_batch(item: Any) -> Any:
    """Make a batch of a single example with its label; batches stay as they are."""
    if isinstance(item, tuple | list) and len(item) == 2 and np.ndim(item[1]) == 0:
        return np.asarray(item[0])[None], [item[1]]
    return item


def _is_array(value: object) -> bool:
    """Return True for arrays with an axis, which an element of a list of labels is not."""
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _batches(data: Any) -> tuple[Iterable[Any], tuple[str, ...]]:
    """Return the batches of a loader, a data set or an iterable, with each example once, and what is to be told."""
    if isinstance(data, DataLoader):
        return _loaded_once(data)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _loaded_once(DataLoader(data, batch_size=256))
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise _unlabeled(type(data).__name__)
    return data, ()


def _loaded_once(loader: DataLoader[Any]) -> tuple[Iterable[Any], tuple[str, ...]]:
    if isinstance(loader.dataset, IterableDataset):
        if not loader.num_workers:
            return loader, ()
        # Each worker would read the whole stream, unless its code divides the stream.
        return DataLoader(loader.dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn), ()
    if loader.batch_sampler is None:
        return loader, ()
    size = len(loader.dataset)  # type: ignore[arg-type]
    if _shows_all(loader, size):
        rows = chosen = list(range(size))
    else:
        chosen = [row for batch in loader.batch_sampler for row in batch]
        rows = sorted(set(chosen))
    notes = () if len(chosen) == size == len(rows) else (_describe_sampler(loader, chosen, rows, size),)
    step = loader.batch_size or 256
    parts = [rows[start : start + step] for start in range(0, len(rows), step)]
    return DataLoader(loader.dataset, batch_sampler=parts, collate_fn=loader.collate_fn), notes


def _shows_all(loader: DataLoader[Any], size: int) -> bool:
    """Return True if a loader shows every example, perhaps in another order or without the last batch."""
    sampler = loader.sampler
    if loader.batch_size is None:  # the user's own batch sampler
        return False
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == size
    return type(sampler) is SequentialSampler


def _describe_sampler(loader: DataLoader[Any], chosen: Sequence[int], rows: Sequence[int], size: int) -> str:
    sampler = loader.sampler if loader.batch_size is not None else loader.batch_sampler
    repeated = f", {len(chosen) - len(rows)} of its draws are repeats" if len(chosen) > len(rows) else ""
    return f"{type(sampler).__name__} chooses {len(rows)} of {size} examples{repeated}; each is read once"


def _as_pair(batch: Any) -> tuple[Any, npt.NDArray[Any] | None]:
    """Return the inputs and the labels of a batch, which may be a mapping, a pair, or inputs alone."""
    if isinstance(batch, Mapping):
        by_name = {str(name).lower(): value for name, value in batch.items()}
        inputs, labels = (
            next((by_name[name] for name in usual if name in by_name), None) for usual in (USUAL_INPUTS, USUAL_LABELS)
        )
        if inputs is None:
            usual = f"{', '.join(USUAL_INPUTS)}, and for labels {', '.join(USUAL_LABELS)}"
            raise InputError(
                expected=f"labeled data: a mapping with inputs under one of the names {usual}",
                got=f"a mapping with {', '.join(map(str, batch))}",
                hint="(inputs, labels), with model, inputs = aradals.integrations.transformers.embedded(model, batch)"
                if "input_ids" in by_name
                else "these names in the mapping, or pairs (inputs, labels)",
            )
    elif isinstance(batch, tuple | list):
        if not 1 <= len(batch) <= 2:
            raise _unlabeled(f"a {type(batch).__name__} of {len(batch)}")
        inputs, labels = batch[0], batch[1] if len(batch) == 2 else None
    elif isinstance(batch, Tensor | np.ndarray):
        inputs, labels = batch, None
    else:
        raise _unlabeled(f"a {type(batch).__name__}")
    values = None if labels is None else _as_array(labels)
    if values is not None and (values.ndim == 0 or len(values) != len(inputs)):
        raise InputError(
            expected="one label for each input",
            got=f"labels of shape {values.shape} for {len(inputs)} inputs",
            hint="inputs and labels of the same length",
        )
    return inputs, values


def _as_array(values: Any) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    return np.asarray(list(map(np.asarray, values)) if isinstance(values, list | tuple) else values)


def _as_inputs(inputs: Any) -> Tensor:
    """Make a tensor of inputs; Python numbers become float32."""
    if isinstance(inputs, Tensor):
        return inputs
    try:
        values = np.asarray([np.asarray(each) for each in inputs] if isinstance(inputs, list | tuple) else inputs)
        is_python = isinstance(inputs, list | tuple) and values.dtype == np.float64
        return torch.from_numpy(np.ascontiguousarray(values.astype(np.float32) if is_python else values))
    except (TypeError, ValueError) as error:
        raise InputError(
            expected="inputs as a tensor, an array or a list of numbers of one shape",
            got=f"{type(inputs).__name__} ({error})",
            hint="torch.stack(inputs)",
        ) from error


def _unlabeled(got: str) -> InputError:
    return InputError(
        expected="labeled data: (inputs, labels), or a DataLoader of such batches",
        got=got,
        hint="(inputs, labels), or aradals.data.load_data",
    )
