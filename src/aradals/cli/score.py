"""Measure each example's robustness: the smallest perturbation that changes the model's prediction.

The parquet table has the columns id (row in the split), predicted, score (finite; larger means more robust), margin
(lead of the predicted class in logits), norm (of a verified perturbation, see --verified; null if there is none),
success, num_forward and num_backward. The same command continues after an interruption. After it has finished, it does
nothing.
"""

from __future__ import annotations

from pathlib import Path

from aradals.cli.arguments import DataArguments, OutputArguments, SearchArguments, SharedModel
from aradals.cli.terminal import print_log, print_result

EXAMPLE = "aradals score --model resnet20 --checkpoint weights.pt --data cifar10 --split test --output scores.parquet"
RESUMES = True


def run(
    model: SharedModel,
    data: DataArguments,
    search: SearchArguments,
    output: OutputArguments,
) -> Path:
    """Score the examples."""
    from aradals.pipeline import score
    from aradals.pipeline.outputs import input_paths, output_file
    from aradals.robustness.audit import describe_audit

    settings = score.AttackSettings(search.attack, search.attack_args, search.verified, search.bf16)
    settings.check()
    path, read = output.output, input_paths(data.data, model.checkpoint, model.model)
    with output_file(path, ".parquet", "scores", inputs=read, overwrite=output.overwrite):
        classifier, examples = model.load(data, labeled=False)
        if search.audit:
            score.check_num_subsets(search.num_subsets, len(examples), "--num-subsets", examples.name)
        sharing = model.sharing(data, labeled=False)
        seconds = score.score_file(
            classifier, examples, path, settings, sharing=sharing, overwrite=output.overwrite, log=print_log
        )
        if search.audit:
            sample = {"num_examples": search.audit, "num_subsets": search.num_subsets, "seed": search.seed}
            print_result(describe_audit(score.audit_file(classifier, examples, path, **sample, log=print_log)))
    print_result(f"{score.describe_score_file(path, seconds)}\nscores: {path}")
    return path
