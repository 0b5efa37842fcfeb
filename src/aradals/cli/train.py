"""Train one model or ensemble of a recipe, and the models and scores that it needs.

AR-AdaLS first trains a vanilla model and scores the data, unless the model scores itself. The same command continues
after an interruption. The checkpoint records how to build its model, so that other commands need no --model.
"""

from __future__ import annotations

from pathlib import Path

from aradals.cli.arguments import StudyArguments, TrainingArguments
from aradals.cli.terminal import print_log, print_result

EXAMPLE = "aradals train cifar10-small --data uoft-cs/cifar10 --method ar_adals --seed 1 --output runs/ar-adals"
RESUMES = True


def run(study: StudyArguments, training: TrainingArguments) -> Path:
    """Train the model."""
    from aradals.pipeline.ranks import join_ranks
    from aradals.pipeline.study import train_one

    config = study.load()
    if join_ranks(config.training):
        return training.output
    for checkpoint in train_one(
        config,
        training.method,
        training.seed,
        training.output,
        device=study.device,
        log=print_log,
        overwrite=training.overwrite,
    ):
        print_result(f"checkpoint: {checkpoint}")
    return training.output
