from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from synthetic_results import make_audit, make_bins, make_diagnosis, make_study

from aradals.errors import InputError
from aradals.report import write_report
from aradals.report.figures import draw_reliability, draw_subsets
from aradals.report.panels import prepare_shift, prepare_subsets, prepare_targets, reliability_panel

SMALL: dict[str, Any] = {
    "methods": {"vanilla": 1.0, "ar_adals": 0.1},
    "calibrators": ("none",),
    "shifts": (("fog", 3),),
}


def report(results: dict[str, Any], folder: Path) -> str:
    path = folder / "report.html"
    write_report(results, path)
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects what the tests ask for: tags, attributes, ids, captions per figure."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.fixture(scope="module")
def study_html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(make_study(**SMALL), tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def hostile_html(tmp_path_factory: pytest.TempPathFactory) -> str:
    names = ["<script>alert(1)</script>", "$\\frac$", "a & b", 'quo"te', "nul\x00 \ud800", "名前"]
    names += [f"a rather long class name, number {index}" for index in range(194)]
    diagnosis = make_diagnosis(class_names=names, num_subsets=1)
    diagnosis |= {"model": "</title><script>x</script>", "checkpoint": "https://example.org/<img src=x>"}
    return report(diagnosis, tmp_path_factory.mktemp("hostile"))


def test_study_report_has_its_parts_in_order(study_html: str) -> None:
    headings = re.findall(r"<h2>(.*?)</h2>", study_html)
    assert headings == [
        "In numbers",
        "By robustness subset",
        "Reliability",
        "Course of the targets",
        "Under shift",
        "How to read this",
        "What was run",
    ]
    assert study_html.index('class="headlines"') < study_html.index("In numbers")
    for text in ("AR-AdaLS", "2.13.0", "ab12cd34", "deepfool(steps=50, overshoot=0.02)", "31.5"):
        assert text in study_html


def test_every_figure_has_a_caption_and_a_name(study_html: str) -> None:
    page = Page(study_html)
    assert page.tags.count("figure") == page.tags.count("figcaption") == 4
    assert all(caption.strip() for caption in re.findall(r"<figcaption>(.*?)</figcaption>", study_html, re.DOTALL))
    assert page.tags.count("svg") == page.attributes.count(("role", "img")) == 7
    assert len([name for name, value in page.attributes if name == "aria-label" and value]) >= 7


def test_report_loads_nothing_and_runs_nothing(study_html: str, hostile_html: str) -> None:
    for html in (study_html, hostile_html):
        page = Page(html)
        assert not {"script", "link", "img", "iframe", "image"} & set(page.tags)
        references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
        assert references
        assert all(value.startswith("#") for value in references)
        assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", html))
        assert "@import" not in html


def test_ids_are_unique_and_references_resolve(study_html: str) -> None:
    page = Page(study_html)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    targets = {value[1:] for name, value in page.attributes if name == "xlink:href"}
    targets |= set(re.findall(r"url\(#(.*?)\)", study_html))
    assert targets <= set(ids)


def test_other_peoples_text_is_escaped(hostile_html: str) -> None:
    assert "<script" not in hostile_html
    assert "<img" not in hostile_html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in hostile_html
    assert "$\\frac$" in hostile_html
    assert "名前" in hostile_html


def test_report_stays_small(study_html: str, hostile_html: str) -> None:
    assert max(len(study_html), len(hostile_html)) < 400_000


def test_report_is_reproducible(tmp_path: Path) -> None:
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=())
    assert report(study, tmp_path / "a") == report(study, tmp_path / "b")


def test_evaluation_with_nulls_and_empty_lists(tmp_path: Path) -> None:
    results = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=(), num_subsets=1)
    results |= {"kind": "evaluation", "training": [], "calibrators": [], "scoring": []}
    for row in results["rows"]:
        row |= {"nll": None, "nll_low": None, "nll_high": None, "ece_low": None}
    html = report(results, tmp_path)
    assert "Evaluation: demo" in html
    assert "Course of the targets" not in html
    assert not re.search(r"\bnan\b", html)


def test_three_seeds_say_what_is_shown(tmp_path: Path) -> None:
    html = report(make_study(**SMALL | {"shifts": ()}, seeds=(4, 5, 6)), tmp_path)
    assert "standard deviation over 3 seeds" in html
    assert "Seed 4 is shown." in html


def test_diagnosis_has_thresholds_and_a_reliability_diagram_of_every_subset(tmp_path: Path) -> None:
    html = report(make_diagnosis(), tmp_path)
    assert re.findall(r"<h2>(.*?)</h2>", html)[:4] == [
        "In numbers",
        "By robustness subset",
        "Classes of the least robust subset",
        "Reliability",
    ]
    names = ["all examples", "subset 0 (least robust)", *(f"subset {index}" for index in range(1, 9))]
    for name in [*names, "subset 9 (most robust)"]:
        assert f'aria-label="Reliability diagram: {name}"' in html
    cells = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", html[html.index("confidence thresholds") :])
    assert cells[:12] == [
        "error at most", "accept from", "accepted %", "wrong among them %",
        "1 %", "never", "–", "–",
        "5 %", "0.98", "40.0", "4.5<small>3.9–5.2</small>",
    ]  # fmt: skip


