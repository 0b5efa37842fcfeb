"""The pages of evidence: the same text for the same results, and answers by the stated rule."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from synthetic_results import compared, make_study

from aradals.results.records import Measure, Results, Variant
from scripts import load_script


@pytest.fixture(scope="module")
def render() -> ModuleType:
    return load_script("benchmarks/evidence/render.py")


@pytest.fixture(scope="module")
def answers(render: ModuleType) -> ModuleType:
    return sys.modules["answers"]


@pytest.fixture(scope="module")
def study() -> Results:
    found = compared(make_study(seeds=(0, 1, 2)))
    return replace(found, comparisons=tuple(replace(each, p=0.01, p_holm=0.01) for each in found.comparisons))


def test_the_answer_follows_the_rule(answers: ModuleType) -> None:
    lower, unsure = Measure(-0.02, -0.03, -0.01), Measure(-0.02, -0.05, 0.01)
    assert answers.judge(lower, 0.01, expected=-1) == "shown"
    assert answers.judge(lower, 0.01, expected=1) == "contradicted"
    assert answers.judge(lower, 0.06, expected=-1) == "not shown"
    assert answers.judge(lower, float("nan"), expected=-1) == "not shown"
    assert answers.judge(unsure, 0.01, expected=-1) == "not shown"


def test_pages_are_the_same_each_time_and_the_gap_is_shown(render: ModuleType, study: Results, tmp_path: Path) -> None:
    study.save(tmp_path / "results.json")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- evidence:start -->\nold\n<!-- evidence:end -->\nafter\n")
    pages = []
    for name in ("demo", "demo"):
        render.render_study(tmp_path / "results.json", tmp_path / name / "README.md", "abc1234")
        render.render_all(tmp_path, tmp_path / "evidence.md", readme)
        written = (tmp_path / name / "README.md", tmp_path / "evidence.md", readme)
        pages.append(tuple(path.read_text() for path in written))
    assert pages[0] == pages[1]
    one, every, short = pages[0]
    assert short.startswith("before\n<!-- evidence:start -->\n| situation |")
    assert short.endswith(" |\n<!-- evidence:end -->\nafter\n")
    assert "page of commit abc1234" in one
    assert "larger gap than the most robust one, clean | **shown**" in one
    assert "| cannot retrain | demo | vanilla + temperature scaling |" in every
    assert (tmp_path / "demo" / "evidence.json").stat().st_size < 1_500_000
    assert "runs or resumes" in every


@pytest.fixture(scope="module")
def about_vanilla(study: Results) -> Results:
    return replace(study, config={**study.config, "compare_with": ["vanilla"]})


def test_a_comparison_has_the_sign_of_method_minus_baseline(answers: ModuleType, about_vanilla: Results) -> None:
    # These comparisons are others minus vanilla, and the others are better: the claim that vanilla is better fails.
    found = {(each.method, each.other, each.claim): each for each in answers.comparisons(about_vanilla)}
    answer = found["vanilla", "AR-AdaLS", "NLL, clean"]
    [stored] = [
        each
        for each in about_vanilla.comparisons
        if (each.variant, each.reference) == (Variant("ar_adals", "temperature"), Variant("vanilla", "temperature"))
        and (each.place, each.metric) == ("clean", "nll")
    ]
    assert answer.difference.value == pytest.approx(-stored.difference)


@pytest.fixture
def of_paper(study: Results, answers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Results:
    """The study, whose method is the one of the paper, and is compared with label smoothing, too."""
    monkeypatch.setattr(answers, "PAPER_RULE", "ar_adals")
    others = tuple(
        replace(each, reference_method="label_smoothing") for each in study.comparisons if each.method == "ar_adals"
    )
    return replace(study, comparisons=study.comparisons + others)


def test_the_claims_of_a_study_are_one_family_of_tests(answers: ModuleType, of_paper: Results) -> None:
    found = {each.claim: each for each in answers.claims(of_paper)}
    about = [f"AR-AdaLS has a lower {metric} than vanilla, clean" for metric in ("ECE", "subset CE")]
    about.append("AR-AdaLS has a lower ECE than vanilla with a temperature, clean")
    assert len(found) > 10
    for claim in about:
        assert found[claim].p == pytest.approx(0.01 * (len(found) - 1))  # all have p = .01, but one


def test_a_method_with_a_chosen_setting_is_judged_after_a_temperature(answers: ModuleType, of_paper: Results) -> None:
    def claims(methods: dict[str, Any]) -> set[str]:
        return {
            each.claim for each in answers.claims(replace(of_paper, config={**of_paper.config, "methods": methods}))
        }

    plain = "AR-AdaLS has a lower ECE than label smoothing, clean"
    repaired = "AR-AdaLS has a lower ECE than label smoothing, both with a temperature, clean"
    assert {plain, repaired} & claims({"label_smoothing": {"choose": {}}}) == {plain}
    assert {plain, repaired} & claims({"label_smoothing": {"choose": {"targets.smoothing": [0.1]}}}) == {repaired}


def test_a_page_shows_only_the_comparisons_that_are_decided(render: ModuleType) -> None:
    lower, higher = Measure(-0.02, -0.03, -0.01), Measure(0.04, 0.03, 0.05)
    given = [
        render.Answer("ECE, clean", "shown", lower, 0.01, "ours", "first"),
        render.Answer("NLL, clean", "contradicted", higher, 0.01, "ours", "first"),
        render.Answer("ECE, clean", "not shown", lower, 0.2, "ours", "second"),
    ]
    title, shown = render.comparison_tables(given)
    assert title == "**ours**, compared with:"
    assert shown.splitlines()[2:] == ["| first | lower: -0.0200 | higher: +0.0400 |", "| second | – | – |"]


def test_all_studies_answer_the_claims_in_one_table(render: ModuleType, study: Results) -> None:
    claim = "the least robust subset has a larger gap than the most robust one, clean"
    one = render.gather(study, "", "")
    other = replace(one, name="other", claims=())
    header, _, *rows = render.claims_overview([one, other]).splitlines()
    assert header == "| claim | shown / contradicted | demo | other |"
    [row] = [row for row in rows if claim in row]
    assert row.startswith(f"| {claim} | 1 / 0 of 1 | shown: +")
    assert row.endswith("| – |")


def test_a_batch_temperature_that_knows_the_shift_is_not_the_best_under_it(render: ModuleType, study: Results) -> None:
    first = next(row.corruption for row in study.rows if not row.condition.is_clean)

    def named(corruption: str) -> Results:
        names = {"temperature": "batch_temperature", first: corruption}
        rows = [
            replace(
                row,
                calibrator=names.get(row.calibrator, row.calibrator),
                corruption=names.get(row.corruption, row.corruption),
            )
            for row in study.rows
        ]
        return replace(study, rows=tuple(rows))

    for corruption, is_left_out in (("column_noise", True), ("gaussian_noise", False)):
        found = named(corruption)
        offered = {each.variant for each in render.choices(found) if each.situation == "shift expected"}
        assert any("batch temperature" in each for each in offered) != is_left_out
        assert ("left out of the best" in render.notes(found)) == is_left_out


def test_a_method_is_not_judged_on_the_study_that_chose_its_setting(
    answers: ModuleType, study: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "TUNED_ON", {study.name: "ar_adals"})
    named = {each.variant for each in answers.choices(study)}
    assert "label smoothing" in named
    assert not any(each.startswith("AR-AdaLS") for each in named)


def test_only_the_named_variant_gets_its_wins(render: ModuleType, study: Results) -> None:
    def choice(variant: str, answer: str, value: float) -> Any:
        change = Measure(value, value - 0.01, value + 0.01)
        return render.Choice("can retrain", variant, "NLL, clean", Measure(1 + value), answer, change, cost=-20 * value)

    known = render.gather(study, "", "")
    one = replace(known, choices=(choice("a", "shown", -0.2), choice("b", "not shown", -0.1)))
    two = replace(
        known, choices=(choice("a", "contradicted", 0.2), choice("b", "shown", -0.3), choice("c", "shown", -1))
    )
    assert render.counts([one, two], "can retrain") == {"c": (1, 0, 1), "b": (1, 0, 2), "a": (1, 1, 2)}
    # c is not in all studies. The baseline is 1 in both.
    changes = render.relative_changes([one, two], "can retrain")
    assert changes == {"a": pytest.approx([-0.2, 0.2]), "b": pytest.approx([-0.1, -0.3])}
    assert render.summary([one, two]).splitlines()[2:] == [
        "| can retrain (NLL, clean) | b | -20% (-30% to -10%) | 2 to 6 | 1 of 2 | 0 of 2 |"
    ]
    assert "| can retrain | a | 1 of 2 | 1 of 2 |" in render.counts_table([one, two])
    worse = replace(known, choices=(choice("d", "contradicted", 0.2),))
    assert render.counts_table([worse]).splitlines()[2:] == ["| can retrain | d | 0 of 1 | 1 of 1 |"]
    assert render.best(one, "can retrain").variant == "a"


def test_few_seeds_recommend_nothing(render: ModuleType, study: Results) -> None:
    few, enough = replace(render.gather(study, "", ""), num_seeds=2), render.gather(study, "", "")
    assert render.summary([few]) == render.NONE_YET
    assert render.summary([few, enough]) == render.summary([enough])
