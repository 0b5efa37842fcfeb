"""A study as a list of tasks: each reads the files of other tasks, and fills a separate folder.

A task is a record of settings. `aradals.pipeline.study.work` needs only this record and the folder of the study to do
the task, in this process or in another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

from aradals._internal.json_files import settings_digest
from aradals._internal.typed import first_problem, read_typed
from aradals.calibration import BatchTemperature, get_calibrator
from aradals.errors import InputError
from aradals.pipeline.config import (
    EvaluationConfig,
    MethodConfig,
    RankedSubsets,
    SplitConfig,
    StudyConfig,
    TrainingConfig,
    is_plain,
)
from aradals.pipeline.predict import prediction_file
from aradals.pipeline.score import SCORE_FILES
from aradals.pipeline.shifts import choose_conditions
from aradals.pipeline.study.groups import attack_of, ranking_of
from aradals.results.records import Condition

SCORER = "scorer"
"""The folder of vanilla models that only score."""

VANILLA = MethodConfig()
"""The method of models that only score."""

_READING = ("image_column", "label_column", "num_classes", "resize", "out_of_range")

CALIBRATION_FILE, ARRAYS_FILE, OOD_FILE = "calibration.parquet", "arrays.npz", "predictions.parquet"
HISTORY_FILE, ROWS_FILE = "history.json", "rows.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The data and the model of a study at one seed, which all tasks of this seed share.

    Attributes:
        reading: settings of `aradals.data.sources.Reading`.
    """

    data: str
    splits: SplitConfig
    model: str
    seed: int
    reading: dict[str, Any]
    model_args: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One step of a study.

    Attributes:
        source: the data and the model.
        folder: folder of the outputs, relative to the folder of the study.
        label: name of the task in the log.
    """

    source: Source
    folder: str
    label: str

    @property
    def inputs(self) -> dict[str, list[Task]]:
        """The tasks whose outputs this task reads, by the field that contains them."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        found = {name: value if isinstance(value, list) else [value] for name, value in named.items()}
        return {name: tasks for name, tasks in found.items() if any(isinstance(task, Task) for task in tasks)}

    @property
    def needs(self) -> list[Task]:
        """The tasks whose outputs this task reads, in the order in which they must be done."""
        return [task for tasks in self.inputs.values() for task in tasks]

    @property
    @abstractmethod
    def outputs(self) -> list[str]:
        """The names of the files that the task writes into its folder."""

    @property
    def record(self) -> dict[str, Any]:
        """The task as plain values for JSON, including the records of the tasks that it needs."""
        return {"task": type(self).__name__.lower(), **asdict(self)}

    @cached_property
    def digest(self) -> str:
        """Digest of the record; another setting of this task, or of a task that it needs, makes another task."""
        return settings_digest(self.record)


@dataclass(frozen=True, kw_only=True)
class Train(Task):
    """Train a model, or the members of an ensemble in step.

    Attributes:
        name: name of the method, the ensemble, or the model that only scores.
        method: settings of the method.
        training: settings of the training of all models of the study.
        members: numbers that decide initialization and order; 0 for the model of a method.
        without_fold: a half of the training split that is left out.
        train_scores: score tables of the training split that define the subsets, one for each fold.
        validation_scores: score tables of the validation split.
    """

    name: str
    method: MethodConfig
    training: TrainingConfig
    members: list[int]
    without_fold: int | None
    train_scores: list[Score]
    validation_scores: list[Score]

    @property
    def checkpoints(self) -> list[str]:
        """The file of each member."""
        one = len(self.members) == 1
        return ["model.safetensors" if one else f"model-{member}.safetensors" for member in self.members]

    @property
    def outputs(self) -> list[str]:
        """The record of the training, and the models."""
        return [HISTORY_FILE, *self.checkpoints]

    @property
    def model_name(self) -> str:
        """Name of the model in the error if this training fails."""
        return self.name + (f" member {self.members[0]}" if self.members[0] else "")

    @property
    def score_tables(self) -> list[Score]:
        """All score tables, fold by fold."""
        return [table for pair in zip(self.train_scores, self.validation_scores, strict=True) for table in pair]


