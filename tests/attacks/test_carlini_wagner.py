from __future__ import annotations

import pytest
import torch
from attack_problems import Ring, box_problem, linear_problem, trained_digits
from foolbox.attacks.carlini_wagner import L2CarliniWagnerAttack
from foolbox.models.pytorch import PyTorchModel
from torch import nn

from aradals.attacks import carlini_wagner
from aradals.errors import InputError


@pytest.mark.parametrize(("shape", "num_classes"), [((8,), 2), ((2, 5), 3), ((3, 4, 4), 10), ((10, 12), 100)])
def test_close_on_linear_models(shape: tuple[int, ...], num_classes: int) -> None:
    model, inputs, distances = linear_problem(shape, num_classes, dtype=torch.float32)
    ratio = carlini_wagner(model, inputs).norm / distances
    assert ratio.min() >= 1 - 2e-3  # the rounding of single-precision logits
    assert ratio.max() <= 1.02


def test_close_where_the_box_is_active() -> None:
    model, inputs, distances = box_problem()
    ratio = carlini_wagner(model, inputs).norm / distances
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.02


def test_close_to_a_circle_from_both_sides() -> None:
    inputs = torch.tensor([[0.9, 0.5], [0.1, 0.2], [0.5, 0.7], [0.4, 0.4]], dtype=torch.float64)
    distances = ((inputs - 0.5).norm(dim=1) - Ring.radius).abs()
    ratio = carlini_wagner(Ring(), inputs).norm / distances
    assert ratio.min() >= 1
    assert ratio.max() <= 1.02


def test_not_worse_than_foolbox() -> None:
    model, inputs = trained_digits()
    predicted = model(inputs).argmax(1)
    peer = L2CarliniWagnerAttack(binary_search_steps=6, steps=200)
    _, adv_inputs, _ = peer(PyTorchModel(model, bounds=(0, 1)), inputs, predicted, epsilons=None)
    result = carlini_wagner(model, inputs, binary_search_steps=6, steps=200)
    assert result.success.all()
    assert result.norm.median() <= 1.02 * (adv_inputs - inputs).norm(dim=1).median()


def test_min_margin_is_won() -> None:
    model, inputs, distances = linear_problem((8,), 2)
    result = carlini_wagner(model, inputs, min_margin=0.5, binary_search_steps=6, steps=300)
    logits = model(result.adv_inputs)
    won = logits.amax(1) - logits.gather(1, result.predicted[:, None])[:, 0]
    assert won.min() >= 0.5
    assert won.max() < 0.6
    assert (result.norm > distances).all()


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="steps > 0"):
        carlini_wagner(nn.Linear(2, 2), torch.rand(1, 2), steps=0)
    with pytest.raises(InputError, match="min_margin >= 0"):
        carlini_wagner(nn.Linear(2, 2), torch.rand(1, 2), min_margin=-1)
