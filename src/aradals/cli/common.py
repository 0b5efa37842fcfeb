"""What several subcommands need: the model, the data, and checks that they fit."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt, PositiveInt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from aradals._internal.specs import code_digest
from aradals.attacks import ATTACKS
from aradals.checks import check_labels
from aradals.cli.terminal import print_log, print_result
from aradals.data import Examples, data_paths, load_data
from aradals.errors import InputError, printable
from aradals.inference.predictions import predict, resolve_device, try_model
from aradals.models import (
    CheckpointDescription,
    build_model,
    check_fit,
    is_built_in,
    load_checkpoint,
    read_description,
    weights_digest,
)
from aradals.pipeline.artifacts import decode_hashes, save_sealed, settings_digest
from aradals.pipeline.evaluate import Condition, Shift, corrupted_batches, predict_conditions, prediction_paths
from aradals.pipeline.leakage import refuse_fitted
from aradals.pipeline.stage import run_stage
from aradals.report import (
    comparison_table,
    diagnosis_headlines,
    diagnosis_table,
    study_headlines,
    study_table,
    write_report,
)

_NUM_PROBED = 8


@dataclass(frozen=True)
class Classifier:
    """A model that was tried on the data.

    Attributes:
        model: on its device, in evaluation mode.
        name: its spec, for reports.
        checkpoint: path, or "none".
        digest: stands for its weights, its code and its settings.
        probe: its logits of a few examples, shape (n, K); see `aradals.pipeline.stage.run_stage`.
        fitted_examples: content hashes of what it was trained on, where the checkpoint says; else empty.
        class_names: as the checkpoint names them; else empty.
    """

    model: nn.Module
    name: str
    checkpoint: str
    digest: str
    probe: Tensor
    fitted_examples: np.ndarray
    class_names: tuple[str, ...]


def load_classifier(
    model: str | None, checkpoint: Path | None, model_args: dict[str, Any], examples: Examples, device: str
) -> Classifier:
    """Build the model, load its weights, and try it on one example and on a whole batch.

    Raises:
        InputError: no such model, one that only the checkpoint names and that is not built in, a checkpoint that is
            missing, corrupt or does not fit, outputs that are not logits, labels out of range.
    """
    target = resolve_device(device)
    description = CheckpointDescription() if checkpoint is None else read_description(checkpoint)
    fitted_examples = decode_hashes(description.fitted_examples, checkpoint)
    spec = model or description.built_in_model
    if spec is None:
        raise InputError(
            expected="--model (the checkpoint does not say how to build it)",
            got="none",
            hint="--model resnet20",
        )
    shape = examples.input_shape
    arguments = {
        "num_classes": description.num_classes or examples.num_classes,
        "in_channels": shape[0] if len(shape) == 3 else None,
        **(description.arguments(model_args) if spec == description.model else model_args),
    }
    build = partial(build_model, spec, **arguments)
    if checkpoint is not None and is_built_in(spec):
        with torch.device("meta"):  # takes no memory, however large the sizes that the file names
            check_fit(build(), checkpoint)
    network = build()
    batch = next(iter(examples.batches()))
    inputs = batch[1]
    if any(map(is_lazy, network.parameters())):
        try_model(network, inputs)  # lazy layers take their shapes from the first input
    if checkpoint is not None:
        load_checkpoint(network, checkpoint)
    network = network.to(target).eval()
    check_labels(examples.labels, try_model(network, inputs))
    try:
        try_model(network, inputs[:1])
    except InputError:
        network = NeverAlone(network)
    _check_numbering(description.class_names, examples)
    if checkpoint is None and ":" not in spec:
        print_log(f"warning: {spec} without --checkpoint is untrained, its weights are random")
    return Classifier(
        model=network,
        name=spec,
        checkpoint=str(checkpoint) if checkpoint else "none",
        digest=_digest(network, spec, arguments),
        probe=predict(network, [batch]).logits[:_NUM_PROBED],
        fitted_examples=fitted_examples,
        class_names=description.class_names,
    )


def refuse_training_examples(classifier: Classifier, examples: Examples) -> None:
    """Refuse to calibrate or judge a model on what it was trained on, where its checkpoint says so."""
    refuse_fitted(classifier.fitted_examples, examples, what="the model")


def _check_numbering(class_names: tuple[str, ...], examples: Examples) -> None:
    """Refuse data that gives a class of the model another number, as a folder does that lacks one of its classes."""
    known = {name: number for number, name in reversed(list(enumerate(class_names)))}
    for number, name in enumerate(examples.class_names):
        if known.get(name, number) != number:
            raise InputError(
                expected=f"the classes of {examples.name} numbered as the model numbers them",
                got=f"{name!r} as class {number} rather than {known[name]}",
                hint="data with all classes of the model, in the same order",
            )


class NeverAlone(nn.Module):
    """A model that is called with two inputs where there is one.

    Many a ``forward`` has a ``squeeze()`` that also drops a batch dimension of one.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the model's logits, shape (N, K), also for N = 1."""
        logits: Tensor = self.model(torch.cat([inputs, inputs]) if len(inputs) == 1 else inputs)
        return logits[: len(inputs)]


