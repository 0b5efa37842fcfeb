"""The tasks of a study: their order, their records, and that a record is all that another process needs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_study import ADAPTIVE, VANILLA, save_digits, seed_run, small_config

from aradals._internal.files import file_digest
from aradals._internal.json_files import load_sealed
from aradals.errors import InputError
from aradals.pipeline.artifacts import load_predictions
from aradals.pipeline.config import (
    AdaptiveTargets,
    EnsembleConfig,
    MethodConfig,
    RankedSubsets,
    ScoringConfig,
    StudyConfig,
    TrainingConfig,
)
from aradals.pipeline.study import Workspace, plan, run_study, run_task
from aradals.pipeline.study.tasks import Score, Train, read_task

GROUPED = MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2)))
CLOCK = {"history.json", "cost.json", "stage.json"}
"""Files that hold seconds, or digests of such files."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    torch.set_num_threads(1)
    data = save_digits(tmp_path_factory.mktemp("data") / "digits.npz")
    methods = {
        "ranked": GROUPED,
        "fitted": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2, folds=2))),
        "sure": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2, by="confidence"))),
        "vanilla": VANILLA,
    }
    ensembles = {"pair": EnsembleConfig("vanilla", 2), "in_step": EnsembleConfig("ranked", 2, in_step=True)}
    return small_config(data, methods, ensembles=ensembles, seeds=[0, 1])


def test_each_task_is_there_once_after_those_that_it_needs(config: StudyConfig) -> None:
    tasks = plan(config)
    folders = [task.folder for task in tasks]
    assert len(set(folders)) == len(tasks)
    for position, task in enumerate(tasks):
        assert {need.folder for need in task.needs} <= set(folders[:position])
    seeds = [[folder for folder in folders if folder.startswith(f"seed-{seed}/")] for seed in (0, 1)]
    assert [folder.replace("seed-0", "seed-1") for folder in seeds[0]] == seeds[1]
    trained = [task.folder.removeprefix("seed-0/") for task in tasks if isinstance(task, Train)]
    assert sorted(trained[: len(trained) // 2]) == [
        "fitted/train",
        "in_step/train",
        "ranked/train",
        "scorer/without-fold-0",
        "scorer/without-fold-1",
        "sure/train",
        "vanilla/member-1/train",  # the first member is the model of the method, which scores, too
        "vanilla/train",
    ]


def test_inputs_are_named(config: StudyConfig) -> None:
    tasks = {task.folder: task for task in plan(config)}
    named = {
        folder: {name: [need.folder for need in needs] for name, needs in task.inputs.items()}
        for folder, task in tasks.items()
    }
    assert named["seed-0/vanilla/train"] == {}
    assert named["seed-0/ranked/train"] == {
        "train_scores": ["seed-0/scores/train"],
        "validation_scores": ["seed-0/scores/validation"],
    }
    assert named["seed-0/scores/fold-1-train"] == {"scorer": ["seed-0/scorer/without-fold-1"]}
    assert named["seed-1/pair/evaluate"] == {
        "scores": ["seed-1/scores/test"],
        "calibrate": ["seed-1/pair/calibrate"],
        "predictions": ["seed-1/vanilla/predict", "seed-1/vanilla/member-1/predict"],
    }
    assert tasks["seed-0/in_step/train"].outputs == ["history.json", "model-0.safetensors", "model-1.safetensors"]


def test_records_are_json_and_give_the_task_back(config: StudyConfig) -> None:
    given = replace(config, scoring=ScoringConfig("secant", {"accurate": True}, checkpoint="model.safetensors"))
    for task in [*plan(config), *plan(given)]:
        read = read_task(json.loads(json.dumps(task.record)))
        assert read == task
        assert read.digest == task.digest
    scorers = [task.scorer for task in plan(given) if isinstance(task, Score) and task.folder.endswith("scores/test")]
    assert scorers == ["model.safetensors"] * 2


def test_a_digest_is_of_the_settings_of_the_task_and_of_those_before_it(config: StudyConfig) -> None:
    before = {task.folder: task.digest for task in plan(config)}
    longer = replace(config.evaluation, num_resamples=30)
    after = {task.folder: task.digest for task in plan(replace(config, evaluation=longer, description="new"))}
    assert {folder for folder in before if before[folder] != after[folder]} == {
        folder for folder in before if folder.endswith("/evaluate")
    }
    methods = {**config.methods, "sure": replace(config.methods["sure"], augment="flip_crop")}
    after = {task.folder: task.digest for task in plan(replace(config, methods=methods))}
    assert {folder for folder in before if before[folder] != after[folder]} == {
        f"seed-{seed}/sure/{stage}" for seed in (0, 1) for stage in ("train", "predict", "calibrate", "evaluate")
    }
    longer_training = replace(config, training=TrainingConfig(epochs=3, batch_size=25, learning_rate=0.01))
    assert not set(before.values()) & {task.digest for task in plan(longer_training)}


@pytest.mark.parametrize("change", [{"task": "unknown"}, {"folder": 1}, {"more": 1}, {"source": {"data": "digits"}}])
def test_what_is_no_record_is_refused(change: dict[str, object], config: StudyConfig) -> None:
    with pytest.raises(InputError, match="record"):
        read_task({**plan(config)[0].record, **change})


def test_a_task_before_those_that_it_needs_is_refused(config: StudyConfig, tmp_path: Path) -> None:
    [evaluate] = [task for task in plan(config) if task.folder == "seed-0/vanilla/evaluate"]
    with pytest.raises(InputError, match=r"stage\.json"):
        run_task(evaluate.record, Workspace(tmp_path, "cpu"))


RUN = """
import json, sys, torch
from pathlib import Path
from aradals.pipeline.study import Workspace, run_task
torch.set_num_threads(1)
for record in json.loads(Path(sys.argv[1]).read_text()):
    run_task(record, Workspace(Path(sys.argv[2]), "cpu"))
"""


def test_records_are_all_that_another_process_needs(config: StudyConfig, tmp_path: Path) -> None:
    alone = replace(
        config,
        methods={name: config.methods[name] for name in ("ranked", "vanilla")},
        ensembles={"pair": config.ensembles["pair"]},
        seeds=[0],
    )
    results = run_study(alone, tmp_path / "here", name="test", log=lambda line: None)
    # In two processes, of which the second knows the first by its files alone.
    tasks = plan(alone)
    for part in (tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :]):
        records = tmp_path / "tasks.json"
        records.write_text(json.dumps([task.record for task in part]))
        subprocess.run([sys.executable, "-c", RUN, records, tmp_path / "there"], check=True, cwd=tmp_path)
    for task in tasks:
        here, there = (tmp_path / where / task.folder for where in ("here", "there"))
        for name in set(task.outputs) - CLOCK:
            assert file_digest(here / name) == file_digest(there / name), (task.folder, name)
        assert load_sealed(here / "stage.json")["digest"] == load_sealed(there / "stage.json")["digest"]
    log: list[str] = []
    again = run_study(alone, tmp_path / "there", name="test", log=log.append)
    assert again.rows == results.rows
    assert all("done before" in line for line in log if not line.startswith("run "))


def test_each_prediction_file_is_read_once(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aradals.pipeline.study import work

    run, _ = seed_run(config, tmp_path)
    evaluate = run.plan.evaluate("pair")
    for task in evaluate.needs:
        run.finish(task)
    read: list[Path] = []

    def counted(path: Path) -> object:
        read.append(path)
        return load_predictions(path)

    monkeypatch.setattr(work, "load_predictions", counted)
    run.finish(evaluate)
    assert len(read) == len(set(read)) == 2 * len(evaluate.predictions[0].conditions)
