"""Write corrupted images or rows of a table as a parquet file, with the same columns and the same order of rows.

Images become lossless PNG; their corruptions are those of CIFAR-10-C, Tiny-ImageNet-C and ImageNet-C. The numbers of a
table stay on their scale; --checkpoint takes ranges and means of the columns from the training of a model.
`aradals evaluate --corruptions` makes the same inputs in memory, so that only other programs need this file. The same
command continues after an interruption.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from aradals.cli.arguments import CorruptionArguments, DataArguments, OutputArguments, WorkerArguments
from aradals.cli.terminal import print_log, print_result

EXAMPLE = "aradals corrupt --data cifar10 --split test --corruption fog --severity 3 --output fog-3.parquet"
RESUMES = True


def run(
    data: DataArguments, corruption: CorruptionArguments, workers: WorkerArguments, output: OutputArguments
) -> Path:
    """Corrupt the examples, and write them."""
    from aradals._internal.json_files import settings_digest
    from aradals.corruptions import choose_preset, corrupt
    from aradals.data.sources import load_companions
    from aradals.pipeline.corrupt import corrupt_file
    from aradals.pipeline.outputs import input_paths, output_file, refuse_other_request
    from aradals.pipeline.shards import Sharing

    name, severity, path = corruption.corruption, corruption.severity, output.output
    with output_file(path, ".parquet", "corrupted", inputs=input_paths(data.data), overwrite=output.overwrite):
        examples = data.load(corruption.checkpoint)
        first, is_image = examples.batch([0]), len(examples.input_shape) > 1
        corrupt(first[1], first[0], name, severity, preset=corruption.preset, means=examples.column_means)
        preset = corruption.preset or (choose_preset(*examples.input_shape[1:]) if is_image else None)
        request = settings_digest([name, severity, preset, examples.fingerprint, examples.preparation])
        refuse_other_request(path, request, overwrite=output.overwrite)
        columns = {"image_column": data.image_column, "label_column": data.label_column}
        companions = load_companions(str(data.data), data.split, **columns)
        load = partial(data.load, corruption.checkpoint)
        sharing = Sharing(load, workers.workers, workers.threads, "cpu", print_log)
        settings: dict[str, Any] = {"preset": preset, "request": request, "companions": companions}
        corrupt_file(examples, path, name, severity, sharing=sharing, **settings)
    kind, constants = ("images", f", preset {preset}") if is_image else ("rows", "")
    print_result(f"{len(examples)} {kind} of {examples.name}: {name}, severity {severity}{constants}")
    print_result(f"{kind}: {path}")
    return path
