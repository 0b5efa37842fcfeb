"""ar-adals: find out where a classifier's confidence is wrong, train it to be right, and prove it.

The core (scores, subsets, adaptive targets, metrics, temperature) needs only torch and numpy. Training, data, reports
and the command line need extras: ``pip install 'ar-adals[all]'``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the same names for type checkers
    from aradals import attacks as attacks
    from aradals import calibration as calibration
    from aradals import corruptions as corruptions
    from aradals import data as data
    from aradals import inference as inference
    from aradals import integrations as integrations
    from aradals import losses as losses
    from aradals import metrics as metrics
    from aradals import models as models
    from aradals import objectives as objectives
    from aradals import plots as plots
    from aradals import report as report
    from aradals import results as results
    from aradals import robustness as robustness
    from aradals import smoothing as smoothing
    from aradals.calibration import CalibratedModel as CalibratedModel
    from aradals.calibration import TemperatureScaling as TemperatureScaling
    from aradals.calibration import load_calibrator as load_calibrator
    from aradals.data import load_data as load_data
    from aradals.errors import InputError as InputError
    from aradals.inference import Ensemble as Ensemble
    from aradals.inference import Predictions as Predictions
    from aradals.inference import predict as predict
    from aradals.models import load_model as load_model
    from aradals.pipeline.calibrate import calibrate as calibrate
    from aradals.pipeline.diagnose import diagnose as diagnose
    from aradals.pipeline.evaluate import evaluate as evaluate
    from aradals.pipeline.monitor import monitor as monitor
    from aradals.pipeline.score import score_dataset as score_dataset
    from aradals.pipeline.study import run_study as run_study
    from aradals.results import Results as Results
    from aradals.robustness import ScoreTable as ScoreTable
    from aradals.robustness import audit_scores as audit_scores
    from aradals.robustness import score as score
    from aradals.smoothing import AdaptiveSmoothing as AdaptiveSmoothing
    from aradals.smoothing import UpdateRule as UpdateRule
    from aradals.smoothing import assign_subsets as assign_subsets

__version__ = "0.1.0"

_NAMES = {
    **dict.fromkeys(("score", "ScoreTable", "audit_scores"), "robustness"),
    **dict.fromkeys(("assign_subsets", "AdaptiveSmoothing", "UpdateRule"), "smoothing"),
    **dict.fromkeys(("predict", "Predictions", "Ensemble"), "inference"),
    **dict.fromkeys(("TemperatureScaling", "CalibratedModel", "load_calibrator"), "calibration"),
    **{name: f"pipeline.{name}" for name in ("diagnose", "evaluate", "calibrate", "monitor")},
    "score_dataset": "pipeline.score",
    "run_study": "pipeline.study",
    "Results": "results",
    "load_data": "data",
    "load_model": "models",
    "InputError": "errors",
}
"""Public name -> the module that has it."""

_NAMESPACES = (
    *("attacks", "calibration", "corruptions", "data", "inference", "integrations", "losses", "metrics"),
    *("models", "objectives", "plots", "report", "results", "robustness", "smoothing"),
)

__all__ = [*_NAMES, *_NAMESPACES, "__version__"]


def __getattr__(name: str) -> object:
    """Import torch and the core when a name is first used, so that the command line starts quickly."""
    if name in _NAMESPACES:
        return importlib.import_module(f"aradals.{name}")
    if name in _NAMES:
        value: object = getattr(importlib.import_module(f"aradals.{_NAMES[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
