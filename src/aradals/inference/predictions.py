"""Running a model without changing it, and the checks on what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aradals.checks import check_labels, check_logits
from aradals.errors import InputError

Batch = tuple[Tensor, Tensor, Tensor]
"""(ids, inputs, labels), shapes (N,), (N, ...), (N,); inputs in [0, 1]."""


@dataclass(frozen=True)
class Predictions:
    """A model's logits on labeled examples: everything that metrics and calibrators need.

    Attributes:
        ids: int64, shape (N,); the row of each example in its split.
        logits: float, shape (N, K).
        labels: int64 in [0, K), shape (N,).
        scores: the model's first-order margins, shape (N,), where a calibrator needs them.
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
        """The examples where ``mask`` (bool or index tensor) says so."""
        scores = None if self.scores is None else self.scores[mask]
        return Predictions(self.ids[mask], self.logits[mask], self.labels[mask], scores)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule in evaluation mode; afterwards each has the mode it had before.

    ``model.train(was_training)`` would not do: users freeze single layers (batch norm, say) by mode.
    """
    # A frozen script has no mode, and is evaluated.
    modes = [(module, getattr(module, "training", False)) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def model_device_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating dtype of the model's first floating parameter or buffer (CPU float32 without any)."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


def predict(model: nn.Module, batches: Iterable[Batch]) -> Predictions:
    """The logits of ``model`` on ``batches`` of (ids, inputs, labels), gathered on the CPU.

    Inputs are moved to the model's device and dtype. The model is left as it was found.

    Raises:
        InputError: logits that are NaN, of a wrong shape, or probabilities; labels out of range.
    """
    device, dtype = model_device_dtype(model)
    ids, logits, labels = [], [], []
    with evaluation_mode(model), torch.no_grad():
        for batch_ids, inputs, batch_labels in batches:
            # A copy, so that a model that writes into its input cannot reach the caller's tensor.
            output = model(inputs.to(device, dtype, copy=True))
            output = check_logits(output, len(inputs))
            check_labels(batch_labels, output.shape[1])
            ids.append(batch_ids.cpu())
            logits.append(output.float().cpu() if output.dtype != torch.float64 else output.cpu())
            labels.append(batch_labels.cpu())
    if not ids:
        raise InputError(expected="at least one example", got="none", hint="another split or a larger --limit")
    return Predictions(torch.cat(ids), torch.cat(logits), torch.cat(labels))


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        InputError: an unknown device, or CUDA where there is none.
    """
    available = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if available else "cpu")
    if device not in ("cpu", "cuda") or (device == "cuda" and not available):
        raise InputError(
            expected="device auto, cpu or cuda" + ("" if available else " (here there is no CUDA)"),
            got=device,
            hint="--device auto",
        )
    return torch.device(device)


def try_model(model: nn.Module, inputs: Tensor) -> int:
    """Call ``model`` once on a few inputs, to fail before the work rather than in it.

    Returns:
        The number of classes, K.

    Raises:
        InputError: the call fails, or returns something that is not logits.
    """
    device, dtype = model_device_dtype(model)
    try:
        with evaluation_mode(model), torch.no_grad():
            output = model(inputs.to(device, dtype, copy=True))
    except Exception as error:
        raise InputError(
            expected=f"a model that takes inputs of shape {tuple(inputs.shape)}",
            got=f"{type(error).__name__} ({str(error).strip().partition(chr(10))[0]})",
            hint="a model for this shape, or data of the shape that the model expects",
        ) from error
    return check_logits(output, len(inputs)).shape[1]
