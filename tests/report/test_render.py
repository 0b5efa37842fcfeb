"""The pages of evidence: the same text for the same results, and answers by the stated rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from synthetic_results import compared, make_study

from aradals.results.records import Results
from scripts import load_script


@pytest.fixture(scope="module")
def render() -> ModuleType:
    return load_script("benchmarks/render.py")


@pytest.fixture(scope="module")
def study() -> Results:
    found = compared(make_study(seeds=(0, 1, 2)))
    return replace(found, comparisons=tuple(replace(each, p=0.01, p_holm=0.01) for each in found.comparisons))


def test_the_answer_follows_the_rule(render: ModuleType) -> None:
    lower, unsure = render.Measure(-0.02, -0.03, -0.01), render.Measure(-0.02, -0.05, 0.01)
    assert render.judge(lower, 0.01, expected=-1) == "shown"
    assert render.judge(lower, 0.01, expected=1) == "contradicted"
    assert render.judge(lower, 0.06, expected=-1) == "not shown"
    assert render.judge(lower, float("nan"), expected=-1) == "not shown"
    assert render.judge(unsure, 0.01, expected=-1) == "not shown"


def test_pages_are_the_same_each_time_and_the_gap_is_shown(render: ModuleType, study: Results, tmp_path: Path) -> None:
    study.save(tmp_path / "results.json")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- evidence:start -->\nold\n<!-- evidence:end -->\nafter\n")
    pages = []
    for name in ("demo", "demo"):
        render.render_study(tmp_path / "results.json", tmp_path / name / "README.md")
        render.render_all(tmp_path, tmp_path / "evidence.md", readme)
        written = (tmp_path / name / "README.md", tmp_path / "evidence.md", readme)
        pages.append(tuple(path.read_text() for path in written))
    assert pages[0] == pages[1]
    one, every, short = pages[0]
    assert short.startswith("before\n<!-- evidence:start -->\n| situation |")
    assert short.endswith(" |\n<!-- evidence:end -->\nafter\n")
    assert "| cannot retrain (NLL, clean) | vanilla + temperature scaling (1 of 1) | 0 of 1 |" in short
    assert "larger gap than the most robust one, clean | **shown**" in one
    assert "| cannot retrain | demo | vanilla + temperature scaling |" in every
    assert (tmp_path / "demo" / "evidence.json").stat().st_size < 1_500_000
    assert "runs or resumes" in every


@pytest.fixture(scope="module")
def about_vanilla(study: Results) -> Results:
    return replace(study, config={**study.config, "compare_with": ["vanilla"]})


def test_a_comparison_has_the_sign_of_method_minus_baseline(render: ModuleType, about_vanilla: Results) -> None:
    # These comparisons are others minus vanilla, and the others are better: the claim that vanilla is better fails.
    found = {(each.method, each.other, each.claim): each for each in render.comparisons(about_vanilla)}
    answer = found["vanilla", "AR-AdaLS", "subset CE, clean"]
    assert answer.answer == "contradicted"
    assert answer.difference.value > 0


def test_smoothing_is_judged_by_the_nll_after_a_temperature(render: ModuleType, about_vanilla: Results) -> None:
    claims = {each.claim for each in render.comparisons(about_vanilla) if "NLL" in each.claim}
    assert "NLL, clean, both with a temperature" in claims
    assert all(claim.endswith("with a temperature") for claim in claims)


def test_each_kind_of_claim_is_one_family_of_tests(
    render: ModuleType, study: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "PAPER_RULE", "ar_adals")
    found = {each.claim: each for each in render.claims(study)}
    about = [f"AR-AdaLS has a lower {metric} than vanilla, clean" for metric in ("ECE", "subset CE")]
    raw = [p for *_, p, _ in render._by_paper(study)]
    assert set(raw) == {0.01}
    assert [found[claim].p for claim in about] == pytest.approx([0.01 * len(raw)] * 2)
    first = next(iter(found.values()))
    [(_, _, p, _)] = render._by_robustness(study)
    assert first.p == pytest.approx(p)  # the only test of its kind


def test_a_page_shows_only_the_comparisons_that_are_decided(render: ModuleType) -> None:
    lower, higher = render.Measure(-0.02, -0.03, -0.01), render.Measure(0.04, 0.03, 0.05)
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
        [best] = [each.best for each in render.choices(found) if each.situation == "shift expected"]
        assert ("batch temperature" in best) != is_left_out
        assert ("left out of the best" in render.notes(found)) == is_left_out


def test_few_seeds_recommend_nothing(render: ModuleType, study: Results) -> None:
    few, enough = render.gather(study, "", ""), render.gather(study, "", "")
    few = replace(few, num_seeds=2)
    assert render.summary([few]) == render.NONE_YET
    assert render.summary([few, enough]) == render.summary([enough])
