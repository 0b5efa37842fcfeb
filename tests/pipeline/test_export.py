"""Exported models give the probabilities of the model and its calibrator."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import aradals
from aradals.calibration import BatchTemperature, CalibratedModel, Calibrator, TemperatureScaling, get_calibrator
from aradals.data import as_examples
from aradals.errors import InputError, MissingExtraError
from aradals.models import build_model
from aradals.models.hub import HubModel
from aradals.pipeline import export as export_module
from aradals.pipeline.classifier import load_classifier
from aradals.pipeline.export import export

TEMPERATURE = TemperatureScaling.from_dict({"method": "temperature", "temperature": 2.5})


def network(num_classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes), nn.Softplus()).eval()


def some_inputs(n: int = 50, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def quiet(line: str) -> None:
    """Drop a line of the log."""


def run_onnx(path: Path, inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(["probabilities"], {"inputs": inputs.numpy()})[0])


def run_torch(path: Path, inputs: Tensor) -> Tensor:
    log_probs: Tensor = torch.export.load(path).module()(inputs)
    return log_probs.detach().exp()


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("calibrator", [None, TEMPERATURE], ids=["plain", "temperature"])
def test_the_probabilities_are_those_of_the_model(suffix: str, calibrator: Calibrator | None, tmp_path: Path) -> None:
    model, path = network(), tmp_path / f"model{suffix}"
    exported = aradals.export(model, path, inputs=some_inputs(3, seed=0), calibrator=calibrator, log=quiet)
    assert exported.difference < 1e-6
    logits = model(some_inputs()).detach() / (1 if calibrator is None else 2.5)
    for n in (1, 2, 50):
        found = {".onnx": run_onnx, ".pt2": run_torch}[suffix](path, some_inputs()[:n])
        assert found.numpy() == pytest.approx(logits[:n].softmax(1).numpy(), abs=1e-6)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(network(), path, inputs=some_inputs(), calibrator=TEMPERATURE, class_names=("a", "b", "c"), log=quiet)
    session = onnxruntime.InferenceSession(path)
    found = json.loads(session.get_modelmeta().custom_metadata_map["aradals"])
    assert (found["class_names"], found["input_shape"], found["value_range"]) == (["a", "b", "c"], [3, 2, 2], [0, 1])
    assert (found["output"], found["opset"], found["calibrator"]) == ("probabilities", 18, TEMPERATURE.to_dict())
    assert {"torch", "onnx", "onnxruntime", "ar-adals"} <= found["versions"].keys()
    assert session.get_inputs()[0].shape == ["batch", 3, 2, 2]
    extra = {"aradals.json": ""}
    export(network(), tmp_path / "model.pt2", inputs=some_inputs(), log=quiet)
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["aradals.json"])["output"] == "log_probabilities"


def test_a_program_is_a_model_of_the_other_functions(tmp_path: Path) -> None:
    export(network(), tmp_path / "model.pt2", inputs=some_inputs(), calibrator=TEMPERATURE, log=quiet)
    loaded = build_model(str(tmp_path / "model.pt2"))
    expected = CalibratedModel(network(), TEMPERATURE)(some_inputs())
    assert loaded(some_inputs()).detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-6)


class OneOutput(nn.Module):
    """Returns one probability in a mapping, as `LogitModel` reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = network(1)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"p": self.layer(inputs).sigmoid()[:, 0]}


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_other_outputs_than_logits(suffix: str, tmp_path: Path) -> None:
    path, model = tmp_path / f"model{suffix}", aradals.inference.LogitModel(OneOutput().eval(), kind="probs")
    export(model, path, inputs=some_inputs(), log=quiet)
    found = {".onnx": run_onnx, ".pt2": run_torch}[suffix](path, some_inputs()[:7])
    expected = OneOutput().eval()(some_inputs()[:7])["p"].detach()
    assert found[:, 1].numpy() == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.parametrize("calibrator", [None, TEMPERATURE], ids=["plain", "temperature"])
