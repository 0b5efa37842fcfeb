"""Isotonic regression and histogram binning against scikit-learn and netcal used directly."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from aradals.calibration import HistogramBinning, IsotonicCalibration
from aradals.calibration.interpolation import interpolate
from aradals.calibration.one_versus_rest import OneVersusRest
from aradals.errors import InputError, MissingExtraError
from aradals.metrics import expected_calibration_error, nll

N, K = 600, 4


def problem(n: int = N, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Over-confident logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, K, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / 3).softmax(1), 1, generator=generator)[:, 0]
    return logits, labels


def joined_by_an_imaginary_example(by_class: np.ndarray) -> np.ndarray:
    """Normalized, as the docstring has it."""
    probs: np.ndarray = by_class / by_class.sum(1, keepdims=True)
    return (N * probs + 1 / K) / (N + 1)


def test_isotonic_equals_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    (logits, labels), (new_logits, _) = problem(), problem(seed=1)
    probs, new_probs = logits.softmax(1).numpy(), new_logits.softmax(1).numpy()
    by_class = np.stack(
        [
            IsotonicRegression(out_of_bounds="clip").fit(probs[:, k], labels.numpy() == k).predict(new_probs[:, k])
            for k in range(K)
        ],
        1,
    )
    calibrator = IsotonicCalibration().fit(labels, logits=logits)
    expected = joined_by_an_imaginary_example(by_class)
    assert calibrator.predict_proba(new_logits).numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_bins", [1, 5, 15])
def test_equal_width_histogram_equals_netcal(num_bins: int) -> None:
    from netcal.binning import HistogramBinning as Netcal

    (logits, labels), (new_logits, _) = problem(), problem(seed=1)
    one_hot = torch.nn.functional.one_hot(labels, K)
    by_class = []
    for k in range(K):  # one class at a time: of several, netcal normalizes, and so loses all of them where all are 0
        netcal = Netcal(bins=num_bins).fit(logits.softmax(1)[:, k].numpy(), one_hot[:, k].numpy())
        by_class.append(netcal.transform(new_logits.softmax(1)[:, k].numpy()))
    calibrator = HistogramBinning(num_bins, equal_mass=False).fit(labels, logits=logits)
    expected = joined_by_an_imaginary_example(np.stack(by_class, 1))
    assert calibrator.predict_proba(new_logits).numpy() == pytest.approx(expected, abs=1e-9)


def test_equal_mass_histogram_equals_numpy() -> None:
    (logits, labels), (new_logits, _) = problem(), problem(seed=1)
    probs, new_probs = logits.softmax(1).numpy(), new_logits.softmax(1).numpy()
    by_class = np.zeros((len(new_probs), K))
    for k in range(K):
        inner = np.quantile(probs[:, k], np.linspace(0, 1, 16))[1:-1]
        bins, new_bins = np.digitize(probs[:, k], inner, right=True), np.digitize(new_probs[:, k], inner, right=True)
        assert np.bincount(bins).tolist() == [N // 15] * 15
        share = np.array([(labels.numpy() == k)[bins == b].mean() for b in range(15)])
        by_class[:, k] = share[new_bins]
    calibrator = HistogramBinning().fit(labels, logits=logits)
    expected = joined_by_an_imaginary_example(by_class)
    assert calibrator.predict_proba(new_logits).numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", [IsotonicCalibration, HistogramBinning])
class TestBoth:
    def test_calibrates(self, kind: type[OneVersusRest]) -> None:
        (logits, labels), (new_logits, new_labels) = problem(3000), problem(10_000, seed=1)
        probs = kind().fit(labels, logits=logits).predict_proba(new_logits)
        assert expected_calibration_error(new_labels, logits=new_logits) > 0.15
        assert expected_calibration_error(new_labels, probs=probs) < 0.05
        assert nll(new_labels, probs=probs) < nll(new_labels, logits=new_logits)

    def test_no_probability_is_zero(self, kind: type[OneVersusRest]) -> None:
        logits, labels = problem()
        present = labels != 2  # every function of class 2 is 0
        calibrator = kind().fit(labels[present], logits=logits[present])
        probs = calibrator.predict_proba(50 * logits)
        n = int(present.sum())
        assert probs.sum(1).numpy() == pytest.approx(1)
        assert float(probs.min()) == pytest.approx(1 / (K * (n + 1)))
        assert calibrator.predict_logits(50 * logits).isfinite().all()

    def test_uniform_where_all_functions_are_zero(self, kind: type[OneVersusRest]) -> None:
        # Each class is at 0.5 only where it is wrong, and right only above 0.9.
        logits = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0], [0.0, 0.0]])
        state = {"num_examples": 4, "knots": [[0.0, 0.6, 0.9]] * 2, "values": [[0.0, 0.0, 1.0]] * 2}
        calibrator = kind.from_dict({"method": kind.method, **state})
        assert calibrator.predict_proba(logits)[2].tolist() == pytest.approx([0.5, 0.5])
        assert calibrator.predict_proba(logits)[0].tolist() == pytest.approx([0.9, 0.1])

    def test_round_trip_through_json_without_scikit_learn(
        self, kind: type[OneVersusRest], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        logits, labels = problem()
        calibrator = kind().fit(labels, logits=logits)
        fields = json.loads(json.dumps(calibrator.to_dict()))
        monkeypatch.setitem(sys.modules, "sklearn.isotonic", None)
        assert kind.from_dict(fields).predict_logits(logits).equal(calibrator.predict_logits(logits))

    @pytest.mark.parametrize(
        "change",
        [
            {"method": "vector"},
            {"num_examples": 0},
            {"knots": [[0.0, 1.0], [1.0, 0.0]]},
            {"knots": [[0.0, 1.0]]},
            {"values": [[0.0, 1.0], [0.0]]},
            {"values": [[0.0, 1.0], [0.0, None]]},
            {"values": [[0.0, 1.0], [-1.0, 1.0]]},
        ],
    )
    def test_bad_fields_are_refused(self, kind: type[OneVersusRest], change: dict[str, object]) -> None:
        fields = {"method": kind.method, "num_examples": 9, "knots": [[0.0, 1.0]] * 2, "values": [[0.0, 1.0]] * 2}
        kind.from_dict(fields)
        with pytest.raises(InputError, match=f"the state of a {kind.method} calibrator"):
            kind.from_dict({**fields, **change})

    def test_one_example_is_enough(self, kind: type[OneVersusRest]) -> None:
        calibrator = kind().fit([0], logits=[[2.0, -1.0]])
        assert calibrator.predict_proba(torch.tensor([[2.0, -1.0]]))[0].tolist() == pytest.approx([0.75, 0.25])

    def test_bad_input_is_refused(self, kind: type[OneVersusRest]) -> None:
        logits, labels = problem()
        with pytest.raises(InputError, match=f"a fitted {kind.method}"):
            kind().predict_proba(logits)
        with pytest.raises(InputError, match="logits of 4 classes"):
            kind().fit(labels, logits=logits).predict_proba(logits[:, :3])
        with pytest.raises(InputError, match="finite logits"):
            kind().fit(labels, logits=logits * np.nan)


def test_isotonic_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.isotonic", None)
    logits, labels = problem()
    with pytest.raises(MissingExtraError, match=r"scikit-learn; try: pip install 'ar-adals\[data\]'"):
        IsotonicCalibration().fit(labels, logits=logits)


def test_no_bins_are_refused() -> None:
    with pytest.raises(InputError, match="num_bins >= 1"):
        HistogramBinning(0)


def test_interpolation_takes_the_left_value_at_a_step() -> None:
    knots, values = torch.tensor([[0.0, 0.5, 0.5, 1.0]]), torch.tensor([[1.0, 1.0, 3.0, 4.0]])
    points = torch.tensor([[-1.0, 0.0, 0.5, 0.50001, 0.75, 1.0, 2.0]])
    assert interpolate(points, knots, values)[0].tolist() == pytest.approx([1, 1, 1, 3, 3.5, 4, 4], abs=1e-3)


def test_an_empty_bin_keeps_its_center() -> None:
    logits = torch.tensor([[2.0, -2.0], [2.0, -2.0]])  # p = 0.98 and 0.02; nothing in the two bins in the middle
    calibrator = HistogramBinning(4, equal_mass=False).fit([0, 0], logits=logits)
    probs = calibrator.predict_proba(torch.tensor([[0.5, 0.0]]))[0]  # p = 0.62 and 0.38, centers 0.625 and 0.375
    assert probs.tolist() == pytest.approx([(2 * 0.625 + 0.5) / 3, (2 * 0.375 + 0.5) / 3])


def test_equal_mass_bins_keep_ties_together() -> None:
    logits = torch.cat([torch.full((60, 1), -3.0), torch.linspace(-1, 3, 40)[:, None]])
    labels = torch.cat([torch.arange(60) % 3 != 0, torch.arange(40) % 2 == 0]).long()  # 40 of the 60 tied ones
    calibrator = HistogramBinning(5).fit(labels, logits=torch.cat([logits, -logits], 1))
    tied = calibrator.predict_proba(torch.tensor([[-3.0, 3.0]]))[0]
    assert tied.tolist() == pytest.approx([(100 / 3 + 0.5) / 101, (200 / 3 + 0.5) / 101])
