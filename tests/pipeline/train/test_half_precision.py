"""Targets adapt in a training in half precision as they do in float32."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from aradals.data import Examples, as_batch
from aradals.objectives import get_objective
from aradals.pipeline.config import TrainingConfig
from aradals.pipeline.train.module import AdaptiveClassifier, by_id
from aradals.smoothing import AdaptiveSmoothing, UpdateRule

NUM_CLASSES, NUM_EXAMPLES = 3, 1500


def overconfident(dtype: torch.dtype) -> AdaptiveClassifier:
    """A module whose model does not change, and whose logits are exact in half precision."""
    model = nn.Linear(NUM_CLASSES, NUM_CLASSES, bias=False)
    nn.init.eye_(model.weight)
    with torch.no_grad():
        model.weight.mul_(8)
    ids = torch.arange(NUM_EXAMPLES)
    module = AdaptiveClassifier(
        model,
        get_objective("cross_entropy"),
        AdaptiveSmoothing(NUM_CLASSES, 2, rule=UpdateRule(0.005, averaging=0.5)),
        by_id(ids, ids % 2),
        by_id(ids, ids % 2),
        TrainingConfig(epochs=3, batch_size=500, learning_rate=1e-30, optimizer="sgd"),
        seed=0,
    )
    return module.to(dtype)


def examples() -> Examples:
    """Inputs that say a class, which is wrong for every third example."""
    classes = torch.arange(NUM_EXAMPLES) // 2 % NUM_CLASSES
    labels = torch.where(torch.arange(NUM_EXAMPLES) % 3 == 0, (classes + 1) % NUM_CLASSES, classes)
    return Examples(torch.eye(NUM_CLASSES)[classes], labels, num_classes=NUM_CLASSES)


def course(module: AdaptiveClassifier, steps: int = 3) -> Tensor:
    """Run validation as Lightning does, and return the targets."""
    for _ in range(steps):
        module._reset_epoch()
        for ids, inputs, labels in examples().batches(500):
            module.training_step((ids, inputs.to(module.model.weight.dtype), labels), 0)
            module.validation_step((ids, inputs.to(module.model.weight.dtype), labels), 0)
        module.on_validation_epoch_end()
    return module.criterion.target_prob.clone()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_module_in_half_precision(dtype: torch.dtype) -> None:
    exact, half = overconfident(torch.float32), overconfident(dtype)
    assert course(half).equal(course(exact))
    assert half.criterion.target_prob.dtype == torch.float64
    assert half.criterion.target_prob.max() < 1
    assert half.criterion.history[-1]["n"] == [NUM_EXAMPLES / 2] * 2
    assert half._num_correct.item() == exact._num_correct.item() == NUM_EXAMPLES * 2 // 3
    assert half._mean_loss() == pytest.approx(exact._mean_loss(), rel=1e-6)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_trainer_in_half_precision(
    precision: Literal["bf16-true", "bf16-mixed"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aradals.pipeline.train.module.check_changed", lambda *arguments: None)
    targets = {}
    for name in ("32-true", precision):
        module = overconfident(torch.float32)
        trainer = Trainer(
            accelerator="cpu",
            precision=name,
            max_epochs=3,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        train, validation = (DataLoader(examples(), batch_size=500, collate_fn=as_batch) for _ in range(2))
        trainer.fit(module, train, validation)
        targets[name] = module.criterion.target_prob
        assert len(module.criterion.history) == 3
    assert targets[precision].dtype == torch.float64
    assert targets[precision].tolist() == pytest.approx(targets["32-true"].tolist(), rel=1e-3)
    assert targets[precision].max() < 1