@dataclass(frozen=True, kw_only=True)
class Choose(Task):
    """Keep one of several trained models: the one with the lowest NLL on the calibration split, after a temperature.

    A temperature repairs the level of the confidence, so that the NLL after it compares what the models know. The
    folder has the files of a training, and other tasks use it as one.

    Attributes:
        name: name of the method.
        candidates: the trainings, which differ in settings.
        predictions: their predictions on the calibration split.
    """

    name: str
    candidates: list[Train]
    predictions: list[Predict]

    @property
    def checkpoints(self) -> list[str]:
        """The file of the model."""
        return self.candidates[0].checkpoints

    @property
    def outputs(self) -> list[str]:
        """The record of the chosen training, with the cost of all, and the model."""
        return [HISTORY_FILE, *self.checkpoints]

    @property
    def model_name(self) -> str:
        """Name of the model in the error if a candidate fails."""
        return self.candidates[0].model_name

    @property
    def score_tables(self) -> list[Score]:
        """The score tables of all candidates."""
        return distinct([table for candidate in self.candidates for table in candidate.score_tables])


@dataclass(frozen=True, kw_only=True)
class Score(Task):
    """Score a split.

    Attributes:
        scorer: the training whose model scores, or the path of a checkpoint from the recipe.
        split: train, validation or test.
        attack: attack that measures robustness.
        attack_args: settings of the attack.
        fold: half of the training split to score; None for the whole split.
    """

    scorer: Train | str
    split: str
    attack: str
    attack_args: dict[str, Any]
    fold: int | None

    @property
    def outputs(self) -> list[str]:
        """The table, and its cost."""
        return list(SCORE_FILES)


@dataclass(frozen=True, kw_only=True)
class Predict(Task):
    """Predict the calibration split, and the test split under every condition.

    Attributes:
        train: the training whose model predicts, or the choice among several.
        checkpoint: the file of the model.
        conditions: clean data, and the shifts; none for a candidate of a choice, which predicts no test example.
        preset: constants of the corruptions.
        corrupted: a corrupted copy of the test split.
        with_scores: also compute the first-order margins, which some calibrators need.
    """

    train: Train | Choose
    checkpoint: str
    conditions: list[Condition]
    preset: str | None
    corrupted: str | None
    with_scores: bool

    @property
    def outputs(self) -> list[str]:
        """A file of the calibration split, if this split has examples, and one of each condition."""
        calibration = [CALIBRATION_FILE] * bool(self.source.splits.calibration)
        return [*calibration, *map(prediction_file, self.conditions)]


@dataclass(frozen=True, kw_only=True)
class PredictOther(Task):
    """Predict out-of-distribution data.

    Attributes:
        train: the training whose model predicts, or the choice among several.
        checkpoint: the file of the model.
        ood: the data.
        with_scores: also compute the first-order margins, which some calibrators need.
    """

    train: Train | Choose
    checkpoint: str
    ood: str
    with_scores: bool

    @property
    def outputs(self) -> list[str]:
        """The file of the predictions."""
        return [OOD_FILE]


@dataclass(frozen=True, kw_only=True)
class Calibrate(Task):
    """Fit calibrators on the calibration split; several models use their averaged prediction."""

    predictions: list[Predict]
    calibrators: list[str]

    @property
    def outputs(self) -> list[str]:
        """A file of each calibrator."""
        return [f"{calibrator}.json" for calibrator in self.calibrators]


@dataclass(frozen=True, kw_only=True)
class Evaluate(Task):
    """Make the rows of a method or an ensemble, and the arrays that comparisons need.

    Attributes:
        scores: score table of the test split, which defines the subsets.
        calibrate: task that fits the calibrators.
        predictions: prediction task of the model, or of each member.
        others: the same for out-of-distribution data; empty if there are none.
        name: name of the method or the ensemble.
        evaluation: settings of the evaluation.
    """

    scores: Score
    calibrate: Calibrate | None
    predictions: list[Predict]
    others: list[PredictOther]
    name: str
    evaluation: EvaluationConfig

    @property
    def outputs(self) -> list[str]:
        """The rows, and the arrays."""
        return [ROWS_FILE, ARRAYS_FILE]

    @property
    def trainings(self) -> list[Train | Choose]:
        """The trainings of the method or ensemble, or choices among several."""
        return distinct([predict.train for predict in self.predictions])


T = TypeVar("T", bound=Task)

KINDS: dict[str, type[Task]] = {
    kind.__name__.lower(): kind for kind in (Train, Choose, Score, Predict, PredictOther, Calibrate, Evaluate)
}


