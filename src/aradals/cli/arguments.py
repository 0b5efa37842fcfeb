"""The arguments of the commands. A field's text in the docstring is its help; its default is the option's default.

A field ``num_subsets`` is the option ``--num-subsets``. The parameters of a command's ``run`` are such dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aradals.cli.terminal import print_log
from aradals.errors import InputError

if TYPE_CHECKING:
    from aradals.data import Examples
    from aradals.pipeline.classifier import Classifier
    from aradals.pipeline.config import StudyConfig
    from aradals.pipeline.shards import Scored, Sharing

_POSITIONAL = {"positional": True}


def _study() -> type:
    from aradals.pipeline.config import StudyConfig

    return StudyConfig


@dataclass(frozen=True)
class ModelArguments:
    """The model.

    Attributes:
        model: built-in name (resnet20, small_cnn, ...); file.py:callable or package.module:callable that returns an
            nn.Module from inputs in [0, 1] to logits; timm:NAME, torchvision:NAME or transformers:FOLDER_OR_ID; or a
            program (.pt2 of torch.export, TorchScript); not needed for a checkpoint that names its built-in model
        checkpoint: file of the weights: .safetensors, a torch file of weights, an index of shards, or a folder of them
        checkpoint_key: key of the weights, if the checkpoint has several that fit, such as model and ema
        model_args: further arguments of the function that builds the model, as JSON or YAML
        class_names: names of the model's classes in the order of its logits, separated by commas, or a text file with
            one name on each line; default: the names in the checkpoint, or those that the model carries
        mean: mean that the model subtracts from each channel: numbers with commas, imagenet or cifar10; default: that
            of timm, torchvision or transformers, otherwise none, because normalization is part of the model
        std: standard deviation by which each channel is divided, see mean
        bounds: values that 0 and 1 stand for in the model, as in --bounds=-1,1 or --bounds 0,255
        output_kind: what the model returns, or the file of predictions holds: logits, or probs (softmax, sigmoids or
            percentages, of which each row is divided by its sum); default: what the values show
        output_entry: name or position of the logits, if the model returns a dict or a tuple; default: the only
            possible one
        device: auto, cpu, cuda or mps, or one of several by its index, such as cuda:1
    """

    model: str | None = None
    checkpoint: Path | None = None
    checkpoint_key: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    mean: str | None = None
    std: str | None = None
    bounds: str | None = None
    output_kind: Literal["logits", "probs"] | None = None
    output_entry: str | None = None
    device: str = "auto"

    def load(self, data: DataArguments, *, labeled: bool = True) -> tuple[Classifier, Examples]:
        """Load the examples as the checkpoint records it, and the model with its weights, and test it on them."""
        examples = data.load(self.checkpoint, labeled=labeled)
        return self.load_for(examples), examples

    def load_for(self, examples: Examples) -> Classifier:
        """Load the model with its weights, and test it on the examples."""
        from aradals.data.classes import read_names
        from aradals.models.preprocessing import named_constants
        from aradals.pipeline.classifier import load_classifier

        return load_classifier(
            self.model,
            self.checkpoint,
            examples,
            model_args=self.model_args,
            checkpoint_key=self.checkpoint_key,
            class_names=read_names(self.class_names),
            preprocessing=named_constants(self.mean, self.std, self.bounds),
            output_kind=self.output_kind,
            output_entry=self.output_entry,
            device=self.device,
            log=print_log,
        )


@dataclass(frozen=True)
class DataArguments:
    """The data.

    Attributes:
        data: folder, file (parquet, CSV, .npz, .npy, .pt, .tar), Hugging Face id, built-in name (digits, letter), or
            file.py:callable
        split: split to read; default: the only one, else test; if the data has no test split, test is its validation
            split, or else the fifth of the examples that a study cuts off
        limit: number of examples in a fixed random sample; default: all examples
        image_column: column of the images or of their file names; needed if several columns could hold them
        label_column: column of the labels; needed if several columns could hold them
        num_classes: number of classes, if the labels are numbers and the largest class may be missing
        resize: height and width in pixels to which every image is resized; default: as for the checkpoint's training
        out_of_range: refuse inputs outside [0, 1], or clip them; by default they are refused, but clipped where the
            training data has scaled the columns of a table
    """

    data: str | None = None
    split: str | None = None
    limit: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    num_classes: int | None = None
    resize: int | None = None
    out_of_range: Literal["refuse", "clip"] | None = None

    @property
    def given(self) -> dict[str, object]:
        """The options that are not at their defaults."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}

    def load(self, checkpoint: Path | None = None, *, labeled: bool = True) -> Examples:
        """Load the examples, prepared as the checkpoint records it.

        Raises:
            InputError: ``--data`` is missing, or the data cannot be read.
        """
        from aradals.data import load_data
        from aradals.models import read_description

        if self.data is None:
            raise InputError(expected="--data", got="none", hint="--data cifar10, a parquet file or a folder of images")
        return load_data(
            self.data,
            self.split,
            limit=self.limit,
            labeled=labeled,
            log=print_log,
            image_column=self.image_column,
            label_column=self.label_column,
            num_classes=self.num_classes,
            resize=self.resize,
            out_of_range=self.out_of_range,
            preparation=None if checkpoint is None else read_description(checkpoint).preparation,
        )


