"""Whole studies: a run for each method, seed and data set, then tables, means over seeds, and comparisons."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from aradals._internal.files import file_name
from aradals.data import Examples, corruption_names, splits_hash
from aradals.errors import InputError, TrainingFailed
from aradals.inference.ensemble import pool_logits
from aradals.inference.predictions import Predictions, resolve_device
from aradals.metrics import stability
from aradals.pipeline.artifacts import save_table, versions
from aradals.pipeline.config import EvaluationConfig, StudyConfig, is_plain
from aradals.pipeline.outputs import input_paths, output_folder
from aradals.pipeline.ranks import workers_beside_ranks
from aradals.pipeline.recipes import load_recipe
from aradals.pipeline.shown import class_rows, example_pictures
from aradals.pipeline.stage import check_versions
from aradals.pipeline.study.arrays import RunArrays
from aradals.pipeline.study.checks import check_config
from aradals.pipeline.study.execute import ALONE, RemainingTime, do_tasks
from aradals.pipeline.study.finished import FinishedRun, read_run
from aradals.pipeline.study.tasks import Evaluate, SeedPlan, Task, goals, in_order
from aradals.pipeline.study.trial import try_seed, try_study
from aradals.pipeline.study.work import prepare
from aradals.pipeline.study.workspace import Log, Workspace
from aradals.pipeline.workers import ThisProcess, Workers, open_workers
from aradals.results.aggregate import means
from aradals.results.compare import compare_methods
from aradals.results.failed import describe_failed
from aradals.results.files import save_studies, table_rows
from aradals.results.records import Cost, DataSummary, FailedRun, Method, Results, Stability, Variant, measure_of
from aradals.robustness.scores import progress_bar

OUTPUTS = ("results.json", "table.parquet", "table.csv", "means.parquet", "means.csv")
"""Files that a study writes into its folder, beside the folders of its stages."""

EARLIER = "earlier-results"
"""Folder of the results that were in a study's folder before the last change of a stage."""

T = TypeVar("T")

KINDS = ("study", "studies")
"""Kinds of results files of a study."""


def files_of(config: StudyConfig) -> list[Path]:
    """List the files and folders on this machine that a study reads."""
    evaluation, scoring = config.evaluation, config.scoring
    named = [*config.data_sets, *filter(None, (evaluation.corrupted, evaluation.ood, scoring.checkpoint))]
    code = [config.model, *(method.objective for method in config.methods.values())]
    sources = [Path(spec.rpartition(":")[0]) for spec in code if ".py:" in spec]
    return [*input_paths(*named), *sources]


def run_study(
    recipe: StudyConfig | str,
    output: str | Path,
    *,
    smoke: bool = False,
    name: str | None = None,
    workers: int | str | None = 1,
    threads: int = 1,
    device: str = "auto",
    log: Log = print,
    overwrite: bool = False,
) -> Results:
    """Train, calibrate and evaluate every method at every seed on one data set.

    Args:
        recipe: settings, the name of a packaged recipe, or the path of a YAML file.
        output: folder of the study.
        smoke: use the recipe's smoke setting, see `aradals.pipeline.recipes.load_recipe`; only for a name or a path.
        name: name of the study, for the report; default: the name of the folder.
        workers: see `run_studies`.
        threads: see `run_studies`.
        device: auto, cpu, cuda or mps, or one of several by its index, such as cuda:1.
        log: see `run_studies`.
        overwrite: replace files of other programs at the paths of the results.

    Raises:
        InputError: there are several data sets; or see `run_studies`.
    """
    if smoke and not isinstance(recipe, str):
        raise InputError(
            expected="the name or the path of a recipe, because of smoke",
            got="settings",
            hint="load_recipe(name, smoke=True)",
        )
    config = load_recipe(recipe, smoke=smoke) if isinstance(recipe, str) else recipe
    if len(config.data_sets) > 1:
        raise InputError(
            expected="one data set", got=", ".join(config.data_sets), hint="run_studies, which takes several"
        )
    [results] = run_studies(
        config, output, name=name, workers=workers, threads=threads, device=device, log=log, overwrite=overwrite
    ).values()
    return results


