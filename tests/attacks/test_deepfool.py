from __future__ import annotations

import pytest
import torch
from attack_problems import Ring, box_problem, linear_problem, trained_digits
from foolbox.attacks.deepfool import L2DeepFoolAttack
from foolbox.models.pytorch import PyTorchModel
from torch import nn

from aradals.attacks import deepfool
from aradals.errors import InputError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8,), (3, 4, 4), (2, 30)])
@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_exact_on_linear_models(shape: tuple[int, ...], num_classes: int, dtype: torch.dtype) -> None:
    model, inputs, distances = linear_problem(shape, num_classes, dtype=dtype)
    result = deepfool(model, inputs, num_candidates=num_classes)
    assert result.success.all()
    torch.testing.assert_close(result.norm, 1.01 * distances, rtol=2e-3, atol=0)
    assert torch.equal(result.num_forward, result.num_backward + 1)
    assert result.num_backward.eq(num_classes - 1).all()


def test_smaller_overshoot_is_closer() -> None:
    model, inputs, distances = linear_problem((8,), 3)
    torch.testing.assert_close(deepfool(model, inputs, overshoot=1e-4).norm, 1.0001 * distances)


def test_exact_where_the_box_is_active() -> None:
    model, inputs, distances = box_problem()
    ratio = deepfool(model, inputs).norm / distances
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.012


def test_approaches_a_circle_from_outside() -> None:
    inputs = torch.tensor([[0.9, 0.5], [0.1, 0.2], [0.5, 0.85]], dtype=torch.float64)
    distances = (inputs - 0.5).norm(dim=1) - Ring.radius
    ratio = deepfool(Ring(), inputs).norm / distances
    assert ratio.min() >= 1
    assert ratio.max() <= 1.02


def test_not_worse_than_foolbox() -> None:
    model, inputs = trained_digits()
    predicted = model(inputs).argmax(1)
    peer = L2DeepFoolAttack(overshoot=0.01)
    _, adv_inputs, success = peer(PyTorchModel(model, bounds=(0, 1)), inputs, predicted, epsilons=None)
    peer_norm = (adv_inputs - inputs).norm(dim=1)
    result = deepfool(model, inputs)
    assert success.all()
    assert result.success.all()
    assert result.norm.median() <= 1.02 * peer_norm.median()
    assert torch.corrcoef(torch.stack([result.norm, peer_norm]))[0, 1] > 0.9


def test_few_gradients_on_ten_classes() -> None:
    model, inputs = trained_digits()
    result = deepfool(model, inputs)
    num_steps = result.num_forward - result.num_backward  # one look at the prediction for each
    assert torch.equal(result.num_backward, 9 + 2 * (num_steps - 1))
    assert deepfool(model, inputs, num_candidates=3).num_backward.double().mean() < 8


@pytest.mark.parametrize("setting", ["steps", "num_candidates", "overshoot"])
def test_settings_are_checked(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting} > 0"):
        deepfool(nn.Linear(2, 2), torch.rand(1, 2), **{setting: 0})
