"""Write corrupted images as a parquet file: lossless PNG, the same columns and order of rows.

Corruptions are those of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C. `aradals evaluate --corruptions` makes the same
images on the fly; a file is for other programs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from aradals.cli.common import Source, add_data_arguments, add_overwrite_argument
from aradals.cli.terminal import print_result
from aradals.corruptions import CORRUPTIONS, PRESETS

EXAMPLE = "aradals corrupt --data cifar10 --split test --corruption fog --severity 3 --output fog-3.parquet"
RESUMES = False


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Add the options for data, corruption, and the file to write."""
    add_data_arguments(parser)
    parser.add_argument("--corruption", type=str, required=True, help=", ".join(CORRUPTIONS))
    parser.add_argument("--severity", type=int, required=True, help="1 (mild) to 5 (strong)")
    parser.add_argument(
        "--preset",
        type=str | None,
        default=None,
        help=f"whose constants: {', '.join(PRESETS)} (made for 32, 64 and 224 pixels); by default the nearest in size",
    )
    parser.add_argument("--output", type=Path, required=True, help="FILE.parquet")
    add_overwrite_argument(parser)
    return arguments


def run(corruption: str, severity: int, preset: str | None, output: Path, overwrite: bool, **source: Any) -> None:
    """Corrupt and write."""
    from aradals.corruptions import choose_preset, corrupt
    from aradals.data.corrupted_parquet import write_corrupted
    from aradals.data.sources import load_companions
    from aradals.errors import InputError
    from aradals.pipeline.artifacts import settings_digest
    from aradals.pipeline.outputs import output_file, refuse_other_request

    if severity not in range(1, 6):
        raise InputError(expected="a severity from 1 to 5", got=str(severity), hint="1 (mild) to 5 (strong)")
    read = Source(**source)
    with output_file(output, ".parquet", "corrupted", inputs=read.paths(), overwrite=overwrite):
        examples = read.load()
        corrupt(examples.__getitems__([0])[1], examples.ids[:1], corruption, severity, preset=preset)
        preset = preset or choose_preset(*examples.input_shape[1:])
        request = settings_digest([corruption, severity, preset, examples.fingerprint])
        refuse_other_request(output, request, overwrite=overwrite)
        companions = load_companions(source["data"], source["split"], image_column=source["image_column"])
        write_corrupted(output, examples, corruption, severity, preset=preset, companions=companions, request=request)
    print_result(f"{len(examples)} images of {examples.name}: {corruption}, severity {severity}, preset {preset}")
    print_result(f"images: {output}")
