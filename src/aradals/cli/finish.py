"""Results that are written into their folder and printed."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from aradals.cli.terminal import print_result
from aradals.errors import printable
from aradals.pipeline.artifacts import save_sealed
from aradals.report import (
    comparison_table,
    diagnosis_headlines,
    diagnosis_table,
    study_headlines,
    study_table,
    write_report,
)


def finish(results: dict[str, Any], output: Path, file: str, json: bool) -> None:
    """Write the results and the report, and print the table or the JSON."""
    save_sealed(output / file, results)
    write_report(results, output / "report.html")
    if json:
        print_result((output / file).read_text(encoding="utf-8").removesuffix("\n"))
        return
    is_diagnosis = results["kind"] == "diagnosis"
    print_result(diagnosis_table(results) if is_diagnosis else study_table(results))
    if results.get("comparisons") and (comparisons := comparison_table(results)).blocks:  # one method has none
        print_result(comparisons)
    print_result(Headlines(diagnosis_headlines(results) if is_diagnosis else study_headlines(results)))
    print_result(f"report: {output / 'report.html'}\nresults: {output / file}")


@dataclass(frozen=True)
class Headlines:
    """Sentences as a list, for rich to print."""

    sentences: list[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's protocol."""
        for sentence in self.sentences:
            # A Text, since names are other people's and may look like markup.
            yield Text(
                textwrap.fill(printable(sentence), options.max_width, initial_indent="- ", subsequent_indent="  ")
            )
