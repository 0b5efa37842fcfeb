from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from rich.console import Console
from synthetic_results import (
    METHODS,
    changed,
    clean,
    compared,
    make_diagnosis,
    make_study,
    renamed,
)

from aradals.report import html_table, verdict, write_report
from aradals.report.tables import (
    Cell,
    comparison_note,
    comparison_rows,
    corruption_rows,
    gap_rows,
    main_table,
    main_table_note,
    methods_table,
    metric_rows,
    place_tables,
    severity_rows,
)
from aradals.report.terminal import results_findings
from aradals.report.view import label, shift_name, short_label
from aradals.results.aggregate import means, relative_cost
from aradals.results.records import CLEAN, Condition, Cost, Measure, Metric, Results, Variant

ONE = {"vanilla": 1.0}
VANILLA = Variant("vanilla")


def printed(table: object, width: int) -> str:
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(table)
    return output.getvalue()


def test_labels() -> None:
    study = make_study(methods={"vanilla": 1.0, "ar_adals": 0.1}, shifts=())
    found = [label(study, Variant(*names)) for names in (("vanilla",), ("ar_adals", "temperature"), ("vanilla", "a_b"))]
    assert found == ["vanilla", "AR-AdaLS + temperature scaling", "vanilla + a b"]
    assert short_label(study, Variant("ar_adals", "temperature")) == "AR-AdaLS + T"


def test_percent_and_fractions_with_intervals_for_one_seed() -> None:
    study = make_study(n=800)
    row = study.rows[0]
    table = main_table(study)
    assert table.title == "methods, n = 800"
    assert table.columns == (
        "method", "accuracy %", "ECE", "noise floor", "subset cal. error", "NLL", "ECE under shift"
    )  # fmt: skip
    assert len(table.rows) == 2 * len(METHODS)
    method, accuracy, ece, floor, subset_error, nll, shift = table.rows[0]
    assert method.text == "vanilla"
    assert accuracy.text == f"{100 * row['accuracy'].value:.1f}"
    assert accuracy.note == f"{100 * row['accuracy'].low:.1f}–{100 * row['accuracy'].high:.1f}"
    assert (ece.text, floor.text) == (f"{row['ece'].value:.3f}", f"{row['ece_noise_floor'].value:.3f}")
    assert ece.note == f"{row['ece'].low:.3f}–{row['ece'].high:.3f}"
    assert floor.note == f"≤{row['ece_noise_floor_p95'].value:.3f}"
    assert (subset_error.text, nll.text) == (f"{row['subset_calibration_error'].value:.3f}", f"{row['nll'].value:.3f}")
    errors = [row["ece"].value for row in study.rows if row.variant == VANILLA and row.subset is None][1:]
    assert shift.text == f"{sum(errors) / 4:.3f}"
    names = [each[0].text for each in table.rows[:4]]
    assert names == ["vanilla", "vanilla + T", "label smoothing", "label smoothing + T"]
    clean_places, under_shift = place_tables(study, study.variants)
    assert (clean_places.title, under_shift.title) == (
        "clean",
        "under shift (mean over 3 corruption types, 4 conditions)",
    )
    assert clean_places.rows[0][5].text == f"{100 * row['confidence'].value:.1f}"


def test_nulls_are_dashes() -> None:
    study = changed(
        make_study(shifts=(), calibrators=("none",)),
        clean("vanilla"),
        nll=Measure(),
        ece=Measure(),
        accuracy=Measure(0.8),
    )
    cells = main_table(study).rows[0]
    assert [cells[index] for index in (2, 5)] == [Cell("–"), Cell("–")]
    assert cells[1] == Cell("80.0")


def test_significant_differences_from_the_reference_are_marked() -> None:
    methods = {"vanilla": 1.0, "worse": 1.4, "same": 1.001, "better": 0.4}
    study = make_study(methods=methods, calibrators=("none",), shifts=())
    study = changed(study, clean("better"), accuracy=Measure(0.7, 0.69, 0.71))
    for results in (study, compared(study)):
        vanilla, worse, same, better = ([cell.change for cell in row] for row in main_table(results).rows)
        assert set(vanilla) == set(same) == {""}
        assert worse == ["", "", "worse", "", "worse", "worse"]
        assert better == ["", "worse", "better", "", "better", "better"]
        rows = main_table(results).rows
        assert [rows[1][2].marked[-1], rows[3][2].marked[-1], rows[3][1].marked[-1]] == ["▲", "▼", "▼"]
    because = "significantly lower and higher than vanilla, because the 95 % interval"
    assert f"{because}s of the two do not overlap." in main_table_note(study)
    assert f"{because} of the paired difference excludes zero." in main_table_note(compared(study))


