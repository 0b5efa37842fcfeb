"""Run a whole study: train, score, calibrate and evaluate every method at every seed, and write the report.

The same command continues after an interruption, and repeats only the stages whose inputs have changed.
The results are in OUTPUT/results.json and, as one tidy table, in OUTPUT/table.parquet and table.csv. The report is in
OUTPUT/report.html. If there are several data sets (--data '[A, B]'), each has a separate folder below OUTPUT.

If a run fails, for example because its training diverged, the other runs continue. The results and the report name the
failed run and the reason, and the exit code is 1. The next call tries the run again.
"""

from __future__ import annotations

from pathlib import Path

from aradals.cli.arguments import ResultsArguments, StudyArguments, WorkerArguments
from aradals.cli.terminal import print_log

EXAMPLE = "aradals run demo --output runs/demo --training.epochs=20 --methods.ar_adals.targets.subsets.count=3"
RESUMES = True


def run(study: StudyArguments, workers: WorkerArguments, output: ResultsArguments) -> Path:
    """Run the study, and report it."""
    from aradals.cli.finish import finish
    from aradals.errors import RunsFailed
    from aradals.pipeline.outputs import output_folder
    from aradals.pipeline.ranks import join_ranks
    from aradals.pipeline.study import KINDS, OUTPUTS, files_of, run_studies
    from aradals.results.failed import describe_failed

    config, folder, overwrite = study.load(), output.output, output.overwrite
    if join_ranks(config.training):
        return folder
    names = [*OUTPUTS, "report.html"]
    with output_folder(folder, names, kinds=KINDS, inputs=files_of(config), overwrite=overwrite, log=print_log):
        studies = run_studies(
            config,
            folder,
            workers=workers.workers,
            threads=workers.threads,
            device=study.device,
            log=print_log,
            overwrite=overwrite,
        )
        finish(studies, folder, "results.json", json=output.json)
    if failed := describe_failed(*studies.values()):
        raise RunsFailed(failed)
    return folder
