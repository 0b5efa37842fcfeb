"""Write corrupted images as a parquet file of lossless PNG, with the same columns and the same order of rows.

The corruptions are those of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C. `aradals evaluate --corruptions` makes the
same images in memory, so that only other programs need this file. The same command continues after an interruption.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aradals.cli.arguments import CorruptionArguments, DataArguments, OutputArguments, WorkerArguments
from aradals.cli.terminal import print_log, print_result

EXAMPLE = "aradals corrupt --data cifar10 --split test --corruption fog --severity 3 --output fog-3.parquet"
RESUMES = True


def run(
    data: DataArguments, corruption: CorruptionArguments, workers: WorkerArguments, output: OutputArguments
) -> Path:
    """Corrupt the images, and write them."""
    from aradals._internal.json_files import settings_digest
    from aradals.corruptions import choose_preset, corrupt
    from aradals.data.sources import load_companions
    from aradals.pipeline.corrupt import corrupt_file
    from aradals.pipeline.outputs import input_paths, output_file, refuse_other_request
    from aradals.pipeline.shards import Sharing

    name, severity, path = corruption.corruption, corruption.severity, output.output
    with output_file(path, ".parquet", "corrupted", inputs=input_paths(data.data), overwrite=output.overwrite):
        examples = data.load()
        corrupt(examples.batch([0])[1], examples.ids[:1], name, severity, preset=corruption.preset)
        preset = corruption.preset or choose_preset(*examples.input_shape[1:])
        request = settings_digest([name, severity, preset, examples.fingerprint])
        refuse_other_request(path, request, overwrite=output.overwrite)
        companions = load_companions(str(data.data), data.split, image_column=data.image_column)
        sharing = Sharing(data.load, workers.workers, workers.threads, "cpu", print_log)
        settings: dict[str, Any] = {"preset": preset, "request": request, "companions": companions}
        corrupt_file(examples, path, name, severity, sharing=sharing, **settings)
    print_result(f"{len(examples)} images of {examples.name}: {name}, severity {severity}, preset {preset}")
    print_result(f"images: {path}")
    return path