def run_studies(
    config: StudyConfig,
    output: str | Path,
    *,
    name: str | None = None,
    workers: int | str | None = 1,
    threads: int = 1,
    device: str = "auto",
    log: Log = print,
    overwrite: bool = False,
) -> dict[Path, Results]:
    """Train, calibrate and evaluate every method at every seed on each data set; finished work is not repeated.

    The tasks of a run (a method or an ensemble, at a seed) are folders under ``seed-<seed>/``, see `run_stage`. If
    there are several data sets, each has a separate folder.

    If a run fails, for example because its training diverged, the other runs continue. The results name the failed run
    under ``failed`` with the reason, and contain all other runs. The next call tries the failed run again.

    Args:
        config: the recipe, see `aradals.pipeline.recipes.load_recipe`.
        output: folder of the study; ``results.json`` and the tables ``table`` and ``means`` are written there.
        name: name of the study, for the report; default: the name of the folder.
        workers: number of processes that do tasks at the same time, or ``dask:ADDRESS``, see `open_workers`; 1 means
            this process, and None one per GPU or core. The results do not depend on it.
        threads: number of torch's threads in each worker. The last digits of the results depend on it.
        device: auto, cpu, cuda or mps, or one of several by its index, such as cuda:1.
        log: called with each line of progress, in the process that does the task. Other processes need a function that
            can be pickled.
        overwrite: replace files of other programs at the paths of the results.

    Returns:
        The results of each data set, by their folder. If all runs on one of several data sets failed, its results have
        no rows.

    Raises:
        InputError: a setting of the recipe or the data cannot work; this error occurs before training starts.
        TrainingFailed: all runs failed; no results are written.
        OutputError: a file cannot be written.
    """
    check_config(config)
    output = Path(output)
    _refuse_own_scorer(config, output)
    inputs = files_of(config)
    workers = workers_beside_ranks(workers)
    with output_folder(output, OUTPUTS, kinds=KINDS, inputs=inputs, overwrite=overwrite, log=log), ALONE:
        most = len(config.runs) * len(config.seeds)
        with open_workers(
            workers,
            most=most,
            device=device,
            devices=config.training.devices,
            threads=threads,
            log=log,
            prepare=prepare,
        ) as opened:
            return _run_all(config, _workspace(output, device, log), config.titled(name or output.name), opened)


def _run_all(config: StudyConfig, space: Workspace, name: str, workers: Workers) -> dict[Path, Results]:
    """Run a study of one or several data sets."""
    output = space.folder
    if isinstance(config.data, str):
        alone = {output: _run_one(config, space, name, workers)}
        _refuse_without_rows(alone)
        return alone
    studies = {output / file_name(data): replace(config, data=data) for data in config.data}
    spaces = {folder: _workspace(folder, space.device, space.log, output) for folder in studies}
    # All data sets are checked before the first training, which may take hours.
    names = []
    for folder, study in studies.items():
        try_study(study, spaces[folder])
        names.append(spaces[folder].materials(SeedPlan(study, study.seeds[0]).source).splits.test.name)
    if len(set(names)) < len(names) or len(studies) < len(config.data):
        raise InputError(
            expected="data sets with different names", got=", ".join(map(str, config.data)), hint="renaming one"
        )
    results = {
        folder: _run_one(study, spaces[folder], f"{name}: {study.data}", workers) for folder, study in studies.items()
    }
    _refuse_without_rows(results)
    save_studies(list(results.values()), output / "results.json", name=name)
    save_tables(list(results.values()), output)
    return results


def _refuse_without_rows(studies: Mapping[Path, Results]) -> None:
    """Raise TrainingFailed if no run has succeeded."""
    if not any(study.rows for study in studies.values()):
        raise TrainingFailed(describe_failed(*studies.values()))


