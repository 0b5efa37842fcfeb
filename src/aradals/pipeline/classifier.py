"""A model that was tested on the data: from a name and a checkpoint, or from memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from aradals._internal.json_files import settings_digest
from aradals._internal.specs import code_digest
from aradals.data import Examples
from aradals.errors import InputError
from aradals.inference.padding import padded
from aradals.inference.predictions import Batch, predict, resolve_device, try_model
from aradals.models import (
    CheckpointDescription,
    build_model,
    check_fit,
    is_built_in,
    load_checkpoint,
    read_description,
    weights_digest,
)
from aradals.pipeline.artifacts import decode_hashes
from aradals.pipeline.leakage import check_unseen
from aradals.pipeline.numbering import names_of
from aradals.results.records import Check

_NUM_PROBED = 8


@dataclass(frozen=True)
class Classifier:
    """A model that was tested on the data.

    Attributes:
        model: the model, on its device.
        name: spec of the model, or the name of its class, for reports.
        digest: digest of its weights, its code and its settings.
        weights: digest of its weights alone, which is the same for every way of loading the model.
        probe: logits of a few examples, shape (n, K); see `aradals.pipeline.stage.run_stage`.
        checkpoint: path, or "none".
        fitted_examples: content hashes of the training examples; empty if the checkpoint does not have them.
        class_names: names of the classes in the order of the logits; empty if the model has none.
    """

    model: nn.Module
    name: str
    digest: str
    weights: str
    probe: Tensor
    checkpoint: str = "none"
    fitted_examples: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    class_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of logits K."""
        return self.probe.shape[1]


def as_classifier(
    model: Classifier | nn.Module, examples: Examples, class_names: Sequence[str] | None = None
) -> Classifier:
    """Test a model from memory on one example and on a whole batch; return a `Classifier` unchanged.

    Args:
        model: the model.
        examples: examples for the test.
        class_names: names of the model's classes; default: those in its ``config.id2label``.

    Raises:
        InputError: outputs are not logits.
    """
    if isinstance(model, Classifier):
        return model
    batch = next(iter(examples.batches()))
    name, tried = type(model).__name__, _tried(model, batch[1])
    weights = weights_digest(model.state_dict())
    return Classifier(
        model=tried,
        name=name,
        digest=settings_digest([name, weights]),
        weights=weights,
        probe=_probe(tried, batch),
        class_names=names_of(model) if class_names is None else tuple(class_names),
    )


def load_classifier(
    model: str | None,
    checkpoint: Path | None,
    examples: Examples,
    *,
    model_args: dict[str, Any] | None = None,
    class_names: Sequence[str] = (),
    device: str = "auto",
    log: Callable[[str], None] = print,
) -> Classifier:
    """Build a model, load its weights, and test the model on one example and on a whole batch.

    Args:
        model: built-in name, ``file.py:callable`` or ``package.module:callable``; None if the checkpoint has the name.
        checkpoint: file of the weights; None to keep the weights that the model is built with.
        examples: examples for the test.
        model_args: further arguments of the builder.
        class_names: names of the model's classes; default: those in the checkpoint or in ``config.id2label``.
        device: auto, cpu or cuda.
        log: called with a warning if the model is untrained.

    Raises:
        InputError: there is no such model; only the checkpoint names the model, and the model is not built in; the
            checkpoint is missing, corrupt or does not fit; or outputs are not logits.
    """
    target = resolve_device(device)
    description = CheckpointDescription() if checkpoint is None else read_description(checkpoint)
    fitted_examples = decode_hashes(description.fitted_examples, checkpoint)
    spec = model or description.built_in_model
    if spec is None:
        raise InputError(
            expected="--model (the checkpoint does not say how to build the model)", got="none", hint="--model resnet20"
        )
    shape, given, known = examples.input_shape, model_args or {}, examples.num_classes > 1
    arguments = {
        "num_classes": description.num_classes or len(class_names) or (examples.num_classes if known else None),
        "in_channels": shape[0] if len(shape) == 3 else None,
        **(description.arguments(given) if spec == description.model else given),
    }
    batch = next(iter(examples.batches()))
    network = _build(spec, arguments, checkpoint, batch[1]).to(target).eval()
    tried = _tried(network, batch[1])
    if checkpoint is None and ":" not in spec:
        log(f"warning: {spec} without --checkpoint is untrained, because its weights are random")
    settings = {"model": spec, "arguments": arguments, "code": code_digest(spec)}
    return Classifier(
        model=tried,
        name=spec,
        digest=settings_digest([settings, weights_digest(tried.state_dict())]),
        weights=weights_digest(network.state_dict()),
        probe=_probe(tried, batch),
        checkpoint=str(checkpoint) if checkpoint else "none",
        fitted_examples=fitted_examples,
        class_names=tuple(class_names) or description.class_names or names_of(network),
    )


def check_training_examples(classifier: Classifier, examples: Examples) -> Check:
    """Refuse to calibrate or judge a model on examples that it was trained on, as recorded in its checkpoint."""
    return check_unseen(classifier.fitted_examples, examples.hashes, what="the model", where=examples.name)


def _build(spec: str, arguments: dict[str, Any], checkpoint: Path | None, inputs: Tensor) -> nn.Module:
    """Build a model with the weights of its checkpoint."""
    build = partial(build_model, spec, **arguments)
    if checkpoint is not None and is_built_in(spec):
        with torch.device("meta"):  # the meta device needs no memory, even if the file names huge sizes
            check_fit(build(), checkpoint)
    network = build()
    if any(map(is_lazy, network.parameters())):
        try_model(network, inputs)  # lazy layers take their shapes from the first input
    if checkpoint is not None:
        load_checkpoint(network, checkpoint)
    return network


def _tried(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Test the model with a batch and with a single input; wrap it if it cannot take a single input."""
    try_model(model, inputs)
    return padded(model, inputs)


def _probe(model: nn.Module, batch: Batch) -> Tensor:
    """Compute the logits of a few examples; their labels may not have the model's numbers."""
    ids, inputs, labels = batch
    return predict(model, [(ids, inputs, torch.zeros_like(labels))]).logits[:_NUM_PROBED]
