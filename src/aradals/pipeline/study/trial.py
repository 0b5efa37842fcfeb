"""A trial of a study on two examples, so that errors occur before hours of work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from aradals._internal.optional import load_extra
from aradals.checks import FITTING_DATA, check_labels
from aradals.inference.gradients import model_inputs
from aradals.inference.outputs import logit_model
from aradals.inference.predictions import evaluation_mode, resolve_device, try_model
from aradals.pipeline.config import StudyConfig
from aradals.pipeline.domains import check_domains
from aradals.pipeline.health import check_trainable
from aradals.pipeline.leakage import check_other, check_unseen
from aradals.pipeline.ranks import check_devices
from aradals.pipeline.score import AttackSettings, check_differentiable, check_num_subsets
from aradals.pipeline.shifts import choose_shift
from aradals.pipeline.study.checks import try_method
from aradals.pipeline.study.groups import ranking_of
from aradals.pipeline.study.tasks import Choose, SeedPlan, needs_model
from aradals.pipeline.study.work import training_subsets
from aradals.pipeline.study.workspace import Workspace


def try_study(config: StudyConfig, space: Workspace) -> None:
    """Try a study of one data set at every seed, because each seed has other splits.

    Raises:
        InputError: a part of the study cannot work.
    """
    resolve_device(space.device)
    AttackSettings(config.scoring.attack, config.scoring.attack_args).check()
    for seed in config.seeds:
        try_seed(SeedPlan(config, seed), space)


def try_seed(seed: SeedPlan, space: Workspace) -> None:
    """Try the splits of a seed, its model, and each method.

    Raises:
        InputError: a part of the study cannot work.
        MissingExtraError: the package of the logger is not installed.
    """
    check_devices(seed.config.training, space.device)
    if seed.config.training.logger != "none":
        load_extra(seed.config.training.logger)
    config, materials, given = seed.config, space.materials(seed.source), seed.config.evaluation
    splits, checkpoint = materials.splits, config.scoring.checkpoint
    fitted = np.concatenate([part.hashes for part in (splits.train, splits.validation, splits.calibration)])
    check_unseen(fitted, splits.test.hashes, what="every model", where="the test split")
    check_num_subsets(given.num_subsets, len(splits.test), "evaluation.num_subsets", "the test split")
    choose_shift(splits.test, given.corruptions, given.severities, preset=given.preset, corrupted=given.corrupted)
    if given.ood is not None:
        other = space.other_data(given.ood, seed.source)
        check_unseen(fitted, other.hashes, what="every model", where=other.name)
        check_other(other.hashes, splits.test.hashes, where=other.name, beside="the test split")
    if any(map(needs_model, config.all_calibrators)):
        check_domains(splits.calibration)
    batch = splits.train.batch([0, 1])
    model = logit_model(materials.load(Path(checkpoint), "", "cpu").model if checkpoint else materials.build())
    num_classes = try_model(model, batch[1])
    # Many models have a last layer of zeros before training, so only the trained model is checked before it scores.
    if checkpoint or _tells_apart(model, batch[1]):
        check_differentiable(model, batch[1])
    check_trainable(model, splits.train.labels)
    for _, examples in splits.items():
        check_labels(examples.labels, num_classes, hint=FITTING_DATA)
    for name in config.methods:
        task = seed.model(name)
        for train in task.candidates if isinstance(task, Choose) else [task]:
            ranking = ranking_of(train.method)
            smallest = min(len(splits.train) // (ranking.folds if ranking else 1), len(splits.validation))
            key = f"methods.{name}.targets.subsets.count"
            check_num_subsets(train.method.num_subsets, smallest, key, "splits.validation")
            try_method(name, train.method, config.training, model, batch, splits.train.num_classes)
            if ranking is None:
                training_subsets(train, space)


def _tells_apart(model: nn.Module, inputs: Tensor) -> bool:
    with evaluation_mode(model), torch.no_grad():
        logits = model(model_inputs(model, inputs))
    return bool((logits != logits[:1]).any())
