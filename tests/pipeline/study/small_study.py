"""A study of small pictures that takes seconds, and what the tests of its parts have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aradals.data import Splits, load_data
from aradals.models import build_model, load_checkpoint
from aradals.pipeline.config import (
    EvaluationConfig,
    MethodConfig,
    ScoringConfig,
    SplitConfig,
    StudyConfig,
    TrainingConfig,
)
from aradals.pipeline.study.execute import do_tasks
from aradals.pipeline.study.finished import FinishedRun, read_cost, read_run
from aradals.pipeline.study.groups import TrainingSubsets
from aradals.pipeline.study.tasks import SeedPlan, Task
from aradals.pipeline.study.trial import try_seed
from aradals.pipeline.study.work import training_subsets
from aradals.pipeline.study.workspace import Log, Workspace
from aradals.pipeline.workers import ThisProcess, Workers
from aradals.results.records import Cost
from aradals.smoothing.update_rules import UpdateRule

VANILLA = MethodConfig()
ADAPTIVE = UpdateRule(rate=0.5)


def save_digits(path: Path, *, num_train: int = 200, num_test: int = 100, **columns: Any) -> str:
    """Some of scikit-learn's digits as an ``.npz`` with a training and a test split, and further arrays."""
    arrays = dict(columns)
    for split, num in (("train", num_train), ("test", num_test)):
        _, inputs, labels = load_data("digits", split).batch(range(num))
        arrays |= {f"x_{split}": inputs.numpy(), f"y_{split}": labels.numpy()}
    np.savez(path, **arrays)
    return str(path)


def small_config(data: str | list[str], methods: dict[str, MethodConfig], **changes: Any) -> StudyConfig:
    """A study of a small network in two epochs; ``changes`` are other fields of the configuration."""
    settings: dict[str, Any] = {
        "model": "small_cnn",
        "model_args": {"width": 4},
        "splits": SplitConfig(validation=40, calibration=40, train=100),
        "training": TrainingConfig(epochs=2, batch_size=25, learning_rate=0.01),
        "scoring": ScoringConfig(attack="first_order_margin"),
        "evaluation": EvaluationConfig(num_subsets=2, corruptions=["contrast"], severities=[5], num_resamples=20),
    }
    return StudyConfig(data=data, methods=methods, **(settings | changes))


class SeedRun:
    """The tasks of one seed, done when they are asked for, in a folder of their own."""

    def __init__(self, config: StudyConfig, folder: Path, seed: int, log: Log) -> None:
        self.plan, self.folder = SeedPlan(config, seed), folder
        self.space = Workspace(folder, "cpu", log)

    @property
    def splits(self) -> Splits:
        """train, validation, calibration and test."""
        return self.space.materials(self.plan.source).splits

    def check(self) -> None:
        """What is tried before anything is trained."""
        try_seed(self.plan, self.space)

    def finish(self, task: Task) -> list[Path]:
        """Do a task and what it needs; its outputs."""
        for _, outcome in do_tasks([task], self.space, Workers(ThisProcess())):
            if outcome.failure:
                raise outcome.failure
        return list(self.space.paths(task).values())

    def train(self, method: str, member: int = 0) -> Path:
        """The checkpoint of a method."""
        return self.finish(self.plan.train(method, member))[1]

    def train_in_step(self, ensemble: str) -> list[Path]:
        """The checkpoints of an ensemble's members."""
        return self.finish(self.plan.train_in_step(ensemble))[1:]

    def checkpoints(self, ensemble: str) -> list[Path]:
        """The checkpoints of an ensemble's members that are trained one by one."""
        return [self.finish(predict.train)[1] for predict in self.plan.predict(ensemble)]

    def scores(self, split: str) -> Path:
        """The score table of a split."""
        return self.finish(self.plan.score(split))[0]

    def subsets(self, method: str) -> TrainingSubsets:
        """The subsets that a method is trained with, and what they come from."""
        task = self.plan.train(method)
        for table in task.score_tables:
            self.finish(table)
        subsets = training_subsets(task, self.space)
        assert subsets is not None
        return subsets

    def cost(self, method: str) -> Cost:
        """What it costs until a method is trained."""
        run = self.plan.evaluate(method)
        for training in run.trainings:
            self.finish(training)
        return read_cost(run, self.space)

    def finished(self, method: str) -> FinishedRun:
        """What a method gives to the results."""
        run = self.plan.evaluate(method)
        self.finish(run)
        return read_run(run, self.space)


def seed_run(config: StudyConfig, folder: Path, *, seed: int = 0) -> tuple[SeedRun, list[str]]:
    """The tasks of one seed, and what they log."""
    log: list[str] = []
    return SeedRun(config, folder, seed, log.append), log


def weights(checkpoint: Path) -> Tensor:
    """All parameters and running means of a checkpoint of the small network, as one vector."""
    model = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
    load_checkpoint(model, checkpoint)
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def trainings(log: list[str]) -> list[str]:
    """Who was trained, as the log tells it: what stands before each first epoch."""
    return [line.partition(": epoch 1/")[0] for line in log if ": epoch 1/" in line]
