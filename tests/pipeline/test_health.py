"""What is said of a training that cannot go well, goes badly, or has led to nothing; and that no other is accused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aradals.errors import InputError, TrainingFailed
from aradals.inference.predictions import Batch
from aradals.pipeline.health import (
    check_changed,
    check_depends_on_parameters,
    check_finite,
    check_output_varies,
    check_trainable,
    not_finite,
)

LABELS = torch.tensor([0, 1, 1])


class Output(nn.Module):
    """Gives what a function makes of the inputs."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def batches(*inputs: Tensor) -> list[Batch]:
    return [(torch.arange(len(each)), each, torch.zeros(len(each), dtype=torch.int64)) for each in inputs]


def test_a_model_that_can_be_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_trainable(model, LABELS)
    check_trainable(nn.Sequential(model.requires_grad_(False), nn.Linear(2, 2)), LABELS)


@pytest.mark.parametrize("model", [nn.Flatten(), nn.Linear(2, 2).requires_grad_(False)])
def test_nothing_to_train(model: nn.Module) -> None:
    with pytest.raises(TrainingFailed, match="no trainable parameters"):
        check_trainable(model, LABELS)


@pytest.mark.parametrize("labels", [torch.tensor([4, 4, 4]), torch.tensor([4])])
def test_one_class(labels: Tensor) -> None:
    with pytest.raises(TrainingFailed, match=f"all {len(labels)} training examples are of class 4"):
        check_trainable(nn.Linear(2, 2), labels)


def test_a_loss_with_a_gradient() -> None:
    loss = nn.Linear(2, 2)(torch.rand(3, 2)).sum()
    check_depends_on_parameters(loss)
    with pytest.raises(TrainingFailed, match="does not depend on any trainable parameter"):
        check_depends_on_parameters(loss.detach())


def test_names_of_what_is_not_finite() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert not_finite(model) == set()
    model.get_parameter("0.weight").data[0, 1] = math.nan
    model.get_buffer("1.running_var")[1] = math.inf
    assert not_finite(model) == {"0.weight", "1.running_var"}


@pytest.mark.parametrize(
    ("loss", "weights", "logits", "words"),
    [
        (math.nan, set(), None, "the training loss became"),
        (-math.inf, {"weight"}, None, "the training loss and the weights became"),
        (1.0, {"weight"}, torch.ones(2, 2), "the weights became"),
        (1.0, set(), torch.tensor([[0.0, math.nan]]), "the validation logits became"),
    ],
)
def test_what_has_diverged(loss: float, weights: set[str], logits: Tensor | None, words: str) -> None:
    expected = f"^training diverged in epoch 7, when {words} NaN or infinite; try a learning rate below 0.5 "
    with pytest.raises(TrainingFailed, match=expected):
        check_finite(loss, weights, logits, epoch=7, learning_rate=0.5)


def test_what_has_not_diverged() -> None:
    check_finite(1e30, set(), torch.full((2, 2), 1e30), epoch=1, learning_rate=1)


@pytest.mark.parametrize("change", [0.0, 1e-30])
def test_parameters_that_stay(change: float) -> None:
    """Even if those that start at zero have moved in the last digits that there are."""
    before = [torch.ones(3), torch.zeros(2), torch.ones(0)]
    with pytest.raises(TrainingFailed, match=r"no parameter has changed by more than .* learning rate above 1e-12 "):
        check_changed(before, [before[0], before[1] + change, before[2]], 1e-12)


def test_parameters_that_move() -> None:
    before = [torch.ones(3), torch.zeros(2)]
    check_changed(before, [before[0], before[1] + 1e-6], 1e-6)
    check_changed([torch.zeros(2)], [torch.tensor([0.0, 1e-20])], 1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.tensor([[1.0, 3.0]]).expand(len(x), -1),
        lambda x: torch.zeros(len(x), 2),
        lambda x: x[:, :1] * 5 + torch.tensor([[1.0, 3.0]]),  # the same probabilities
        lambda x: torch.tensor([[1.0, 3.0]]) * (1 + 1e-8 * x[:, :1]),
    ],
)
def test_an_output_that_is_always_the_same(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(TrainingFailed, match=r"the same for all 7 examples .*: class \d with confidence 0\.\d+;"):
        check_output_varies(Output(function), batches(torch.rand(1, 2), torch.rand(6, 2)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: 1e-3 * x + torch.tensor([[0.0, 10.0]]),  # always one class, but not with one confidence
        lambda x: 1e-20 * x,
    ],
)
def test_an_output_that_varies(function: Callable[[Tensor], Tensor]) -> None:
    calls: list[int] = []

    def counted(inputs: Tensor) -> Tensor:
        calls.append(len(inputs))
        return function(inputs)

    check_output_varies(Output(counted), batches(torch.rand(4, 2), torch.rand(6, 2)))
    assert calls == [4]


def test_of_a_single_example_nothing_can_be_told() -> None:
    check_output_varies(Output(lambda x: x), batches(torch.rand(1, 2)))
    check_output_varies(Output(lambda x: x), [])


def test_the_error_names_the_model_and_is_one_of_bad_input() -> None:
    error = TrainingFailed("it diverged", "mixup")
    assert isinstance(error, InputError)
    assert (str(error), error.reason, error.model) == ("mixup: it diverged", "it diverged", "mixup")
    assert str(TrainingFailed("it diverged")) == "it diverged"
