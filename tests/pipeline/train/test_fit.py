"""Training: the right loss, resumable to the bit, honest about divergence, bounds and what scoring costs."""

from __future__ import annotations

import copy
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_tools import assert_same, dying, read_state, weights

from aradals import InputError, assign_subsets
from aradals.data import Examples
from aradals.errors import TrainingFailed
from aradals.pipeline.config import (
    AdaptiveTargets,
    FixedTargets,
    MethodConfig,
    RankedSubsets,
    SelfScoredSubsets,
    TrainingConfig,
)
from aradals.pipeline.train import TrainedModel, fit_classifier
from aradals.pipeline.train.module import AdaptiveClassifier, epoch_seed
from aradals.pipeline.train.self_scoring import SelfScoring
from aradals.smoothing.update_rules import UpdateRule


def clusters(num_examples: int, seed: int) -> Examples:
    """Three overlapping clusters in the unit square."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (num_examples,), generator=generator)
    centers = torch.tensor([[0.3, 0.3], [0.7, 0.3], [0.5, 0.7]])
    inputs = (centers[labels] + 0.15 * torch.randn(num_examples, 2, generator=generator)).clamp(0, 1)
    return Examples(inputs, labels, num_classes=3)


def noisy(examples: Examples) -> Examples:
    """The same with every fifth label moved on: what is learnt on the clean ones is over-confident here."""
    labels = torch.where(torch.arange(len(examples)) % 5 == 0, (examples.labels + 1) % 3, examples.labels)
    return Examples(examples.batch(list(range(len(examples))))[1], labels, num_classes=3)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))


TRAIN, VALIDATION = clusters(200, seed=1), noisy(clusters(90, seed=2))
SETTINGS = TrainingConfig(epochs=6, batch_size=32, learning_rate=0.02, schedule="one_cycle")
ADAPTIVE = MethodConfig(targets=AdaptiveTargets(UpdateRule(rate=0.5), RankedSubsets(3)))
EVERY_OTHER = MethodConfig(targets=AdaptiveTargets(UpdateRule(rate=0.5), RankedSubsets(3), update_every=2))


def self_scoring(every: int) -> MethodConfig:
    """The same, scored by itself."""
    return MethodConfig(targets=AdaptiveTargets(UpdateRule(rate=0.5), SelfScoredSubsets(every, 3)))


SELF_SCORING = self_scoring(2)


def fit(
    method: MethodConfig = ADAPTIVE,
    training: TrainingConfig = SETTINGS,
    resume: Path | None = None,
    log: Callable[[str], None] = lambda line: None,
    model: nn.Module | None = None,
    seed: int = 5,
) -> TrainedModel:
    def subsets(examples: Examples) -> Tensor | None:
        if isinstance(method.targets.subsets, SelfScoredSubsets):
            return None
        return assign_subsets(examples._inputs[:, 0], method.num_subsets)  # type: ignore[index]

    return fit_classifier(
        model or network(),
        TRAIN,
        VALIDATION,
        method=method,
        training=training,
        seed=seed,
        train_subsets=subsets(TRAIN),
        validation_subsets=subsets(VALIDATION),
        device="cpu",
        resume=resume,
        log=log,
    )


@pytest.mark.parametrize("schedule", ["one_cycle", "steps"])
def test_an_interrupted_training_ends_with_the_same_weights_and_targets(
    schedule: Literal["one_cycle", "steps"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(SETTINGS, schedule=schedule, milestones=[3, 4] if schedule == "steps" else [])
    resume = tmp_path / "resume.ckpt"
    with dying(3, monkeypatch):
        fit(training=training, resume=resume)
    assert not {"train_subsets", "validation_subsets"} & read_state(resume)["state_dict"].keys()
    assert_same(fit(training=training, resume=resume), fit(training=training))


def test_vanilla_is_plain_cross_entropy_in_a_plain_loop() -> None:
    training = TrainingConfig(epochs=2, batch_size=32, optimizer="sgd", learning_rate=0.1)
    trained = fit(MethodConfig(), training)
    model = network().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for epoch in range(2):
        torch.manual_seed(epoch_seed(5, epoch))
        order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(epoch_seed(5, epoch)))
        for positions in order.split(32)[: len(TRAIN) // 32]:
            _, inputs, labels = TRAIN.batch(positions.tolist())
            loss = F.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert torch.allclose(weights(trained.model), weights(model), atol=1e-5)


def test_targets_move_only_where_they_are_told_to() -> None:
    assert fit(MethodConfig(targets=FixedTargets(0.1))).target_prob == [0.9]
    adaptive = fit()
    assert len(adaptive.updates) == SETTINGS.epochs
    assert adaptive.updates[0]["target_prob"] == [1, 1, 1]
    assert min(adaptive.target_prob) < 1
    assert [step["n"] for step in adaptive.updates] == [[30, 30, 30]] * SETTINGS.epochs


def test_updates_every_second_epoch() -> None:
    trained = fit(EVERY_OTHER)
    assert len(trained.updates) == SETTINGS.epochs // 2


def test_automatic_update_rate_suits_the_number_of_updates() -> None:
    training = TrainingConfig(epochs=62, batch_size=200)
    assert fit(MethodConfig(targets=AdaptiveTargets(UpdateRule(rate="auto"))), training).update_rate == pytest.approx(
        6 / 62
    )
    assert (
        fit(MethodConfig(targets=AdaptiveTargets(UpdateRule(rate="auto"), update_every=2)), training).update_rate == 0.1
    )


def test_seeds_differ_and_the_same_seed_does_not() -> None:
    same, other = fit(), fit(seed=6)
    assert weights(fit().model).equal(weights(same.model))
    assert not weights(other.model).equal(weights(same.model))


def test_a_target_that_runs_down_is_said() -> None:
    log: list[str] = []
    trained = fit(
        MethodConfig(targets=AdaptiveTargets(UpdateRule(rate=300.0, leak=0.0), RankedSubsets(3))), log=log.append
    )
    assert trained.at_lower_bound
    assert any("ran down to 1/K" in line for line in log)


class Exploding(nn.Module):
    """The last step of an epoch writes an infinite number into the network: its loss was finite, and stays so."""

    def __init__(self, place: str, epoch: int) -> None:
        super().__init__()
        self.network, self.place = network(), place
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))  # on purpose, as for attention
        self.calls_left = epoch * (len(TRAIN) // SETTINGS.batch_size)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(inputs)
        if self.training:
            self.calls_left -= 1
            if self.calls_left == 0:
                dict([*self.named_parameters(), *self.named_buffers()])[self.place].data.view(-1)[0] = torch.inf
        return logits


class TestGoneWrong:
    """A training that has gone wrong says so, and the state of the last epoch that went well stays."""

    @pytest.mark.parametrize("rate", [1e2, 1e3])
    def test_a_learning_rate_that_is_too_high(self, rate: float, tmp_path: Path) -> None:
        training = replace(SETTINGS, optimizer="sgd", learning_rate=rate)
        with pytest.raises(
            TrainingFailed, match=r"^training diverged in epoch \d, .*; try a learning rate below 1.*learning"
        ):
            fit(training=training, resume=tmp_path / "resume.ckpt")

    @pytest.mark.parametrize("place", ["network.4.bias", "network.1.running_mean"])
    @pytest.mark.parametrize("method", [MethodConfig(), EVERY_OTHER, SELF_SCORING])
    def test_in_the_last_step_of_the_third_epoch(self, method: MethodConfig, place: str, tmp_path: Path) -> None:
        resume = tmp_path / "resume.ckpt"
        for _ in range(2):  # the second time from the state after the second epoch, or the first where that exploded
            with pytest.raises(TrainingFailed, match=r"in epoch \d, when (the training loss and )?the weights"):
                fit(method, model=Exploding(place, epoch=3), resume=resume)
            state = read_state(resume)
            assert len(state["epochs"]) >= 2
            tensors = [tensor for name, tensor in state["state_dict"].items() if name.startswith("model.network")]
            assert len(tensors) == len(network().state_dict())
            assert all(tensor.isfinite().all() for tensor in tensors)

    def test_an_infinite_buffer_that_belongs_to_the_model_is_no_harm(self) -> None:
        model = fit(MethodConfig(), model=Exploding("mask", epoch=100)).model
        assert dict(model.named_buffers())["mask"].tolist() == [0, -torch.inf]

    def test_nothing_to_train(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingFailed, match="no trainable parameters"):
            fit(model=network().requires_grad_(False), resume=tmp_path / "resume.ckpt")

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_a_learning_rate_without_effect(self, optimizer: Literal["adam", "sgd"], tmp_path: Path) -> None:
        training = replace(SETTINGS, optimizer=optimizer, learning_rate=1e-30)
        with pytest.raises(TrainingFailed, match=r"no parameter has changed .* in the first epoch"):
            fit(training=training, resume=tmp_path / "resume.ckpt")
        assert not (tmp_path / "resume.ckpt").exists()

    def test_part_of_the_network_may_be_frozen(self) -> None:
        model = network()
        assert isinstance(model, nn.Sequential)
        model[0].requires_grad_(False)
        trained = fit(MethodConfig(), model=model).model
        assert isinstance(trained, nn.Sequential)
        assert trained.get_parameter("0.weight").equal(network().get_parameter("0.weight"))
        assert not trained.get_parameter("4.weight").equal(network().get_parameter("4.weight"))

    def test_lazy_layers_are_made_before_they_are_looked_at(self) -> None:
        model = nn.Sequential(nn.LazyLinear(32), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(32, 3))
        assert fit(MethodConfig(), model=model).epochs[-1]["accuracy"] > 0.6

    def test_one_class(self) -> None:
        ones = TRAIN.select(TRAIN.labels == 1)
        with pytest.raises(TrainingFailed, match=r"all \d+ training examples are of class 1"):
            fit_classifier(network(), ones, VALIDATION, method=MethodConfig(), training=SETTINGS, seed=0, device="cpu")

    def test_a_network_that_has_died(self) -> None:
        """Each of its hidden units is off for every input."""

        class Dead(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.last = nn.Linear(2, 8), nn.Linear(8, 3)
                self.first.bias.data.fill_(-100.0)

            def forward(self, inputs: Tensor) -> Tensor:
                logits: Tensor = self.last(self.first(inputs).relu())
                return logits

        with pytest.raises(TrainingFailed, match=r"the same for all 290 examples .*: class \d with confidence 0\.\d+"):
            fit(MethodConfig(), model=Dead())

    def test_a_model_that_cannot_score_itself(self) -> None:
        class Steps(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network()

            def forward(self, inputs: Tensor) -> Tensor:
                logits: Tensor = self.network((inputs * 10).round() / 10)
                return logits

        with pytest.raises(TrainingFailed, match=r"cannot score itself after epoch 2: .* gradient"):
            fit(SELF_SCORING, model=Steps())

    def test_a_loss_without_a_gradient(self) -> None:
        class Detached(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network()

            def forward(self, inputs: Tensor) -> Tensor:
                logits: Tensor = self.network(inputs)
                return logits.detach()

        with pytest.raises(TrainingFailed, match="the loss does not depend on any trainable parameter"):
            fit(MethodConfig(), model=Detached())


def test_an_interrupt_is_an_interrupt(tmp_path: Path) -> None:
    """Lightning would leave the process and ignore the signal from then on."""
    handler = signal.getsignal(signal.SIGINT)

    def log(line: str) -> None:
        if "epoch 2/" in line:
            raise KeyboardInterrupt("in epoch 2")

    with pytest.raises(KeyboardInterrupt, match="in epoch 2"):
        fit(MethodConfig(), resume=tmp_path / "resume.ckpt", log=log)
    assert signal.getsignal(signal.SIGINT) is handler
    assert_same(fit(MethodConfig(), resume=tmp_path / "resume.ckpt"), fit(MethodConfig()))


@pytest.mark.parametrize("schedule", ["constant", "one_cycle", "cosine", "steps"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_and_schedule_learns(schedule: str, optimizer: str) -> None:
    training = TrainingConfig(
        epochs=4,
        batch_size=32,
        optimizer=optimizer,  # type: ignore[arg-type]
        schedule=schedule,  # type: ignore[arg-type]
        milestones=[3] if schedule == "steps" else [],
        learning_rate=0.02,
    )
    assert fit(training=training).epochs[-1]["accuracy"] > 0.6


class TestSelfScoring:
    def test_subsets_are_those_of_the_model_of_that_epoch_by_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scored: list[int] = []
        hook = SelfScoring.on_train_epoch_start

        def subsets_by_hand(model: nn.Module, examples: Examples) -> Tensor:
            inputs = examples.batch(list(range(len(examples))))[1].requires_grad_()
            top_two = model(inputs).topk(2, 1).values
            margin: Tensor = top_two[:, 0] - top_two[:, 1]
            (gradient,) = torch.autograd.grad(margin.sum(), inputs)
            rank: Tensor = (margin / gradient.norm(dim=1)).argsort().argsort()
            return rank * 3 // len(examples)

        def spy(callback: SelfScoring, trainer: Any, module: AdaptiveClassifier) -> None:
            before = module.train_subsets.clone()
            hook(callback, trainer, module)
            if module.train_subsets.equal(before):
                return
            scored.append(module.current_epoch)
            assert all(part.training for part in module.modules())
            model = copy.deepcopy(module.model).eval()
            for subsets, examples in ((module.train_subsets, TRAIN), (module.validation_subsets, VALIDATION)):
                assert subsets.equal(subsets_by_hand(model, examples))

        monkeypatch.setattr(SelfScoring, "on_train_epoch_start", spy)
        trained = fit(SELF_SCORING)
        assert scored == [2, 4]
        assert [scoring["epoch"] for scoring in trained.scorings] == scored

    def test_it_is_adals_until_the_first_update_by_subsets(self) -> None:
        """To the bit, though the model is scored in between: scoring disturbs neither weights nor random numbers."""
        ours, adals = (
            fit(self_scoring(3)),
            fit(MethodConfig(targets=AdaptiveTargets(UpdateRule(rate=0.5)))),
        )
        for step, alone in zip(ours.updates[:3], adals.updates[:3], strict=True):
            assert step == {key: values * 3 for key, values in alone.items()}
        assert ours.updates[3]["target_prob"] == adals.updates[3]["target_prob"] * 3
        assert ours.updates[3]["n"] == [30, 30, 30]
        assert len(set(ours.updates[4]["target_prob"])) > 1
        losses = [[epoch["loss"] for epoch in trained.epochs] for trained in (ours, adals)]
        assert losses[0][:4] == losses[1][:4]
        assert losses[0][4] != losses[1][4]

    @pytest.mark.parametrize("hook_of", [AdaptiveClassifier, SelfScoring])
    @pytest.mark.parametrize("epoch", range(1, SETTINGS.epochs))
    def test_killed_before_any_epoch_it_ends_the_same(
        self,
        epoch: int,
        hook_of: type[AdaptiveClassifier] | type[SelfScoring],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        resume = tmp_path / "resume.ckpt"
        with dying(epoch, monkeypatch, hook_of):
            fit(SELF_SCORING, resume=resume)
        assert_same(fit(SELF_SCORING, resume=resume), fit(SELF_SCORING))

    def test_its_cost_is_recorded_and_said(self) -> None:
        log: list[str] = []
        trained = fit(SELF_SCORING, log=log.append)
        for scoring in trained.scorings:
            assert scoring["num_forward"] == scoring["num_backward"] == len(TRAIN) + len(VALIDATION)
            assert scoring["num_failed"] == 0
            assert scoring["seconds"] > 0
        (line, _) = (line for line in log if line.startswith("scored"))
        assert re.fullmatch(
            r"scored 200 \+ 90 examples by first_order_margin in \d+\.\d s \(\d+\.\d epochs' worth\)", line
        )
        seconds = [record["seconds"] for record in (*trained.epochs, *trained.scorings)]
        assert len(seconds) == SETTINGS.epochs + 2
        assert trained.seconds == pytest.approx(sum(seconds))

    def test_without_a_gradient_an_example_is_ranked_by_its_margin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Half(nn.Module):
            """Sees nothing of the left half of the square."""

            def forward(self, inputs: Tensor) -> Tensor:
                return inputs * (inputs[:, :1] > 0.5)

        modules: list[AdaptiveClassifier] = []
        monkeypatch.setattr(AdaptiveClassifier, "on_fit_end", lambda module: modules.append(module))
        log: list[str] = []
        trained = fit(self_scoring(4), log=log.append, model=nn.Sequential(Half(), network()))
        failed = [examples.batch(list(range(len(examples))))[1][:, 0] <= 0.5 for examples in (TRAIN, VALIDATION)]
        (scoring,) = trained.scorings
        assert scoring["num_failed"] == sum(int(part.sum()) for part in failed) > 0
        assert any(f", {scoring['num_failed']:.0f} without a gradient" in line for line in log)
        (module,) = modules
        for subsets, part in zip((module.train_subsets, module.validation_subsets), failed, strict=True):
            assert len(subsets[part].unique()) > 1

    def test_in_half_precision(self) -> None:
        trained = fit(SELF_SCORING, replace(SETTINGS, precision="bf16-mixed"))
        assert [scoring["num_failed"] for scoring in trained.scorings] == [0, 0]

    def test_fixed_subsets_cannot_be_forgotten(self) -> None:
        with pytest.raises(InputError, match=r"num_subsets=3.*SelfScoredSubsets"):
            fit_classifier(network(), TRAIN, VALIDATION, method=ADAPTIVE, training=SETTINGS, seed=0, device="cpu")
