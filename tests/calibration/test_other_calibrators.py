"""The calibrators of other methods: their equations, their optima against scipy, and what they recover."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from aradals.calibration import (
    ConsistencyCalibration,
    EnsembleTemperatureScaling,
    PNormScaling,
    SmartTemperature,
    StructuredMatrixScaling,
    TemperatureScaling,
    calibrator_from_dict,
)
from aradals.calibration.consistency import GUMBEL_SPREAD, golden_section, winning_log_probs
from aradals.calibration.ensemble_temperature import simplex_step
from aradals.calibration.smart import smooth_soft_ece
from aradals.errors import InputError
from aradals.metrics import aurc, expected_calibration_error, nll

NEW = [EnsembleTemperatureScaling, PNormScaling, ConsistencyCalibration, SmartTemperature]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(probs: Tensor, seed: int = 0) -> Tensor:
    return torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def noisy_problem(n: int = 800) -> tuple[Tensor, Tensor]:
    """Over-confident logits; a fifth of the labels is drawn at random."""
    logits = 4 * random(n, 4)
    return logits, draw(0.8 * (logits / 2).softmax(1) + 0.05)


@pytest.mark.parametrize("kind", NEW)
def test_the_prediction_stays(kind: Any) -> None:
    logits, labels = noisy_problem(100)
    calibrator = kind().fit(labels, logits=logits)
    others = 7 * random(500, 4, seed=1)
    assert calibrator.predict_logits(others).argsort(1).equal(others.argsort(1))


class TestEnsembleTemperature:
    def test_weights_equal_scipy(self) -> None:
        logits, labels = noisy_problem()
        fitted = EnsembleTemperatureScaling().fit(labels, logits=logits)
        assert fitted.temperature == TemperatureScaling().fit(labels, logits=logits).temperature
        parts = [(logits / fitted.temperature).softmax(1), logits.softmax(1), torch.full_like(logits, 0.25)]
        each = torch.stack(parts)[:, torch.arange(len(labels)), labels].numpy()

        found = minimize(
            lambda w: -np.log(w @ each).mean(),
            np.full(3, 1 / 3),
            bounds=[(0, 1)] * 3,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        assert fitted.weights == pytest.approx(found.x, abs=1e-4)
        loss = nll(labels, logits=fitted.predict_logits(logits))
        assert loss == pytest.approx(found.fun, abs=1e-9)
        assert loss < nll(labels, logits=TemperatureScaling().fit(labels, logits=logits).predict_logits(logits)) - 0.003
        mixed = sum(w * part for w, part in zip(fitted.weights, parts, strict=True))
        torch.testing.assert_close(fitted.predict_proba(logits), mixed)

    def test_labels_at_one_temperature_need_no_mixture(self) -> None:
        logits = 4 * random(5000, 4)
        fitted = EnsembleTemperatureScaling().fit(draw((logits / 2).softmax(1)), logits=logits)
        assert fitted.weights[0] > 0.9

    def test_step_on_the_simplex(self) -> None:
        """The nearest point of the simplex, which is known for these targets."""
        start = torch.full((3,), 1 / 3, dtype=torch.float64)
        for target, nearest in [
            ([0.2, 0.5, 0.3], [0.2, 0.5, 0.3]),
            ([3, 0, 0], [1, 0, 0]),
            ([1, 1, -5], [0.5, 0.5, 0]),
        ]:
            gradient = start - torch.tensor(target, dtype=torch.float64)
            step = simplex_step(start, gradient, torch.eye(3, dtype=torch.float64))
            assert (start + step).tolist() == pytest.approx(nearest, abs=1e-9)


class TestStructuredMatrix:
    def test_the_fit_is_the_minimum(self) -> None:
        """The gradient of the equation, written out, is 0 there."""
        logits, labels = noisy_problem(300)
        fitted = StructuredMatrixScaling().fit(labels, logits=logits)
        state = fitted.to_dict()
        matrix = (torch.tensor(state["weight"]).double() - torch.eye(4)).requires_grad_()
        bias = torch.tensor(state["bias"]).double().requires_grad_()
        scaled = (300 / 301 * (logits / state["temperature"]).softmax(1) + 1 / (301 * 4)).log()
        beside = matrix - matrix.diagonal().diag()
        pull = 4 / 300 * (bias.square().sum() + matrix.diagonal().square().sum()) + 12 / 300 * beside.square().sum()
        log_probs = (scaled @ (torch.eye(4) + matrix).T + bias).log_softmax(1)
        loss = pull - log_probs[torch.arange(300), labels].mean()
        for gradient in torch.autograd.grad(loss, [matrix, bias]):
            assert gradient.abs().max() < 1e-7
        torch.testing.assert_close(fitted.predict_proba(logits), log_probs.exp().detach())

    def test_is_close_to_the_library_of_its_authors(self) -> None:
        """The temperature of the library has no pull, and it computes in single precision."""
        pytest.importorskip("probmetrics.calibrators", exc_type=ImportError)
        from probmetrics.calibrators import SMSCalibrator

        logits = 4 * random(800, 4)
        labels = draw((logits @ (torch.eye(4) + 0.3 * random(4, 4, seed=2)) / 2).softmax(1))
        library = SMSCalibrator()
        library.fit(logits.softmax(1).numpy(), labels.numpy())
        expected = torch.tensor(library.predict_proba(logits.softmax(1).numpy()))
        found = StructuredMatrixScaling().fit(labels, logits=logits)
        torch.testing.assert_close(found.predict_proba(logits), expected, rtol=0, atol=0.005)
        plain = TemperatureScaling().fit(labels, logits=logits)
        losses = [nll(labels, logits=each.predict_logits(logits)) for each in (found, plain)]
        assert losses[0] < losses[1] - 0.05

    def test_masked_classes_and_logits_shifted_by_a_constant(self) -> None:
        logits, labels = noisy_problem(200)
        fitted = StructuredMatrixScaling().fit(labels, logits=logits)
        torch.testing.assert_close(fitted.predict_proba(logits + 7), fitted.predict_proba(logits))
        masked = logits.index_fill(1, torch.tensor([2]), -math.inf)
        assert fitted.predict_proba(masked)[:, 2].max() == 0
        assert fitted.predict_logits(masked)[:, [0, 1, 3]].isfinite().all()

    def test_two_classes_and_a_class_that_is_absent(self) -> None:
        logits = 2 * random(60, 2)
        assert (
            StructuredMatrixScaling()
            .fit(draw(logits.softmax(1)), logits=logits)
            .predict_logits(logits)
            .isfinite()
            .all()
        )
        logits = 2 * random(60, 3)
        fitted = StructuredMatrixScaling().fit(logits[:, :2].argmax(1), logits=logits)
        assert fitted.predict_logits(logits).isfinite().all()


class TestPNorm:
    @pytest.mark.parametrize("order", [0, 1, 2, 3, 8])
    def test_equation(self, order: int) -> None:
        logits = 5 + random(20, 6)
        scaling = PNormScaling.from_dict({"method": "pnorm", "order": order, "length": 3.0})
        centered = logits - logits.mean(1, keepdim=True)
        norm = torch.linalg.vector_norm(centered, order, dim=1, keepdim=True) if order else 1
        torch.testing.assert_close(scaling.predict_logits(logits), 3 * centered / norm)

    def test_finds_the_best_ranking_of_all_orders(self) -> None:
        """The length of the logits is noise, and only their directions tell how sure a prediction is."""
        logits = random(1500, 5)
        labels = draw((4 * logits / logits.norm(dim=1, keepdim=True)).softmax(1))
        logits *= (1.5 * random(1500, 1, seed=3)).exp()
        scaling = PNormScaling().fit(labels, logits=logits)
        found = aurc(labels, logits=scaling.predict_logits(logits))
        assert scaling.order > 0
        assert found < aurc(labels, logits=logits) - 0.02
        for order in range(9):
            fields = {"method": "pnorm", "order": order, "length": scaling.length}
            assert found <= aurc(labels, logits=PNormScaling.from_dict(fields).predict_logits(logits)) + 0.003
        longer = logits * torch.rand(1500, 1).double().add(0.1)
        torch.testing.assert_close(scaling.predict_logits(longer), scaling.predict_logits(logits))

    def test_without_wrong_predictions_it_is_temperature_scaling(self) -> None:
        logits = 3 * random(50, 3)
        labels = logits.argmax(1)
        with pytest.warns(UserWarning, match="predicted right"):
            scaling, plain = (kind().fit(labels, logits=logits) for kind in (PNormScaling, TemperatureScaling))
        assert scaling.order == 0
        torch.testing.assert_close(scaling.predict_proba(logits), plain.predict_proba(logits))

    def test_equal_and_huge_logits(self) -> None:
        scaling = PNormScaling.from_dict({"method": "pnorm", "order": 5, "length": 2.0})
        logits = torch.tensor([[3.0, 3.0], [1e200, -1e200]], dtype=torch.float64)
        assert scaling.predict_logits(logits)[0].tolist() == [0, 0]
        assert scaling.predict_logits(logits)[1].tolist() == pytest.approx([2**0.8, -(2**0.8)])


class TestConsistency:
    def test_two_classes_in_closed_form(self) -> None:
        gap = torch.linspace(-15, 15, 31, dtype=torch.float64)
        found = winning_log_probs(torch.stack([gap, torch.zeros_like(gap)], 1), torch.tensor(1.5).double())
        expected = torch.special.log_ndtr(gap / (1.5 * math.sqrt(2)))
        torch.testing.assert_close(found[:, 0], expected, rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("k", [5, 1000])
    def test_equal_classes(self, k: int) -> None:
        found = winning_log_probs(torch.zeros(1, k, dtype=torch.float64), torch.tensor(2.0).double())
        assert found.exp().numpy() == pytest.approx(1 / k)

    def test_shares_of_winners(self) -> None:
        logits = torch.tensor([2.0, 1.0, 0.5, -3.0], dtype=torch.float64)
        winners = (logits + 1.2 * random(400_000, 4)).argmax(1).bincount(minlength=4) / 400_000
        found = winning_log_probs(logits[None], torch.tensor(1.2).double()).exp()[0]
        assert found.numpy() == pytest.approx(winners.numpy(), abs=0.003)

    def test_recovers_the_noise(self) -> None:
        logits = 4 * random(4000, 4)
        labels = (logits + 2 * random(4000, 4, seed=1)).argmax(1)
        assert ConsistencyCalibration().fit(labels, logits=logits).noise == pytest.approx(2, rel=0.05)

    def test_equals_scipy(self) -> None:
        logits, labels = noisy_problem(300)

        def loss(log_noise: float) -> float:
            log_probs = winning_log_probs(logits, torch.tensor(log_noise).double().exp())
            pull = (log_noise - math.log(GUMBEL_SPREAD)) ** 2 / 2
            return float(torch.nn.functional.nll_loss(log_probs, labels, reduction="sum")) + pull

        best = minimize_scalar(loss, bounds=(-3, 4), method="bounded", options={"xatol": 1e-7}).x
        assert ConsistencyCalibration().fit(labels, logits=logits).noise == pytest.approx(math.exp(best), rel=1e-4)

    def test_golden_section(self) -> None:
        assert golden_section(lambda x: (x - 0.3) ** 2, -1, 2) == pytest.approx(0.3, abs=1e-5)
        assert golden_section(abs, 0, 1) == pytest.approx(0, abs=1e-5)


class TestSmart:
    def test_smooth_soft_ece_by_hand(self) -> None:
        confidence = torch.tensor([0.3, 0.55, 0.8, 0.99], dtype=torch.float64)
        correct = torch.tensor([0.0, 1, 1, 1], dtype=torch.float64)
        centers = [(b + 0.5) / 15 for b in range(15)]
        kernel = [[math.exp(-((float(c) - mu) ** 2) / (2 * 0.05**2)) for mu in centers] for c in confidence]
        share = [[value / sum(row) for value in row] for row in kernel]
        total = 0.0
        for b in range(15):
            mass = sum(row[b] for row in share)
            conf, acc = (
                sum(row[b] * float(x) for row, x in zip(share, v, strict=True)) / mass for v in (confidence, correct)
            )
            total += mass / 4 * math.sqrt((conf - acc) ** 2 + 1e-6)
        assert float(smooth_soft_ece(confidence, correct)) == pytest.approx(total)
        assert float(smooth_soft_ece(confidence, confidence)) == pytest.approx(1e-3)

    def test_recovers_a_temperature_that_depends_on_the_margin(self) -> None:
        """Predictions with a margin above 4 are over-confident by 3, the others are right as they are.

        The network smooths the jump, so that the temperatures are only roughly these.
        """
        logits = 4 * random(2000, 4)
        top = logits.topk(2, 1).values
        over = (top[:, 0] - top[:, 1] > 4)[:, None]
        labels = draw((logits / torch.where(over, 3.0, 1.0)).softmax(1))
        fitted = SmartTemperature().fit(labels, logits=logits)
        low, high = fitted.temperature_for(torch.tensor([1.5, 8.0])).tolist()
        assert 0.5 < low < 1.5
        assert 2 < high < 6
        plain = TemperatureScaling().fit(labels, logits=logits)
        errors = [expected_calibration_error(labels, logits=c.predict_logits(logits)) for c in (fitted, plain)]
        assert errors[0] < errors[1] / 2

    def test_has_no_chance_in_it(self) -> None:
        logits, labels = noisy_problem(50)
        torch.manual_seed(1)
        first = SmartTemperature().fit(labels, logits=logits).to_dict()
        torch.manual_seed(2)
        with torch.inference_mode():
            assert SmartTemperature().fit(labels, logits=logits).to_dict() == first
        state = torch.get_rng_state()
        SmartTemperature().fit(labels[:20], logits=logits[:20])
        assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("kind", [*NEW, StructuredMatrixScaling])
def test_state_as_json(kind: Any) -> None:
    logits, labels = noisy_problem(50)
    calibrator = kind().fit(labels, logits=logits)
    restored = calibrator_from_dict(json.loads(json.dumps(calibrator.to_dict())))
    assert type(restored) is kind
    assert restored.predict_logits(logits).equal(calibrator.predict_logits(logits))


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "ensemble_temperature", "temperature": 2.0, "weights": [0.5, 0.5]},
        {"method": "ensemble_temperature", "temperature": 2.0, "weights": [0.9, 0.9, -0.8]},
        {"method": "ensemble_temperature", "temperature": 0, "weights": [1, 0, 0]},
        {"method": "structured_matrix", "temperature": 0, "uniform": 0.1, "weight": [[1, 0], [0, 1]], "bias": [0, 0]},
        {"method": "structured_matrix", "temperature": 1, "uniform": 0.1, "weight": [[1, 0], [0]], "bias": [0, 0]},
        {"method": "structured_matrix", "temperature": 1, "uniform": 0.1, "weight": [[1]], "bias": [0]},
        {"method": "pnorm", "order": 9, "length": 1.0},
        {"method": "pnorm", "order": 1.5, "length": 1.0},
        {"method": "pnorm", "order": 2, "length": -1.0},
        {"method": "consistency", "noise": 0},
        {"method": "consistency"},
        {"method": "smart_temperature", "margin": [0.0, 1.0], "weights": [0.0] * 320},
        {"method": "smart_temperature", "margin": [0.0, 0.0], "weights": [0.0] * 321},
    ],
)
def test_states_that_no_fit_makes(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"the state of a {fields['method']} calibrator"):
        calibrator_from_dict(fields)
