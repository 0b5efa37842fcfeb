"""What every attack keeps, whatever its search."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from attack_problems import Bowl, Constant, Ring, box_problem, ellipsoid_problem, linear_problem
from torch import Tensor, nn

from aradals.attacks import ATTACKS, Attack, get_attack
from aradals.errors import InputError

ESTIMATES = ["secant", "secant_accurate", "first_order_margin", "log_odds", "logit_margin"]
VERIFIED: dict[str, dict[str, Any]] = {
    "secant": {"verified": True},
    "deepfool": {},
    "carlini_wagner": {"binary_search_steps": 6, "steps": 60, "learning_rate": 0.03},
    "ddn": {"steps": 60},
    "fmn": {"steps": 60},
}


def test_every_attack_is_tested() -> None:
    assert set(ATTACKS) == {*ESTIMATES, *VERIFIED}


@pytest.fixture(params=VERIFIED)
def attack(request: pytest.FixtureRequest) -> Attack:
    """Attacks that promise norms."""
    return get_attack(request.param, **VERIFIED[request.param])


@pytest.fixture(params=[*(f"{name} estimate" for name in ESTIMATES), *VERIFIED])
def scorer(request: pytest.FixtureRequest) -> Attack:
    """All attacks, also as estimates that verify nothing."""
    if request.param in VERIFIED:
        return get_attack(request.param, **VERIFIED[request.param])
    return get_attack(request.param.removesuffix(" estimate"))


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
    assert result.score.isfinite().all()


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_claim_no_norm(name: str) -> None:
    model, inputs = small_net().eval(), small_inputs()
    result = get_attack(name)(model, inputs)
    assert result.success.all()
    assert torch.equal(result.predicted, model(inputs).argmax(1))
    assert torch.equal(result.adv_inputs, inputs)
    assert result.norm.isinf().all()
    assert result.score.isfinite().all()
    assert name == "log_odds" or (result.score > 0).all()  # log-odds are negative below 1/2


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_model_and_inputs_are_untouched(scorer: Attack, grad_mode: Any) -> None:
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
        result = scorer(model, inputs)
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


def test_passes_are_counted(scorer: Attack) -> None:
    model = Counting(small_net())
    result = scorer(model, small_inputs())
    assert int(result.num_forward.sum()) == model.num_forward
    assert int(result.num_backward.sum()) == model.num_backward


class FreesItsState(torch.autograd.Function):
    """Multiplies by 2; frees what it has saved when it is walked backward, as compiled models do."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.factor = torch.tensor(2.0)
        return inputs * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        factor, ctx.factor = ctx.factor, torch.tensor(math.nan)
        return gradient.mul(factor)


