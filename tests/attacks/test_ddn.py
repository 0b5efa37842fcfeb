from __future__ import annotations

import pytest
import torch
from attack_problems import linear_problem, trained_digits
from foolbox.attacks.ddn import DDNAttack
from foolbox.models.pytorch import PyTorchModel
from torch import nn

from aradals.attacks import ddn, deepfool
from aradals.errors import InputError


def test_not_worse_than_foolbox() -> None:
    model, inputs = trained_digits()
    predicted = model(inputs).argmax(1)
    _, adv_inputs, success = DDNAttack(steps=50)(PyTorchModel(model, bounds=(0, 1)), inputs, predicted, epsilons=None)
    result = ddn(model, inputs, steps=50)
    assert success.all()
    assert result.success.all()
    assert result.norm.median() <= (adv_inputs - inputs).norm(dim=1).median()


def test_never_worse_than_its_start() -> None:
    model, inputs = trained_digits()
    result, start = ddn(model, inputs, steps=20), deepfool(model, inputs)
    assert (result.norm <= start.norm).all()
    assert result.norm.mean() < 0.98 * start.norm.mean()
    assert torch.equal(result.num_forward, start.num_forward + 20)
    assert torch.equal(result.num_backward, start.num_backward + 20)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_works_at_any_scale_of_norms_and_logits(scale: float) -> None:
    """The published step sizes suit norms near 1, and the published loss logits near 1."""
    model, inputs, distances = linear_problem((8,), 3)
    with torch.no_grad():
        # Towards the boundary, until a thousandth of the distance is left; and other logits.
        nearest = deepfool(model, inputs, overshoot=1e-9).adv_inputs
        inputs = nearest + 1e-3 * (inputs - nearest)
        for parameter in model.parameters():
            parameter.mul_(scale)
    result = ddn(model, inputs, steps=50)
    torch.testing.assert_close(result.norm, 1e-3 * distances, rtol=0.01, atol=0)


def test_verified_norms_hold_in_batches_of_one() -> None:
    model, inputs = trained_digits()
    result = ddn(model, inputs)
    alone = torch.cat([model(example[None]).argmax(1) for example in result.adv_inputs])
    assert (alone != result.predicted).all()


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="steps > 0"):
        ddn(nn.Linear(2, 2), torch.rand(1, 2), steps=0)
    with pytest.raises(InputError, match="gamma < 1"):
        ddn(nn.Linear(2, 2), torch.rand(1, 2), gamma=1)
