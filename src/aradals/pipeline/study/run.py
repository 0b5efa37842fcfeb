"""Methods x seeds x data: each run a file of its own, then one table, what the seeds say together, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from aradals._internal.files import file_name
from aradals.data import Examples, data_paths, splits_hash
from aradals.errors import InputError, OutputError, TrainingFailed
from aradals.inference.ensemble import pool_logits
from aradals.inference.predictions import Predictions, resolve_device
from aradals.metrics import stability
from aradals.pipeline.artifacts import (
    SCHEMA_VERSION,
    save_sealed,
    save_table,
    versions,
)
from aradals.pipeline.config import StudyConfig, is_plain
from aradals.pipeline.outputs import output_folder
from aradals.pipeline.shown import class_rows, example_images
from aradals.pipeline.study.arrays import RunArrays
from aradals.pipeline.study.checks import check_config
from aradals.pipeline.study.executor import SerialExecutor
from aradals.pipeline.study.finished import FinishedRun, read_run
from aradals.pipeline.study.tasks import SeedPlan, goals
from aradals.pipeline.study.trial import try_seed, try_study
from aradals.pipeline.study.workspace import Log, Workspace
from aradals.results.compare import aggregate_seeds, compare_methods
from aradals.results.failed import describe_failed

Row = dict[str, Any]


OUTPUTS = ("results.json", "table.parquet", "table.csv")
"""What a study writes into its folder, beside the folders of its stages."""


KINDS = ("study", "studies")
"""What the results of a study call themselves."""

_ALONE = RLock()
"""Held by the thread whose study is at work: threads share torch's generator, so that others wait."""


def files_of(config: StudyConfig) -> list[Path]:
    """The files and folders on this machine that a study reads."""
    evaluation, scoring = config.evaluation, config.scoring
    named = [*config.data_sets, *filter(None, (evaluation.corrupted, scoring.checkpoint))]
    code = [config.model, *(method.objective for method in config.methods.values())]
    sources = [Path(spec.rpartition(":")[0]) for spec in code if ".py:" in spec]
    return [*(path for spec in named for path in data_paths(spec)), *sources]


def run_study(
    config: StudyConfig, output: Path, *, name: str, device: str = "auto", log: Log = print, overwrite: bool = False
) -> dict[str, Any]:
    """Train, calibrate and evaluate every method at every seed; what is done is not done again.

    The stages of a run (a method or an ensemble, at a seed) are folders under ``seed-<seed>/``, see `run_stage`. With
    several data sets each has a folder of its own.

    A run that fails by itself, because its training diverged for example, costs nothing but itself: the results name
    it under ``failed`` with the reason, and hold everything that the other runs give. The next call tries it again.

    Args:
        config: the recipe.
        output: folder of the study; ``results.json``, ``table.parquet`` and ``table.csv`` are written there.
        name: of the study, for the report.
        device: auto, cpu or cuda.
        log: called with each line of progress.
        overwrite: replace files of other people that lie where results are written.

    Returns:
        What ``results.json`` holds; with several data sets the results of each under ``studies``, without rows where
        all runs on one of them failed.

    Raises:
        InputError: anything in the recipe or the data that cannot work, before training starts.
        TrainingFailed: all runs failed; no results are written.
        OutputError: something cannot be written.
    """
    check_config(config)
    _refuse_own_scorer(config, output)
    inputs = files_of(config)
    with output_folder(output, OUTPUTS, kinds=KINDS, inputs=inputs, overwrite=overwrite, log=log), _ALONE:
        return _run_all(config, output, name, device, log)


def _run_all(config: StudyConfig, output: Path, name: str, device: str, log: Log) -> dict[str, Any]:
    """A study of one data set, or of several."""
    if isinstance(config.data, str):
        alone = _run_one(config, output, name, device, log)
        _refuse_without_rows([alone])
        return alone
    studies = [replace(config, data=data) for data in config.data]
    folders = [output / file_name(data) for data in config.data]
    # All of them are looked at before the first is trained for hours.
    names = [
        _tried(study, output, device, log).materials(SeedPlan(study, study.seeds[0]).source).splits.test.name
        for study in studies
    ]
    if len(set(names)) < len(names) or len(set(folders)) < len(folders):
        raise InputError(
            expected="data sets with names of their own", got=", ".join(map(str, config.data)), hint="renaming one"
        )
    results = [_run_one(*pair, f"{name}: {pair[0].data}", device, log) for pair in zip(studies, folders, strict=True)]
    _refuse_without_rows(results)
    together = {"schema": SCHEMA_VERSION, "kind": "studies", "name": name, "studies": results}
    save_sealed(output / "results.json", together)
    save_table(output / "table", [row for result in results for row in table_rows(result)])
    return together


