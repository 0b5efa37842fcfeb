"""Write the HTML report of a folder with results.json or diagnosis.json; no model is needed.

For a study of several data sets, each data set gets a report in its folder.
"""

from __future__ import annotations

from pathlib import Path

from aradals.cli.arguments import ReportArguments
from aradals.cli.terminal import print_result

EXAMPLE = "aradals report runs/demo"
RESUMES = False


def run(report: ReportArguments) -> Path:
    """Write the report."""
    from aradals._internal.files import file_name
    from aradals.pipeline.outputs import check_weights, output_file, refuse_other_request
    from aradals.results.files import read_studies, results_file

    folder, output = report.folder, report.output
    read = results_file(folder)
    studies = read_studies(read)
    homes = [read.parent / file_name(study.data.name) if len(studies) > 1 else read.parent for study in studies]
    for study, home in zip(studies, homes, strict=True):
        check_weights(study, home)
    targets = {output or folder / "report.html": studies[0]}
    if len(studies) > 1:
        below = output or folder
        targets = {below / file_name(study.data.name) / "report.html": study for study in studies if study.rows}
    for target, results in targets.items():
        with output_file(target, ".html", "report", inputs=[read], overwrite=report.overwrite):
            if output:  # the report in the folder of the results is always that of the results
                refuse_other_request(target, results.identity, overwrite=report.overwrite)
            results.report(target)
        print_result(f"report: {target}")
    return output or folder
