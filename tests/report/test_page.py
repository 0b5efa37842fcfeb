from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from synthetic_results import (
    VANILLA_GAPS,
    changed,
    clean,
    compared,
    make_audit,
    make_bins,
    make_diagnosis,
    make_metrics,
    make_study,
    without_subsets,
)

from aradals._internal.files import csv_text
from aradals.errors import InputError
from aradals.report import write_report
from aradals.report.figures import draw_reliability, draw_subsets
from aradals.report.panels import (
    prepare_boxes,
    prepare_differences,
    prepare_methods,
    prepare_stability,
    prepare_subsets,
    prepare_targets,
    reliability_panel,
)
from aradals.report.view import key_variants, main_methods, main_variants
from aradals.results.files import SCHEMA, parse, plain
from aradals.results.records import (
    CLEAN,
    ClassRow,
    Condition,
    Measure,
    Picture,
    Pictures,
    Results,
    Stability,
    Variant,
)
from aradals.robustness.audit import Audit, RankAgreement

SMALL: dict[str, Any] = {
    "methods": {"vanilla": 1.0, "ar_adals": 0.1},
    "calibrators": ("none",),
    "shifts": (("fog", 3),),
}


def report(results: Results, folder: Path) -> str:
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


MANY = {
    **dict.fromkeys(("vanilla", "label_smoothing", "mixup", "ccat", "adals", "ar_adals", "ensemble"), 0.5),
    **{f"ar_adals_{index}": 0.3 for index in range(14)},
    "ar_adals_of_ensemble": 0.2,
}
VARIANT_OF = {f"ar_adals_{index}": "ar_adals" for index in range(14)}


