"""Every objective, augmentation and the consistency term within a training: what a step is, and that it resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_tools import assert_same, digits, dying, small_cnn, weights

from aradals.data import augmix
from aradals.objectives import OBJECTIVES
from aradals.pipeline.config import AdaptiveTargets, FixedTargets, MethodConfig, RankedSubsets, TrainingConfig
from aradals.pipeline.train import TrainedModel, fit_classifier
from aradals.pipeline.train.batches import member_batches
from aradals.pipeline.train.module import epoch_seed
from aradals.smoothing.update_rules import UpdateRule

SEED = 3
TRAIN, VALIDATION = digits(0, 120), digits(120, 60)
TRAINING = TrainingConfig(epochs=3, batch_size=24, learning_rate=0.01)
FEW_STEPS = {"ccat": {"steps": 2}, "calmo": {"steps": 1}}


def fit(method: MethodConfig, training: TrainingConfig = TRAINING, resume: Path | None = None) -> TrainedModel:
    torch.set_num_threads(1)
    return fit_classifier(
        small_cnn(SEED),
        TRAIN,
        VALIDATION,
        method=method,
        training=training,
        seed=SEED,
        train_subsets=torch.arange(len(TRAIN)) % method.num_subsets,
        validation_subsets=torch.arange(len(VALIDATION)) % method.num_subsets,
        device="cpu",
        resume=resume,
    )


METHODS = {
    **{name: MethodConfig(objective=name, objective_args=FEW_STEPS.get(name, {})) for name in OBJECTIVES},
    "flip_crop": MethodConfig(augment="flip_crop"),
    "augmix": MethodConfig(augment="augmix"),
    "consistency": MethodConfig(consistency=12.0),
    "mixup in subsets": MethodConfig(objective="mixup", targets=AdaptiveTargets(UpdateRule(), RankedSubsets(2))),
    "ccat in subsets": MethodConfig(
        objective="ccat", objective_args={"steps": 2}, targets=AdaptiveTargets(UpdateRule(), RankedSubsets(2))
    ),
    "focal with augmix": MethodConfig(objective="focal", augment="augmix"),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_falls(name: str) -> None:
    epochs = fit(METHODS[name], replace(TRAINING, epochs=6)).epochs
    hard = METHODS[name].augment is not None  # for pictures of 8x8 pixels
    assert epochs[-1]["loss"] < (0.99 if hard else 0.9) * epochs[0]["loss"]
    assert hard or epochs[-1]["accuracy"] > epochs[0]["accuracy"]


def test_mixup_of_nothing_is_vanilla_to_the_bit() -> None:
    nothing = fit(MethodConfig(objective="mixup", objective_args={"alpha": 0}))
    vanilla = fit(MethodConfig())
    assert weights(nothing.model).equal(weights(vanilla.model))
    assert not weights(fit(MethodConfig(objective="mixup")).model).equal(weights(vanilla.model))


@pytest.mark.parametrize(
    "name", ["mixup", "ccat", "flip_crop", "augmix", "consistency", "ccat in subsets", "adafocal", "fedlas"]
)
def test_resumed_it_ends_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever random numbers it draws, in how many ways."""
    resume = tmp_path / "resume.ckpt"
    with dying(2, monkeypatch):
        fit(METHODS[name], resume=resume)
    torch.rand(17)  # another process would have other random numbers
    assert_same(fit(METHODS[name], resume=resume), fit(METHODS[name]))


def test_killed_after_its_last_epoch_it_is_not_trained_again(tmp_path: Path) -> None:
    method, resume = METHODS["ccat in subsets"], tmp_path / "resume.ckpt"
    whole = fit(method, resume=resume)
    again = fit(method, resume=resume)
    assert_same(again, whole)
    assert again.seconds == whole.seconds


def first_step(loss_of: Any) -> nn.Module:
    """One step of gradient descent by hand, on the first batch of the first epoch."""
    model = small_cnn(SEED).train()
    [positions, *_], _ = member_batches(len(TRAIN), len(TRAIN), SEED, epoch=0)
    _, inputs, labels = TRAIN.batch(positions)
    torch.manual_seed(epoch_seed(SEED, 0))
    loss_of(model, inputs, labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * (1 + 0.9) * parameter.grad)  # Nesterov momentum from rest
    return model


