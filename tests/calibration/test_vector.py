"""Vector scaling against known maps, its own optimality conditions, and scipy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from aradals.calibration import TemperatureScaling, VectorScaling
from aradals.errors import InputError
from aradals.metrics import nll

WEIGHT = torch.tensor([0.4, 1.0, 0.7, 0.2, 0.5], dtype=torch.float64)
BIAS = torch.tensor([1.0, -0.5, 0.0, 0.5, -1.0], dtype=torch.float64)


def problem(n: int = 1000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits whose labels are drawn from softmax(WEIGHT * logits + BIAS)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((WEIGHT * logits + BIAS).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


def objective(weight: Tensor, bias: Tensor, logits: Tensor, labels: Tensor, pull: float = 1.0) -> Tensor:
    """As the docstring has it."""
    relative_weight = weight * TemperatureScaling().fit(labels, logits=logits).temperature - 1
    penalty = pull / (2 * len(labels)) * (relative_weight.square().sum() + bias.square().sum())
    return cross_entropy(weight * logits + bias, labels) + penalty


def test_recovers_a_known_map() -> None:
    logits, labels = problem(n=100_000)
    scaling = VectorScaling().fit(labels, logits=logits)
    assert scaling.weight.numpy() == pytest.approx(WEIGHT.numpy(), abs=0.02)
    assert scaling.bias.numpy() == pytest.approx(BIAS.numpy(), abs=0.06)


@pytest.mark.parametrize("pull", [1e-6, 1.0])
def test_gradient_is_zero(pull: float) -> None:
    logits, labels = problem()
    scaling = VectorScaling(pull).fit(labels, logits=logits)
    weight, bias = scaling.weight.clone().requires_grad_(), scaling.bias.clone().requires_grad_()
    gradients = torch.autograd.grad(objective(weight, bias, logits, labels, pull), [weight, bias])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-9
    assert float(scaling.bias.sum()) == pytest.approx(0, abs=1e-6)


def test_equals_scipy() -> None:
    logits, labels = problem()

    def value_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        both = torch.tensor(point, requires_grad=True)
        value = objective(both[:5], both[5:], logits, labels)
        value.backward()
        assert both.grad is not None
        return value.item(), both.grad.numpy()

    options = {"ftol": 0, "gtol": 1e-10, "maxiter": 1000}
    best = minimize(value_and_gradient, np.ones(10), jac=True, method="L-BFGS-B", options=options)
    scaling = VectorScaling().fit(labels, logits=logits)
    assert torch.cat([scaling.weight, scaling.bias]).numpy() == pytest.approx(best.x, abs=1e-6)
    assert objective(scaling.weight, scaling.bias, logits, labels).item() <= best.fun + 1e-12


def test_better_than_one_temperature_where_classes_differ() -> None:
    (logits, labels), (new_logits, new_labels) = problem(), problem(5000, seed=1)
    vector, plain = VectorScaling().fit(labels, logits=logits), TemperatureScaling().fit(labels, logits=logits)
    assert (
        nll(new_labels, logits=vector.predict_logits(new_logits))
        < nll(new_labels, logits=plain.predict_logits(new_logits)) - 0.05
    )


def test_an_absent_class_and_a_separable_one_have_an_optimum() -> None:
    logits, labels = problem()
    logits[:, 4] = torch.where(labels == 4, 5.0, -5.0)
    present = labels != 2
    scaling = VectorScaling().fit(labels[present], logits=logits[present])
    assert scaling.weight.isfinite().all()
    probs = scaling.predict_proba(logits[present])
    # About one imaginary example: rare, yet not impossible.
    assert 1e-4 < float(probs[:, 2].mean()) < 2e-2


def test_a_tiny_pull_on_a_separable_class_converges() -> None:
    logits, labels = problem(300)
    logits[:, 4] = torch.where(labels == 4, 5.0, -5.0)
    scaling = VectorScaling(1e-8).fit(labels, logits=logits)
    weight, bias = scaling.weight.clone().requires_grad_(), scaling.bias.clone().requires_grad_()
    gradients = torch.autograd.grad(objective(weight, bias, logits, labels, 1e-8), [weight, bias])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-8


def test_round_trip_through_json() -> None:
    logits, labels = problem()
    scaling = VectorScaling().fit(labels, logits=logits)
    restored = VectorScaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
    assert restored.predict_logits(logits).equal(scaling.predict_logits(logits))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"method": "temperature", "weight": [1.0, 1.0], "bias": [0.0, 0.0]},
        {"method": "vector", "weight": [1.0, 1.0], "bias": [0.0]},
        {"method": "vector", "weight": [1.0, None], "bias": [0.0, 0.0]},
        {"method": "vector", "weight": 1.0, "bias": 0.0},
        {"method": "vector", "weight": [[1.0], [1.0]], "bias": [0.0, 0.0]},
    ],
)
def test_bad_fields_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match="the state of a vector calibrator"):
        VectorScaling.from_dict(fields)


def test_bad_input_is_refused() -> None:
    logits, labels = problem()
    with pytest.raises(InputError, match="pull > 0"):
        VectorScaling(0)
    with pytest.raises(InputError, match="a fitted vector"):
        VectorScaling().predict_proba(logits)
    with pytest.raises(InputError, match="logits of 5 classes"):
        VectorScaling().fit(labels, logits=logits).predict_proba(logits[:, :4])
