"""Reports of studies some runs of which failed: they name them, and are the reports of the others in all else."""

from __future__ import annotations

import io
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from aradals.results.names import Variant
from rich.console import Console
from synthetic_results import METHODS, make_study

from aradals.pipeline.config import MethodConfig, SplitConfig, StudyConfig, TrainingConfig
from aradals.pipeline.study.run import relative_costs
from aradals.report import comparison_table, study_headlines, study_table, write_report
from aradals.report.panels import prepare_reliability, prepare_targets
from aradals.report.view import measure, methods_of
from aradals.results.compare import aggregate_seeds, compare_methods
from aradals.results.failed import describe_failed

RECIPE = StudyConfig(
    data="digits",
    model="small_cnn",
    splits=SplitConfig(validation=1, calibration=1),
    training=TrainingConfig(epochs=1),
    methods={"vanilla": MethodConfig()},
)
REASON = "training diverged in epoch 3, when the weights became NaN or infinite; try a learning rate below 0.1"
LABELS = {method: Variant(method).label for method in METHODS}


def study_without(*missing: tuple[str, int], seeds: tuple[int, ...]) -> dict[str, Any]:
    """A study in which these runs have failed, with all that is made of the rows of the others."""
    study = make_study(seeds=seeds, num_subsets=2)
    for part in ("rows", "reliability", "training", "calibrators"):
        study[part] = [row for row in study[part] if (row["method"], row["seed"]) not in missing]
    study["failed"] = [{"method": method, "seed": seed, "reason": REASON} for method, seed in missing]
    study["seeds"] = aggregate_seeds(study["rows"])
    study["comparisons"] = compare_methods([row for row in study["rows"] if row["subset"] is None])
    seconds = [
        {"method": run["method"], "seed": run["seed"], "seconds": 2.0, "training_seconds": 1.0}
        for run in study["training"]
    ]
    study["costs"] = relative_costs(RECIPE, seconds)
    return study


@pytest.mark.parametrize("lost", [lost for n in (1, 2, 3) for lost in combinations(METHODS, n)])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_whole_methods_are_missing(lost: tuple[str, ...], seeds: tuple[int, ...], tmp_path: Path) -> None:
    study = study_without(*((method, seed) for method in lost for seed in seeds), seeds=seeds)
    warning, *sentences = study_headlines(study)
    assert warning.startswith(f"Warning: {len(lost) * len(seeds)} of {4 * len(seeds)} runs failed: ")
    assert REASON in warning
    left = [label for method, label in LABELS.items() if method not in lost]
    for method in lost:
        # As a name of its own: that of AdaLS is a part of AR-AdaLS.
        names = [label for label in left if LABELS[method] in label]
        for sentence in sentences:
            for name in names:
                sentence = sentence.replace(name, "")
            assert LABELS[method] not in sentence
    write_report(study, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count(REASON) >= 1 + len(lost) * len(seeds)
    assert page.index("<h2>Failed runs</h2>") == page.index("<h2>")
    assert methods_of(study) == [method for method in METHODS if method not in lost]
    for table in (study_table(study), comparison_table(study)):
        shown = {row[0].text.removesuffix(" + T") for block in table.blocks for row in block.rows}
        assert shown <= set(left)
        printed = io.StringIO()
        Console(file=printed, width=80).print(table)
        assert all(name in printed.getvalue() for name in shown)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [4, 6])
def test_a_method_that_lacks_one_of_three_seeds(method: str, seed: int, tmp_path: Path) -> None:
    study = study_without((method, seed), seeds=(4, 5, 6))
    assert measure(study, Variant(method), "ece").num_seeds == 2
    others = [name for name in METHODS if name != method]
    assert {measure(study, Variant(name), "ece").num_seeds for name in others} == {3}
    assert math.isfinite(measure(study, Variant(method), "ece").spread)
    for row in study["comparisons"]:
        assert row["num_seeds"] == (2 if method in (row["method"], row["reference_method"]) else 3)
    titles = [panel.title for panel in prepare_reliability(study)]
    titles += [panel.title for panel in prepare_targets(study).values()]
    named = [title for title in titles if ", seed" in title]
    assert all(title.startswith(LABELS[method]) and title.endswith(", seed 5") for title in named)
    assert bool(named) == (seed == 4)
    write_report(study, tmp_path / "report.html")
    shown = "Seed 4 is shown, and another one where a title names it."
    assert shown in (tmp_path / "report.html").read_text()
    assert f"Failed, and not in the table: {LABELS[method]} (seed {seed})." in study_table(study).note


def test_many_reasons_are_not_all_in_one_sentence() -> None:
    study = study_without(seeds=(0,))
    study["failed"] = [{"method": f"method_{n}", "seed": 0, "reason": f"reason {n}"} for n in range(9)]
    sentence = describe_failed(study)
    assert sentence.startswith("9 of 13 runs failed: method 0, seed 0 (reason 0); method 1, seed 0 (reason 1)")
    assert sentence.endswith("method 3, seed 0 (reason 3); and for 5 more reasons")


def test_a_reason_is_text_and_no_markup(tmp_path: Path) -> None:
    study = study_without(("adals", 0), seeds=(0,))
    study["failed"][0]["reason"] = "<script>alert(1)</script>"
    write_report(study, tmp_path / "report.html")
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
