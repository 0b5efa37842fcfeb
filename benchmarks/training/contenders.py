"""Contenders of the benchmark of training: each function prepares one, and returns a function that takes one turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from aradals import score
from aradals.data import Examples, load_data
from aradals.models import build_model
from aradals.pipeline.config import AdaptiveTargets, MethodConfig, SelfScoredSubsets, TrainingConfig
from aradals.pipeline.train import fit_classifier
from aradals.smoothing.update_rules import UpdateRule

BATCH_SIZE = 128
EVERY = 10
"""Epochs between two scorings."""


@dataclass(frozen=True)
class Setting:
    """The work of one turn: a network, and how many images it learns how often."""

    data: Path
    network: str
    num_images: int
    epochs: int
    device: str = "cpu"

    @property
    def num_validation(self) -> int:
        """A ninth of the training images, as 5,000 beside 45,000."""
        return self.num_images // 9

    def splits(self) -> tuple[Examples, Examples]:
        """Load the training and the validation images."""
        examples = load_data(str(self.data), limit=self.num_images + self.num_validation)
        return examples.select(torch.arange(self.num_images)), examples.select(
            torch.arange(self.num_images, len(examples))
        )

    def build(self) -> nn.Module:
        """Make the network with fresh weights."""
        torch.manual_seed(0)
        return build_model(self.network, num_classes=10, in_channels=3)

    @property
    def training(self) -> TrainingConfig:
        """The settings of the recipe cifar10-small."""
        return TrainingConfig(
            epochs=self.epochs,
            batch_size=BATCH_SIZE,
            learning_rate=0.005,
            schedule="one_cycle",
            augment="flip_crop",
        )


def trainer(setting: Setting, method: MethodConfig = MethodConfig()) -> Callable[[], int]:  # noqa: B008 (frozen)
    """Our trainer, everything counted: set-up, augmentation, checks, validation, and the state after each epoch."""
    train, validation = setting.splits()

    def turn() -> int:
        with tempfile.TemporaryDirectory() as folder:
            fit_classifier(
                setting.build(),
                train,
                validation,
                method=method,
                training=setting.training,
                seed=0,
                device=setting.device,
                resume=Path(folder) / "resume.ckpt",
            )
        return setting.epochs * setting.num_images

    return turn


def self_scored(setting: Setting) -> Callable[[], int]:
    """AR-AdaLS that scores itself every 10 epochs, everything counted."""
    targets = AdaptiveTargets(UpdateRule(), SelfScoredSubsets(every=EVERY))
    return trainer(setting, MethodConfig(targets=targets))


def scoring(setting: Setting, *, attack: str, **attack_args: Any) -> Callable[[], int]:
    """The scores of the training images by a model that was trained for two epochs."""
    train, validation = setting.splits()
    trained = fit_classifier(
        setting.build(),
        train,
        validation,
        method=MethodConfig(),
        training=setting.training,
        seed=0,
        device=setting.device,
    )

    def turn() -> int:
        return len(score(trained.model.to(setting.device), train.batches(), attack, **attack_args))

    return turn


class OneByOne(Dataset[tuple[Tensor, int]]):
    """Images that are transformed one by one: flipped, padded and cropped at random."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        _, image, label = self.examples[row]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        top, left = torch.randint(9, (2,)).tolist()
        return F.pad(image, (4, 4, 4, 4))[:, top : top + 32, left : left + 32], label


def plain_loop(setting: Setting) -> Callable[[], int]:
    """A plain float32 loop: a DataLoader that transforms images one by one, and no validation."""
    loader = DataLoader(OneByOne(setting.splits()[0]), BATCH_SIZE, shuffle=True, drop_last=True)

    def turn() -> int:
        network = setting.build().to(setting.device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.005, total_steps=setting.epochs * len(loader))
        for _ in range(setting.epochs):
            for inputs, labels in loader:
                loss = F.cross_entropy(network(inputs.to(setting.device)), labels.to(setting.device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return setting.epochs * len(loader) * BATCH_SIZE

    return turn


def steps(
    setting: Setting,
    *,
    channels_last: bool = False,
    fused: bool = False,
    keep: bool = False,
    compiled: bool = False,
    bf16: bool = False,
) -> Callable[[], int]:
    """Bare steps on one fixed batch: forward pass, backward pass, and step of the optimizer."""
    if keep:
        from aradals._internal.memory import keep_memory

        keep_memory()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = setting.build().to(setting.device, memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005, fused=fused)
    forward = torch.compile(network) if compiled else network
    _, inputs, labels = (column.to(setting.device) for column in setting.splits()[0].batch(range(BATCH_SIZE)))
    num_steps = setting.epochs * setting.num_images // BATCH_SIZE

    def turn() -> int:
        for _ in range(num_steps):
            with torch.autocast(setting.device, torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(forward(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return num_steps * BATCH_SIZE

    return turn
