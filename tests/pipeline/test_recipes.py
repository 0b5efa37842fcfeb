"""Recipes are read with other values for some of their keys."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from aradals.errors import InputError
from aradals.pipeline.config import FixedTargets, RankedSubsets, SelfScoredSubsets, StudyConfig
from aradals.pipeline.recipes import list_recipes, load_recipe
from aradals.smoothing.update_rules import UpdateRule


@pytest.mark.parametrize("name", list_recipes())
def test_every_packaged_recipe_can_be_read(name: str) -> None:
    config = load_recipe(name)
    assert config.methods
    assert config.seeds


def test_overrides_change_these_keys_alone() -> None:
    plain = load_recipe("digits")
    config = load_recipe(
        "digits", {"training.epochs": "7", "seeds": "[4, 5]", "model_args.width": "3", "data": "[a, b]"}
    )
    assert (config.training.epochs, config.seeds, config.model_args["width"]) == (7, [4, 5], 3)
    assert config.data == ["a", "b"]
    same = {field.name for field in fields(StudyConfig)} - {"training", "seeds", "model_args", "data"}
    assert all(getattr(config, name) == getattr(plain, name) for name in same)
    assert config.training.batch_size == plain.training.batch_size


def test_a_mapping_and_a_key_in_it() -> None:
    assert load_recipe("digits", {"model_args": "{width: 4}", "model_args.depth": "2"}).model_args == {
        "width": 4,
        "depth": 2,
    }


def test_overrides_of_the_targets_of_a_method() -> None:
    changes = {"count": "3", "folds": "2", "matching": "thresholds", "by": "confidence"}
    overrides = {f"methods.ar_adals.targets.subsets.{key}": text for key, text in changes.items()}
    targets = (
        load_recipe("digits", overrides | {"methods.ar_adals.targets.rule.rate": "1e-2"}).methods["ar_adals"].targets
    )
    assert targets.subsets == RankedSubsets(3, by="confidence", matching="thresholds", folds=2)
    assert targets.rule == UpdateRule(rate=0.01, leak=1.0)
    other = (
        load_recipe("digits", {"methods.ar_adals.targets.subsets": "{by: self, every: 5}"}).methods["ar_adals"].targets
    )
    assert (other.subsets, other.rule) == (SelfScoredSubsets(5), UpdateRule(rate="auto", leak=1.0))
    assert load_recipe("digits", {"methods.ar_adals.targets": "{}"}).methods["ar_adals"].targets == FixedTargets()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"methods.ar_adals.targets.subsets.cuont": "3"}, "try --methods.ar_adals.targets.subsets.count"),
        (
            {"methods.ar_adals.targets.subsets.by": "robustnes"},
            "to be one of robustness, confidence, self, random, column",
        ),
        ({"training.epoch": "3"}, "'--training.epoch'; try --training.epochs"),
        ({"trainings.epochs": "3"}, "'--trainings'; try --training"),
        ({"methods.vanila.objective": "mixup"}, "'vanila'; try --methods.vanilla"),
        ({"training.epochs": "many"}, "training.epochs to be a whole number, got 'many'"),
        ({"seeds": "one"}, "seeds to be a list (a whole number each), got 'one'"),
    ],
)
def test_wrong_overrides(overrides: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("digits", overrides)
    assert says in str(caught.value)


def test_numbers_without_a_point(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for text."""
    path = tmp_path / "mine.yaml"
    keys: dict[str, Any] = {"data": "digits", "model": "m", "methods": "{a: {}}", "model_args": "{slope: 1e-3}"}
    keys |= {"splits": "{validation: 1, calibration: 1}", "training": "{epochs: 1, learning_rate: 1e-2}"}
    path.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    config = load_recipe(str(path))
    assert config.training.learning_rate == 0.01
    assert config.model_args == {"slope": 0.001}


def test_an_override_leaves_the_aliases_of_a_method_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: digits\nmodel: m\nsplits: {validation: 1, calibration: 1}\ntraining: {epochs: 1}\n"
        "methods: {a: &a {objective: ccat}, b: *a}\n"
    )
    methods = load_recipe(str(path), {"methods.a.objective": "mixup"}).methods
    assert (methods["a"].objective, methods["b"].objective) == ("mixup", "ccat")
