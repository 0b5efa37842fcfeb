"""The rows of a split become examples: labels are numbered, images decoded, and columns of numbers scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from aradals.checks import ROUNDING
from aradals.data.examples import Examples
from aradals.data.find import DataSet
from aradals.data.formats import Columns, Rows, contiguous_images
from aradals.data.images import Decoding, ImageReader, KeptImages, describe_images, read_images
from aradals.data.labels import class_indices
from aradals.data.scaling import Scaling
from aradals.errors import InputError

OutOfRange = Literal["refuse", "clip"]
"""The two ways to treat inputs outside [0, 1]."""

MAX_UNNAMED = 1000
"""Number of classes up to which names are not needed, even if there are few rows."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Reading:
    """The settings of reading, which are the same for all splits of a data set.

    Attributes:
        image_column: column of images, of names of image files, or array of inputs, if types and usual names do not
            identify it.
        label_column: column of labels, if types and usual names do not identify it.
        num_classes: number of classes, if the labels are numbers and the largest class may be missing.
        resize: height and width to which every image is resized.
        out_of_range: refuse inputs outside [0, 1], or clip them; by default they are refused, but clipped where the
            training data has scaled the columns of a table.
        preparation: what a checkpoint records of the preparation of its training data, see `Examples`; it decides the
            scaling of numeric columns, and the columns and the size of images that are not named otherwise.
    """

    image_column: str | None = None
    label_column: str | None = None
    num_classes: int | None = None
    resize: int | None = None
    out_of_range: OutOfRange | None = None
    preparation: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.out_of_range not in (None, *get_args(OutOfRange)):
            raise InputError(expected="out_of_range refuse or clip", got=repr(self.out_of_range), hint="clip")
        if self.num_classes is not None and self.num_classes < 2:
            raise InputError(expected="num_classes of at least 2", got=str(self.num_classes), hint="--num-classes 10")

    @property
    def columns(self) -> Columns:
        """The columns that are named, here or in the recorded preparation."""
        recorded = {what: (self.preparation or {}).get(f"{what}_column") for what in ("image", "label")}
        known = {what: name for what, name in recorded.items() if isinstance(name, str)}
        return Columns(self.image_column, self.label_column, known)

    @property
    def decoding_size(self) -> int | None:
        """The size of images: as asked, or as recorded."""
        recorded = (self.preparation or {}).get("resize")
        return self.resize if self.resize is not None or not isinstance(recorded, int) else recorded

    @property
    def scaling(self) -> Scaling | None:
        """The recorded scaling of numeric columns."""
        recorded = (self.preparation or {}).get("scaling")
        return None if recorded is None else Scaling.read(recorded)


def make_examples(
    data_set: DataSet,
    rows: Rows,
    settings: Reading,
    scaling: Scaling | None,
    name: str,
    log: Log,
    *,
    limit: int | None = None,
    labeled: bool = True,
) -> Examples:
    """Make examples from the rows of a split."""
    for note in rows.notes:
        log(note)
    chosen = sample(len(rows.inputs), limit)
    labels, names = _labels(data_set, rows, name) if labeled else _labels_if_any(data_set, rows, name, log)
    num_classes = settings.num_classes or 1
    if labels is not None:
        num_classes = _num_classes(labels, names, rows, settings, name)
    inputs, preparation = _inputs(rows, chosen, settings, scaling, name, log)
    named = {"image_column": settings.image_column, "label_column": settings.label_column}
    return Examples(
        inputs,
        None if labels is None else torch.from_numpy(labels[chosen]),
        num_classes=num_classes,
        class_names=names,
        ids=torch.from_numpy(chosen),
        name=name,
        preparation={**preparation, **{key: column for key, column in named.items() if column is not None}},
    )


def fit_scaling(rows: Rows, where: str, chosen: npt.NDArray[np.int64] | slice = slice(None)) -> Scaling | None:
    """Measure the ranges and means of columns of numbers, in the chosen rows; None for other inputs."""
    return Scaling.fit(np.asarray(rows.inputs)[chosen], rows.features, where) if rows.features else None


