from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from aradals.results.names import Variant
from synthetic_results import make_audit, make_bins, make_diagnosis, make_row, make_study

from aradals._internal.files import csv_text
from aradals.errors import InputError
from aradals.report import write_report
from aradals.report.figures import draw_reliability, draw_subsets
from aradals.report.panels import (
    prepare_boxes,
    prepare_methods,
    prepare_stability,
    prepare_subsets,
    prepare_targets,
    reliability_panel,
)
from aradals.report.view import indexed, key_variants, main_methods, main_variants, variants

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


MANY = {
    **dict.fromkeys(("vanilla", "label_smoothing", "mixup", "ccat", "adals", "ar_adals", "ensemble"), 0.5),
    **{f"ar_adals_{index}": 0.3 for index in range(14)},
    "ar_adals_of_ensemble": 0.2,
}


@pytest.fixture(scope="module")
def many_html(tmp_path_factory: pytest.TempPathFactory) -> str:
    shifts = [(name, severity) for name in ("fog", "snow", "frost", "contrast", "spatter") for severity in (1, 3, 5)]
    return report(make_study(methods=MANY, shifts=shifts), tmp_path_factory.mktemp("many"))


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
        "Methods side by side",
        "By robustness subset",
        "Under shift",
        "Reliability",
        "Course of the targets",
        "How to read this",
        "What was run",
    ]
    assert study_html.index('class="headlines"') < study_html.index("<h2>Methods side by side")
    for text in ("AR-AdaLS", "2.13.0", "ab12cd34", "deepfool(steps=50, overshoot=0.02)", "31.5"):
        assert text in study_html


def test_every_figure_has_a_name_and_its_values(study_html: str) -> None:
    page = Page(study_html)
    # 6 for methods, 2 by subset, 2 reliability diagrams, 1 course of the targets.
    assert page.tags.count("figure") == page.tags.count("svg") == 11
    assert page.attributes.count(("role", "img")) == page.attributes.count(("class", "csv")) == 11
    names = [value for name, value in page.attributes if name == "data-name"]
    assert len(set(names)) == 11
    assert {"subsets-ar-adals", "reliability-vanilla", "methods-ece-under-shift"} <= set(names)


def test_values_of_a_figure_are_those_of_the_rows(study_html: str) -> None:
    text = study_html[study_html.index('data-name="subsets-vanilla"') :]
    found = re.search(r'<pre class="csv" hidden>(.*?)</pre>', text, re.DOTALL)
    assert found
    table = list(csv.DictReader(io.StringIO(found[1])))
    rows = [row for row in make_study(**SMALL)["rows"] if row["severity"] == 0 and row["subset"] is not None]
    assert [int(line["subset"]) for line in table] == list(range(10))
    for line, row in zip(table, rows, strict=False):
        for key in ("accuracy", "confidence_low", "ece_high"):
            assert float(line[key]) == pytest.approx(row[key], rel=1e-5)


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
    assert len(links) == 7
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
    front = re.sub(r"<details>.*?</details>", "", many_html, flags=re.DOTALL)
    assert front.count('data-name="subsets-') == front.count('data-name="reliability-') == 6
    assert many_html.count('data-name="subsets-') > 20
    for fold in ("All 44 variants in numbers", "All metrics", "A table for each corruption"):
        assert f"<summary>{fold}</summary>" in many_html


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
    headings = ["In numbers", "Reliability", "Which predictions to accept", "How to read this", "What was run"]
    assert re.findall(r"<h2>(.*?)</h2>", html) == headings
    assert "no robustness scores were given" in html
    assert "subset" not in re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)