def train_one(
    config: StudyConfig,
    method: str,
    seed: int,
    output: Path,
    *,
    device: str = "auto",
    log: Log = print,
    overwrite: bool = False,
) -> list[Path]:
    """Train one method or ensemble of a recipe, and all that it needs, such as a scoring model and scores.

    Several methods can share a folder, because each has its own files there. Files that were made from other settings
    are replaced only with ``overwrite``, and are kept under another name.

    Returns:
        The checkpoints: ``output/<method>/train/model.safetensors``, or those of an ensemble's members.

    Raises:
        InputError: see `run_study`; or the method is unknown, there are several data sets, or the folder has files that
            were made from other settings.
        TrainingFailed: this training failed, or one that it needs; the failed training writes no checkpoint.
    """
    names = [*config.methods, *config.ensembles]
    if method not in names:
        raise InputError(expected=f"a method of the recipe: {', '.join(names)}", got=repr(method), hint="one of these")
    if len(config.data_sets) > 1:
        raise InputError(expected="one data set", got=str(config.data), hint=f"--data {config.data_sets[0]}")
    check_config(replace(config, seeds=[seed]))
    _refuse_own_scorer(config, output)
    with output_folder(output, inputs=files_of(config)), ALONE:
        space, planned = Workspace(output, device, log, replace=overwrite), SeedPlan(config, seed)
        try_seed(SeedPlan(_alone(config, method), seed), space)
        models = planned.predict(method)
        for _, outcome in do_tasks([model.train for model in models], space, Workers(ThisProcess())):
            if outcome.failure:
                raise outcome.failure
        return [space.paths(model.train)[model.checkpoint] for model in models]


def _alone(config: StudyConfig, method: str) -> StudyConfig:
    """Reduce a study to the training of one method, which needs no calibration and no evaluation."""
    ensemble = config.ensembles.get(method)
    name = ensemble.method if ensemble else method
    return replace(
        config,
        methods={name: replace(config.methods[name], variant_of=None)},
        ensembles={},
        reference=None,
        compare_with=[],
        calibrators=[],
        evaluation=EvaluationConfig(num_subsets=1),
    )


def _refuse_own_scorer(config: StudyConfig, output: Path) -> None:
    """Refuse to score with a model of the same study, because a changed option would replace this model."""
    checkpoint = Path(config.scoring.checkpoint or ".").resolve()
    if (checkpoint.parent / "stage.json").exists() and checkpoint.is_relative_to(output.resolve()):
        raise InputError(
            expected="a scoring.checkpoint that this study does not make",
            got=str(config.scoring.checkpoint),
            hint="a copy of the checkpoint elsewhere, or no scoring.checkpoint",
        )


def save_tables(studies: Sequence[Results], output: Path) -> None:
    """Write the rows of some studies, and their means over seeds and shifts, as tables."""
    save_table(output / "table", [row for study in studies for row in table_rows(study)])
    save_table(
        output / "means",
        [{"data": study.data.name, **mean.record} for study in studies for mean in means(study)],
    )


def _workspace(output: Path, device: str, log: Log, *homes: Path) -> Workspace:
    """Make a workspace whose results, and those in ``homes``, are moved away as soon as a stage changes."""
    folders = [folder.resolve() for folder in (output, *homes)]
    return Workspace(output, device, log, before_change=partial(_retire_results, *folders))


def _retire_results(*folders: Path) -> None:
    """Move the results of earlier stages away, because a stage is about to change; ``results.json`` is the last.

    Several workers may do this at the same time.
    """
    for folder in folders:
        names = reversed((*OUTPUTS, "report.html")) if (folder / "results.json").exists() else ()
        for path in [folder / name for name in names]:
            (folder / EARLIER).mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                os.replace(path, folder / EARLIER / path.name)


def _run_one(config: StudyConfig, space: Workspace, name: str, workers: Workers) -> Results:
    """Run a study of one data set; if all its runs fail, nothing is written."""
    try_study(config, space)
    config = _with_named_corruptions(config, space)
    runs = goals(config)
    finished: dict[str, FinishedRun] = {}
    failed: dict[str, FailedRun] = {}
    remaining = RemainingTime(runs, workers.cores)
    for task, outcome in shown(do_tasks(runs, space, workers), len(in_order(runs))):
        remaining.count(task, outcome)
        if not isinstance(task, Evaluate):
            continue
        try:
            if outcome.failure:
                raise outcome.failure
            finished[task.digest] = read_run(task, space)
        except InputError as error:
            reason = _reason(error, task.name)
            space.log(f"[seed {task.source.seed}] {task.name}: FAILED: {reason}")
            failed[task.digest] = FailedRun(task.name, task.source.seed, reason)
        done = f"run {len(finished) + len(failed)} of {len(runs)} is done: {task.name}, seed {task.source.seed}"
        space.log(f"{done}{remaining}")
    results = assemble(config, name, space, in_order_of(runs, finished), in_order_of(runs, failed))
    if finished:
        results.save(space.folder / "results.json")
        save_tables([results], space.folder)
    return results