@dataclass(frozen=True)
class WorkerArguments:
    """The workers.

    Attributes:
        workers: number of processes that work at the same time, or dask:ADDRESS for a Dask cluster whose workers share
            the output folder; default: one per GPU, or one per core; the results do not depend on it
        threads: number of threads of each worker; the last digits of the results depend on it
    """

    workers: str | None = None
    threads: int = 1


@dataclass(frozen=True)
class SharedModel(WorkerArguments, ModelArguments):
    """The model, and the workers that run it."""

    def sharing(self, data: DataArguments, *, labeled: bool = True) -> Sharing[Scored]:
        """Make workers that load the same model and examples as `load`."""
        from aradals.pipeline.shards import Sharing

        load = partial(self.load, data, labeled=labeled)
        return Sharing(load, self.workers, self.threads, self.device, print_log)


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
class SubsetArguments:
    """The robustness subsets.

    Attributes:
        num_subsets: number R of robustness subsets; subset 0 is the least robust
    """

    num_subsets: int = 10


@dataclass(frozen=True)
class AcceptanceArguments:
    """Predictions to accept.

    Attributes:
        max_errors: largest shares of wrong predictions among those that are accepted, separated by commas; for each,
            the confidence from which on the share is no larger on new examples is reported, with 95 % certainty
    """

    max_errors: list[float] = field(default_factory=lambda: [0.01, 0.05])


@dataclass(frozen=True)
class AuditArguments(SubsetArguments):
    """The audit of the ranking.

    Attributes:
        audit: number of random examples for two strong attacks, at least one for each subset, to report how often both
            rankings agree; 0 for no audit
        seed: seed of the random sample and of the bootstrap
    """

    audit: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.audit < 0:
            raise InputError(expected="--audit of at least 0", got=str(self.audit), hint="--audit 128")
        if self.seed not in range(2**32):
            raise InputError(expected="--seed from 0 to 4294967295", got=str(self.seed), hint="--seed 0")


@dataclass(frozen=True)
class SearchArguments(AttackArguments, AuditArguments):
    """How robustness is measured, and how the ranking is audited."""


@dataclass(frozen=True)
class RankingArguments(SearchArguments, AcceptanceArguments):
    """How robustness is measured, how the ranking is audited, and which predictions are accepted."""

    audit: int = 128


