"""Run a whole study: train, score, calibrate and evaluate every method at every seed, and write the report.

The same command continues after an interruption, and does again only the stages whose inputs have changed.
Results are in OUTPUT/results.json and, as one tidy table, in OUTPUT/table.parquet and table.csv; the report is in
OUTPUT/report.html. With several data sets (--data '[A, B]') each has a folder of its own below OUTPUT.

A run that fails by itself, because its training diverged for example, costs nothing but itself: the results and the
report name it with the reason, and the exit code is 1. The next call tries it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aradals.cli.recipe import add_recipe_arguments

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

EXAMPLE = "aradals run demo --output runs/demo --training.epochs=20 --methods.ar_adals.num_subsets=3"
RESUMES = True


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Add the options for the keys of the recipe and the output."""
    from aradals.cli.common import add_overwrite_argument

    parser.add_argument("--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    add_overwrite_argument(parser)
    parser.add_argument("--json", action="store_true", help="print results.json instead of the table")
    return add_recipe_arguments(parser, arguments)


def run(output: Path, device: str, overwrite: bool, json: bool, **study: Any) -> None:
    """Run the study and report it."""
    from aradals._internal.files import file_name
    from aradals.cli.common import finish
    from aradals.cli.terminal import print_log
    from aradals.errors import RunsFailed
    from aradals.pipeline.config import StudyConfig
    from aradals.pipeline.outputs import output_folder
    from aradals.pipeline.study import KINDS, OUTPUTS, files_of, run_study
    from aradals.results.failed import describe_failed

    config = StudyConfig(**study)
    names = [*OUTPUTS, "report.html"]
    with output_folder(output, names, kinds=KINDS, inputs=files_of(config), overwrite=overwrite, log=print_log):
        results = run_study(config, output, name=output.name, device=device, log=print_log, overwrite=overwrite)
        if results["kind"] == "study":
            studies = {output: results}
        else:
            studies = {output / file_name(each["data"]["name"]): each for each in results["studies"]}
        for folder, each in studies.items():
            if each["rows"]:
                finish(each, folder, "results.json", json)
    if failed := describe_failed(*studies.values()):
        raise RunsFailed(failed)