def shown(done: Iterable[T], total: int) -> Iterator[T]:
    """Show a bar of all tasks on a terminal; in a log file, the line of each finished run has the time left."""
    if not sys.stderr.isatty():
        yield from done
        return
    with progress_bar(total, unit="task") as bar:
        for each in done:
            bar.update()
            yield each


def _with_named_corruptions(config: StudyConfig, space: Workspace) -> StudyConfig:
    """Replace groups of corruptions by their names, because the data decides what the group ``all`` means."""
    shape = space.materials(SeedPlan(config, config.seeds[0]).source).splits.test.input_shape
    named = corruption_names(config.evaluation.corruptions, input_shape=shape)
    return replace(config, evaluation=replace(config.evaluation, corruptions=named))


def in_order_of(runs: Sequence[Task], found: Mapping[str, T]) -> list[T]:
    """List what was found of some runs, by their digests, in the order of the runs."""
    return [found[run.digest] for run in runs if run.digest in found]


def assemble(
    config: StudyConfig, name: str, space: Workspace, finished: list[FinishedRun], failed: list[FailedRun]
) -> Results:
    """Make the results of a study of one data set from its finished and its failed runs."""
    splits = {seed: space.materials(SeedPlan(config, seed).source).splits for seed in config.seeds}
    first = splits[config.seeds[0]]
    results = Results(
        kind="study",
        name=name,
        description=config.description,
        config=asdict(config),
        versions=versions(),
        device=str(resolve_device(space.device)),
        data=DataSummary(
            name=str(config.data),
            num_classes=first.train.num_classes,
            class_names=tuple(first.train.class_names),
            splits={split: len(examples) for split, examples in first.items()},
            splits_hash={str(seed): splits_hash(each) for seed, each in splits.items()},
            ood=_size_of_other(config, space),
        ),
        methods=tuple(
            Method(each, config.label_of(each), config.variant_of(each), getattr(settings, "num_members", 1))
            for each, settings in config.runs.items()
        ),
        reference=config.reference_name,
        rows=tuple(row for run in finished for row in run.measured.rows),
        reliability=tuple(each for run in finished for each in run.measured.reliability),
        training=tuple(each for run in finished for each in run.training),
        calibrators=tuple(each for run in finished for each in run.calibrators),
        # Several methods use the same table, and a later run may have made the table again.
        scoring=tuple({(each.seed, each.split): each for run in finished for each in run.scoring}.values()),
        costs=relative_costs(config, [run.cost for run in finished]),
        failed=tuple(failed),
        checks=(check_versions(_stages(config, finished, space)),),
        weights={path: digest for run in finished for path, digest in run.weights.items()},
    )
    replicates = {
        (Variant(run.method, calibrator), run.seed, place): sample
        for run in finished
        for (calibrator, place), sample in run.arrays.replicates.items()
    }
    arrays = {(run.method, run.seed): run.arrays for run in finished}
    return replace(
        _with_examples(results, config, first.test, arrays),
        comparisons=compare_methods(results, replicates, also=config.compare_with),
        stability=tuple(study_stability(config, arrays)),
    )


def _size_of_other(config: StudyConfig, space: Workspace) -> dict[str, int]:
    """Name the out-of-distribution data with their number of examples, if the study has any."""
    if config.evaluation.ood is None:
        return {}
    other = space.other_data(config.evaluation.ood, SeedPlan(config, config.seeds[0]).source)
    return {other.name: len(other)}


def _stages(config: StudyConfig, finished: Sequence[FinishedRun], space: Workspace) -> list[Path]:
    """List the folders of all stages that the finished runs consist of."""
    done = {(run.method, run.seed) for run in finished}
    tasks = in_order(goal for goal in goals(config) if (goal.name, goal.source.seed) in done)
    return [space.folder / task.folder for task in tasks]


