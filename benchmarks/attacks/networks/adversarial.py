"""A network that trains on perturbed images, whoever trains it."""

from __future__ import annotations

from torch import Tensor, nn

from aradals.inference.gradients import gradients_enabled, margin_and_gradient
from aradals.models import build_model


class AdversariallyTrained(nn.Module):
    """In training mode the images first take one step against the margin (L2 FGSM, Goodfellow et al. 2015).

    Args:
        model: inputs in [0, 1] to logits.
        radius: L2 norm of the step.
    """

    def __init__(self, model: nn.Module, radius: float) -> None:
        super().__init__()
        self.model, self.radius = model, radius

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits of the inputs, perturbed while training."""
        if self.training:
            with gradients_enabled(self.model):
                predicted = self.model(inputs).argmax(1)
                _, gradient, _ = margin_and_gradient(self.model, inputs, predicted)
            step = self.radius * nn.functional.normalize(gradient.flatten(1)).view_as(inputs)
            inputs = (inputs - step).clamp(0, 1).detach()
        logits: Tensor = self.model(inputs)
        return logits


def build(num_classes: int, in_channels: int, radius: float = 0.5) -> nn.Module:
    """A small convolutional network that trains adversarially."""
    return AdversariallyTrained(build_model("small_cnn", num_classes=num_classes, in_channels=in_channels), radius)
