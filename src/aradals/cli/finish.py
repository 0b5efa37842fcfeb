"""The end of a command with results: they are written into their folder and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from aradals._internal.files import file_digest
from aradals._internal.json_files import settings_digest
from aradals.cli.arguments import ResultsArguments
from aradals.cli.terminal import print_result
from aradals.errors import InputError
from aradals.pipeline.outputs import refuse_other_request
from aradals.report.terminal import paired_differences, results_findings
from aradals.results.records import Results


def claim(output: ResultsArguments, file: str, *settings: object, files: Sequence[Path]) -> str:
    """Refuse a folder with results of another request; return the digest of this request.

    Args:
        output: the folder, and whether its results may be replaced.
        file: name of the file of the results.
        settings: everything that decides the results, except for files.
        files: files whose content decides the results.

    Raises:
        InputError: a file is missing, or the folder has results of another request.
    """
    for path in files:
        if not path.is_file():
            raise InputError(expected=f"a readable file {path}", got="no such file", hint="another path")
    request = settings_digest([settings, list(map(file_digest, files))])
    refuse_other_request(output.output / file, request, overwrite=output.overwrite)
    return request


def finish(studies: Mapping[Path, Results], folder: Path, file: str, *, json: bool) -> None:
    """Write results and reports, each into a folder of its own; print the findings, or the JSON in ``folder``."""
    for each, results in studies.items():
        if results.rows:
            results.save(each / file)
            results.report(each / "report.html")
            if not json:
                print_result(results.table(), results_findings(results))
                if results.kind == "evaluation" and (differences := paired_differences(results)):
                    print_result(differences)
                print_result(f"report: {each / 'report.html'}\nresults: {each / file}")
    if json:
        print_result((folder / file).read_text(encoding="utf-8").removesuffix("\n"))