def _digest(model: nn.Module, spec: str, arguments: dict[str, Any]) -> str:
    """Hash the weights of a model, its code and its settings: the same on every machine."""
    settings = {"model": spec, "arguments": arguments, "code": code_digest(spec)}
    return settings_digest([settings, weights_digest(model.state_dict())])


def add_model_arguments(parser: ArgumentParser) -> None:
    """``--model``, ``--checkpoint``, ``--model-args``, ``--device``."""
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="built-in name (resnet20, small_cnn, ...), file.py:callable or package.module:callable that returns an "
        "nn.Module from inputs in [0, 1] to logits; not needed where the checkpoint names a built-in model",
    )
    parser.add_argument(
        "--checkpoint", type=Path | None, default=None, help=".safetensors, or a torch file of weights alone"
    )
    parser.add_argument(
        "--model_args",
        type=dict[str, Any],
        default={},
        help="further arguments of the builder, as JSON or YAML",
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")


def add_overwrite_argument(parser: ArgumentParser) -> None:
    """``--overwrite``."""
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files at --output that others have made, or this command from other inputs",
    )


def add_data_arguments(parser: ArgumentParser) -> None:
    """Add ``--data``, ``--split``, ``--limit`` and the columns."""
    parser.add_argument(
        "--data",
        type=str | None,
        default=None,
        help="Hugging Face id, parquet file, folder, .npz, or built-in name",
    )
    parser.add_argument("--split", type=str | None, default=None, help="the only one, or test, by default")
    parser.add_argument(
        "--limit", type=PositiveInt | None, default=None, help="a fixed random sample of so many examples"
    )
    parser.add_argument("--image_column", type=str | None, default=None, help="where it cannot be told by type")
    parser.add_argument("--label_column", type=str | None, default=None, help="where it cannot be told by type")


ATTACK_HELP = """\
how robustness is measured (about so many passes forward and backward per image). Estimates, to rank by: logit_margin
and log_odds (1, forward only), first_order_margin (1), secant (6), secant_accurate (8 to 19). Searches, for
verified norms: secant --verified (10), deepfool (9), ddn and fmn (105), carlini_wagner (thousands). One of {}\
"""


def add_attack_arguments(parser: ArgumentParser) -> None:
    """``--attack``, its settings, ``--verified`` and ``--bf16``."""
    parser.add_argument("--attack", type=str, default="secant", help=ATTACK_HELP.format(", ".join(ATTACKS)))
    parser.add_argument("--attack_args", type=dict[str, Any], default={}, help="its settings, as JSON or YAML")
    parser.add_argument(
        "--verified",
        action="store_true",
        help="also find, for the column norm, a perturbation that is seen to change the prediction",
    )
    parser.add_argument(
        "--bf16", action="store_true", help="attack a copy in bfloat16: faster where the hardware has it, and coarser"
    )


def add_audit_argument(parser: ArgumentParser, default: int) -> None:
    """``--audit``."""
    parser.add_argument(
        "--audit",
        type=NonNegativeInt,
        default=default,
        help="compare the ranking with a strong attack on so many examples (at least R); 0: do not",
    )


def add_prediction_arguments(parser: ArgumentParser) -> None:
    """``--predictions`` and ``--scores``, which stand in for a model."""
    parser.add_argument(
        "--predictions",
        type=Path | None,
        default=None,
        help="instead of a model: a parquet file or .npz with columns logits, label and, where rows were left out, id",
    )
    parser.add_argument(
        "--scores", type=Path | None, default=None, help="robustness of the same examples, by aradals score"
    )