@pytest.mark.parametrize("results", [{"kind": "poem"}, {}, {"kind": "study", "rows": []}])
def test_other_results_are_refused(results: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected results of kind study, evaluation, diagnosis"):
        write_report(results, tmp_path / "report.html")
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
    study["rows"][1] |= {"ece": 0.2, "ece_low": 0.0, "ece_high": 0.1}
    (panel,) = prepare_subsets(study)
    assert (panel.ece, panel.ece_low, panel.ece_high) == ([0.2], [0.0], [0.1])
    assert "<svg" in draw_subsets(panel)


def test_prepared_values_are_those_of_the_rows() -> None:
    study = make_study(**SMALL)
    vanilla, ours = prepare_subsets(study)
    assert [vanilla.title, ours.title] == ["vanilla", "AR-AdaLS"]
    gaps = [confidence - accuracy for confidence, accuracy in zip(vanilla.confidence, vanilla.accuracy, strict=True)]
    assert gaps == pytest.approx([0.28, 0.31, 0.25, 0.15, 0.10, 0.06, 0.03, 0.02, 0.01, 0.0])
    panels = {panel.title: panel for panel in prepare_methods(study)}
    assert list(panels) == [
        f"{quantity}, {place}"
        for quantity in ("ECE", "subset calibration error", "accuracy")
        for place in ("clean", "under shift")
    ]
    clean, fog = (row for row in study["rows"][:22] if row["subset"] is None)
    assert panels["ECE, clean"].rows == ["vanilla", "AR-AdaLS"]
    assert panels["ECE, clean"].series[0].values[0] == clean["ece"]
    assert panels["subset calibration error, under shift"].series[0].high[0] == fog["subset_calibration_error_high"]
    assert panels["ECE, clean"].series[0].noise_floor[0] == clean["ece_noise_floor"]


def test_course_of_the_targets_starts_before_the_first_update() -> None:
    study = make_study(**SMALL)
    study["training"][1]["settings"]["update_every"] = 2
    (panel,) = prepare_targets(study).values()
    assert panel.epochs[:3] == [0, 2, 4]
    assert [course[0] for course in panel.target_prob] == [1.0] * 10
    assert [course[-1] for course in panel.target_prob] == study["training"][1]["target_prob"]


def test_boxes_are_over_the_corruption_types_of_a_severity() -> None:
    shifts = [(f"corruption_{index}", severity) for index in range(8) for severity in (1, 3, 5)]
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=shifts, num_subsets=1)
    for row in study["rows"]:
        if row["corruption"] == "corruption_7" and row["severity"] == 3:
            row["ece"] = 0.5
    (panel,) = prepare_boxes(study, variants(study))
    assert panel.severities == [0, 1, 3, 5]
    assert [len(values) for values in panel.values] == [1, 8, 8, 8]
    assert dict(zip(panel.types[2], panel.values[2], strict=True))["corruption 7"] == 0.5
    assert panel.columns["ECE"] == [value for values in panel.values for value in values]


def test_variations_and_ensembles_are_told_apart() -> None:
    study = make_study(methods=MANY, shifts=())
    main = ["vanilla", "label_smoothing", "mixup", "ccat", "adals", "ar_adals", "ensemble", "ar_adals_of_ensemble"]
    assert main_methods(study) == main
    assert main_variants(study) == [Variant("vanilla"), Variant("vanilla", "temperature"), *map(Variant, main[1:])]
    keys = key_variants(study)
    assert keys[:4] == [Variant(name, how) for name in ("vanilla", "ar_adals") for how in ("none", "temperature")]
    assert Variant("ensemble") in keys
    assert len(keys) == 6


def test_stability_shows_seeds_where_there_are_several_and_members_of_ensembles() -> None:
    row: dict[str, Any] = {"subset": None, "n": 800, "num_models": 3, "disagreement": 0.1}
    for key in ("prediction_variance", "matched_prediction_variance"):
        row |= {key: 0.02, f"{key}_low": 0.01, f"{key}_high": 0.03}
    rows = [row | {"method": "vanilla", "models": "members", "seed": seed} for seed in (0, 1)]
    rows[1] = rows[1] | {"prediction_variance": 0.04}
    rows += [row | {"method": method, "models": "seeds", "seed": None} for method in ("vanilla", "ar_adals")]
    rows += [row | {"method": "vanilla", "models": "seeds", "seed": None, "subset": 0, "prediction_variance": 9.0}]
    seeds, members = prepare_stability({"stability": rows})
    assert (seeds.rows, members.rows) == (["vanilla", "AR-AdaLS"], ["vanilla"])
    assert seeds.series[0].values == [0.02, 0.02]
    assert members.series[0].values == pytest.approx([0.03])


def test_an_index_finds_the_rows_of_a_variant() -> None:
    study = make_study(**SMALL)
    assert indexed(indexed(study)) is not study
    found = indexed(study).found["ar_adals", "none", "fog", 3, 4]
    assert found == [
        row
        for row in study["rows"]
        if (row["method"], row["corruption"], row["severity"], row["subset"]) == ("ar_adals", "fog", 3, 4)
    ]


