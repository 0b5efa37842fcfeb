"""A trained model from its checkpoint alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from aradals.errors import InputError
from aradals.models.builder import build_model
from aradals.models.checkpoint import load_checkpoint, read_description
from aradals.models.sources import without_weights


def load_model(
    checkpoint: str | Path,
    model: str | None = None,
    *,
    key: str | None = None,
    log: Callable[[str], None] = print,
    **model_args: Any,
) -> nn.Module:
    """Build a model and load its weights.

    Args:
        checkpoint: file or folder of the weights, see `load_checkpoint`.
        model: what builds the model, see `build_model`; not needed for a checkpoint that names a built-in model.
        key: key of the weights, if the file has several that fit.
        log: called with a line about what of the file was left.
        **model_args: further arguments of the builder, such as ``num_classes``.

    Returns:
        The model in evaluation mode; it maps float inputs in [0, 1] to logits.

    Raises:
        InputError: a checkpoint that is missing, damaged or does not fit, or that does not say how to build its model.
    """
    path = Path(checkpoint)
    description = read_description(path)
    spec = model or description.built_in_model
    if spec is None:
        raise InputError(
            expected=f"a model for {path}, which does not say how to build it", got="none", hint="model='resnet20'"
        )
    sizes = {"num_classes": description.num_classes, "input_shape": description.input_shape}
    arguments = {**sizes, **without_weights(spec)}
    network = build_model(spec, **{**arguments, **description.arguments_for(spec, model_args)})
    load_checkpoint(network, path, key=key, log=log)
    return network.eval()