def test_diagnosis_of_predictions_without_scores(tmp_path: Path) -> None:
    diagnosis = make_diagnosis() | {"subsets": [], "least_robust_classes": [], "attack": None}
    diagnosis |= {"scoring": None, "audit": None}
    diagnosis["reliability"]["subsets"] = []
    html = report(diagnosis, tmp_path)
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["In numbers", "Reliability", "How to read this", "What was run"]
    assert "no robustness scores were given" in html
    assert "subset" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)


@pytest.mark.parametrize("results", [{"kind": "poem"}, {}, {"kind": "study", "rows": []}])
def test_other_results_are_refused(results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected results of kind study, evaluation, diagnosis"):
        write_report(results, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_svg_is_a_scalable_fragment_with_text() -> None:
    svg = draw_reliability(reliability_panel("a < b", make_bins(0.1)), identifier="r1")
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & set(root.attrib)
    assert "".join(root.itertext()).count("a < b") == 2  # the accessible title and the drawn one
    assert "metadata" not in svg
    assert "<style" not in svg


def test_subset_panel_draws_one_subset_and_an_interval_beside_its_estimate() -> None:
    study = make_study(num_subsets=1, methods={"vanilla": 1.0}, calibrators=("none",), shifts=())
    study["rows"][1] |= {"ece": 0.2, "ece_low": 0.0, "ece_high": 0.1}
    (panel,) = prepare_subsets(study)
    assert (panel.ece, panel.ece_low, panel.ece_high) == ([0.2], [0.0], [0.1])
    assert "<svg" in draw_subsets(panel, identifier="s")


def test_prepared_values_are_those_of_the_rows() -> None:
    study = make_study(**SMALL)
    vanilla, ours = prepare_subsets(study)
    assert [vanilla.title, ours.title] == ["vanilla", "AR-AdaLS"]
    gaps = [confidence - accuracy for confidence, accuracy in zip(vanilla.confidence, vanilla.accuracy, strict=True)]
    assert gaps == pytest.approx([0.28, 0.31, 0.25, 0.15, 0.10, 0.06, 0.03, 0.02, 0.01, 0.0])
    ece, subset_error = prepare_shift(study)
    assert ece.conditions == ["clean", "fog 3"]
    clean = next(row for row in study["rows"] if row["subset"] is None)
    assert (ece.series[0].values[0], subset_error.series[0].values[0]) == (
        clean["ece"],
        clean["subset_calibration_error"],
    )


def test_course_of_the_targets_starts_before_the_first_update() -> None:
    study = make_study(**SMALL)
    study["training"][1]["settings"]["update_every"] = 2
    (panel,) = prepare_targets(study)
    assert panel.epochs[:3] == [0, 2, 4]
    assert [course[0] for course in panel.target_prob] == [1.0] * 10
    assert [course[-1] for course in panel.target_prob] == study["training"][1]["target_prob"]


def test_many_conditions_are_grouped_by_corruption() -> None:
    shifts = [(f"corruption_{index}", severity) for index in range(8) for severity in (1, 3, 5)]
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=shifts, num_subsets=1)
    assert prepare_shift(study)[0].conditions == ["clean", *(f"corruption {index}" for index in range(8))]


def test_caption_says_which_bounds_the_targets_reached(tmp_path: Path) -> None:
    study = make_study()
    adaptive = [run for run in study["training"] if run["settings"]["update_rate"] > 0]
    for run in adaptive:
        run["target_prob"] = [0.1, *[1.0] * (len(run["target_prob"]) - 1)]
        run["at_lower_bound"] = [0]
    count = sum(len(run["target_prob"]) for run in adaptive)
    write_report(study, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    expected = f"{count - len(adaptive)} of {count} targets end at their upper bound"
    assert expected in " ".join(html.split())
    assert f"and {len(adaptive)} ran down to 1/K" in " ".join(html.split())


def test_the_audit_is_shown_with_its_intervals(tmp_path: Path) -> None:
    diagnosis = make_diagnosis()
    html = report(diagnosis, tmp_path)
    for text in ("0.961 (95 % interval 0.911 to 0.981)", "ddn(steps=100)", "audit of the robustness scores", "1.15"):
        assert text in html
    assert '<li class="warning">' not in html
    poor = report(diagnosis | {"audit": make_audit(0.9, 0.5)}, tmp_path)
    assert '<li class="warning">Warning: the ranking by robustness is too coarse' in poor
    failed = {
        name: value for name, value in make_audit(0.9, 0.5).items() if not name.startswith(("spear", "same", "wi"))
    }
    assert "the ranking by robustness could not be audited: ddn failed on 2 of 130" in report(
        diagnosis | {"audit": failed}, tmp_path
    )
    assert "audit" not in report(diagnosis | {"audit": None}, tmp_path)