def test_optional_parts_are_shown_where_they_are_there(tmp_path: Path) -> None:
    study = make_study(**SMALL)
    picture = {"id": 7, "label": "cat", "predicted": "dog <b>", "confidence": 0.987, "score": 0.0123, "png": "iVBORw"}
    study["examples"] = {"least_robust": [picture | {"predicted": "cat"}], "most_wrongly_confident": [picture]}
    row = make_row(0.6, 0.9, 100, ece=0.3)
    study["classes"] = [
        {"method": "vanilla", "calibrator": "none", "class": k, "name": name, **row} for k, name in enumerate("ab")
    ]
    study["out_of_distribution"] = [
        {"calibrator": "none", "data": "demo", "ood_data": "svhn", "n": 9, "ood_n": 10, "ood_auroc": 0.912}
    ]
    html = report(study, tmp_path)
    assert html.count('<img src="data:image/png;base64,iVBORw"') == 2
    assert 'alt="Most wrongly confident image 7: dog &lt;b&gt;, but is cat"' in html
    for text in ("cat, right", "confidence 98.7\xa0%", "score 0.0123", "svhn", "0.912", '"classes-vanilla"', "+30.0"):
        assert text in html or text.replace("\xa0", " ") in html


def test_every_metric_of_the_rows_is_in_the_table_of_all(tmp_path: Path) -> None:
    study = make_study(**SMALL)
    for row in study["rows"]:
        row |= {"smooth_ece": 0.1234, "smooth_ece_low": 0.1, "a_new_metric": 0.4321, "undefined": None}
    html = report(study, tmp_path)
    table = html[html.index("<caption>all metrics, clean") :]
    header = re.findall(r'<th scope="col">(.*?)</th>', table[: table.index("</thead>")])
    assert {"accuracy", "NLL", "Brier score", "ECE", "smooth ECE", "a new metric"} <= set(header)
    assert not {"undefined", "smooth ece low", "n", "severity"} & set(header)
    assert "0.123" in table
    assert "0.432" in table


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


PAYLOAD = (
    "<img src=x onerror=alert(1)>\"'` onload=x {{7*7}} {%raw%} ]]> --> </script></style></svg>\x1b]0;x\x07\u202e&amp;"
)
STRUCTURE = {"kind", "condition", "metric", "models", "png", "schema"}


def poisoned(value: Any, key: str = "") -> Any:
    """Results with a payload after every text that is a name of something."""
    if isinstance(value, dict):
        return {name: poisoned(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [poisoned(item, key) for item in value]
    return value if key in STRUCTURE or value == "none" or not isinstance(value, str) else value + PAYLOAD


@pytest.mark.parametrize("kind", ["study", "diagnosis"])
def test_no_text_of_results_becomes_markup(tmp_path: Path, kind: str) -> None:
    results = make_study() if kind == "study" else make_diagnosis()
    results["description"] = "of something"
    results["classes"] = [
        make_row(0.9, 0.8, 50, ece=0.1) | {"method": "vanilla", "calibrator": "none", "name": "cat", "n": 50}
    ]
    picture = {"id": 1, "label": "cat", "predicted": "dog", "confidence": 0.9, "score": 0.1, "png": "AAAA"}
    results["examples"] = {"least_robust": [picture]}
    if kind == "study":
        results["out_of_distribution"] = [{"calibrator": "none", "ood_data": "svhn", "ood_auroc": 0.9, "ood_n": 5}]
    clean, hostile = Page(report(results, tmp_path)), Page(html := report(poisoned(results), tmp_path))
    assert set(hostile.tags) == set(clean.tags)
    assert {name for name, _ in hostile.attributes} == {name for name, _ in clean.attributes}
    for tag in ("script", "style", "img", "a"):
        assert hostile.tags.count(tag) == clean.tags.count(tag)
    assert [value for name, value in hostile.attributes if name in ("href", "src", "style")] == [
        value for name, value in clean.attributes if name in ("href", "src", "style")
    ]
    assert "alert(1)" in html
    assert "49" not in re.findall(r"\{\{7\*7\}\}|49 \{%raw", html)
    assert not re.search("[\x1b\x07\u202e]", html)


@pytest.mark.parametrize("png", ['AAAA" onerror=x', "data:text/html,x", "A A", "<svg>", "AAA=A"])
def test_a_picture_is_base64(tmp_path: Path, png: str) -> None:
    picture = {"id": 1, "label": "cat", "predicted": "dog", "confidence": 0.9, "score": 0.1, "png": png}
    with pytest.raises(ValueError, match="picture of example 1"):
        report(make_study(**SMALL) | {"examples": {"least_robust": [picture]}}, tmp_path)


@pytest.mark.parametrize("subset", [10**12, -1, "0", 1.5, [0]])
def test_a_subset_is_a_number_of_one(tmp_path: Path, subset: object) -> None:
    results = make_study(**SMALL)
    results["rows"][1]["subset"] = subset
    with pytest.raises(InputError, match="subsets are numbered from 0"):
        report(results, tmp_path)


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
