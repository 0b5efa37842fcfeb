"""Predictions of a model, without changing it, and checks of its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aradals.checks import FITTING_DATA, check_labels, check_output, refuse_other_scales
from aradals.errors import InputError
from aradals.inference.batches import InputBatches, numbered
from aradals.inference.outputs import describe_reading, logit_model

Batch = tuple[Tensor, Tensor, Tensor]
"""(ids, inputs, labels), shapes (N,), (N, ...), (N,); inputs in [0, 1]."""


@dataclass(frozen=True)
class Predictions:
    """A model's logits on labeled examples: everything that metrics and calibrators need.

    Attributes:
        ids: int64, shape (N,); the row of each example in its split.
        logits: float, shape (N, K).
        labels: int64 in [0, K), shape (N,).
        scores: the model's first-order margins, shape (N,), if a calibrator needs them.
    """

    ids: Tensor
    logits: Tensor
    labels: Tensor
    scores: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def probs(self) -> Tensor:
        """Softmax of the logits, float64, shape (N, K)."""
        return self.logits.double().softmax(1)

    def select(self, mask: Tensor) -> Predictions:
        """Select examples by ``mask``, a bool or index tensor."""
        scores = None if self.scores is None else self.scores[mask]
        return Predictions(self.ids[mask], self.logits[mask], self.labels[mask], scores)

    @staticmethod
    def concatenate(parts: Sequence[Predictions]) -> Predictions:
        """Join several predictions in order; without scores, unless all parts have them."""
        ids, logits, labels = zip(*((each.ids, each.logits, each.labels) for each in parts), strict=True)
        scores = [each.scores for each in parts if each.scores is not None]
        joined = torch.cat(scores) if len(scores) == len(parts) else None
        return Predictions(torch.cat(ids), torch.cat(logits), torch.cat(labels), joined)


MAX_ROW_HASHES = 4096


def row_hashes(logits: Tensor, labels: Tensor) -> npt.NDArray[np.uint64]:
    """Hash the predictions of labeled examples, so that the same examples are recognized when they come again.

    Args:
        logits: shape (N, K).
        labels: shape (N,).

    Returns:
        The smallest hashes, uint64, at most 4,096; none if predictions repeat, such as those of a decision tree. Equal
        predictions are then no sign of equal examples.
    """
    factors = np.random.default_rng(0).integers(2**62, size=logits.shape[1] + 1, dtype=np.uint64) * 2 + 1
    hashes = []
    for chunk, own in zip(logits.split(2**16), labels.split(2**16), strict=True):
        # Adding 0 gives -0 the bits of 0.
        words = (chunk.float() + 0).cpu().numpy().view(np.uint32).astype(np.uint64)
        mixed = (words * factors[1:]).sum(1, dtype=np.uint64) + own.cpu().numpy().astype(np.uint64) * factors[0]
        hashes.append((mixed ^ (mixed >> np.uint64(32))) * factors[0])
    distinct = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)
    return distinct[:MAX_ROW_HASHES] if len(distinct) >= 0.99 * len(labels) else distinct[:0]


def logit_size(logits: Tensor) -> Tensor:
    """Size of each logit, for a comparison up to rounding: its own, or that of the leading two logits of any row.

    A masked class with a logit of -1e9 blurs no other class.
    """
    size = logits.detach().abs()
    return size.maximum(size.gather(1, logits.topk(min(2, logits.shape[1])).indices).max())


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule in evaluation mode, and restore the mode of each submodule afterwards.

    ``model.train(was_training)`` is not enough, because users freeze single layers (for example batch norm) by mode.
    """
    # A frozen script has no mode. It is always in evaluation mode.
    modes = [(module, getattr(module, "training", False)) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def model_device_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the model's first floating-point parameter or buffer; CPU and float32 if it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def predict(model: nn.Module, batches: InputBatches) -> Predictions:
    """Compute the logits of ``model`` on labeled examples, and gather them on the CPU.

    Inputs are moved to the model's device and dtype. The call does not change the model.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        batches: a tuple (inputs, labels), or an iterable of batches, each a pair (inputs, labels) or a triple (ids,
            inputs, labels). If there are no ids, the id of an example is its running number.

    Raises:
        InputError: examples without labels, or without a clear identity; logits that are NaN, of a wrong shape, or
            probabilities; labels out of range.
    """
    model = logit_model(model)
    device, dtype = model_device_dtype(model)
    ids, logits, labels = [], [], []
    with evaluation_mode(model), torch.no_grad():
        for batch_ids, inputs, batch_labels in numbered(batches):
            if batch_labels is None:
                raise InputError(
                    expected="labeled examples",
                    got="inputs without labels",
                    hint="predict(model, (inputs, labels)), or model(inputs) in place of predict",
                )
            # The model gets a copy, so that a model that writes into its input does not change the caller's tensor.
            output = model(inputs.to(device, dtype, copy=True))
            output = check_output(output, len(inputs))
            check_labels(batch_labels, output.shape[1], hint=FITTING_DATA)
            ids.append(batch_ids.cpu())
            logits.append(output.float().cpu() if output.dtype != torch.float64 else output.cpu())
            labels.append(batch_labels.cpu())
    if not ids:
        raise InputError(expected="at least one example", got="no example", hint="another split or a larger --limit")
    return Predictions(torch.cat(ids), torch.cat(logits), torch.cat(labels))


def resolve_device(device: str) -> torch.device:
    """Find the device with this name: cpu, cuda, mps, or one of several by its index, such as ``cuda:1``.

    ``auto`` means CUDA if it is available, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    here += ["mps"] * torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if "cuda:0" in here else "cpu")
    if device not in here and f"{device}:0" not in here:
        raise InputError(expected=f"a device that is here: auto, {', '.join(here)}", got=device, hint="--device auto")
    return torch.device(device)


def try_model(model: nn.Module, inputs: Tensor) -> int:
    """Call ``model`` once on a few inputs, so that an error occurs before the long work, not during it.

    Returns:
        The number of classes, K.

    Raises:
        InputError: the call fails, or its result is not logits.
    """
    return check_output(_output_of(logit_model(model), inputs), len(inputs)).shape[1]


def understood(model: nn.Module, inputs: Tensor, num_classes: int | None = None) -> tuple[nn.Module, str]:
    """Find out how a model's outputs are to be read as logits, by a call with a whole batch.

    Args:
        model: maps inputs in [0, 1] to outputs of any form; a `LogitModel` says itself what they are.
        inputs: a batch of real inputs, shape (N, ...).
        num_classes: number of classes of the data, for a check that the outputs are logits of these classes; None if
            the labels are not known, or are not the numbers of the model.

    Returns:
        The model itself if its outputs are logits of shape (N, K), otherwise a `LogitModel`; and a description of what
        is read, empty for logits.

    Raises:
        InputError: the call fails, or the outputs are not logits.
    """
    reading = logit_model(model)
    is_declared = reading.kind is not None
    output = _output_of(reading.model, inputs)
    with evaluation_mode(model):
        logits = check_output(reading.read(output, len(inputs)), len(inputs))
    if not is_declared:
        refuse_other_scales(logits, num_classes)
    told = describe_reading(reading, output, len(inputs))
    return (reading, told) if told else (reading.model, "")


def _output_of(model: nn.Module, inputs: Tensor) -> Any:
    """Call ``model`` with a copy of ``inputs`` in evaluation mode; turn every error into an `InputError`."""
    device, dtype = model_device_dtype(model)
    try:
        with evaluation_mode(model), torch.no_grad():
            return model(inputs.to(device, dtype, copy=True))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            expected=f"a model that takes inputs of shape {tuple(inputs.shape)}",
            got=f"{type(error).__name__} ({str(error).strip().partition(chr(10))[0]})",
            hint="a model for this shape, or data of the shape that the model expects",
        ) from error
