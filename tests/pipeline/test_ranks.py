"""The processes of a training: how they start, find each other, fail and end."""

from __future__ import annotations

import io
import os
import signal
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aradals._internal.files import file_digest
from aradals.cli.main import main
from aradals.errors import InputError, OutputError, TrainingFailed
from aradals.pipeline import ranks, workers
from aradals.pipeline.config import TrainingConfig
from aradals.pipeline.ranks import check_devices, join_ranks, leave_ranks, on_ranks, rank_of, workers_beside_ranks
from processes import in_two_processes

ONE = TrainingConfig(epochs=2, batch_size=64, learning_rate=0.01)
TWO = replace(ONE, devices=2)
RECIPE = """
data: digits
model: small_cnn
model_args: {width: 2}
splits: {validation: 100, calibration: 10, train: 300}
training: {epochs: 2, batch_size: 64, learning_rate: 0.01, devices: 2}
methods: {adaptive: {targets: {rule: {rate: 0.3}, smoothing: 0.3}}}
"""
CHECKPOINT = "adaptive/train/model.safetensors"


def ignore(line: str) -> None:
    """No log."""


def write_rank(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    torch.distributed.barrier()
    (folder / str(rank_of(TWO))).write_text(f"{torch.get_num_threads()} threads")


def fail_in(rank: int, kind: str) -> None:
    if rank_of(TWO) == rank:
        match kind:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                raise OutputError(expected="space", got="none", hint="freeing some")
    torch.distributed.init_process_group("gloo", world_size=2, rank=rank_of(TWO))  # waits for the failed rank


class TestNewProcesses:
    def test_each_rank_is_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")  # as in a torchrun with one process
        on_ranks(write_rank, tmp_path, training=TWO, log=ignore)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
            str(rank): f"{torch.get_num_threads()} threads" for rank in range(2)
        }

    @pytest.mark.parametrize(("rank", "kind", "error"), [(0, "output", "space"), (1, "killed", "has died, perhaps")])
    def test_a_failed_rank_ends_all(self, rank: int, kind: str, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ranks, "_SECONDS_TO_FAIL", 0.1)
        with pytest.raises(OutputError if kind == "output" else TrainingFailed, match=error):
            on_ranks(fail_in, rank, kind, training=TWO, log=ignore)

    def test_one_device_needs_none(self) -> None:
        done: list[int] = []
        on_ranks(done.append, os.getpid(), training=ONE, log=ignore)
        assert done == [os.getpid()]


def run_command(arguments: list[str]) -> tuple[int, str, str]:
    """One of the processes of a launcher: the exit code of the command, and what it prints."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            code = main(arguments)
        finally:
            leave_ranks()
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return ["train", str(tmp_path / "recipe.yaml"), "--method", "adaptive", "--device", "cpu", "--output"]


def test_a_command_that_torchrun_starts(command: list[str], tmp_path: Path) -> None:
    """One process logs, holds the lock of the folder, and writes; the other one is silent."""
    output, silent = str(tmp_path / "out"), (0, "", "")
    (code, out, err), other = in_two_processes(run_command, [*command, output])
    assert (code, other) == (0, silent)
    assert out == f"checkpoint: {tmp_path / 'out' / CHECKPOINT}\n"
    assert err.count("epoch 2/2") == 1
    (code, _, err), other = in_two_processes(run_command, [*command, output])
    assert (code, other) == (0, silent)
    assert "done before, inputs unchanged" in err
    # An error before the work is that of rank 0 alone.
    (code, _, err), other = in_two_processes(run_command, [*command, str(tmp_path / "recipe.yaml")])
    assert (code, other) == (2, silent)
    assert "expected a folder" in err
    # Processes that cannot be the ranks do no work.
    for code, _, err in in_two_processes(run_command, [*command, output, "--training.devices", "4"]):
        assert code == 2
        assert "expected 4 processes" in err


@pytest.mark.slow
def test_new_processes_train_the_same_model(command: list[str], tmp_path: Path) -> None:
    in_two_processes(run_command, [*command, str(tmp_path / "launched")])
    assert main([*command, str(tmp_path / "started")]) == 0
    assert file_digest(tmp_path / "launched" / CHECKPOINT) == file_digest(tmp_path / "started" / CHECKPOINT)


SLURM = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "2",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


class TestLaunchers:
    def test_srun_in_the_variables_of_torchrun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in SLURM.items():
            monkeypatch.setenv(name, value)
        assert ranks._launched() == {
            "TORCHELASTIC_RUN_ID": "srun",
            "RANK": "3",
            "LOCAL_RANK": "1",
            "GROUP_RANK": "1",
            "WORLD_SIZE": "4",
            "MASTER_ADDR": "gpu007",
            "MASTER_PORT": str(15000 + 4569),
        }
        assert not join_ranks(ONE)  # one device: the command is on its own
        with pytest.raises(InputError, match=r"expected 2 processes .* got 4 from torchrun or srun"):
            join_ranks(TWO)

    def test_the_script_of_a_job_is_one_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLURM_NTASKS", "4")
        monkeypatch.setenv("SLURM_PROCID", "0")
        assert ranks._launched() == {}

    def test_workers_beside_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert workers_beside_ranks(3) == 3
        monkeypatch.setattr(ranks, "is_joined", lambda: True)
        assert workers_beside_ranks(None) == workers_beside_ranks("1") == 1
        with pytest.raises(InputError, match="one worker"):
            workers_beside_ranks("dask:tcp://host:1")


class TestDevices:
    @pytest.mark.parametrize(
        ("settings", "device", "expected"),
        [
            ({"devices": 2}, "cuda:0", "training.devices=1 on this device"),
            ({"devices": 4}, "cuda", "training.devices of at most 3, the number of GPUs"),
            ({"devices": 2, "sync_batchnorm": True}, "cpu", "training.sync_batchnorm on GPUs only"),
            ({"num_nodes": 2}, "cpu", "the same command on 2 machines at once"),
        ],
    )
    def test_those_that_cannot_be(
        self, settings: dict[str, Any], device: str, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ranks, "resolve_device", torch.device)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        with pytest.raises(InputError, match=expected):
            check_devices(replace(ONE, **settings), device)

    @pytest.mark.parametrize(("devices", "groups"), [(1, ["0", "1", "2"]), (2, ["0,1"]), (3, ["0,1,2"]), (4, [])])
    def test_a_worker_has_as_many_gpus_as_a_training(self, devices: int, groups: list[str]) -> None:
        assert workers._grouped(["0", "1", "2"], devices) == groups
