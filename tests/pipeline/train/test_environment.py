"""Training does what its arguments say, whatever a scheduler or the user has put into the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lightning.fabric.utilities.rank_zero import rank_zero_only
from training_tools import assert_same, digits, small_cnn

from aradals.pipeline.config import MethodConfig, TrainingConfig
from aradals.pipeline.train import TrainedModel, fit_classifier
from aradals.pipeline.train.environment import settings_from_arguments_alone

ENVIRONMENTS = {
    "slurm": {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
    "torchrun": {"TORCHELASTIC_RUN_ID": "a", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
    "trainer": {"PL_TRAINER_MAX_EPOCHS": "1", "PL_TRAINER_LIMIT_TRAIN_BATCHES": "1", "PL_TRAINER_MAX_STEPS": "3"},
    "devices": {"PL_TRAINER_NUM_NODES": "3", "PL_TRAINER_STRATEGY": "ddp", "PL_TRAINER_FAST_DEV_RUN": "True"},
}


def fit(folder: Path) -> TrainedModel:
    return fit_classifier(
        small_cnn(0),
        digits(0, 60),
        digits(60, 30),
        method=MethodConfig(),
        training=TrainingConfig(epochs=2, batch_size=20),
        seed=0,
        device="cpu",
        resume=folder / "training.ckpt",
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return fit(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("which", ENVIRONMENTS)
def test_the_environment_changes_nothing(
    which: str, whole: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENTS[which].items():
        monkeypatch.setenv(name, value)
    # As at an import of Lightning in such an environment.
    monkeypatch.setattr(rank_zero_only, "rank", int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))))
    assert_same(fit(tmp_path), whole)
    assert (tmp_path / "training.ckpt").exists()


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_TMPDIR", "/scratch")
    before = dict(os.environ)
    with settings_from_arguments_alone():
        assert "SLURM_NTASKS" not in os.environ
        assert os.environ["SLURM_TMPDIR"] == "/scratch"
    assert dict(os.environ) == before
