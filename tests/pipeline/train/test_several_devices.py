"""A training on several devices: the result of one device, and files and lines of the log by one process alone."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_tools import assert_same, digits, dying, weights

from aradals.errors import InputError
from aradals.inference.ensemble import Ensemble
from aradals.pipeline.config import AdaptiveTargets, MethodConfig, RankedSubsets, SelfScoredSubsets, TrainingConfig
from aradals.pipeline.train import TrainedModel, fit_classifier
from aradals.pipeline.train.batches import member_batches, part_of
from aradals.pipeline.train.module import AdaptiveClassifier
from aradals.smoothing.update_rules import UpdateRule
from processes import in_two_processes

TRAIN, VALIDATION = digits(0, 110), digits(110, 61)  # 61 examples, so that one is repeated
ONE = TrainingConfig(epochs=4, batch_size=20, learning_rate=0.01, schedule="one_cycle")
TWO = replace(ONE, devices=2)
TARGETS = AdaptiveTargets(UpdateRule(rate=0.2), RankedSubsets(3), smoothing=0.5)
METHODS = {
    "ranked": MethodConfig(targets=TARGETS),
    "in step": MethodConfig(targets=TARGETS),
    "self": MethodConfig(targets=replace(TARGETS, subsets=SelfScoredSubsets(2, 3))),
}


def network(seed: int = 0) -> nn.Module:
    """A network without statistics of the batch."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def partly_used() -> nn.Module:
    """A network with a parameter that has no gradient."""
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    return model


