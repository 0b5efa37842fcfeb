"""AR-AdaLS, calibrators and calibration metrics with the interface of scikit-learn.

A classifier for tables, a calibrator for any fitted classifier, and metrics for ``make_scorer``::

    classifier = ArAdaLSClassifier().fit(X_train, y_train)
    calibrated = CalibratedEstimator(forest, method="temperature").fit(X_calibration, y_calibration)
    scorer = make_scorer(expected_calibration_error, response_method="predict_proba", greater_is_better=False)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aradals import metrics
from aradals._internal.optional import optional_imports
from aradals.calibration import get_calibrator
from aradals.errors import InputError
from aradals.models import MLP
from aradals.robustness import score
from aradals.smoothing import AdaptiveSmoothing, UpdateRule, assign_subsets

with optional_imports():
    from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data

_MIN_IN_SUBSET = 10
_BATCH = 4096

Split = tuple[Tensor, Tensor]
"""Inputs in [0, 1], shape (N, D), and labels, shape (N,)."""


class _Probabilistic(ClassifierMixin):  # type: ignore[misc]
    """A classifier of scikit-learn that predicts by its probabilities."""

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Predict the most probable class of each row, shape (N,)."""
        most_probable = self.predict_proba(X).argmax(1)
        predicted: npt.NDArray[Any] = self.classes_[most_probable]
        return predicted