@pytest.fixture(scope="module")
def many_html(tmp_path_factory: pytest.TempPathFactory) -> str:
    shifts = [(name, severity) for name in ("fog", "snow", "frost", "contrast", "spatter") for severity in (1, 3, 5)]
    return report(make_study(methods=MANY, variant_of=VARIANT_OF, shifts=shifts), tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def hostile_html(tmp_path_factory: pytest.TempPathFactory) -> str:
    names = ["<script>alert(1)</script>", "$\\frac$", "a & b", 'quo"te', "nul\x00 \ud800", "名前"]
    names += [f"a rather long class name, number {index}" for index in range(194)]
    diagnosis = make_diagnosis(class_names=names, num_subsets=1)
    config = {"checkpoint": "https://example.org/<img src=x>"}
    diagnosis = replace(diagnosis, name="</title><script>x</script>", config=config)
    return report(diagnosis, tmp_path_factory.mktemp("hostile"))


def test_a_study_opens_with_the_verdict_one_figure_and_one_table(study_html: str) -> None:
    top = study_html[: study_html.index('<details class="section">')]
    parts = re.findall(r"<dt>(.+)</dt><dd>(\w+) ", top)
    assert parts == [("What to do", "Use"), ("What is wrong", "On"), ("How sure", "The")]
    assert top.count("<svg") == 2  # the reference beside the best variant
    assert top.count("<table>") == 1
    order = ["<h1>", 'class="verdict"', 'data-name="verdict-vanilla"', 'data-name="verdict-ar-adals"', "<table>"]
    assert [top.index(text) for text in order] == sorted(top.index(text) for text in order)
    # A single model shows its subsets and its reliability diagram.
    assert "Methods side by side" not in study_html


def test_all_else_is_in_sections_that_are_folded(study_html: str) -> None:
    headings = re.findall(r'<details class="section">\n<summary><h2>(.*?)</h2></summary>', study_html)
    assert headings == [
        "Differences between methods",
        "All numbers",
        "By robustness subset",
        "Under shift",
        "Reliability",
        "Course of the targets",
        "How to read this",
        "What was run",
    ]
    assert headings == re.findall(r"<h2>(.*?)</h2>", study_html)
    for text in ("AR-AdaLS", "2.13.0", "ab12cd34", "deepfool(steps=50, overshoot=0.02)", "31.5"):
        assert text in study_html


def test_every_figure_has_a_name_and_its_values(study_html: str) -> None:
    page = Page(study_html)
    # 2 for the verdict, 6 for methods, 2 by subset, 2 reliability diagrams, 1 course of the targets.
    assert page.tags.count("figure") == page.tags.count("svg") == 13
    assert page.attributes.count(("role", "img")) == page.attributes.count(("class", "csv")) == 13
    names = [value for name, value in page.attributes if name == "data-name"]
    assert len(set(names)) == 13
    assert {"subsets-ar-adals", "reliability-vanilla", "methods-ece-under-shift"} <= set(names)


def test_values_of_a_figure_are_those_of_the_rows(study_html: str) -> None:
    for figure in ("verdict-vanilla", "subsets-vanilla"):
        text = study_html[study_html.index(f'data-name="{figure}"') :]
        found = re.search(r'<pre class="csv" hidden>(.*?)</pre>', text, re.DOTALL)
        assert found
        table = list(csv.DictReader(io.StringIO(found[1])))
        rows = [row for row in make_study(**SMALL).rows if row.condition == CLEAN and row.subset is not None]
        assert [int(line["subset"]) for line in table] == list(range(10))
        for line, row in zip(table, rows, strict=False):
            values = {
                "accuracy": row["accuracy"].value,
                "confidence_low": row["confidence"].low,
                "ece_high": row["ece"].high,
            }
            for key, value in values.items():
                assert float(line[key]) == pytest.approx(value, rel=1e-5)


def test_report_loads_nothing_and_runs_only_its_own_script(study_html: str, hostile_html: str) -> None:
    for html in (study_html, hostile_html):
        page = Page(html)
        assert page.tags.count("script") == 1
        assert not {"iframe", "image", "object", "form"} & set(page.tags)
        references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
        assert all(value.startswith(("#", "data:")) for value in references)
        assert "url(" not in html
        assert "@import" not in html
        assert "default-src 'none'" in html


def test_ids_are_unique_and_links_resolve(study_html: str) -> None:
    page = Page(study_html)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    links = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert len(links) == 8
    assert links <= set(ids)


def test_other_peoples_text_is_escaped(hostile_html: str) -> None:
    assert hostile_html.count("<script") == 1
    assert "<img" not in hostile_html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in hostile_html
    assert "$\\frac$" in hostile_html
    assert "名前" in hostile_html


def test_report_stays_small(study_html: str, hostile_html: str) -> None:
    assert max(len(study_html), len(hostile_html)) < 150_000
    templates = Path(write_report.__code__.co_filename).parent / "templates"
    assert (templates / "report.js").stat().st_size < 10_000


def test_a_study_of_many_methods_folds_all_but_a_few(many_html: str) -> None:
    assert len(many_html) < 1_500_000
    unfolded = re.sub(r"<details>.*?</details>", "", many_html, flags=re.DOTALL)
    assert unfolded.count('data-name="subsets-') == unfolded.count('data-name="reliability-') == 6
    assert many_html.count('data-name="subsets-') > 20
    for fold in ("[0-9]+ more variants", "Severities of [0-9]+ more variants", "A table for each corruption"):
        assert re.search(f"<summary>{fold}</summary>", many_html)
    assert many_html[: many_html.index('<details class="section">')].count("<tr>") == 10  # 9 main variants, and a head
    numbers = many_html[many_html.index('id="all-numbers"') :]
    assert numbers[: numbers.index("</table>")].count("<tr>") == 1 + 2 * len(MANY)


def test_report_is_reproducible(tmp_path: Path) -> None:
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=())
    assert report(study, tmp_path / "a") == report(study, tmp_path / "b")


def test_evaluation_with_nulls_and_empty_lists(tmp_path: Path) -> None:
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=(), num_subsets=1)
    results = replace(study, kind="evaluation", training=(), calibrators=(), scoring=())
    results = changed(results, lambda row: True, nll=Measure(), ece=Measure(0.1, math.nan, 0.2))
    html = report(results, tmp_path)
    assert "Evaluation: demo" in html
    assert "Course of the targets" not in html
    assert not re.search(r"\bnan\b", html)


