"""Faster copies of models, for attacks that call a model many times with the same weights."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from aradals.inference.gradients import forward_with_graph, gradients_enabled, input_gradient, model_inputs
from aradals.inference.predictions import logit_size

_NUM_CHECKED = 8
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def accelerated(model: nn.Module, inputs: Tensor, *, bf16: bool = False) -> nn.Module:
    """Make a frozen copy of ``model`` in evaluation mode, for repeated forward passes and input gradients.

    Parameters get no gradients, batch norm is folded into the layer before it, and convolutions of images run in the
    channels-last layout. Each of these steps is kept only if logits and input gradients on a few of ``inputs`` equal
    those of the original up to rounding. A step that does not work for a model is skipped, and a model that cannot be
    copied is returned as it is.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K). The call does not change the model.
        inputs: shape (N, ...), values in [0, 1]; the first few are used for the checks.
        bf16: compute in bfloat16 where autocast does so, and return float32 logits. These logits differ by much more
            than rounding, so that the check only tests that they are finite. A model that fails in bfloat16 is used
            without it.

    Returns:
        A model on the same device, for inputs of the same dtype.
    """
    steps: list[Callable[[nn.Module, Tensor], nn.Module]] = [_freeze, _fold_batch_norm, _use_channels_last]
    fast = model
    # A scripted, traced or compiled model is optimized already, and a copy may have to be compiled again.
    if any(isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod") for module in model.modules()):
        steps = []
    with gradients_enabled(model):
        try:
            sample = model_inputs(model, inputs[:_NUM_CHECKED])
            expected = _logits_and_gradient(model, sample)
        except Exception:  # the attack will raise the same error with a better message
            return model
        for step in steps:
            try:
                candidate = step(copy.deepcopy(fast), sample)
                if _agree(_logits_and_gradient(candidate, sample), expected):
                    fast = candidate
            except Exception:  # user code may raise anything when it is copied or changed
                continue
        if bf16:
            with suppress(Exception):  # an operation that bfloat16 lacks
                candidate = _Bfloat16(fast).eval()
                if all(values.isfinite().all() for values in _logits_and_gradient(candidate, sample)):
                    fast = candidate
    return fast


def _logits_and_gradient(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    points, logits = forward_with_graph(model, inputs)
    # Any weights work, as long as they differ between the classes.
    weights = torch.linspace(-1, 1, logits.shape[1], device=logits.device, dtype=logits.dtype)
    return logits.detach(), input_gradient((logits * weights).sum(1), points)


def _agree(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    """Return True if logits and gradients are the same up to rounding.

    If rounding moves a ReLU to the other side of its kink, a small part of the gradient changes completely. So
    gradients are compared as a whole, with the square root of the tolerance for logits.
    """
    (logits, gradient), (expected_logits, expected_gradient) = found, expected
    tolerance = min(1e-4, 1e4 * torch.finfo(expected_logits.dtype).eps)
    same_logits = ((logits - expected_logits).abs() <= tolerance * logit_size(expected_logits)).all()
    same_gradient = (gradient - expected_gradient).norm() <= tolerance**0.5 * expected_gradient.norm()
    return bool(same_logits and same_gradient)


def _freeze(model: nn.Module, sample: Tensor) -> nn.Module:
    return model.requires_grad_(False)


def _fold_batch_norm(model: nn.Module, sample: Tensor) -> nn.Module:
    """Fold each batch norm into the convolution or linear layer whose output nothing else reads."""
    folded = set()
    for layer, norm in _feeds(model, sample):
        if norm.running_mean is None:
            continue
        fuse: Callable[[Any, Any], Any] = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        fused = fuse(layer, norm)
        layer.weight, layer.bias = fused.weight, fused.bias
        folded.add(norm)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in folded:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, nn.Identity())
    return model


def _feeds(model: nn.Module, sample: Tensor) -> list[tuple[Any, Any]]:
    """Find the pairs (layer, batch norm) where both are called once, and only the batch norm reads the layer's output.

    The pairs come from the autograd graph of one call, so that any ``forward`` works.
    """
    output_of: dict[Any, nn.Module] = {}
    input_of: dict[Any, nn.Module] = {}
    num_calls: Counter[nn.Module] = Counter()

    def note_output(layer: nn.Module, _: Any, output: Tensor) -> None:
        num_calls[layer] += 1
        if output.ndim == 2 or not isinstance(layer, nn.Linear):  # otherwise batch norm is over another dimension
            output_of[output.grad_fn] = layer

    def note_input(norm: nn.Module, arguments: tuple[Tensor]) -> None:
        num_calls[norm] += 1
        input_of[arguments[0].grad_fn] = norm

    hooks = []
    for module in model.modules():
        if _has_hooks(module):  # hooks may change or use the output of the layer
            continue
        if type(module) in (*_CONVOLUTIONS, nn.Linear):
            hooks.append(module.register_forward_hook(note_output))
        elif type(module) in _BATCH_NORMS:
            hooks.append(module.register_forward_pre_hook(note_input))
    _, logits = forward_with_graph(model, sample)
    for hook in hooks:
        hook.remove()
    num_readers = Counter(node for reader in _nodes(logits.grad_fn) for node, _ in reader.next_functions)
    return [
        (output_of[node], norm)
        for node, norm in input_of.items()
        if node in output_of and num_calls[output_of[node]] == num_calls[norm] == num_readers[node] == 1
    ]


def _has_hooks(module: nn.Module) -> bool:
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(kinds)


def _nodes(root: Any) -> Iterator[Any]:
    """Yield every node of the autograd graph below ``root``."""
    seen, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        yield node
        new = {child for child, _ in node.next_functions if child is not None} - seen
        seen |= new
        waiting.extend(new)


def _use_channels_last(model: nn.Module, sample: Tensor) -> nn.Module:
    if sample.ndim == 4 and any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return _ChannelsLast(model).eval()
    return model


class _ChannelsLast(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs.contiguous(memory_format=torch.channels_last))
        return logits


class _Bfloat16(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            logits: Tensor = self.model(inputs)
        return logits.float()
