"""Batches of a training: equal for any number of loader workers, and stored bytes until they are on the device."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from training_tools import assert_same, digits, small_cnn

from aradals import InputError
from aradals.data import Examples
from aradals.pipeline.config import MethodConfig, TrainingConfig
from aradals.pipeline.train import TrainedModel, fit_classifier
from aradals.pipeline.train.batches import StoredExamples, choose_loader_workers

TRAINING = TrainingConfig(epochs=2, batch_size=32, augment="flip_crop")


@dataclass(frozen=True)
class FromDisk:
    """Reader of bytes, one of whose rows cannot be read."""

    inputs: Tensor
    unreadable: int | None = None

    def __call__(self, rows: Sequence[int]) -> Tensor:
        if self.unreadable in rows:
            raise InputError(expected="an image", got=f"none in row {self.unreadable}", hint="removing this row")
        return self.inputs[list(rows)]


def stored(num_examples: int, first: int = 0) -> Examples:
    examples = digits(first, num_examples)
    inputs = (255 * examples.batch(range(num_examples))[1]).round().to(torch.uint8)
    return Examples(inputs, examples.labels, num_classes=10)


def on_disk(examples: Examples, unreadable: int | None = None) -> Examples:
    inputs = examples.stored_batch(range(len(examples)))[1]
    return Examples(FromDisk(inputs, unreadable), examples.labels, num_classes=10)


TRAIN, VALIDATION = stored(100), stored(40, first=100)


def fit(train: Examples, validation: Examples, loader_workers: int | None) -> TrainedModel:
    training = replace(TRAINING, loader_workers=loader_workers)
    method = MethodConfig()
    return fit_classifier(small_cnn(0), train, validation, method=method, training=training, seed=3, device="cpu")


def test_neither_the_place_of_the_data_nor_loader_workers_change_a_bit() -> None:
    in_memory = fit(TRAIN, VALIDATION, None)
    for loader_workers in (0, 2):
        assert_same(fit(on_disk(TRAIN), on_disk(VALIDATION), loader_workers), in_memory)


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_an_unreadable_image_is_bad_input_also_in_a_loader_worker(loader_workers: int) -> None:
    with pytest.raises(InputError, match="none in row 17"):
        fit(on_disk(TRAIN, unreadable=17), VALIDATION, loader_workers)


def test_bytes_travel_to_the_device() -> None:
    batch = StoredExamples(TRAIN).__getitems__([3, 5])
    assert not isinstance(batch, InputError)
    _, inputs, _ = batch
    assert inputs.dtype == torch.uint8
    assert TRAIN.batch([3, 5])[1].equal(inputs.float() / 255)


def test_loader_workers_take_only_cores_that_no_other_worker_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(num_cores: int, num_sharing: int, examples: Examples, wanted: int | None = None) -> int:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(num_cores), raising=False)
        monkeypatch.setenv("ARADALS_NUM_WORKERS", str(num_sharing))
        return choose_loader_workers(examples, wanted)

    disk = on_disk(TRAIN)
    assert [chosen(8, 2, disk), chosen(8, 8, disk), chosen(8, 16, disk), chosen(64, 1, disk)] == [4, 0, 0, 8]
    assert chosen(64, 1, TRAIN) == 0
    assert chosen(8, 8, disk, wanted=3) == 3
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    assert chosen(64, 1, disk) == 0  # such a process may not start others
