"""The finished runs of a study, read from the files of their tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from aradals._internal.json_files import load_json
from aradals._internal.typed import first_problem, read_typed
from aradals.calibration import load_calibrator
from aradals.errors import InputError
from aradals.pipeline.score import read_scores, scoring_record
from aradals.pipeline.study.arrays import RunArrays
from aradals.pipeline.study.tasks import ARRAYS_FILE, HISTORY_FILE, ROWS_FILE, Choose, Evaluate, Score, Train, distinct
from aradals.pipeline.study.workspace import Workspace
from aradals.results.records import Cost, Fitted, Reliability, Row, Scoring, Training

T = TypeVar("T")


@dataclass(frozen=True)
class Measurements:
    """The content of the file that an evaluation writes."""

    rows: tuple[Row, ...]
    reliability: tuple[Reliability, ...]


@dataclass(frozen=True)
class FinishedRun:
    """One method or ensemble at one seed.

    Attributes:
        method: name of the method or ensemble.
        seed: seed of the run.
        measured: rows and reliability diagrams.
        training: records of its own trainings; an ensemble that is not trained in step uses those of its method.
        calibrators: the fitted calibrators.
        scoring: the score tables that the run has used.
        cost: cost of the training.
        arrays: arrays for comparisons with other runs.
        weights: SHA-256 of its checkpoints, by path in the folder of the study.
    """

    method: str
    seed: int
    measured: Measurements
    training: tuple[Training, ...]
    calibrators: tuple[Fitted, ...]
    scoring: tuple[Scoring, ...]
    cost: Cost
    arrays: RunArrays
    weights: dict[str, str]


def read_run(run: Evaluate, space: Workspace) -> FinishedRun:
    """Read the files of a run.

    Raises:
        InputError: no run has written one of the files.
    """
    method, seed = run.name, run.source.seed
    labels = space.materials(run.source).splits.test.labels
    own = [training for training in run.trainings if training.model_name == method]
    measured = read_file(space.paths(run)[ROWS_FILE], Measurements)
    return FinishedRun(
        method=method,
        seed=seed,
        # Records are of the run in whose folder they are, whatever the file says.
        measured=Measurements(
            tuple(replace(row, method=method, seed=seed) for row in measured.rows),
            tuple(replace(each, method=method, seed=seed) for each in measured.reliability),
        ),
        training=tuple(replace(_history(training, space), method=method, seed=seed) for training in own),
        calibrators=tuple(_fitted(path, method, seed) for path in space.paths(run.calibrate).values()),
        scoring=tuple(_scoring(table, space) for table in (run.scores, *_tables(run))),
        cost=read_cost(run, space),
        arrays=RunArrays.load(space.paths(run)[ARRAYS_FILE], labels),
        weights={
            f"{training.folder}/{name}": space.digests(training)[name]
            for training in run.trainings
            for name in training.checkpoints
        },
    )


def read_file(path: Path, kind: type[T]) -> T:
    """Read a file of records.

    Raises:
        InputError: the file contains something else.
    """
    try:
        return read_typed(kind, load_json(path))
    except ValueError as error:
        raise InputError(
            expected=f"a {path.name} from `aradals run`",
            got=f"something else in {path.parent} ({first_problem(error)})",
            hint="removing this folder, so that it is made again",
        ) from error


def _fitted(path: Path, method: str, seed: int) -> Fitted:
    parameters = load_calibrator(path).to_dict()
    temperature = parameters.get("temperature")
    known = {"temperature": float(temperature)} if isinstance(temperature, int | float) else {}
    return Fitted(method=method, calibrator=path.stem, seed=seed, parameters=parameters, **known)


def read_cost(run: Evaluate, space: Workspace) -> Cost:
    """Sum the seconds before a method can predict: its training, and models that are trained and score only for it."""
    tables = _tables(run)
    scorers = distinct([table.scorer for table in tables if isinstance(table.scorer, Train)])
    parts = (
        float(sum(_history(training, space).seconds for training in run.trainings)),
        float(sum(_history(training, space).seconds for training in scorers)),
        float(sum(_scoring(table, space).seconds for table in tables)),
    )
    return Cost(run.name, run.source.seed, *parts, seconds=sum(parts))


def _tables(run: Evaluate) -> list[Score]:
    """List the score tables that define the subsets of the run's trainings."""
    return distinct([table for training in run.trainings for table in training.score_tables])


def _history(training: Train | Choose, space: Workspace) -> Training:
    return read_file(space.paths(training)[HISTORY_FILE], Training)


def _scoring(table: Score, space: Workspace) -> Scoring:
    split = table.folder.rpartition("/")[2]
    return scoring_record(read_scores(space.folder / table.folder), split=split, seed=table.source.seed)
