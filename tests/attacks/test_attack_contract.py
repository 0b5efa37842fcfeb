"""What every attack keeps, whatever its search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_problems import Bowl, Constant, Ring
from torch import Tensor, nn

from aradals.attacks import ATTACKS, Attack, get_attack
from aradals.errors import InputError

FAST: dict[str, dict[str, Any]] = {
    "deepfool": {},
    "carlini_wagner": {"binary_search_steps": 7, "steps": 150, "learning_rate": 0.03},
}


@pytest.fixture(params=list(ATTACKS))
def attack(request: pytest.FixtureRequest) -> Attack:
    return get_attack(request.param, **FAST[request.param])


def small_net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    linear = nn.Linear(64, 5)
    torch.nn.init.normal_(linear.weight, std=0.4)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), linear
    )
    return net.to(dtype)


def small_inputs(num_inputs: int = 12) -> Tensor:
    return torch.rand(num_inputs, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def test_reported_perturbations_change_the_prediction_within_the_box(attack: Attack) -> None:
    model, inputs = small_net().eval(), small_inputs()
    result = attack(model, inputs)
    with torch.no_grad():
        predicted, adv_predicted = model(inputs).argmax(1), model(result.adv_inputs).argmax(1)
    assert result.success.all()
    assert torch.equal(result.predicted, predicted)
    assert (adv_predicted != predicted).all()
    assert result.adv_inputs.min() >= 0
    assert result.adv_inputs.max() <= 1
    torch.testing.assert_close(result.norm, (result.adv_inputs - inputs).flatten(1).norm(dim=1))
    assert torch.equal(result.score, result.norm)


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_model_and_inputs_are_untouched(attack: Attack, grad_mode: Any) -> None:
    model, inputs = small_net(), small_inputs()
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    weight, bias = model[5].parameters()
    weight.grad = torch.ones_like(weight)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    given = inputs.clone()
    with grad_mode():
        result = attack(model, inputs)
    assert result.success.all()
    assert not result.adv_inputs.requires_grad
    assert modes == [module.training for module in model.modules()]
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert bias.grad is None
    assert torch.equal(inputs, given)


class Counting(nn.Module):
    """Counts the examples that pass forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.num_forward, self.num_backward = model, 0, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.num_forward += len(inputs)
        if inputs.requires_grad:
            inputs.register_hook(self.count_backward)
        return self.model(inputs)  # type: ignore[no-any-return]

    def count_backward(self, gradient: Tensor) -> None:
        self.num_backward += len(gradient)


def test_passes_are_counted(attack: Attack) -> None:
    model = Counting(small_net())
    result = attack(model, small_inputs())
    assert int(result.num_forward.sum()) == model.num_forward
    assert int(result.num_backward.sum()) == model.num_backward


def test_finished_examples_leave_the_batch(attack: Attack) -> None:
    result = attack(small_net(), small_inputs())
    assert result.num_forward.min() < result.num_forward.max()


class InPlace(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs.sub_(0.5))  # type: ignore[no-any-return]


class Shifted(InPlace):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs - 0.5)  # type: ignore[no-any-return]


def test_a_model_may_write_into_its_input(attack: Attack) -> None:
    inputs = small_inputs()
    given = inputs.clone()
    result, expected = attack(InPlace(small_net()), inputs), attack(Shifted(small_net()), inputs)
    assert torch.equal(inputs, given)
    torch.testing.assert_close(result.norm, expected.norm)


def test_failures_are_flagged_and_keep_the_input(attack: Attack) -> None:
    inputs = small_inputs()
    result = attack(Constant(), inputs)
    assert not result.success.any()
    assert torch.equal(result.adv_inputs, inputs)
    assert result.norm.isinf().all()
    assert result.score.eq(0).all()
    assert result.predicted.eq(1).all()


def test_failures_are_ranked_by_the_first_order_margin(attack: Attack) -> None:
    result = attack(Bowl(), torch.tensor([[0.2, 0.9], [0.99, 0.5], [0.2, 0.2]]))
    assert result.success.tolist() == [True, False, True]
    torch.testing.assert_close(result.score[1], torch.tensor(0.0225 / 0.1))
    assert result.score.argsort().tolist() == [2, 1, 0]


def test_vanishing_gradient(attack: Attack) -> None:
    # At the centre of the ring the gradient is exactly zero; the other example must not suffer.
    result = attack(Ring(), torch.tensor([[0.5, 0.5], [0.7, 0.5]]))
    assert result.score.isfinite().all()
    assert result.success[1]


class NanGradient(nn.Module):
    """The gradient of the square root at 0, times 0, is NaN."""

    def forward(self, inputs: Tensor) -> Tensor:
        broken = (inputs[:, :1] * 0).sqrt()
        return torch.cat([inputs[:, 1:] + broken - 2, -1 - inputs[:, 1:]], 1)


def test_nan_in_the_gradient(attack: Attack) -> None:
    result = attack(NanGradient(), torch.tensor([[0.5, 0.4], [0.3, 0.9]]))
    assert result.success.all()
    torch.testing.assert_close(result.norm, torch.tensor([0.1, 0.4]), rtol=0.02, atol=0)


def test_example_on_the_boundary(attack: Attack) -> None:
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(-torch.eye(2))
    result = attack(model, torch.tensor([[0.5, 0.5], [0.25, 0.75]]))
    assert result.success.all()
    assert result.norm[0] < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_follows_the_model(attack: Attack, dtype: torch.dtype) -> None:
    inputs = small_inputs()
    result, single = attack(small_net(dtype), inputs), attack(small_net(), inputs)
    assert result.adv_inputs.dtype == dtype
    assert result.success.all()
    torch.testing.assert_close(result.norm.float().median(), single.norm.median(), rtol=0.15, atol=0)


def test_one_example_does_not_depend_on_the_others(attack: Attack) -> None:
    model, inputs = small_net(torch.float64), small_inputs(3)
    together = attack(model, inputs.flip(0)).norm.flip(0)
    alone = torch.cat([attack(model, example[None]).norm for example in inputs])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)


def test_inputs_outside_the_box_are_refused(attack: Attack) -> None:
    with pytest.raises(InputError, match="values from -1 to 2"):
        attack(nn.Linear(2, 2), torch.tensor([[-1.0, 2.0]]))


def test_nan_logits_are_refused(attack: Attack) -> None:
    model = small_net()
    nn.init.constant_(model[5].get_parameter("bias"), torch.nan)
    with pytest.raises(InputError, match="finite logits"):
        attack(model, small_inputs())