class BrokenInOne(nn.Module):
    """A network whose validation logits are not finite in the second process."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, inputs: Tensor) -> Tensor:
        is_broken = os.environ["RANK"] == "1" and not self.training
        logits: Tensor = self.network(inputs)
        return logits * (torch.nan if is_broken else 1)


def fit(kind: str, training: TrainingConfig, folder: Path, **options: Any) -> tuple[TrainedModel, list[str], Tensor]:
    """The trained model, its log, and the subsets that the module ends with."""
    log: list[str] = []
    modules: list[AdaptiveClassifier] = []

    class Spy(AdaptiveClassifier):
        def on_train_end(self) -> None:
            modules.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aradals.pipeline.train.fit.AdaptiveClassifier", Spy)
        trained = fit_classifier(
            Ensemble([network(0), network(1)]) if kind == "in step" else network(),
            TRAIN,
            VALIDATION,
            method=METHODS[kind],
            training=training,
            seed=0,
            train_subsets=torch.arange(len(TRAIN)) % 3,
            validation_subsets=torch.arange(len(VALIDATION)) % 3,
            device="cpu",
            resume=folder / f"{kind}.ckpt",
            log=log.append,
            **options,
        )
    subsets = torch.cat([modules[0].train_subsets, modules[0].validation_subsets])
    modules.clear()
    return trained, log, subsets


def fit_all(training: TrainingConfig, folder: Path) -> tuple[dict[str, tuple[TrainedModel, list[str], Tensor]], int]:
    """The trainings of all methods, and the seed of the last epoch."""
    return {kind: fit(kind, training, folder) for kind in METHODS}, torch.initial_seed()


def test_two_devices_give_the_result_of_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    expected, seed = fit_all(ONE, tmp_path / "one")
    (first_rank, first_seed), (second_rank, second_seed) = in_two_processes(fit_all, TWO, tmp_path)
    assert first_seed == seed != second_seed  # each draws its own augmentations
    for kind in METHODS:
        (first, log, subsets), (second, silent, other_subsets) = (found[kind] for found in (first_rank, second_rank))
        whole, _, whole_subsets = expected[kind]
        assert weights(first.model).equal(weights(second.model))
        assert first.target_prob == second.target_prob
        assert subsets.equal(other_subsets)
        assert subsets.equal(whole_subsets)
        torch.testing.assert_close(weights(first.model), weights(whole.model), rtol=0, atol=1e-5)
        torch.testing.assert_close(first.target_prob, whole.target_prob, rtol=0, atol=1e-6)
        assert len(set(first.target_prob)) == 3
        for ours, theirs, other in zip(first.epochs, whole.epochs, second.epochs, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
            assert ours["accuracy"] == theirs["accuracy"] == other["accuracy"]
        for update, expected_update in zip(first.updates, whole.updates, strict=True):
            assert update["n"] == expected_update["n"]
            assert update["confidence"] == pytest.approx(expected_update["confidence"], abs=1e-5)
        assert len(log) == len(first.epochs) + len(first.scorings)
        assert silent == []


def fit_twice(folder: Path, spoil: bool) -> tuple[TrainedModel, TrainedModel, list[str]]:
    """An uninterrupted training, and one that dies and goes on; the state is spoiled first in rank 0 on demand."""
    (whole, _, _), patch = fit("self", TWO, folder / "whole"), pytest.MonkeyPatch()
    with dying(3, patch):
        fit("self", TWO, folder / "broken")
    if spoil:
        (folder / "broken" / "self.ckpt").write_bytes(b"of another program")
    resumed, log, _ = fit("self", TWO, folder / "broken")
    return resumed, whole, log


@pytest.mark.parametrize("spoil", [False, True])
def test_a_training_that_is_interrupted_goes_on(spoil: bool, tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    [(resumed, whole, log), (other, _, silent)] = in_two_processes(fit_twice, tmp_path, spoil)
    assert_same(resumed, whole)
    assert weights(other.model).equal(weights(whole.model))
    assert sum("cannot be used" in line for line in log) == spoil
    assert (tmp_path / "broken" / "self.ckpt.unreadable-1").exists() == spoil
    assert silent == []


def fail(folder: Path) -> list[str]:
    """The errors of trainings that fail: both processes have the same, and none waits for the other."""
    errors = []
    options: dict[str, Any] = {"method": MethodConfig(), "seed": 0, "device": "cpu"}
    for model, train, training in (
        (BrokenInOne(), TRAIN, TWO),
        (partly_used(), TRAIN, TWO),
        (network(), TRAIN.select(torch.arange(13)), TWO),
        (network(), TRAIN, ONE),
        (network(), TRAIN, replace(TWO, devices=5)),
    ):
        with pytest.raises(InputError) as error:
            fit_classifier(model, train, VALIDATION, training=training, **options)
        errors.append(f"{type(error.value).__name__}: {error.value}")
    fine = fit_classifier(
        partly_used(),
        TRAIN,
        VALIDATION,
        training=replace(TWO, strategy="ddp_find_unused_parameters_true"),
        **options,
    )
    assert len(fine.epochs) == 4
    return errors


def test_errors_are_those_of_all_processes(tmp_path: Path) -> None:
    first, second = in_two_processes(fail, tmp_path)
    assert first == second
    assert first[0].startswith("TrainingFailed: training diverged in epoch 1, when the validation logits became NaN")
    assert first[1].startswith("TrainingFailed: some parameters of the model have no gradient")
    assert "expected training.batch_size of at most 13" in first[2]
    assert "expected 1 processes" in first[3]
    assert "expected 5 processes" in first[4]


class TestBatches:
    @pytest.mark.parametrize("num_members", [1, 3])
    @pytest.mark.parametrize("num_ranks", [2, 4])
    def test_the_parts_of_the_processes_make_the_batches_of_one(self, num_members: int, num_ranks: int) -> None:
        whole, _ = member_batches(50, 16, 3, 1, num_members)
        parts = [member_batches(50, 16, 3, 1, num_members, rank=r, num_ranks=num_ranks)[0] for r in range(num_ranks)]
        for index, batch in enumerate(whole):
            assert {len(part[index]) for part in parts} == {len(batch) // num_ranks}
            # Members one after the other, and the parts of a member in turn.
            by_rank = [torch.tensor(part[index]).reshape(num_members, -1) for part in parts]
            assert torch.stack(by_rank, 2).flatten().tolist() == batch

    @pytest.mark.parametrize(("num_examples", "num_ranks"), [(7, 2), (8, 2), (2, 5)])
    def test_validation_parts_are_equally_large_and_lose_no_example(self, num_examples: int, num_ranks: int) -> None:
        split = digits(0, num_examples)
        parts = [part_of(split, rank, num_ranks) for rank in range(num_ranks)]
        assert len({len(part) for part in parts}) == 1
        assert set(torch.cat([part.ids for part in parts]).tolist()) == set(split.ids.tolist())


class TestSettings:
    def test_one_device_leaves_digests_as_they_were(self) -> None:
        added = {"devices", "num_nodes", "strategy", "sync_batchnorm", "loader_workers", "logger"}
        assert ONE.course == {name: value for name, value in asdict(ONE).items() if name not in added}

    def test_only_the_number_of_processes_changes_the_model(self) -> None:
        assert TWO.course != ONE.course
        assert replace(ONE, num_nodes=2).course == replace(TWO, strategy="ddp").course
        assert replace(TWO, sync_batchnorm=True).course != TWO.course

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"devices": 0}, "training.devices of at least 1"),
            ({"devices": 3}, "batch_size that 3 devices divide .* got 20; try 21"),
            ({"devices": 5, "num_nodes": 4}, "batch_size that 20 devices divide .* got 20; try 40"),
            ({"strategy": "ddp"}, "training.strategy and training.sync_batchnorm with several devices only"),
            ({"sync_batchnorm": True}, "training.strategy and training.sync_batchnorm with several devices only"),
        ],
    )
    def test_settings_that_cannot_work(self, settings: dict[str, Any], expected: str) -> None:
        with pytest.raises(InputError, match=expected):
            replace(ONE, **settings)