def test_a_folder_for_the_hub(calibrator: Calibrator | None, tmp_path: Path) -> None:
    examples = as_examples((torch.rand(4, 1, 8, 8), torch.arange(4) % 3))
    classifier = load_classifier("mlp", None, examples, model_args={"hidden": [5]}, log=quiet)
    export(classifier, tmp_path / "hub", inputs=torch.rand(4, 1, 8, 8), calibrator=calibrator, log=quiet)
    loaded = HubModel.from_pretrained(tmp_path / "hub")
    inputs = torch.rand(6, 1, 8, 8)
    expected = (classifier.model(inputs) / (1 if calibrator is None else 2.5)).log_softmax(1)
    assert loaded(inputs).detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-6)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "No evaluation was given" in card
    assert all(f"## {title}" in card for title in ("Intended use", "Method", "Data and metrics", "Limits"))
    with pytest.raises(InputError, match="made from others"):
        export(classifier, tmp_path / "hub", inputs=inputs, calibrator=replaced(calibrator), log=quiet)
    (tmp_path / "hub" / "aradals.json").unlink()
    with pytest.raises(InputError, match="nothing in"):
        export(classifier, tmp_path / "hub", inputs=inputs, log=quiet)
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    (tmp_path / "hub" / "config.json").write_text(json.dumps({**config, "model": "os:system"}))
    with pytest.raises(InputError, match="a built-in network"):
        HubModel.from_pretrained(tmp_path / "hub")


@pytest.mark.parametrize("change", ["missing", "renamed"])
def test_a_folder_for_the_hub_has_all_weights(change: str, tmp_path: Path) -> None:
    HubModel("mlp", 3, [4], {"hidden": [5]}).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    tensor = weights.pop("calibrated.linear.weight")
    save_file(weights if change == "missing" else {**weights, "other": tensor}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="all weights of the network"):
        HubModel.from_pretrained(tmp_path)


def replaced(calibrator: Calibrator | None) -> Calibrator | None:
    """Another calibrator than the given one."""
    return TEMPERATURE if calibrator is None else None


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "folder"])
def test_the_same_export_again_and_another_one(name: str, tmp_path: Path) -> None:
    """The network keeps its weights in the order of channels-last."""
    examples, path = as_examples((torch.rand(4, 1, 8, 8), torch.arange(4) % 3)), tmp_path / name
    classifier = load_classifier("small_cnn", None, examples, model_args={"width": 4}, log=quiet)
    inputs, log = torch.rand(4, 1, 8, 8), list[str]()
    given: dict[str, Any] = {"inputs": inputs, "format": None if "." in name else "safetensors", "log": log.append}
    first = export(classifier, path, **given)

    def content() -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in ([path] if path.is_file() else path.iterdir())}

    before = content()
    again = export(classifier, path, **given)
    assert (again.difference, again.description, content()) == (first.difference, first.description, before)
    assert any("already" in line for line in log) == (name != "folder")
    with pytest.raises(InputError, match="made from others"):
        export(classifier, path, calibrator=TEMPERATURE, **given)
    assert content() == before
    export(classifier, path, calibrator=TEMPERATURE, overwrite=True, **given)
    assert content() != before


def test_the_card_has_only_results_of_this_model(tmp_path: Path) -> None:
    inputs, labels = torch.rand(40, 1, 4, 4), torch.arange(40) % 2
    classifier = load_classifier("mlp", None, as_examples((inputs, labels)), log=quiet)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    classifier = replace(classifier, checkpoint=str(weights))
    results = aradals.evaluate(classifier, (inputs, labels), calibrators={"t": replace_origin(TEMPERATURE)}, log=quiet)
    given: dict[str, Any] = {"inputs": inputs, "calibrator": TEMPERATURE, "log": quiet}
    export(classifier, tmp_path / "hub", results=results, calibrator_name="t", **given)
    row = next(row for row in results.rows if row.calibrator == "t")
    assert (
        f"| accuracy | {row['accuracy'].value:.4f} | {row['accuracy'].low:.4f} to"
        in (tmp_path / "hub" / "README.md").read_text()
    )
    with pytest.raises(InputError, match="results with the calibrator other"):
        export(classifier, tmp_path / "other", results=results, calibrator_name="other", **given)
    with pytest.raises(InputError, match="do not name this file"):
        export(classifier, tmp_path / "other", results=replace(results, weights={}), calibrator_name="t", **given)
    with pytest.raises(InputError, match="--results with a safetensors folder"):
        export(classifier, tmp_path / "model.onnx", results=results, **given)
    assert not (tmp_path / "other").exists()


