"""The settings of a study, as recipes spell them. Each field is a key of the YAML file and an option `--a.b=c`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from aradals.smoothing.update_rules import UpdateRule

Augment = Literal["none", "flip_crop", "augmix"]


@dataclass(frozen=True)
class SplitConfig:
    """How the training data are divided; the test split is never divided.

    Args:
        validation: number of examples that drive the adaptive update.
        calibration: number of examples that calibrators are fitted on.
        train: number of examples to train on; all that is left when not given.
    """

    validation: int
    calibration: int
    train: int | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """How every model of the study is trained; the last epoch counts.

    Args:
        epochs: passes over the training split.
        batch_size: examples per step.
        optimizer: adam, adamw or sgd (with Nesterov momentum 0.9).
        learning_rate: the highest of the schedule.
        weight_decay: L2 penalty of the optimizer.
        schedule: constant, one_cycle, cosine, or steps.
        milestones: epochs at which `steps` multiplies the learning rate.
        gamma: by how much it does.
        augment: none, flip_crop or augmix (which flips and crops first).
        precision: 32-true, or half precision where it is safe: bf16-mixed or 16-mixed.
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
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"


@dataclass(frozen=True)
class MethodConfig:
    """A training method: vanilla as it stands, and every other by its settings.

    Args:
        objective: what a batch is trained on: cross_entropy, mixup, ccat, focal, margin_smoothing, or file.py:function.
        objective_args: its settings.
        augment: another augmentation than the recipe's: none, flip_crop or augmix.
        consistency: weight of AugMix's Jensen-Shannon term between an image and two AugMix views of it (there: 12).
        num_subsets: R; 1 = without robustness.
        initial_target_prob: true-class target probability at the start; 1 = one-hot.
        rule: how the targets adapt ({} = the default rule); without one they stay.
        update_every: epochs between two updates.
        grouping: what the subsets are cut by: robustness, confidence, random (the control), or column.
        group_column: the column of the data, where the grouping is column.
        cross_fit: score each half of the training split by a model that was trained on the other half.
        score_every: epochs between two scorings by the model in training itself (first-order margins; R = 1 before the
            first); by default the scoring model of the recipe scores once, before training.
        matching: training subsets by rank within the training split, or by the thresholds of the validation subsets.
    """

    objective: str = "cross_entropy"
    objective_args: dict[str, Any] = field(default_factory=dict)
    augment: Augment | None = None
    consistency: float = 0.0
    num_subsets: int = 1
    initial_target_prob: float = 1.0
    rule: UpdateRule | None = None
    update_every: int = 1
    grouping: Literal["robustness", "confidence", "random", "column"] = "robustness"
    group_column: str | None = None
    cross_fit: bool = False
    score_every: int | None = None
    matching: Literal["rank", "thresholds"] = "rank"


@dataclass(frozen=True)
class EnsembleConfig:
    """Several models of one method, whose probabilities are averaged.

    Args:
        method: a method of the study; its own model is the first member.
        num_members: M.
        in_step: train the members together, with one shared set of targets that the averaged prediction drives
            (AR-AdaLS of the ensemble); otherwise one after the other, each with its own.
    """

    method: str
    num_members: int = 4
    in_step: bool = False


@dataclass(frozen=True)
class ScoringConfig:
    """How robustness is measured.

    Args:
        attack: secant, or another that `aradals score --help` names.
        attack_args: its settings.
        checkpoint: a trained model that scores; by default a vanilla model trained by the same recipe and seed.
    """

    attack: str = "secant"
    attack_args: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None


@dataclass(frozen=True)
class EvaluationConfig:
    """What is reported on the test split.

    Args:
        num_subsets: robustness subsets of the report, the same for all methods.
        corruptions: names or groups (noise, blur, weather, digital, standard, extra, all); clean data are always there.
        severities: 1 to 5.
        preset: whose constants: cifar, tiny or imagenet; by default by the size of the images.
        corrupted: a corrupted copy of the test split instead, such as a CIFAR-10-C folder.
        num_bins: bins of the ECE.
        num_resamples: bootstrap resamples for intervals.
    """

    num_subsets: int = 10
    corruptions: list[str] = field(default_factory=list)
    severities: list[int] = field(default_factory=lambda: [1, 3, 5])
    preset: str | None = None
    corrupted: str | None = None
    num_bins: int = 15
    num_resamples: int = 1000


@dataclass(frozen=True)
class StudyConfig:
    """A study: methods x seeds x data sets.

    Args:
        data: Hugging Face id, file, folder, or built-in name; or several of them.
        model: built-in name, file.py:callable or package.module:callable.
        methods: name -> settings.
        ensembles: name -> method and number of members.
        splits: division of the training data.
        training: how models are trained.
        description: what the study shows, for the report.
        image_column: where it cannot be told by type.
        label_column: where it cannot be told by type.
        model_args: further arguments of the model's builder.
        scoring: how robustness is measured.
        calibrators: fitted after training; every method is reported without and with each.
        evaluation: what is reported.
        seeds: each varies initialization, order and the splits.
    """

    data: str | list[str]
    model: str
    methods: dict[str, MethodConfig]
    splits: SplitConfig
    training: TrainingConfig
    ensembles: dict[str, EnsembleConfig] = field(default_factory=dict)
    description: str = ""
    image_column: str | None = None
    label_column: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    calibrators: list[str] = field(default_factory=lambda: ["temperature"])
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seeds: list[int] = field(default_factory=lambda: [0])