def refuse_beside_predictions(**given: object) -> None:
    """Refuse what stored predictions would leave unused, rather than judge something else than what was named.

    Raises:
        InputError: any of ``given`` (option -> value) is set.
    """
    unused = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if unused:
        raise InputError(
            expected="--predictions, or a model and data", got=f"both (also {', '.join(unused)})", hint="one of them"
        )


def names(given: str | list[str]) -> list[str]:
    """``a,b`` or ``[a, b]`` as a list; a list as it is."""
    return [name.strip() for name in given.strip("[]").split(",")] if isinstance(given, str) else given


def files(given: str | list[Path]) -> list[Path]:
    """``a.json,b.json`` or ``[a.json, b.json]`` as a list of paths; a list as it is."""
    return [Path(name) for name in names(given)] if isinstance(given, str) else given


def numbers(given: str | list[int]) -> list[int]:
    """``3,5`` or ``[3, 5]`` as a list; a list as it is."""
    return [int(name) for name in names(given)] if isinstance(given, str) else given


@dataclass(frozen=True)
class Source:
    """Where a subcommand's examples come from, as its arguments say."""

    data: str | None
    split: str | None = None
    limit: int | None = None
    image_column: str | None = None
    label_column: str | None = None

    def paths(self, *others: Path | str | None) -> list[Path]:
        """List the files and folders that are read.

        Args:
            *others: further paths, data sets, and ``file.py:callable``.
        """
        found: list[Path] = []
        for each in (self.data, *others):
            if isinstance(each, Path):
                found.append(each)
            elif each is not None:
                found += data_paths(each.rpartition(":")[0] if ".py:" in each else each)
        return found

    def load(self) -> Examples:
        """Load the examples.

        Raises:
            InputError: no ``--data``, or data that cannot be read.
        """
        if self.data is None:
            raise InputError(expected="--data", got="none", hint="--data cifar10, a parquet file or a folder of images")
        return load_data(
            self.data,
            self.split,
            image_column=self.image_column,
            label_column=self.label_column,
            limit=self.limit,
        )


def prediction_stage(
    classifier: Classifier,
    examples: Examples,
    conditions: list[Condition],
    folder: Path,
    *,
    with_scores: bool = False,
    shift: Shift = corrupted_batches,
    source: str | None = None,
) -> dict[Condition, Path]:
    """Predictions under every condition, in a stage of their own: an interrupted one goes on where it stopped.

    Args:
        classifier: the model.
        examples: clean.
        conditions: see `aradals.pipeline.evaluate.conditions`.
        folder: of the stage.
        with_scores: also first-order margins.
        shift: where the corrupted examples come from.
        source: stands for ``shift`` in the record of the stage's inputs.
    """
    paths = prediction_paths(folder, conditions)
    inputs = {
        "model": classifier.digest,
        "spec": classifier.name,
        "data": examples.fingerprint,
        "conditions": conditions,
        "with_scores": with_scores,
        "source": source,
    }

    def make(_: Path) -> None:
        predict_conditions(
            classifier.model,
            examples,
            paths,
            model_digest=classifier.digest,
            with_scores=with_scores,
            shift=shift,
        )

    outputs = [path.name for path in paths.values()]
    run_stage(folder, inputs, outputs, make, lambda line: print_log(f"predictions: {line}"), probe=classifier.probe)
    return paths


def finish(results: dict[str, Any], output: Path, file: str, json: bool) -> None:
    """Write the results and the report, and print the table or the JSON."""
    save_sealed(output / file, results)
    write_report(results, output / "report.html")
    if json:
        print_result((output / file).read_text(encoding="utf-8").removesuffix("\n"))
        return
    is_diagnosis = results["kind"] == "diagnosis"
    print_result(diagnosis_table(results) if is_diagnosis else study_table(results))
    if results.get("comparisons") and (comparisons := comparison_table(results)).blocks:  # one method has none
        print_result(comparisons)
    print_result(Headlines(diagnosis_headlines(results) if is_diagnosis else study_headlines(results)))
    print_result(f"report: {output / 'report.html'}\nresults: {output / file}")


@dataclass(frozen=True)
class Headlines:
    """Sentences as a list, for rich to print."""

    sentences: list[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        for sentence in self.sentences:
            # A Text, since names are other people's and may look like markup.
            yield Text(
                textwrap.fill(printable(sentence), options.max_width, initial_indent="- ", subsequent_indent="  ")
            )