def test_three_seeds_say_what_is_shown(tmp_path: Path) -> None:
    html = report(make_study(**SMALL | {"shifts": ()}, seeds=(4, 5, 6)), tmp_path)
    assert "95\xa0% intervals over test set and 3 seeds" in html
    assert "Seed 4 is shown." in html


def test_diagnosis_has_thresholds_and_a_reliability_diagram_of_every_subset(tmp_path: Path) -> None:
    html = report(make_diagnosis(), tmp_path)
    top = html[: html.index('<details class="section">')]
    assert 'data-name="verdict-resnet29"' in top
    assert 'data-name="verdict-reliability-resnet29"' in top
    assert re.findall(r"<h2>(.*?)</h2>", html)[:4] == [
        "All numbers",
        "Classes of the least robust subset",
        "Reliability",
        "Which predictions to accept",
    ]
    names = ["all examples", "subset 0 (least robust)", *(f"subset {index}" for index in range(1, 9))]
    for name in [*names, "subset 9 (most robust)"]:
        assert f'aria-label="Reliability diagram: {name}"' in html
    cells = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", html[html.index("confidence thresholds") :])
    assert cells[:15] == [
        "error at most", "accept from", "accepted %", "n", "wrong among them %",
        "1 %", "none", "–", "–", "–",
        "5 %", "0.98", "40.0", "4,000", "4.0<small>≤4.5</small>",
    ]  # fmt: skip


def test_diagnosis_of_predictions_without_scores(tmp_path: Path) -> None:
    diagnosis = without_subsets(make_diagnosis())
    config = {key: value for key, value in diagnosis.config.items() if key != "attack"}
    rows = (
        replace(row, metrics={name: value for name, value in row.metrics.items() if "subset" not in name})
        for row in diagnosis.rows
    )
    html = report(replace(diagnosis, config=config, rows=tuple(rows)), tmp_path)
    headings = ["All numbers", "Reliability", "Which predictions to accept", "How to read this", "What was run"]
    assert re.findall(r"<h2>(.*?)</h2>", html) == headings
    assert "no robustness scores were given" in html
    shown = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    assert "subset" not in shown


