"""A model that was tested on the data: from a name and a checkpoint, or from memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from aradals._internal.files import file_digest
from aradals._internal.hashes import decode_hashes
from aradals._internal.json_files import settings_digest
from aradals._internal.specs import code_digest
from aradals.data import Examples
from aradals.errors import InputError
from aradals.inference.accelerate import accelerated
from aradals.inference.outputs import LogitModel, OutputKind, logit_model
from aradals.inference.padding import padded
from aradals.inference.predictions import Batch, predict, resolve_device, try_model, understood
from aradals.models import (
    CheckpointDescription,
    build_model,
    check_fit,
    is_built_in,
    load_checkpoint,
    read_description,
    weights_digest,
)
from aradals.models.preprocessing import Preprocessed, Preprocessing
from aradals.models.sources import find_source, source_digest, without_weights
from aradals.pipeline.input_scale import warn_of_scale
from aradals.pipeline.leakage import check_unseen
from aradals.pipeline.numbering import names_of, number_as_model
from aradals.results.records import Check

_NUM_PROBED = 8


Model = nn.Module | Callable[[Tensor], Any]
"""A module or a plain function from inputs in [0, 1] to logits, or to outputs that `LogitModel` reads."""


@dataclass(frozen=True)
class Classifier:
    """A model that was tested on the data.

    Attributes:
        model: the model, on its device.
        name: spec of the model, or the name of its class, for reports.
        digest: digest of its weights, its code and its settings.
        weights: digest of its weights alone, which is the same for every way of loading the model.
        probe: logits of a few examples, shape (n, K), see `aradals.pipeline.stage.run_stage`; None if unknown.
        num_classes: number K of logits; 0 if unknown.
        checkpoint: path, or "none".
        fitted_examples: content hashes of the training examples; empty if the checkpoint does not have them.
        class_names: names of the classes in the order of the logits; empty if the model has none.
        reading: how the outputs are read as logits; empty if they are logits.
        preprocessing: layers in front of the network, which prepare its inputs; empty if there are none.
        is_scale_known: False if the network may expect its inputs on another scale than [0, 1].
        arguments: arguments that the builder ``name`` got; empty for a model from memory.
        preparation: what the checkpoint records of the preparation of its training data, such as the ranges of columns.
    """

    model: nn.Module
    name: str
    digest: str
    weights: str
    probe: Tensor | None
    num_classes: int = 0
    checkpoint: str = "none"
    fitted_examples: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    class_names: tuple[str, ...] = ()
    reading: str = ""
    preprocessing: str = ""
    is_scale_known: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preparation: Mapping[str, Any] = field(default_factory=dict)
    _fast: list[nn.Module] = field(default_factory=list, init=False, repr=False, compare=False)

    def fast_model(self, inputs: Tensor) -> nn.Module:
        """Return a faster copy of the model, see `accelerated`; the first call makes it, which takes some passes."""
        if not self._fast:
            self._fast.append(accelerated(self.model, inputs))
        return self._fast[0]

    @property
    def origin(self) -> dict[str, str]:
        """The checkpoint, and how inputs are prepared and outputs are read, for results."""
        told = {"outputs": self.reading, "preprocessing": self.preprocessing}
        return {"checkpoint": self.checkpoint, **{name: text for name, text in told.items() if text}}

    @property
    def checkpoints(self) -> dict[str, str]:
        """SHA-256 of the file of the weights, by its path; empty for a model without a file."""
        path = Path(self.checkpoint)
        return {self.checkpoint: file_digest(path)} if path.is_file() else {}


def as_classifier(
    model: Classifier | Model,
    examples: Examples,
    *,
    class_names: Sequence[str] | None = None,
    log: Callable[[str], None] = print,
) -> Classifier:
    """Test a model from memory on one example and on a whole batch; return a `Classifier` unchanged.

    Args:
        model: see `Model`.
        examples: examples for the test.
        class_names: names of the model's classes; default: those that the model carries.
        log: called with a line about how the outputs are read, if they are no logits.

    Raises:
        InputError: outputs are not logits.
    """
    if isinstance(model, Classifier):
        return model
    batch = next(iter(examples.batches()))
    bare = model.model if isinstance(model, LogitModel) else model
    name = getattr(bare, "__name__", type(bare).__name__)
    tried, reading = _tried(logit_model(model), batch[1], examples, log)
    weights = weights_digest(bare.state_dict()) if isinstance(bare, nn.Module) else ""
    logits = _logits(tried, batch)
    return Classifier(
        model=tried,
        name=name,
        digest=settings_digest([name, weights, *filter(None, [reading])]),
        weights=weights,
        probe=logits[:_NUM_PROBED],
        num_classes=logits.shape[1],
        class_names=names_of(bare) if class_names is None else tuple(class_names),
        reading=reading,
    )


def match_labels(
    classifier: Classifier, examples: Examples, log: Callable[[str], None] = print
) -> tuple[Examples, Check]:
    """Give the labels the numbers of the model, and warn if the model seems to expect inputs on another scale.

    Raises:
        InputError: the classes of the data cannot be found in the model.
    """
    examples, numbered = number_as_model(examples, classifier.class_names, classifier.num_classes)
    if not classifier.is_scale_known:
        warn_of_scale(classifier.model, examples, log)
    return examples, numbered


def load_classifier(
    model: str | None,
    checkpoint: Path | None,
    examples: Examples,
    *,
    model_args: dict[str, Any] | None = None,
    checkpoint_key: str | None = None,
    class_names: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    output_kind: OutputKind | None = None,
    output_entry: str | None = None,
    device: str = "auto",
    log: Callable[[str], None] = print,
) -> Classifier:
    """Build a model, load its weights, and test the model on one example and on a whole batch.

    Args:
        model: built-in name, ``file.py:callable`` or ``package.module:callable``; None if the checkpoint has the name.
        checkpoint: file or folder of the weights; None to keep the weights that the model is built with.
        examples: examples for the test.
        model_args: further arguments of the builder.
        checkpoint_key: key of the weights, if the checkpoint has several that fit.
        class_names: names of the model's classes; default: those in the checkpoint, or those that the model carries.
        preprocessing: normalization that the model expects; None for that of its source, if it has one.
        output_kind: kind of the model's outputs, see `LogitModel`; None finds it.
        output_entry: name or position of the logits among several outputs; None finds it.
        device: auto, cpu, cuda or mps, or one of several by its index, such as cuda:1.
        log: called with a line about how the model is read, and with a warning if it is untrained.

    Raises:
        InputError: there is no such model; only the checkpoint names the model, and the model is not built in; the
            checkpoint is missing, corrupt or does not fit; or outputs are not logits.
    """
    target = resolve_device(device)
    description = CheckpointDescription() if checkpoint is None else read_description(checkpoint)
    fitted_examples = decode_hashes(description.fitted_examples, checkpoint)
    spec, shape, is_known = _named(model, description), examples.input_shape, examples.num_classes > 1
    arguments = {
        **({} if checkpoint is None else without_weights(spec)),
        **description.arguments_for(spec, model_args or {}),
    }
    sizes = {
        "num_classes": description.num_classes or len(class_names) or (examples.num_classes if is_known else None),
        "input_shape": description.input_shape or shape,
    }
    batch = next(iter(examples.batches()))
    network = _build(spec, {**sizes, **arguments}, checkpoint, checkpoint_key, batch[1], log)
    weights = weights_digest(network.state_dict())
    network = _preprocessed(network, spec, preprocessing, shape).to(target).eval()
    told = str(getattr(network, "preprocessing", ""))
    tried, reading = _tried(_read_as(network, output_kind, output_entry), batch[1], examples, log)
    _tell_of_name(spec, told, checkpoint, log)
    code = source_digest(spec) if find_source(spec) else code_digest(spec)
    settings = {"model": spec, "arguments": arguments, "code": code, "outputs": reading, "preprocessing": told}
    logits = _logits(tried, batch)
    return Classifier(
        model=tried,
        name=spec,
        digest=settings_digest([settings, weights_digest(tried.state_dict())]),
        weights=settings_digest([weights, told]) if told else weights,
        probe=logits[:_NUM_PROBED],
        num_classes=logits.shape[1],
        checkpoint=str(checkpoint) if checkpoint else "none",
        fitted_examples=fitted_examples,
        class_names=tuple(class_names) or description.class_names or names_of(network),
        reading=reading,
        preprocessing=told,
        is_scale_known=bool(preprocessing or told or is_built_in(spec)),
        arguments={**sizes, **arguments},
        preparation=description.preparation,
    )


def _named(model: str | None, description: CheckpointDescription) -> str:
    spec = model or description.built_in_model
    if spec is None:
        raise InputError(
            expected="--model (the checkpoint does not say how to build the model)", got="none", hint="--model resnet20"
        )
    return spec


def _tell_of_name(spec: str, preprocessing: str, checkpoint: Path | None, log: Callable[[str], None]) -> None:
    """Log what a name stands for, if another reading is possible."""
    if preprocessing:
        log(f"{spec}: {preprocessing}")
    if checkpoint is None and is_built_in(spec):
        log(f"warning: {spec} without --checkpoint is untrained, because its weights are random")


def _preprocessed(network: nn.Module, spec: str, given: Preprocessing | None, shape: tuple[int, ...]) -> nn.Module:
    """Put the given normalization in front of a network, in place of that of its source."""
    if given is None:
        return network
    if is_built_in(spec) or len(shape) != 3:
        raise InputError(
            expected="--mean, --std and --bounds for images, and for a network that does not normalize them itself",
            got=f"{spec} and inputs of shape {shape}",
            hint="the command without these options: built-in networks normalize color images by the mean and the "
            "standard deviation of ImageNet; or --model-args '{mean: [...], std: [...]}' for others"
            if is_built_in(spec)
            else "normalization inside the model",
        )
    if isinstance(network, Preprocessed):
        own, names = network.preprocessing, network.class_names
        given = replace(own, mean=given.mean, std=given.std, bounds=given.bounds)
        return Preprocessed(network.model, given, shape[0], names)
    return Preprocessed(network, given, shape[0])


def _read_as(network: nn.Module, outputs: OutputKind | None, entry: str | None) -> LogitModel:
    reading = logit_model(network)
    reading.kind, reading.entry = outputs or reading.kind, entry or reading.entry
    return reading


def check_training_examples(classifier: Classifier, examples: Examples) -> Check:
    """Refuse to calibrate or judge a model on examples that it was trained on, as recorded in its checkpoint."""
    return check_unseen(classifier.fitted_examples, examples.hashes, what="the model", where=examples.name)


def _build(
    spec: str,
    arguments: dict[str, Any],
    checkpoint: Path | None,
    key: str | None,
    inputs: Tensor,
    log: Callable[[str], None],
) -> nn.Module:
    """Build a model with the weights of its checkpoint."""
    build = partial(build_model, spec, **arguments)
    if checkpoint is not None and is_built_in(spec):
        with torch.device("meta"):  # the meta device needs no memory, even if the file names huge sizes
            check_fit(build(), checkpoint, key=key)
    network = build()
    if any(map(is_lazy, network.parameters())):
        try_model(network, inputs)  # lazy layers take their shapes from the first input
    if checkpoint is not None:
        load_checkpoint(network, checkpoint, key=key, log=log)
    return network


def _tried(model: LogitModel, inputs: Tensor, examples: Examples, log: Callable[[str], None]) -> tuple[nn.Module, str]:
    """Test the model with a batch and with a single input; wrap it if it needs this to return logits for any input."""
    is_numbered = examples.num_classes > 1 and not examples.has_names
    tried, reading = understood(model, inputs, examples.num_classes if is_numbered else None)
    if reading:
        log(f"outputs of the model: {reading}")
    try_model(tried, inputs)
    return padded(tried, inputs), reading


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """Compute the logits of a batch, whose labels may not have the model's numbers."""
    ids, inputs, labels = batch
    return predict(model, [(ids, inputs, torch.zeros_like(labels))]).logits
