"""A model with its calibrator inside."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aradals.calibration import CALIBRATORS, CalibratedModel, Calibrator, get_calibrator, scores_for
from aradals.errors import InputError
from aradals.inference.predictions import predict

EXPORTABLE = [name for name in CALIBRATORS if get_calibrator(name).score != "first_order_margin"]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Linear(32, 4))
    with torch.no_grad():
        for parameter in layers[-1].parameters():
            parameter.mul_(8)
    return layers.eval()


def examples(model: nn.Module, n: int = 400, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, inputs, labels); the model is over-confident, most of all where the second input is small."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(n, 3, 2, 2, generator=generator)
    with torch.no_grad():
        probs = ((0.1 + 0.5 * inputs[:, 0, 0, 1, None]) * model(inputs)).softmax(1)
    # Ids in another order than that of the examples.
    return torch.randperm(n, generator=generator), inputs, torch.multinomial(probs, 1, generator=generator)[:, 0]


def fitted(name: str, model: nn.Module) -> Calibrator:
    calibrator, batches = get_calibrator(name), [examples(model)]
    predictions = predict(model, batches)
    calibrator.fit(predictions.logits, predictions.labels, scores_for(calibrator, model, batches, predictions.ids))
    return calibrator


@pytest.mark.parametrize("name", CALIBRATORS)
def test_equals_its_parts(name: str, model: nn.Module) -> None:
    calibrator, (ids, inputs, labels) = fitted(name, model), examples(model, seed=1)
    logits = predict(model, [(ids, inputs, labels)]).logits
    expected = calibrator.predict_proba(logits, scores_for(calibrator, model, [(ids, inputs, labels)], ids))
    combined = CalibratedModel(model, calibrator)
    for context in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with context():
            probs = combined(inputs)
        assert probs.dtype == torch.float32
        assert probs.detach().numpy() == pytest.approx(expected.numpy(), abs=2e-5)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_what_was_fitted_is_in_the_state_dict(name: str, model: nn.Module, tmp_path: Path) -> None:
    calibrator, (_, inputs, _) = fitted(name, model), examples(model, seed=1)
    combined = CalibratedModel(model, calibrator)
    torch.save(combined.state_dict(), tmp_path / "model.pt")
    other = CalibratedModel(model, type(calibrator).from_dict(calibrator.to_dict()))
    for buffer in other.calibrator.buffers():
        buffer.zero_()
    other.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert other(inputs).equal(combined(inputs))
    moved = copy.deepcopy(combined).to("meta")
    assert all(tensor.device.type == "meta" for tensor in moved.state_dict().values())


def test_single_precision_is_enough(model: nn.Module) -> None:
    _, inputs, _ = examples(model)
    for name in ("temperature", "vector", "margin_temperature", "robustness_temperature"):
        exact = CalibratedModel(model, fitted(name, model))
        expected = exact(inputs)
        assert exact.float()(inputs).detach().numpy() == pytest.approx(expected.detach().numpy(), abs=1e-4)


def test_a_later_fit_does_not_reach_it(model: nn.Module) -> None:
    calibrator, (_, inputs, labels) = fitted("temperature", model), examples(model)
    combined = CalibratedModel(model, calibrator)
    before = combined(inputs)
    calibrator.fit(9 * model(inputs), labels)
    assert combined(inputs).equal(before)


@pytest.mark.parametrize("name", EXPORTABLE)
def test_export(name: str, model: nn.Module) -> None:
    combined, (_, inputs, _) = CalibratedModel(model, fitted(name, model)).eval(), examples(model, seed=1)
    batch = torch.export.Dim("batch", min=2, max=4096)
    exported = torch.export.export(combined, (inputs[:5],), dynamic_shapes=({0: batch},))
    assert exported.module()(inputs).detach().numpy() == pytest.approx(combined(inputs).detach().numpy(), abs=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs onnx, onnxscript and onnxruntime")
@pytest.mark.parametrize("name", ["temperature", "vector", "margin_temperature"])
def test_onnx(name: str, model: nn.Module, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    combined, (_, inputs, _) = CalibratedModel(model, fitted(name, model)).eval(), examples(model, seed=1)
    torch.onnx.export(combined, (inputs,), tmp_path / "model.onnx", dynamo=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (probs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    assert probs == pytest.approx(combined(inputs).detach().numpy(), abs=1e-5)


def test_bad_input_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="a fitted temperature"):
        CalibratedModel(model, CALIBRATORS["temperature"]())
    with pytest.raises(InputError, match="a calibrator of aradals"):
        CalibratedModel(model, nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"inputs in \[0, 1\]"):
        CalibratedModel(model, fitted("robustness_temperature", model))(2 * examples(model)[1])


def test_scores_are_looked_up_by_id(model: nn.Module) -> None:
    ids, inputs, labels = examples(model)
    calibrator = get_calibrator("robustness_temperature")
    scores = scores_for(calibrator, model, [(ids, inputs, labels)], ids)
    alone = scores_for(calibrator, model, inputs[7:8], torch.tensor([0]))
    assert scores is not None
    assert alone is not None
    assert float(scores[7]) == pytest.approx(float(alone[0]), rel=1e-4)
    assert scores_for(get_calibrator("margin_temperature"), model, inputs, ids) is None