def test_results_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected results with rows"):
        write_report(replace(make_study(**SMALL), rows=()), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_svg_is_a_scalable_fragment_with_text() -> None:
    svg = draw_reliability(reliability_panel("a < b", make_bins(0.1)))
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & set(root.attrib)
    assert "".join(root.itertext()).count("a < b") == 1
    assert root.attrib["aria-label"] == "Reliability diagram: a < b"


def test_subset_panel_draws_one_subset_and_an_interval_beside_its_estimate() -> None:
    study = make_study(num_subsets=1, methods={"vanilla": 1.0}, calibrators=("none",), shifts=())
    study = changed(study, clean("vanilla", subset=0), ece=Measure(0.2, 0.0, 0.1))
    (panel,) = prepare_subsets(study, study.variants)
    assert (panel.ece, panel.ece_low, panel.ece_high) == ([0.2], [0.0], [0.1])
    assert "<svg" in draw_subsets(panel)


def test_prepared_values_are_those_of_the_rows() -> None:
    study = make_study(**SMALL)
    vanilla, ours = prepare_subsets(study, study.variants)
    assert [vanilla.title, ours.title] == ["vanilla", "AR-AdaLS"]
    gaps = [confidence - accuracy for confidence, accuracy in zip(vanilla.confidence, vanilla.accuracy, strict=True)]
    assert gaps == pytest.approx(VANILLA_GAPS)
    panels = {panel.title: panel for panel in prepare_methods(study)}
    assert list(panels) == [
        f"{quantity}, {place}"
        for quantity in ("ECE", "subset calibration error", "accuracy")
        for place in ("clean", "under shift")
    ]
    on_clean, fog = (row for row in study.rows[:22] if row.subset is None)
    assert panels["ECE, clean"].rows == ["vanilla", "AR-AdaLS"]
    assert panels["ECE, clean"].series[0].values[0] == on_clean["ece"].value
    shifted = panels["subset calibration error, under shift"].series[0]
    assert shifted.high[0] == fog["subset_calibration_error"].high
    assert panels["ECE, clean"].series[0].noise_floor[0] == on_clean["ece_noise_floor"].value


def test_prepared_differences_are_those_of_the_comparisons() -> None:
    study = compared(make_study(methods={"vanilla": 1.0, "ar_adals": 0.1}))
    panels = {panel.title: panel for panel in prepare_differences(study)}
    assert panels["ECE, clean"].rows == ["AR-AdaLS"]
    as_trained, tempered = panels["ECE, under shift"].series
    for series, calibrator in ((as_trained, "none"), (tempered, "temperature")):
        (row,) = (
            each
            for each in study.comparisons
            if each.variant == Variant("ar_adals", calibrator)
            and each.reference == Variant("vanilla", calibrator)
            and (each.metric, each.place) == ("ece", "all_shifts")
        )
        assert (series.values, series.low, series.high) == ([row.difference], [row.low], [row.high])
    assert prepare_differences(replace(study, comparisons=())) == []


def test_course_of_the_targets_starts_before_the_first_update() -> None:
    study = make_study(**SMALL)
    run = study.training[1]
    (panel,) = prepare_targets(replace(study, training=(replace(run, update_every=2),))).values()
    assert panel.epochs[:3] == [0, 2, 4]
    assert [course[0] for course in panel.target_prob] == [1.0] * 10
    assert [course[-1] for course in panel.target_prob] == list(run.target_prob)


def test_boxes_are_over_the_corruption_types_of_a_severity() -> None:
    shifts = [(f"corruption_{index}", severity) for index in range(8) for severity in (1, 3, 5)]
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=shifts, num_subsets=1)
    study = changed(study, lambda row: row.condition == Condition("corruption_7", 3), ece=Measure(0.5))
    (panel,) = prepare_boxes(study, study.variants)
    assert panel.severities == [0, 1, 3, 5]
    assert [len(values) for values in panel.values] == [1, 8, 8, 8]
    assert dict(zip(panel.types[2], panel.values[2], strict=True))["corruption 7"] == 0.5
    assert panel.columns["ECE"] == [value for values in panel.values for value in values]


def test_variants_of_a_method_are_what_the_results_call_so() -> None:
    main = ["vanilla", "label_smoothing", "mixup", "ccat", "adals", "ar_adals", "ensemble", "ar_adals_of_ensemble"]
    study = make_study(methods=MANY, variant_of=VARIANT_OF, shifts=())
    assert main_methods(study) == main
    assert main_variants(study) == [Variant("vanilla"), Variant("vanilla", "temperature"), *map(Variant, main[1:])]
    assert key_variants(study) == main_variants(study)[:6]
    assert main_methods(make_study(methods=MANY, shifts=())) == list(MANY)
    # A variant of a method that has no rows stands for itself.
    lost = replace(study, rows=tuple(row for row in study.rows if row.method != "ar_adals"))
    assert set(main_methods(lost)) == set(MANY) - {"ar_adals"}


def test_stability_shows_seeds_where_there_are_several_and_members_of_ensembles() -> None:
    variance = Measure(0.02, 0.01, 0.03)
    row = Stability("vanilla", "members", 3, 800, None, 0, variance, variance, Measure(0.1))
    rows = [row, replace(row, seed=1, prediction_variance=Measure(0.04, 0.01, 0.03))]
    rows += [replace(row, method=method, models="seeds", seed=None) for method in ("vanilla", "ar_adals")]
    rows += [replace(row, models="seeds", seed=None, subset=0, prediction_variance=Measure(9.0))]
    seeds, members = prepare_stability(replace(make_study(**SMALL), stability=tuple(rows)))
    assert (seeds.rows, members.rows) == (["vanilla", "AR-AdaLS"], ["vanilla"])
    assert seeds.series[0].values == [0.02, 0.02]
    assert members.series[0].values == pytest.approx([0.03])