def test_paired_differences_have_intervals_and_p() -> None:
    study = compared(make_study(methods={"vanilla": 1.0, "ar_adals": 0.1}))
    row = next(each for each in study.comparisons if each.method == "ar_adals" and each.metric == "ece")
    tested = replace(study, comparisons=(replace(row, p=0.01, p_holm=0.02), *study.comparisons))
    block, shift = comparison_rows(replace(tested, comparisons=tuple(dict.fromkeys(study.comparisons))))
    assert [line[0].text for line in block.rows] == ["vanilla + T", "AR-AdaLS", "AR-AdaLS + T"]
    assert block.rows[1][1] == Cell(f"{row.difference:+.3f}", f"{row.low:.3f} to {row.high:.3f}")
    assert shift.title == "shift (mean over 3 corruption types, 4 conditions)"
    with_p = replace(study, comparisons=tuple(replace(each, p_holm=0.0213) for each in study.comparisons))
    assert comparison_rows(with_p)[0].rows[0][1].note.endswith("\np = 0.021")
    assert "paired t test" not in comparison_note(study)
    assert "paired t test" in comparison_note(make_study(seeds=(0, 1, 2)))


def test_the_note_says_why_intervals_are_missing() -> None:
    why = "No interval: too few examples, or too few right or wrong ones."
    assert why not in main_table_note(make_diagnosis())
    few = changed(make_diagnosis(), lambda row: row.subset == 3, ece=Measure(0.1))
    assert why in main_table_note(few)


