"""An ensemble in step: each member as if alone, but for targets that the averaged prediction drives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from training_tools import assert_same, digits, dying, small_cnn, weights

from aradals.errors import TrainingFailed
from aradals.inference.ensemble import Ensemble
from aradals.pipeline.config import (
    AdaptiveTargets,
    FixedTargets,
    MethodConfig,
    RankedSubsets,
    SelfScoredSubsets,
    TrainingConfig,
)
from aradals.pipeline.train import TrainedModel, fit_classifier, member_seed
from aradals.pipeline.train.batches import member_batches
from aradals.smoothing.update_rules import UpdateRule

SEED = 3
TRAIN, VALIDATION = digits(0, 110), digits(110, 60)
TRAINING = TrainingConfig(epochs=3, batch_size=25, learning_rate=0.01, schedule="one_cycle")
TARGETS = AdaptiveTargets(UpdateRule(rate=0.5, leak=0.0), RankedSubsets(2), smoothing=0.5)
ADAPTIVE = MethodConfig(targets=TARGETS)
SELF_SCORING = MethodConfig(targets=replace(TARGETS, subsets=SelfScoredSubsets(1, 2)))


def fit(
    members: list[int], method: MethodConfig = ADAPTIVE, training: TrainingConfig = TRAINING, resume: Path | None = None
) -> TrainedModel:
    """Train one member alone, or several in step, as a study does."""
    torch.set_num_threads(1)
    models = [small_cnn(SEED, member) for member in members]
    return fit_classifier(
        models[0] if len(models) == 1 else Ensemble(models),
        TRAIN,
        VALIDATION,
        method=method,
        training=training,
        seed=member_seed(SEED, members[0]),
        train_subsets=torch.arange(110) % method.num_subsets,
        validation_subsets=torch.arange(60) % method.num_subsets,
        device="cpu",
        resume=resume,
    )


def members_of(trained: TrainedModel) -> list[torch.nn.Module]:
    assert isinstance(trained.model, Ensemble)
    return list(trained.model.members)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_with_fixed_targets_members_are_to_the_bit_those_trained_alone(optimizer: Literal["adam", "sgd"]) -> None:
    training = replace(TRAINING, optimizer=optimizer, weight_decay=1e-3)
    method = MethodConfig(targets=FixedTargets(0.2))
    together = fit([0, 1, 2], method, training)
    for member, model in enumerate(members_of(together)):
        assert weights(model).equal(weights(fit([member], method, training).model))


def test_the_averaged_prediction_drives_the_targets() -> None:
    """After one epoch, from the members' logits on the validation split."""
    trained = fit([0, 1], training=replace(TRAINING, epochs=1))
    _, inputs, labels = VALIDATION.batch(range(len(VALIDATION)))
    with torch.no_grad():
        member_probs = torch.stack([model(inputs).double().softmax(1) for model in members_of(trained)])

    def targets(probs: torch.Tensor) -> list[float]:
        confidence, predicted = probs.max(1)
        gap = confidence - (predicted == labels).double()
        return [min(1.0, max(0.1, 0.5 - 0.5 * gap[r::2].mean().item())) for r in (0, 1)]

    assert trained.target_prob == pytest.approx(targets(member_probs.mean(0)), abs=1e-6)
    for probs in member_probs:
        assert trained.target_prob != pytest.approx(targets(probs), abs=1e-3)
    assert trained.updates[0]["n"] == [30, 30]


def test_shared_targets_make_other_models_than_targets_of_their_own() -> None:
    together = members_of(fit([0, 1]))
    alone = [fit([member]).model for member in (0, 1)]
    assert not any(weights(model).equal(weights(other)) for model in together for other in alone)


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("method", [ADAPTIVE, SELF_SCORING, replace(ADAPTIVE, objective="mixup")])
def test_resumed_it_ends_with_the_same_members(
    method: MethodConfig, epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = tmp_path / "resume.ckpt"
    with dying(epoch, monkeypatch):
        fit([0, 1], method, resume=resume)
    assert_same(fit([0, 1], method, resume=resume), fit([0, 1], method))


def test_every_member_has_its_own_order_of_all_examples() -> None:
    batches, _ = member_batches(10, 5, seed=4, epoch=2, num_members=3)
    assert [len(batch) for batch in batches] == [15, 15]
    for member in range(3):
        own = [position for batch in batches for position in batch[5 * member : 5 * member + 5]]
        assert sorted(own) == list(range(10))
        alone, _ = member_batches(10, 5, seed=member_seed(4, member), epoch=2)
        assert own == [position for batch in alone for position in batch]


def test_a_last_batch_that_is_not_full_is_left_out_for_all() -> None:
    batches, _ = member_batches(11, 5, seed=0, epoch=0, num_members=2)
    assert [len(batch) for batch in batches] == [10, 10]
    [batch], _ = member_batches(3, 5, seed=0, epoch=0, num_members=2)
    assert len(batch) == 6


def test_a_member_that_has_died_is_noticed_beside_one_that_lives() -> None:
    models = [small_cnn(SEED, member) for member in (0, 1)]
    last = models[1].get_submodule("linear")
    last.weight.requires_grad_(False).zero_()  # type: ignore[operator]
    with pytest.raises(TrainingFailed, match="the trained model predicts the same for all 170 examples"):
        fit_classifier(
            Ensemble(models), TRAIN, VALIDATION, method=MethodConfig(), training=TRAINING, seed=SEED, device="cpu"
        )
