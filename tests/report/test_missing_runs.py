"""Reports of studies some runs of which failed: they name them, and are the reports of the others in all else."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_results import METHODS, clean, label_of, make_study

from aradals.report import verdict, write_report
from aradals.report.panels import prepare_reliability, prepare_targets
from aradals.report.tables import comparison_rows, main_table, main_table_note
from aradals.report.view import main_methods
from aradals.results.aggregate import measure, relative_cost
from aradals.results.compare import compare_methods
from aradals.results.failed import describe_failed
from aradals.results.records import Cost, FailedRun, Method, Results, Variant

REASON = "training diverged in epoch 3, when the weights became NaN or infinite; try a learning rate below 0.1"
LABELS = {method: label_of(method) for method in METHODS}


def study_without(*missing: tuple[str, int], seeds: tuple[int, ...]) -> Results:
    """A study in which these runs have failed, with all that is made of the rows of the others."""
    study = make_study(seeds=seeds, num_subsets=2)
    left = replace(
        study,
        rows=tuple(each for each in study.rows if (each.method, each.seed) not in missing),
        reliability=tuple(each for each in study.reliability if (each.method, each.seed) not in missing),
        training=tuple(each for each in study.training if (each.method, each.seed) not in missing),
        calibrators=tuple(each for each in study.calibrators if (each.method, each.seed) not in missing),
        failed=tuple(FailedRun(method, seed, REASON) for method, seed in missing),
    )
    costs = (
        Cost(run.method, run.seed, seconds=2.0, relative_cost=math.nan if ("vanilla", run.seed) in missing else 2.0)
        for run in left.training
    )
    return replace(left, comparisons=compare_methods(left, {}), costs=tuple(costs))


@pytest.mark.parametrize("lost", [lost for n in (1, 2, 3) for lost in combinations(METHODS, n)])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_whole_methods_are_missing(lost: tuple[str, ...], seeds: tuple[int, ...], tmp_path: Path) -> None:
    study = study_without(*((method, seed) for method in lost for seed in seeds), seeds=seeds)
    found = verdict(study)
    (warning,) = found.warnings
    assert warning.startswith(f"Warning: {len(lost) * len(seeds)} of {4 * len(seeds)} runs failed: ")
    assert REASON in warning
    left = [label for method, label in LABELS.items() if method not in lost]
    for method in lost:
        # As a name of its own: that of AdaLS is a part of AR-AdaLS.
        names = [label for label in left if LABELS[method] in label]
        for sentence in found.sentences:
            for name in names:
                sentence = sentence.replace(name, "")
            assert LABELS[method] not in sentence
    assert found.reference == Variant(next(method for method in METHODS if method not in lost))
    write_report(study, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count(REASON) >= 1 + len(lost) * len(seeds)
    assert page.index("<h2>Failed runs</h2>") == page.index("<h2>")
    assert main_methods(study) == [method for method in METHODS if method not in lost]
    printed = io.StringIO()
    Console(file=printed, width=100).print(study.table())
    for block in (main_table(study), *comparison_rows(study)):
        shown = {row[0].text.removesuffix(" + T") for row in block.rows}
        assert shown <= set(left)
        assert all(name in printed.getvalue() for name in shown)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [4, 6])
def test_a_method_that_lacks_one_of_three_seeds(method: str, seed: int, tmp_path: Path) -> None:
    study = study_without((method, seed), seeds=(4, 5, 6))
    assert measure(study, Variant(method), "ece").num_seeds == 2
    others = [name for name in METHODS if name != method]
    assert {measure(study, Variant(name), "ece").num_seeds for name in others} == {3}
    assert math.isfinite(measure(study, Variant(method), "ece").spread)
    assert relative_cost(study, others[0]) == 2.0
    for row in study.comparisons:
        assert row.num_seeds == (2 if method in (row.method, row.reference_method) else 3)
    titles = [panel.title for panel in prepare_reliability(study, study.variants)]
    titles += [panel.title for panel in prepare_targets(study).values()]
    named = [title for title in titles if ", seed" in title]
    assert all(title.startswith(LABELS[method]) and title.endswith(", seed 5") for title in named)
    assert bool(named) == (seed == 4)
    write_report(study, tmp_path / "report.html")
    shown = "Seed 4 is shown, and another one where a title names it."
    assert shown in (tmp_path / "report.html").read_text()
    assert f"Failed, and not in the table: {LABELS[method]} (seed {seed})." in main_table_note(study)


def test_a_row_that_is_missing_is_missing_in_the_mean_under_shift_only() -> None:
    study = make_study(shifts=(("fog", 1), ("fog", 5)), calibrators=("none",))
    lacking = replace(study, rows=tuple(row for row in study.rows if row.method != "adals" or row.severity != 5))
    cells = {row[0].text: [cell.text for cell in row[1:]] for row in main_table(lacking).rows}
    assert cells["AdaLS"][-1] == "–"
    (row,) = filter(clean("adals"), lacking.rows)
    assert cells["AdaLS"][1] == f"{row['ece'].value:.3f}"
    assert all("–" not in texts for name, texts in cells.items() if name != "AdaLS")


def test_many_reasons_are_not_all_in_one_sentence() -> None:
    study = make_study(seeds=(0,))
    names = [f"method_{n}" for n in range(9)]
    study = replace(
        study,
        methods=(*study.methods, *(Method(name, name.replace("_", " ")) for name in names)),
        failed=tuple(FailedRun(name, 0, f"reason {n}") for n, name in enumerate(names)),
    )
    sentence = describe_failed(study)
    assert sentence.startswith("9 of 13 runs failed: method 0, seed 0 (reason 0); method 1, seed 0 (reason 1)")
    assert sentence.endswith("method 3, seed 0 (reason 3); and for 5 more reasons")


def test_failed_runs_of_several_data_sets_are_told_by_data_set() -> None:
    first = study_without(("adals", 0), seeds=(0,))
    second = replace(first, data=replace(first.data, name="/somewhere/other"))
    assert re.fullmatch(
        r"1 of 4 runs failed on demo: AdaLS, seed 0 \(.*\); 1 of 4 runs failed on other: AdaLS, seed 0 \(.*\)",
        describe_failed(first, make_study(), second),
    )
    assert describe_failed(make_study()) == ""


def test_a_reason_is_text_and_no_markup(tmp_path: Path) -> None:
    study = study_without(("adals", 0), seeds=(0,))
    (run,) = study.failed
    study = replace(study, failed=(replace(run, reason="<script>alert(1)</script>"),))
    write_report(study, tmp_path / "report.html")
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
