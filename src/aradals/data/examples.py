"""Labeled examples with ids, the one dataset class of the library."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aradals.checks import ROUNDING
from aradals.data.scaling import Scaling
from aradals.errors import InputError
from aradals.inference.predictions import Batch

InputReader = Callable[[Sequence[int]], Tensor]
"""Function from row numbers to their inputs as one tensor: uint8, or float in [0, 1]."""

Example = tuple[int, Tensor, int]
"""One example: (id, input, label)."""

_CHUNK = 256
_BATCH_VALUES = _CHUNK * 3 * 64 * 64
"""Largest number of values in a batch: gradients of a deep network on 256 images of 224x224 pixels need much memory."""


def as_batch(batch: Any) -> Any:
    """Return the batch as it is, for ``DataLoader(examples, collate_fn=as_batch)``: examples come as a batch."""
    return batch


class Examples(Dataset[Example]):
    """Labeled examples with ids.

    ``DataLoader(examples, batch_size=..., collate_fn=as_batch)`` yields (ids, inputs, labels). It reads each batch
    in one indexing operation (`batch`). Selections share the inputs of the original examples.

    Args:
        inputs: shape (N, ...), uint8 (0..255, read as 0..1) or float in [0, 1]. If the data is too large for memory,
            a reader: a function from a list of row numbers to such a tensor. A reader must be picklable if worker
            processes use it.
        labels: int64 in [0, ``num_classes``), shape (N,); None for examples without labels, which are then all -1.
        num_classes: number of classes K.
        class_names: K names; by default "0".."K-1", and the numbers alone say which class is meant (``has_names``).
        ids: int64, shape (N,), the row of each example in its split; by default 0..N-1.
        name: name of this data in messages and reports, e.g. ``"cifar10-test"``.
        preparation: changes of the inputs since their source, ``resize``, ``scaling`` and the named columns, as plain
            values for a checkpoint.

    Raises:
        InputError: labels are out of range, inputs are outside [0, 1] by more than rounding (1e-6), or lengths differ.
    """

    def __init__(
        self,
        inputs: Tensor | InputReader,
        labels: Tensor | None,
        *,
        num_classes: int,
        class_names: Sequence[str] | None = None,
        ids: Tensor | None = None,
        name: str = "examples",
        preparation: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.is_labeled = labels is not None
        if labels is None:
            assert isinstance(inputs, Tensor) or ids is not None, "a reader without labels does not know its length"
            labels = torch.full((len(inputs if isinstance(inputs, Tensor) else ids),), -1)  # type: ignore[arg-type]
        self.labels = labels.long()
        self.preparation = dict(preparation or {})
        self.ids = torch.arange(len(labels)) if ids is None else ids.long()
        self.num_classes = num_classes
        self.has_names = bool(class_names)
        self.class_names = tuple(class_names or map(str, range(num_classes)))
        self._inputs = _within_range(inputs, name) if isinstance(inputs, Tensor) else inputs
        self._rows = torch.arange(len(labels))  # the row of each example in the source of inputs
        self._hashes: npt.NDArray[np.uint64] | None = None
        self._check()

    def _check(self) -> None:
        lengths = {"labels": len(self.labels), "ids": len(self.ids)}
        if isinstance(self._inputs, Tensor):
            lengths["inputs"] = len(self._inputs)
        if len(set(lengths.values())) > 1:
            raise InputError(
                expected="as many inputs as labels and ids",
                got=", ".join(f"{length} {what}" for what, length in lengths.items()),
                hint="one label and one id for each example",
            )
        self._check_labels()

    def _check_labels(self) -> None:
        if len(self.class_names) != self.num_classes:
            raise InputError(
                expected=f"{self.num_classes} class names",
                got=f"{len(self.class_names)}",
                hint="one name for each class",
            )
        if not self.is_labeled:
            return
        bad = ((self.labels < 0) | (self.labels >= self.num_classes)).nonzero().flatten()
        if len(bad):
            row = int(bad[0])
            raise InputError(
                expected=f"labels from 0 to {self.num_classes - 1} in {self.name}",
                got=f"{int(self.labels[row])} in row {int(self.ids[row])} ({len(bad)} such rows)",
                hint="another label column, names of the classes, numbers from 0 (0 and 1 in place of -1 and 1), or "
                "removing examples without a label",
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[int, Tensor, int]:
        """Return id, input (float32 in [0, 1]) and label of one example."""
        ids, inputs, labels = self.batch([position])
        return int(ids[0]), inputs[0], int(labels[0])

    def __getitems__(self, positions: list[int]) -> Batch:
        """Return `batch`; a DataLoader calls it by this name."""
        return self.batch(positions)

    def batch(self, rows: Tensor | Sequence[int]) -> Batch:
        """Return ids, inputs (float32 in [0, 1]) and labels of the examples at these positions."""
        ids, inputs, labels = self.stored_batch(rows)
        return ids, as_float(inputs), labels

    def stored_batch(self, rows: Tensor | Sequence[int]) -> Batch:
        """Return `batch` with the inputs as they are stored, uint8 or float, so that `as_float` can run elsewhere."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return self.ids[index], self._read(index), self.labels[index]

    def select(self, positions: Tensor | npt.NDArray[np.integer | np.bool_] | Sequence[int]) -> Examples:
        """Select the examples at ``positions``, or by a boolean mask; they keep their ids."""
        index = torch.as_tensor(positions)
        index = index.nonzero().flatten() if index.dtype == torch.bool else index.long()
        chosen = Examples.__new__(Examples)
        chosen.__dict__.update(self.__dict__)
        chosen.ids, chosen.labels, chosen._rows = self.ids[index], self.labels[index], self._rows[index]
        chosen._hashes = None if self._hashes is None else self._hashes[index.numpy()]
        return chosen

    def renumbered(self, numbers: Tensor, class_names: Sequence[str]) -> Examples:
        """Give class k the number ``numbers[k]``, and all classes new names; the inputs stay as they are."""
        changed = self.select(torch.arange(len(self)))
        changed.labels, changed.num_classes = numbers[self.labels], len(class_names)
        changed.class_names, changed.has_names = tuple(class_names), True
        changed._check_labels()
        return changed

    def with_num_classes(self, num_classes: int) -> Examples:
        """Give examples without names of classes another number of classes."""
        changed = self.select(torch.arange(len(self)))
        changed.num_classes, changed.class_names = num_classes, tuple(map(str, range(num_classes)))
        changed._check_labels()
        return changed

    def batches(self, batch_size: int | None = None, *, num_workers: int = 0) -> DataLoader[Example]:
        """Load all examples in order, as batches of (ids, inputs, labels).

        By default a batch has 256 examples, or fewer if inputs are larger than 64x64 RGB pixels.
        """
        if batch_size is None:
            batch_size = max(1, min(_CHUNK, _BATCH_VALUES // max(1, math.prod(self.input_shape))))
        return DataLoader(self, batch_size=batch_size, num_workers=num_workers, collate_fn=as_batch)

    @property
    def in_memory(self) -> bool:
        """True if the inputs are a tensor; false if a reader reads them on demand."""
        return isinstance(self._inputs, Tensor)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, e.g. (3, 32, 32)."""
        inputs = self._inputs if isinstance(self._inputs, Tensor) else self._inputs([0])
        return tuple(inputs.shape[1:])

    @property
    def column_means(self) -> Tensor | None:
        """Mean of each scaled column in the training data, shape (C,); None if the inputs are no scaled columns."""
        recorded = self.preparation.get("scaling")
        return None if recorded is None else torch.from_numpy(Scaling.read(recorded).scaled_mean)

    @property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """Content hash of each input, uint64, shape (N,): 8-byte BLAKE2b of its shape and values.

        The hash does not depend on the label and the id, so that an image is recognized in another split or file. It
        does not depend on the type either, so that bytes and floats of the same image have the same hash.
        """
        if self._hashes is None:
            digests = bytearray()
            for start in range(0, len(self), _CHUNK):
                chunk = torch.arange(start, min(start + _CHUNK, len(self)))
                for values in _as_uint16(self._read(chunk)):
                    digest = hashlib.blake2b(str(values.shape).encode(), digest_size=8)
                    digest.update(values.data)
                    digests += digest.digest()
            self._hashes = np.frombuffer(bytes(digests), dtype="<u8").astype(np.uint64)
        return self._hashes

    @property
    def fingerprint(self) -> str:
        """Digest of the inputs and labels in their order, 16 hexadecimal digits."""
        content = self.hashes.astype("<u8").tobytes() + self.labels.numpy().astype("<i8").tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def _read(self, index: Tensor) -> Tensor:
        """Read the inputs at ``index`` as they are stored: uint8 or float."""
        rows = self._rows[index]
        if isinstance(self._inputs, Tensor):
            return self._inputs[rows]
        return _within_range(self._inputs(rows.tolist()), self.name)


def overlap(a_hashes: npt.NDArray[np.uint64], b_hashes: npt.NDArray[np.uint64]) -> int:
    """Count the examples of b that also occur in a, by their content hashes."""
    return int(np.isin(b_hashes, a_hashes).sum())


def as_float(inputs: Tensor) -> Tensor:
    """Convert stored inputs to float32 in [0, 1]."""
    # The division is in place, because a second tensor of this size costs more than the division.
    return inputs.float().div_(255) if inputs.dtype == torch.uint8 else inputs.float()


def _as_uint16(inputs: Tensor) -> npt.NDArray[np.uint16]:
    """Put inputs on a grid of 16 bits, which contains the grid of 8 bits: byte k and float k/255 become equal."""
    if inputs.dtype == torch.uint8:
        return inputs.numpy().astype(np.uint16, order="C") * np.uint16(257)
    values: npt.NDArray[np.float64] = inputs.double().numpy() * 65535
    return np.rint(values).astype(np.uint16, order="C")


def _within_range(inputs: Tensor, name: str) -> Tensor:
    """Return inputs in [0, 1]: values that rounding has put outside become 0 or 1, and others are refused."""
    if inputs.dtype == torch.uint8:
        return inputs
    if not inputs.is_floating_point():
        raise InputError(
            expected=f"inputs of {name} as uint8, or as floats in [0, 1]",
            got=str(inputs.dtype).removeprefix("torch."),
            hint="converting the inputs to floats in [0, 1]",
        )
    if not inputs.numel():
        return inputs
    low, high = (float(bound) for bound in inputs.aminmax())
    if low >= 0 and high <= 1:
        return inputs
    # The comparison is written so that NaN fails it.
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(
            expected=f"inputs of {name} in [0, 1]",
            got=f"values from {low:.4g} to {high:.4g}",
            hint="scaling the inputs to [0, 1], and putting the normalization inside the model",
        )
    return inputs.clamp(0, 1)
