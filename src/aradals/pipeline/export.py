"""A model and its calibrator in one file, for programs that do not have this package."""

from __future__ import annotations

import copy
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from aradals._internal.files import atomic_path
from aradals._internal.json_files import save_json, settings_digest
from aradals._internal.optional import load_extra
from aradals.calibration import BatchTemperature, Calibrator
from aradals.calibration.calibrated_model import LogProbabilities
from aradals.data import Examples, as_examples
from aradals.errors import InputError
from aradals.inference.padding import Padded
from aradals.models import is_built_in, read_description
from aradals.pipeline.artifacts import versions
from aradals.pipeline.classifier import Classifier, Model, as_classifier
from aradals.pipeline.leakage import check_calibrators, tell_unchecked
from aradals.pipeline.model_card import check_results, model_card
from aradals.pipeline.outputs import output_file, output_folder, refuse_other_request
from aradals.results.records import Results

Format = Literal["onnx", "torch", "safetensors"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ""}
"""Format -> ending of its file; the empty one is that of a folder."""

PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "safetensors": ("huggingface_hub", "safetensors"),
}
"""Format -> the optional packages that write and check its file."""

DESCRIPTION = "aradals.json"
"""Name of the description within a program of torch.export, and in a folder."""

OPSET = 18
"""Version of the ONNX operators."""

TOLERANCE = 1e-5
"""Largest difference of a probability between the file and the model."""