class ArAdaLSClassifier(_Probabilistic, BaseEstimator):  # type: ignore[misc]
    """A network for tables that AR-AdaLS trains: `aradals.models.MLP` behind ``fit`` and ``predict_proba``.

    ``fit`` trains a first network without smoothing, scores the robustness of its predictions, and trains a second
    network with targets that follow the calibration on the validation part of the data. Columns are scaled to [0, 1] by
    their least and largest value in the table.

    Args:
        hidden_layer_sizes: number of units of each hidden layer.
        max_epochs: epochs of each of the two trainings, and so the number of updates.
        batch_size: number of examples in a batch, at least 2.
        learning_rate: learning rate of Adam.
        num_subsets: the largest number R of robustness subsets. Each has at least 10 validation examples, so that a
            small table has fewer subsets; a table with fewer than 20 validation examples has one.
        validation_fraction: part of the data that drives the updates and is not trained on.
        random_state: seed of the split, the weights and the order of the examples.
        device: device of torch for the training.

    Attributes:
        classes_: the labels, sorted, shape (K,).
        n_features_in_: number of columns.
        module_: the trained network, in float64 on the CPU; its outputs are the logarithms of probabilities.
        criterion_: the loss with its targets and their history, an `AdaptiveSmoothing`.
        num_subsets_: the number of subsets in use.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> classifier = ArAdaLSClassifier(max_epochs=30, learning_rate=0.01, random_state=0).fit(X, y)
        >>> classifier.predict_proba(X[:2]).shape
        (2, 3)
        >>> classifier.score(X, y) > 0.9
        True
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (100,),
        *,
        max_epochs: int = 100,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        num_subsets: int = 10,
        validation_fraction: float = 0.2,
        random_state: Any = None,
        device: str = "cpu",
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.num_subsets = num_subsets
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any) -> Self:
        """Train on a table.

        Args:
            X: numbers, shape (N, D).
            y: a label for each row, of any type, shape (N,).

        Raises:
            InputError: there is only one class, too few examples for a validation part, or a setting is out of its
                range. Other errors of the data are those of scikit-learn, which are ValueErrors, too.

        Warns:
            ConvergenceWarning: the first network predicts the same for every example, so that the data form one subset.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self._check_settings()
        self.classes_, positions = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError(expected="at least 2 classes", got="1 class", hint="y with the labels of all classes")
        random = check_random_state(self.random_state)
        parts = _split(len(X), positions, self.validation_fraction, random)
        self._low, spread = X.min(0), np.ptp(X, 0)
        self._range = np.where(spread > 0, spread, 1.0)
        train, validation = ((self._scaled(X[rows]), torch.from_numpy(positions[rows])) for rows in parts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(random.randint(2**31)))
            self._fit(train, validation)
        return self

    def _check_settings(self) -> None:
        settings = {"max_epochs": 1, "batch_size": 2, "num_subsets": 1}
        for name, least in settings.items():
            if getattr(self, name) < least:
                raise InputError(
                    expected=f"{name} >= {least}", got=f"{name}={getattr(self, name)}", hint=f"the default of {name}"
                )
        if not (0 < self.validation_fraction < 1 and self.learning_rate > 0):
            raise InputError(
                expected="validation_fraction between 0 and 1, and learning_rate > 0",
                got=f"validation_fraction={self.validation_fraction}, learning_rate={self.learning_rate}",
                hint="validation_fraction=0.2, learning_rate=0.001",
            )

    def _scaled(self, X: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy((X - self._low) / self._range)

    def _fit(self, train: Split, validation: Split) -> None:
        """Run the method: a vanilla training, scores, subsets, and a training with adaptive targets."""
        train, validation = ((x.float().to(self.device), y.to(self.device)) for x, y in (train, validation))
        num_subsets = max(1, min(self.num_subsets, len(validation[0]) // _MIN_IN_SUBSET, len(train[0])))
        one_subset = [torch.zeros_like(labels) for _, labels in (train, validation)]
        vanilla, _ = self._train(train, validation, one_subset, 1, None)
        subsets = _robustness_subsets(vanilla, (train, validation), num_subsets)
        self.num_subsets_ = num_subsets if subsets is not None else 1
        rule = UpdateRule(rate="auto").for_updates(self.max_epochs)
        module, self.criterion_ = self._train(train, validation, subsets or one_subset, self.num_subsets_, rule)
        self.module_, self.criterion_ = module.cpu().double().eval(), self.criterion_.cpu()

    def _train(
        self, train: Split, validation: Split, subsets: Sequence[Tensor], num_subsets: int, rule: UpdateRule | None
    ) -> tuple[nn.Module, AdaptiveSmoothing]:
        num_classes, (inputs, labels) = len(self.classes_), train
        network = MLP(input_shape=inputs.shape[1:], hidden=tuple(self.hidden_layer_sizes), num_classes=num_classes)
        # The logits of a few examples may all be in [0, 1], and look like probabilities. Their logarithms never do.
        module = nn.Sequential(network, nn.LogSoftmax(1)).to(self.device)
        criterion = AdaptiveSmoothing(num_classes, num_subsets, rule=rule).to(self.device)
        optimizer = torch.optim.Adam(module.parameters(), self.learning_rate)
        for _ in range(self.max_epochs):
            module.train()
            for rows in torch.randperm(len(inputs)).split(self.batch_size):
                if len(rows) == 1:
                    continue  # one example has no variance to standardize by
                rows = rows.to(self.device)
                loss = criterion(module(inputs[rows]), labels[rows], subsets[0][rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            module.eval()
            if rule is not None:
                criterion.update(validation[1], _logits(module, validation[0]), subsets[1])
        return module, criterion

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Compute the probability of each class, in the order of `classes_`, float64, shape (N, K)."""
        check_is_fitted(self, "module_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        probs: npt.NDArray[np.float64] = _logits(self.module_, self._scaled(X)).softmax(1).numpy()
        return probs


def _split(
    num: int, positions: npt.NDArray[np.int64], fraction: float, random: np.random.RandomState
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw the rows of both parts, with the classes in equal shares if there are enough examples."""
    num_validation, num_classes = math.ceil(fraction * num), int(positions.max()) + 1
    if num - num_validation < 2:
        raise InputError(
            expected="at least 2 examples to train on and 1 for validation",
            got=f"n_samples={num}",
            hint="a larger table, or a smaller validation_fraction",
        )
    enough = np.bincount(positions).min() >= 2 and min(num_validation, num - num_validation) >= num_classes
    train, validation = train_test_split(
        np.arange(num), test_size=num_validation, stratify=positions if enough else None, random_state=random
    )
    return train, validation


def _robustness_subsets(model: nn.Module, splits: Sequence[Split], num_subsets: int) -> list[Tensor] | None:
    """Score both splits and cut subsets; None if the model predicts the same everywhere, which has no ranking."""
    try:
        rankings = [score(model, inputs).ranking for inputs, _ in splits]
    except InputError as error:
        warnings.warn(
            f"all examples form one subset, because no robustness ranks them: {error}", ConvergenceWarning, stacklevel=4
        )
        return None
    return [assign_subsets(each, num_subsets).to(labels) for each, (_, labels) in zip(rankings, splits, strict=True)]


@torch.no_grad()
def _logits(module: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([module(rows) for rows in inputs.split(_BATCH)])


class CalibratedEstimator(_Probabilistic, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """A fitted classifier of scikit-learn whose probabilities one of our calibrators corrects.

    Unlike ``CalibratedClassifierCV``, ``fit`` trains no classifier. It fits the calibrator on the probabilities of the
    given one, so that the data must be held out from its training. In a cross-validation, scikit-learn copies
    estimators without their fit; ``FrozenEstimator(estimator)`` keeps it.

    Args:
        estimator: a fitted classifier with ``predict_proba`` and ``classes_``.
        method: a name in ``aradals.calibration.CALIBRATORS`` that needs probabilities alone: "temperature", "vector",
            "isotonic", "histogram" or "margin_temperature".

    Attributes:
        classes_: the classes of the estimator.
        calibrator_: the fitted calibrator.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.naive_bayes import GaussianNB
        >>> X, y = load_iris(return_X_y=True)
        >>> estimator = GaussianNB().fit(X[::2], y[::2])
        >>> calibrated = CalibratedEstimator(estimator, method="temperature").fit(X[1::2], y[1::2])
        >>> calibrated.predict_proba(X[:2]).shape
        (2, 3)
    """

    def __init__(self, estimator: Any, *, method: str = "temperature") -> None:
        self.estimator = estimator
        self.method = method

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the calibrator on data that the estimator was not trained on.

        Args:
            X: inputs of the estimator.
            y: labels, shape (N,).

        Raises:
            InputError: a label is no class of the estimator, or see `aradals.calibration.Calibrator.fit`.
            NotFittedError: the estimator is not fitted.
        """
        check_is_fitted(self.estimator)
        self.classes_ = self.estimator.classes_
        labels = _positions(y, self.classes_)
        self.calibrator_ = get_calibrator(self.method).fit(labels, probs=self.estimator.predict_proba(X))
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Compute calibrated probabilities, float64, shape (N, K)."""
        check_is_fitted(self, "calibrator_")
        calibrated: npt.NDArray[np.float64] = self.calibrator_.predict_proba(
            probs=self.estimator.predict_proba(X)
        ).numpy()
        return calibrated


def _positions(y_true: Any, classes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Find the position of each label in ``classes``."""
    labels = np.asarray(y_true)
    unknown = np.setdiff1d(labels, classes)
    if len(unknown):
        raise InputError(
            expected=f"labels among {list(classes)}", got=str(list(unknown)), hint="labels=, all classes of y_prob"
        )
    order = np.argsort(classes)
    positions: npt.NDArray[np.int64] = order[np.searchsorted(classes, labels, sorter=order)]
    return positions


def _for_sklearn(metric: Callable[..., float], sign: str = "smaller is better") -> Callable[..., float]:
    """Give one of our metrics the arguments of scikit-learn: (y_true, y_prob), and labels of any type."""
    name = metric.__name__

    def with_labels(y_true: Any, y_prob: Any, *, labels: Any = None, **settings: Any) -> float:
        probs = np.asarray(y_prob, dtype=np.float64)
        if probs.ndim == 1:
            probs = np.stack([1 - probs, probs], 1)
        classes = np.unique(y_true if labels is None else labels)
        if probs.ndim != 2 or len(classes) != probs.shape[1]:
            raise InputError(
                expected=f"one column of y_prob for each of {len(classes)} classes",
                got=f"y_prob of shape {probs.shape}",
                hint="labels=, the classes of all columns, if y_true lacks some of them",
            )
        return metric(_positions(y_true, classes), probs=probs, **settings)

    with_labels.__name__ = with_labels.__qualname__ = name  # so that a scorer can be sent to another process
    with_labels.__doc__ = f"""Compute `aradals.metrics.{name}` from (y_true, y_prob); {sign}.

    Args:
        y_true: labels of any type, shape (N,).
        y_prob: probabilities of the sorted classes, shape (N, K); for two classes also those of the larger label, (N,).
        labels: all classes, if ``y_true`` may lack some of them; by default those of ``y_true``.
        **settings: arguments of the metric.

    Raises:
        InputError: the columns of ``y_prob`` do not fit the classes, or are no probabilities.

    Example:
        >>> {name}(["no", "yes", "yes"], [0.25, 0.75, 0.4]) > 0
        True
    """
    return with_labels


expected_calibration_error = _for_sklearn(metrics.expected_calibration_error)
adaptive_calibration_error = _for_sklearn(metrics.adaptive_calibration_error)
classwise_calibration_error = _for_sklearn(metrics.classwise_calibration_error)
smooth_calibration_error = _for_sklearn(metrics.smooth_calibration_error)
max_calibration_error = _for_sklearn(metrics.max_calibration_error)
nll = _for_sklearn(metrics.nll)
brier_score = _for_sklearn(metrics.brier_score)
aurc = _for_sklearn(metrics.aurc)
error_auroc = _for_sklearn(metrics.error_auroc, "larger is better")
