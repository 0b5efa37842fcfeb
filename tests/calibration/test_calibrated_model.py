"""A model with its calibrator inside."""

from __future__ import annotations

import copy
from pathlib import Path

import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor, nn

import aradals
from aradals.calibration import CALIBRATORS, BatchTemperature, CalibratedModel, Calibrator, get_calibrator, scores_for
from aradals.errors import InputError
from aradals.inference.predictions import predict
from aradals.metrics import nll

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
    if isinstance(calibrator, BatchTemperature):  # the surest half stands for the examples that have not drifted
        confidence = predictions.probs.amax(1)
        domains = (confidence < confidence.median()).long()
        return calibrator.fit(predictions.labels, logits=predictions.logits, domains=domains)
    calibrator.fit(
        predictions.labels, logits=predictions.logits, scores=scores_for(calibrator, model, batches, predictions.ids)
    )
    return calibrator


@pytest.mark.parametrize("name", CALIBRATORS)
def test_equals_its_parts(name: str, model: nn.Module) -> None:
    calibrator, (ids, inputs, labels) = fitted(name, model), examples(model, seed=1)
    logits = predict(model, [(ids, inputs, labels)]).logits
    expected = calibrator.predict_proba(logits, scores_for(calibrator, model, [(ids, inputs, labels)], ids))
    combined = CalibratedModel(model, calibrator)
    for context in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with context():
            log_probs = combined(inputs)
        assert log_probs.dtype == torch.float32
        assert log_probs.detach().exp().numpy() == pytest.approx(expected.numpy(), abs=2e-5)


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
    calibrator.fit(labels, logits=9 * model(inputs))
    assert combined(inputs).equal(before)


@pytest.mark.parametrize("name", EXPORTABLE)
def test_export(name: str, model: nn.Module) -> None:
    combined, (_, inputs, _) = CalibratedModel(model, fitted(name, model)).eval(), examples(model, seed=1)
    batch = torch.export.Dim("batch", min=2, max=4096)
    exported = torch.export.export(combined, (inputs[:5],), dynamic_shapes=({0: batch},))
    assert exported.module()(inputs).detach().numpy() == pytest.approx(combined(inputs).detach().numpy(), abs=1e-6)


@pytest.mark.parametrize("name", EXPORTABLE)
def test_onnx(name: str, model: nn.Module, tmp_path: Path) -> None:
    calibrator, (_, inputs, _) = fitted(name, model), examples(model, seed=1)
    logits = model(inputs).detach()
    for module, given in ((calibrator.eval(), logits), (CalibratedModel(model, calibrator).eval(), inputs)):
        shapes = ({0: torch.export.Dim("batch", min=2, max=4096)},)
        torch.onnx.export(
            module, (given[:5],), tmp_path / "model.onnx", dynamo=True, verbose=False, dynamic_shapes=shapes
        )
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        for some in (given, given[:3]):
            (found,) = session.run(None, {session.get_inputs()[0].name: some.numpy()})
            # A step of isotonic regression enlarges the rounding of the model.
            tolerance = 1e-5 if module is calibrator else 1e-3
            assert torch.from_numpy(found).softmax(1).numpy() == pytest.approx(
                module(some).detach().softmax(1).numpy(), abs=tolerance
            )


@pytest.mark.parametrize("name", EXPORTABLE)
def test_a_sequential_model_returns_calibrated_logits(name: str, model: nn.Module) -> None:
    calibrator, (_, inputs, _) = fitted(name, model), examples(model, seed=1)
    with torch.no_grad():
        probs = nn.Sequential(model, calibrator)(inputs).softmax(1)
        assert probs.numpy() == pytest.approx(CalibratedModel(model, calibrator)(inputs).exp().numpy(), abs=1e-6)


def test_a_sequential_model_lacks_first_order_margins(model: nn.Module) -> None:
    with pytest.raises(InputError, match="the finite first_order_margin of each of 400 examples, got none"):
        nn.Sequential(model, fitted("robustness_temperature", model))(examples(model)[1])


@pytest.mark.parametrize("name", ["temperature", "isotonic"])
def test_it_is_a_model_like_any_other(name: str, model: nn.Module) -> None:
    """The calibrated model is better calibrated than the model, and is accepted wherever a model is."""
    combined, (_, inputs, labels) = CalibratedModel(model, fitted(name, model)), examples(model, n=1000, seed=1)
    found = {}
    for each in (model, combined):
        (row,) = aradals.evaluate(each, (inputs, labels), log=lambda line: None).rows
        assert row["nll"].value == pytest.approx(nll(labels, logits=each(inputs)), abs=1e-5)
        found[each] = row["ece"].value
    assert found[combined] < found[model] / 2
    diagnosis = aradals.diagnose(combined, (inputs, labels), num_subsets=2, audit=0, log=lambda line: None)
    assert diagnosis.rows[0]["ece"].value == pytest.approx(found[combined], abs=1e-5)
    if name == "temperature":  # all logits are divided by it, so that the boundary stays where it is
        scores = [aradals.score(each, inputs[:50], "first_order_margin").score for each in (model, combined)]
        assert scores[0].numpy() == pytest.approx(scores[1].numpy(), rel=1e-3)


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