def read_task(record: Mapping[str, Any]) -> Task:
    """Make a task from its record.

    Raises:
        InputError: `Task.record` has not made the record.
    """
    name = record.get("task")
    kind = KINDS.get(str(name))
    if kind is None:
        raise InputError(expected=f"the record of a task: {', '.join(KINDS)}", got=repr(name), hint="Task.record")
    try:
        task: Task = read_typed(kind, {key: value for key, value in record.items() if key != "task"})
    except ValueError as error:
        raise InputError(
            expected="the record of a task as it was written", got=first_problem(error), hint="Task.record"
        ) from error
    return task


def plan(config: StudyConfig) -> list[Task]:
    """List all tasks of a study of one data set, each after the tasks that it needs."""
    return in_order(goals(config))


def goals(config: StudyConfig) -> list[Evaluate]:
    """List the evaluations of all runs: of every method and ensemble at every seed."""
    names = [*config.methods, *config.ensembles]
    return [SeedPlan(config, seed, f"seed-{seed}/").evaluate(name) for seed in config.seeds for name in names]


def in_order(tasks: Iterable[Task]) -> list[Task]:
    """List the tasks and all tasks that they need, each once, and each after the tasks that it needs."""
    found: list[Task] = []
    for task in tasks:
        found += [*in_order(task.needs), task]
    return distinct(found)


def distinct(tasks: Iterable[T]) -> list[T]:
    """Yield each task once, in order."""
    return list({task.digest: task for task in tasks}.values())


