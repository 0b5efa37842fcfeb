"""Recipes of an earlier version run on unchanged, and say how they are spelt now."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from aradals.errors import InputError
from aradals.pipeline.config import StudyConfig
from aradals.pipeline.recipes import list_recipes, load_recipe

STUDY = """\
data: digits
model: small_cnn
splits: {validation: 60, calibration: 40}
training: {epochs: 12}
"""
OLD = (
    STUDY
    + """\
methods:
  vanilla: {}
  mixup: {objective: mixup}
  label_smoothing: {initial_target_prob: 0.95}
  adals: {num_subsets: 1, rule: {rate: auto}, update_every: 1, grouping: robustness, cross_fit: false, matching: rank}
  ar_adals: {num_subsets: 10, rule: {}}
  ar_adals_hybrid: {num_subsets: 10, rule: {shape_rate: 0.5, averaging: 0.7}, update_every: 2, score_every: null}
  ar_adals_random: {num_subsets: 4, rule: {}, grouping: random, initial_target_prob: 0.7}
  ar_adals_confidence: {num_subsets: 4, rule: {}, grouping: confidence, cross_fit: true, matching: thresholds}
  ar_adals_self: {num_subsets: 4, rule: {}, score_every: 5, augment: flip_crop}
  ar_adals_writer: {num_subsets: 4, rule: {}, grouping: column, group_column: writer}
ensembles:
  ensemble_of_ar_adals: {method: ar_adals}
"""
)
NEW = (
    STUDY
    + """\
reference: vanilla
methods:
  vanilla: {}
  mixup: {objective: mixup}
  label_smoothing: {targets: {smoothing: 0.05}}
  adals: {targets: {rule: {rate: auto}}}
  ar_adals: {targets: {rule: {}, subsets: {count: 10}}}
  ar_adals_hybrid:
    targets: {rule: {proportional_gain: 0.5, averaging: 0.7}, subsets: {count: 10}, update_every: 2}
  ar_adals_random: {targets: {rule: {}, subsets: {by: random, count: 4}, smoothing: 0.3}}
  ar_adals_confidence: {targets: {rule: {}, subsets: {by: confidence, count: 4, folds: 2, matching: thresholds}}}
  ar_adals_self: {targets: {rule: {}, subsets: {by: self, count: 4, every: 5}}, augment: flip_crop}
  ar_adals_writer: {targets: {rule: {}, subsets: {by: column, column: writer, count: 4}}}
ensembles:
  ensemble_of_ar_adals: {method: ar_adals}
"""
)


def study_of(text: str, folder: Path) -> StudyConfig:
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(str(folder / "recipe.yaml"))


@pytest.fixture
def migrated(tmp_path: Path) -> tuple[StudyConfig, str]:
    with pytest.warns(UserWarning, match="earlier version") as caught:
        study = study_of(OLD, tmp_path)
    [warning] = caught
    return study, str(warning.message)


def test_an_old_recipe_is_the_same_study(migrated: tuple[StudyConfig, str], tmp_path: Path) -> None:
    assert migrated[0] == study_of(NEW, tmp_path)


def test_reports_read_as_before(migrated: tuple[StudyConfig, str]) -> None:
    study, _ = migrated
    assert {name: study.label_of(name) for name in study.runs} == {
        "vanilla": "vanilla",
        "mixup": "mixup",
        "label_smoothing": "label smoothing",
        "adals": "AdaLS",
        "ar_adals": "AR-AdaLS",
        "ar_adals_hybrid": "AR-AdaLS, hybrid",
        "ar_adals_random": "AR-AdaLS, random",
        "ar_adals_confidence": "AR-AdaLS, confidence",
        "ar_adals_self": "AR-AdaLS, self-scored",
        "ar_adals_writer": "AR-AdaLS, writer",
        "ensemble_of_ar_adals": "ensemble of AR-AdaLS",
    }
    variants = {name: study.variant_of(name) for name in study.runs if study.variant_of(name)}
    assert variants == {name: "ar_adals" for name in study.methods if name.startswith("ar_adals_")}


def test_the_warning_shows_a_spelling_that_can_be_pasted(migrated: tuple[StudyConfig, str], tmp_path: Path) -> None:
    study, warning = migrated
    shown: dict[str, Any] = yaml.safe_load(warning.partition("settings:\n")[2])
    assert shown["reference"] == "vanilla"
    assert shown["methods"].keys() == study.methods.keys() - {"vanilla", "mixup"}  # these have not changed
    shown["methods"] = {**yaml.safe_load(NEW)["methods"], **shown["methods"]}
    pasted = study_of(STUDY + yaml.safe_dump(shown, sort_keys=False), tmp_path)
    assert pasted == study
    assert [pasted.label_of(name) for name in pasted.runs] == [study.label_of(name) for name in study.runs]


def test_the_smoothing_of_an_old_recipe_trains_to_the_bit_as_before(migrated: tuple[StudyConfig, str]) -> None:
    assert migrated[0].methods["label_smoothing"].initial_target_prob == 0.95
    assert migrated[0].methods["ar_adals_random"].initial_target_prob == 0.7


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("{num_subsets: 3}", r"targets\.rule, got none"),
        ("{rule: {}, initial_target_prob: high}", r"targets\.smoothing to be a number, got 'high'"),
        ("{rule: {}, num_subsets: 3, grouping: confidence, score_every: 2}", r"\.every'"),
        ("{rule: {}, grouping: random}", "count of at least 2"),
    ],
)
def test_what_was_refused_stays_refused(method: str, message: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="earlier version"), pytest.raises(InputError, match=message):
        study_of(f"{STUDY}methods: {{it: {method}}}", tmp_path)


@pytest.mark.parametrize("recipe", list_recipes())
def test_packaged_recipes_have_the_present_form(recipe: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = load_recipe(recipe)
    assert (study.reference_name, study.main_name) == ("vanilla", "ar_adals")
