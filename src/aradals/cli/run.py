"""Run a whole study: train, score, calibrate and evaluate every method at every seed, and write the report.

The same command continues after an interruption, and does again only the stages whose inputs have changed.
Results are in OUTPUT/results.json and, as one tidy table, in OUTPUT/table.parquet and table.csv; the report is in
OUTPUT/report.html. With several data sets (--data '[A, B]') each has a folder of its own below OUTPUT.
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
    """The keys of the recipe, and where to write."""
    parser.add_argument("--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print results.json instead of the table")
    return add_recipe_arguments(parser, arguments)


def run(output: Path, device: str, json: bool, **study: Any) -> None:
    """Run the study and report it."""
    from aradals.cli.common import finish
    from aradals.cli.terminal import print_log
    from aradals.config import StudyConfig
    from aradals.study import folder_name, run_study

    results = run_study(StudyConfig(**study), output, name=output.name, device=device, log=print_log)
    if results["kind"] == "study":
        finish(results, output, "results.json", json)
        return
    for study in results["studies"]:
        finish(study, output / folder_name(study["data"]["name"]), "results.json", json)
