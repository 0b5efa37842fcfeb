"""The tables of a report: the same cells for the terminal and for HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aradals.errors import MissingExtraError
from aradals.report.summary import (
    CLEAN,
    Condition,
    Measure,
    Results,
    Variant,
    condition_name,
    diagnosis_results,
    measure,
    num_examples,
    num_subsets,
    seeds_of,
    shift_conditions,
    variants,
)

if TYPE_CHECKING:
    from rich.table import Table

STUDY_COLUMNS = ("method", "accuracy %", "confidence %", "ECE", "noise floor", "subset cal. error", "NLL")
DIAGNOSIS_COLUMNS = ("examples", "n", "accuracy %", "confidence %", "gap, points", "ECE", "noise floor")


@dataclass(frozen=True)
class Cell:
    """A value as text, and under it its uncertainty."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class TableBlock:
    """Rows under a common title; the first cell of each row names it."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]


def table_rows(results: Results) -> list[TableBlock]:
    """Every variant on clean data, then its mean over all shifted conditions.

    Accuracy and confidence in percent, the rest as fractions (NLL in nats). The note of a cell is the 95 % interval
    for one seed, the standard deviation over seeds for several.
    """
    blocks = [_block(results, f"clean, n = {num_examples(results):,}", [CLEAN])]
    if shifts := shift_conditions(results):
        names = (
            ", ".join(condition_name(shift) for shift in shifts) if len(shifts) <= 3 else f"{len(shifts)} conditions"
        )
        blocks.append(_block(results, f"shift (mean over {names})", shifts))
    return blocks


def diagnosis_rows(diagnosis: Results) -> TableBlock:
    """All examples, then each robustness subset, least robust first."""
    results = diagnosis_results(diagnosis)
    variant = variants(results)[0]
    count = num_subsets(results)
    sizes = [row.get("n") for row in results["rows"]]
    rows = []
    for subset, size in zip([None, *range(count)], sizes, strict=True):
        get = {
            key: measure(results, variant, key, subset=subset)
            for key in ("accuracy", "confidence", "gap", "ece", "ece_noise_floor")
        }
        name = "all" if subset is None else f"subset {subset}{_end_name(subset, count)}"
        rows.append(
            [
                Cell(name),
                Cell("–" if size is None else f"{size:,}"),
                percent(get["accuracy"]),
                percent(get["confidence"]),
                percent(get["gap"], signed=True),
                fraction(get["ece"]),
                fraction(get["ece_noise_floor"]),
            ]
        )
    return TableBlock("by robustness", DIAGNOSIS_COLUMNS, rows)


def table_note(results: Results) -> str:
    """What the numbers of `table_rows` are."""
    seeds = len(seeds_of(results))
    note = "95 % intervals below" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds"
    return f"Accuracy and confidence in %, calibration errors as fractions (0.01 = 1 point), NLL in nats; {note}."


def study_table(results: Results) -> Table:
    """`table_rows` for the terminal, from 80 columns on.

    Raises:
        MissingExtraError: without rich.
    """
    title = f"{results.get('name', '')}: {results.get('data', {}).get('name', '')}".strip(": ")
    return _rich_table(table_rows(results), title, table_note(results))


def diagnosis_table(diagnosis: Results) -> Table:
    """`diagnosis_rows` for the terminal, from 80 columns on.

    Raises:
        MissingExtraError: without rich.
    """
    note = "Subset 0 is the least robust. gap = confidence - accuracy, positive = overconfident; 95 % intervals below."
    return _rich_table([diagnosis_rows(diagnosis)], f"{diagnosis.get('data', '')} {diagnosis.get('split', '')}", note)


def percent(value: Measure, *, signed: bool = False) -> Cell:
    """A fraction as percent (or points) with one digit."""
    scaled = Measure(value.value * 100, value.low * 100, value.high * 100, value.spread * 100, value.num_seeds)
    return _cell(scaled, "+.1f" if signed else ".1f")


def fraction(value: Measure) -> Cell:
    """A fraction with three digits."""
    return _cell(value, ".3f")


def _block(results: Results, title: str, conditions: Sequence[Condition]) -> TableBlock:
    return TableBlock(title, STUDY_COLUMNS, [_row(results, v, conditions) for v in variants(results)])


def _row(results: Results, variant: Variant, conditions: Sequence[Condition]) -> list[Cell]:
    get = {
        key: measure(results, variant, key, conditions=conditions)
        for key in ("accuracy", "confidence", "ece", "ece_noise_floor", "subset_calibration_error", "nll")
    }
    method, _, calibrator = variant.label.partition(" + ")
    return [
        Cell(method, f"+ {calibrator}" if calibrator else ""),
        percent(get["accuracy"]),
        percent(get["confidence"]),
        fraction(get["ece"]),
        Cell(fraction(get["ece_noise_floor"]).text),
        fraction(get["subset_calibration_error"]),
        Cell(fraction(get["nll"]).text),
    ]


def _cell(value: Measure, form: str) -> Cell:
    if not value.known:
        return Cell("–")
    text, unsigned = f"{value.value:{form}}", form.lstrip("+")
    if value.num_seeds > 1:
        return Cell(text, f"± {value.spread:{unsigned}}")
    if not (math.isfinite(value.low) and math.isfinite(value.high)):
        return Cell(text)
    separator = "–" if form == unsigned else " to "  # a dash beside a minus sign is hard to read
    return Cell(text, f"{value.low:{unsigned}}{separator}{value.high:{unsigned}}")


def _end_name(subset: int, count: int) -> str:
    if count == 1:
        return ""
    return {0: " (least robust)", count - 1: " (most robust)"}.get(subset, "")


def _rich_table(blocks: list[TableBlock], title: str, caption: str) -> Table:
    try:
        from rich import box
        from rich.table import Table
        from rich.text import Text
    except ImportError as error:
        raise MissingExtraError("rich", "cli") from error
    # Text objects throughout: names are other people's and may look like markup.
    table = Table(title=Text(title), caption=Text(caption), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    first, *others = blocks[0].columns
    table.add_column(first)
    for column in others:
        table.add_column(column.replace(" ", "\n"), justify="right", min_width=_widest(blocks, column))
    for block in blocks:
        if len(blocks) > 1:
            table.add_row(Text(block.title, style="bold"))
        for row in block.rows:
            table.add_row(*(Text.assemble(cell.text, (f"\n{cell.note}" if cell.note else "", "dim")) for cell in row))
        table.add_section()
    return table


def _widest(blocks: list[TableBlock], column: str) -> int:
    """Width below which a number or a word would break; the first column gives way instead."""
    index = blocks[0].columns.index(column)
    cells = [row[index] for block in blocks for row in block.rows]
    return max(map(len, [*column.split(), *(text for cell in cells for text in (cell.text, cell.note))]))
