"""Calibrators of the reference method alone: whose rows they make, what they are compared with, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_study import VANILLA, save_digits, small_config

from aradals.errors import InputError
from aradals.pipeline.artifacts import load_predictions
from aradals.pipeline.config import EnsembleConfig, FixedTargets, MethodConfig, SplitConfig, StudyConfig
from aradals.pipeline.study import run_study
from aradals.report import write_report
from aradals.results import Results, Variant

METHODS = {"smoothed": MethodConfig(targets=FixedTargets(smoothing=0.1)), "vanilla": VANILLA}
OWN = ["vector", "robustness_temperature"]


def config_of(data: str, **changes: object) -> StudyConfig:
    splits = SplitConfig(validation=40, calibration=120, train=100)
    settings = {"reference_calibrators": OWN, "splits": splits, **changes}
    return small_config(data, METHODS, ensembles={"pair": EnsembleConfig("vanilla", num_members=2)}, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reference")
    config = config_of(save_digits(folder / "digits.npz", num_train=260))
    assert config.reference_name == "vanilla"
    return folder / "out", run_study(config, folder / "out", name="test", log=lambda line: None)


def test_only_the_reference_has_them(finished: tuple[Path, Results]) -> None:
    found: dict[str, list[str]] = {}
    for variant in finished[1].variants:
        found.setdefault(variant.method, []).append(variant.calibrator)
    assert found == {
        "vanilla": ["none", "temperature", *OWN],
        "smoothed": ["none", "temperature"],
        "pair": ["none", "temperature"],
    }


def test_only_the_reference_is_scored_for_them(finished: tuple[Path, Results]) -> None:
    for owner, is_scored in (("vanilla", True), ("smoothed", False), ("vanilla/member-1", False)):
        path = finished[0] / "seed-0" / owner / "predict" / "calibration.parquet"
        assert (load_predictions(path)[0].scores is not None) == is_scored


def test_every_variant_is_compared_with_them(finished: tuple[Path, Results]) -> None:
    references = {each.reference for each in finished[1].comparisons if each.variant == Variant("smoothed")}
    assert references == {Variant("vanilla", name) for name in ("none", "temperature", *OWN)}


def test_the_report_shows_them(finished: tuple[Path, Results], tmp_path: Path) -> None:
    write_report(finished[1], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "vanilla + vector" in page
    assert "smoothed + vector" not in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference_calibrators": ["temperature"]}, "every calibrator once"),
        ({"calibrators": [], "splits": SplitConfig(validation=40, calibration=0, train=100)}, "splits.calibration"),
    ],
)
def test_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_of("digits", **changes)
