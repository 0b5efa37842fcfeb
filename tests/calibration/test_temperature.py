"""Temperature scaling against known temperatures and independent optimizers."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor

from aradals.calibration import TemperatureScaling, calibrator_from_dict, get_calibrator
from aradals.errors import InputError
from aradals.metrics import accuracy, nll


def problem(temperature: float, n: int = 1000, num_classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits whose labels are drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * temperature * torch.randn(n, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


@pytest.mark.parametrize("temperature", [1e-5, 0.006, 0.05, 0.5, 1.0, 2.5, 40.0, 1e4])
def test_recovers_a_known_temperature(temperature: float) -> None:
    scaling = TemperatureScaling().fit(*problem(temperature, n=40_000))
    assert scaling.temperature == pytest.approx(temperature, rel=0.03)
    assert not scaling.problem


def objective(log_temperature: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """As the docstring has it."""
    loss = torch.nn.functional.cross_entropy(logits / log_temperature.exp(), labels)
    return loss + log_temperature**2 / (2 * len(labels))


def test_closed_form() -> None:
    """Three of four right at logit difference 4: the derivative by log T is log T + 16 b s(4 b) - 12 b, b = 1 / T."""
    logits, labels = torch.tensor([[4.0, 0.0]]).repeat(4, 1), torch.tensor([0, 0, 0, 1])
    scaling = TemperatureScaling().fit(logits, labels)
    beta = 1 / scaling.temperature
    share = 1 / (1 + math.exp(-4 * beta))
    assert math.log(scaling.temperature) + 12 * beta - 16 * beta * share == pytest.approx(0, abs=1e-9)
    probs = scaling.predict_proba(logits)
    assert probs.dtype == torch.float64
    assert probs[0].tolist() == pytest.approx([share, 1 - share])
    many = TemperatureScaling().fit(logits.repeat(5000, 1), labels.repeat(5000))  # the pull is one of 20,000 parts
    assert many.temperature == pytest.approx(4 / math.log(3), rel=5e-4)


@given(st.integers(0, 10**6), st.floats(0.2, 8.0), st.integers(2, 8))
@settings(max_examples=20)
def test_no_optimizer_finds_a_lower_objective(seed: int, temperature: float, num_classes: int) -> None:
    logits, labels = problem(temperature, n=200, num_classes=num_classes, seed=seed)
    scaling = TemperatureScaling().fit(logits, labels)

    def loss(log_temperature: float) -> float:
        return float(objective(torch.tensor(log_temperature), logits, labels))

    best = minimize_scalar(loss, bounds=(-4.6, 4.6), method="bounded", options={"xatol": 1e-10}).fun
    assert loss(math.log(scaling.temperature)) <= best + 1e-8


def test_equals_lbfgs_and_scikit_learn() -> None:
    logits, labels = problem(2.0)
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(log_temperature, logits, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    scaling = TemperatureScaling().fit(logits, labels)
    assert scaling.temperature == pytest.approx(log_temperature.exp().item(), rel=1e-4)
    assert objective(torch.tensor(scaling.temperature).log(), logits, labels) <= closure() + 1e-12

    from sklearn.calibration import _TemperatureScaling

    beta = _TemperatureScaling().fit(logits.numpy(), labels.numpy()).beta_
    fitted = nll(labels, logits=scaling.predict_logits(logits))
    assert fitted == pytest.approx(nll(labels, logits=logits * beta), abs=1e-6)  # which has no pull


def test_equals_probmetrics() -> None:
    pytest.importorskip("probmetrics.calibrators", exc_type=ImportError)
    from probmetrics.calibrators import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits

    logits, labels = problem(2.0)
    other = TemperatureScalingCalibrator(opt="bisection")
    other.fit_torch(CategoricalLogits(logits), labels)
    probs = other.predict_proba_torch(CategoricalLogits(logits)).get_probs()
    fitted = nll(labels, probs=TemperatureScaling().fit(logits, labels).predict_proba(logits))
    assert fitted == pytest.approx(nll(labels, probs=probs), abs=1e-6)  # which has no pull


def test_accuracy_does_not_change() -> None:
    logits, labels = problem(3.0)
    scaling = TemperatureScaling().fit(logits, labels)
    assert accuracy(labels, logits=scaling.predict_logits(logits)) == accuracy(labels, logits=logits)


def test_float32_and_shifted_logits_give_the_same_temperature() -> None:
    logits, labels = problem(2.0)
    expected = TemperatureScaling().fit(logits, labels).temperature
    assert TemperatureScaling().fit(logits.float(), labels).temperature == pytest.approx(expected, rel=1e-6)
    shifted = logits + 1000 * torch.randn(len(logits), 1, dtype=torch.float64)
    assert TemperatureScaling().fit(shifted, labels).temperature == pytest.approx(expected, rel=1e-6)


def test_a_model_without_an_error_on_few_examples_stays_good() -> None:
    """The NLL alone would make the 100 right predictions sure, and the model costly at its first error."""
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(20_000, 10, generator=generator, dtype=torch.float64)
    logits[torch.arange(20_000), logits.argmax(1)] += 5
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    right = (logits.argmax(1) == labels).nonzero()[:100, 0]
    with pytest.warns(UserWarning, match="pull to 1: every label of these 100 examples is predicted right"):
        scaling = TemperatureScaling().fit(logits[right], labels[right])
    assert scaling.problem
    assert 0.5 < scaling.temperature < 1
    assert nll(labels, logits=scaling.predict_logits(logits)) < nll(labels, logits=logits) + 0.005


@pytest.mark.parametrize(("boost", "share"), [(7.1, 0.9), (10.5, 0.99), (13, 0.999)])
@pytest.mark.parametrize("n", [20, 100, 500])
def test_the_fit_costs_less_than_one_nth_where_one_is_right(boost: float, share: float, n: int) -> None:
    """Fits to many calibration splits of a model that is calibrated already; the cost is that on all examples."""
    generator = torch.Generator().manual_seed(n)
    logits = 2 * torch.randn(8000, 10, generator=generator, dtype=torch.float64)
    logits[:, 0] += boost
    probs = logits.softmax(1)
    assert float(probs.amax(1).mean()) == pytest.approx(share, abs=(1 - share) / 2)

    def cost(temperature: float) -> float:
        return float(-(probs * (logits / temperature).log_softmax(1)).sum(1).mean())

    costs = []
    for _ in range(120):
        rows = torch.randint(8000, (n,), generator=generator)
        labels = torch.multinomial(probs[rows], 1, generator=generator)[:, 0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            costs.append(cost(TemperatureScaling().fit(logits[rows], labels).temperature) - cost(1.0))
    assert sum(costs) / len(costs) < 1 / n


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_all_labels_right_sharpens_a_little(scale: float) -> None:
    logits, _ = problem(1.0)
    with pytest.warns(UserWarning, match="every label of these 1000 examples is predicted right"):
        scaling = TemperatureScaling().fit(scale * logits, logits.argmax(1))
    restored = TemperatureScaling.from_dict(scaling.to_dict())
    assert restored.problem == scaling.problem
    before, after = (nll(logits.argmax(1), logits=z) for z in (scale * logits, scaling.predict_logits(scale * logits)))
    assert after <= before + 1e-12


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_no_signal_softens(factor: float) -> None:
    logits, labels = problem(1.0)
    with pytest.warns(UserWarning, match="no better than chance"):
        scaling = TemperatureScaling().fit(factor * logits, labels)
    assert nll(labels, logits=scaling.predict_logits(factor * logits)) == pytest.approx(math.log(5), abs=0.05)


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e4, 1e6])
def test_any_scale_of_the_logits_will_do(factor: float) -> None:
    logits, labels = problem(1.0, n=5000)
    plain, scaled = (TemperatureScaling().fit(z, labels).predict_logits(z) for z in (logits, factor * logits))
    assert nll(labels, logits=scaled) == pytest.approx(nll(labels, logits=plain), abs=1e-4)


def test_scores_are_ignored() -> None:
    logits, labels = problem(2.0)
    scaling = TemperatureScaling().fit(logits, labels, torch.zeros(3))
    assert scaling.temperature == TemperatureScaling().fit(logits, labels).temperature
    assert scaling.predict_proba(logits, torch.zeros(3)).equal(scaling.predict_proba(logits))


def test_no_warning_inside_the_bounds() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TemperatureScaling().fit(*problem(1.0))


def test_round_trip_through_json() -> None:
    logits, labels = problem(2.0)
    scaling = get_calibrator("temperature").fit(logits, labels)
    fields = json.loads(json.dumps(scaling.to_dict()))
    assert fields.keys() == {"method", "temperature"}
    restored = calibrator_from_dict(fields)
    assert np.array_equal(restored.predict_proba(logits), scaling.predict_proba(logits))


@pytest.mark.parametrize(
    "fields",
    [{}, {"method": "platt", "temperature": 1.0}, {"method": "temperature", "temperature": "hot"}]
    + [{"method": "temperature", "temperature": bad} for bad in (0, -1.0, math.nan, math.inf, True)],
)
def test_bad_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match="the state of a temperature calibrator"):
        TemperatureScaling.from_dict(fields)


def test_unfitted_is_refused() -> None:
    logits, _ = problem(1.0)
    for use in (
        lambda: TemperatureScaling().temperature,
        lambda: TemperatureScaling().predict_proba(logits),
        lambda: TemperatureScaling().to_dict(),
    ):
        with pytest.raises(InputError, match="a fitted temperature"):
            use()


def test_bad_input_is_refused() -> None:
    logits, labels = problem(1.0, n=10)
    cases = [
        (logits * math.nan, labels, "finite logits"),
        (logits.softmax(1), labels, "got probabilities"),
        (logits[:0], labels[:0], "at least one example"),
        (logits, labels + 5, "labels from 0 to 4"),
        (logits, labels[:3], "integer labels"),
    ]
    for bad_logits, bad_labels, message in cases:
        with pytest.raises(InputError, match=message):
            TemperatureScaling().fit(bad_logits, bad_labels)
    with pytest.raises(InputError, match="finite logits"):
        TemperatureScaling().fit(logits, labels).predict_proba(logits * math.nan)