def test_two_seeds_mark_nothing_and_the_notes_say_why(tmp_path: Path) -> None:
    study = make_study(seeds=(0, 1), methods={"vanilla": 1.0, "ar_adals": 0.1})
    cells = [cell for row in methods_table(study).rows for cell in row]
    assert not any(cell.change for cell in cells)
    assert not any(cell.note for cell in cells if not cell.note.startswith("≤"))
    why = "Two seeds give no intervals over seeds, so that no difference is called significant."
    assert why in main_table_note(study)
    assert "▼" not in main_table_note(study)
    assert why in comparison_note(study)
    assert verdict(study).sentences[2] == why
    assert verdict(study).sentences[0].endswith("points (no interval).")
    assert "Keep vanilla: no other variant significantly lowers" in verdict(study).sentences[1]
    assert why in study.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert any(cell.change for row in methods_table(make_study(seeds=(0, 1, 2))).rows for cell in row)


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_terminal_tables_lose_no_number(width: int, seeds: tuple[int, ...]) -> None:
    study = make_study(n=800, seeds=seeds)
    text = printed(study.table(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    block = main_table(study)
    assert f"\n{block.title}\n" in text
    for row in block.rows:
        assert f"\n{row[0].text} " in text  # names do not wrap
        assert all(part in text for cell in row[1:] for part in (cell.text, cell.note))


def test_intervals_stand_beside_their_values_where_there_is_room() -> None:
    study = make_study(n=800)
    cell = main_table(study).rows[0][1]
    assert f"{cell.text} {cell.note} " in printed(study.table(), 140)
    assert f"{cell.text} {cell.note} " not in printed(study.table(), 100)


def test_diagnosis_table() -> None:
    diagnosis = make_diagnosis()
    most_robust = diagnosis.rows[-1]["accuracy"].value
    diagnosis = changed(diagnosis, lambda row: row.subset == 9, confidence=Measure(most_robust - 0.0004))
    block = main_table(diagnosis)
    assert [row[0].text for row in block.rows[:3]] == ["all", "subset 0 (least robust)", "subset 1"]
    assert (block.rows[1][1].text, block.rows[-1][1].text) == ("+28.0", "0.0")
    text = printed(diagnosis.table(), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(part in text for row in block.rows for cell in row[1:] for part in (cell.text, cell.note))


def test_long_names_wrap() -> None:
    study = make_study(methods={"a name that is much too long " * 2: 1.0})
    study = replace(study, costs=(Cost(study.reference, 0, relative_cost=2.5),))
    assert main_table(study).columns[-1] == "cost"
    text = printed(study.table(), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(cell.text in text for row in main_table(study).rows for cell in row[1:])


def test_names_are_not_markup() -> None:
    study = make_study(methods={"[red]bold": 1.0, "vanilla": 0.5}, calibrators=("none",), shifts=())
    assert "[red]bold" in printed(study.table(), 100)
    assert "[red]bold" in printed(results_findings(replace(study, reference="[red]bold")), 100)


HOSTILE = (
    "[red]bold",
    "[link=https://example.org]here[/link]",
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "over\rwritten",
    "two\nlines",
    "\u202egnp.exe",
    "back\x08\x08\x08space",
    "a \u2066isolate",
    "\x00",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_do_not_steer_the_terminal(name: str) -> None:
    study = make_study(methods={name: 1.0, "vanilla": 0.5}, calibrators=("none",), shifts=((name, 3),))
    study = replace(compared(study), name=name, data=replace(study.data, name=name), reference=name)
    diagnosis = make_diagnosis(class_names=[name, "dog"])
    diagnosis = replace(diagnosis, name=name, data=replace(diagnosis.data, name=name))
    for shown in (study.table(), diagnosis.table(), results_findings(study), results_findings(diagnosis)):
        output = io.StringIO()
        Console(file=output, width=100, force_terminal=True, color_system=None).print(shown)
        written = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())  # rich's own bold and dim
        assert all(character.isprintable() or character == "\n" for character in written)
        assert "31m" not in written or "\\x" in written


MANY = dict.fromkeys(("vanilla", "mixup", "ar_adals", "ensemble", *(f"ar_adals_{k}" for k in range(18))), 0.5)
VARIANT_OF = {name: "ar_adals" for name in MANY if name.startswith("ar_adals_")}


def test_a_study_of_many_methods_fits_the_terminal() -> None:
    study = compared(make_study(n=800, methods=MANY, variant_of=VARIANT_OF))
    text = printed(study.table(), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 40
    assert "ar adals 3" not in text
    assert "All numbers in the report has 39 more variants." in " ".join(text.split())
    findings = printed(results_findings(study), 80).splitlines()
    assert max(map(len, findings)) <= 80
    assert findings[0].startswith("- Use temperature scaling")


@pytest.mark.parametrize(
    ("shifts", "name"),
    [
        ([("fog", 3)], "fog 3"),
        ([("fog", 3), ("snow", 3)], "fog 3, snow 3"),
        ([("fog", 1), ("fog", 3), ("fog", 5)], "fog, severities 1, 3 and 5"),
        ([(name, s) for name in ("fog", "snow") for s in (5, 4, 3, 2, 1)], "2 corruption types, severities 1 to 5"),
        ([("fog", 1), ("fog", 2), ("snow", 1)], "2 corruption types, 3 conditions"),
    ],
)
def test_what_the_mean_under_shift_is_over(shifts: list[tuple[str, int]], name: str) -> None:
    study = make_study(methods=ONE, calibrators=("none",), shifts=shifts, num_subsets=1)
    assert shift_name(study) == name


def test_gaps_by_subset_are_shaded_by_their_sign_and_size() -> None:
    study = make_study(methods=ONE, calibrators=("none",), shifts=())
    study = changed(study, clean("vanilla", subset=0), accuracy=Measure(0.9), confidence=Measure(0.8))
    (row,) = gap_rows(study, study.variants).rows
    assert [cell.text for cell in row[2:4]] == ["-10.0", "+31.0"]
    assert [cell.shade for cell in row[2:4]] == pytest.approx([-0.5, 1.0])


def test_tables_by_corruption_are_means_over_its_severities() -> None:
    study = make_study(methods=ONE, calibrators=("none",), shifts=[("fog", 1), ("fog", 5), ("snow", 1)])
    errors = {f"{row.corruption}{row.severity}": row["ece"].value for row in study.rows if row.subset is None}
    block = corruption_rows(study, study.variants)
    assert block.columns == ("method", "clean", "all types", "fog", "snow")
    fog = (errors["fog1"] + errors["fog5"]) / 2
    mean = (errors["fog1"] + errors["fog5"] + errors["snow1"]) / 3
    expected = [f"{value:.3f}" for value in (errors["none0"], mean, fog, errors["snow1"])]
    assert [cell.text for cell in block.rows[0][1:]] == expected
    by_severity, snow = severity_rows(study, study.variants)
    assert by_severity.columns[:4] == ("method", "ECE at 1", "ECE at 5", "mean ECE")
    assert [cell.text for cell in by_severity.rows[0][1:4]] == [
        f"{value:.3f}" for value in (errors["fog1"], errors["fog5"], fog)
    ]
    assert snow.title == "snow"


# The same numbers everywhere

COLUMNS: tuple[tuple[Metric, Condition | None, float], ...] = (
    ("accuracy", CLEAN, 100),
    ("ece", CLEAN, 1),
    ("ece_noise_floor", CLEAN, 1),
    ("subset_calibration_error", CLEAN, 1),
    ("nll", CLEAN, 1),
    ("ece", None, 1),
)


def expected_table(study: Results) -> dict[str, list[tuple[str, str]]]:
    """The main table, spelled out from the means over seeds: label -> (value, uncertainty) of each column."""
    records = {(mean.variant, mean.condition): mean.record for mean in means(study) if mean.subset is None}
    table = {}
    for variant in study.variants:
        cells = []
        for metric, condition, factor in COLUMNS:
            digits = 1 if factor == 100 else 3
            value, low, high, limit = (
                f"{factor * record[key]:.{digits}f}" if key in record else ""
                for record in [records[variant, condition]]
                for key in (metric, f"{metric}_low", f"{metric}_high", f"{metric}_p95")
            )
            note = {"ece_noise_floor": f"≤{limit}", "nll": ""}.get(metric, f"{low}–{high}")
            cells.append((value, note))
        cost = relative_cost(study, variant.method)
        table[short_label(study, variant)] = [*cells, (f"{cost:.1f}", "")]
    return table


def in_terminal(study: Results) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The rows of the table as printed where there is room for intervals beside values."""
    lines = printed(study.table(), 200).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("───"))
    for line in lines[start + 1 : start + 1 + len(study.variants)]:
        name, *cells = re.split(r"\s{2,}", line.strip())
        texts = (re.sub(" [▲▼]", "", cell).partition(" ") for cell in cells)
        yield name, [(value, note) for value, _, note in texts]


def in_html(html: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The rows of the first table of a page."""
    for row in re.findall(r"<tr>(.*?)</tr>", html[html.index("<tbody>") : html.index("</tbody>")], re.DOTALL):
        cells = re.findall(r"<t[hd][^>]*>(.*?)(?:<small>(.*?)</small>)?</t[hd]>", row)
        (name, _), *found = [(unescape(value).replace("\xa0", " "), note) for value, note in cells]
        yield name, [(re.sub(" [▲▼]", "", value), note) for value, note in found]


def test_records_tables_terminal_and_page_have_the_same_numbers(tmp_path: Path) -> None:
    study = make_study(seeds=(0, 1, 2))
    costs = (Cost(method, seed, relative_cost=1.0 + seed) for method in METHODS for seed in study.seeds)
    study = replace(study, costs=tuple(costs))
    expected = expected_table(study)
    assert len(expected) == 8
    assert any("–" in note for _, note in expected["AR-AdaLS"])
    rows = main_table(study).rows
    assert {row[0].text: [(cell.text, cell.note) for cell in row[1:]] for row in rows} == expected
    assert dict(in_terminal(study)) == expected
    assert dict(in_html(html_table(study))) == expected
    write_report(study, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert dict(in_html(page)) == expected
    # The table of all metrics and the sentences say the same, too.
    ece = metric_rows(study, study.variants)[0].columns.index("ECE")
    assert [row[ece].text for row in metric_rows(study, study.variants)[0].rows] == [row[2].text for row in rows]
    before, after = (100 * float(expected[name][3][0]) for name in ("vanilla", "AR-AdaLS + T"))
    assert f"from {before:.1f} to {after:.1f} points" in verdict(study).sentences[0]


# Names do not matter


@pytest.mark.parametrize(
    ("vanilla", "adals", "ar_adals"),
    [
        ("method1", "Meth2", "Method-3"),  # as long as before, so that all texts of a figure have the same place
        ("my-baseline", "Other-one", "Proposed"),
    ],
)
def test_names_of_methods_do_not_matter(vanilla: str, adals: str, ar_adals: str, tmp_path: Path) -> None:
    methods = {**METHODS, "vanilla_wide": 0.9, "ar_adals_self": 0.2}
    study = compared(make_study(methods=methods, variant_of={"ar_adals_self": "ar_adals"}))
    labels = {vanilla: "vanilla", adals: "AdaLS", ar_adals: "AR-AdaLS"}
    names = {"vanilla": vanilla, "adals": adals, "ar_adals": ar_adals, "AdaLS": adals, "AR-AdaLS": ar_adals}
    other = renamed(study, names)
    assert {method.name for method in other.methods} == {*labels, "label_smoothing", "vanilla_wide", "ar_adals_self"}
    expected = page_text(study, tmp_path)
    found = page_text(other, tmp_path)
    if len(vanilla) != len("vanilla"):
        expected, found = (re.sub("<svg.*?</svg>", "", text, flags=re.DOTALL) for text in (expected, found))
    for new, old in labels.items():
        assert not any(name in expected for name in (new, new.lower()))
        found = found.replace(new, old).replace(new.lower(), old.lower())
    assert found.splitlines() == expected.splitlines()
    printed_labels = printed(results_findings(other), 1000)
    for new, old in labels.items():
        printed_labels = printed_labels.replace(new, old)
    assert printed_labels == printed(results_findings(study), 1000)


def page_text(results: Results, folder: Path) -> str:
    write_report(results, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")