PICTURE = Picture(7, "cat", "dog <b>", 0.987, "iVBORw", 0.0123)


def with_optional_parts(results: Results) -> Results:
    metrics = make_metrics(0.6, 0.9, 100, ece=0.3)
    method = results.methods[0].name
    first, *rest = results.rows
    first = replace(first, metrics={**first.metrics, "ood_auroc": Measure(0.912, 0.9, 0.92)})
    return replace(
        results,
        pictures=Pictures((replace(PICTURE, predicted="cat"),), (PICTURE,)),
        classes=tuple(ClassRow(method, "none", k, name, 100, metrics) for k, name in enumerate("ab")),
        data=replace(results.data, ood={"svhn": 10}),
        rows=(first, *rest),
    )


def test_optional_parts_are_shown_where_they_are_there(tmp_path: Path) -> None:
    html = report(with_optional_parts(make_study(**SMALL)), tmp_path)
    assert html.count('<img src="data:image/png;base64,iVBORw"') == 2
    assert 'alt="Most wrongly confident image 7: dog &lt;b&gt;, but is cat"' in html
    for text in ("cat, right", "confidence 98.7 %", "score 0.0123", "svhn", "0.912", '"classes-vanilla"', "+30.0"):
        assert text in html


def test_every_metric_of_the_rows_is_in_the_table_of_all(tmp_path: Path) -> None:
    study = changed(make_study(**SMALL), lambda row: True, smooth_ece=Measure(0.1234, 0.1, 0.2), aurc=Measure())
    html = report(study, tmp_path)
    table = html[html.index("<caption>all metrics, clean") :]
    header = re.findall(r'<th scope="col">(.*?)</th>', table[: table.index("</thead>")])
    assert {"accuracy", "NLL", "Brier score", "ECE", "smooth ECE"} <= set(header)
    assert not {"AURC", "smooth ece low", "n", "severity"} & set(header)
    assert "0.123" in table


def test_caption_says_which_bounds_the_targets_reached(tmp_path: Path) -> None:
    study = make_study()
    adaptive = [run for run in study.training if run.update_rate > 0]
    runs = [
        replace(run, target_prob=(0.1, *[1.0] * (len(run.target_prob) - 1)), at_lower_bound=(0,)) for run in adaptive
    ]
    count = sum(len(run.target_prob) for run in runs)
    html = " ".join(report(replace(study, training=tuple(runs)), tmp_path).split())
    assert f"{count - len(adaptive)} of {count} targets end at their upper bound" in html
    assert f"and {len(adaptive)} fell to 1/K" in html


def test_the_audit_is_shown_with_its_intervals(tmp_path: Path) -> None:
    diagnosis = make_diagnosis()
    html = report(diagnosis, tmp_path)
    for text in ("0.961 (95 % interval 0.911 to 0.981)", "ddn(steps=100)", "audit of the robustness scores", "1.15"):
        assert text in html
    assert '<ul class="warnings">' not in html
    poor = make_audit(0.9, 0.5)
    assert warning_of(poor, tmp_path).startswith("Warning: the ranking by robustness is too coarse")
    failed = replace(poor, agreement=RankAgreement())
    expected = "the ranking by robustness could not be audited: ddn failed on 2 of 130"
    assert expected in warning_of(failed, tmp_path)
    assert "audit" not in report(replace(diagnosis, audit=None), tmp_path)


def warning_of(audit: Audit, folder: Path) -> str:
    html = report(replace(make_diagnosis(), audit=audit), folder)
    (found,) = re.findall(r'<ul class="warnings">\n<li>(.*?)</li>', html)
    return str(found)


