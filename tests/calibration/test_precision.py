"""Calibrated models, metrics and networks in half precision: their state keeps its precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aradals.calibration import CALIBRATORS, BatchTemperature, CalibratedModel, Calibrator, get_calibrator
from aradals.checks import check_probs, kind_of_outputs
from aradals.errors import InputError
from aradals.metrics import expected_calibration_error
from aradals.metrics import torchmetrics as classes
from aradals.models import Normalize

HALF = [torch.float16, torch.bfloat16]


def data(n: int = 70_000) -> tuple[Tensor, Tensor]:
    """Logits that half precision represents exactly, of more examples than float16 can count."""
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(n, 4, generator=generator)).bfloat16().float().clamp(-4, 4)
    logits = (logits * 8).round() / 8
    return logits, torch.multinomial((logits / 2).softmax(1), 1, generator=generator)[:, 0]


@pytest.fixture(scope="module")
def fitted() -> dict[str, Calibrator]:
    found: dict[str, Calibrator] = {}
    for name in CALIBRATORS:
        logits, labels = data(2000 if "temperature" in name else 70_000)
        scores = logits.topk(2).values.diff()[:, 0].abs()
        calibrator = get_calibrator(name)
        if isinstance(calibrator, BatchTemperature):
            confidence = logits.softmax(1).amax(1)
            domains = (confidence < confidence.median()).long()
            found[name] = calibrator.fit(labels, logits=logits, domains=domains)
        else:
            found[name] = calibrator.fit(labels, logits=logits, scores=scores)
    return found


class Linear(nn.Module):
    """Logits that are the inputs, in the precision of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * (8 * inputs - 4)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_calibrated_model_in_half_precision(name: str, dtype: torch.dtype, fitted: dict[str, Calibrator]) -> None:
    inputs = torch.arange(0, 65, dtype=torch.float32)[torch.randint(65, (500, 4))] / 64
    exact = CalibratedModel(Linear(), fitted[name])(inputs)
    casts = [lambda m: m.to(dtype), nn.Module.half if dtype == torch.float16 else nn.Module.bfloat16]
    for cast in casts:
        model = cast(CalibratedModel(Linear(), fitted[name]))
        assert {buffer.dtype for buffer in model.calibrator.buffers() if buffer.is_floating_point()} == {torch.float64}
        log_probs = model(inputs.to(dtype))
        assert log_probs.dtype == dtype
        assert (log_probs / exact - 1).abs().max() < torch.finfo(dtype).eps
        assert kind_of_outputs(log_probs) == "log-probabilities"
        expected_calibration_error(torch.zeros(500, dtype=torch.long), logits=log_probs)


def test_casting_back_loses_nothing(fitted: dict[str, Calibrator]) -> None:
    logits, _ = data(100)
    model = CalibratedModel(nn.Identity(), fitted["isotonic"])
    before = model(logits)
    assert model.half().double().float()(logits).equal(before)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_probabilities_may_be_rounded_to_their_dtype_and_no_more(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for num_classes in (2, 10, 1000, 50_000):
        probs = torch.randn(50, num_classes, generator=generator, dtype=torch.float64).softmax(1)
        check_probs(probs.to(dtype))
        check_probs(torch.eye(2).repeat(5, 1).to(dtype))
        with pytest.raises(InputError, match="50 of 50 rows"):
            check_probs((0.97 * probs).to(dtype))
    with pytest.raises(InputError, match="sum to 1"):
        check_probs(torch.tensor([[0.5, 0.502]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", HALF)
def test_metrics_count_beyond_half_precision(dtype: torch.dtype) -> None:
    logits, labels = data()
    for make in (classes.Accuracy, classes.NLL, classes.ExpectedCalibrationError, classes.AURC):
        plain, metric = make(), make()
        inside = nn.ModuleDict({"metric": metric})
        plain.update(labels, logits=logits)
        inside.to(dtype)
        metric.update(labels[:40_000], logits=logits[:40_000])
        inside.to(dtype)
        metric.set_dtype(dtype)
        metric.update(labels[40_000:], logits=logits[40_000:])
        assert float(metric.compute()) == pytest.approx(float(plain.compute()), rel=1e-9)


@pytest.mark.parametrize("dtype", HALF)
def test_normalization_keeps_its_constants(dtype: torch.dtype) -> None:
    inputs = torch.rand(2, 3, 4, 4).to(dtype)
    expected = Normalize(3)(inputs.float())
    found = Normalize(3).to(dtype)(inputs)
    assert found.dtype == dtype
    assert found.equal(expected.to(dtype))
