"""Classifiers whose distance to the nearest other class is known."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import Tensor, nn


def linear_problem(
    shape: tuple[int, ...], num_classes: int, *, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, Tensor, Tensor]:
    """(model, inputs, exact distances) of a linear classifier whose optima lie inside the box.

    The nearest class is often not the one with the second largest logit.
    """
    generator = torch.Generator().manual_seed(num_classes)
    num_features = math.prod(shape)
    weight = torch.randn(num_classes, num_features, generator=generator, dtype=dtype)
    linear = nn.Linear(num_features, num_classes, dtype=dtype)
    inputs = 0.45 + 0.1 * torch.rand(10, num_features, generator=generator, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(0.1 * torch.randn(num_classes, generator=generator, dtype=dtype) - weight.sum(1) / 2)
        logits = linear(inputs)
    predicted = logits.argmax(1)
    distances = (logits.amax(1, keepdim=True) - logits) / (weight[predicted][:, None] - weight).norm(dim=2)
    distances.scatter_(1, predicted[:, None], math.inf)
    return nn.Sequential(nn.Flatten(), linear), inputs.view(-1, *shape), distances.amin(1)


class Ring(nn.Module):
    """Class 0 inside the circle of radius 0.3 around the centre of the unit square, class 1 outside."""

    radius = 0.3

    def forward(self, inputs: Tensor) -> Tensor:
        margin = self.radius**2 - (inputs - 0.5).square().sum(1)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


class Constant(nn.Module):
    """Class 1 everywhere."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1.0, -1.0]]).expand(len(inputs), 3) + 0 * inputs.flatten(1).sum(1, keepdim=True)


class Bowl(nn.Module):
    """Left half: class 0 down to a height of 0.1. Right half: always class 0, with a margin of at least 0.02.

    The margin of the right half has a slope, so that it looks reachable.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        left = inputs[:, 1] - 0.1
        right = 0.02 + (inputs[:, 1] - 0.45).square()
        margin = torch.where(inputs[:, 0] < 0.5, left, right)
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def box_problem(num_features: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    """(model, inputs, exact distances) of a linear classifier of two classes whose optima touch the box."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(2, num_features, generator=generator, dtype=torch.float64)
    inputs = torch.rand(8, num_features, generator=generator, dtype=torch.float64)
    inputs[:, ::4] = inputs[:, ::4].round()
    inputs[:, 1], inputs[:, 2] = 0.02, 0.97
    model = nn.Linear(num_features, 2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(weight)
        model.bias.zero_()
        model.bias[0] += (model(inputs) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).mean()
        margins = (model(inputs) @ torch.tensor([-1.0, 1.0], dtype=torch.float64)).numpy()
    slope = (weight[1] - weight[0]).numpy()
    distances = []
    for x, margin in zip(inputs.numpy(), margins, strict=True):
        solution = minimize(
            lambda delta: delta @ delta,
            np.zeros(num_features),
            jac=lambda delta: 2 * delta,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda delta, m=margin: m + slope @ delta, "jac": lambda _: slope},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert solution.success
        distances.append(np.linalg.norm(solution.x))
        plain = abs(margin) / np.linalg.norm(slope)
        assert distances[-1] > 1.0001 * plain, "the box must matter"
    return model, inputs, torch.tensor(distances)


def trained_digits() -> tuple[nn.Module, Tensor]:
    """A small network trained on the digits, and 64 of them."""
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(inputs), labels))
        optimizer.step()
    return model.eval(), inputs[:64]
