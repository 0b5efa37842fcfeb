from __future__ import annotations

import io
import re

import pytest
from aradals.results.names import Variant
from rich.console import Console
from synthetic_results import METHODS, make_comparisons, make_diagnosis, make_study

from aradals.report import comparison_table, diagnosis_rows, diagnosis_table, study_table, table_rows
from aradals.report.tables import TerminalTables, corruption_rows, gap_rows, severity_rows
from aradals.report.view import shift_name, variants


def printed(table: TerminalTables, width: int) -> str:
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(table)
    return output.getvalue()


@pytest.mark.parametrize(
    ("variant", "label"),
    [
        (Variant("vanilla"), "vanilla"),
        (Variant("vanilla", "temperature"), "vanilla + temperature scaling"),
        (Variant("ar_adals"), "AR-AdaLS"),
        (Variant("adals", "post_hoc"), "AdaLS + post hoc"),
        (Variant("ar_adals_hybrid"), "AR-AdaLS, hybrid"),
        (Variant("ensemble_of_ar_adals", "margin_temperature"), "ensemble of AR-AdaLS + margin temperature"),
        (Variant("margin_smoothing"), "margin smoothing"),
        (Variant("random_subsets"), "random subsets"),
    ],
)
def test_labels(variant: Variant, label: str) -> None:
    assert variant.label == label


def test_percent_and_fractions_with_intervals_for_one_seed() -> None:
    study = make_study(n=800)
    row = study["rows"][0]
    clean, shift = table_rows(study)
    assert (clean.title, shift.title) == ("clean, n = 800", "shift (mean over 3 corruption types, 4 conditions)")
    assert len(clean.rows) == len(shift.rows) == 2 * len(METHODS)
    method, ece, floor, subset_error, accuracy, confidence, nll = clean.rows[0]
    assert method.text == "vanilla"
    assert accuracy.text == f"{100 * row['accuracy']:.1f}"
    assert accuracy.note == f"{100 * row['accuracy_low']:.1f}–{100 * row['accuracy_high']:.1f}"
    assert confidence.text == f"{100 * row['confidence']:.1f}"
    assert (ece.text, floor.text) == (f"{row['ece']:.3f}", f"{row['ece_noise_floor']:.3f}")
    assert floor.note == f"≤{row['ece_noise_floor_p95']:.3f}"
    assert [each[0].text for each in clean.rows[:4]] == [
        "vanilla",
        "vanilla + T",
        "label smoothing",
        "label smoothing + T",
    ]
    assert (subset_error.text, nll.text) == (f"{row['subset_calibration_error']:.3f}", f"{row['nll']:.3f}")


def test_standard_deviation_for_several_seeds() -> None:
    clean = table_rows(make_study(seeds=(0, 1, 2), shifts=()))[0]
    notes = [clean.rows[0][index].note for index in (1, 3, 4, 5)]
    assert all(note.startswith("± ") for note in notes)


def test_nulls_are_dashes() -> None:
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=())
    study["rows"][0] |= {"nll": None, "ece": None, "accuracy_low": None}
    cells = table_rows(study)[0].rows[0]
    assert (cells[6].text, cells[1].text, cells[4].note) == ("–", "–", "")


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_terminal_tables_lose_no_number(width: int, seeds: tuple[int, ...]) -> None:
    study = make_study(n=800, seeds=seeds)
    text = printed(study_table(study), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for block in table_rows(study):
        assert f"\n{block.title}\n" in text
        for row in block.rows:
            assert f"\n{row[0].text} " in text  # names do not wrap
            assert all(part in text for cell in row[1:] for part in (cell.text, cell.note))


def test_intervals_stand_beside_their_values_where_there_is_room() -> None:
    study = make_study(n=800)
    cell = table_rows(study)[0].rows[0][1]
    assert f"{cell.text} {cell.note} " in printed(study_table(study), 120)
    assert f"{cell.text} {cell.note} " not in printed(study_table(study), 100)


def test_diagnosis_table() -> None:
    diagnosis = make_diagnosis()
    diagnosis["subsets"][-1] |= {"confidence": diagnosis["subsets"][-1]["accuracy"] - 0.0004}
    block = diagnosis_rows(diagnosis)
    assert [row[0].text for row in block.rows[:3]] == ["all", "subset 0 (least robust)", "subset 1"]
    assert (block.rows[1][1].text, block.rows[-1][1].text) == ("+28.0", "0.0")
    text = printed(diagnosis_table(diagnosis), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(part in text for row in block.rows for cell in row[1:] for part in (cell.text, cell.note))


def test_long_names_wrap() -> None:
    text = printed(study_table(make_study(methods={"a name that is much too long " * 2: 1.0}, shifts=())), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_names_are_not_markup() -> None:
    study = make_study(methods={"[red]bold": 1.0}, calibrators=("none",), shifts=())
    assert "[red]bold" in printed(study_table(study), 100)


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
    study |= {"name": name, "comparisons": make_comparisons(study)}
    study["data"]["name"] = name
    diagnosis = make_diagnosis() | {"model": name, "data": name, "split": name}
    for table in (study_table(study), comparison_table(study), diagnosis_table(diagnosis)):
        output = io.StringIO()
        Console(file=output, width=100, force_terminal=True, color_system=None).print(table)
        written = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())  # rich's own bold and dim
        assert all(character.isprintable() or character == "\n" for character in written)
        assert "31m" not in written or "\\x" in written


def test_a_study_of_many_methods_fits_the_terminal() -> None:
    methods = dict.fromkeys(("vanilla", "mixup", "ar_adals", "ensemble", *(f"ar_adals_{k}" for k in range(18))), 0.5)
    study = make_study(n=800, methods=methods)
    study["comparisons"] = make_comparisons(study)
    text = printed(study_table(study), 80) + printed(comparison_table(study), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 80
    assert "AR-AdaLS, 3" not in text
    assert "39 more variants are in the report." in " ".join(text.split())


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
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=shifts, num_subsets=1)
    assert shift_name(study) == name


def test_gaps_by_subset_are_shaded_by_their_sign_and_size() -> None:
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=())
    study["rows"][1] |= {"accuracy": 0.9, "confidence": 0.8}
    (row,) = gap_rows(study, variants(study)).rows
    assert [cell.text for cell in row[2:4]] == ["-10.0", "+31.0"]
    assert [cell.shade for cell in row[2:4]] == pytest.approx([-0.5, 1.0])


def test_tables_by_corruption_are_means_over_its_severities() -> None:
    study = make_study(methods={"vanilla": 1.0}, calibrators=("none",), shifts=[("fog", 1), ("fog", 5), ("snow", 1)])
    errors = {row["corruption"] + str(row["severity"]): row["ece"] for row in study["rows"] if row["subset"] is None}
    block = corruption_rows(study, variants(study))
    assert block.columns == ("method", "clean", "all types", "fog", "snow")
    fog = (errors["fog1"] + errors["fog5"]) / 2
    mean = (errors["fog1"] + errors["fog5"] + errors["snow1"]) / 3
    expected = [f"{value:.3f}" for value in (errors["none0"], mean, fog, errors["snow1"])]
    assert [cell.text for cell in block.rows[0][1:]] == expected
    by_severity, snow = severity_rows(study, variants(study))
    assert by_severity.columns[:4] == ("method", "ECE at 1", "ECE at 5", "mean ECE")
    assert [cell.text for cell in by_severity.rows[0][1:4]] == [
        f"{value:.3f}" for value in (errors["fog1"], errors["fog5"], fog)
    ]
    assert snow.title == "snow"
