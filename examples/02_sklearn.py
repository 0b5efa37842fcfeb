"""AR-AdaLS, a calibrator and a calibration metric with the interface of scikit-learn."""

from __future__ import annotations

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from aradals.integrations.sklearn import ArAdaLSClassifier, CalibratedEstimator, expected_calibration_error

if __name__ == "__main__":
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, random_state=0)
    X_train, X_held_out, y_train, y_held_out = train_test_split(X, y, test_size=0.3, random_state=0)
    forest = RandomForestClassifier(50, random_state=0).fit(X_train, y_train)
    for name, classifier in {
        "AR-AdaLS": ArAdaLSClassifier(max_epochs=30, random_state=0).fit(X, y),
        "random forest": forest,
        "random forest with temperature": CalibratedEstimator(forest).fit(X_held_out, y_held_out),
    }.items():
        ece = expected_calibration_error(y_test, classifier.predict_proba(X_test))
        print(f"{name}: accuracy {classifier.score(X_test, y_test):.3f}, ECE {ece:.3f}")