def choose_scaling(data_set: DataSet, source: str, rows: Rows, settings: Reading, name: str) -> Scaling | None:
    """Choose the scaling of columns of numbers: the recorded one, or that of the training split; None if not needed."""
    if not rows.features or settings.scaling is not None:
        return settings.scaling if rows.features else None
    if "train" in data_set.splits:
        return fit_scaling(rows if source == "train" else data_set.splits["train"].rows(settings.columns), name)
    values = np.asarray(rows.inputs)
    if values.min() >= 0 and values.max() <= 1:  # not if there is a NaN
        return None
    gaps = f", and {int(np.isnan(values).sum())} missing values" if np.isnan(values).any() else ""
    raise InputError(
        expected=f"columns of {name} in [0, 1] and no missing values, or the ranges of the training data to scale by",
        got=f"values from {np.nanmin(values):.4g} to {np.nanmax(values):.4g}{gaps}",
        hint="--checkpoint of a model of `aradals train`, which records the ranges; a folder with train.csv and "
        "test.csv; or --split test, which is scaled by the other rows",
    )


def _inputs(
    rows: Rows,
    chosen: npt.NDArray[np.int64],
    settings: Reading,
    scaling: Scaling | None,
    name: str,
    log: Log,
) -> tuple[torch.Tensor | ImageReader | KeptImages, dict[str, Any]]:
    """Decode or scale the inputs of the chosen rows, and record how."""
    if not isinstance(rows.inputs, np.ndarray):
        decoding = Decoding(settings.decoding_size, upright=rows.upright)
        for note in describe_images(rows.inputs, chosen.tolist(), decoding):
            log(f"{name}: {note}")
        record = {} if decoding.resize is None else {"resize": decoding.resize}
        return read_images(rows.inputs, chosen.tolist(), name, decoding), record
    if scaling is not None:
        values = scaling.apply(rows.inputs, rows.features, name)
        log(f"{name}: columns are scaled to [0, 1] by their ranges in the training data")
        if gaps := int(np.isnan(rows.inputs).sum()):
            log(f"{name}: {gaps} missing values become the mean of their column in the training data")
    else:
        values = rows.inputs if rows.features else contiguous_images(rows.inputs, name)
    inputs, size = torch.from_numpy(values[chosen]), settings.decoding_size
    if size is not None and inputs.shape[2:] != (size, size):
        inputs = _resized(inputs, size, name)
        log(f"{name}: images are resized to {size}x{size}; proportions are not kept")
    if inputs.is_floating_point():
        inputs = _in_range(inputs.float(), settings, name, log, is_scaled=scaling is not None)
    resize: dict[str, Any] = {} if size is None else {"resize": size}
    return inputs, resize if scaling is None else {"scaling": scaling.record}


_MAX_LOST = 0.1
"""Mean change of the values beyond which clipping does not cut outliers off, but destroys inputs on another scale."""


def _resized(images: torch.Tensor, size: int, name: str) -> torch.Tensor:
    """Resize images, shape (N, C, H, W), by bilinear interpolation with antialiasing."""
    if images.ndim != 4:
        raise InputError(
            expected=f"images in {name}, which can be resized to {size}x{size}",
            got=f"inputs of shape {tuple(images.shape[1:])}",
            hint="images; or rows without a size, if the model takes rows",
        )
    resized = interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return resized.round().byte() if images.dtype == torch.uint8 else resized


