"""What the runs of a study that are finished give to its results, read from the files of their tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aradals.pipeline.artifacts import load_calibrator
from aradals.pipeline.score import SCORES, scoring_record
from aradals.pipeline.study.arrays import RunArrays
from aradals.pipeline.study.records import read_evaluation, read_history
from aradals.pipeline.study.tasks import ARRAYS_FILE, HISTORY_FILE, ROWS_FILE, Evaluate, Score, Train, distinct
from aradals.pipeline.study.workspace import Workspace


@dataclass(frozen=True)
class FinishedRun:
    """One method or ensemble at one seed.

    Attributes:
        method: its name.
        seed: of the run.
        parts: what it gives to the lists of the results, by their keys.
        arrays: for comparisons with other runs.
    """

    method: str
    seed: int
    parts: dict[str, list[dict[str, Any]]]
    arrays: RunArrays


def read_run(run: Evaluate, space: Workspace) -> FinishedRun:
    """Read what a run has written.

    Raises:
        InputError: a file that no run has written.
    """
    labels = space.materials(run.source).splits.test.labels
    arrays = RunArrays.load(space.paths(run)[ARRAYS_FILE], labels)
    return FinishedRun(run.name, run.source.seed, read_parts(run, space), arrays)


def read_parts(run: Evaluate, space: Workspace) -> dict[str, list[dict[str, Any]]]:
    """What a run gives to the lists of the results, by their keys."""
    evaluated = read_evaluation(space.paths(run)[ROWS_FILE])
    keys = {"method": run.name, "seed": run.source.seed}
    # The models of an ensemble that are not trained in step are those of its method.
    own = [training for training in run.trainings if training.model_name == run.name]
    return {
        **{part: [{**row, **keys} for row in evaluated[part]] for part in ("rows", "reliability")},
        "training": [{**_history(training, space), **keys} for training in own],
        "calibrators": [
            {**load_calibrator(path)[0].to_dict(), **keys, "calibrator": path.stem}
            for path in space.paths(run.calibrate).values()
        ],
        "scoring": [
            {"seed": run.source.seed, "split": table.folder.rpartition("/")[2], **_scoring(table, space)}
            for table in (run.scores, *_tables(run))
        ],
        "costs": [{**keys, **read_cost(run, space)}],
    }


def read_cost(run: Evaluate, space: Workspace) -> dict[str, float]:
    """Seconds before a method can predict: its own training, and models that are trained and score only for it."""
    tables = _tables(run)
    scorers = distinct([table.scorer for table in tables if isinstance(table.scorer, Train)])
    seconds = {
        "training_seconds": _seconds(run.trainings, space),
        "scorer_seconds": _seconds(scorers, space),
        "scoring_seconds": sum(_scoring(table, space)["seconds"] for table in tables),
    }
    return {**seconds, "seconds": sum(seconds.values())}


def _tables(run: Evaluate) -> list[Score]:
    """The score tables that decide the subsets of its trainings."""
    return distinct([table for training in run.trainings for table in training.score_tables])


def _seconds(trainings: list[Train], space: Workspace) -> float:
    return float(sum(_history(training, space)["seconds"] for training in trainings))


def _history(training: Train, space: Workspace) -> dict[str, Any]:
    return read_history(space.paths(training)[HISTORY_FILE])


def _scoring(table: Score, space: Workspace) -> dict[str, Any]:
    return scoring_record(space.paths(table)[SCORES])
