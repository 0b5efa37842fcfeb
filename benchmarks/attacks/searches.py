"""The attacks of the benchmark, ours and those of Foolbox and ART, all called in the same way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from art.attacks.evasion import CarliniL2Method, DeepFool
from art.estimators.classification import PyTorchClassifier
from foolbox.attacks.carlini_wagner import L2CarliniWagnerAttack
from foolbox.attacks.ddn import DDNAttack
from foolbox.attacks.deepfool import L2DeepFoolAttack
from foolbox.attacks.fast_minimum_norm import L2FMNAttack
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from aradals.attacks import Attack, get_attack
from aradals.geometry import perturbation_norm

logging.getLogger("art").setLevel(logging.ERROR)


class Outcome(NamedTuple):
    """What a search found for each of N inputs.

    Attributes:
        scores: shape (N,); larger = more robust.
        success: bool, shape (N,).
        adv_inputs: shape (N, ...).
    """

    scores: Tensor
    success: Tensor
    adv_inputs: Tensor


Search = Callable[[nn.Module, Tensor, Tensor], Outcome]
"""Takes a model, inputs, and the classes that the model predicts for them."""


def ours(name: str, **settings: Any) -> Search:
    """One of our attacks by name."""
    attack: Attack = get_attack(name, **settings)

    def search(model: nn.Module, inputs: Tensor, _: Tensor) -> Outcome:
        result = attack(model, inputs)
        return Outcome(result.score, result.success, result.adv_inputs)

    return search


def foolbox(attack: Any) -> Search:
    """A minimization attack of Foolbox, untargeted."""

    def search(model: nn.Module, inputs: Tensor, predicted: Tensor) -> Outcome:
        bounded = PyTorchModel(model, bounds=(0, 1), device=inputs.device)
        _, adv_inputs, success = attack(bounded, inputs, predicted, epsilons=None)
        return _by_norm(inputs, adv_inputs, success)

    return search


def art(attack: type, **settings: Any) -> Search:
    """An attack of ART, untargeted. It does not say where it succeeded; one more forward pass does."""

    def search(model: nn.Module, inputs: Tensor, predicted: Tensor) -> Outcome:
        with torch.no_grad():
            num_classes = model(inputs[:1]).shape[1]
        classifier = PyTorchClassifier(
            model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(inputs.shape[1:]),
            nb_classes=num_classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        one_hot = nn.functional.one_hot(predicted, num_classes).numpy()
        adv_inputs = torch.from_numpy(attack(classifier, verbose=False, **settings).generate(inputs.numpy(), one_hot))
        with torch.no_grad():
            return _by_norm(inputs, adv_inputs, model(adv_inputs).argmax(1) != predicted)

    return search


def _by_norm(inputs: Tensor, adv_inputs: Tensor, success: Tensor) -> Outcome:
    # Also where it failed: a search that stopped right before the boundary ranks well.
    return Outcome(perturbation_norm(adv_inputs - inputs), success, adv_inputs)


OURS: dict[str, Search] = {
    "logit margin": ours("logit_margin"),
    "fast: first-order margin": ours("first_order_margin"),
    "short: secant, one class": ours("secant", num_candidates=1, reach=1.05, tolerance=0.1),
    "default: secant": ours("secant"),
    "default, with verified norms": ours("secant", verified=True),
    "accurate: secant_accurate": ours("secant_accurate"),
    "DeepFool": ours("deepfool"),
}

LONG: dict[str, tuple[Search, int]] = {
    "DDN, 100 steps": (ours("ddn", steps=100), 512),
    "FMN, 100 steps": (ours("fmn", steps=100), 512),
    "Foolbox DeepFool, 50 steps": (foolbox(L2DeepFoolAttack()), 256),
    "Foolbox DDN, 100 steps": (foolbox(DDNAttack()), 256),
    "Foolbox FMN, 100 steps": (foolbox(L2FMNAttack()), 256),
    "Foolbox Carlini-Wagner, 6 x 100": (
        foolbox(L2CarliniWagnerAttack(binary_search_steps=6, steps=100)),
        128,
    ),
    "Foolbox Carlini-Wagner, 9 x 1000": (
        foolbox(L2CarliniWagnerAttack(binary_search_steps=9, steps=1000)),
        32,
    ),
    "ART DeepFool, defaults": (art(DeepFool), 24),
    "ART Carlini-Wagner, defaults": (art(CarliniL2Method), 16),
}
"""Our long searches and those of the other libraries, for one network. Each with the number of examples that it gets:
the slowest cannot have all."""


def reference_searches(typical_norm: float) -> dict[str, Search]:
    """Long searches of different kinds, whose smallest verified norms serve as reference.

    Args:
        typical_norm: where Foolbox's DDN starts; at its default of 1 it would not come down in 100 steps.
    """
    return {
        "secant": ours("secant", num_candidates=5, reach=2.0, steps=20, tolerance=0.01, verified=True),
        "DDN": ours("ddn", steps=100),
        "FMN": ours("fmn", steps=100),
        "Foolbox DDN": foolbox(DDNAttack(steps=100, init_epsilon=typical_norm)),
    }
