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
    assert render.judge(-0.02, -0.03, -0.01, 0.01, expected=-1) == "shown"
    assert render.judge(-0.02, -0.03, -0.01, 0.01, expected=1) == "contradicted"
    assert render.judge(-0.02, -0.03, -0.01, 0.06, expected=-1) == "not shown"
    assert render.judge(-0.02, -0.03, -0.01, float("nan"), expected=-1) == "not shown"
    assert render.judge(-0.02, -0.05, 0.01, 0.01, expected=-1) == "not shown"


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


def test_claims_about_a_compared_method_have_the_sign_of_method_minus_baseline(
    render: ModuleType, study: Results
) -> None:
    about = replace(study, config={**study.config, "compare_with": ["vanilla"]})
    # These comparisons are others minus vanilla, and the others are better: the claim that vanilla is better fails.
    found = {each.claim: each for each in render.answers(about)}
    answer = found["vanilla has a lower subset CE than AR-AdaLS, clean"]
    assert answer.answer == "contradicted"
    assert answer.difference.value > 0


def test_smoothing_is_judged_by_the_nll_after_a_temperature(render: ModuleType, study: Results) -> None:
    about = replace(study, config={**study.config, "compare_with": ["vanilla"]})
    claims = [each.claim for each in render.answers(about)]
    assert "vanilla has a lower NLL than AR-AdaLS, clean, both with a temperature" in claims
    assert not any(" NLL " in claim and not claim.endswith("with a temperature") for claim in claims)


def test_a_page_shows_what_is_decided_and_counts_the_rest(render: ModuleType, study: Results) -> None:
    measure = render.Measure(-0.02, -0.03, -0.01)
    given = [render.Answer(f"claim {index}", answer, measure) for index, answer in enumerate(("shown", "not shown"))]
    text = render.answers_table(given)
    assert "| claim 0 | **shown** |" in text
    assert "claim 1" not in text
    assert "1 further claims are *not shown*" in text


def test_few_seeds_recommend_nothing(render: ModuleType, study: Results) -> None:
    few, enough = render.gather(study, "", ""), render.gather(study, "", "")
    few = replace(few, num_seeds=2)
    assert render.summary([few]) == render.NONE_YET
    assert render.summary([few, enough]) == render.summary([enough])
