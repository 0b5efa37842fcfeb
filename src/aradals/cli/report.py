"""Write the HTML report of a folder with results.json or diagnosis.json; no model is needed.

Of a study of several data sets, a report is written into the folder of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aradals.cli.terminal import print_result

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

EXAMPLE = "aradals report runs/demo"
RESUMES = False


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Add the options for the folder and the output."""
    from aradals.cli.common import add_overwrite_argument

    parser.add_argument("folder", type=Path, help="holds results.json or diagnosis.json")
    parser.add_argument(
        "--output",
        type=Path | None,
        default=None,
        help="FOLDER/report.html by default; of several data sets, the folder to write below",
    )
    add_overwrite_argument(parser)
    return arguments


def run(folder: Path, output: Path | None, overwrite: bool) -> None:
    """Write the report."""
    from aradals._internal.files import file_name
    from aradals.errors import InputError
    from aradals.pipeline.artifacts import load_sealed
    from aradals.pipeline.outputs import output_file
    from aradals.report import write_report

    found = [folder / name for name in ("results.json", "diagnosis.json") if (folder / name).exists()]
    if not found:
        raise InputError(
            expected=f"results.json or diagnosis.json in {folder}",
            got="neither",
            hint="the --output folder of aradals run, evaluate or diagnose",
        )
    results = load_sealed(found[0], required=False)
    try:
        targets = [(results, output or folder / "report.html")]
        if results.get("kind") == "studies":
            below = output or folder
            targets = [
                (study, below / file_name(study["data"]["name"]) / "report.html")
                for study in results["studies"]
                if study["rows"]  # none where all runs failed
            ]
        for content, target in targets:
            with output_file(target, ".html", "report", inputs=found, overwrite=overwrite):
                write_report(content, target)
            print_result(f"report: {target}")
    except InputError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        # The file is somebody's, and may hold anything anywhere.
        raise InputError(
            expected=f"results in {found[0]} as `aradals run`, `evaluate` or `diagnose` write them",
            got=f"{type(error).__name__}: {error}",
            hint="making them again",
        ) from error
