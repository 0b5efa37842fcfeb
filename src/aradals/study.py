"""A whole study: data -> vanilla model -> scores -> subsets -> training -> calibration -> evaluation -> results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aradals.adaptive_smoothing import AdaptiveSmoothing
from aradals.artifacts import (
    SCHEMA_VERSION,
    encode_hashes,
    file_digest,
    load_calibrator,
    load_json,
    save_calibrator,
    save_json,
    settings_digest,
    versions,
)
from aradals.calibration import get_calibrator
from aradals.config import MethodConfig, StudyConfig
from aradals.data import Examples, Splits, corrupt, load_data, make_splits, splits_hash
from aradals.errors import InputError
from aradals.evaluation import CLEAN, Condition, conditions, evaluate_conditions, predict_conditions, prediction_paths
from aradals.files import ensure_writable
from aradals.inference import check_labels, predict, resolve_device, try_model
from aradals.leakage import refuse_fitted_hashes
from aradals.models import build_model, load_checkpoint, save_checkpoint
from aradals.scoring import (
    check_attack,
    check_differentiable,
    check_num_subsets,
    score_stage,
    scoring_record,
    subsets_of,
)
from aradals.stages import run_stage

Log = Callable[[str], None]

_OTHER_FOLDERS = ("scores", "scorer")


def run_study(
    config: StudyConfig, output: Path, *, name: str, device: str = "auto", log: Log = print
) -> dict[str, Any]:
    """Train, calibrate and evaluate every method at every seed; stages that are done are not done again.

    Args:
        config: the recipe.
        output: folder of the study; ``results.json`` is written there.
        name: of the study, for the report.
        device: auto, cpu or cuda.
        log: called with each line of progress.

    Returns:
        What ``results.json`` holds.

    Raises:
        InputError: anything in the recipe or the data that cannot work, before training starts.
    """
    check_config(config)
    ensure_writable(output)
    data = load_study_data(config)
    runs = [SeedRun(config, *data, seed, output / f"seed-{seed}", device, log) for seed in config.seeds]
    runs[0].check()
    records = [run.method(method) for run in runs for method in config.methods]
    results = {
        "schema": SCHEMA_VERSION,
        "kind": "study",
        "name": name,
        "description": config.description,
        "config": asdict(config),
        "versions": versions(),
        "device": str(resolve_device(device)),
        "data": {
            "name": config.data,
            "num_classes": data[0].num_classes,
            "class_names": list(data[0].class_names),
            "splits": {split: len(examples) for split, examples in runs[0].splits.items()},
            "splits_hash": {str(run.seed): splits_hash(run.splits) for run in runs},
        },
        "rows": [row for record in records for row in record["rows"]],
        "reliability": [row for record in records for row in record["reliability"]],
        "training": [record["training"] for record in records],
        "calibrators": [row for record in records for row in record["calibrators"]],
        "scoring": [row for run in runs for row in run.scoring_records()],
    }
    save_json(output / "results.json", results)
    return results


def train_one(
    config: StudyConfig, method: str, seed: int, output: Path, *, device: str = "auto", log: Log = print
) -> Path:
    """Train one method of a recipe, with what it needs: a scoring model and scores, unless it scores itself.

    Returns:
        The checkpoint, ``output/<method>/train/model.safetensors``.

    Raises:
        InputError: as in `run_study`; an unknown method.
    """
    if method not in config.methods:
        raise InputError(
            expected=f"a method of the recipe: {', '.join(config.methods)}",
            got=repr(method),
            hint="one of these",
        )
    check_config(config)
    ensure_writable(output)
    run = SeedRun(config, *load_study_data(config), seed, output, device, log)
    run.check()
    return run.train(method)


def check_config(config: StudyConfig) -> None:
    """Raise InputError for what no study can have, whatever its data."""
    sizes = {
        "training.epochs": (config.training.epochs, 1),
        "training.batch_size": (config.training.batch_size, 2),
        "splits.train": (config.splits.train or 2, 2),
        "splits.validation": (config.splits.validation, 1),
        "splits.calibration": (config.splits.calibration, 1 if config.calibrators else 0),
        "evaluation.num_bins": (config.evaluation.num_bins, 1),
        "evaluation.num_resamples": (config.evaluation.num_resamples, 2),
        "the number of methods": (len(config.methods), 1),
        "the number of seeds": (len(config.seeds), 1),
        **{f"methods.{name}.update_every": (method.update_every, 1) for name, method in config.methods.items()},
        **{
            f"methods.{name}.score_every": (method.score_every, 1)
            for name, method in config.methods.items()
            if method.score_every is not None
        },
    }
    for key, (value, minimum) in sizes.items():
        if value < minimum:
            raise InputError(expected=f"{key} of at least {minimum}", got=str(value), hint="a larger number")
    if not config.training.learning_rate > 0:
        got = str(config.training.learning_rate)
        raise InputError(expected="training.learning_rate above 0", got=got, hint="0.001")
    if len(set(config.seeds)) < len(config.seeds):
        raise InputError(expected="every seed once", got=str(config.seeds), hint="other seeds")
    for name in config.methods:
        if name in _OTHER_FOLDERS or not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(
                expected="methods whose names can be folders beside " + " and ".join(_OTHER_FOLDERS),
                got=repr(name),
                hint="letters, digits, dots, dashes and underscores",
            )
    for name, method in config.methods.items():
        _check_self_scoring(name, method, config.training.epochs)


def _check_self_scoring(name: str, method: MethodConfig, epochs: int) -> None:
    """A model that scores itself has subsets to cut, and targets that part early enough to be trained with."""
    if method.score_every is None:
        return
    if method.num_subsets == 1:
        raise InputError(
            expected=f"methods.{name}.num_subsets above 1, for score_every={method.score_every} cuts subsets",
            got="1",
            hint=f"10, or --methods.{name}.score_every=null",
        )
    last_update = (epochs - 1) // method.update_every * method.update_every  # the last that an epoch follows
    if method.score_every >= last_update:
        raise InputError(
            expected=f"methods.{name} scored early enough for an update by subsets, and for an epoch after that",
            got=f"score_every={method.score_every} and update_every={method.update_every} in {epochs} epochs",
            hint="smaller ones, or more epochs",
        )


def load_study_data(config: StudyConfig) -> tuple[Examples, Examples]:
    """The training and the test examples of a study."""
    load = partial(load_data, config.data, image_column=config.image_column, label_column=config.label_column)
    return load("train"), load("test")


def build_for(config: StudyConfig, examples: Examples) -> nn.Module:
    """The study's model, freshly initialised from torch's global generator, for the shape of ``examples``."""
    shape = examples.input_shape
    sizes = {"num_classes": examples.num_classes, "in_channels": shape[0] if len(shape) == 3 else None}
    return build_model(config.model, **{**sizes, **config.model_args})


def _code_digest(spec: str) -> dict[str, str]:
    """Of the file that a model comes from, so that it is trained anew when the file changes; empty for other models."""
    path = Path(spec.rpartition(":")[0]).expanduser()
    return {"model_code": file_digest(path)} if path.suffix == ".py" and path.is_file() else {}


@dataclass
class SeedRun:
    """All stages of one seed, each in a folder of its own.

    Attributes:
        config: the recipe.
        train_data: training examples, to be divided.
        test_data: reported on, nothing else.
        seed: of the splits, initialisation and order.
        folder: holds ``scores/`` and a folder per method with ``train/``, ``calibrate/`` and ``evaluate/``.
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
    _checkpoints: dict[str, Path] = field(default_factory=dict, init=False, repr=False)
    _scores: dict[str, Path] = field(default_factory=dict, init=False, repr=False)

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
    def conditions(self) -> list[Condition]:
        """What the test split is evaluated under."""
        return conditions(self.config.evaluation.corruptions, self.config.evaluation.severities)

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
        for calibrator in config.calibrators:
            get_calibrator(calibrator)
        smallest = min(len(splits.train), len(splits.validation))
        for method, settings in config.methods.items():
            check_num_subsets(settings.num_subsets, smallest, f"methods.{method}.num_subsets", "splits.validation")
            AdaptiveSmoothing(
                splits.train.num_classes,
                settings.num_subsets,
                initial_target_prob=settings.initial_target_prob,
                update_rate=0.0 if settings.update_rate == "auto" else settings.update_rate,
                leak=settings.leak,
            )
        check_num_subsets(config.evaluation.num_subsets, len(splits.test), "evaluation.num_subsets", "the test split")
        ids, inputs, _ = splits.train.__getitems__([0, 1])
        for condition in self.conditions:
            if condition != CLEAN:
                corrupt(inputs, ids, *condition)
        model = self._load_scorer() if config.scoring.checkpoint else build_for(config, splits.train)
        num_classes = try_model(model, inputs)
        check_differentiable(model, inputs)
        for _, examples in splits.items():
            check_labels(examples.labels, num_classes)

    def method(self, method: str) -> dict[str, Any]:
        """Train, calibrate and evaluate one method; its part of the results."""
        checkpoint = self.train(method)
        calibrators = self.calibrate(method, checkpoint)
        evaluated = load_json(self.evaluate(method, checkpoint, calibrators) / "rows.json")
        keys = {"method": method, "seed": self.seed}
        history = load_json(checkpoint.parent / "history.json")
        return {
            **evaluated,
            "training": {**keys, **history},
            "calibrators": [
                {**{k: v for k, v in load_json(path).items() if k != "fitted_on"}, **keys, "calibrator": name}
                for name, path in calibrators.items()
            ],
        }

    def train(self, method: str) -> Path:
        """Train a method; ``scorer`` names the vanilla model that scores where the recipe has no vanilla method."""
        if method not in self._checkpoints:
            self._checkpoints[method] = self._train(method)
        return self._checkpoints[method]

    def scores(self, split: str) -> Path:
        """The score table of a split, by the one scoring model of this seed, the same for all methods."""
        if split not in self._scores:
            self._scores[split] = self._score(split)
        return self._scores[split]

    def _train(self, method: str) -> Path:
        from aradals.training import fit_classifier

        settings = self.config.methods.get(method, MethodConfig())
        subsets: dict[str, Tensor] = {}
        score_digests: dict[str, str] = {}
        if settings.num_subsets > 1 and settings.score_every is None:
            for split in ("train", "validation"):
                path = self.scores(split)
                score_digests[split] = file_digest(path)
                subsets[split] = subsets_of(path, getattr(self.splits, split).ids, settings.num_subsets)
        folder = self.folder / method / "train"
        log = self._log(f"{method}: train")
        inputs = {
            "model": self.config.model,
            **_code_digest(self.config.model),
            "model_args": self.config.model_args,
            "training": asdict(self.config.training),
            "method": asdict(settings),
            "train": self.splits.train.fingerprint,
            "validation": self.splits.validation.fingerprint,
            "scores": score_digests,
            "seed": self.seed,
        }

        def make(folder: Path) -> None:
            torch.manual_seed(self.seed)
            resume = folder / "resume.ckpt"
            trained = fit_classifier(
                build_for(self.config, self.splits.train),
                self.splits.train,
                self.splits.validation,
                method=settings,
                training=self.config.training,
                seed=self.seed,
                train_subsets=subsets.get("train"),
                validation_subsets=subsets.get("validation"),
                device=str(resolve_device(self.device)),
                resume=resume,
                log=log,
            )
            save_json(
                folder / "history.json",
                {
                    "settings": {**asdict(settings), "update_rate": trained.update_rate},
                    "seconds": trained.seconds,
                    "epochs": trained.epochs,
                    "scorings": trained.scorings,
                    "updates": trained.updates,
                    "target_prob": trained.target_prob,
                    "at_lower_bound": trained.at_lower_bound,
                },
            )
            save_checkpoint(trained.model, folder / "model.safetensors", self._model_metadata(method, inputs))
            resume.unlink(missing_ok=True)

        run_stage(folder, inputs, make, log)
        return folder / "model.safetensors"

    def _score(self, split: str) -> Path:
        scoring = self.config.scoring
        checkpoint = Path(scoring.checkpoint) if scoring.checkpoint else self.train(self._scorer_name())
        return score_stage(
            self._load(checkpoint),
            getattr(self.splits, split),
            self.folder / "scores" / split,
            attack=scoring.attack,
            attack_args=scoring.attack_args,
            model_digest=file_digest(checkpoint),
            log=self._log(f"scores: {split}"),
        )

    def calibrate(self, method: str, checkpoint: Path) -> dict[str, Path]:
        """Fit every calibrator on the calibration split."""
        folder = self.folder / method / "calibrate"
        examples = self.splits.calibration
        inputs = {
            "model": file_digest(checkpoint),
            "data": examples.fingerprint,
            "calibrators": self.config.calibrators,
        }
        log = self._log(f"{method}: calibrate")

        def make(folder: Path) -> None:
            predictions = predict(self._load(checkpoint), examples.batches())
            for name in self.config.calibrators:
                calibrator = get_calibrator(name).fit(predictions.logits, predictions.labels)
                save_calibrator(folder / f"{name}.json", calibrator, examples)

        run_stage(folder, inputs, make, log)
        return {name: folder / f"{name}.json" for name in self.config.calibrators}

    def evaluate(self, method: str, checkpoint: Path, calibrators: dict[str, Path]) -> Path:
        """Predict the test split under every condition, and compute every row."""
        folder = self.folder / method / "evaluate"
        examples, settings = self.splits.test, self.config.evaluation
        scores = self.scores("test")
        model_digest = file_digest(checkpoint)
        inputs = {
            "model": model_digest,
            "calibrators": {name: file_digest(path) for name, path in calibrators.items()},
            "data": examples.fingerprint,
            "scores": file_digest(scores),
            "evaluation": asdict(settings),
        }
        log = self._log(f"{method}: evaluate")

        def make(folder: Path) -> None:
            paths = prediction_paths(folder, self.conditions)
            predict_conditions(self._load(checkpoint), examples, paths, model_digest=model_digest)
            rows, reliability = evaluate_conditions(
                paths,
                subsets_of(scores, examples.ids, settings.num_subsets),
                {name: load_calibrator(path)[0] for name, path in calibrators.items()},
                keys={"method": method, "seed": self.seed, "data": examples.name},
                num_bins=settings.num_bins,
                num_resamples=settings.num_resamples,
            )
            clean = next(row for row in rows if row["corruption"] == "none" and row["subset"] is None)
            log(f"accuracy {clean['accuracy']:.4f}  confidence {clean['confidence']:.4f}  ECE {clean['ece']:.4f}")
            save_json(folder / "rows.json", {"rows": rows, "reliability": reliability})

        run_stage(folder, inputs, make, log)
        return folder

    def scoring_records(self) -> list[dict[str, Any]]:
        """Attack, size, failures and cost of every split that this run scored or found scored."""
        return [scoring_record(path, seed=self.seed, split=split) for split, path in sorted(self._scores.items())]

    def _scorer_name(self) -> str:
        """The recipe's own vanilla method where it has one, so that it is trained once."""
        vanilla = (name for name, settings in self.config.methods.items() if settings == MethodConfig())
        return next(vanilla, "scorer")

    def _load(self, checkpoint: Path) -> nn.Module:
        model = build_for(self.config, self.splits.train)
        load_checkpoint(model, checkpoint)
        return model.to(resolve_device(self.device)).eval()

    def _load_scorer(self) -> nn.Module:
        assert self.config.scoring.checkpoint is not None
        return self._load(Path(self.config.scoring.checkpoint)).cpu()

    def _model_metadata(self, method: str, inputs: dict[str, Any]) -> dict[str, str]:
        """What a checkpoint says of itself: how to build it, and on what it was fitted."""
        examples = self.splits.train
        fitted = np.concatenate([examples.hashes, self.splits.validation.hashes])
        description = {
            "model": self.config.model,
            "model_args": self.config.model_args,
            "num_classes": examples.num_classes,
            "class_names": list(examples.class_names),
            "method": method,
            "seed": self.seed,
            "inputs": settings_digest(inputs),
            "versions": versions(),
            "fitted_examples": encode_hashes(fitted),
        }
        # One entry: safetensors writes several in random order, and equal models should be equal files.
        return {"aradals": json.dumps(description)}

    def _log(self, stage: str) -> Log:
        prefix = f"[seed {self.seed}] {stage}: "
        return lambda line: self.log(prefix + line)