def _refuse_without_rows(studies: list[dict[str, Any]]) -> None:
    """Raise TrainingFailed where not a single run has succeeded."""
    if not any(study["rows"] for study in studies):
        raise TrainingFailed(describe_failed(*studies))


def train_one(
    config: StudyConfig, method: str, seed: int, output: Path, *, device: str = "auto", log: Log = print
) -> list[Path]:
    """Train one method or ensemble of a recipe, with what it needs, such as a scoring model and scores.

    Returns:
        The checkpoints: one, ``output/<method>/train/model.safetensors``, or those of an ensemble's members.

    Raises:
        InputError: as in `run_study`; an unknown method; several data sets.
        TrainingFailed: this training failed, or one that it needs; no checkpoint of it is written.
    """
    names = [*config.methods, *config.ensembles]
    if method not in names:
        raise InputError(expected=f"a method of the recipe: {', '.join(names)}", got=repr(method), hint="one of these")
    if len(config.data_sets) > 1:
        raise InputError(expected="one data set", got=str(config.data), hint=f"--data {config.data_sets[0]}")
    check_config(replace(config, seeds=[seed]))
    _refuse_own_scorer(config, output)
    with output_folder(output, inputs=files_of(config)), _ALONE:
        space, planned = Workspace(output, device, log), SeedPlan(config, seed)
        try_seed(planned, space)
        executor, models = SerialExecutor(space), planned.predict(method)
        for model in models:
            executor.finish(model.train)
        return [space.paths(model.train)[model.checkpoint] for model in models]


def _refuse_own_scorer(config: StudyConfig, output: Path) -> None:
    """Refuse to score with a model of this very study, which a changed option would put another one in the place of."""
    checkpoint = Path(config.scoring.checkpoint or ".").resolve()
    if (checkpoint.parent / "stage.json").exists() and checkpoint.is_relative_to(output.resolve()):
        raise InputError(
            expected="a scoring.checkpoint that this study does not make",
            got=str(config.scoring.checkpoint),
            hint="a copy of it elsewhere, or no scoring.checkpoint",
        )


def table_rows(results: dict[str, Any]) -> list[Row]:
    """The tidy table of a study: one row per run, calibrator, condition and subset, with the cost of the run."""
    costs = {(cost["method"], cost["seed"]): cost for cost in results["costs"]}
    added = ("seconds", "relative_cost")
    return [{**row, **{key: costs[row["method"], row["seed"]][key] for key in added}} for row in results["rows"]]


def _tried(config: StudyConfig, output: Path, device: str, log: Log) -> Workspace:
    """The workspace of a study of one data set, in which everything that can fail has been tried."""
    space = Workspace(output, device, log)
    try_study(config, space)
    return space


def _run_one(config: StudyConfig, output: Path, name: str, device: str, log: Log) -> dict[str, Any]:
    """A study of one data set; nothing is written where all its runs fail."""
    space = _tried(config, output, device, log)
    executor, runs = SerialExecutor(space), goals(config)
    finished: list[FinishedRun] = []
    failed: list[Row] = []
    for position, run in enumerate(runs):
        log(f"run {position + 1} of {len(runs)}: {run.name}, seed {run.source.seed}")
        try:
            executor.finish(run)
            finished.append(read_run(run, space))
        except OutputError:
            raise
        except InputError as error:
            reason = _reason(error, run.name)
            log(f"[seed {run.source.seed}] {run.name}: FAILED: {reason}")
            failed.append({"method": run.name, "seed": run.source.seed, "reason": reason})
    results = assemble(config, name, space, finished, failed)
    if finished:
        save_sealed(output / "results.json", results)
        save_table(output / "table", table_rows(results))
    return results


