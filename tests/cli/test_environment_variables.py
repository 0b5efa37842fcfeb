"""A command does what its arguments say, whatever schedulers, Lightning and locales have put into the environment."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import aradals
from command_process import finish, start, write_recipe

ENVIRONMENT = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "NODE_RANK": "1",
    "WORLD_SIZE": "4",
    "LSB_JOBID": "3",
    "MASTER_ADDR": "10.255.255.1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "a",
    "PL_GLOBAL_SEED": "9",
    "PL_TRAINER_MAX_EPOCHS": "1",
    "PL_TRAINER_FAST_DEV_RUN": "1",
    "PL_TRAINER_NUM_NODES": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "KUBERNETES_PORT": "1",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
    "TERM": "dumb",
    "COLUMNS": "0",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "1",
    "PYTHONHASHSEED": "7",
}


def test_a_study_ends_with_the_same_numbers(tmp_path: Path) -> None:
    arguments = ("run", write_recipe(tmp_path), "--training.epochs=2", "--output")
    there, here = tmp_path / "there", tmp_path / "here"
    process = start(*arguments, there, environment=ENVIRONMENT)
    ran = aradals(*arguments, here)
    code, out, err = finish(process)
    assert (ran.code, code) == (0, 0), err
    assert f"results: {there / 'results.json'}" in out
    found, expected = (json.loads((folder / "results.json").read_text()) for folder in (there, here))
    for part in ("weights", "rows", "reliability", "calibrators"):
        assert found[part] == expected[part], part
