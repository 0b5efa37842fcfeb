"""Run a whole study: train, score, calibrate and evaluate every method at every seed, and write the report.

The same command continues after an interruption, and does again only the stages whose inputs have changed.
Results are in OUTPUT/results.json and, as one tidy table, in OUTPUT/table.parquet and table.csv; the report is in
OUTPUT/report.html. With several data sets (--data '[A, B]') each has a folder of its own below OUTPUT.

A run that fails by itself, because its training diverged for example, costs nothing but itself: the results and the
report name it with the reason, and the exit code is 1. The next call tries it again.
"""

from __future__ import annotations

from pathlib import Path

from aradals.cli.arguments import ResultsArguments, StudyArguments
from aradals.cli.terminal import print_log

EXAMPLE = "aradals run demo --output runs/demo --training.epochs=20 --methods.ar_adals.targets.subsets.count=3"
RESUMES = True


def run(study: StudyArguments, output: ResultsArguments) -> Path:
    """Run the study and report it."""
    from aradals._internal.files import file_name
    from aradals.cli.finish import finish
    from aradals.errors import RunsFailed
    from aradals.pipeline.outputs import output_folder
    from aradals.pipeline.recipes import load_recipe
    from aradals.pipeline.study import KINDS, OUTPUTS, files_of, run_study
    from aradals.results.failed import describe_failed

    config, folder, overwrite = load_recipe(study.recipe, study.overrides), output.output, output.overwrite
    names = [*OUTPUTS, "report.html"]
    with output_folder(folder, names, kinds=KINDS, inputs=files_of(config), overwrite=overwrite, log=print_log):
        results = run_study(config, folder, name=folder.name, device=study.device, log=print_log, overwrite=overwrite)
        studies = {folder: results}
        if results["kind"] == "studies":
            studies = {folder / file_name(each["data"]["name"]): each for each in results["studies"]}
        for each_folder, each in studies.items():
            if each["rows"]:
                finish(each, each_folder, "results.json", output.json)
    if failed := describe_failed(*studies.values()):
        raise RunsFailed(failed)
    return folder
