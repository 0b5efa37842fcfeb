"""Write a model and its calibrator in one file, for programs that do not have this package.

The file is kept only if its probabilities equal those of the model within 1e-5. An ONNX file returns probabilities. A
program of torch.export (.pt2) and a folder for huggingface_hub return log-probabilities, which are logits, so that the
other commands take the program as --model. docs/production.md shows how to serve the file.
"""

from __future__ import annotations

from pathlib import Path

from aradals.cli.arguments import ExportArguments, ModelArguments
from aradals.cli.terminal import print_log, print_result

EXAMPLE = "aradals export --checkpoint model.safetensors --calibrator temperature.json --output model.onnx"
RESUMES = False


def run(model: ModelArguments, output: ExportArguments) -> Path:
    """Write the file, and say how far its probabilities are from those of the model."""
    from aradals.calibration import load_calibrator
    from aradals.pipeline.export import check_target_of, examples_of_shape, export
    from aradals.pipeline.outputs import input_paths
    from aradals.results import read_results

    read = input_paths(model.checkpoint, model.model, output.calibrator, output.results)
    check_target_of(output.output, output.format, output.results is not None)
    examples = examples_of_shape(output.input_shape, model.checkpoint)
    exported = export(
        model.load_for(examples),
        output.output,
        inputs=examples.batch(range(len(examples)))[1],
        calibrator=None if output.calibrator is None else load_calibrator(output.calibrator),
        calibrator_name="" if output.calibrator is None else output.calibrator.stem,
        format=output.format,
        results=None if output.results is None else read_results(output.results),
        read=read,
        overwrite=output.overwrite,
        log=print_log,
    )
    print_result(str(exported))
    return output.output
