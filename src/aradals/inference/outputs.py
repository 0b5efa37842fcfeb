"""Outputs of other people's models, read as logits of shape (N, K)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aradals.errors import InputError

OutputKind = Literal["logits", "probs"]
"""Kind of a model's outputs: logits, or probabilities on any scale (softmax, sigmoids, percentages)."""

_CERTAIN = 32
"""So many single outputs in [0, 1] are probabilities: the logits of a trained model would have both signs."""


class FunctionModel(nn.Module):
    """A plain function from inputs to outputs as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, inputs: Tensor) -> Any:
        """Call the function."""
        return self.function(inputs)


class LogitModel(nn.Module):
    """A model with outputs of any form and kind, as a model that returns logits of shape (N, K).

    The outputs may be a tensor, a tuple, a mapping or an output object of transformers. Shapes (N, K), (N, K, 1, 1) and
    the like, (N, 1) and (N,) are understood. A single output per input becomes two classes: a logit z becomes (0, z),
    and a probability p becomes (log(1 - p), log p).

    Args:
        model: the model, or a plain function.
        kind: "logits", which become log-probabilities, so that every later check accepts them, too; or "probs" for
            probabilities, sigmoids of each class and percentages, whose logarithm is taken, so that each row is divided
            by its sum. None means logits, except for a single output: its values decide in the first call.
        entry: name or position of the logits in a mapping or a tuple; None finds them, see `find_logits`.

    Example:
        >>> LogitModel(lambda inputs: {"logits": inputs, "features": inputs[:, :1]})(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """

    def __init__(
        self, model: Callable[[Tensor], Any], *, kind: OutputKind | None = None, entry: str | int | None = None
    ) -> None:
        super().__init__()
        self.model = model if isinstance(model, nn.Module) else FunctionModel(model)
        self.kind, self.entry = kind, entry
        self.found: OutputKind | None = None  # kind of a single output, if ``kind`` is None

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the model, as a user's objective may need it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    def forward(self, inputs: Tensor) -> Any:
        """Compute logits, shape (N, K).

        Raises:
            InputError: no entry, or several entries of the output could be logits; or the kind of a single output is
                not certain.
        """
        return self.read(self.model(inputs), inputs.shape[0])  # `len` would fix the size of an exported batch

    def read(self, output: Any, num_inputs: int) -> Any:
        """Read the logits in an output of the model; what cannot be logits is returned as it is."""
        values = find_logits(output, num_inputs, self.entry)
        if not isinstance(values, Tensor) or values.ndim != 2 or not values.is_floating_point():
            return values  # `check_output` says what is wrong
        if values.shape[1] == 1 and (self.kind or self.found) is None:
            self.found = _kind_of_single(values.detach(), certain=not getattr(self.model, "training", False))
        logits = _as_logits(values, self.kind or self.found)
        return logits.log_softmax(1) if self.kind == "logits" else logits


def logit_model(model: Callable[[Tensor], Any]) -> LogitModel:
    """Make a `LogitModel` that finds out what the model returns; a `LogitModel` is returned as it is."""
    return model if isinstance(model, LogitModel) else LogitModel(model)


def find_logits(output: Any, num_inputs: int, entry: str | int | None = None) -> Any:
    """Return the tensor of an output that has the logits: in shape (N, K), or as it is if it cannot be logits.

    In a mapping or a tuple, these are the named ``entry``; else the entry with the name "logits"; else the only entry
    that has the shape of logits.

    Raises:
        InputError: there is no such entry, or several entries could be meant.
    """
    if isinstance(output, Tensor):
        return _flat(output, num_inputs)
    entries = dict(_entries(output))
    if not entries:
        return output  # the check of outputs names its type
    if entry is None and "logits" in entries:
        entry = "logits"
    if entry is not None:
        if str(entry) in entries:
            return _flat(entries[str(entry)], num_inputs)
        raise _no_entry(f"an entry {entry!r} in the output", output, entries)
    flat = [_flat(each, num_inputs) for each in entries.values()]
    found = [each for each in flat if each.ndim == 2 and each.is_floating_point() and each.shape[0] == num_inputs]
    if len(found) != 1:
        raise _no_entry(f"one entry of shape ({num_inputs}, K) in the output of the model", output, entries)
    return found[0]


def _entries(output: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a mapping, a named tuple or a sequence by their names or positions."""
    if isinstance(output, Mapping):
        named = ((str(name), value) for name, value in output.items())
    elif isinstance(output, tuple | list):
        fields = getattr(output, "_fields", range(len(output)))
        named = ((str(name), value) for name, value in zip(fields, output, strict=True))
    else:
        named = ((name, value) for name, value in getattr(output, "__dict__", {}).items())  # a dataclass
    yield from ((name, value) for name, value in named if isinstance(value, Tensor))


def _no_entry(expected: str, output: object, entries: Mapping[str, Tensor]) -> InputError:
    listed = ", ".join(f"{name} of shape {tuple(value.shape)}" for name, value in entries.items())
    return InputError(
        expected=expected,
        got=f"{type(output).__name__} with {listed}",
        hint=f"--output-entry NAME (in Python, LogitModel(model, entry=...)) with the logits: {' or '.join(entries)}",
    )


def _flat(values: Tensor, num_inputs: int) -> Tensor:
    """Remove dimensions of size 1 behind the classes; (N,) becomes (N, 1)."""
    if values.ndim > 2 and values.shape[2:].numel() == 1:
        return values.flatten(1)
    return values[:, None] if values.ndim == 1 and values.shape[0] == num_inputs else values


def _kind_of_single(values: Tensor, *, certain: bool) -> OutputKind:
    """Tell logits from probabilities, shape (N, 1); they are not ``certain`` if the model is in training."""
    if bool(((values < 0) | (values > 1)).any()):
        return "logits"
    if certain and len(values) >= _CERTAIN:
        return "probs"
    raise InputError(
        expected="the kind of the single output, which logits and probabilities can both have",
        got=f"{len(values)} values, all of them in [0, 1]",
        hint="--output-kind logits or --output-kind probs, LogitModel(model, kind=...) in Python",
    )


def _as_logits(values: Tensor, kind: OutputKind | None) -> Tensor:
    """Convert outputs of this kind, shape (N, K) or (N, 1), to logits of shape (N, K) or (N, 2)."""
    if kind == "probs" and not torch.compiler.is_exporting() and (values < 0).any():
        raise InputError(
            expected="probabilities, sigmoids or percentages, because the model is said to return them",
            got=f"values down to {float(values.detach().min()):.3g}",
            hint="--output-kind logits (in Python, kind='logits')",
        )
    if values.shape[1] == 1:
        values = torch.cat([1 - values if kind == "probs" else torch.zeros_like(values), values], 1)
    return values.clamp_min(torch.finfo(values.dtype).tiny).log() if kind == "probs" else values


def describe_reading(reading: LogitModel, output: Any, num_inputs: int) -> str:
    """Describe what the model reads in another way than as logits of shape (N, K); empty if there is nothing."""
    return ", ".join(_readings(reading, output, num_inputs))


def _readings(reading: LogitModel, output: Any, num_inputs: int) -> Iterator[str]:
    values = find_logits(output, num_inputs, reading.entry)
    if not isinstance(output, Tensor):
        named = (name for name, each in _entries(output) if _flat(each, num_inputs).data_ptr() == values.data_ptr())
        yield f"the entry {reading.entry or next(named, '')!r} of {type(output).__name__}"
    elif values.shape != output.shape:
        yield f"shape {tuple(output.shape[1:])} of each output without dimensions of size 1"
    if values.shape[1] == 1:
        is_prob = (reading.kind or reading.found) == "probs"
        single = "(log(1 - p), log p) of the probability p" if is_prob else "(0, z) of the logit z"
        yield f"two classes with the logits {single}"
    elif reading.kind == "probs":
        yield "the logarithm of probabilities"
    if reading.kind == "logits":
        yield "logits, whatever they look like"
