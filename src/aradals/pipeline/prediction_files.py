"""Files of predictions of any program: which column holds what, and what its numbers are.

A file has labels and, for each example, one number for each class (or one for the positive class). Names that other
tools use are known, see `docs/predictions.md`. If a name leaves open whether numbers are logits or probabilities, the
numbers decide, see `aradals.checks.kind_of_outputs`; the reader says what was taken.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aradals._internal.hashes import decode_hashes
from aradals.checks import OutputKind, check_labels, check_logits, kind_of_outputs
from aradals.errors import InputError
from aradals.inference.outputs import OutputKind as Declared
from aradals.inference.predictions import Predictions, row_hashes
from aradals.pipeline.column_files import Columns, read_columns, read_lines

Meaning = Literal["logits", "probabilities", "outputs"]
Found = tuple[list[str], Tensor, tuple[str, ...], Meaning]
"""The columns of the outputs, their values, the names of the classes, and what the names of the columns say."""

LABELS = ("label", "labels", "label_ids", "y_true", "target", "targets", "true_label", "ground_truth", "y", "class")
IDS = ("id", "ids", "example_id", "image_id", "filename", "file_name", "path", "index")
PREDICTED = ("y_pred", "pred", "predicted", "prediction", "predictions", "predicted_label", "preds")
OUTPUTS: Mapping[str, Meaning] = {
    **dict.fromkeys(("logits", "logit"), "logits"),
    **dict.fromkeys(("probs", "prob", "probabilities", "probability", "proba", "y_prob", "y_proba"), "probabilities"),
    **dict.fromkeys(("predict_proba", "p"), "probabilities"),
    **dict.fromkeys(
        ("outputs", "output", "scores", "predictions", "y_score", "y_scores", "preds", "y_pred"), "outputs"
    ),
    "score": "outputs",
}
"""Name of a column, or the part of it before the class -> what the name says about the numbers."""

_WIDE = re.compile(rf"({'|'.join(sorted(OUTPUTS, key=len, reverse=True))})[_. \[]+([^\]]+)\]?", re.IGNORECASE)

_KINDS: Mapping[Meaning, tuple[OutputKind, ...]] = {
    "logits": ("logits", "log-probabilities"),
    "probabilities": ("probabilities",),
    "outputs": ("logits", "log-probabilities", "probabilities"),
}
"""The kinds of numbers that a name allows."""

_HINTS: Mapping[OutputKind, str] = {
    "percentages": "--output-kind probs, which divides each row by its sum",
    "sigmoids": "--output-kind probs, which divides each row by its sum, if every example has exactly one class; "
    "--output-kind logits if they are logits; or the logits before the sigmoid, in a column logits",
    "one-hot": "the probabilities or logits before argmax, because a predicted class has no confidence",
    "labels": "the probabilities or logits before argmax, because a predicted class has no confidence",
    "probabilities": "the name probs for this column",
    "logits": "the name logits for this column",
    "log-probabilities": "the name logits for this column",
}


@dataclass(frozen=True)
class StoredPredictions:
    """Predictions with the description in their file.

    Attributes:
        predictions: predictions of N examples.
        name: name of the file.
        data: name of the data; the name of the file if the file has no name of the data.
        hashes: content hashes of the examples, uint64; empty if the file has none.
        weights: digest of the weights of the model; empty if the file has none.
        class_names: names of the classes; empty if the file has none.
        keys: identifier of each example, numbers or text, shape (N,); None if the file has none.
        taken: which columns were taken for what, as a sentence.
    """

    predictions: Predictions
    name: str
    data: str
    hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    weights: str = ""
    class_names: tuple[str, ...] = ()
    keys: npt.NDArray[Any] | None = None
    taken: str = ""

    @property
    def row_hashes(self) -> npt.NDArray[np.uint64]:
        """Hashes of the predictions themselves."""
        return row_hashes(self.predictions.logits, self.predictions.labels)

    @property
    def fingerprint(self) -> str:
        """Digest of labels and logits."""
        parts = (self.predictions.labels, self.predictions.logits)
        return hashlib.sha256(b"".join(part.contiguous().numpy().tobytes() for part in parts)).hexdigest()[:16]

    def select(self, rows: Tensor) -> StoredPredictions:
        """Select some of the examples."""
        keys = None if self.keys is None else self.keys[rows.numpy()]
        return replace(self, predictions=self.predictions.select(rows), keys=keys)

    def aligned(self, other: StoredPredictions) -> StoredPredictions:
        """Put ``other`` in the order of these examples.

        Raises:
            InputError: the files have other examples, or other labels for them.
        """
        if self.keys is not None and other.keys is not None:
            order = {key: row for row, key in enumerate(other.keys.tolist())}
            rows = [order.get(key, -1) for key in self.keys.tolist()]
            if len(order) != len(rows) or min(rows) < 0:
                raise _other_examples(self, other, f"{sum(row >= 0 for row in rows)} of {len(rows)} ids in both")
            other = other.select(torch.tensor(rows))
        ours, theirs = self.predictions, other.predictions
        if len(ours) != len(theirs) or ours.logits.shape != theirs.logits.shape:
            got = f"{tuple(ours.logits.shape)} and {tuple(theirs.logits.shape)} rows and classes"
            raise _other_examples(self, other, got)
        if different := int((ours.labels != theirs.labels).sum()):
            raise _other_examples(self, other, f"{different} of {len(ours)} rows with different labels")
        return other


def _other_examples(ours: StoredPredictions, theirs: StoredPredictions, got: str) -> InputError:
    return InputError(
        expected=f"the same examples in {ours.name} and {theirs.name}, by their ids or in the same order",
        got=got,
        hint="a column id in both files",
    )


def read_predictions(
    path: Path,
    labels: Path | StoredPredictions | None = None,
    *,
    output_kind: Declared | None = None,
    labels_option: str = "--labels",
) -> StoredPredictions:
    """Read predictions that replace a model.

    Args:
        path: .parquet, .csv, .tsv, .jsonl, .npz, .npy or .pt file.
        labels: file of the labels, or other predictions of the same examples, if ``path`` has none. The labels are
            found by id if both have ids, otherwise they are in the same order.
        output_kind: "probs" for numbers of which each row is to be divided by its sum; "logits" for numbers that are
            logits, whatever they look like; None for the check of `aradals.checks.kind_of_outputs`.
        labels_option: option that names ``labels``, for errors.

    Raises:
        InputError: a file is missing, lacks a column, or its numbers are neither logits nor probabilities.
    """
    columns, metadata = read_columns(path)
    own = _pick(columns, LABELS, _is_column)
    apart = None if labels is None or (isinstance(labels, StoredPredictions) and own is not None) else labels
    if own is None and apart is None:
        raise InputError(
            expected=f"a column of labels in {path} ({', '.join(LABELS)})",
            got=_names(columns),
            hint=f"{labels_option} FILE, a file with the labels of the same examples",
        )
    given, origin = (columns[str(own)], own) if apart is None else _labels_apart(apart, columns, path)
    used, values, class_names, meaning = _outputs(columns, given, own, path)
    logits, what = _as_logits(values, meaning, used, path, output_kind)
    if len(given) != len(logits):
        raise InputError(
            expected=f"a label for each of {len(logits)} rows in {path}",
            got=f"{len(given)} labels",
            hint="files of the same examples in the same order",
        )
    indices, class_names, note = _indices(given, class_names, logits.shape[1], path)
    _check_predicted(columns, used, logits, class_names, path)
    keys, ids = _identifiers(columns, len(logits), path)
    scores = _robustness(columns, used, len(logits))
    predictions = Predictions(ids, logits, indices, scores)
    return _stored(predictions, path, metadata, class_names, keys, f"{what}; labels from {origin}{note}")


def read_unlabeled(path: Path, *, output_kind: Declared | None = None) -> StoredPredictions:
    """Read predictions whose labels, if there are any, do not matter; the labels of the result are -1.

    Args:
        path: see `read_predictions`.
        output_kind: see `read_predictions`.

    Raises:
        InputError: the file is missing, lacks a column, or its numbers are neither logits nor probabilities.
    """
    columns, metadata = read_columns(path)
    own = _pick(columns, LABELS, _is_column)
    labels = np.empty(0) if own is None else columns[own]
    used, values, class_names, meaning = _outputs(columns, labels, own, path)
    logits, what = _as_logits(values, meaning, used, path, output_kind)
    keys, ids = _identifiers(columns, len(logits), path)
    predictions = Predictions(ids, logits, torch.full((len(logits),), -1))
    return _stored(predictions, path, metadata, class_names, keys, what)


def _stored(
    predictions: Predictions,
    path: Path,
    metadata: Mapping[str, str],
    class_names: tuple[str, ...],
    keys: npt.NDArray[Any] | None,
    what: str,
) -> StoredPredictions:
    """Put predictions together with what the metadata of their file says."""
    return StoredPredictions(
        predictions,
        path.stem,
        metadata.get("data", path.stem),
        decode_hashes(metadata.get("example_hashes", ""), path),
        metadata.get("weights", ""),
        class_names,
        keys,
        f"{path.name}: {what}",
    )


def _labels_apart(labels: Path | StoredPredictions, columns: Columns, path: Path) -> tuple[npt.NDArray[Any], str]:
    """Find the labels of the rows of ``path``, and the name of their file: by id if both files have ids."""
    if isinstance(labels, StoredPredictions):
        numbers, names, keys, name = labels.predictions.labels.numpy(), labels.class_names, labels.keys, labels.name
        values = np.array(names)[numbers] if names else numbers
    else:
        others, _ = ({"label": read_lines(labels)}, {}) if labels.suffix.lower() == ".txt" else read_columns(labels)
        values, name = _only_column(others, labels), labels.name
        keys = _identifiers(others, len(values), labels)[0]
    own = _identifiers(columns, len(next(iter(columns.values()))), path)[0]
    if own is None or keys is None:
        return values, name
    rows = {key: row for row, key in enumerate(keys.tolist())}
    if missing := [key for key in own.tolist() if key not in rows]:
        raise InputError(
            expected=f"a label in {name} for every id of {path}",
            got=f"none for {missing[0]!r}, and for {len(missing) - 1} more",
            hint="a file with the labels of these ids, or both files without ids, in the same order",
        )
    return values[[rows[key] for key in own.tolist()]], f"{name}, by id"


def _only_column(columns: Columns, path: Path) -> npt.NDArray[Any]:
    """Choose the column of the labels in a file of labels."""
    name = next(iter(columns)) if len(columns) == 1 else _pick(columns, LABELS, _is_column)
    if name is None:
        raise InputError(
            expected=f"one column, or a column of labels, in {path}", got=_names(columns), hint="the name label"
        )
    return columns[name]


def _key(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _pick(columns: Columns, names: Sequence[str], fits: Callable[[npt.NDArray[Any]], bool]) -> str | None:
    """Find the column with the first of these names whose values fit."""
    found = {_key(name): name for name, values in columns.items() if fits(values)}
    return next((found[name] for name in names if name in found), None)


def _is_column(values: npt.NDArray[Any]) -> bool:
    return values.ndim == 1 or (values.ndim == 2 and values.dtype.kind in "iub")


def _names(columns: Columns) -> str:
    return f"columns {', '.join(map(repr, list(columns)[:20]))}"


def _outputs(columns: Columns, labels: npt.NDArray[Any], own: str | None, path: Path) -> Found:
    """Find the outputs in the columns that are not the labels, ``own``."""
    free = {name: values for name, values in columns.items() if name != own}
    wide: dict[str, dict[str, str]] = {}
    for name in free:
        if (match := _WIDE.fullmatch(name)) and free[name].dtype.kind in "fiu" and free[name].ndim == 1:
            wide.setdefault(match[1].lower(), {})[match[2]] = name
    by_class = _named_by_class(free, labels)
    for stem, meaning in OUTPUTS.items():
        if len(of_class := wide.get(stem, {})) > 1:
            return _join(free, of_class, meaning)
        if (found := _pick(free, [stem], _holds_outputs)) is not None:
            return [found], _stack(free[found], found, path), (), meaning
    if by_class:
        return _join(free, by_class, "outputs")
    if predicted := _pick(free, PREDICTED, lambda values: True):
        raise InputError(
            expected=f"logits or probabilities in {path}",
            got=f"predicted classes in {predicted!r}",
            hint=_HINTS["labels"],
        )
    raise InputError(
        expected=f"a column 'logits' or 'probs' in {path}, or one for each class, such as prob_0, prob_1",
        got=_names(columns),
        hint="one of these names",
    )


def _holds_outputs(values: npt.NDArray[Any]) -> bool:
    """Return True for rows of numbers, and for a column of numbers that are not classes."""
    if values.ndim == 2 or values.dtype == object:
        return values.ndim == 2 or not isinstance(next(iter(values), ""), str)
    return values.dtype.kind == "f" and bool((values != np.floor(values)).any())


def _named_by_class(columns: Columns, labels: npt.NDArray[Any]) -> dict[str, str]:
    """Find the columns whose names are classes: all labels that occur, or numbers from 0, as pandas numbers columns."""
    numeric = [name for name, values in columns.items() if values.ndim == 1 and values.dtype.kind == "f"]
    known = {str(label) for label in np.unique(labels.astype(str))} if labels.ndim == 1 else set()
    if labels.dtype.kind == "O" and known and known <= set(numeric):
        return {name: name for name in numeric if _key(name) not in (*IDS, *PREDICTED, "score")}
    return {name: name for name in numeric if name.isdigit()}


def _join(columns: Columns, of_class: Mapping[str, str], meaning: Meaning) -> Found:
    """Make one table of the columns of the classes; classes with numbers are in the order of the numbers."""
    numbered = all(name.isdigit() for name in of_class)
    classes = sorted(of_class, key=int) if numbered else list(of_class)
    values = np.stack([columns[of_class[name]].astype(np.float64) for name in classes], 1)
    from_zero = [int(name) for name in classes] == list(range(len(classes))) if numbered else False
    names = () if from_zero else tuple(classes)
    return [of_class[name] for name in classes], torch.from_numpy(values), names, meaning


def _stack(rows: npt.NDArray[Any], name: str, path: Path) -> Tensor:
    """Make one tensor of numbers from a column, shape (N, K) or (N,)."""
    if rows.dtype == object:
        lengths = {len(row) if isinstance(row, np.ndarray | list) else 0 for row in rows}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(
                expected=f"logits of one length in {path}",
                got=f"lengths {sorted(lengths)}",
                hint="rows of K logits each",
            )
        rows = np.stack(list(map(np.asarray, rows)))
    if rows.dtype.kind not in "fiu" or rows.dtype.itemsize > 8 or rows.ndim > 2:
        raise InputError(
            expected=f"numbers of shape (N, K) in {name!r} of {path}",
            got=f"{rows.dtype} of shape {rows.shape}",
            hint="float32, and one row for each example",
        )
    tensor = torch.from_numpy(np.array(rows))
    return tensor if tensor.is_floating_point() else tensor.double()


def _as_logits(
    values: Tensor, meaning: Meaning, used: Sequence[str], path: Path, declared: Declared | None
) -> tuple[Tensor, str]:
    """Make logits of logits or probabilities, and say what was taken.

    Raises:
        InputError: the numbers are neither, or not what the name of the column says.
    """
    where = repr(used[0]) if len(used) == 1 else f"{used[0]!r} to {used[-1]!r}"
    if declared is not None:
        meaning = "probabilities" if declared == "probs" else "logits"
    if values.ndim == 1 or values.shape[1] == 1:
        values, meaning, where = _two_classes(values.flatten(), meaning, where, path)
    if not len(values) or bool(values.isnan().any()):
        got = f"NaN in {int(values.isnan().any(1).sum())} of {len(values)} rows" if len(values) else "no rows"
        raise InputError(expected=f"numbers in {where} of {path}", got=got, hint="a file without these rows")
    kind = kind_of_outputs(values)
    if kind in ("one-hot", "labels") or (declared is None and kind not in _KINDS[meaning]):
        raise _other_kind(kind, meaning, where, path)
    if meaning != "probabilities" and kind != "probabilities":
        # As log-probabilities, logits are logits for every later check, too.
        return check_logits(values.log_softmax(1) if declared else values, len(values)), f"logits from {where}"
    sums = values.sum(1, keepdim=True, dtype=torch.float64)
    if declared is None and not bool((sums - 1).abs().max() <= max(1e-3, torch.finfo(values.dtype).eps)):
        raise InputError(
            expected=f"probabilities in {where} of {path} that sum to 1 in every row",
            got=f"sums from {float(sums.min()):.4g} to {float(sums.max()):.4g}",
            hint="--output-kind probs, which divides each row by its sum",
        )
    if bool((values < 0).any()) or not bool((sums > 0).all()):
        raise InputError(
            expected=f"probabilities, sigmoids or percentages in {where} of {path}",
            got="negative values" if bool((values < 0).any()) else "rows of zeros",
            hint="--output-kind logits, or a file without these rows",
        )
    probs = values.double() / sums
    return check_logits(probs.log(), len(probs)), f"probabilities from {where}"


def _other_kind(kind: OutputKind, meaning: Meaning, where: str, path: Path) -> InputError:
    expected = "logits or probabilities" if meaning == "outputs" else meaning
    return InputError(expected=f"{expected} in {where} of {path}", got=kind, hint=_HINTS[kind])


def _two_classes(column: Tensor, meaning: Meaning, where: str, path: Path) -> tuple[Tensor, Meaning, str]:
    """Make two columns of the probability, or of the logit, of class 1."""
    if kind_of_outputs(column) == "labels":
        raise _other_kind("labels", meaning, where, path)
    in_range = bool((column >= 0).all() and (column <= 1).all())
    if meaning == "probabilities" and not in_range:
        raise InputError(
            expected=f"probabilities of class 1 in {where} of {path}",
            got=f"values from {float(column.min()):.4g} to {float(column.max()):.4g}",
            hint="the name logit for logits, and values in [0, 1] for probabilities",
        )
    if meaning == "probabilities" or (meaning == "outputs" and in_range):
        column = column.double()
        return torch.stack([1 - column, column], 1), "probabilities", f"{where} (of class 1)"
    return torch.stack([torch.zeros_like(column), column], 1), "logits", f"{where} (of class 1, against 0)"


def _indices(
    labels: npt.NDArray[Any], class_names: tuple[str, ...], num_classes: int, path: Path
) -> tuple[Tensor, tuple[str, ...], str]:
    """Make class indices of labels, which may be numbers, names or one-hot rows."""
    note = ""
    if labels.ndim == 2:
        if labels.shape[1] == 1:
            labels = labels[:, 0]
        elif kind_of_outputs(torch.from_numpy(labels.astype(np.float64))) == "one-hot":
            labels = labels.argmax(1)
    if labels.ndim == 1 and labels.dtype.kind == "f" and bool((labels == labels.round().clip(-1e9, 1e9)).all()):
        labels = labels.astype(np.int64)
    if labels.ndim == 1 and (labels.dtype.kind in "OU" or class_names):
        texts = [str(label) for label in labels.tolist()]
        if not class_names:
            class_names = tuple(sorted(set(texts)))
            note = f" (classes in sorted order, as in scikit-learn: {', '.join(class_names[:5])} ...)"
            if len(class_names) != num_classes:
                raise InputError(
                    expected=f"{num_classes} different labels in {path}, one for each column",
                    got=f"{len(class_names)}, such as {class_names[0]!r}",
                    hint="class indices, or columns named by class such as prob_cat, prob_dog",
                )
        position = {name: index for index, name in enumerate(class_names)}
        if unknown := next((text for text in texts if text not in position), None):
            raise InputError(
                expected=f"labels in {path} that are classes ({', '.join(class_names[:10])})",
                got=repr(unknown),
                hint="columns named by class, with the same names as the labels",
            )
        labels = np.array([position[text] for text in texts])
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise InputError(
            expected=f"one integer label for each row in {path}",
            got=f"{labels.dtype} of shape {labels.shape}",
            hint="class indices from 0",
        )
    indices = torch.from_numpy(labels.astype(np.int64))
    check_labels(indices, num_classes)
    return indices, class_names, note


def _check_predicted(
    columns: Columns, used: Sequence[str], logits: Tensor, class_names: Sequence[str], path: Path
) -> None:
    """Compare a column of predicted classes with the largest outputs, because classes in another order disagree."""
    name = _pick(
        {name: v for name, v in columns.items() if name not in used}, PREDICTED, lambda values: values.ndim == 1
    )
    if name is None or logits.shape[1] == 2:  # two classes may have another threshold
        return
    best = logits.argmax(1).tolist()
    ours = [class_names[index] if class_names else str(index) for index in best]
    theirs = [str(int(each)) if isinstance(each, float) and each.is_integer() else str(each) for each in columns[name]]
    different = sum(a != b for a, b in zip(ours, theirs, strict=True))
    if different > 0.01 * len(ours):
        raise InputError(
            expected=f"outputs in {path} whose largest is the class in {name!r}",
            got=f"{different} of {len(ours)} rows where they differ",
            hint="columns in the order of the class indices, or the file without this column",
        )


def _identifiers(columns: Columns, num_rows: int, path: Path) -> tuple[npt.NDArray[Any] | None, Tensor]:
    """Read the identifier of each example; ids that are text get the numbers of their rows."""
    name = _pick(columns, IDS, lambda values: True)
    if name is None:
        return None, torch.arange(num_rows)
    keys = columns[name]
    if keys.shape != (num_rows,) or keys.dtype.kind not in "iuOU":
        raise InputError(
            expected=f"one integer id, or one text, for each of {num_rows} rows of {path}",
            got=f"{keys.dtype} of shape {keys.shape}",
            hint="row numbers or names",
        )
    if len(set(keys.tolist())) < num_rows:
        raise InputError(expected=f"every id once in {path}", got="some of them again", hint="one row for each example")
    return keys, torch.from_numpy(keys.astype(np.int64)) if keys.dtype.kind in "iu" else torch.arange(num_rows)


def _robustness(columns: Columns, used: Sequence[str], num_rows: int) -> Tensor | None:
    """Read the first-order margins beside the outputs, if there are any."""
    values = columns.get("score")
    if values is None or "score" in used:
        return None
    if values.shape != (num_rows,) or values.dtype.kind not in "fiu":
        raise InputError(
            expected=f"one number in the column 'score' for each of {num_rows} rows, the first-order margin",
            got=f"{values.dtype} of shape {values.shape}",
            hint="a file without this column",
        )
    return torch.from_numpy(values.astype(np.float64))
