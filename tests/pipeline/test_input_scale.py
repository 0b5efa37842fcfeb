"""A model on the wrong scale is noticed, and one on the right scale is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aradals.data import Examples
from aradals.models import Normalize
from aradals.models.preprocessing import Preprocessed, Preprocessing
from aradals.pipeline.input_scale import warn_of_scale

INPUTS = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Brightness(nn.Module):
    """A network that separates five levels of brightness as it was trained: between -2 and 2."""

    def forward(self, inputs: Tensor) -> Tensor:
        level = inputs.flatten(1).mean(1, keepdim=True)
        return -(level - torch.linspace(-0.4, 0.4, 5)).square()


@pytest.mark.parametrize(
    ("front", "option"),
    [
        (Normalize(3), "--mean imagenet"),
        (Normalize(3, (0, 0, 0), (1, 1, 1), bounds=(-1, 1)), "--bounds=-1,1"),
        (nn.Identity(), ""),
    ],
)
def test_the_scale_of_the_training_is_named(front: nn.Module, option: str) -> None:
    labels = Brightness()(front(INPUTS)).argmax(1)
    log: list[str] = []
    warn_of_scale(Brightness(), Examples(INPUTS, labels, num_classes=5), log.append)
    assert [f"with {option} for 200; it may expect" in line for line in log] == [True] * bool(option)


def test_it_says_nothing_of_what_it_cannot_try() -> None:
    log: list[str] = []
    labels = torch.arange(200) % 3
    warn_of_scale(nn.Linear(4, 3), Examples(INPUTS.flatten(1)[:, :4], labels, num_classes=3), log.append)
    model = Preprocessed(Brightness(), Preprocessing(bounds=(-1.0, 1.0)))
    warn_of_scale(model, Examples(INPUTS, model(INPUTS).argmax(1), num_classes=5), log.append)
    assert log == []


def test_a_constant_prediction_of_the_most_frequent_class_is_no_better_scale() -> None:
    class Threshold(nn.Module):
        """Half right for both classes; at large values, constant."""

        def forward(self, inputs: Tensor) -> Tensor:
            level = inputs.flatten(1).mean(1)
            return torch.stack([torch.where(level > 1, 99.0, torch.sin(300 * level)), torch.zeros_like(level)], 1)

    examples = Examples(INPUTS, (torch.arange(200) % 10 == 0).long(), num_classes=2)
    log: list[str] = []
    warn_of_scale(Threshold(), examples, log.append)
    assert log == []