PAYLOAD = (
    "<img src=x onerror=alert(1)>\"'` onload=x {{7*7}} {%raw%} ]]> --> </script></style></svg>\x1b]0;x\x07\u202e&amp;"
)
STRUCTURE = {"kind", "place", "metric", "models", "png", "schema"}


def poisoned(value: Any, key: str = "") -> Any:
    """Results with a payload after every text that is a name of something."""
    if isinstance(value, dict):
        return {name: poisoned(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [poisoned(item, key) for item in value]
    return value if key in STRUCTURE or value == "none" or not isinstance(value, str) else value + PAYLOAD


@pytest.mark.parametrize("kind", ["study", "diagnosis"])
def test_no_text_of_results_becomes_markup(tmp_path: Path, kind: str) -> None:
    made = compared(make_study()) if kind == "study" else make_diagnosis()
    results = replace(with_optional_parts(made), description="of something")
    results = replace(results, pictures=Pictures((replace(PICTURE, predicted="dog"),)))
    hostile_results = parse({"schema": SCHEMA, **poisoned(plain(results))})
    assert hostile_results.reference.endswith(PAYLOAD)
    clean_page, hostile = Page(report(results, tmp_path)), Page(html := report(hostile_results, tmp_path))
    assert set(hostile.tags) == set(clean_page.tags)
    assert {name for name, _ in hostile.attributes} == {name for name, _ in clean_page.attributes}
    for tag in ("script", "style", "img", "a"):
        assert hostile.tags.count(tag) == clean_page.tags.count(tag)
    assert [value for name, value in hostile.attributes if name in ("href", "src", "style")] == [
        value for name, value in clean_page.attributes if name in ("href", "src", "style")
    ]
    assert "alert(1)" in html
    assert "49" not in re.findall(r"\{\{7\*7\}\}|49 \{%raw", html)
    assert not re.search("[\x1b\x07\u202e]", html)


@pytest.mark.parametrize("png", ['AAAA" onerror=x', "data:text/html,x", "A A", "<svg>", "AAA=A"])
def test_a_picture_is_base64(tmp_path: Path, png: str) -> None:
    pictures = Pictures((replace(PICTURE, png=png),))
    with pytest.raises(InputError, match="picture of example 7 in base64"):
        report(replace(make_study(**SMALL), pictures=pictures), tmp_path)


def test_values_are_no_formulas_for_spreadsheets(tmp_path: Path) -> None:
    methods = {"=HYPERLINK(0)": 1.0, "@SUM(1)": 0.5, "-1+cmd|x": 0.2}
    html = report(make_study(methods=methods, calibrators=("none",), shifts=()), tmp_path)
    texts = [row for block in re.findall(r'<pre class="csv" hidden>(.*?)</pre>', html, re.DOTALL)
             for row in csv.reader(io.StringIO(unescape(block)))]  # fmt: skip
    cells = {cell for row in texts for cell in row}
    assert {"'=HYPERLINK(0)", "'@SUM(1)", "'-1+cmd|x"} <= cells
    assert all(re.fullmatch(r"-?[\d.e+-]+", cell) for cell in cells if cell.startswith(tuple("=+-@")))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_downloaded_tables_are_no_formulas_either() -> None:
    source = (Path(__file__).parents[2] / "src/aradals/report/templates/report.js").read_text(encoding="utf-8")
    safe = source[source.index("const safe =") : source.index("const quote =")]
    given = [
        "=1",
        "+cmd",
        "-1",
        "+1.5",
        "-1e-5",
        "@x",
        "\tx",
        " =1",
        "-1 +HYPERLINK(1)",
        "vanilla",
        "–",
        "",
        "-",
        "1-2",
    ]
    expected = ["'=1", "'+cmd", "-1", "+1.5", "-1e-5", "'@x", "'\tx", "' =1", "'-1 +HYPERLINK(1)", "vanilla", "–", "",
                "'-", "1-2"]  # fmt: skip
    program = f"{safe}; console.log(JSON.stringify({json.dumps(given)}.map(safe)))"
    ran = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == expected
    assert list(map(csv_text, given)) == expected
