"""One seed of a study: every stage from the splits to the rows of the table, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from aradals._internal.files import file_digest
from aradals._internal.specs import code_digest
from aradals.calibration import CALIBRATORS, get_calibrator
from aradals.checks import check_labels
from aradals.data import Examples, Splits, files_digest, make_splits
from aradals.errors import InputError, OutputError, TrainingFailed
from aradals.inference.ensemble import Ensemble
from aradals.inference.gradients import model_inputs
from aradals.inference.predictions import evaluation_mode, predict, resolve_device, try_model
from aradals.models import build_model, load_checkpoint, save_checkpoint, seal_description
from aradals.pipeline.artifacts import (
    encode_hashes,
    load_calibrator,
    load_predictions,
    save_calibrator,
    save_json,
    settings_digest,
    versions,
)
from aradals.pipeline.config import (
    ColumnSubsets,
    MethodConfig,
    RandomSubsets,
    RankedSubsets,
    SelfScoredSubsets,
    StudyConfig,
)
from aradals.pipeline.evaluate import (
    CLEAN,
    Condition,
    Shift,
    choose_shift,
    evaluate_conditions,
    predict_conditions,
    prediction_paths,
    stored_predictions,
)
from aradals.pipeline.health import check_trainable
from aradals.pipeline.leakage import refuse_fitted_hashes
from aradals.pipeline.score import (
    check_attack,
    check_differentiable,
    check_num_subsets,
    score_stage,
    scores_of,
    scoring_record,
    subsets_of,
)
from aradals.pipeline.stage import run_stage, same_outputs
from aradals.pipeline.study.arrays import RunArrays, resample
from aradals.pipeline.study.checks import try_method
from aradals.pipeline.study.groups import TrainingSubsets, training_subsets
from aradals.pipeline.study.records import read_evaluation, read_history
from aradals.smoothing.subsets import fold_of

T = TypeVar("T")

Log = Callable[[str], None]

SCORER = "scorer"
"""The folder of vanilla models that only score."""

_NUM_PROBED = 8

FIRST_ORDER = "first_order_margin"
CALIBRATION_FILE, ARRAYS_FILE = "calibration.parquet", "arrays.npz"
HISTORY_FILE, ROWS_FILE = "history.json", "rows.json"


@dataclass
class SeedRun:
    """All stages of one seed on one data set.

    Attributes:
        config: the recipe.
        train_data: training examples, to be divided.
        test_data: reported on, nothing else.
        seed: of the splits, initialization and order.
        folder: holds ``scores/`` and a folder per method with ``train/``, ``predict/``, ``calibrate/`` and
            ``evaluate/``; further members of ensembles lie in ``member-<m>/`` of their method.
        device: auto, cpu or cuda.
        log: called with each line of progress.
    """

    config: StudyConfig
    train_data: Examples
    test_data: Examples
    seed: int
    folder: Path
    device: str
    log: Log
    _done: dict[Path, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def splits(self) -> Splits:
        """train, validation, calibration and test."""
        sizes = self.config.splits
        return make_splits(
            self.train_data,
            self.test_data,
            validation=sizes.validation,
            calibration=sizes.calibration,
            train_size=sizes.train,
            seed=self.seed,
        )

    @cached_property
    def shift(self) -> tuple[list[Condition], Shift]:
        """What the test split is evaluated under, and where its corrupted images come from."""
        given = self.config.evaluation
        return choose_shift(
            self.splits.test, given.corruptions, given.severities, preset=given.preset, corrupted=given.corrupted
        )

    @cached_property
    def probe(self) -> Tensor | None:
        """A few logits of the model as it is initialised, for `run_stage`: they show, too, what its code reads.

        None for a model that torch's generator alone does not determine.
        """
        batch = self.splits.train.__getitems__(list(range(min(_NUM_PROBED, len(self.splits.train)))))
        logits = []
        for _ in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                logits.append(predict(self._build(), [batch]).logits)
        return logits[0] if same_outputs(logits[0].tolist(), logits[1]) else None

    @property
    def conditions(self) -> list[Condition]:
        """What the test split is evaluated under."""
        return self.shift[0]

    def check(self) -> None:
        """Try everything that can fail, on two examples, before hours of work depend on it.

        Raises:
            InputError: what cannot work.
        """
        config, splits = self.config, self.splits
        resolve_device(self.device)
        refuse_fitted_hashes(
            np.concatenate([part.hashes for part in (splits.train, splits.validation, splits.calibration)]),
            splits.test.hashes,
            what="every model",
            where="the test split",
        )
        check_attack(config.scoring.attack, config.scoring.attack_args)
        check_num_subsets(config.evaluation.num_subsets, len(splits.test), "evaluation.num_subsets", "the test split")
        _, inputs, _ = splits.train.__getitems__([0, 1])
        _ = self.shift
        model = self._load(Path(config.scoring.checkpoint)).cpu() if config.scoring.checkpoint else self._build()
        num_classes = try_model(model, inputs)
        # A last layer that is zero before training is common; the trained model is looked at before it scores.
        if config.scoring.checkpoint or _tells_apart(model, inputs):
            check_differentiable(model, inputs)
        check_trainable(model, splits.train.labels)
        for _, examples in splits.items():
            check_labels(examples.labels, num_classes)
        for name, settings in config.methods.items():
            subsets = settings.targets.subsets
            folds = subsets.folds if isinstance(subsets, RankedSubsets) else 1
            smallest = min(len(splits.train) // folds, len(splits.validation))
            key = f"methods.{name}.targets.subsets.count"
            check_num_subsets(settings.num_subsets, smallest, key, "splits.validation")
            try_method(name, settings, config.training, model, splits.train.__getitems__([0, 1]))
            if isinstance(subsets, RandomSubsets | ColumnSubsets):
                training_subsets(self, subsets)

    # What each method comes to.

    def record(self, name: str) -> dict[str, Any]:
        """Train, calibrate and evaluate one method or ensemble: its part of the results."""
        evaluated = read_evaluation(self.evaluate(name) / ROWS_FILE)
        keys = {"method": name, "seed": self.seed}
        groups = self._groups(self._settings_of(name))
        tables = [self.scores("test"), *(groups.tables if groups else [])]
        return {
            **{part: [{**row, **keys} for row in evaluated[part]] for part in ("rows", "reliability")},
            "training": [
                {**read_history(folder / HISTORY_FILE), **keys}
                for folder in self._training_folders(name)
                if folder.parent == self.folder / name
            ],
            "calibrators": [
                {**load_calibrator(path)[0].to_dict(), **keys, "calibrator": calibrator}
                for calibrator, path in self.calibrate(name).items()
            ],
            "scoring": [scoring_record(path, seed=self.seed, split=path.parent.name) for path in tables],
            "costs": [{**keys, **self.cost(name)}],
        }

    def arrays(self, name: str) -> RunArrays:
        """What an evaluated method keeps besides its rows."""
        return RunArrays.load(self.evaluate(name) / ARRAYS_FILE, self.splits.test.labels)

    def cost(self, name: str) -> dict[str, float]:
        """Seconds before a method can predict: its own training, and models that are trained and score only for it."""
        groups = self._groups(self._settings_of(name))
        seconds = {
            "training_seconds": sum(_training_seconds(folder) for folder in self._training_folders(name)),
            "scorer_seconds": sum(_training_seconds(path.parent) for path in groups.scorers) if groups else 0.0,
            "scoring_seconds": sum(scoring_record(path)["seconds"] for path in groups.tables) if groups else 0.0,
        }
        return {**seconds, "seconds": sum(seconds.values())}

    def _training_folders(self, name: str) -> list[Path]:
        """Of every training that a method or ensemble consists of."""
        return list(dict.fromkeys(checkpoint.parent for checkpoint in self.checkpoints(name)))

    # Training.

    def train(self, method: str, member: int = 0) -> Path:
        """The checkpoint of a method; further members of an ensemble differ in initialization and order."""
        folder = self.folder / method / (f"member-{member}" if member else "") / "train"
        settings = MethodConfig() if method == SCORER else self.config.methods[method]
        return self._once(folder, lambda: self._train(folder, settings, method, members=[member])[0])

    def train_in_step(self, ensemble: str) -> list[Path]:
        """The checkpoints of an ensemble's members that are trained together."""
        settings = self.config.ensembles[ensemble]
        folder, members = self.folder / ensemble / "train", list(range(settings.num_members))
        method = self.config.methods[settings.method]
        return self._once(folder, lambda: self._train(folder, method, ensemble, members=members))

    def scorer(self) -> Path:
        """The checkpoint of the one scoring model of this seed: given, or the recipe's vanilla model, trained once."""
        if self.config.scoring.checkpoint:
            return Path(self.config.scoring.checkpoint)
        return self.train(self.scorer_name)

    @property
    def scorer_name(self) -> str:
        """The method whose model scores: the recipe's vanilla one, or one that only scores."""
        vanilla = (name for name, settings in self.config.methods.items() if settings == MethodConfig())
        return next(vanilla, SCORER)

    def fold_scorer(self, fold: int) -> Path:
        """A vanilla model that was trained on the other half of the training split."""
        train = self.splits.train
        others = train.select(fold_of(train.ids, self.seed) != fold)
        folder = self.folder / SCORER / f"without-fold-{fold}"
        return self._once(
            folder,
            lambda: self._train(folder, MethodConfig(), f"{SCORER} of fold {fold}", members=[0], train=others)[0],
        )

    def scores(self, split: str, *, attack: str | None = None, fold: int | None = None) -> Path:
        """A split's score table: by the scoring model and attack of the recipe, unless said otherwise.

        Args:
            split: train, validation or test.
            attack: another measure than the recipe's.
            fold: by the model that has not seen this half of the training split, of which only this half is scored.

        Raises:
            TrainingFailed: of the study's own scoring model, or because that cannot be used to score.
        """
        examples: Examples = getattr(self.splits, split)
        if fold is not None and split == "train":
            examples = examples.select(fold_of(examples.ids, self.seed) == fold)
        name = "-".join(filter(None, [attack, None if fold is None else f"fold-{fold}", split]))
        folder = self.folder / "scores" / name

        def make() -> Path:
            checkpoint = self.scorer() if fold is None else self.fold_scorer(fold)
            try:
                return score_stage(
                    self._load(checkpoint),
                    examples,
                    folder,
                    attack=attack or self.config.scoring.attack,
                    attack_args={} if attack else self.config.scoring.attack_args,
                    model_digest=self._model_digest(checkpoint),
                    probe=self.probe,
                    log=self._log(f"scores: {name}"),
                )
            except OutputError:
                raise
            except InputError as error:
                if fold is None and self.config.scoring.checkpoint:
                    raise
                scorer = self.scorer_name if fold is None else f"{SCORER} of fold {fold}"
                raise TrainingFailed(f"it cannot be used to score examples: {error}", scorer) from error

        return self._once(folder, make)

    def _train(
        self,
        folder: Path,
        settings: MethodConfig,
        name: str,
        *,
        members: list[int],
        train: Examples | None = None,
    ) -> list[Path]:
        train = train or self.splits.train
        groups = self._groups(settings)
        inputs = {
            "model": self.config.model,
            "code": self._code,
            "model_args": self.config.model_args,
            "training": asdict(self.config.training),
            "method": {**settings.training, "code": code_digest(settings.objective)},
            "train": train.fingerprint,
            "validation": self.splits.validation.fingerprint,
            "subsets": groups.digest if groups else None,
            "seed": self.seed,
            "members": members,
        }
        log = self._log(f"{name}: train" + (f" member {members[0]}" if members[0] else ""))
        one = len(members) == 1
        checkpoints = [folder / ("model.safetensors" if one else f"model-{member}.safetensors") for member in members]

        def make(folder: Path) -> None:
            from aradals.pipeline.train import (  # takes seconds, and a finished study needs none
                fit_classifier,
                member_seed,
            )

            models = []
            for member in members:
                torch.manual_seed(member_seed(self.seed, member))
                models.append(self._build())
            resume = folder / "resume.ckpt"
            trained = fit_classifier(
                models[0] if one else Ensemble(models),
                train,
                self.splits.validation,
                method=settings,
                training=self.config.training,
                seed=member_seed(self.seed, members[0]),
                train_subsets=groups.train if groups else None,
                validation_subsets=groups.validation if groups else None,
                device=str(resolve_device(self.device)),
                resume=resume,
                inputs_digest=settings_digest(inputs),
                log=log,
            )
            save_json(
                folder / HISTORY_FILE,
                {
                    "settings": {
                        **settings.training,
                        **settings.summary,
                        "num_members": len(members),
                        "update_rate": trained.update_rate,
                    },
                    "seconds": trained.seconds,
                    "epochs": trained.epochs,
                    "scorings": trained.scorings,
                    "updates": trained.updates,
                    "target_prob": trained.target_prob,
                    "at_lower_bound": trained.at_lower_bound,
                },
            )
            for model, path in zip(models, checkpoints, strict=True):
                save_checkpoint(model, path, seal_description(model, self._describe(name, inputs, train)))
            resume.unlink(missing_ok=True)

        outputs = [HISTORY_FILE, *(path.name for path in checkpoints)]
        try:
            run_stage(folder, inputs, outputs, make, log, probe=self.probe)
        except TrainingFailed as error:
            raise TrainingFailed(error.reason, name + (f" member {members[0]}" if members[0] else "")) from error
        return checkpoints

    # From checkpoints to rows.

    def checkpoints(self, name: str) -> list[Path]:
        """The model of a method, or the models of an ensemble's members."""
        if name in self.config.methods:
            return [self.train(name)]
        ensemble = self.config.ensembles[name]
        if ensemble.in_step:
            return self.train_in_step(name)
        return [self.train(ensemble.method, member) for member in range(ensemble.num_members)]

    def predictions(self, name: str) -> list[Path]:
        """The folders of the predictions of a method, one, or of an ensemble's members."""
        checkpoints = self.checkpoints(name)
        if name in self.config.ensembles and self.config.ensembles[name].in_step:
            owners = [self.folder / name / f"member-{member}" for member in range(len(checkpoints))]
        else:  # members that are models of a method share its predictions
            owners = [checkpoint.parent.parent for checkpoint in checkpoints]
        return [
            self._once(owner / "predict", partial(self._predict, checkpoint, owner / "predict"))
            for checkpoint, owner in zip(checkpoints, owners, strict=True)
        ]

    def _predict(self, checkpoint: Path, folder: Path) -> Path:
        """One model's predictions of the calibration split, and of the test split under every condition."""
        model_digest = self._model_digest(checkpoint)
        is_member = folder.parent.parent != self.folder
        with_scores = not is_member and any(CALIBRATORS[each].score == FIRST_ORDER for each in self.config.calibrators)
        corrupted = self.config.evaluation.corrupted
        inputs = {
            "model": model_digest,
            "calibration": self.splits.calibration.fingerprint,
            "test": self.splits.test.fingerprint,
            "conditions": self.conditions,
            "preset": self.config.evaluation.preset,
            "corrupted": corrupted and [corrupted, files_digest(corrupted)],
            "with_scores": with_scores,
        }

        calibration = {CLEAN: folder / CALIBRATION_FILE} if len(self.splits.calibration) else {}
        test = prediction_paths(folder, self.conditions)

        def make(folder: Path) -> None:
            model = self._load(checkpoint)
            for examples, paths in ((self.splits.calibration, calibration), (self.splits.test, test)):
                if paths:
                    predict_conditions(
                        model,
                        examples,
                        paths,
                        model_digest=model_digest,
                        with_scores=with_scores,
                        shift=self.shift[1],
                    )

        outputs = [path.name for path in (*calibration.values(), *test.values())]
        log = self._log(f"{folder.parent.relative_to(self.folder)}: predict")
        run_stage(folder, inputs, outputs, make, log, probe=self.probe)
        return folder

    def calibrate(self, name: str) -> dict[str, Path]:
        """Fit every calibrator on the calibration split; those of an ensemble on its averaged prediction."""
        return self._once(self.folder / name / "calibrate", partial(self._calibrate, name))

    def _calibrate(self, name: str) -> dict[str, Path]:
        folder = self.folder / name / "calibrate"
        examples, calibrators = self.splits.calibration, self._calibrators(name)
        if not calibrators:
            return {}
        paths = [predictions / CALIBRATION_FILE for predictions in self.predictions(name)]
        inputs = {
            "predictions": [file_digest(path) for path in paths],
            "data": examples.fingerprint,
            "calibrators": calibrators,
        }

        def make(folder: Path) -> None:
            [(_, fitted_on)] = stored_predictions([{CLEAN: path} for path in paths])
            for calibrator in calibrators:
                fitted = get_calibrator(calibrator).fit(fitted_on.logits, fitted_on.labels, fitted_on.scores)
                save_calibrator(folder / f"{calibrator}.json", fitted, examples)

        outputs = [f"{calibrator}.json" for calibrator in calibrators]
        run_stage(folder, inputs, outputs, make, self._log(f"{name}: calibrate"))
        return {calibrator: folder / f"{calibrator}.json" for calibrator in calibrators}

    def evaluate(self, name: str) -> Path:
        """The rows of a method or ensemble, and its bootstrap."""
        return self._once(self.folder / name / "evaluate", partial(self._evaluate, name))

    def _evaluate(self, name: str) -> Path:
        folder = self.folder / name / "evaluate"
        examples, settings = self.splits.test, self.config.evaluation
        scores, calibrators = self.scores("test"), self.calibrate(name)
        predictions = [prediction_paths(predicted, self.conditions) for predicted in self.predictions(name)]
        inputs = {
            "predictions": [file_digest(path) for paths in predictions for path in paths.values()],
            "calibrators": {calibrator: file_digest(path) for calibrator, path in calibrators.items()},
            "scores": file_digest(scores),
            "evaluation": asdict(settings),
        }
        log = self._log(f"{name}: evaluate")

        def make(folder: Path) -> None:
            subsets = subsets_of(scores, examples.ids, settings.num_subsets)
            fitted = {calibrator: load_calibrator(path)[0] for calibrator, path in calibrators.items()}
            rows, reliability = evaluate_conditions(
                stored_predictions(predictions),
                subsets,
                fitted,
                keys={"method": name, "seed": self.seed, "data": examples.name},
                num_bins=settings.num_bins,
                num_resamples=settings.num_resamples,
            )
            replicates = resample(
                stored_predictions(predictions),
                subsets,
                fitted,
                num_bins=settings.num_bins,
                num_resamples=settings.num_resamples,
            )
            clean_logits = torch.stack([load_predictions(paths[CLEAN])[0].logits for paths in predictions])
            ranking = scores_of(scores, examples.ids)
            RunArrays(replicates, clean_logits, examples.labels, ranking, subsets).save(folder / ARRAYS_FILE)
            clean = next(row for row in rows if row["corruption"] == "none" and row["subset"] is None)
            log(f"accuracy {clean['accuracy']:.4f}  confidence {clean['confidence']:.4f}  ECE {clean['ece']:.4f}")
            save_json(folder / ROWS_FILE, {"rows": rows, "reliability": reliability})

        run_stage(folder, inputs, [ROWS_FILE, ARRAYS_FILE], make, log)
        return folder

    # Helpers.

    def _once(self, folder: Path, make: Callable[[], T]) -> T:
        """The result of a stage, which is looked at but once in a run; a training that failed fails but once."""
        if folder not in self._done:
            try:
                self._done[folder] = make()
            except TrainingFailed as error:
                # Another one, for the traceback holds the model.
                self._done[folder] = TrainingFailed(error.reason, error.model)
        result: T | TrainingFailed = self._done[folder]
        if isinstance(result, TrainingFailed):
            raise result
        return result

    def _calibrators(self, name: str) -> list[str]:
        """Those of the recipe; an ensemble has no first-order margin that its members' predictions would give."""
        single = name in self.config.methods
        return [each for each in self.config.calibrators if single or CALIBRATORS[each].score != FIRST_ORDER]

    def _settings_of(self, name: str) -> MethodConfig:
        """The settings that the models of a method or of an ensemble are trained with."""
        ensemble = self.config.ensembles.get(name)
        return self.config.methods[ensemble.method if ensemble else name]

    def _groups(self, settings: MethodConfig) -> TrainingSubsets | None:
        """The subsets that a model with these settings is trained with from the start; None without any."""
        subsets = settings.targets.subsets
        return None if subsets is None or isinstance(subsets, SelfScoredSubsets) else training_subsets(self, subsets)

    def _build(self) -> nn.Module:
        """The study's model, freshly initialized from torch's global generator, for the shape of the data."""
        return build_for(self.config, self.splits.train)

    def _load(self, checkpoint: Path) -> nn.Module:
        model = self._build()
        load_checkpoint(model, checkpoint)
        return model.to(resolve_device(self.device)).eval()

    @cached_property
    def _code(self) -> str | None:
        """Digest of the code that builds the study's model, read once: it follows all imports."""
        return code_digest(self.config.model)

    def _model_digest(self, checkpoint: Path) -> str:
        """Hash the weights, the code and the settings of a trained model."""
        config = self.config
        return settings_digest([file_digest(checkpoint), config.model, config.model_args, self._code])

    def _describe(self, method: str, inputs: dict[str, Any], train: Examples) -> dict[str, Any]:
        """What a checkpoint says of itself: how to build its model, and what it was fitted on."""
        fitted = np.concatenate([train.hashes, self.splits.validation.hashes])
        return {
            "model": self.config.model,
            "model_args": self.config.model_args,
            "num_classes": train.num_classes,
            "class_names": list(train.class_names),
            "method": method,
            "seed": self.seed,
            "inputs": settings_digest(inputs),
            "versions": versions(),
            "fitted_examples": encode_hashes(fitted),
        }

    def _log(self, stage: str) -> Log:
        prefix = f"[seed {self.seed}] {stage}: "
        return lambda line: self.log(prefix + line)


def build_for(config: StudyConfig, examples: Examples) -> nn.Module:
    """The study's model, freshly initialized from torch's global generator, for the shape of ``examples``."""
    shape = examples.input_shape
    sizes = {"num_classes": examples.num_classes, "in_channels": shape[0] if len(shape) == 3 else None}
    return build_model(config.model, **{**sizes, **config.model_args})


def _tells_apart(model: nn.Module, inputs: Tensor) -> bool:
    with evaluation_mode(model), torch.no_grad():
        logits = model(model_inputs(model, inputs))
    return bool((logits != logits[:1]).any())


def _training_seconds(folder: Path) -> float:
    return float(read_history(folder / HISTORY_FILE)["seconds"])
