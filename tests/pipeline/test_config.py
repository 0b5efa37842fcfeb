"""Which method is compared with which, and what reports call it, follows from settings and not from names."""

from __future__ import annotations

from typing import Any

import pytest

from aradals.pipeline.config import FixedTargets, MethodConfig, StudyConfig, is_plain
from aradals.pipeline.settings import read

METHODS: dict[str, dict[str, Any]] = {
    "smooth": {"targets": {"smoothing": 0.1}},
    "plain": {},
    "adaptive": {"targets": {"rule": {}}},
    "random": {"targets": {"rule": {}, "subsets": {"by": "random"}}, "variant_of": "ranked"},
    "ranked": {"targets": {"rule": {}, "subsets": {"count": 3}}},
}


def study_of(methods: dict[str, Any], **changes: Any) -> StudyConfig:
    study: StudyConfig = read(
        StudyConfig,
        {
            "data": "digits",
            "model": "small_cnn",
            "splits": {"validation": 60, "calibration": 40},
            "training": {"epochs": 3},
            "methods": methods,
            **changes,
        },
    )
    return study


def pairs(study: StudyConfig) -> list[tuple[int, int]]:
    """Who is compared with whom, by position."""
    names = list(study.runs)
    return [
        (names.index(name), names.index(study.variant_of(name) or study.reference_name))
        for name in names
        if name != study.reference_name
    ]


def test_other_names_are_compared_the_same_way() -> None:
    new = dict(zip(METHODS, ("vanilla_wide", "a", "vanilla", "ar_adals", "label_smoothing"), strict=True))
    renamed = {
        new[name]: {**settings, "variant_of": new.get(settings.get("variant_of", ""))}
        for name, settings in METHODS.items()
    }
    first, second = study_of(METHODS), study_of(renamed)
    assert pairs(first) == pairs(second)
    assert new[first.reference_name] == second.reference_name == "a"
    assert first.main_name is not None
    assert new[first.main_name] == second.main_name == "label_smoothing"


def test_the_reference_is_named_or_the_first_plain_method_or_the_first() -> None:
    assert study_of(METHODS).reference_name == "plain"
    assert study_of(METHODS, reference="smooth").reference_name == "smooth"
    assert study_of({"smooth": METHODS["smooth"], "adaptive": METHODS["adaptive"]}).reference_name == "smooth"


def test_labels() -> None:
    ensembles = {"two_of_them": {"method": "plain"}, "more": {"method": "plain", "label": "M = 4"}}
    study = study_of({"plain": {"label": "as it is"}, "label_smoothing": METHODS["smooth"]}, ensembles=ensembles)
    assert [study.label_of(name) for name in study.runs] == ["as it is", "label smoothing", "two of them", "M = 4"]
    assert [study.variant_of(name) for name in study.runs] == [None] * 4


def test_no_method_with_subsets_is_no_main_method() -> None:
    assert study_of({"plain": {}, "adaptive": METHODS["adaptive"]}).main_name is None


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (MethodConfig(), True),
        (MethodConfig(label="anything", variant_of="another"), True),
        (MethodConfig(targets=FixedTargets(0.1)), False),
        (MethodConfig(augment="none"), False),
        (MethodConfig("focal"), False),
        (MethodConfig(consistency=1), False),
    ],
)
def test_plain_training(method: MethodConfig, expected: bool) -> None:
    assert is_plain(method) == expected


def test_labels_change_no_training() -> None:
    assert MethodConfig(label="x", variant_of="y").training == MethodConfig().training
    assert MethodConfig().training.keys() == {"objective", "objective_args", "augment", "consistency", "targets"}


def test_a_study_is_made_again_from_what_results_hold() -> None:
    from dataclasses import asdict

    study = study_of(METHODS, reference="smooth")
    again: StudyConfig = read(StudyConfig, asdict(study))
    assert again == study
    assert asdict(again) == asdict(study)
