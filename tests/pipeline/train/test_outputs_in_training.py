"""A model whose outputs have another form is trained to the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_tools import digits, small_cnn

from aradals import Ensemble, UpdateRule
from aradals.pipeline.config import AdaptiveTargets, MethodConfig, TrainingConfig
from aradals.pipeline.train import fit_classifier


class Returns(nn.Module):
    def __init__(self, form: Callable[[Tensor], Any], seed: int = 0) -> None:
        super().__init__()
        self.form, self.network = form, small_cnn(seed)

    def forward(self, inputs: Tensor) -> Any:
        return self.form(self.network(inputs))


def weights(model: nn.Module) -> Tensor:
    trained = fit_classifier(
        model,
        digits(0, 60),
        digits(60, 30),
        method=MethodConfig(targets=AdaptiveTargets(UpdateRule(rate=0.1))),
        training=TrainingConfig(epochs=1, batch_size=20),
        seed=0,
        device="cpu",
    )
    return torch.cat([parameter.detach().flatten() for parameter in trained.model.parameters()])


@pytest.mark.parametrize(
    "form",
    [lambda z: {"logits": z}, lambda z: (z, None), lambda z: z[:, :, None, None]],
    ids=["dict", "tuple", "pixels"],
)
def test_a_model_and_an_ensemble(form: Callable[[Tensor], Any]) -> None:
    assert weights(Returns(form)).equal(weights(Returns(lambda z: z)))
    both = [Returns(form, 0), Returns(lambda z: z, 1)]
    assert weights(Ensemble(both)).equal(weights(Ensemble([Returns(lambda z: z, seed) for seed in (0, 1)])))