def assemble(
    config: StudyConfig, name: str, space: Workspace, finished: list[FinishedRun], failed: list[Row]
) -> dict[str, Any]:
    """The results of a study of one data set, from its finished and its failed runs."""
    splits = {seed: space.materials(SeedPlan(config, seed).source).splits for seed in config.seeds}
    first = splits[config.seeds[0]]
    parts: dict[str, list[Row]] = {
        part: [row for run in finished for row in run.parts[part]]
        for part in ("rows", "reliability", "training", "calibrators", "costs", "scoring")
    }
    arrays = {(run.method, run.seed): run.arrays for run in finished}
    replicates = {
        (method, calibrator, seed, condition): metrics
        for (method, seed), stored in arrays.items()
        for (calibrator, condition), metrics in stored.replicates.items()
    }
    return {
        "schema": SCHEMA_VERSION,
        "kind": "study",
        "name": name,
        "description": config.description,
        "config": asdict(config),
        "versions": versions(),
        "device": str(resolve_device(space.device)),
        "data": {
            "name": config.data,
            "num_classes": first.train.num_classes,
            "class_names": list(first.train.class_names),
            "splits": {split: len(examples) for split, examples in first.items()},
            "splits_hash": {str(seed): splits_hash(each) for seed, each in splits.items()},
        },
        **parts,
        "costs": relative_costs(config, parts["costs"]),
        "scoring": _distinct(parts["scoring"]),
        "failed": failed,
        "seeds": aggregate_seeds(parts["rows"]),
        "comparisons": compare_methods([row for row in parts["rows"] if row["subset"] is None], replicates),
        "stability": study_stability(config, arrays),
        **_shown_examples(config, first.test, arrays),
    }


def _reason(error: InputError, method: str) -> str:
    """Why a run of ``method`` failed, in one line that names another model where that one is to blame."""
    reason = error.reason if isinstance(error, TrainingFailed) else str(error)
    if isinstance(error, TrainingFailed) and error.model not in ("", method):
        reason = f"{error.model}, which it needs, failed: {reason}"
    return " ".join(reason.split())


def relative_costs(config: StudyConfig, costs: list[Row]) -> list[Row]:
    """With each cost, ``relative_cost``: as a multiple of the plain training of the same seed, where there is one."""
    plain = next((name for name, settings in config.methods.items() if is_plain(settings)), None)
    seconds = {cost["seed"]: cost["training_seconds"] for cost in costs if cost["method"] == plain}
    return [
        {**cost, "relative_cost": cost["seconds"] / seconds[cost["seed"]] if cost["seed"] in seconds else None}
        for cost in costs
    ]


def _shown_examples(config: StudyConfig, test: Examples, arrays: Mapping[tuple[str, int], RunArrays]) -> dict[str, Any]:
    """For the report: images of the first method; its classes and those of the main method, each at its first seed."""
    own = {
        name: next(arrays[name, seed] for seed in config.seeds if (name, seed) in arrays)
        for name in config.methods
        if any(method == name for method, _ in arrays)
    }
    if not own:
        return {}
    first = next(iter(own))
    main = [name for name in dict.fromkeys((first, config.main_name)) if name in own]
    predictions = {name: Predictions(test.ids, own[name].logits[0], own[name].labels) for name in main}
    return {
        "examples": example_images(test, predictions[first], own[first].scores),
        "classes": [
            {"method": name, "calibrator": "none", **row}
            for name in main
            for row in class_rows(predictions[name], test.class_names)
        ],
    }


def study_stability(config: StudyConfig, arrays: Mapping[tuple[str, int], RunArrays]) -> list[Row]:
    """Stability on clean test data: of each method over the seeds, and over the members of its ensembles.

    Members in step share their targets, and so are not independent: they are left out. Soft predictions vary less for
    free; so the variance is given a second time with every model's mean confidence brought to one number by a
    temperature: the mean accuracy of the first method, where that is better than chance and not perfect. Runs that
    are not there are left out.
    """
    found_runs = {
        name: {seed: arrays[name, seed] for seed in config.seeds if (name, seed) in arrays}
        for name in (*config.methods, *config.ensembles)
    }
    first = next((list(runs.values()) for runs in found_runs.values() if runs), [])
    if not first:
        return []
    accuracy = torch.stack([(run.logits[0].argmax(1) == run.labels).double().mean() for run in first]).mean().item()
    common = accuracy if 1 / first[0].logits.shape[2] < accuracy < 1 else None

    def rows(method: str, models: str, seed: int | None, logits: Tensor, subsets: Tensor) -> list[Row]:
        found = stability(logits, subsets, common, num_resamples=config.evaluation.num_resamples)
        return [{"method": method, "models": models, "seed": seed, **row} for row in found]

    found: list[Row] = []
    for name, runs in found_runs.items():
        if len(runs) > 1:
            pooled = torch.stack([pool_logits(run.logits) for run in runs.values()])
            # Each seed has a scoring model of its own; the subsets are those of the first.
            found += rows(name, "seeds", None, pooled, next(iter(runs.values())).subsets)
        if name in config.ensembles and not config.ensembles[name].in_step:
            for seed, run in runs.items():
                found += rows(config.ensembles[name].method, "members", seed, run.logits, run.subsets)
    return found


def _distinct(rows: list[Row]) -> list[Row]:
    """Each table once, in order: several methods use it, and a later run may have made it again."""
    return list({(row["seed"], row["split"]): row for row in rows}.values())
