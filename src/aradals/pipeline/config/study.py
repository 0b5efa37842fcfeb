"""The settings of a study: each field is a key of the YAML recipe and an option ``--a.b=c``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from aradals.errors import InputError
from aradals.pipeline.config.methods import (
    Augment,
    EnsembleConfig,
    MethodConfig,
    SelfScoredSubsets,
    ShapedTargets,
    is_plain,
)
from aradals.pipeline.config.values import at_least, check_seeds, once_each

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

OTHER_FOLDERS = ("scores", "scorer", "runs")
"""Folders of a study beside those of its methods."""

_WHERE_TO_TRAIN = ("devices", "num_nodes", "strategy", "sync_batchnorm", "loader_workers", "logger")


@dataclass(frozen=True)
class SplitConfig:
    """The division of the training data, and the number of test examples.

    Args:
        validation: number of examples that drive the adaptive update.
        calibration: number of examples that calibrators are fitted on.
        train: number of examples to train on; default: all other examples.
        test: number of test examples: a fixed random sample of the test split; default: all of them. If the data has
            a single split, the number to cut off first; default: a fifth, at most 10,000. Their content decides which
            ones, so that duplicates are not divided.
    """

    validation: int
    calibration: int
    train: int | None = None
    test: int | None = None

    def __post_init__(self) -> None:
        at_least(1, {"splits.validation": self.validation})
        at_least(0, {"splits.calibration": self.calibration})
        if self.train is not None:
            at_least(2, {"splits.train": self.train})
        if self.test is not None:
            at_least(1, {"splits.test": self.test})


@dataclass(frozen=True)
class TrainingConfig:
    """The training of every model of the study, whose weights are those of the last epoch.

    Args:
        epochs: passes over the training split.
        batch_size: examples per step.
        optimizer: adam, adamw or sgd (with Nesterov momentum 0.9).
        learning_rate: highest learning rate of the schedule.
        weight_decay: L2 penalty of the optimizer.
        schedule: constant, one_cycle, cosine, or steps.
        milestones: epochs at which `steps` multiplies the learning rate.
        gamma: factor at the milestones.
        augment: none, flip_crop (for CIFAR), resized_crop (for ImageNet), or augmix (which flips and crops first).
        precision: 32-true, or bf16-mixed or 16-mixed, which use half precision for the operations that allow this. auto
            is bf16-mixed on GPUs with bfloat16 units, and 32-true elsewhere, so on every CPU.
        compile: translate the model by torch.compile, which takes time before the first step and needs a C++ compiler.
        loader_workers: processes that read and decode data that does not fit in memory; default: one for each core that
            no other worker uses, at most 8. They change no result.
        devices: number of devices that train each model together; each has an equal part of every batch.
        num_nodes: number of machines with so many devices each; srun or torchrun starts the command on all of them.
        strategy: Lightning's strategy for several devices: auto (ddp), ddp, or ddp_find_unused_parameters_true for
            models some of whose parameters have no gradient.
        sync_batchnorm: batch norm by the statistics of the whole batch, not of a device's part (several GPUs only).
        logger: tensorboard, mlflow or wandb (Weights & Biases), which gets the loss, the NLL and ECE of the validation
            split and each subset's target after every epoch; its files are in OUTPUT/logs. It changes no result.
    """

    epochs: int
    batch_size: int = 128
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "one_cycle", "cosine", "steps"] = "constant"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    augment: Augment = "none"
    precision: Literal["auto"] | Precision = "auto"
    compile: bool = False
    loader_workers: int | None = None
    devices: int = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    sync_batchnorm: bool = False
    logger: Literal["none", "tensorboard", "mlflow", "wandb"] = "none"

    def __post_init__(self) -> None:
        at_least(1, {"training.epochs": self.epochs})
        at_least(1, {"training.devices": self.devices, "training.num_nodes": self.num_nodes}, at_most=100_000)
        self._check_ranks()
        at_least(2, {"training.batch_size": self.batch_size})
        at_least(0, {"training.weight_decay": self.weight_decay}, at_most=1000)
        at_least(0, {"training.loader_workers": self.loader_workers or 0}, at_most=1000)
        for name, rate in {"learning_rate": self.learning_rate, "gamma": self.gamma}.items():
            if not 0 < rate <= 1000:
                raise InputError(expected=f"training.{name} above 0 and up to 1000", got=str(rate), hint="0.001")
        at_least(1, {f"milestone {number} of training.milestones": each for number, each in enumerate(self.milestones)})
        if (self.schedule == "steps") != bool(self.milestones):
            raise InputError(
                expected="training.schedule=steps and training.milestones, or neither",
                got=f"schedule={self.schedule}, milestones={self.milestones}",
                hint="both, or another schedule and milestones=[]",
            )
        if self.schedule != "steps" and self.gamma != TrainingConfig.gamma:
            raise InputError(
                expected="training.gamma with schedule=steps only", got=f"schedule={self.schedule}", hint="no gamma"
            )

    def _check_ranks(self) -> None:
        if self.num_ranks == 1 and (self.strategy != "auto" or self.sync_batchnorm):
            raise InputError(
                expected="training.strategy and training.sync_batchnorm with several devices only",
                got="one device",
                hint="training.devices=2",
            )
        if self.num_ranks > 1 and (self.batch_size % self.num_ranks or self.batch_size < 2 * self.num_ranks):
            raise InputError(
                expected=f"a training.batch_size that {self.num_ranks} devices divide into equal parts of at least 2",
                got=str(self.batch_size),
                hint=f"{max(2, math.ceil(self.batch_size / self.num_ranks)) * self.num_ranks}",
            )

    @property
    def num_ranks(self) -> int:
        """The number of processes that train a model together, one on each device."""
        return self.devices * self.num_nodes

    @property
    def course(self) -> dict[str, Any]:
        """All settings that change the trained model, as plain values.

        The number of devices does, because each of them draws its own augmentations and has its own batch statistics.
        """
        several = {"num_ranks": self.num_ranks, "sync_batchnorm": self.sync_batchnorm} if self.num_ranks > 1 else {}
        return {name: value for name, value in asdict(self).items() if name not in _WHERE_TO_TRAIN} | several


@dataclass(frozen=True)
class ScoringConfig:
    """The measurement of robustness.

    Args:
        attack: secant, or another attack that `aradals score --help` names.
        attack_args: settings of the attack.
        checkpoint: a trained model that scores; default: a vanilla model trained by the same recipe and seed.
    """

    attack: str = "secant"
    attack_args: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None


@dataclass(frozen=True)
class EvaluationConfig:
    """The evaluation on the test split.

    Args:
        num_subsets: robustness subsets of the report, the same for all methods.
        corruptions: names or groups (noise, blur, weather, digital, standard, extra; table for rows of numbers; all for
            all that fit the data); clean data are always evaluated.
        severities: severities from 1 to 5.
        preset: constants of the corruptions: cifar, tiny or imagenet; default: those for the size of the images.
        corrupted: a corrupted copy of the test split to use instead, such as a CIFAR-10-C folder.
        ood: out-of-distribution data; every method is also judged by the AUROC of its confidence for telling them from
            the test split.
        num_bins: number of bins of the ECE.
        num_resamples: number of bootstrap resamples for intervals.
    """

    num_subsets: int = 10
    corruptions: list[str] = field(default_factory=list)
    severities: list[int] = field(default_factory=lambda: [1, 3, 5])
    preset: str | None = None
    corrupted: str | None = None
    ood: str | None = None
    num_bins: int = 15
    num_resamples: int = 1000

    def __post_init__(self) -> None:
        at_least(1, {"evaluation.num_bins": self.num_bins}, at_most=10_000)
        at_least(2, {"evaluation.num_resamples": self.num_resamples}, at_most=100_000)
        once_each("corruption", self.corruptions)
        once_each("severity", self.severities)
        if self.corruptions and not self.severities:
            raise InputError(expected="severities of the corruptions", got="none", hint="severities=[1, 3, 5]")


@dataclass(frozen=True)
class StudyConfig:
    """A study: methods x seeds x data sets.

    Args:
        data: folder, file, Hugging Face id, built-in name (digits, letter), or file.py:callable; or a list of these.
        model: built-in name, file.py:callable or package.module:callable.
        methods: settings of each method, by name.
        ensembles: method and number of members of each ensemble, by name.
        reference: the method that the others are compared with; default: the first method with plain training, else
            the first method.
        compare_with: further methods that every method is compared with, such as the best method that is known.
        splits: division of the training data.
        training: training of every model.
        description: description of the study, for the report.
        purpose: evidence, or smoke: the results show only that every stage works, and are marked so.
        image_column: column of the images or of their file names; needed if several columns could hold them.
        label_column: column of the labels; needed if several columns could hold them.
        num_classes: number of classes, if the labels are numbers and the largest class may be missing.
        resize: height and width in pixels to which every image is resized.
        out_of_range: refuse inputs outside [0, 1], or clip them; by default they are refused, but clipped where the
            training data has scaled the columns of a table.
        model_args: further arguments of the model's builder.
        scoring: measurement of robustness.
        calibrators: calibrators to fit after training; every method is reported without and with each of them.
        reference_calibrators: further calibrators of the reference method alone, to compare the methods with.
        evaluation: evaluation on the test split.
        seeds: seeds; each varies initialization, order and the splits.
    """

    data: str | list[str]
    model: str
    methods: dict[str, MethodConfig]
    splits: SplitConfig
    training: TrainingConfig
    ensembles: dict[str, EnsembleConfig] = field(default_factory=dict)
    reference: str | None = None
    compare_with: list[str] = field(default_factory=list)
    description: str = ""
    purpose: Literal["evidence", "smoke"] = "evidence"
    image_column: str | None = None
    label_column: str | None = None
    num_classes: int | None = None
    resize: int | None = None
    out_of_range: Literal["refuse", "clip"] | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    calibrators: list[str] = field(default_factory=lambda: ["temperature"])
    reference_calibrators: list[str] = field(default_factory=list)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seeds: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        at_least(1, {"the number of data sets": len(self.data_sets), "the number of methods": len(self.methods)})
        at_least(1, {"the number of seeds": len(self.seeds)})
        once_each("seed", self.seeds)
        once_each("data set", self.data_sets)
        once_each("calibrator", self.all_calibrators)
        check_seeds(*self.seeds)
        if self.all_calibrators:
            at_least(1, {"splits.calibration": self.splits.calibration})
        self._check_names()
        for name, method in self.methods.items():
            for candidate in method.candidates:
                _check_in_time(name, candidate, self.training)
            if method.choose:
                at_least(1, {"splits.calibration": self.splits.calibration})
        for name, ensemble in self.ensembles.items():
            self._check_ensemble(name, ensemble)

    @property
    def data_sets(self) -> list[str]:
        """The data sets; most studies have one."""
        return [self.data] if isinstance(self.data, str) else self.data

    @property
    def runs(self) -> Mapping[str, MethodConfig | EnsembleConfig]:
        """Methods and ensembles by name."""
        return {**self.methods, **self.ensembles}

    @property
    def reference_name(self) -> str:
        """The method that the others are compared with."""
        plain = (name for name, method in self.methods.items() if is_plain(method))
        return self.reference or next(plain, next(iter(self.methods)))

    @property
    def all_calibrators(self) -> list[str]:
        """The calibrators of the reference method, which has those of every method and its own."""
        return self.calibrators + self.reference_calibrators

    @property
    def main_name(self) -> str | None:
        """The first method with subsets that is no variant; a report shows this method beside the reference."""
        names = (name for name, method in self.methods.items() if method.targets.subsets and not method.variant_of)
        return next(names, None)

    def titled(self, name: str) -> str:
        """Return the name of the study in reports, which says if the results are no evidence."""
        return f"SMOKE RUN, no evidence: {name}" if self.purpose == "smoke" else name

    def label_of(self, name: str) -> str:
        """Return the name of a method or an ensemble in reports."""
        return self.runs[name].label or name.replace("_", " ")

    def variant_of(self, name: str) -> str | None:
        """Return the method or ensemble that ``name`` varies; None if it is not a variant."""
        return self.runs[name].variant_of

    def _check_names(self) -> None:
        """Check that names can be folders, and that references to other methods exist."""
        for name in self.runs:
            if name in OTHER_FOLDERS or not re.fullmatch(r"\w[\w.-]*", name):
                raise InputError(
                    expected="methods whose names can be folders beside " + ", ".join(OTHER_FOLDERS),
                    got=repr(name),
                    hint="letters, digits, dots, dashes and underscores",
                )
        compared = {f"compare_with[{index}]": name for index, name in enumerate(self.compare_with)}
        named = {
            "reference": self.reference,
            **compared,
            **{f"{name}.variant_of": self.variant_of(name) for name in self.runs},
        }
        for key, given in named.items():
            others = [name for name in self.runs if key != f"{name}.variant_of"]
            if given is not None and given not in others:
                raise InputError(
                    expected=f"{key} to be a method of the recipe: {', '.join(others)}",
                    got=repr(given),
                    hint="one of these",
                )

    def _check_ensemble(self, name: str, ensemble: EnsembleConfig) -> None:
        if name in self.methods:
            raise InputError(expected="an ensemble whose name no method has", got=repr(name), hint=f"{name}_ensemble")
        if ensemble.method not in self.methods:
            raise InputError(
                expected=f"ensembles.{name} of a method of the recipe: {', '.join(self.methods)}",
                got=repr(ensemble.method),
                hint="one of these",
            )
        if ensemble.in_step and self.methods[ensemble.method].choose:
            raise InputError(
                expected=f"ensembles.{name} in step of a method with nothing to choose",
                got=f"{ensemble.method}, which chooses {', '.join(self.methods[ensemble.method].choose)}",
                hint="in_step=false",
            )
        if ensemble.in_step and self.methods[ensemble.method].targets.rule is None:
            raise InputError(
                expected=f"ensembles.{name} in step of a method with a rule, because it shares targets that adapt",
                got=f"{ensemble.method}, which has none",
                hint="in_step=false",
            )


def _check_in_time(name: str, method: MethodConfig, training: TrainingConfig) -> None:
    """Check that views are not made twice, and that an epoch follows each update and scoring that should count."""
    if method.consistency and (method.augment or training.augment) == "augmix":
        raise InputError(
            expected=f"methods.{name} with images that are not AugMix views already, because of consistency",
            got="augment=augmix",
            hint="augment: flip_crop",
        )
    targets, epochs = method.targets, training.epochs
    if targets.update_every > 1 and targets.update_every >= epochs:
        raise InputError(
            expected=f"methods.{name} with updates every {targets.update_every} epochs that an epoch follows",
            got=f"{epochs} epochs",
            hint="update_every: 1",
        )
    last_update = (epochs - 1) // targets.update_every * targets.update_every  # the last scoring that an epoch follows
    if isinstance(targets, ShapedTargets):
        last_update = epochs  # no update has to follow
    if isinstance(targets.subsets, SelfScoredSubsets) and targets.subsets.every >= last_update:
        raise InputError(
            expected=f"methods.{name} scored early enough for an update by subsets, and for an epoch after that",
            got=f"every={targets.subsets.every} and update_every={targets.update_every} in {epochs} epochs",
            hint="smaller ones, or more epochs",
        )
