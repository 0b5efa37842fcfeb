"""Checks before a judgment: a wrong answer refuses the judgment, and an unknown answer is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from aradals.calibration import Calibrator
from aradals.data import overlap
from aradals.errors import InputError
from aradals.pipeline.prediction_files import StoredPredictions
from aradals.results.records import Check, Variant

MAX_SHARED = 0.01
"""Public data sets have a few exact duplicates across their splits; more than this share is a mistake."""

Hashes = npt.NDArray[np.uint64]


def check_unseen(fitted: Hashes, evaluated: Hashes, *, what: str, where: str) -> Check:
    """Refuse to judge ``what`` on examples that it was fitted on, whatever their files are called.

    Args:
        fitted: content hashes of the examples of the fit; empty if they are not known.
        evaluated: content hashes of the examples of the evaluation; empty if they are not known.
        what: name for the message, such as "the calibrator".
        where: name of the evaluated examples.

    Raises:
        InputError: more than 1 % of the evaluated examples are among those of the fit.
    """
    question = f"{what} was not fitted on {where}"
    if not len(fitted):
        return Check(question, reason=f"the examples that {what} was fitted on are not recorded")
    if not len(evaluated):
        return Check(question, reason=f"{where} has no content hashes")
    if shared := _too_many_shared(fitted, evaluated):
        raise InputError(
            expected=f"examples that {what} was not fitted on",
            got=f"{where}, with {shared} from its fit",
            hint="another --split or --data",
        )
    return Check(question, "checked")


def check_other(other: Hashes, evaluated: Hashes, *, where: str, beside: str) -> None:
    """Refuse out-of-distribution data that contain evaluated examples; the arguments are hashes and names of both.

    Raises:
        InputError: more than 1 % of the other examples are among the evaluated ones.
    """
    if shared := _too_many_shared(evaluated, other):
        raise InputError(
            expected=f"out-of-distribution data without the examples of {beside}",
            got=f"{where}, with {shared} from there",
            hint="data of another kind",
        )


def _too_many_shared(known: Hashes, judged: Hashes) -> str:
    """Count the judged examples that are among the known ones: ``12 of 100 examples``; empty if they are few."""
    shared = overlap(known, judged)
    return f"{shared} of {len(judged)} examples" if shared > MAX_SHARED * len(judged) else ""


def check_calibrators(
    calibrators: Mapping[str, Calibrator], *, weights: str, num_classes: int, evaluated: Hashes, where: str
) -> tuple[Check, ...]:
    """Refuse calibrators of other models, and those that were fitted on the evaluated examples.

    Args:
        calibrators: fitted, by name.
        weights: digest of the model's weights; empty if it is not known.
        num_classes: number of classes of the model.
        evaluated: content hashes of the evaluated examples; empty if they are not known.
        where: name of the evaluated examples.

    Raises:
        InputError: such a calibrator, or one with the name that stands for no calibrator.
    """
    if not all(Variant("", name).is_calibrated for name in calibrators):
        raise InputError(expected="a name for each calibrator", got="'none'", hint="another name for it")

    def answers() -> Iterator[Check]:
        for name, calibrator in calibrators.items():
            what = f"the calibrator {name}"
            yield _check_model(calibrator, weights, num_classes, what)
            yield check_unseen(calibrator.origin.example_hashes, evaluated, what=what, where=where)

    return tuple(answers())


def check_stored(given: StoredPredictions, calibrators: Mapping[str, Calibrator]) -> tuple[Check, ...]:
    """Ask the same of predictions from a file, which does not record the examples that the model was trained on.

    Raises:
        InputError: see `check_calibrators`; or a calibrator was fitted on the same predictions.
    """
    for name, calibrator in calibrators.items():
        _refuse_same_rows(calibrator.origin.row_hashes, given, f"the calibrator {name}")
    return (
        check_unseen(np.empty(0, np.uint64), given.hashes, what="the model", where=given.data),
        *check_calibrators(
            calibrators,
            weights=given.weights,
            num_classes=given.predictions.logits.shape[1],
            evaluated=given.hashes,
            where=given.data,
        ),
    )


def _refuse_same_rows(fitted: Hashes, given: StoredPredictions, what: str) -> None:
    """Refuse predictions that come again; other predictions prove nothing, because rounding changes them."""
    evaluated = given.row_hashes
    if not len(fitted) or not len(evaluated):
        return
    # Both are the smallest hashes of all rows, so that they are comparable up to the smaller of their largest.
    last = min(fitted.max(), evaluated.max())
    shared, compared = overlap(fitted, evaluated[evaluated <= last]), int((evaluated <= last).sum())
    if shared > MAX_SHARED * compared:
        raise InputError(
            expected=f"predictions that {what} was not fitted on",
            got=f"{given.name}, of which about {100 * shared / compared:.0f} % of the rows are from its fit",
            hint="predictions of other examples",
        )


def tell_unchecked(checks: Iterable[Check], log: Callable[[str], None]) -> None:
    """Log one line that names what could not be checked, if there is anything."""
    unchecked = [f"{check.what} ({check.reason})" for check in checks if check.answer != "checked"]
    if unchecked:
        log(f"warning: could not be checked: {'; '.join(unchecked)}")


def _check_model(calibrator: Calibrator, weights: str, num_classes: int, what: str) -> Check:
    question, origin = f"{what} was fitted for this model", calibrator.origin
    if origin.num_classes not in (0, num_classes) or (origin.weights and weights and origin.weights != weights):
        same = origin.num_classes in (0, num_classes)
        raise InputError(
            expected=f"{what} of this model",
            got="one of a model with other weights" if same else f"one of a model with {origin.num_classes} classes",
            hint="fitting a calibrator for this model: `aradals calibrate`",
        )
    if not origin.weights:
        return Check(question, reason="its model is not recorded")
    if not weights:
        return Check(question, reason="the predictions do not say which model has made them")
    return Check(question, "checked")
