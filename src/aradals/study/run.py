"""Methods x seeds x data: each run a file of its own, then one table, what the seeds say together, and comparisons."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aradals.artifacts import (
    SCHEMA_VERSION,
    file_digest,
    load_json,
    save_json,
    save_table,
    settings_digest,
    versions,
)
from aradals.comparison import aggregate_seeds, compare_methods
from aradals.config import MethodConfig, StudyConfig
from aradals.data import Examples, load_data, splits_hash
from aradals.ensemble import pool_logits
from aradals.errors import InputError
from aradals.files import ensure_writable, file_name
from aradals.inference import Predictions, resolve_device
from aradals.metrics import stability
from aradals.report.examples import class_rows, example_images
from aradals.study.arrays import RunArrays
from aradals.study.checks import check_config, data_sets
from aradals.study.groups import training_subsets
from aradals.study.seed import Log, SeedRun, code_digest

Row = dict[str, Any]


def run_study(
    config: StudyConfig, output: Path, *, name: str, device: str = "auto", log: Log = print
) -> dict[str, Any]:
    """Train, calibrate and evaluate every method at every seed; what is done is not done again.

    Every finished run (a method or an ensemble, and a seed) is a file ``runs/<hash of its settings>.json``, and
    its stages are folders under ``seed-<seed>/``. With several data sets each has a folder of its own.

    Args:
        config: the recipe.
        output: folder of the study; ``results.json``, ``table.parquet`` and ``table.csv`` are written there.
        name: of the study, for the report.
        device: auto, cpu or cuda.
        log: called with each line of progress.

    Returns:
        What ``results.json`` holds; with several data sets the results of each under ``studies``.

    Raises:
        InputError: anything in the recipe or the data that cannot work, before training starts.
    """
    check_config(config)
    ensure_writable(output)
    if isinstance(config.data, str):
        return _run_one(config, output, name, device, log)
    studies = [replace(config, data=data) for data in config.data]
    folders = [output / file_name(data) for data in config.data]
    # All of them are looked at before the first is trained for hours.
    names = [_checked_runs(study, output, device, log)[0].splits.test.name for study in studies]
    if len(set(names)) < len(names) or len(set(folders)) < len(folders):
        raise InputError(
            expected="data sets with names of their own", got=", ".join(map(str, config.data)), hint="renaming one"
        )
    results = [_run_one(*pair, f"{name}: {pair[0].data}", device, log) for pair in zip(studies, folders, strict=True)]
    together = {"schema": SCHEMA_VERSION, "kind": "studies", "name": name, "studies": results}
    save_json(output / "results.json", together)
    save_table(output / "table", [row for result in results for row in table_rows(result)])
    return together


def train_one(
    config: StudyConfig, method: str, seed: int, output: Path, *, device: str = "auto", log: Log = print
) -> list[Path]:
    """Train one method or ensemble of a recipe, with what it needs, such as a scoring model and scores.

    Returns:
        The checkpoints: one, ``output/<method>/train/model.safetensors``, or those of an ensemble's members.

    Raises:
        InputError: as in `run_study`; an unknown method; several data sets.
    """
    names = [*config.methods, *config.ensembles]
    if method not in names:
        raise InputError(expected=f"a method of the recipe: {', '.join(names)}", got=repr(method), hint="one of these")
    if len(data_sets(config)) > 1:
        raise InputError(expected="one data set", got=str(config.data), hint=f"--data {data_sets(config)[0]}")
    check_config(replace(config, seeds=[seed]))
    ensure_writable(output)
    run = SeedRun(config, *load_study_data(config), seed, output, device, log)
    run.check()
    return run.checkpoints(method)


def load_study_data(config: StudyConfig) -> tuple[Examples, Examples]:
    """The training and the test examples of a study with one data set."""
    [data] = data_sets(config)
    load = partial(load_data, data, image_column=config.image_column, label_column=config.label_column)
    return load("train"), load("test")


def table_rows(results: dict[str, Any]) -> list[Row]:
    """The tidy table of a study: one row per run, calibrator, condition and subset, with the cost of the run."""
    costs = {(cost["method"], cost["seed"]): cost for cost in results["costs"]}
    added = ("seconds", "relative_cost")
    return [{**row, **{key: costs[row["method"], row["seed"]][key] for key in added}} for row in results["rows"]]


def _checked_runs(config: StudyConfig, output: Path, device: str, log: Log) -> list[SeedRun]:
    data = load_study_data(config)
    runs = [SeedRun(config, *data, seed, output / f"seed-{seed}", device, log) for seed in config.seeds]
    for run in runs:  # each has other splits
        run.check()
    return runs


def _run_one(config: StudyConfig, output: Path, name: str, device: str, log: Log) -> dict[str, Any]:
    """A study of one data set."""
    runs = _checked_runs(config, output, device, log)
    names = [*config.methods, *config.ensembles]
    records = []
    for position, (run, method) in enumerate((run, method) for run in runs for method in names):
        log(f"run {position + 1} of {len(runs) * len(names)}: {method}, seed {run.seed}")
        records.append(finished_run(run, method, output / "runs"))
    results: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "kind": "study",
        "name": name,
        "description": config.description,
        "config": asdict(config),
        "versions": versions(),
        "device": str(resolve_device(device)),
        "data": {
            "name": config.data,
            "num_classes": runs[0].train_data.num_classes,
            "class_names": list(runs[0].train_data.class_names),
            "splits": {split: len(examples) for split, examples in runs[0].splits.items()},
            "splits_hash": {str(run.seed): splits_hash(run.splits) for run in runs},
        },
        **{
            part: [row for record in records for row in record[part]]
            for part in ("rows", "reliability", "training", "calibrators", "costs")
        },
        "scoring": _distinct([row for record in records for row in record["scoring"]]),
    }
    results["costs"] = relative_costs(config, results["costs"])
    results["seeds"] = aggregate_seeds(results["rows"])
    arrays = {
        (record["method"], record["seed"]): RunArrays.load(output / "runs" / record["arrays"]) for record in records
    }
    replicates = {
        (method, calibrator, seed, condition): metrics
        for (method, seed), stored in arrays.items()
        for (calibrator, condition), metrics in stored.replicates.items()
    }
    results["comparisons"] = compare_methods([row for row in results["rows"] if row["subset"] is None], replicates)
    results["stability"] = study_stability(config, arrays)
    results |= _shown_examples(runs[0], arrays)
    save_json(output / "results.json", results)
    save_table(output / "table", table_rows(results))
    return results


def finished_run(run: SeedRun, name: str, folder: Path) -> dict[str, Any]:
    """The record of a method or ensemble at a seed: from its file where it was run before, else made now."""
    path = folder / f"{run_digest(run, name)}.json"
    arrays = path.with_suffix(".npz")
    if not (path.exists() and arrays.exists()):
        made = {"method": name, "seed": run.seed, **run.record(name), "arrays": arrays.name}
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.arrays(name), arrays)
        save_json(path, made)  # last: it says that all is there
    else:
        run.log(f"[seed {run.seed}] {name}: done before, settings unchanged")
    record: dict[str, Any] = load_json(path)
    return record


def run_digest(run: SeedRun, name: str) -> str:
    """Stands for everything that decides a run's numbers: settings, splits, and files that the settings name."""
    config = run.config
    ensemble = config.ensembles.get(name)
    settings = config.methods[ensemble.method if ensemble else name]
    shared = asdict(config)
    for key in ("description", "methods", "ensembles", "seeds", "data"):
        del shared[key]
    checkpoint = config.scoring.checkpoint
    return settings_digest(
        {
            "schema": SCHEMA_VERSION,
            "study": shared,
            "name": name,
            "method": asdict(settings),
            "ensemble": ensemble and asdict(ensemble),
            "seed": run.seed,
            "splits": {split: examples.fingerprint for split, examples in run.splits.items()},
            "code": {**code_digest(config.model), **code_digest(settings.objective)},
            "scorer": file_digest(Path(checkpoint)) if checkpoint else None,
            # Of other groupings what is said above decides.
            **({"column": training_subsets(run, settings).digest} if settings.grouping == "column" else {}),
        }
    )


