"""The arguments of the commands. A field's text in the docstring is its help; its default is the option's default.

A field ``num_subsets`` is the option ``--num-subsets``. The parameters of a command's ``run`` are such dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aradals.cli.terminal import print_log
from aradals.errors import InputError

if TYPE_CHECKING:
    from aradals.data import Examples
    from aradals.pipeline.artifacts import StoredPredictions
    from aradals.pipeline.classifier import Classifier

_POSITIONAL = {"positional": True}


def _study() -> type:
    from aradals.pipeline.config import StudyConfig

    return StudyConfig


@dataclass(frozen=True)
class ModelArguments:
    """The model.

    Attributes:
        model: built-in name (resnet20, small_cnn, ...), file.py:callable or package.module:callable that returns an
            nn.Module from inputs in [0, 1] to logits; not needed for a checkpoint that names its built-in model
        checkpoint: file of the weights: .safetensors, or a torch file that contains nothing else
        model_args: further arguments of the function that builds the model, as JSON or YAML
        device: auto, cpu or cuda
    """

    model: str | None = None
    checkpoint: Path | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"

    def load(self, examples: Examples) -> Classifier:
        """Load the model with its weights, and test it on the examples."""
        from aradals.pipeline.classifier import load_classifier

        return load_classifier(
            self.model, self.checkpoint, examples, model_args=self.model_args, device=self.device, log=print_log
        )


@dataclass(frozen=True)
class DataArguments:
    """The data.

    Attributes:
        data: Hugging Face id, parquet file, folder, .npz file, or built-in name
        split: split to read; default: the only one, else test
        limit: number of examples in a fixed random sample; default: all examples
        image_column: column of the images; needed if several columns could hold them
        label_column: column of the labels; needed if several columns could hold them
    """

    data: str | None = None
    split: str | None = None
    limit: int | None = None
    image_column: str | None = None
    label_column: str | None = None

    def load(self) -> Examples:
        """Load the examples.

        Raises:
            InputError: ``--data`` is missing, or the data cannot be read.
        """
        from aradals.data import load_data

        if self.data is None:
            raise InputError(expected="--data", got="none", hint="--data cifar10, a parquet file or a folder of images")
        columns = {"image_column": self.image_column, "label_column": self.label_column}
        return load_data(self.data, self.split, **columns, limit=self.limit)


@dataclass(frozen=True)
class AttackArguments:
    """The measurement of robustness.

    Attributes:
        attack: attack whose perturbations are measured. Estimates are good for ranking: logit_margin and log_odds
            (1 forward pass per image), first_order_margin (1 pass forward and backward), secant (7; 40 on
            networks with flat regions), secant_accurate (9 to 20). Searches verify norms: secant --verified (11),
            deepfool (13), ddn and fmn (110), carlini_wagner (thousands)
        attack_args: settings of the attack, as JSON or YAML
        verified: also find a perturbation that changes the prediction, for the column norm
        bf16: attack a copy of the model in bfloat16, which is faster on some hardware, but less exact
    """

    attack: str = "secant"
    attack_args: dict[str, Any] = field(default_factory=dict)
    verified: bool = False
    bf16: bool = False


@dataclass(frozen=True)
class StoredArguments:
    """Files that replace a model.

    Attributes:
        predictions: parquet or .npz file to use instead of a model; its columns are logits, label and, if rows were
            left out, id
        scores: file of aradals score with the robustness of the same examples
    """

    predictions: Path | None = None
    scores: Path | None = None

    def load(self) -> StoredPredictions:
        """Load the predictions, with the description in their file.

        Raises:
            InputError: ``--predictions`` is missing, or the file cannot be read.
        """
        from aradals.pipeline.artifacts import read_predictions

        if self.predictions is None:
            raise InputError(expected="--predictions", got="none", hint="--predictions logits.npz")
        return read_predictions(self.predictions)

    def refuse_beside(self, **given: object) -> None:
        """Refuse options that have no effect beside the predictions, because the user expects an effect.

        Raises:
            InputError: predictions are given, and a value in ``given`` (option -> value) is set, too.
        """
        unused = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
        if self.predictions is not None and unused:
            raise InputError(
                expected="--predictions, or a model and data",
                got=f"both (also {', '.join(unused)})",
                hint="one of them",
            )


@dataclass(frozen=True)
class SubsetArguments:
    """The robustness subsets.

    Attributes:
        num_subsets: number R of robustness subsets; subset 0 is the least robust
    """

    num_subsets: int = 10


@dataclass(frozen=True)
class AuditArguments(SubsetArguments):
    """The audit of the ranking.

    Attributes:
        audit: number of random examples for two strong attacks, to report how often both rankings agree; 0 for no audit
        seed: seed of the random sample and of the bootstrap
    """

    audit: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.audit < 0:
            raise InputError(expected="--audit of at least 0", got=str(self.audit), hint="--audit 128")


@dataclass(frozen=True)
class RankingArguments(AttackArguments, AuditArguments):
    """How robustness is measured, and how the ranking is audited."""

    audit: int = 128


@dataclass(frozen=True)
class ShiftArguments(SubsetArguments):
    """Calibrators, robustness subsets and shifted data.

    Attributes:
        calibrator: files of aradals calibrate, separated by commas; results with each are reported beside those without
        corruptions: corruptions or groups of them (noise, blur, weather, digital, standard, extra, all),
            separated by commas; clean data are always evaluated
        severities: severities of the corruptions, from 1 (mild) to 5 (strong)
        preset: constants of the corruptions: cifar, tiny or imagenet; default: those for the size of the images
        corrupted: corrupted copy of the same examples: a folder with the layout of CIFAR-10-C, CIFAR-100-C or
            ImageNet-C, or data with a column of severities; --corruptions chooses parts of the copy
        ood: out-of-distribution data; reports the AUROC of confidence for telling them from --data
    """

    calibrator: list[Path] = field(default_factory=list)
    corruptions: list[str] = field(default_factory=list)
    severities: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    preset: str | None = None
    corrupted: str | None = None
    ood: str | None = None


@dataclass(frozen=True)
class CalibratorArguments:
    """The calibrator.

    Attributes:
        method: temperature (one number), vector (a factor and an offset per class), isotonic (a curve per class),
            histogram (bins per class), margin_temperature (a temperature that depends on the logit margin) or
            robustness_temperature (a temperature that depends on the first-order margin, a gradient of the model)
    """

    method: str = "temperature"


@dataclass(frozen=True)
class CorruptionArguments:
    """The corruption.

    Attributes:
        corruption: gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow,
            frost, fog, brightness, contrast, elastic_transform, pixelate, jpeg_compression, speckle_noise,
            gaussian_blur, spatter or saturate
        severity: severity, from 1 (mild) to 5 (strong)
        preset: constants: cifar, tiny or imagenet, made for 32, 64 and 224 pixels; default: that of the nearest size
    """

    corruption: str
    severity: int
    preset: str | None = None

    def __post_init__(self) -> None:
        if self.severity not in range(1, 6):
            raise InputError(expected="a severity from 1 to 5", got=str(self.severity), hint="1 (mild) to 5 (strong)")


@dataclass(frozen=True)
class StudyArguments:
    """The study.

    Attributes:
        recipe: a recipe by name (see aradals recipes), or a YAML file
        overrides: any key of the recipe
        device: auto, cpu or cuda
    """

    recipe: str = field(metadata=_POSITIONAL)
    overrides: dict[str, str] = field(default_factory=dict, metadata={"keys_of": _study})
    device: str = "auto"


@dataclass(frozen=True)
class TrainingArguments:
    """The run.

    Attributes:
        method: method or ensemble of the recipe
        seed: seed of the splits, the initialization and the order of the examples
        output: folder for the checkpoint and the files that it is made from
    """

    output: Path
    method: str
    seed: int = 0


@dataclass(frozen=True)
class OutputArguments:
    """The output.

    Attributes:
        output: file or folder to write (see the example below)
        overwrite: replace files at --output that another program has made, or this command from other inputs
    """

    output: Path
    overwrite: bool = False


@dataclass(frozen=True)
class ResultsArguments(OutputArguments):
    """The output.

    Attributes:
        json: print the results as JSON, not as a table
    """

    json: bool = False


@dataclass(frozen=True)
class ReportArguments:
    """The report.

    Attributes:
        folder: folder with results.json or diagnosis.json
        output: file to write; for several data sets, the folder of the reports; default: FOLDER/report.html
        overwrite: replace a file that another program has made
    """

    folder: Path = field(metadata=_POSITIONAL)
    output: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class RecipeArguments:
    """The recipe.

    Attributes:
        action: list, show or copy
        name: recipe to show or copy
        output: file to copy to; default: NAME.yaml
    """

    action: Literal["list", "show", "copy"] = field(default="list", metadata=_POSITIONAL)
    name: str | None = field(default=None, metadata=_POSITIONAL)
    output: Path | None = None
