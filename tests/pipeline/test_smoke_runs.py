"""The smoke settings of the recipes: they name keys that exist, and run every stage on real data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import aradals
from aradals.cli.main import main
from aradals.errors import InputError
from aradals.pipeline.config import StudyConfig
from aradals.pipeline.recipes import find_recipe, load_recipe, recipes_with_smoke
from aradals.pipeline.settings import parse_yaml
from aradals.results import Results, read_results

PAPER = ["cifar10-resnet29", "cifar10-wrn28-10", "cifar100-wrn28-10", "imagenet-resnet101"]


def keys(settings: object, above: str = "") -> set[str]:
    """The dotted keys of a mapping, without their values."""
    if not isinstance(settings, Mapping) or not settings:
        return {above.removesuffix(".")}
    return set().union(*(keys(value, f"{above}{name}.") for name, value in settings.items()))


def smoke_setting(name: str) -> dict[str, Any]:
    setting: dict[str, Any] = parse_yaml(find_recipe(name).read_text(encoding="utf-8"))["smoke"]
    return setting


@pytest.mark.parametrize("name", PAPER)
def test_a_smoke_setting_names_keys_of_the_recipe_and_changes_no_others(name: str) -> None:
    full, smoke = (asdict(load_recipe(name, smoke=smoke)) for smoke in (False, True))
    changed = keys(smoke_setting(name))
    known = keys(full) | {"model_args.width"}
    assert changed <= known
    assert (full["purpose"], smoke["purpose"]) == ("evidence", "smoke")
    flat_full, flat_smoke = ({key: value_at(config, key) for key in keys(full)} for config in (full, smoke))
    differing = {key for key in flat_full if flat_full[key] != flat_smoke[key]}
    assert differing <= changed | {"purpose", "model_args"}


def value_at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings[part]
    return settings


@pytest.mark.parametrize("name", PAPER)
def test_the_recipes_of_the_paper_have_its_methods(name: str) -> None:
    config = load_recipe(name)
    smoke = load_recipe(name, smoke=True)
    assert list(smoke.runs) == list(config.runs)
    assert {"vanilla", "label_smoothing", "mixup", "ccat", "adals", "ar_adals"} <= config.methods.keys()
    in_step = {(each.method, each.in_step) for each in config.ensembles.values()}
    assert {("vanilla", False), ("ar_adals", True)} <= in_step
    assert (config.evaluation.corruptions, config.evaluation.severities) == (["all"], [1, 2, 3, 4, 5])
    assert len(config.seeds) >= 3


def test_recipes_without_a_smoke_setting_say_which_have_one() -> None:
    with pytest.raises(InputError, match="got digits with no such key; try no --smoke, or one of cifar10-resnet29, "):
        load_recipe("digits", smoke=True)
    assert recipes_with_smoke() == PAPER
    with pytest.raises(InputError, match="got settings"):
        aradals.run_study(load_recipe("digits"), "runs", smoke=True)


def recipe(folder: Path, smoke: str) -> str:
    text = find_recipe("digits").read_text(encoding="utf-8")
    (folder / "mine.yaml").write_text(f"{text}\nsmoke:\n{smoke}")
    return str(folder / "mine.yaml")


@pytest.mark.parametrize(
    ("smoke", "says"),
    [
        ("  training: {epoch: 1}", "training.epochs"),
        ("  trainings: {epochs: 1}", "training"),
        ("  methods: {vanila: {objective: mixup}}", "one of the methods of the recipe: vanilla"),
        ("  [1, 2]", "the key smoke: other values of some of its keys"),
    ],
)
def test_a_smoke_setting_of_keys_that_do_not_exist(smoke: str, says: str, tmp_path: Path) -> None:
    path = recipe(tmp_path, smoke)
    with pytest.raises(InputError, match=says):
        load_recipe(path, smoke=True)
    assert load_recipe(path) == load_recipe("digits")


def test_options_come_after_the_smoke_setting(tmp_path: Path) -> None:
    path = recipe(tmp_path, "  training: {epochs: 1, batch_size: 16}\n  seeds: [7]\n")
    config = load_recipe(path, {"training.epochs": "2"}, smoke=True)
    assert (config.training.epochs, config.training.batch_size, config.seeds) == (2, 16, [7])
    assert config.training.learning_rate == load_recipe("digits").training.learning_rate


def test_a_smoke_run_says_first_that_it_is_no_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(
        tmp_path,
        "  training: {epochs: 2}\n  seeds: [0]\n  calibrators: []\n  evaluation: {corruptions: [], num_resamples: 20}\n"
        "  splits: {train: 50, validation: 40, test: 60}\n  scoring: {attack: logit_margin}\n",
    )
    arguments = ["run", path, "--smoke", "--workers", "1", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0] == "SMOKE RUN, no evidence: out: digits"
    page, label = tmp_path / "out" / "report.html", ": SMOKE RUN, no evidence: out</h1>"
    assert label in page.read_text(encoding="utf-8")
    # The label is in the results, so that a report that is made again has it, too.
    page.unlink()
    assert main(["report", str(tmp_path / "out")]) == 0
    assert label in page.read_text(encoding="utf-8")


def assert_complete(results: Results, config: StudyConfig) -> None:
    """Check that no run failed, and that every variant has every number under every condition."""
    assert not results.failed
    conditions = {(row.corruption, row.severity) for row in results.rows}
    assert len(conditions) == 1 + len(config.evaluation.corruptions) * len(config.evaluation.severities)
    assert {row.method for row in results.rows} == set(config.runs)
    calibrators = {row.calibrator for row in results.rows}
    overall = [row for row in results.rows if row.subset is None]
    assert len(overall) == len(config.runs) * len(calibrators) * len(conditions) * len(config.seeds)
    for row in overall:
        for metric in ("accuracy", "confidence", "nll", "brier", "ece", "subset_calibration_error"):
            value = row[metric].value
            assert value is not None, (row.method, metric)
            assert math.isfinite(value), (row.method, metric)
    assert {each.method for each in results.costs} == set(config.runs)


def hundred_classes(folder: Path, source: Path) -> Path:
    """Write the first 100 classes of Tiny ImageNet as a data set."""
    folder.mkdir()
    for split in ("train", "test"):
        table = pq.read_table(source / f"tiny-imagenet-{split}.parquet", columns=["img", "label"])
        table = table.filter(pc.less(table["label"], 100))
        images = pa.array(table["img"].to_pylist(), type=table.schema.field("img").type)
        labels = pa.array(np.asarray(table["label"], dtype=np.int64))
        pq.write_table(pa.table({"img": images, "label": labels}), folder / f"{split}.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_every_stage_runs_on_real_data(name: str, shared_data: Path, tmp_path: Path) -> None:
    data = str(shared_data / "data" / "cifar10")
    config = load_recipe(name, smoke=True)
    if name == "cifar100-wrn28-10":
        data = str(hundred_classes(tmp_path / "100-classes-of-tiny-imagenet", shared_data / "data"))
        config = replace(config, resize=32)
    elif name == "imagenet-resnet101":
        data = str(shared_data / "data" / "tiny-imagenet")
    results = aradals.run_study(replace(config, data=data), tmp_path / "out", log=lambda line: None)
    assert results.name.startswith("SMOKE RUN, no evidence")
    assert_complete(results, config)
    assert read_results(tmp_path / "out" / "results.json") == results
