"""Training: the right loss, resumable to the bit, honest about divergence and bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aradals import InputError, assign_subsets
from aradals.config import MethodConfig, TrainingConfig
from aradals.data import Examples
from aradals.training import TrainedModel, fit_classifier
from aradals.training.module import AdaptiveClassifier, epoch_seed


def clusters(num_examples: int, seed: int) -> Examples:
    """Three overlapping clusters in the unit square."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (num_examples,), generator=generator)
    centres = torch.tensor([[0.3, 0.3], [0.7, 0.3], [0.5, 0.7]])
    inputs = (centres[labels] + 0.15 * torch.randn(num_examples, 2, generator=generator)).clamp(0, 1)
    return Examples(inputs, labels, num_classes=3)


def noisy(examples: Examples) -> Examples:
    """The same with every fifth label moved on: what is learnt on the clean ones is over-confident here."""
    labels = torch.where(torch.arange(len(examples)) % 5 == 0, (examples.labels + 1) % 3, examples.labels)
    return Examples(examples.__getitems__(list(range(len(examples))))[1], labels, num_classes=3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))


TRAIN, VALIDATION = clusters(200, seed=1), noisy(clusters(90, seed=2))
SETTINGS = TrainingConfig(epochs=6, batch_size=32, learning_rate=0.02, schedule="one_cycle")
ADAPTIVE = MethodConfig(num_subsets=3, update_rate=0.5)


def fit(
    method: MethodConfig = ADAPTIVE,
    training: TrainingConfig = SETTINGS,
    resume: Path | None = None,
    log: list[str] | None = None,
) -> TrainedModel:
    def subsets(examples: Examples) -> Tensor:
        return assign_subsets(examples._inputs[:, 0], method.num_subsets)  # type: ignore[index]

    return fit_classifier(
        network(),
        TRAIN,
        VALIDATION,
        method=method,
        training=training,
        seed=5,
        train_subsets=subsets(TRAIN),
        validation_subsets=subsets(VALIDATION),
        device="cpu",
        resume=resume,
        log=(log if log is not None else []).append,
    )


def weights(trained: TrainedModel) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trained.model.parameters()])


@pytest.mark.parametrize("schedule", ["one_cycle", "steps"])
def test_an_interrupted_training_ends_with_the_same_weights_and_targets(
    schedule: Literal["one_cycle", "steps"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(SETTINGS, schedule=schedule, milestones=[3, 4])
    whole = fit(training=training)
    interrupt_at = 3
    on_train_epoch_start = AdaptiveClassifier.on_train_epoch_start

    def die(module: AdaptiveClassifier) -> None:
        if module.current_epoch == interrupt_at:
            raise RuntimeError("killed")
        on_train_epoch_start(module)

    with monkeypatch.context() as patch:
        patch.setattr(AdaptiveClassifier, "on_train_epoch_start", die)
        with pytest.raises(RuntimeError, match="killed"):
            fit(training=training, resume=tmp_path / "resume.ckpt")
    resumed = fit(training=training, resume=tmp_path / "resume.ckpt")
    assert weights(resumed).equal(weights(whole))
    assert resumed.updates == whole.updates
    assert resumed.target_prob == whole.target_prob
    assert [e["loss"] for e in resumed.epochs] == [e["loss"] for e in whole.epochs]
    assert len(resumed.epochs) == SETTINGS.epochs


def test_vanilla_is_plain_cross_entropy_in_a_plain_loop() -> None:
    training = TrainingConfig(epochs=2, batch_size=32, optimizer="sgd", learning_rate=0.1)
    trained = fit(MethodConfig(), training)
    model = network().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for epoch in range(2):
        torch.manual_seed(epoch_seed(5, epoch))
        order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(epoch_seed(5, epoch)))
        for positions in order.split(32)[: len(TRAIN) // 32]:
            _, inputs, labels = TRAIN.__getitems__(positions.tolist())
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    expected = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.allclose(weights(trained), expected, atol=1e-5)


def test_targets_move_only_where_they_are_told_to() -> None:
    assert fit(MethodConfig(initial_target_prob=0.9)).target_prob == [0.9]
    adaptive = fit()
    assert len(adaptive.updates) == SETTINGS.epochs
    assert adaptive.updates[0]["target_prob"] == [1, 1, 1]
    assert min(adaptive.target_prob) < 1
    assert [step["n"] for step in adaptive.updates] == [[30, 30, 30]] * SETTINGS.epochs


def test_updates_every_second_epoch() -> None:
    trained = fit(MethodConfig(num_subsets=3, update_rate=0.5, update_every=2))
    assert len(trained.updates) == SETTINGS.epochs // 2


def test_automatic_update_rate_suits_the_number_of_updates() -> None:
    training = TrainingConfig(epochs=80, batch_size=200)
    assert fit(MethodConfig(update_rate="auto"), training).update_rate == pytest.approx(6 / 80)
    assert fit(MethodConfig(update_rate="auto", update_every=2), training).update_rate == 0.1


def test_seeds_differ_and_the_same_seed_does_not() -> None:
    assert weights(fit()).equal(weights(fit()))


def test_a_target_that_runs_down_is_said() -> None:
    log: list[str] = []
    trained = fit(MethodConfig(num_subsets=3, update_rate=300.0, leak=0.0), log=log)
    assert trained.at_lower_bound
    assert any("ran down to 1/K" in line for line in log)


def test_divergence_is_an_error_in_one_line() -> None:
    with pytest.raises(InputError, match=r"finite training loss.*learning_rate"):
        fit(training=TrainingConfig(epochs=3, batch_size=32, optimizer="sgd", learning_rate=1e30))


@pytest.mark.parametrize("schedule", ["constant", "one_cycle", "cosine", "steps"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_and_schedule_learns(schedule: str, optimizer: str) -> None:
    training = TrainingConfig(
        epochs=4,
        batch_size=32,
        optimizer=optimizer,  # type: ignore[arg-type]
        schedule=schedule,  # type: ignore[arg-type]
        milestones=[3],
        learning_rate=0.02,
    )
    assert fit(training=training).epochs[-1]["accuracy"] > 0.6
