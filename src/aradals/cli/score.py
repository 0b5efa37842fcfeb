"""Measure each example's robustness: the smallest perturbation that changes the model's prediction.

The parquet table has the columns id (row in the split), predicted, score (finite; larger means more robust), margin
(lead of the predicted class in logits), norm (of a verified perturbation, see --verified; null if there is none),
success, num_forward and num_backward. The same command continues after an interruption. After it has finished, it does
nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aradals.cli.arguments import (
    AttackArguments,
    AuditArguments,
    DataArguments,
    ModelArguments,
    OutputArguments,
    WorkerArguments,
)
from aradals.cli.terminal import print_log, print_result

if TYPE_CHECKING:
    from aradals.data import Examples
    from aradals.pipeline.classifier import Classifier

EXAMPLE = "aradals score --model resnet20 --checkpoint weights.pt --data cifar10 --split test --output scores.parquet"
RESUMES = True


def run(
    model: ModelArguments,
    data: DataArguments,
    attack: AttackArguments,
    audit: AuditArguments,
    workers: WorkerArguments,
    output: OutputArguments,
) -> Path:
    """Score the examples."""
    from aradals.pipeline.outputs import input_paths, output_file
    from aradals.pipeline.score import (
        AttackSettings,
        Sharing,
        audit_file,
        check_num_subsets,
        describe_scores,
        most_workers,
        score_file,
    )
    from aradals.robustness.audit import describe_audit

    settings = AttackSettings(**asdict(attack))
    settings.check()
    read = input_paths(data.data, model.checkpoint, model.model)
    with output_file(output.output, ".parquet", "scores", inputs=read, overwrite=output.overwrite):
        classifier, examples = _load(model, data)
        if audit.audit:
            check_num_subsets(audit.num_subsets, len(examples), "--num-subsets", examples.name)
        with workers.open(most_workers(classifier, examples), model.device) as opened:
            sharing = Sharing(opened, partial(_load, model, data)) if opened.number > 1 else None
            table = score_file(
                classifier,
                examples,
                output.output,
                settings,
                sharing=sharing,
                overwrite=output.overwrite,
                log=print_log,
            )
        if audit.audit:
            sample = {"num_examples": audit.audit, "num_subsets": audit.num_subsets, "seed": audit.seed}
            record = audit_file(classifier, examples, output.output, **sample, log=print_log)
            print_result(describe_audit(record))
    print_result(f"{describe_scores(table)}\nscores: {output.output}")
    return output.output


def _load(model: ModelArguments, data: DataArguments) -> tuple[Classifier, Examples]:
    """Load the model and the examples, in this process or in a worker."""
    examples = data.load(model.checkpoint, labeled=False)
    return model.load(examples), examples
