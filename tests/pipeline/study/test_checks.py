"""What no study can have, or what would be silently without effect, is refused before anything is trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import save_digits

from aradals import InputError
from aradals.data import load_data, make_splits
from aradals.pipeline.config import StudyConfig
from aradals.pipeline.settings import read
from aradals.pipeline.study import check_config, run_study, train_one

Settings = dict[str, Any]

RULE = {"rate": 0.5}
GOOD = {"targets": {"rule": RULE, "subsets": {"count": 3}}}
TRAINING = {"epochs": 3, "batch_size": 25, "learning_rate": 0.01}
STUDY: Settings = {
    "data": "digits",
    "model": "small_cnn",
    "model_args": {"width": 4},
    "splits": {"validation": 40, "calibration": 40, "train": 100},
    "training": TRAINING,
    "methods": {"vanilla": {}, "method": GOOD},
    "scoring": {"attack": "first_order_margin"},
    "evaluation": {"num_subsets": 2, "corruptions": ["contrast"], "severities": [5], "num_resamples": 20},
}


def study_of(method: Settings = GOOD, **changes: Any) -> StudyConfig:
    """A study as a recipe gives it, which has looked at the code that it names, too."""
    methods = {"vanilla": {}, "method": method}
    config: StudyConfig = read(StudyConfig, {**STUDY, "methods": methods, **changes})
    check_config(config)
    return config


def adapting(*, subsets: object = None, **targets: object) -> Settings:
    return {"targets": {"rule": RULE, "subsets": subsets, **targets}}


METHODS: dict[str, tuple[Settings, str]] = {
    "targets of an objective without": (
        {"objective": "focal", "targets": {"smoothing": 0.1}},
        r"methods\.method with one-hot targets.*objective=focal with smoothing",
    ),
    "a rule of an objective without targets": (
        {**GOOD, "objective": "margin_smoothing"},
        r"one-hot targets.*objective=margin_smoothing with a rule",
    ),
    "no objective": ({"objective": "mixupp"}, r"an objective: .*'mixupp'; try mixup"),
    "no such argument": ({"objective": "focal", "objective_args": {"gama": 1}}, "settings of focal: gamma.*gama"),
    "an argument out of range": ({"objective": "mixup", "objective_args": {"alpha": -1}}, "alpha >= 0"),
    "an argument of plain training": ({"objective_args": {"gamma": 1}}, "no settings for cross_entropy"),
    "no such setting": (
        {"objectiv": "focal"},
        r"a setting of methods\.method, got 'methods\.method\.objectiv'; try methods\.method\.objective",
    ),
    "a setting of targets beside them": (
        {"rule": RULE},
        r"a setting of methods\.method, got 'methods\.method\.rule'; try one of objective, .*targets",
    ),
    "subsets without a rule": ({"targets": {"subsets": {}}}, r"a value for methods\.method\.targets\.rule, got none"),
    "updates without a rule": (
        {"targets": {"update_every": 2}},
        r"a value for methods\.method\.targets\.rule, got none",
    ),
    "one subset": (adapting(subsets={"count": 1}), r"methods\.method\.targets\.subsets: .*count of at least 2, got 1"),
    "subsets by nothing": (
        adapting(subsets={"by": "robustnes"}),
        r"methods\.method\.targets\.subsets\.by to be one of robustness, confidence, self, random, column, got",
    ),
    "a column without its name": (adapting(subsets={"by": "column"}), r"a value for .*\.subsets\.column, got none"),
    "the name of a column of chance": (
        adapting(subsets={"by": "random", "column": "a"}),
        r"a setting of .*\.column'",
    ),
    "scoring itself at no time": (adapting(subsets={"by": "self"}), r"a value for .*\.subsets\.every, got none"),
    "cross-fitting of oneself": (
        adapting(subsets={"by": "self", "every": 1, "folds": 2}),
        r"a setting of .*\.subsets, got '.*\.folds'; try one of every, count, by",
    ),
    "three folds": (adapting(subsets={"folds": 3}), r"targets\.subsets\.folds to be one of 1, 2, got 3"),
    "matching of chance": (
        adapting(subsets={"by": "random", "matching": "thresholds"}),
        r"a setting of .*\.subsets, got '.*\.matching'; try one of count, by",
    ),
    "scoring never": (
        adapting(subsets={"by": "self", "every": 0}),
        r"methods\.method\.targets\.subsets: every of at least 1, got 0",
    ),
    "scoring too late": (
        adapting(subsets={"by": "self", "every": 2}),
        r"methods\.method scored early enough.*every=2 and update_every=1 in 3 epochs",
    ),
    "scoring after the end": (adapting(subsets={"by": "self", "every": 3}), "early enough"),
    "scoring after the last update": (adapting(subsets={"by": "self", "every": 2}, update_every=2), "early enough"),
    "updates never": (
        adapting(update_every=0),
        r"methods\.method\.targets: update_every of at least 1, got 0",
    ),
    "updates after the end": (
        adapting(update_every=3),
        r"methods\.method with updates every 3 epochs that an epoch follows, got 3 epochs",
    ),
    "smoothing everything": (
        {"targets": {"smoothing": 1}},
        r"method\.targets: smoothing of at least 0 and below",
    ),
    "negative smoothing": (adapting(smoothing=-0.1), "smoothing of at least 0 and below 1, got -0.1"),
    "a rate in words": ({"targets": {"rule": {"rate": "fast"}}}, r"rule\.rate to be a number or 'auto', got 'fast'"),
    "a negative leak": (
        {"targets": {"rule": {"leak": -1}}},
        r"methods\.method\.targets\.rule: leak from 0 to",
    ),
    "no such setting of a rule": (
        {"targets": {"rule": {"rates": 1}}},
        r"a setting of methods\.method\.targets\.rule, .*; try methods\.method\.targets\.rule\.rate",
    ),
    "differences of one subset": ({"targets": {"rule": {"shrink": True}}}, r"subsets for rule\.shrink, got none"),
    "the gain of one subset": (
        {"targets": {"rule": {"proportional_gain": 0.0}}},
        r"subsets for rule\.proportional_gain, got none",
    ),
    "the order of one subset": ({"targets": {"rule": {"monotone": True}}}, r"subsets for rule\.monotone, got none"),
    "the order of chance": (
        {"targets": {"rule": {"monotone": True}, "subsets": {"by": "random"}}},
        r"subsets that have an order for rule\.monotone",
    ),
    "consistency of mixtures": ({"objective": "mixup", "consistency": 12}, "leaves images as they are.*got mixup"),
    "consistency of attacks": ({"objective": "ccat", "consistency": 12}, "leaves images as they are.*got ccat"),
    "consistency of views": ({"augment": "augmix", "consistency": 12}, "AugMix views already"),
    "endless consistency": ({"consistency": 1e300}, "consistency of at most"),
    "a huge rate": ({"targets": {"rule": {"rate": 1e300}}}, "rate from 0 to 1e"),
    "negative consistency": ({"consistency": -1}, r"methods\.method: consistency of at least 0"),
    "a variant of nothing": ({"variant_of": "base"}, r"method\.variant_of to be a method of the recipe: vanilla, got"),
    "a variant of itself": ({"variant_of": "method"}, r"method\.variant_of to be a method of the recipe: vanilla, got"),
}

ENSEMBLES: dict[str, tuple[Settings, str]] = {
    "one member": (
        {"method": "method", "num_members": 1},
        r"ensembles\.name: num_members of at least 2, got 1",
    ),
    "an unknown method": (
        {"method": "metod"},
        r"ensembles\.name of a method of the recipe: vanilla, method, got 'metod'",
    ),
    "in step with nothing to share": ({"method": "vanilla", "in_step": True}, "in step of a method with a rule"),
    "no method": ({}, r"a value for ensembles\.name\.method, got none"),
}

STUDIES: dict[str, tuple[Settings, str]] = {
    "a calibrator": ({"calibrators": ["temprature"]}, "a calibrator: temperature.*'temprature'"),
    "a calibrator twice": ({"calibrators": ["temperature", "temperature"]}, "every calibrator once"),
    "a seed twice": ({"seeds": [0, 1, 0]}, "every seed once"),
    "a negative seed": ({"seeds": [-1]}, "seeds of at least 0"),
    "no seed": ({"seeds": []}, "number of seeds of at least 1"),
    "a data set twice": ({"data": ["digits", "digits"]}, "every data set once"),
    "no data": ({"data": []}, "number of data sets of at least 1"),
    "no method": ({"methods": {}}, "number of methods of at least 1"),
    "a method named like a folder": ({"methods": {"scores": {}}}, "names can be folders.*'scores'"),
    "a method named like a path": ({"methods": {"a/b": {}}}, "names can be folders.*'a/b'"),
    "another reference": (
        {"reference": "plain"},
        "reference to be a method of the recipe: vanilla, method, got 'plain'",
    ),
    "a corruption twice": ({"evaluation": {"corruptions": ["fog", "fog"]}}, "every corruption once"),
    "a severity twice": ({"evaluation": {"corruptions": ["fog"], "severities": [3, 3]}}, "every severity once"),
    "no severity": (
        {"evaluation": {"corruptions": ["fog"], "severities": []}},
        "severities of the corruptions, got none",
    ),
    "endless bins": ({"evaluation": {"num_bins": 10**12}}, r"evaluation\.num_bins of at most 10,000"),
    "endless resamples": ({"evaluation": {"num_resamples": 10**12}}, "num_resamples of at most 100,000"),
    "endless epochs": ({"training": {**TRAINING, "epochs": 10**12}}, r"training\.epochs of at most"),
    "an infinite learning rate": (
        {"training": {**TRAINING, "learning_rate": math.inf}},
        "learning_rate above 0 and up to",
    ),
    "a factor that is no number": (
        {"training": {**TRAINING, "schedule": "steps", "milestones": [1], "gamma": math.nan}},
        "gamma above 0 and up to",
    ),
    "a milestone before the first epoch": (
        {"training": {**TRAINING, "schedule": "steps", "milestones": [0]}},
        "milestone 0 of training.milestones of at least 1",
    ),
    "an endless seed": ({"seeds": [2**64]}, "at most 4294967295"),
    "one resample": ({"evaluation": {"num_resamples": 1}}, "num_resamples of at least 2"),
    "no bin": ({"evaluation": {"num_bins": 0}}, r"evaluation\.num_bins of at least 1"),
    "milestones of another schedule": ({"training": {**TRAINING, "milestones": [2]}}, "schedule=steps and.*milestones"),
    "steps without milestones": ({"training": {**TRAINING, "schedule": "steps"}}, "schedule=steps and.*milestones"),
    "gamma of another schedule": ({"training": {**TRAINING, "gamma": 0.2}}, "gamma with schedule=steps only"),
    "no learning rate": ({"training": {**TRAINING, "learning_rate": 0}}, "learning_rate above 0"),
    "negative weight decay": ({"training": {**TRAINING, "weight_decay": -1}}, "weight_decay of at least 0"),
    "no epoch": ({"training": {**TRAINING, "epochs": 0}}, r"training\.epochs of at least 1"),
    "batches of one": ({"training": {**TRAINING, "batch_size": 1}}, r"training\.batch_size of at least 2"),
    "no validation split": ({"splits": {"validation": 0, "calibration": 40}}, r"splits\.validation of at least 1"),
    "no calibration split": ({"splits": {"validation": 40, "calibration": 0}}, r"splits\.calibration of at least 1"),
}


@pytest.mark.parametrize("case", METHODS)
def test_settings_of_a_method(case: str) -> None:
    settings, message = METHODS[case]
    with pytest.raises(InputError, match=message):
        study_of(settings)


@pytest.mark.parametrize("case", ENSEMBLES)
def test_ensembles(case: str) -> None:
    settings, message = ENSEMBLES[case]
    with pytest.raises(InputError, match=message):
        study_of(ensembles={"name": settings})


def test_an_ensemble_has_a_name_of_its_own() -> None:
    with pytest.raises(InputError, match="whose name no method has, got 'method'; try method_ensemble"):
        study_of(ensembles={"method": {"method": "vanilla"}})


@pytest.mark.parametrize("case", STUDIES)
def test_studies(case: str) -> None:
    changes, message = STUDIES[case]
    with pytest.raises(InputError, match=message):
        study_of(**changes)


def test_consistency_beside_augmix_of_the_whole_study() -> None:
    training = {**TRAINING, "augment": "augmix"}
    with pytest.raises(InputError, match="AugMix views already"):
        study_of({"consistency": 12}, training=training)
    study_of({"augment": "flip_crop", "consistency": 12}, training=training)


@pytest.mark.parametrize(
    "method",
    [
        {"targets": {"rule": {"averaging": 0.7, "floor": True, "leak": 0.0}}},
        {**GOOD, "objective": "mixup", "augment": "augmix"},
        adapting(subsets={"by": "confidence", "folds": 2, "matching": "thresholds"}),
        adapting(subsets={"by": "random"}),
        {"targets": {"rule": {"proportional_gain": 1.0, "shrink": True, "monotone": True}, "subsets": {}}},
        adapting(subsets={"by": "self", "every": 1}),
        adapting(update_every=2),
        {"objective": "focal", "consistency": 12},
    ],
)
def test_what_works_is_not_refused(method: Settings) -> None:
    study_of(method)


def test_several_data_sets_cannot_be_trained_on_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one data set, got .*; try --data digits"):
        train_one(study_of(data=["digits", "cifar10"]), "vanilla", 0, tmp_path / "out")
    with pytest.raises(InputError, match="seeds of at least 0"):
        train_one(study_of(), "vanilla", -1, tmp_path / "out")
    with pytest.raises(InputError, match="a method of the recipe: vanilla, method, got 'scorer'"):
        train_one(study_of(), "scorer", 0, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_study_looks_at_the_code_that_it_names_first(tmp_path: Path) -> None:
    config: StudyConfig = read(StudyConfig, {**STUDY, "calibrators": ["temprature"]})
    with pytest.raises(InputError, match="a calibrator"):
        run_study(config, tmp_path / "out", name="test")
    assert not list(tmp_path.iterdir())


class TestWithData:
    """What only the data or the model can tell is said before the first training, too."""

    def refused(self, config: StudyConfig, message: str, folder: Path) -> None:
        torch.set_num_threads(1)
        with pytest.raises(InputError, match=message):
            run_study(config, folder / "out", name="test")
        assert not list((folder / "out").iterdir())

    @pytest.mark.parametrize(
        ("method", "message"),
        [
            (
                {"targets": {"smoothing": 0.95}},
                r"methods\.method\.targets\.smoothing of at most 0\.9 for 10 classes, got 0\.95",
            ),
            (adapting(subsets={"count": 41}), r"methods\.method\.targets\.subsets\.count from 1 to 40"),
        ],
    )
    def test_targets_and_subsets(self, method: Settings, message: str, tmp_path: Path) -> None:
        self.refused(study_of(method), message, tmp_path)

    def test_subsets_of_half_a_training_split(self, tmp_path: Path) -> None:
        splits = {**STUDY["splits"], "train": 60}
        config = study_of(adapting(subsets={"count": 35, "folds": 2}), splits=splits)
        self.refused(config, "from 1 to 30", tmp_path)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("return model(inputs)", r"objective\.py:own to be importable and to return \(loss, logits\)"),
            ("logits = model(inputs); return logits.sum(1), logits", r"to return \(loss, logits\).*scalar"),
            ("logits = model(inputs); return logits.sum().detach(), logits", r"to return \(loss, logits\).*grad"),
            ("logits = model(inputs); return logits.sum(), logits.softmax(1)", "expected logits, got probabilities"),
            ("raise KeyError('mask')", "KeyError: 'mask'"),
        ],
    )
    def test_an_objective_of_ones_own_is_tried_before_any_training(
        self, source: str, message: str, tmp_path: Path
    ) -> None:
        (tmp_path / "objective.py").write_text(f"def own(model, inputs, labels):\n    {source}\n")
        self.refused(study_of({"objective": f"{tmp_path}/objective.py:own"}), message, tmp_path)

    @pytest.mark.parametrize("method", [{"augment": "flip_crop"}, {"augment": "augmix"}, {"consistency": 12}])
    def test_images_are_needed_to_change_images(self, method: Settings, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        arrays: dict[str, Any] = {
            f"{name}_{split}": values
            for split, num in (("train", 200), ("test", 50))
            for name, values in (("x", rng.random((num, 6), dtype=np.float32)), ("y", np.arange(num) % 3))
        }
        np.savez(tmp_path / "vectors.npz", **arrays)
        (tmp_path / "model.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(6, 3)\n")
        config = study_of(
            method,
            data=str(tmp_path / "vectors.npz"),
            model=f"{tmp_path}/model.py:build",
            model_args={},
            evaluation={"num_subsets": 2},
        )
        self.refused(config, r"methods\.method on images.*inputs of shape \(2, 6\); try augment=none", tmp_path)

    def test_a_test_image_among_the_training_images_of_any_seed(self, tmp_path: Path) -> None:
        """Which of the images a seed trains on is another question for each."""
        train, test = load_data("digits", "train").select(range(200)), load_data("digits", "test").select(range(60))

        def used(seed: int, row: int) -> bool:
            splits = make_splits(train, test, validation=40, calibration=40, train_size=100, seed=seed)
            return (
                row in torch.cat([part.ids for part in (splits.train, splits.validation, splits.calibration)]).tolist()
            )

        row = next(row for row in range(200) if not used(0, row) and used(1, row))
        data = save_digits(tmp_path / "digits.npz", num_test=60)
        with np.load(data) as stored:
            arrays = dict(stored)
        arrays["x_train"][row] = arrays["x_test"][7]
        np.savez(data, **arrays)
        config = study_of(data=data, seeds=[0, 1])
        self.refused(config, "the test split", tmp_path)
