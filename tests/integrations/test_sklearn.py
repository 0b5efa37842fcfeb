"""The classifier, the calibrator and the metrics with the interface of scikit-learn."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss, make_scorer
from sklearn.model_selection import cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.utils.estimator_checks import check_estimator

from aradals import InputError, metrics
from aradals.integrations import sklearn as ours
from aradals.integrations.sklearn import ArAdaLSClassifier, CalibratedEstimator


def table(num: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    X, y = make_classification(num, 8, n_informative=4, n_classes=3, flip_y=0.3, random_state=seed)
    return 10 * X - 3, np.array(["ant", "bee", "cat"])[y]


def test_the_checks_of_scikit_learn() -> None:
    quick = ArAdaLSClassifier((16,), max_epochs=20, learning_rate=0.01, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(quick)


def test_targets_follow_the_calibration_of_each_subset() -> None:
    X, y = table()
    quick = ArAdaLSClassifier((32,), max_epochs=40, learning_rate=0.01, num_subsets=4, random_state=0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again = quick.fit(X, y).predict_proba(X), quick.fit(X, y).predict_proba(X)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, again)
    assert quick.num_subsets_ == 4
    assert len(quick.criterion_.history) == 40
    assert quick.criterion_.history[-1]["n"] == [20.0] * 4
    # A part of the labels is noise, which the network memorizes, so that it is over-confident.
    assert quick.criterion_.target_prob.min() < 0.9
    assert len(quick.criterion_.target_prob.unique()) == 4


def test_a_small_table_has_fewer_subsets() -> None:
    X, y = table(110)
    quick = ArAdaLSClassifier((8,), max_epochs=5, random_state=0)
    assert quick.fit(X, y).num_subsets_ == 2  # 22 validation examples


def test_a_network_without_a_ranking_makes_one_subset() -> None:
    collapsed = torch.nn.Linear(2, 3)
    torch.nn.init.zeros_(collapsed.weight)
    split = torch.rand(30, 2), torch.arange(30) % 3
    with pytest.warns(ConvergenceWarning, match="one subset"):
        assert ours._robustness_subsets(collapsed, [split, split], 2) is None


def test_a_new_value_of_a_constant_column_is_no_overflow() -> None:
    X, y = table(110)
    X[:, 0] = 5
    quick = ArAdaLSClassifier((8,), max_epochs=5, random_state=0).fit(X, y)
    assert np.isfinite(quick.predict_proba(X + 1e6)).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 1}, "batch_size >= 2"),
        ({"max_epochs": 0}, "max_epochs >= 1"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
        ({"hidden_layer_sizes": (0,)}, "at least 1 unit"),
    ],
)
def test_settings_out_of_range(setting: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ArAdaLSClassifier(**setting).fit(*table(40))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["temperature", "vector", "isotonic", "histogram", "margin_temperature"])
def test_a_calibrated_estimator(method: str) -> None:
    (X, y), (X_held_out, y_held_out), (X_test, y_test) = table(1200)[0:2], table(1200, 0), table(1200, 0)
    X, y, X_held_out, y_held_out = X[:400], y[:400], X_held_out[400:800], y_held_out[400:800]
    X_test, y_test = X_test[800:], y_test[800:]
    estimator = GaussianNB(var_smoothing=0).fit(np.hstack([X, X, X]), y)  # columns that repeat: over-confident
    calibrated = CalibratedEstimator(estimator, method=method).fit(np.hstack([X_held_out] * 3), y_held_out)
    probs, plain = (each.predict_proba(np.hstack([X_test] * 3)) for each in (calibrated, estimator))
    assert ours.nll(y_test, probs) < ours.nll(y_test, plain) - 0.1
    assert set(calibrated.predict(np.hstack([X_test] * 3))) <= {"ant", "bee", "cat"}


def test_a_calibrator_refuses_what_it_cannot_use() -> None:
    X, y = table()
    with pytest.raises(NotFittedError):
        CalibratedEstimator(GaussianNB()).fit(X, y)
    with pytest.raises(InputError, match="dog"):
        CalibratedEstimator(GaussianNB().fit(X, y)).fit(X, np.where(y == "ant", "dog", y))
    with pytest.raises(InputError, match="margin_temperature"):
        CalibratedEstimator(GaussianNB().fit(X, y), method="robustness_temperature").fit(X, y)


def test_a_calibrator_in_a_cross_validation() -> None:
    X, y = table()
    forest = RandomForestClassifier(20, random_state=0).fit(X[:200], y[:200])
    scores = cross_val_score(CalibratedEstimator(FrozenEstimator(forest)), X[200:], y[200:], cv=2)
    assert scores.min() > 0.4


def test_metrics_have_the_values_of_scikit_learn() -> None:
    X, y = table()
    probs = GaussianNB().fit(X, y).predict_proba(X)
    assert ours.nll(y, probs) == pytest.approx(log_loss(y, probs))
    assert ours.brier_score(y, probs) == pytest.approx(brier_score_loss(y, probs, scale_by_half=False))
    numbers = np.unique(y, return_inverse=True)[1]
    expected = metrics.expected_calibration_error(numbers, probs=probs, num_bins=5)
    assert ours.expected_calibration_error(y, probs, num_bins=5) == expected


def test_metrics_know_the_class_of_each_column() -> None:
    y, probs = np.array([7, 9, 9]), np.array([0.1, 0.8, 0.6])
    assert ours.nll(y, probs) == pytest.approx(log_loss(y, probs))
    assert ours.nll(y[1:], probs[1:], labels=[7, 9]) == pytest.approx(log_loss(y[1:], probs[1:], labels=[7, 9]))
    with pytest.raises(InputError, match="labels="):
        ours.nll(y[1:], probs[1:])
    with pytest.raises(InputError, match="labels="):  # classes 0, 1, 2, or 1, 2, 3?
        ours.nll([1, 2], np.full((2, 3), 1 / 3))


@pytest.mark.parametrize("classes", [2, 3])
def test_metrics_in_a_scorer(classes: int) -> None:
    X, y = table()
    X, y = X[y != "cat"] if classes == 2 else X, y[y != "cat"] if classes == 2 else y
    scorer = make_scorer(ours.expected_calibration_error, response_method="predict_proba", greater_is_better=False)
    scorer = pickle.loads(pickle.dumps(scorer))
    errors = cross_val_score(GaussianNB(), X, y, cv=3, scoring=scorer)
    assert (errors < 0).all()
    assert (errors > -0.5).all()