class Freeing(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return FreesItsState.apply(self.model(inputs))  # type: ignore[no-any-return, no-untyped-call]


class Twice(Freeing):
    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return 2 * logits


def test_no_graph_is_walked_twice(scorer: Attack) -> None:
    result, expected = scorer(Freeing(small_net()), small_inputs()), scorer(Twice(small_net()), small_inputs())
    torch.testing.assert_close(result.score, expected.score)
    assert torch.equal(result.success, expected.success)
    assert (result.num_forward >= result.num_backward).all()


class Masked(Freeing):
    """A further class with a logit of -1e9, as for a class that the data do not have."""

    mask = -1e9

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return torch.cat([logits, torch.full_like(logits[:, :1], self.mask)], 1)


def test_a_masked_class_changes_nothing(scorer: Attack) -> None:
    result, expected = scorer(Masked(small_net()), small_inputs()), scorer(small_net(), small_inputs())
    torch.testing.assert_close(result.score, expected.score)
    torch.testing.assert_close(result.margin, expected.margin)


def test_masks_of_minus_infinity_are_refused_with_their_reason(scorer: Attack) -> None:
    model = Masked(small_net())
    model.mask = -math.inf
    with pytest.raises(InputError, match=r"got -inf for 12 of 12 inputs; .*masks with a large negative number"):
        scorer(model, small_inputs())


class Scaled(Freeing):
    scale = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scale * self.model(inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize("scale", [2.0**64, 2.0**-70])
@pytest.mark.parametrize("name", ["secant", "secant_accurate", "first_order_margin", "deepfool", "ddn", "fmn"])
def test_distances_do_not_depend_on_the_scale_of_the_logits(name: str, scale: float) -> None:
    attack, model = get_attack(name, **VERIFIED.get(name, {})), Scaled(small_net())
    expected = attack(model, small_inputs())
    model.scale = scale
    result = attack(model, small_inputs())
    assert result.success.all()
    torch.testing.assert_close(result.score, expected.score)


@pytest.mark.parametrize("name", ["secant", "deepfool", "carlini_wagner"])
def test_finished_examples_leave_the_batch(name: str) -> None:
    result = get_attack(name, **VERIFIED[name])(small_net(), small_inputs())
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


def test_a_model_may_write_into_its_input(scorer: Attack) -> None:
    inputs = small_inputs()
    given = inputs.clone()
    result, expected = scorer(InPlace(small_net()), inputs), scorer(Shifted(small_net()), inputs)
    assert torch.equal(inputs, given)
    torch.testing.assert_close(result.score, expected.score)


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


def test_vanishing_gradient(scorer: Attack) -> None:
    # At the center of the ring the gradient is exactly zero; the other example must not suffer.
    result = scorer(Ring(), torch.tensor([[0.5, 0.5], [0.7, 0.5]]))
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


def test_example_on_the_boundary(scorer: Attack) -> None:
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(-torch.eye(2))
    result = scorer(model, torch.tensor([[0.5, 0.5], [0.25, 0.75]]))
    assert result.success.all()
    assert 0 <= result.score[0] < 1e-3
    assert result.score[1] > 0.3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_follows_the_model(scorer: Attack, dtype: torch.dtype) -> None:
    inputs = small_inputs()
    result, single = scorer(small_net(dtype), inputs), scorer(small_net(), inputs)
    assert result.adv_inputs.dtype == dtype
    assert result.success.all()
    torch.testing.assert_close(result.score.float().median(), single.score.median(), rtol=0.15, atol=0)


def test_one_example_does_not_depend_on_the_others(scorer: Attack) -> None:
    model, inputs = small_net(torch.float64), small_inputs(3)
    together = scorer(model, inputs.flip(0)).score.flip(0)
    alone = torch.cat([scorer(model, example[None]).score for example in inputs])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)


def test_inputs_outside_the_box_are_refused(scorer: Attack) -> None:
    with pytest.raises(InputError, match="values from -1 to 2"):
        scorer(nn.Linear(2, 2), torch.tensor([[-1.0, 2.0]]))


def test_nan_logits_are_refused(scorer: Attack) -> None:
    model = small_net()
    nn.init.constant_(model[5].get_parameter("bias"), torch.nan)
    with pytest.raises(InputError, match="finite logits"):
        scorer(model, small_inputs())


@pytest.mark.parametrize("name", ["deepfool", "carlini_wagner", "ddn", "fmn"])
def test_a_search_is_scored_by_its_norm(name: str) -> None:
    result = get_attack(name, **VERIFIED[name])(small_net(), small_inputs())
    assert torch.equal(result.score, result.norm)


class WideLogits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs).double()  # type: ignore[no-any-return]


def test_logits_may_be_wider_than_the_inputs(scorer: Attack) -> None:
    result, expected = scorer(WideLogits(small_net()), small_inputs()), scorer(small_net(), small_inputs())
    assert result.adv_inputs.dtype == torch.float32
    torch.testing.assert_close(result.score.float(), expected.score, rtol=0.01, atol=0)


# Attacks that come within 1 % of known optima. carlini_wagner needs longer searches to come near: see its own tests.
EXACT: dict[str, dict[str, Any]] = {
    "secant": {"steps": 30, "tolerance": 1e-4, "verified": True},
    "ddn": {},
    "fmn": {},
}


def excess(attack: Attack, model: nn.Module, inputs: Tensor, distances: Tensor) -> float:
    """The largest ratio of a norm to the smallest possible."""
    ratio = attack(model, inputs).norm / distances
    assert ratio.min() >= 1 - 1e-6
    return float(ratio.max())


@pytest.mark.parametrize("name", [*EXACT, "deepfool"])
@pytest.mark.parametrize(("shape", "num_classes"), [((8,), 2), ((2, 5), 3), ((3, 4, 4), 10), ((10, 12), 40)])
def test_linear_optima(name: str, shape: tuple[int, ...], num_classes: int) -> None:
    attack = get_attack(name, num_candidates=num_classes, **EXACT.get(name, {}))
    assert excess(attack, *linear_problem(shape, num_classes)) <= 1.0101  # DeepFool oversteps by 1 %


@pytest.mark.parametrize("name", [*EXACT, "deepfool"])
def test_optima_on_the_box(name: str) -> None:
    assert excess(get_attack(name, **EXACT.get(name, {})), *box_problem()) <= 1.0101


@pytest.mark.parametrize("name", EXACT)
def test_circle_from_both_sides(name: str) -> None:
    inputs = torch.tensor([[0.9, 0.5], [0.1, 0.2], [0.5, 0.85], [0.6, 0.5], [0.45, 0.4]])
    distances = ((inputs - 0.5).norm(dim=1) - Ring.radius).abs()
    assert excess(get_attack(name, **EXACT[name]), Ring(), inputs, distances) <= 1.01


# The few damped steps of secant do not converge on this one: the target curves away on all sides.
@pytest.mark.parametrize(("name", "tolerance"), [("ddn", 1.01), ("fmn", 1.01), ("secant_accurate", 1.1)])
def test_ellipsoid_from_outside(name: str, tolerance: float) -> None:
    settings = {"verified": True} if name == "secant_accurate" else {}
    assert excess(get_attack(name, **settings), *ellipsoid_problem()) <= tolerance
