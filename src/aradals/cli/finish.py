"""The end of a command with results: they are written into their folder and printed."""

from __future__ import annotations

from pathlib import Path

from aradals.cli.terminal import print_result
from aradals.report.terminal import results_findings
from aradals.results.records import Results


def finish(results: Results, folder: Path, file: str, *, json: bool) -> None:
    """Write the results and the report, and print the findings or the JSON."""
    results.save(folder / file)
    results.report(folder / "report.html")
    if json:
        print_result((folder / file).read_text(encoding="utf-8").removesuffix("\n"))
    else:
        print_result(results.table(), results_findings(results))
        print_result(f"report: {folder / 'report.html'}\nresults: {folder / file}")