def relative_costs(config: StudyConfig, costs: list[Row]) -> list[Row]:
    """With each cost, ``relative_cost``: as a multiple of the plain training of the same seed, where there is one."""
    plain = next((name for name, settings in config.methods.items() if settings == MethodConfig()), None)
    seconds = {cost["seed"]: cost["training_seconds"] for cost in costs if cost["method"] == plain}
    return [
        {**cost, "relative_cost": cost["seconds"] / seconds[cost["seed"]] if cost["seed"] in seconds else None}
        for cost in costs
    ]


def _shown_examples(run: SeedRun, arrays: Mapping[tuple[str, int], RunArrays]) -> dict[str, Any]:
    """For the report: images of the first method at the first seed, and the classes of the main methods."""
    test, first = run.splits.test, next(iter(run.config.methods))
    main = [name for name in dict.fromkeys((first, "ar_adals")) if name in run.config.methods]
    predictions = {
        name: Predictions(test.ids, arrays[name, run.seed].logits[0], arrays[name, run.seed].labels) for name in main
    }
    return {
        "examples": example_images(test, predictions[first], arrays[first, run.seed].scores),
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
    temperature: the mean accuracy of the first method, where that is better than chance and not perfect.
    """
    first = [arrays[next(iter(config.methods)), seed] for seed in config.seeds]
    accuracy = torch.stack([(run.logits[0].argmax(1) == run.labels).double().mean() for run in first]).mean().item()
    common = accuracy if 1 / first[0].logits.shape[2] < accuracy < 1 else None

    def rows(method: str, models: str, seed: int | None, logits: Tensor, subsets: Tensor) -> list[Row]:
        found = stability(logits, subsets, common, num_resamples=config.evaluation.num_resamples)
        return [{"method": method, "models": models, "seed": seed, **row} for row in found]

    found: list[Row] = []
    for name in (*config.methods, *config.ensembles):
        runs = [arrays[name, seed] for seed in config.seeds]
        if len(runs) > 1:
            pooled = torch.stack([pool_logits(run.logits) for run in runs])
            # Each seed has a scoring model of its own; the subsets are those of the first.
            found += rows(name, "seeds", None, pooled, runs[0].subsets)
        if name in config.ensembles and not config.ensembles[name].in_step:
            for seed, run in zip(config.seeds, runs, strict=True):
                found += rows(config.ensembles[name].method, "members", seed, run.logits, run.subsets)
    return found


def _distinct(rows: list[Row]) -> list[Row]:
    """Each table once, in order: several methods use it, and a later run may have made it again."""
    return list({(row["seed"], row["split"]): row for row in rows}.values())