def replace_origin(calibrator: TemperatureScaling) -> TemperatureScaling:
    return TemperatureScaling.from_dict(calibrator.to_dict())


class Squeezed(nn.Module):
    """Loses the dimension of a batch of one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = network()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs)
        return logits.squeeze()


class Branching(Squeezed):
    """Branches on its values, which no trace can follow."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layer(inputs)
        return logits if logits.sum() > 0 else -logits


def test_bad_input_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    def refuse(match: str, name: str = "m.pt2", model: nn.Module | None = None, **more: object) -> None:
        with pytest.raises(InputError, match=match):
            export(model or network(), tmp_path / name, inputs=some_inputs(), log=quiet, **more)  # type: ignore[arg-type]

    labels, logits = torch.arange(50) % 3, network()(some_inputs()).detach()
    batch = BatchTemperature().fit(labels, logits=logits, domains=torch.arange(50) % 2)
    margin = get_calibrator("robustness_temperature").fit(labels, logits=logits, scores=torch.rand(50))
    four = get_calibrator("temperature").fit(torch.arange(50) % 4, logits=torch.randn(50, 4))
    refuse("maps each example alone, got batch_temperature", calibrator=batch)
    refuse("only a forward pass, got robustness_temperature", calibrator=margin)
    refuse("a model with 4 classes", calibrator=four)
    refuse("a batch of one", model=Squeezed().eval())
    refuse("torch.export can trace", model=Branching().eval())
    refuse("ending of its format", name="m.pb")
    refuse("ending of its format", name="m.onnx", format="torch")
    refuse("a built-in model", name="folder")
    assert list(tmp_path.glob("m*")) == []


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export_module._READERS, "torch", lambda path: lambda inputs: torch.full((len(inputs), 3), 0.3))
    path = tmp_path / "model.pt2"
    path.write_bytes(b"years of work")
    with pytest.raises(InputError, match="no file was kept"):
        export(network(), path, inputs=some_inputs(), overwrite=True, log=quiet)
    with pytest.raises(InputError, match="--overwrite"):
        export(network(), path, inputs=some_inputs(), log=quiet)
    assert path.read_bytes() == b"years of work"


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(module: str) -> builtins.object:
        raise MissingExtraError("onnxscript", "export")

    monkeypatch.setattr(export_module, "load_extra", without)
    with pytest.raises(MissingExtraError, match=r"ar-adals\[export\]"):
        export(network(), tmp_path / "model.onnx", inputs=some_inputs(), log=quiet)


def test_the_page_on_production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(network(), tmp_path / "model.onnx", inputs=some_inputs(), calibrator=TEMPERATURE, log=quiet)
    monkeypatch.chdir(tmp_path)
    (block,) = (Path(__file__).parents[2] / "docs" / "production.md").read_text().split("```python\n")[1:]
    found: dict[str, Any] = {"inputs": some_inputs().numpy(), "threshold": 0.4}
    exec(block.split("```")[0], found)
    confidence, predicted = (network()(some_inputs()) / 2.5).softmax(1).max(1)
    assert found["predicted"].tolist() == predicted.tolist()
    assert found["is_accepted"].tolist() == (confidence >= 0.4).tolist()
    assert found["description"]["num_classes"] == 3
