"""The arguments that name files of predictions, which replace a model. See `aradals.cli.arguments` for the form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from aradals.cli.arguments import DataArguments, ModelArguments
from aradals.cli.terminal import print_log
from aradals.errors import InputError

if TYPE_CHECKING:
    from aradals.inference.outputs import OutputKind
    from aradals.inference.predictions import Predictions
    from aradals.pipeline.prediction_files import StoredPredictions
    from aradals.robustness.scores import ScoreTable

_BESIDE_PREDICTIONS = ("labels", "compare", "evaluate_on", "evaluate_on_labels")


@dataclass(frozen=True)
class UnlabeledArguments:
    """A file that replaces a model.

    Attributes:
        predictions: file of predictions to use instead of a model (.parquet, .csv, .tsv, .jsonl, .npz, .npy, .pt): for
            each class, a logit or a probability, and no labels; docs/predictions.md has the names of the columns
    """

    predictions: Path | None = None

    @property
    def files(self) -> list[Path]:
        """The files that are given."""
        given = [getattr(self, each.name) for each in fields(self)]
        return [path for path in given if isinstance(path, Path)]

    def load(self, output_kind: OutputKind | None) -> StoredPredictions:
        """Load the predictions, with the description in their file.

        Raises:
            InputError: the file cannot be read.
        """
        from aradals.pipeline.prediction_files import read_unlabeled

        return read_unlabeled(self._file, output_kind=output_kind)

    @property
    def _file(self) -> Path:
        if self.predictions is None:
            raise InputError(expected="--predictions", got="none", hint="--predictions logits.npz")
        return self.predictions

    def refuse_beside(self, model: ModelArguments, data: DataArguments, **more: object) -> None:
        """Refuse options that have no effect beside the predictions, because the user expects an effect.

        Raises:
            InputError: predictions are given, and an option of the model, of the data, or of ``more`` is set, too.
        """
        harmless = dict.fromkeys(("device", "output_kind", "workers", "threads"))
        given = {**asdict(model), **harmless, **data.given, **more}
        unused = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
        needing = [name for name in _BESIDE_PREDICTIONS if getattr(self, name, None) is not None]
        if self.predictions is None and needing:
            option = f"--{needing[0].replace('_', '-')}"
            raise InputError(
                expected=f"{option} beside --predictions",
                got=f"only {option}",
                hint=f"--predictions FILE {option} FILE",
            )
        if self.predictions is not None and unused:
            raise InputError(
                expected="--predictions, or a model and data",
                got=f"both (also {', '.join(unused)})",
                hint="one of them",
            )


@dataclass(frozen=True)
class StoredArguments(UnlabeledArguments):
    """Files that replace a model.

    Attributes:
        predictions: file of predictions to use instead of a model (.parquet, .csv, .tsv, .jsonl, .npz, .npy, .pt):
            labels and, for each class, a logit or a probability; docs/predictions.md has the names of the columns
        labels: file of the labels, if the file of predictions has none; they are found by id if both files have ids,
            otherwise they are in the same order
    """

    labels: Path | None = None

    def load(self, output_kind: OutputKind | None) -> StoredPredictions:
        """Load the predictions and their labels.

        Raises:
            InputError: ``--predictions`` is missing, or the file cannot be read.
        """
        from aradals.pipeline.prediction_files import read_predictions

        return read_predictions(self._file, self.labels, output_kind=output_kind)


@dataclass(frozen=True)
class ScoredArguments(StoredArguments):
    """Files that replace a model, and the robustness of its examples.

    Attributes:
        scores: file of aradals score with the robustness of the same examples
    """

    scores: Path | None = None

    def load(self, output_kind: OutputKind | None) -> StoredPredictions:
        """Load the predictions; their ids must be numbers if there are scores, which are found by id."""
        given = super().load(output_kind)
        if self.scores is not None and given.keys is not None and given.keys.dtype.kind not in "iu":
            raise InputError(
                expected="ids that are numbers beside --scores", got="ids that are text", hint="row numbers"
            )
        return given

    def load_scores(self) -> ScoreTable | None:
        """Load the score table; None if there is none.

        Raises:
            InputError: the file cannot be read.
        """
        from aradals.pipeline.artifacts import load_scores

        return None if self.scores is None else load_scores(self.scores)[0]


@dataclass(frozen=True)
class PairedArguments(ScoredArguments):
    """Files that replace a model, and those of another model.

    Attributes:
        compare: predictions of another model for the same examples; the differences to --predictions are paired
    """

    compare: Path | None = None

    def load_other(self, given: StoredPredictions, output_kind: OutputKind | None) -> dict[str, Predictions]:
        """Load the predictions of the other model in the order of ``given``, by the name of the model."""
        from aradals.pipeline.prediction_files import read_predictions

        if self.compare is None:
            return {}
        other = given.aligned(read_predictions(self.compare, given, output_kind=output_kind))
        print_log(other.taken)
        return {str(self.compare) if other.name == given.name else other.name: other.predictions}


@dataclass(frozen=True)
class HeldOutArguments(StoredArguments):
    """Files that replace a model, and those that judge the calibrator.

    Attributes:
        evaluate_on: predictions of other examples, to report accuracy and calibration before and after
        evaluate_on_labels: file of the labels of these examples, see labels
        held_out: part of the examples that are held out of the fit for this report, if there is no --evaluate-on
    """

    evaluate_on: Path | None = None
    evaluate_on_labels: Path | None = None
    held_out: float = 0.2

    def load_judged(self, output_kind: OutputKind | None) -> StoredPredictions | None:
        """Load the predictions that judge the calibrator."""
        from aradals.pipeline.prediction_files import read_predictions

        if self.evaluate_on is None:
            if self.evaluate_on_labels is not None:
                raise InputError(expected="--evaluate-on", got="only its labels", hint="--evaluate-on test.npy")
            return None
        labels, option = self.evaluate_on_labels, "--evaluate-on-labels"
        judged = read_predictions(self.evaluate_on, labels, output_kind=output_kind, labels_option=option)
        print_log(judged.taken)
        return judged
