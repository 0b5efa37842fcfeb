"""Training of one model with Lightning; a resumed training gives the same bits as an uninterrupted one."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from aradals._internal.memory import keep_memory
from aradals.data import AUGMENTATIONS, Examples
from aradals.errors import InputError, TrainingFailed
from aradals.inference.predictions import try_model
from aradals.objectives import get_objective
from aradals.pipeline.config import MethodConfig, SelfScoredSubsets, ShapedTargets, TrainingConfig
from aradals.pipeline.health import check_output_varies, check_trainable
from aradals.pipeline.ranks import rank_of
from aradals.pipeline.train.acceleration import choose_precision, compiled
from aradals.pipeline.train.batches import Batches
from aradals.pipeline.train.environment import settings_from_arguments_alone
from aradals.pipeline.train.loggers import open_logger
from aradals.pipeline.train.module import AdaptiveClassifier, by_id
from aradals.pipeline.train.self_scoring import SelfScoring
from aradals.pipeline.train.state import Restoration, SaveState, StateIO, has_state
from aradals.smoothing.adaptive import AdaptiveSmoothing


@dataclass(frozen=True)
class TrainedModel:
    """The result of a training.

    Attributes:
        model: model on the CPU, in evaluation mode, with the weights of the last epoch.
        epochs: one record for each epoch: loss and accuracy on the training split, seconds of training and validation.
        scorings: one record for each scoring by the model itself: the number of epochs before, the seconds (which are
            not part of an epoch's seconds), forward and backward passes over all examples, and failures.
        updates: the course of the targets, see `AdaptiveSmoothing.history`.
        target_prob: the targets after the last update, by subset.
        update_rate: the rate alpha of the updates; 0 if the targets stay.
        at_lower_bound: subsets whose target has fallen to 1/K.
        precision: precision of the training, such as 32-true.
    """

    model: nn.Module
    epochs: list[dict[str, float]]
    scorings: list[dict[str, float]]
    updates: list[dict[str, list[float]]]
    target_prob: list[float]
    update_rate: float
    at_lower_bound: list[int]
    precision: str

    @property
    def seconds(self) -> float:
        """Seconds of all epochs and all scorings."""
        return sum(record["seconds"] for record in (*self.epochs, *self.scorings))


def fit_classifier(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    *,
    method: MethodConfig,
    training: TrainingConfig,
    seed: int,
    train_subsets: Tensor | None = None,
    validation_subsets: Tensor | None = None,
    device: str = "auto",
    resume: Path | None = None,
    inputs_digest: str = "",
    logs: Path = Path("logs"),
    run: str = "training",
    log: Callable[[str], None] = lambda line: None,
) -> TrainedModel:
    """Train ``model`` on ``train``, with targets that follow its gaps on ``validation``.

    Args:
        model: freshly initialized model from inputs in [0, 1] to logits. An `Ensemble` is trained in step.
        train: the training split.
        validation: the validation split, which is used only for the adaptive update.
        method: settings of the objective, the targets, their update and the subsets.
        training: settings such as epochs, optimizer and schedule.
        seed: seed of order, augmentation and dropout; the caller has initialized the model.
        train_subsets: robustness subset of each training example, in the split's order; not needed if R = 1, or if the
            model scores itself.
        validation_subsets: robustness subset of each validation example.
        device: auto, cpu, cuda, mps, or one of several by its index, such as cuda:1.
        resume: a file for the state after each epoch. If the file exists, training continues from it. A file that is
            not the state of this training is renamed, and training starts again.
        inputs_digest: digest of all else that decides the course of the training, such as the data. Training does not
            continue from a state with another digest, method, seed or other settings.
        logs: folder for the files of the logger that the settings name.
        run: name of the training in this logger.
        log: called with a line for each epoch and each scoring.

    Returns:
        The trained model with its history.

    If several processes train together, each calls this function with the same arguments, see
    `aradals.pipeline.ranks.on_ranks`. All get the same history. Rank 0 writes the state and the log, and its model
    counts.

    Raises:
        InputError: subsets are needed, but missing; or the training split is too small for the number of devices.
        TrainingFailed: the model has no trainable parameters; the training split has one class; the loss, the weights
            or the validation logits are not finite any more; no parameter has changed in the first epoch; or the
            trained model predicts the same for every example. The state in ``resume`` is then that of the last good
            epoch.
        OutputError: the state cannot be written; the earlier state stays.
        MissingExtraError: the package of the logger is not installed.
    """
    rank = rank_of(training)
    if rank:
        log = _ignore
    check_trainable(model, train.labels)
    _check_batches(training, len(train))
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        try_model(model, train.batch([0, 1])[1])  # lazy layers take their shapes from the first input
    targets = method.targets
    module = _make_module(model, train, validation, method, training, seed, train_subsets, validation_subsets)
    criterion = module.criterion
    callbacks: list[Callback] = [_EpochLog(training.epochs, log)]
    if isinstance(targets.subsets, SelfScoredSubsets):
        shape = targets.shape(train.num_classes) if isinstance(targets, ShapedTargets) else None
        callbacks.append(SelfScoring(train, validation, targets.subsets.every, log, shape))
    members = module.members
    if training.compile:
        module.members = compiled(members, device)
    precision = choose_precision(training.precision, device)
    state_io, goes_on = StateIO(f"{inputs_digest} {method.training} {training.course} seed {seed}", precision), False
    if resume is not None:
        callbacks.append(SaveState(resume))
        goes_on = has_state(resume, state_io, module, log, rank)
    if state_io.precision != "32-true":
        log(f"precision {state_io.precision}")
    restoration = Restoration(resume if goes_on else None, rank)
    callbacks.append(restoration)
    if sys.stderr.isatty():
        callbacks.append(TQDMProgressBar(leave=False))
    kind, _, index = device.partition(":")
    several = training.num_ranks > 1
    keep_memory()
    with (
        settings_from_arguments_alone(rank if several else None),
        _quiet_lightning(),
        _interruptible(),
        open_logger(training, logs, run) as logger,
    ):
        trainer = Trainer(
            accelerator="gpu" if kind == "cuda" else kind,
            devices=[int(index)] if index else training.devices,
            num_nodes=training.num_nodes,
            strategy=training.strategy,
            sync_batchnorm=training.sync_batchnorm,
            use_distributed_sampler=False,
            max_epochs=training.epochs,
            precision=state_io.precision,
            check_val_every_n_epoch=targets.update_every,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[state_io, TorchElasticEnvironment()] if several else [state_io],
            enable_checkpointing=resume is not None,
            enable_progress_bar=sys.stderr.isatty(),
            enable_model_summary=False,
            logger=logger,
            reload_dataloaders_every_n_epochs=1,
        )
        with restoration.guarded(), _unused_parameters_explained():
            trainer.fit(
                module,
                datamodule=Batches(train, validation, training.batch_size, seed, len(members), training.loader_workers),
                ckpt_path=restoration.path,
                weights_only=True,
            )
    model.cpu().eval()
    for member in members:
        # This check needs only one small batch, except for a collapsed model.
        check_output_varies(member, chain(validation.batches(32), train.batches(32)))
    return TrainedModel(
        model=model,
        epochs=module.epochs,
        scorings=module.scorings,
        updates=criterion.history,
        target_prob=criterion.target_prob.tolist(),
        update_rate=criterion.rule.update_rate if criterion.rule else 0.0,
        at_lower_bound=criterion.at_lower_bound() if criterion.rule else [],
        precision=state_io.precision,
    )


def _check_batches(training: TrainingConfig, num_examples: int) -> None:
    """Raise InputError if the devices cannot have equal parts of every batch."""
    if min(training.batch_size, num_examples) % training.num_ranks:
        raise InputError(
            expected=f"training.batch_size of at most {num_examples}, the number of examples, with several devices",
            got=str(training.batch_size),
            hint=f"training.batch_size={max(2, num_examples // training.num_ranks) * training.num_ranks}",
        )


def _make_module(
    model: nn.Module,
    train: Examples,
    validation: Examples,
    method: MethodConfig,
    training: TrainingConfig,
    seed: int,
    train_subsets: Tensor | None,
    validation_subsets: Tensor | None,
) -> AdaptiveClassifier:
    """Put the model, its targets and its subsets together; the arguments are those of `fit_classifier`."""
    targets = method.targets
    scores_itself = isinstance(targets.subsets, SelfScoredSubsets)
    if targets.subsets and not scores_itself and (train_subsets is None or validation_subsets is None):
        raise InputError(
            expected=f"the subset of each training and validation example (num_subsets={method.num_subsets})",
            got="none",
            hint="subsets from assign_subsets, or SelfScoredSubsets",
        )
    rule = targets.rule and targets.rule.for_updates(max(1, training.epochs // targets.update_every))
    initial: float | Tensor = method.initial_target_prob
    if isinstance(targets, ShapedTargets) and not scores_itself:  # a model that scores itself takes the shape later
        initial = targets.shape(train.num_classes)
    module = AdaptiveClassifier(
        model,
        get_objective(method.objective, train.num_classes, **method.objective_args),
        AdaptiveSmoothing(train.num_classes, method.num_subsets, rule=rule, initial_target_prob=initial),
        by_id(train.ids, train_subsets),
        by_id(validation.ids, validation_subsets),
        training,
        seed,
        augment=AUGMENTATIONS[method.augment or training.augment],
        consistency=method.consistency,
        scores_itself=scores_itself,
    )
    if len(train.input_shape) == 3:
        module.to(memory_format=torch.channels_last)
    return module


def _ignore(line: str) -> None:
    """Write no line."""


class _EpochLog(Callback):
    """Callback that logs validation accuracy and confidence, the span of the targets and the time left."""

    def __init__(self, num_epochs: int, log: Callable[[str], None]) -> None:
        self.num_epochs = num_epochs
        self.log_line = log

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AdaptiveClassifier)
        # Lightning calls callbacks before the module's own hook, which appends the record of this epoch.
        history = pl_module.criterion.history
        if not history:
            return
        last = history[-1]
        total = sum(last["n"])
        confidence, accuracy = (
            sum(n * value for n, value in zip(last["n"], last[key], strict=True) if n) / total
            for key in ("confidence", "accuracy")
        )
        scoring = sum(record["seconds"] for record in pl_module.scorings) / (pl_module.current_epoch + 1)
        left = (self.num_epochs - pl_module.current_epoch - 1) * (pl_module.seconds_in_epoch() + scoring)
        self.log_line(
            f"epoch {pl_module.current_epoch + 1}/{self.num_epochs}  validation accuracy {accuracy:.3f} "
            f"confidence {confidence:.3f}{_course(pl_module.criterion)}  {left / 60:.1f} min left"
        )


def _course(criterion: AdaptiveSmoothing) -> str:
    """Describe the span of the targets and the bounds that they have reached; empty if targets stay."""
    if criterion.rule is None or not criterion.rule.rate:
        return ""
    targets = criterion.target_prob.tolist()
    course = f"  targets {min(targets):.3f} to {max(targets):.3f}"
    if at_one := [r for r, target in enumerate(targets) if target == 1]:
        course += f" (subsets {at_one} at 1)"
    if ran_down := criterion.at_lower_bound():
        course += f"  WARNING: targets of subsets {ran_down} ran down to 1/K"
    return course


@contextmanager
def _unused_parameters_explained() -> Iterator[None]:
    """Raise TrainingFailed if DDP waits for gradients that never come."""
    try:
        yield
    except RuntimeError as error:
        if "find_unused_parameters" not in str(error):
            raise
        raise TrainingFailed(
            "some parameters of the model have no gradient; try --training.strategy ddp_find_unused_parameters_true"
        ) from error


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hide Lightning's banners and its advice on loader workers, which do not concern users of recipes."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Disable Lightning's reaction to Ctrl-C, which leaves the process and ignores the signal afterwards."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise error.__context__ from None
        raise
