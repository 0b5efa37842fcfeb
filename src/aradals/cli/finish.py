"""The end of a command with results: they are written into their folder and printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aradals.cli.terminal import print_result
from aradals.report.terminal import results_findings
from aradals.results.records import Results


def finish(studies: Mapping[Path, Results], folder: Path, file: str, *, json: bool) -> None:
    """Write results and reports, each into a folder of its own; print the findings, or the JSON in ``folder``."""
    for each, results in studies.items():
        if results.rows:
            results.save(each / file)
            results.report(each / "report.html")
            if not json:
                print_result(results.table(), results_findings(results))
                print_result(f"report: {each / 'report.html'}\nresults: {each / file}")
    if json:
        print_result((folder / file).read_text(encoding="utf-8").removesuffix("\n"))
