"""AR-AdaLS in the training of a LightningModule that knows nothing about it except its loss."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from aradals import AdaptiveSmoothing, InputError, UpdateRule, assign_subsets, objectives, score
from aradals.integrations.lightning import AdaptiveSmoothingCallback, batch_subsets
from aradals.integrations.loops import WithIds, in_box
from processes import in_two_processes

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 2,
}


class Classifier(LightningModule):
    """A user's module; only its loss is ours."""

    loss: Any

    def __init__(self, loss: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
        self.loss = loss or AdaptiveSmoothing(
            num_classes=3, num_subsets=3, rule=UpdateRule(rate=0.1), initial_target_prob=0.8
        )
        self.validation_losses: list[Tensor] = []
        self.seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.network(6 * inputs - 3)
        return logits

    def training_step(self, batch: Any) -> Tensor:
        inputs, labels = batch
        loss: Tensor = self.loss(self(inputs), labels)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        inputs, labels = batch
        logits = self(inputs)
        loss = self.loss(logits, labels)
        assert loss.allclose(nn.functional.cross_entropy(logits, labels), atol=1e-6)
        self.validation_losses.append(loss)

    def test_step(self, batch: Any) -> None:
        inputs, labels = batch
        self.log("test_loss", self.loss(self(inputs), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class WithMixup(Classifier):
    def training_step(self, batch: Any) -> Tensor:
        inputs, labels = batch
        target_prob = self.loss.target_prob_for(labels, batch_subsets(self))
        return objectives.mixup(self, inputs, labels, target_prob)[0]


class WithPartners(Classifier):
    def training_step(self, batch: Any) -> Tensor:
        inputs, labels = batch
        loss: Tensor = self.loss(self(inputs), labels.flip(0))
        return loss


class WithAnotherLoss(Classifier):
    def training_step(self, batch: Any) -> Tensor:
        inputs, labels = batch
        return nn.functional.cross_entropy(self(inputs), labels)


class WithAnotherValidation(Classifier):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        inputs, labels = batch
        nn.functional.cross_entropy(self(inputs), labels)


def examples(num: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(num, 4, generator=generator)
    labels = (inputs[:, :3] + 0.3 * torch.rand(num, 3, generator=generator)).argmax(1)
    return TensorDataset(inputs, labels)


TRAIN, VALIDATION = examples(90, 0), examples(61, 1)
ORDER: Any = torch.randperm(90, generator=torch.Generator().manual_seed(2)).tolist()


def fit(
    module: LightningModule | None = None,
    scoring_model: nn.Module | None = None,
    train: Any = None,
    validation: Any = None,
    ckpt_path: str | None = None,
    *,
    every: int = 2,
    **settings: Any,
) -> tuple[Classifier, AdaptiveSmoothingCallback, Trainer]:
    module = module or Classifier()
    callback = AdaptiveSmoothingCallback(TRAIN, VALIDATION, scoring_model, every=every)
    trainer = Trainer(**{"max_epochs": 4, **QUIET, **settings}, callbacks=[callback])
    train = train or DataLoader(WithIds(TRAIN), 20, sampler=ORDER, drop_last=True)
    trainer.fit(module, train, validation or DataLoader(WithIds(VALIDATION), 16), ckpt_path=ckpt_path)
    assert isinstance(module, Classifier)
    return module, callback, trainer


def ordered(order: Any = ORDER, dataset: Any = TRAIN, **settings: Any) -> DataLoader[Any]:
    """A loader that takes no random numbers of the training."""
    return DataLoader(WithIds(dataset), 20, sampler=order, generator=torch.Generator(), drop_last=True, **settings)


def by_hand(
    scoring_model: nn.Module,
    epochs: int = 4,
    *,
    order: Any = ORDER,
    accumulate: int = 1,
    mixes: bool = False,
    precision: torch.dtype | None = None,
) -> Classifier:
    """The same training as a loop of the public pieces."""
    module = Classifier()
    subsets, held_out = (
        assign_subsets(score(scoring_model, split.tensors[0], "first_order_margin").ranking, 3)
        for split in (TRAIN, VALIDATION)
    )
    optimizer = module.configure_optimizers()
    torch.manual_seed(0)
    half = torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None)
    for _ in range(epochs):
        for number, (ids, inputs, labels) in enumerate(loader := ordered(order), 1):
            with half:
                if mixes:
                    target_prob = module.loss.target_prob_for(labels, subsets[ids])
                    loss = objectives.mixup(module, inputs, labels, target_prob)[0]
                else:
                    loss = module.loss(module(inputs), labels, subsets[ids])
            (loss / accumulate).backward()
            if number % accumulate == 0 or number == len(loader):
                optimizer.step()
                optimizer.zero_grad()
        with half:
            logits = module(VALIDATION.tensors[0]).detach()
        module.loss.update(VALIDATION.tensors[1], logits, held_out)
    return module


def same(found: nn.Module, expected: nn.Module, *, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-4, atol=atol, equal_nan=True)


def test_normalized_images_may_differ_from_their_bounds_by_rounding() -> None:
    """The bounds of (x - mean) / std are computed by users in double precision, and the inputs in single precision."""
    mean, std = 0.3, 0.35
    bounds = (0 - mean) / std, (1 - mean) / std
    scaled = TensorDataset((torch.tensor([[0.0, 0.2], [0.7, 1.0]]) - mean) / std, torch.tensor([0, 1]))
    assert float(scaled.tensors[0].min()) < bounds[0]
    _, batches = in_box(*bounds)(nn.Linear(2, 2), DataLoader(WithIds(scaled), 2))
    ((_, inputs, _),) = batches
    torch.testing.assert_close(inputs, torch.tensor([[0.0, 0.2], [0.7, 1.0]]))
    assert bool(((inputs >= 0) & (inputs <= 1)).all())


@pytest.fixture(scope="module")
def scorer() -> nn.Module:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.copy_(5 * torch.eye(3, 4))
        model.bias.fill_(-2.5)
    return model


def test_the_training_is_that_of_the_public_pieces(scorer: nn.Module, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    module, _, trainer = fit(scoring_model=scorer, logger=logger, log_every_n_steps=1)
    same(module, by_hand(scorer))
    assert module.loss.target_prob.unique().numel() == 3
    assert module.loss.history[-1]["n"] == [21.0, 20.0, 20.0]
    assert float(trainer.callback_metrics["target_prob/0"]) == pytest.approx(float(module.loss.target_prob[0]))
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert {"target_prob/2", "gap/0"} <= set(header.split(","))
    assert module.training_step.__func__ is Classifier.training_step  # type: ignore[attr-defined]
    assert not module.loss._forward_pre_hooks


REPEATED: Any = [*range(30, 60), *range(45), 7, 7, 7, 88, 88]


@pytest.mark.parametrize(
    ("settings", "hand"),
    [
        ({"train": ordered(REPEATED)}, {"order": REPEATED}),
        ({"train": ordered(), "accumulate_grad_batches": 3}, {"accumulate": 3}),
        ({"train": ordered(), "precision": "bf16-mixed"}, {"precision": torch.bfloat16}),
        ({"train": ordered(), "module": WithMixup}, {"mixes": True}),
    ],
    ids=["repetition", "accumulation", "bf16", "mixup"],
)
def test_every_way_to_train_is_that_of_the_public_pieces(
    settings: dict[str, Any], hand: dict[str, Any], scorer: nn.Module
) -> None:
    kind = {**settings, "module": settings.get("module", Classifier)()}
    validation = DataLoader(WithIds(VALIDATION), 16, generator=torch.Generator())
    torch.manual_seed(0)
    module, *_ = fit(scoring_model=scorer, validation=validation, **kind)
    # In half precision, batches of another size are rounded in another way.
    same(module, by_hand(scorer, **hand), atol=0.02 if "precision" in hand else 1e-6)
    assert module.loss.target_prob.unique().numel() == 3


def test_a_model_that_scores_itself() -> None:
    module, callback, _ = fit(every=2)
    assert callback.loop.train is not None
    assert callback.loop.train.bincount().tolist() == [30, 30, 30]
    _, second, *_ = module.loss.history
    assert len(set(second["target_prob"])) == 1  # one target before the first scoring
    assert module.loss.target_prob.unique().numel() > 1


def test_repeated_examples_of_validation_count_once(scorer: nn.Module) -> None:
    expected, *_ = fit(scoring_model=scorer)
    repeated: Any = [*range(61), 3, 3, 60]
    module, *_ = fit(scoring_model=scorer, validation=DataLoader(WithIds(VALIDATION), 16, sampler=repeated))
    same(module, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate_grad_batches": 3},
        {"precision": "bf16-mixed"},
        {"train": DataLoader(WithIds(TRAIN), 25, sampler=RandomSampler(TRAIN, replacement=True, num_samples=100))},
        {"train": DataLoader(WithIds(TRAIN), 8, sampler=WeightedRandomSampler([1.0] * 45 + [0.0] * 45, 30))},
        {"module": WithMixup()},
        {"validation": [DataLoader(WithIds(VALIDATION), 16), DataLoader(WithIds(examples(40, 9)), 16)]},
    ],
    ids=["accumulation", "bf16", "replacement", "weights", "mixup", "two validation loaders"],
)
def test_other_ways_to_train(settings: dict[str, Any]) -> None:
    module, *_ = fit(every=1, **settings)
    assert [sum(step["n"]) for step in module.loss.history[1:]] == [61.0] * 3
    assert module.loss.target_prob.isfinite().all()
    assert module.loss.target_prob.unique().numel() > 1


def test_accumulated_gradients_have_the_targets_of_their_examples(scorer: nn.Module) -> None:
    """Two batches of 15, or one of 30: the same step."""
    one, *_ = fit(scoring_model=scorer, train=DataLoader(WithIds(TRAIN), 30))
    two, *_ = fit(scoring_model=scorer, train=DataLoader(WithIds(TRAIN), 15), accumulate_grad_batches=2)
    same(two, one)


def test_labels_in_another_order_are_refused() -> None:
    with pytest.raises(InputError, match="batch_subsets"):
        fit(WithPartners())


def test_a_training_resumes(scorer: nn.Module, tmp_path: Path) -> None:
    for scoring_model in (scorer, None):
        loader = DataLoader(WithIds(TRAIN), 20, sampler=ORDER)
        expected, *_ = fit(scoring_model=scoring_model, train=loader, max_epochs=6)
        _, _, trainer = fit(scoring_model=scoring_model, train=loader, max_epochs=3)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        module, *_ = fit(scoring_model=scoring_model, train=loader, max_epochs=6, ckpt_path=str(tmp_path / "last.ckpt"))
        same(module, expected)
        assert len(module.loss.history) == 6


def test_only_the_validation_of_a_training_updates(scorer: nn.Module) -> None:
    module, _, trainer = fit(scoring_model=scorer)
    before = copy.deepcopy(module.loss.state_dict())
    trainer.validate(module, DataLoader(WithIds(examples(40, 5)), 16), verbose=False)
    (found,) = trainer.test(module, DataLoader(TEST := examples(40, 6), 16), verbose=False)
    torch.testing.assert_close(module.loss.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    expected = nn.functional.cross_entropy(module(TEST.tensors[0]), TEST.tensors[1])
    assert found["test_loss"] == pytest.approx(float(expected), abs=1e-5)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(InputError, match=r"WithIds\(dataset\)"):
        fit(train=DataLoader(TRAIN, 20))
    with pytest.raises(InputError, match="got 0 of them"):
        fit(Classifier(nn.CrossEntropyLoss()))
    with pytest.raises(InputError, match="without validation"):
        fit(limit_val_batches=0)
    with pytest.raises(InputError, match="90 examples of train_set"):
        fit(train=DataLoader(WithIds(examples(200, 0)), 20), every=1)
    with pytest.raises(InputError, match=r"training that .* no call of it"):
        fit(WithAnotherLoss())
    with pytest.raises(InputError, match=r"validation that .* no call of it"):
        fit(WithAnotherValidation())
    with pytest.raises(InputError, match="bounds"):
        AdaptiveSmoothingCallback(TRAIN, VALIDATION, bounds=(1.0, 0.0))


def test_inputs_on_another_scale() -> None:
    train, validation = (TensorDataset(4 * x - 2, y) for x, y in (TRAIN.tensors, VALIDATION.tensors))
    first, second = (DataLoader(WithIds(split), 20) for split in (train, validation))
    for bounds in ((0.0, 1.0), (-2.0, 2.0)):
        callback = AdaptiveSmoothingCallback(train, validation, every=1, bounds=bounds)
        trainer = Trainer(**QUIET, max_epochs=2, callbacks=[callback])
        if bounds == (0.0, 1.0):
            with pytest.raises(InputError, match=r"bounds=\(low, high\)"):
                trainer.fit(Classifier(), first, second)
        else:
            trainer.fit(Classifier(), first, second)
            assert callback.loop.train is not None


def in_ranks() -> tuple[dict[str, Tensor], Tensor]:
    loader = DataLoader(WithIds(TRAIN), 10)
    module, callback, _ = fit(train=loader, every=1, devices=2, strategy="ddp", max_epochs=3)
    assert callback.loop.train is not None
    return module.loss.state_dict(), callback.loop.train


def test_two_ranks_have_the_same_targets() -> None:
    (first, subsets), (second, others) = in_two_processes(in_ranks)
    torch.testing.assert_close(second, first, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(subsets, others)
    assert subsets.bincount().tolist() == [30, 30, 30]
    assert first["steps"][-1][-1].sum() == 61  # the sampler repeats an example, which counts once
    assert first["target_prob"].unique().numel() > 1