@dataclass(frozen=True)
class ShiftArguments(SubsetArguments, AcceptanceArguments):
    """Calibrators, robustness subsets, shifted data, and predictions to accept.

    Attributes:
        calibrator: files of aradals calibrate, separated by commas; results with each are reported beside those without
        corruptions: corruptions or groups of them (noise, blur, weather, digital, standard, extra; table for rows of
            numbers; all for all that fit the data), separated by commas; clean data are always evaluated
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
        method: temperature (one number), vector (a factor and an offset per class), structured_matrix (a matrix and an
            offset, pulled to a temperature), isotonic (a curve per class), histogram (bins per class),
            margin_temperature (a temperature that depends on the logit margin), robustness_temperature (a temperature
            that depends on the first-order margin, a gradient of the model), ensemble_temperature (a mixture of
            scaled, plain and uniform probabilities), smart_temperature (a network of the logit margin), consistency
            (which class wins under noise), pnorm (logits of one length) or batch_temperature (a temperature that rises
            if a batch of unlabeled inputs has drifted, see docs/shift.md)
        method_args: settings of the method, as JSON or YAML, such as '{statistic: mutual_information}'
    """

    method: str = "temperature"
    method_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MonitorArguments:
    """The batches.

    Attributes:
        calibrator: file of aradals calibrate --method batch_temperature
        batch_size: number of predictions of each batch, in their order; default: all predictions are one batch
        level: probability of a false alarm in a batch that has not drifted
        json: print the results as JSON, not as text
    """

    calibrator: Path
    batch_size: int | None = None
    level: float = 0.01
    json: bool = False


@dataclass(frozen=True)
class CorruptionArguments:
    """The corruption.

    Attributes:
        corruption: gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow,
            frost, fog, brightness, contrast, elastic_transform, pixelate, jpeg_compression, speckle_noise,
            gaussian_blur, spatter or saturate; for rows of numbers column_noise or missing_columns
        severity: severity, from 1 (mild) to 5 (strong)
        preset: constants: cifar, tiny or imagenet, made for 32, 64 and 224 pixels; default: that of the nearest size
        checkpoint: checkpoint of aradals train, whose record of its training data decides the size of images, and the
            ranges and means of the columns of a table
    """

    corruption: str
    severity: int
    preset: str | None = None
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.severity not in range(1, 6):
            raise InputError(expected="a severity from 1 to 5", got=str(self.severity), hint="1 (mild) to 5 (strong)")


@dataclass(frozen=True)
class StudyArguments:
    """The study.

    Attributes:
        recipe: a recipe by name (see aradals recipes), or a YAML file
        overrides: any key of the recipe
        device: auto, cpu, cuda or mps, or one of several by its index, such as cuda:1
        smoke: use the recipe's smoke setting, with which every stage runs in minutes; the results are no evidence
    """

    recipe: str = field(metadata=_POSITIONAL)
    overrides: dict[str, str] = field(default_factory=dict, metadata={"keys_of": _study})
    device: str = "auto"
    smoke: bool = False

    def load(self) -> StudyConfig:
        """Read the recipe.

        Raises:
            InputError: see `load_recipe`.
        """
        from aradals.pipeline.recipes import load_recipe

        return load_recipe(self.recipe, self.overrides, smoke=self.smoke)


@dataclass(frozen=True)
class TrainingArguments:
    """The run.

    Attributes:
        method: method or ensemble of the recipe
        seed: seed of the splits, the initialization and the order of the examples
        output: folder for the checkpoint and the files that it is made from
        overwrite: replace files that were made from other settings; the earlier files are kept under another name
    """

    output: Path
    method: str
    seed: int = 0
    overwrite: bool = False


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
class ExportArguments(OutputArguments):
    """What is exported.

    Attributes:
        calibrator: file of aradals calibrate for this model
        format: onnx (.onnx), torch (a program of torch.export, .pt2) or safetensors (a folder for huggingface_hub);
            default: by the ending of --output
        input_shape: shape of an input, as [3, 32, 32]; default: that of the training data, if the checkpoint records it
        results: results.json of aradals evaluate for the same checkpoint, for the model card of a folder
    """

    calibrator: Path | None = None
    format: Literal["onnx", "torch", "safetensors"] | None = None
    input_shape: list[int] = field(default_factory=list)
    results: Path | None = None


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