def test_consistency_adds_the_jensen_shannon_term_of_an_image_and_two_views() -> None:
    training = TrainingConfig(epochs=1, batch_size=len(TRAIN), optimizer="sgd", learning_rate=0.1)

    def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        logits = model(inputs)
        views = [logits, model(augmix(inputs)), model(augmix(inputs))]
        probs = torch.stack([view.softmax(1) for view in views])
        divergence = (probs * (probs / probs.mean(0)).log()).sum(2).mean()
        return F.cross_entropy(logits, labels) + 12 * divergence

    trained = fit(MethodConfig(consistency=12.0), training)
    expected = first_step(loss_of)
    torch.testing.assert_close(weights(trained.model), weights(expected), rtol=1e-4, atol=1e-5)
    plain = first_step(lambda model, inputs, labels: F.cross_entropy(model(inputs), labels))
    assert not torch.allclose(weights(trained.model), weights(plain), atol=1e-3)


def test_one_subset_is_adals() -> None:
    """Label smoothing whose one target follows the gap of the whole validation split, in a plain loop."""
    method = MethodConfig(targets=AdaptiveTargets(UpdateRule(rate=0.5), smoothing=0.4))
    trained = fit(method, replace(TRAINING, optimizer="sgd"))
    model, p, targets = small_cnn(SEED), 0.6, []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    for epoch in range(3):
        model.train()
        for positions in member_batches(len(TRAIN), 24, SEED, epoch)[0]:
            _, inputs, labels = TRAIN.batch(positions)
            soft = torch.full((len(labels), 10), (1 - p) / 9).scatter(1, labels[:, None], p)
            loss = F.cross_entropy(model(inputs), soft)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        _, inputs, labels = VALIDATION.batch(range(len(VALIDATION)))
        with torch.no_grad():
            confidence, predicted = model.eval()(inputs).softmax(1).max(1)
        targets.append(p)
        p = min(1.0, max(0.1, p - 0.5 * (confidence - (predicted == labels).float()).mean().item()))
    assert [step["target_prob"] for step in trained.updates] == [
        [pytest.approx(target, abs=1e-4)] for target in targets
    ]
    assert trained.target_prob == [pytest.approx(p, abs=1e-4)]
    torch.testing.assert_close(weights(trained.model), weights(model), rtol=1e-3, atol=1e-4)


def test_without_a_rule_targets_stay_and_the_gap_is_recorded() -> None:
    trained = fit(MethodConfig(objective="focal"))
    assert trained.target_prob == [1.0]
    assert trained.update_rate == 0
    assert trained.at_lower_bound == []
    assert [step["target_prob"] for step in trained.updates] == [[1.0]] * 3
    assert [step["n"] for step in trained.updates] == [[60]] * 3


OWN = """
import torch
from torch.nn import functional as F

def brier(model, inputs, labels, *, weight: float = 1.0):
    logits = model(inputs)
    return weight * (logits.softmax(1) - F.one_hot(labels, logits.shape[1])).square().sum(1).mean(), logits

def smoothed(model, inputs, labels, target_prob=None):
    assert target_prob.shape == labels.shape
    torch.testing.assert_close(target_prob, torch.full_like(target_prob, 0.8))
    logits = model(inputs)
    return F.cross_entropy(logits, labels), logits
"""


def test_an_objective_of_ones_own_has_a_target_prob_only_where_it_takes_one(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    trained = fit(MethodConfig(objective=f"{file}:brier", objective_args={"weight": 2.0}))
    assert trained.epochs[-1]["loss"] < trained.epochs[0]["loss"] < 2 * 2.0
    smoothed = fit(MethodConfig(objective=f"{file}:smoothed", targets=FixedTargets(0.2)))
    assert weights(smoothed.model).equal(weights(fit(MethodConfig()).model))
