"""The multilayer perceptron is built for inputs of any shape, and its checkpoints say for which."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from aradals.errors import InputError
from aradals.models import MLP, build_model, read_description, save_checkpoint


@pytest.mark.parametrize("shape", [(16,), (1, 8, 8), (3, 32, 32), (5, 4)])
def test_any_shape_is_flattened(shape: tuple[int, ...]) -> None:
    model = build_model("MLP", num_classes=7, input_shape=shape, hidden=[20, 5])
    sizes = [(each.in_features, each.out_features) for each in model.modules() if isinstance(each, nn.Linear)]
    assert sizes == [(math.prod(shape), 20), (20, 5), (5, 7)]
    assert model(torch.rand(2, *shape)).shape == (2, 7)


def test_without_hidden_layers_it_is_a_linear_classifier_of_standardized_inputs() -> None:
    model = MLP(input_shape=(3,), hidden=[], num_classes=2)
    inputs = torch.rand(40, 3) * torch.tensor([1.0, 0.3, 0.01])
    deviation = (inputs.var(0, correction=0) + 0.01).sqrt()
    torch.testing.assert_close(model(inputs), model.linear((inputs - inputs.mean(0)) / deviation))


def test_hidden_layers_have_relu() -> None:
    model = MLP(input_shape=(2,), hidden=[3, 4], num_classes=2).eval()
    first, _, second, _ = model.hidden
    inputs = torch.rand(5, 2)
    expected = model.linear(second(first(inputs / 1.01**0.5).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(model(inputs), expected)


@pytest.mark.parametrize("constant", [0.0, 0.4, 1.0])
def test_inputs_that_are_constant_in_training_stay_moderate(constant: float) -> None:
    model = MLP(input_shape=(1, 2, 2), hidden=[8], num_classes=3)
    inputs = torch.rand(64, 1, 2, 2)
    inputs[:, :, 0, 0] = constant
    for _ in range(300):
        assert model(inputs).isfinite().all()
    model.eval()
    later = inputs[:1].repeat(2, 1, 1, 1)
    later[:, 0, 0, 0] = torch.tensor([0.0, 1.0])
    standardized = model.standardize(later.flatten(1))[:, 0]
    torch.testing.assert_close(standardized, (torch.tensor([0.0, 1.0]) - constant) * 10, atol=1e-3, rtol=1e-3)


def test_it_refuses_what_it_was_not_built_for() -> None:
    with pytest.raises(InputError, match=r"inputs of 12 values.*got shape \(2, 3, 2, 3\)"):
        MLP(input_shape=(3, 2, 2))(torch.rand(2, 3, 2, 3))
    with pytest.raises(InputError, match=r"layers of at least 1 unit.*got hidden \[4, 0\]"):
        MLP(input_shape=(3,), hidden=[4, 0])


@pytest.mark.parametrize("shape", [64, [0, 8], [8.0], ["8"], [10**9], [True]])
def test_a_file_names_a_shape_or_is_refused(shape: object, tmp_path: Path) -> None:
    description = {"aradals": json.dumps({"model": "mlp", "num_classes": 10, "input_shape": shape})}
    save_checkpoint(MLP(input_shape=(8,), hidden=[8]), tmp_path / "model.safetensors", description)
    with pytest.raises(InputError, match="input_shape: a list of numbers from 1 to 1,000,000"):
        read_description(tmp_path / "model.safetensors")