def _in_range(inputs: torch.Tensor, settings: Reading, name: str, log: Log, *, is_scaled: bool) -> torch.Tensor:
    """Clip inputs to [0, 1], or refuse those outside.

    By default, values of scaled columns are clipped, because only those of the training data are sure to be in range.
    Other inputs are refused if clipping would change them by more than `_MAX_LOST` on average, as with values from 0 to
    255.
    """
    outside = ~((inputs >= 0) & (inputs <= 1))  # NaN, too
    if not outside.any():
        return inputs
    low, high = (float(bound) for bound in inputs.aminmax())
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return inputs
    affected = f"{int(outside.flatten(1).any(1).sum())} of {len(inputs)} examples"
    lost = float((inputs - inputs.clamp(0, 1)).abs().mean())
    on_other_scale = not is_scaled and lost > _MAX_LOST
    clips = (settings.out_of_range or ("clip" if is_scaled else "refuse")) == "clip"
    if clips and not (on_other_scale or inputs.isnan().any()):
        log(f"{name}: {affected} are clipped to [0, 1]")
        return inputs.clamp(0, 1)
    scale = "" if is_scaled else "scaling the inputs to [0, 1], and putting the normalization inside the model"
    clip = "" if on_other_scale else "--out-of-range clip"
    raise InputError(
        expected=f"inputs of {name} in [0, 1]" + (" after the scaling by the training data" if is_scaled else ""),
        got=f"values from {low:.4g} to {high:.4g} in {affected}",
        hint="; or ".join(filter(None, (scale, clip))),
    )


def _labels(data_set: DataSet, rows: Rows, name: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...] | None]:
    """Convert labels to class indices; names are numbered over all splits together."""
    labels = check_labeled(rows, name)

    def all_names() -> Iterable[Any]:
        for split in data_set.splits.values() if len(data_set.splits) > 1 else ():
            with suppress(InputError):  # a split may have no labels
                yield from split.column(rows.label_column).tolist()

    numbers, names = class_indices(labels, f"{rows.label_column} of {name}", all_names=all_names)
    return numbers, rows.class_names or names


def _labels_if_any(
    data_set: DataSet, rows: Rows, name: str, log: Log
) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Convert labels for a task that does not need them: without usable labels there are none."""
    if rows.labels is None:
        return None, None
    try:
        labels, names = _labels(data_set, rows, name)
        if labels.min(initial=0) < 0:
            raise InputError(expected="labels of at least 0", got=str(labels.min()), hint="other labels")
    except InputError as error:
        log(f"{name}: its labels are not used: {error}")
        return None, None
    return labels, names


def check_labeled(rows: Rows, name: str) -> npt.NDArray[Any]:
    """Return the labels of a split; if there are none, raise the error that tells why."""
    if rows.labels is None:
        raise rows.unlabeled or InputError(
            expected=f"labels in {name}", got="none", hint="data with labels, or --label-column NAME"
        )
    return rows.labels


def _num_classes(
    labels: npt.NDArray[np.int64], names: Sequence[str] | None, rows: Rows, settings: Reading, name: str
) -> int:
    """Count the classes: as given, the number of names if there are names, else the largest label plus 1.

    Raises:
        InputError: there is another number of names; or the labels seem to number rows, not classes; a table of so many
            classes would fill the memory.
    """
    if names and settings.num_classes not in (None, len(names)):
        raise InputError(
            expected=f"--num-classes {len(names)} for {name}, whose classes have names",
            got=str(settings.num_classes),
            hint="no --num-classes, or labels that are numbers",
        )
    if settings.num_classes is not None or names:
        return settings.num_classes or len(names or ())
    num_classes = max(int(labels.max()) + 1, 1)
    if num_classes > MAX_UNNAMED and 2 * num_classes > len(labels):
        raise InputError(
            expected=f"labels of {name} that number its classes from 0",
            got=f"{num_classes:,} classes by the largest label, but only {len(labels):,} rows; perhaps "
            f"{rows.label_column!r} is not the label column",
            hint="--label-column NAME, --num-classes, or data with names of the classes",
        )
    return num_classes


def sample(num_rows: int, limit: int | None) -> npt.NDArray[np.int64]:
    """Choose up to ``limit`` rows, always the same ones, in order."""
    if limit is None or limit >= num_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(0).permutation(num_rows)[:limit])