_NUM_TRIED = 16


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        path: the file or the folder.
        description: metadata in the file: classes, shape and range of the inputs, output, calibrator, versions.
        difference: largest difference of a probability between the file and the model.
        num_inputs: number of inputs that were compared.
    """

    path: Path
    description: Mapping[str, Any]
    difference: float
    num_inputs: int

    def __str__(self) -> str:
        return (
            f"{self.description['output']} of {self.description['model']}: {self.path}\n"
            f"checked on {self.num_inputs} inputs, in batches of several sizes: the probabilities differ from those of "
            f"the model by at most {self.difference:.1e}"
        )


def export(
    model: Classifier | Model,
    path: str | Path,
    *,
    inputs: Tensor,
    calibrator: Calibrator | None = None,
    calibrator_name: str = "",
    format: Format | None = None,
    class_names: Sequence[str] | None = None,
    results: Results | None = None,
    read: Sequence[Path] = (),
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> Exported:
    """Write a model and its calibrator in one file, and compare the file with the model before it is kept.

    The input of the file is named ``inputs``: floats in [0, 1], shape (N, ...), for any N of at least 1. The output of
    an ONNX file is named ``probabilities``, shape (N, K). A program of torch.export and a folder return
    log-probabilities, as `CalibratedModel` does. The metadata ``aradals`` is JSON that describes all of this.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K), or to outputs that `LogitModel` reads.
        path: file.onnx, file.pt2, or a folder.
        inputs: inputs to compare the file with the model, shape (N, ...).
        calibrator: a fitted calibrator of this model.
        calibrator_name: name of the calibrator in ``results``; default: its method.
        format: onnx, torch or safetensors; default: by the ending of ``path``. The safetensors folder needs a built-in
            model, because its loader runs no other code.
        class_names: names of the classes; default: those that the model carries.
        results: evaluation of this model, for the model card in the folder.
        read: files that ``path`` may not replace.
        overwrite: replace an existing file.
        log: called with a line about what could not be checked.

    Raises:
        InputError: the calibrator is of another model, or cannot be computed for single examples without gradients;
            the model cannot be traced; the file differs from the model; or another file is at ``path``.
        MissingExtraError: a package of the extra ``export`` is not installed.
    """
    path = Path(path)
    chosen = check_target_of(path, format, results is not None)
    classifier = as_classifier(model, _unlabeled(inputs), class_names=class_names, log=log)
    _check_calibrator(calibrator, classifier, log)
    check_results(results, classifier, calibrator_name or getattr(calibrator, "method", "none"))
    _check_model(classifier, chosen)
    calibrated = LogProbabilities(copy.deepcopy(classifier.model).cpu().float(), calibrator)
    tried = inputs.detach().cpu().float()[torch.arange(max(_NUM_TRIED, min(len(inputs), 64))) % len(inputs)]
    description = _describe(classifier, calibrator, tuple(tried.shape[1:]), chosen)
    card = model_card(description, results, calibrator_name or getattr(calibrator, "method", "none"))
    request = settings_digest([description, card, classifier.digest])
    description = {"kind": "export", "request": request, **description}
    if chosen == "safetensors":
        with _hub_folder(path, request, read, overwrite):
            difference = _write_folder(classifier, calibrated, tried, path, description, card)
        return Exported(path, description, difference, len(tried))
    with output_file(path, SUFFIXES[chosen], "export", inputs=read, overwrite=overwrite):
        if refuse_other_request(path, request, overwrite=overwrite):
            log(f"{path} is there already, and is compared with the model again")
            difference = _check(calibrated, _READERS[chosen](path), tried)
        else:
            with atomic_path(path) as part:
                _WRITERS[chosen](calibrated, tried, part, description)
                difference = _check(calibrated, _READERS[chosen](part), tried)
    return Exported(path, description, difference, len(tried))


def check_target_of(path: Path, format: Format | None, has_results: bool = False) -> Format:
    """Return the format of a file; refuse an ending, or results, that do not belong to it.

    Raises:
        InputError: the ending of ``path`` is that of no format, or of another one; or only a folder can have results.
        MissingExtraError: a package that the format needs is not installed.
    """
    chosen = format or next((name for name, suffix in SUFFIXES.items() if suffix == path.suffix), None)
    if chosen is None or path.suffix != SUFFIXES[chosen]:
        endings = ", ".join(f"{name} ({suffix or 'a folder'})" for name, suffix in SUFFIXES.items())
        raise InputError(
            expected=f"--output with the ending of its format: {endings}", got=str(path), hint="model.onnx"
        )
    if has_results and chosen != "safetensors":
        raise InputError(
            expected="--results with a safetensors folder, which has a model card",
            got=f"--results with {path}",
            hint="--format safetensors and a folder as --output, or no --results",
        )
    for module in PACKAGES.get(chosen, ()):
        load_extra(module)
    return chosen


def examples_of_shape(shape: Sequence[int], checkpoint: Path | None) -> Examples:
    """Make random inputs in [0, 1] of this shape, or of that in the checkpoint.

    Raises:
        InputError: the shape is not known.
    """
    found = tuple(shape) or (None if checkpoint is None else read_description(checkpoint).input_shape)
    if not found or min(found) < 1:
        raise InputError(
            expected="--input-shape, because the checkpoint does not record the shape of an input",
            got="none" if not found else str(list(found)),
            hint="--input-shape '[3, 32, 32]' for RGB images of 32x32 pixels",
        )
    return _unlabeled(torch.rand(_NUM_TRIED, *found, generator=torch.Generator().manual_seed(0)))


def _unlabeled(inputs: Tensor) -> Examples:
    return as_examples((inputs, torch.zeros(len(inputs), dtype=torch.int64)))


def _check_calibrator(calibrator: Calibrator | None, classifier: Classifier, log: Callable[[str], None]) -> None:
    if calibrator is None:
        return
    if isinstance(calibrator, BatchTemperature):
        raise InputError(
            expected="a calibrator that maps each example alone",
            got="batch_temperature, whose temperature depends on the whole batch",
            hint="`aradals calibrate --method temperature`, and `aradals monitor` beside the exported model",
        )
    if calibrator.score == "first_order_margin":
        raise InputError(
            expected="a calibrator that needs only a forward pass",
            got=f"{calibrator.method}, which needs gradients of the model",
            hint="`aradals calibrate --method margin_temperature`, which needs only the logits",
        )
    (of_model, _) = check_calibrators(
        {calibrator.method: calibrator},
        weights=classifier.weights,
        num_classes=classifier.num_classes,
        evaluated=classifier.fitted_examples[:0],  # nothing is judged here
        where="",
    )
    tell_unchecked([of_model], log)


def _check_model(classifier: Classifier, format: Format) -> None:
    if isinstance(classifier.model, Padded):
        raise InputError(
            expected="a model that takes a batch of one",
            got=f"{classifier.name}, which takes only larger batches",
            hint="a forward without squeeze(), which also drops a batch dimension of one",
        )
    if format == "safetensors" and not (is_built_in(classifier.name) and classifier.arguments):
        raise InputError(
            expected="a built-in model, loaded by its name, for a safetensors folder that loads without other code",
            got=classifier.name,
            hint="--format onnx or --format torch, which contain the code of the model",
        )


class _Probabilities(nn.Module):
    def __init__(self, log_probabilities: nn.Module) -> None:
        super().__init__()
        self.log_probabilities = log_probabilities.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        probs: Tensor = self.log_probabilities(inputs).exp()
        return probs


def _describe(
    classifier: Classifier, calibrator: Calibrator | None, shape: tuple[int, ...], format: Format
) -> dict[str, Any]:
    return {
        "model": classifier.name,
        "weights": classifier.weights,
        "num_classes": classifier.num_classes,
        "class_names": list(classifier.class_names),
        "input_shape": list(shape),
        "value_range": [0, 1],
        "preparation": dict(classifier.preparation),
        "output": "probabilities" if format == "onnx" else "log_probabilities",
        "calibrator": None if calibrator is None else calibrator.to_dict(),
        **({"opset": OPSET} if format == "onnx" else {}),
        "versions": {**versions(), **{name: load_extra(name).__version__ for name in PACKAGES.get(format, ())}},
    }


def _traced(module: nn.Module, inputs: Tensor, export: Callable[..., Any], **settings: Any) -> Any:
    """Trace a module with a dynamic batch."""
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with torch.no_grad(), _quiet():
            return export(module.eval(), (inputs,), dynamic_shapes=shapes, **settings)
    except Exception as error:  # tracing fails with many kinds of errors
        cause = error.__cause__ or error
        raise InputError(
            expected="a model that torch.export can trace for batches of any size",
            got=f"{type(cause).__name__}: {str(cause).strip().splitlines()[0]:.200}" if str(cause).strip() else "none",
            hint="a forward without branches that depend on values, and with inputs.shape[0] in place of len(inputs)",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings that the exporter logs about packages that this model does not need."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _write_onnx(module: nn.Module, inputs: Tensor, path: Path, description: Mapping[str, Any]) -> None:
    names = {"input_names": ["inputs"], "output_names": ["probabilities"]}
    settings = {"dynamo": True, "verbose": False, "opset_version": OPSET, **names}
    program = _traced(_Probabilities(module), inputs, torch.onnx.export, **settings)
    program.model.metadata_props["aradals"] = json.dumps(description)
    program.save(str(path), external_data=False)


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    session = load_extra("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(["probabilities"], {"inputs": inputs.numpy()})[0])


def _write_torch(module: nn.Module, inputs: Tensor, path: Path, description: Mapping[str, Any]) -> None:
    program, content = _traced(module, inputs, torch.export.export), io.BytesIO()
    torch.export.save(program, content, extra_files={DESCRIPTION: json.dumps(description)})
    path.write_bytes(content.getvalue())


def _read_torch(path: Path) -> Callable[[Tensor], Tensor]:
    program = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return lambda inputs: program(inputs).exp()


_WRITERS = {"onnx": _write_onnx, "torch": _write_torch}
_READERS = {"onnx": _read_onnx, "torch": _read_torch}


@contextmanager
def _hub_folder(path: Path, request: str, read: Sequence[Path], overwrite: bool) -> Iterator[None]:
    """Hold a folder that is empty, or that the same request has written, perhaps only in part."""
    with output_folder(path, inputs=read):
        others = [each for each in path.iterdir() if not each.name.startswith(".")]
        if others and not overwrite and not refuse_other_request(path / DESCRIPTION, request, overwrite=False):
            raise InputError(expected=f"nothing in {path}", got="files", hint="another --output, or --overwrite")
        yield


def _write_folder(
    classifier: Classifier,
    calibrated: LogProbabilities,
    inputs: Tensor,
    path: Path,
    description: Mapping[str, Any],
    card: str,
) -> float:
    """Write a folder for ``PyTorchModelHubMixin``, first to another folder, where it is compared with the model.

    The description is the first file in the folder, so that it is known whose files an interrupted run has left.
    """
    from aradals.models.hub import HubModel

    sizes = ("num_classes", "input_shape")
    published = HubModel(
        model=classifier.name,
        num_classes=classifier.num_classes,
        input_shape=description["input_shape"],
        model_args={name: value for name, value in classifier.arguments.items() if name not in sizes},
        class_names=description["class_names"],
        calibrator=description["calibrator"],
    )
    published.network.load_state_dict(classifier.model.state_dict())
    with TemporaryDirectory() as temporary:
        Path(temporary, "README.md").write_text(card, encoding="utf-8")
        published.save_pretrained(temporary)
        with redirect_stdout(io.StringIO()):  # huggingface_hub prints a line about its progress
            loaded = HubModel.from_pretrained(temporary)
        difference = _check(calibrated, lambda inputs: loaded(inputs).exp(), inputs)
        save_json(path / DESCRIPTION, description)
        for file in sorted(Path(temporary).iterdir()):
            with atomic_path(path / file.name) as part:
                part.write_bytes(file.read_bytes())
    return difference


@torch.no_grad()
def _check(module: nn.Module, exported: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """Return the largest difference of a probability, in batches of one, of two and of all inputs.

    Raises:
        InputError: the difference is larger than `TOLERANCE`.
    """
    expected = module(inputs).exp()
    batches = (inputs[:1], inputs[1:3], inputs)
    found = torch.cat([exported(batch) for batch in batches])
    difference = float((found - torch.cat([expected[:1], expected[1:3], expected])).abs().max())
    if not difference <= TOLERANCE:
        raise InputError(
            expected=f"an exported model whose probabilities differ from those of the model by at most {TOLERANCE:g}",
            got=f"a difference of {difference:.1e}, so that no file was kept",
            hint="another --format, or a calibrator without steps, such as temperature",
        )
    return difference
