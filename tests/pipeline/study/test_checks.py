"""What no study can have, or what would be silently without effect, is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import ADAPTIVE, VANILLA, save_digits, small_config

from aradals import InputError
from aradals.data import load_data, make_splits
from aradals.pipeline.config import EnsembleConfig, EvaluationConfig, MethodConfig, StudyConfig, TrainingConfig
from aradals.pipeline.study import check_config, run_study, train_one
from aradals.smoothing.update_rules import UpdateRule

GOOD = MethodConfig(num_subsets=3, rule=ADAPTIVE)
TRAINING = TrainingConfig(epochs=3, batch_size=25, learning_rate=0.01)


def study_of(method: MethodConfig = GOOD, data: str | list[str] = "digits", **changes: Any) -> StudyConfig:
    return small_config(data, {"vanilla": VANILLA, "method": method}, **{"training": TRAINING, **changes})


METHODS = {
    "targets of an objective without": (
        MethodConfig(objective="focal", initial_target_prob=0.9),
        r"methods\.method with one-hot targets.*objective=focal with initial_target_prob below 1",
    ),
    "a rule of an objective without targets": (
        replace(GOOD, objective="margin_smoothing"),
        r"one-hot targets.*objective=margin_smoothing with a rule",
    ),
    "no objective": (MethodConfig(objective="mixupp"), r"an objective: .*'mixupp'; try mixup"),
    "no such setting": (MethodConfig(objective="focal", objective_args={"gama": 1}), "settings of focal: gamma.*gama"),
    "a setting out of range": (MethodConfig(objective="mixup", objective_args={"alpha": -1}), "alpha >= 0"),
    "a setting of vanilla": (MethodConfig(objective_args={"gamma": 1}), "no settings for cross_entropy"),
    "subsets without a rule": (MethodConfig(num_subsets=3), r"method with a rule.*num_subsets=3"),
    "no subset": (replace(GOOD, num_subsets=0), r"num_subsets of at least 1, got 0"),
    "a column without its name": (replace(GOOD, grouping="column"), "grouping=column and a group_column, or neither"),
    "the name of a column alone": (replace(GOOD, group_column="a"), "grouping=robustness, group_column=a"),
    "cross-fitting of oneself": (
        replace(GOOD, cross_fit=True, score_every=1),
        "scored by another model, for its cross_fit",
    ),
    "cross-fitting of chance": (replace(GOOD, cross_fit=True, grouping="random"), "for its cross_fit"),
    "matching of chance": (replace(GOOD, matching="thresholds", grouping="random"), "for its matching"),
    "matching of a column": (
        replace(GOOD, matching="thresholds", grouping="column", group_column="size"),
        "for its matching",
    ),
    "matching of oneself": (replace(GOOD, matching="thresholds", score_every=1), "for its matching"),
    "a grouping of one": (MethodConfig(rule=ADAPTIVE, grouping="random"), "num_subsets above 1, for grouping is about"),
    "cross-fitting of one": (
        MethodConfig(rule=ADAPTIVE, cross_fit=True),
        "num_subsets above 1, for cross_fit is about",
    ),
    "confidence of oneself": (replace(GOOD, grouping="confidence", score_every=1), "grouped by robustness"),
    "scoring never": (replace(GOOD, score_every=0), r"methods\.method\.score_every of at least 1, got 0"),
    "scoring of one": (MethodConfig(rule=ADAPTIVE, score_every=1), "num_subsets above 1, for score_every is about"),
    "scoring too late": (replace(GOOD, score_every=2), "early enough.*score_every=2 and update_every=1 in 3 epochs"),
    "scoring after the end": (replace(GOOD, score_every=3), "early enough"),
    "scoring after the last update": (replace(GOOD, score_every=2, update_every=2), "early enough"),
    "updates never": (replace(GOOD, update_every=0), "update_every of at least 1, got 0"),
    "updates without a rule": (
        MethodConfig(update_every=2),
        "updates every 2 epochs that an epoch follows, got no rule",
    ),
    "updates after the end": (
        replace(GOOD, update_every=3),
        "updates every 3 epochs that an epoch follows, got 3 epochs",
    ),
    "differences of one subset": (MethodConfig(rule=UpdateRule(shrink=True)), r"rule\.shrink is about subsets"),
    "the shape of one subset": (MethodConfig(rule=UpdateRule(shape_rate=1.0)), r"rule\.shape_rate is about subsets"),
    "the order of one subset": (MethodConfig(rule=UpdateRule(monotone=True)), r"rule\.monotone is about subsets"),
    "the order of chance": (
        MethodConfig(num_subsets=2, rule=UpdateRule(monotone=True), grouping="random"),
        r"subsets that have an order, for rule\.monotone",
    ),
    "consistency of mixtures": (
        MethodConfig(objective="mixup", consistency=12),
        "leaves images as they are.*got mixup",
    ),
    "consistency of attacks": (MethodConfig(objective="ccat", consistency=12), "leaves images as they are.*got ccat"),
    "consistency of views": (MethodConfig(augment="augmix", consistency=12), "AugMix views already"),
    "negative consistency": (MethodConfig(consistency=-1), "consistency of at least 0"),
}

ENSEMBLES = {
    "one member": (EnsembleConfig("method", num_members=1), r"ensembles\.name\.num_members of at least 2, got 1"),
    "an unknown method": (
        EnsembleConfig("metod"),
        r"ensembles\.name of a method of the recipe: vanilla, method, got 'metod'",
    ),
    "in step with nothing to share": (EnsembleConfig("vanilla", in_step=True), "in step of a method with a rule"),
}

STUDIES: dict[str, tuple[dict[str, Any], str]] = {
    "a calibrator": ({"calibrators": ["temprature"]}, "a calibrator: temperature.*'temprature'"),
    "a calibrator twice": ({"calibrators": ["temperature", "temperature"]}, "every calibrator once"),
    "a seed twice": ({"seeds": [0, 1, 0]}, "every seed once"),
    "a negative seed": ({"seeds": [-1]}, "seeds of at least 0"),
    "no seed": ({"seeds": []}, "number of seeds of at least 1"),
    "a data set twice": ({"data": ["digits", "digits"]}, "every data set once"),
    "no data": ({"data": []}, "number of data sets of at least 1"),
    "no method": ({"methods": {}}, "number of methods of at least 1"),
    "a method named like a folder": ({"methods": {"scores": VANILLA}}, "names can be folders.*'scores'"),
    "a method named like a path": ({"methods": {"a/b": VANILLA}}, "names can be folders.*'a/b'"),
    "a corruption twice": ({"evaluation": EvaluationConfig(2, ["fog", "fog"])}, "every corruption once"),
    "a severity twice": ({"evaluation": EvaluationConfig(2, ["fog"], [3, 3])}, "every severity once"),
    "no severity": ({"evaluation": EvaluationConfig(2, ["fog"], [])}, "severities of the corruptions, got none"),
    "one resample": ({"evaluation": EvaluationConfig(2, num_resamples=1)}, "num_resamples of at least 2"),
    "milestones of another schedule": (
        {"training": replace(TRAINING, milestones=[2])},
        "schedule=steps and.*milestones",
    ),
    "steps without milestones": ({"training": replace(TRAINING, schedule="steps")}, "schedule=steps and.*milestones"),
    "gamma of another schedule": ({"training": replace(TRAINING, gamma=0.2)}, "gamma with schedule=steps only"),
    "no learning rate": ({"training": replace(TRAINING, learning_rate=0)}, "learning_rate above 0"),
    "negative weight decay": ({"training": replace(TRAINING, weight_decay=-1)}, "weight_decay of at least 0"),
    "no epoch": ({"training": replace(TRAINING, epochs=0)}, r"training\.epochs of at least 1"),
    "batches of one": ({"training": replace(TRAINING, batch_size=1)}, r"training\.batch_size of at least 2"),
}


def assert_refused(config: StudyConfig, message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        check_config(config)
    with pytest.raises(InputError, match=message):
        run_study(config, folder / "out", name="test")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("case", METHODS)
def test_settings_of_a_method(case: str, tmp_path: Path) -> None:
    method, message = METHODS[case]
    assert_refused(study_of(method), message, tmp_path)


@pytest.mark.parametrize("case", ENSEMBLES)
def test_ensembles(case: str, tmp_path: Path) -> None:
    ensemble, message = ENSEMBLES[case]
    assert_refused(study_of(ensembles={"name": ensemble}), message, tmp_path)


def test_an_ensemble_has_a_name_of_its_own(tmp_path: Path) -> None:
    ensembles = {"method": EnsembleConfig("vanilla")}
    assert_refused(study_of(ensembles=ensembles), "a name of its own, got 'method'; try method_ensemble", tmp_path)


@pytest.mark.parametrize("case", STUDIES)
def test_studies(case: str, tmp_path: Path) -> None:
    changes, message = STUDIES[case]
    assert_refused(replace(study_of(), **changes), message, tmp_path)


def test_consistency_beside_augmix_of_the_whole_study(tmp_path: Path) -> None:
    config = study_of(MethodConfig(consistency=12), training=replace(TRAINING, augment="augmix"))
    assert_refused(config, "AugMix views already", tmp_path)
    check_config(
        study_of(MethodConfig(augment="flip_crop", consistency=12), training=replace(TRAINING, augment="augmix"))
    )


@pytest.mark.parametrize(
    "method",
    [
        GOOD,
        VANILLA,
        MethodConfig(rule=UpdateRule(averaging=0.7, floor=True, leak=0.0)),
        replace(GOOD, objective="mixup", augment="augmix"),
        replace(GOOD, cross_fit=True, matching="thresholds", grouping="confidence"),
        replace(GOOD, grouping="random"),
        replace(GOOD, rule=UpdateRule(shape_rate=1.0, shrink=True, monotone=True)),
        replace(GOOD, score_every=1),
        replace(GOOD, update_every=2),
        MethodConfig(objective="focal", consistency=12),
    ],
)
def test_what_works_is_not_refused(method: MethodConfig) -> None:
    check_config(study_of(method))


def test_several_data_sets_cannot_be_trained_on_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one data set, got .*; try --data digits"):
        train_one(study_of(data=["digits", "cifar10"]), "vanilla", 0, tmp_path / "out")
    with pytest.raises(InputError, match="seeds of at least 0"):
        train_one(study_of(), "vanilla", -1, tmp_path / "out")
    with pytest.raises(InputError, match="a method of the recipe: vanilla, method, got 'scorer'"):
        train_one(study_of(), "scorer", 0, tmp_path / "out")
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
            (MethodConfig(initial_target_prob=0.05), "initial target probability from 1/10 to 1, got 0.05"),
            (MethodConfig(initial_target_prob=1.5), "initial target probability from 1/10 to 1, got 1.5"),
            (replace(GOOD, num_subsets=41), r"methods\.method\.num_subsets from 1 to 40"),
        ],
    )
    def test_targets_and_subsets(self, method: MethodConfig, message: str, tmp_path: Path) -> None:
        self.refused(study_of(method), message, tmp_path)

    def test_subsets_of_half_a_training_split(self, tmp_path: Path) -> None:
        splits = replace(study_of().splits, train=60)
        self.refused(study_of(replace(GOOD, num_subsets=35, cross_fit=True), splits=splits), "from 1 to 30", tmp_path)

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
        self.refused(study_of(MethodConfig(objective=f"{tmp_path}/objective.py:own")), message, tmp_path)

    @pytest.mark.parametrize(
        "method", [MethodConfig(augment="flip_crop"), MethodConfig(augment="augmix"), MethodConfig(consistency=12)]
    )
    def test_images_are_needed_to_change_images(self, method: MethodConfig, tmp_path: Path) -> None:
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
            evaluation=EvaluationConfig(2),
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
