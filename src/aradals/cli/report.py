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
    """The folder, and where to write."""
    parser.add_argument("folder", type=Path, help="holds results.json or diagnosis.json")
    parser.add_argument(
        "--output",
        type=Path | None,
        default=None,
        help="FOLDER/report.html by default; of several data sets, the folder to write below",
    )
    return arguments


def run(folder: Path, output: Path | None) -> None:
    """Write the report."""
    from aradals.artifacts import load_json
    from aradals.errors import InputError
    from aradals.report import write_report

    found = [folder / name for name in ("results.json", "diagnosis.json") if (folder / name).exists()]
    if not found:
        raise InputError(
            expected=f"results.json or diagnosis.json in {folder}",
            got="neither",
            hint="the --output folder of aradals run, evaluate or diagnose",
        )
    results = load_json(found[0])
    if not isinstance(results, dict):
        raise InputError(expected=f"keys and values in {found[0]}", got=type(results).__name__, hint="another folder")
    targets = [(results, output or folder / "report.html")]
    if results.get("kind") == "studies":
        from aradals.study import folder_name

        below = output or folder
        targets = [(study, below / folder_name(study["data"]["name"]) / "report.html") for study in results["studies"]]
    for content, target in targets:
        write_report(content, target)
        print_result(f"report: {target}")