def _reason(error: InputError, method: str) -> str:
    """Write the reason why a run of ``method`` failed in one line, which names another model if that one failed."""
    reason = error.reason if isinstance(error, TrainingFailed) else str(error)
    if isinstance(error, TrainingFailed) and error.model not in ("", method):
        reason = f"{error.model}, which it needs, failed: {reason}"
    return " ".join(reason.split())


def relative_costs(config: StudyConfig, costs: Sequence[Cost]) -> tuple[Cost, ...]:
    """Express costs as multiples of the plain training of the same seed; unknown if there is no plain training."""
    plain = next((name for name, settings in config.methods.items() if is_plain(settings)), None)
    seconds = {cost.seed: cost.training_seconds for cost in costs if cost.method == plain}
    return tuple(replace(cost, relative_cost=cost.seconds / seconds.get(cost.seed, math.nan)) for cost in costs)


def _with_examples(
    results: Results, config: StudyConfig, test: Examples, arrays: Mapping[tuple[str, int], RunArrays]
) -> Results:
    """Add images of the reference, and the classes of the reference and of the main method, each at its first seed."""
    own: dict[str, RunArrays] = {}
    for (name, _), each in arrays.items():
        own.setdefault(name, each)
    named = [name for name in (config.reference_name, config.main_name, *config.methods) if name in own]
    shown = list(dict.fromkeys(named))[:2]
    if not shown:
        return results
    predictions = {name: Predictions(test.ids, own[name].logits[0], own[name].labels) for name in shown}
    return replace(
        results,
        pictures=example_pictures(test, predictions[shown[0]], own[shown[0]].scores),
        classes=tuple(row for name in shown for row in class_rows(predictions[name], test.class_names, name)),
    )


def study_stability(config: StudyConfig, arrays: Mapping[tuple[str, int], RunArrays]) -> Iterator[Stability]:
    """Measure stability on clean test data, for each method over the seeds, and over the members of its ensembles.

    Members in step are left out, because they share their targets, and so are not independent. Soft predictions always
    vary less. So the variance is computed a second time, after a temperature gives every model the same mean
    confidence. This confidence is the mean accuracy of the first method, if this accuracy is better than chance and not
    perfect. Failed runs are left out.
    """
    found_runs = {
        name: {seed: arrays[name, seed] for seed in config.seeds if (name, seed) in arrays} for name in config.runs
    }
    first = next((list(runs.values()) for runs in found_runs.values() if runs), [])
    if not first:
        return
    accuracy = torch.stack([(run.logits[0].argmax(1) == run.labels).double().mean() for run in first]).mean().item()
    common = accuracy if 1 / first[0].logits.shape[2] < accuracy < 1 else None
    options: dict[str, Any] = {"match_confidence": common, "num_resamples": config.evaluation.num_resamples}
    for name, runs in found_runs.items():
        if len(runs) > 1:
            pooled = torch.stack([pool_logits(run.logits) for run in runs.values()])
            # Each seed has another scoring model; the subsets are those of the first seed.
            subsets = next(iter(runs.values())).subsets
            for row in stability(logits=pooled, subsets=subsets, **options):
                yield _stability(row, name, "seeds", None)
        ensemble = config.ensembles.get(name)
        if ensemble and not ensemble.in_step:
            for seed, run in runs.items():
                for row in stability(
                    logits=run.logits,
                    subsets=run.subsets,
                    match_confidence=common,
                    num_resamples=config.evaluation.num_resamples,
                ):
                    yield _stability(row, ensemble.method, "members", seed)


def _stability(row: Mapping[str, Any], method: str, models: Literal["seeds", "members"], seed: int | None) -> Stability:
    return Stability(
        method=method,
        models=models,
        num_models=row["num_models"],
        n=row["n"],
        subset=row["subset"],
        seed=seed,
        prediction_variance=measure_of(row, "prediction_variance"),
        matched_prediction_variance=measure_of(row, "matched_prediction_variance"),
        disagreement=measure_of(row, "disagreement"),
    )