@dataclass(frozen=True)
class SeedPlan:
    """The tasks of one seed, as the recipe describes them.

    Attributes:
        config: settings of a study of one data set.
        seed: seed of the splits, the initialization and the order.
        home: start of the names of all folders.
    """

    config: StudyConfig
    seed: int
    home: str = ""

    @property
    def source(self) -> Source:
        """The data and the model."""
        config, [data] = self.config, self.config.data_sets
        return Source(
            data=data,
            splits=config.splits,
            model=config.model,
            seed=self.seed,
            reading={name: getattr(config, name) for name in _READING},
            model_args=config.model_args,
        )

    @cached_property
    def conditions(self) -> list[Condition]:
        """The conditions of the evaluation on the test split."""
        given = self.config.evaluation
        return choose_conditions(given.corruptions, given.severities, corrupted=given.corrupted)

    def train(self, name: str, member: int = 0) -> Train:
        """Make the task that trains a method's model; members of an ensemble differ in initialization and order."""
        return self._train(f"{_home(name, member)}/train", name, self.config.methods[name], [member])

    def model(self, name: str, member: int = 0) -> Train | Choose:
        """Make the task that gives a method's model: its training, or the choice among its candidates."""
        home, settings = _home(name, member), self.config.methods[name]
        if not settings.choose:
            return self.train(name, member)
        owners = [f"{home}/candidate-{number}" for number in range(len(settings.candidates))]
        candidates = [
            self._train(f"{owner}/train", name, candidate, [member])
            for owner, candidate in zip(owners, settings.candidates, strict=True)
        ]
        return Choose(
            source=self.source,
            folder=f"{self.home}{home}/train",
            label=f"{name}: choose" + (f" member {member}" if member else ""),
            name=name,
            candidates=candidates,
            predictions=[
                self._predict(owner, train, conditions=[]) for owner, train in zip(owners, candidates, strict=True)
            ],
        )

    def train_in_step(self, ensemble: str) -> Train:
        """Make the task that trains the members of an ensemble together."""
        settings = self.config.ensembles[ensemble]
        members = list(range(settings.num_members))
        return self._train(f"{ensemble}/train", ensemble, self.config.methods[settings.method], members)

    @property
    def scorer(self) -> Train | str:
        """The scorer: the checkpoint from the recipe, its vanilla method, or a vanilla model that only scores."""
        vanilla = next((name for name, method in self.config.methods.items() if is_plain(method)), None)
        return self.config.scoring.checkpoint or (
            self.train(vanilla) if vanilla else self._train(f"{SCORER}/train", SCORER, VANILLA, [0])
        )

    def fold_scorer(self, fold: int) -> Train:
        """Make the task that trains a vanilla model on the other half of the training split."""
        return self._train(f"{SCORER}/without-fold-{fold}", f"{SCORER} of fold {fold}", VANILLA, [0], fold)

    def _train(
        self, folder: str, name: str, method: MethodConfig, members: list[int], without_fold: int | None = None
    ) -> Train:
        ranking = ranking_of(method)
        folds = range(ranking.folds) if ranking else ()
        return Train(
            source=self.source,
            folder=self.home + folder,
            label=f"{name}: train" + (f" member {members[0]}" if members[0] else ""),
            name=name,
            method=replace(method, label=None, variant_of=None, choose={}),
            training=self.config.training,
            members=members,
            without_fold=without_fold,
            train_scores=[self.score("train", ranking, fold) for fold in folds],
            validation_scores=[self.score("validation", ranking, fold) for fold in folds],
        )

    def score(self, split: str, ranking: RankedSubsets | None = None, fold: int = 0) -> Score:
        """Make the task of a split's score table, by default with the scorer and attack of the recipe."""
        attack, cross_fit = attack_of(ranking), ranking is not None and ranking.folds > 1
        name = "-".join(filter(None, [attack, f"fold-{fold}" if cross_fit else None, split]))
        return Score(
            source=self.source,
            folder=f"{self.home}scores/{name}",
            label=f"scores: {name}",
            scorer=self.fold_scorer(fold) if cross_fit else self.scorer,
            split=split,
            attack=attack or self.config.scoring.attack,
            attack_args={} if attack else self.config.scoring.attack_args,
            fold=fold if cross_fit and split == "train" else None,
        )

    def predict(self, name: str) -> list[Predict]:
        """List the prediction task of a method, or the tasks of an ensemble's members."""
        ensemble = self.config.ensembles.get(name)
        if ensemble is None:
            return [self._predict(name, self.model(name))]
        members = range(ensemble.num_members)
        if ensemble.in_step:
            train = self.train_in_step(name)
            return [self._predict(f"{name}/member-{member}", train, member) for member in members]
        # The first member has the model and the predictions of the method.
        more = [self._predict(f"{ensemble.method}/member-{m}", self.model(ensemble.method, m)) for m in members[1:]]
        return [*self.predict(ensemble.method), *more]

    def _predict(
        self, owner: str, train: Train | Choose, position: int = 0, conditions: list[Condition] | None = None
    ) -> Predict:
        scored = owner in self.config.methods and any(map(needs_margins, self.calibrators_of(owner)))
        return Predict(
            source=self.source,
            folder=f"{self.home}{owner}/predict",
            label=f"{owner}: predict",
            train=train,
            checkpoint=train.checkpoints[position],
            conditions=self.conditions if conditions is None else conditions,
            preset=self.config.evaluation.preset,
            corrupted=self.config.evaluation.corrupted,
            with_scores=scored,
        )

    def _predict_other(self, predict: Predict, ood: str) -> PredictOther:
        return PredictOther(
            source=self.source,
            folder=f"{predict.folder.removesuffix('/predict')}/ood",
            label=f"{predict.label} {ood}",
            train=predict.train,
            checkpoint=predict.checkpoint,
            ood=ood,
            with_scores=predict.with_scores,
        )

    def calibrators_of(self, name: str) -> list[str]:
        """List the calibrators of a method or ensemble."""
        return self.config.all_calibrators if name == self.config.reference_name else self.config.calibrators

    def calibrate(self, name: str) -> Calibrate | None:
        """Make the task that fits calibrators of a method or ensemble; an ensemble has no first-order margin."""
        single = name in self.config.methods
        calibrators = [each for each in self.calibrators_of(name) if single or not needs_margins(each)]
        if not calibrators:
            return None
        return Calibrate(
            source=self.source,
            folder=f"{self.home}{name}/calibrate",
            label=f"{name}: calibrate",
            predictions=self.predict(name),
            calibrators=calibrators,
        )

    def evaluate(self, name: str) -> Evaluate:
        """Make the evaluation task of a method or ensemble."""
        predictions, ood = self.predict(name), self.config.evaluation.ood
        return Evaluate(
            source=self.source,
            folder=f"{self.home}{name}/evaluate",
            label=f"{name}: evaluate",
            scores=self.score("test"),
            calibrate=self.calibrate(name),
            predictions=predictions,
            others=[] if ood is None else [self._predict_other(each, ood) for each in predictions],
            name=name,
            evaluation=self.config.evaluation,
        )


def needs_margins(calibrator: str) -> bool:
    """Return True if a calibrator needs the first-order margins of the model."""
    return get_calibrator(calibrator).score == "first_order_margin"


def needs_model(calibrator: str) -> bool:
    """Return True if a calibrator is fitted on predictions of drifted copies, which only the model can make."""
    return isinstance(get_calibrator(calibrator), BatchTemperature)


def _home(name: str, member: int) -> str:
    return f"{name}/member-{member}" if member else name
