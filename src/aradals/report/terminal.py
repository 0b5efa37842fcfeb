"""Tables and findings for a terminal of at least 80 columns, printed by rich."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aradals._internal.optional import optional_imports
from aradals.errors import printable
from aradals.report.findings import Verdict, verdict
from aradals.report.tables import TableBlock, main_table, main_table_note
from aradals.report.view import metric_name

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from aradals.results.records import Results

MIN_NAME_WIDTH = 12


@dataclass(frozen=True)
class TerminalTable:
    """Table with a title and a note.

    Intervals are beside their values if the terminal is wide enough, else below them. If the table is still too wide,
    the names in the first column wrap.
    """

    title: str
    block: TableBlock
    note: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        from rich.text import Text

        # All cells are Text objects, because names from users may look like markup or contain control characters.
        block = _printable_block(self.block)
        yield Text(printable(self.title), style="bold")
        yield Text(block.title)
        for separator, gap in ((" ", 2), ("\n", 2), ("\n", 1)):
            first, *others = _widths(block, separator)
            room = options.max_width - sum(others) - gap * len(others)
            if room >= first:
                break
        yield _rich_table(block, [min(first, max(room, MIN_NAME_WIDTH)), *others], separator, gap)
        yield Text(f"\n{printable(self.note)}", style="dim")

    def __str__(self) -> str:
        """Write the table as text, 100 columns wide.

        Raises:
            MissingExtraError: rich is not installed.
        """
        with optional_imports():
            from rich.console import Console
        console = Console(width=100)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    __repr__ = __str__


@dataclass(frozen=True)
class Findings:
    """Sentences of a verdict, as a list."""

    verdict: Verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        from rich.text import Text

        for sentence in (*self.verdict.warnings, *self.verdict.sentences, *self.verdict.notes):
            # The line is a Text, because names from users may look like markup.
            yield Text(
                textwrap.fill(printable(sentence), options.max_width, initial_indent="- ", subsequent_indent="  ")
            )


def results_table(results: Results) -> TerminalTable:
    """Make the main table of results: methods side by side, or the robustness subsets of one model."""
    separator = ": " if results.kind == "study" else ", "
    names = [results.name] if results.data.name in results.name else [results.name, results.data.label]
    return TerminalTable(separator.join(filter(None, names)), main_table(results), main_table_note(results))


def results_findings(results: Results) -> Findings:
    """Make the verdict on results."""
    return Findings(verdict(results))


def paired_differences(results: Results) -> str:
    """Make one line for each metric: another model minus the first one on the same examples, with the interval."""
    others = [each for each in results.comparisons if each.method != each.reference_method]
    lines = [
        f"{each.method} minus {each.reference_method}, paired by example: "
        f"{metric_name(each.metric)} {each.difference:+.4f} (95 % interval {each.low:+.4f} to {each.high:+.4f})"
        for each in others
        if not each.reference.is_calibrated and not each.variant.is_calibrated
    ]
    return "\n".join(map(printable, lines))


def _printable_block(block: TableBlock) -> TableBlock:
    rows = [[replace(cell, text=printable(cell.text)) for cell in row] for row in block.rows]
    return TableBlock(printable(block.title), tuple(map(printable, block.columns)), rows)


def _rich_table(block: TableBlock, widths: list[int], separator: str, gap: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # The box adds a column between two others.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    for index, (column, width) in enumerate(zip(block.columns, widths, strict=True)):
        table.add_column(_header(column), width=width, justify="right" if index else "left")
    for row in block.rows:
        table.add_row(
            *(Text.assemble(cell.marked, (f"{separator}{cell.note}" if cell.note else "", "dim")) for cell in row)
        )
    return table


def _header(column: str) -> str:
    """Break a title into two lines."""
    return column.replace(" ", "\n", 1)


def _widths(block: TableBlock, separator: str) -> list[int]:
    """Compute the widths of the columns at which no line breaks."""
    rows = [[_header(column) for column in block.columns]]
    rows += [[f"{cell.marked}{separator}{cell.note}".rstrip() for cell in row] for row in block.rows]
    return [max(len(line) for text in column for line in text.split("\n")) for column in zip(*rows, strict=True)]
