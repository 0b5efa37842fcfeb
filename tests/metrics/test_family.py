"""The family of metrics against independent libraries, plain formulas, and at the edges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from statistics import NormalDist

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor

from aradals.errors import InputError
from aradals.metrics import (
    accuracy,
    accuracy_at_coverage,
    adaptive_calibration_error,
    all_metrics,
    aurc,
    brier_calibration,
    brier_refinement,
    brier_score,
    classwise_calibration_error,
    coverage_at_error,
    debiased_l2_calibration_error,
    error_auroc,
    expected_calibration_error,
    ks_calibration_error,
    max_calibration_error,
    mean_confidence,
    nll,
    ood_auroc,
    ood_scores,
    smooth_calibration_error,
)
from aradals.metrics.bootstrap import Bootstrap
from aradals.metrics.estimates import auroc_interval, estimate_ood_auroc
from aradals.metrics.outcomes import CHUNK_ELEMENTS

Metric = Callable[..., float]

FUNCTIONS: dict[str, Metric] = {
    "accuracy": accuracy,
    "confidence": mean_confidence,
    "nll": nll,
    "brier": brier_score,
    "brier_calibration": brier_calibration,
    "brier_refinement": brier_refinement,
    "ece": expected_calibration_error,
    "adaptive_ece": adaptive_calibration_error,
    "classwise_ece": classwise_calibration_error,
    "mce": max_calibration_error,
    "smooth_ece": smooth_calibration_error,
    "debiased_l2_ece": debiased_l2_calibration_error,
    "ks_error": ks_calibration_error,
    "aurc": aurc,
    "error_auroc": error_auroc,
    "accuracy_at_coverage_90": accuracy_at_coverage,
    "coverage_at_error_1": partial(coverage_at_error, max_error=0.01),
    "coverage_at_error_5": partial(coverage_at_error, max_error=0.05),
}


def problem(n: int = 2000, num_classes: int = 10, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float32 probabilities and labels; with scale 30 most confidences are exactly 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, num_classes, generator=generator)
    labels = (logits + 2 * torch.randn(n, num_classes, generator=generator)).argmax(1)
    return logits.softmax(1), labels


def confident(*confidences: float) -> Tensor:
    """Two-class probabilities whose class 0 has the given confidences."""
    first = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([first, 1 - first], 1)


def top(probs: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and correctness."""
    confidence, predicted = probs.double().max(1)
    return confidence.numpy(), (predicted == labels).double().numpy()


SCALES = pytest.mark.parametrize("scale", [0.5, 3.0, 30.0])


@SCALES
def test_family_is_the_functions(scale: float) -> None:
    probs, labels = problem(scale=scale)
    found = all_metrics(labels, probs=probs)
    assert found == pytest.approx({name: metric(labels, probs=probs) for name, metric in FUNCTIONS.items()}, abs=1e-12)
    from_logits = all_metrics(labels, logits=probs.double().log().clamp(min=-200))
    assert from_logits == pytest.approx(found, rel=1e-5, abs=1e-6)


@SCALES
def test_max_error_equals_netcal(scale: float) -> None:
    netcal = pytest.importorskip("netcal.metrics")
    probs, labels = problem(scale=scale)
    expected = netcal.MCE(15).measure(probs.double().numpy(), labels.numpy())
    assert max_calibration_error(labels, probs=probs) == pytest.approx(expected, abs=1e-9)


@SCALES
def test_classwise_error_equals_netcal_one_versus_rest(scale: float) -> None:
    netcal = pytest.importorskip("netcal.metrics")
    probs, labels = problem(scale=scale)
    each = [
        netcal.ECE(15).measure(probs[:, k].double().numpy(), (labels == k).long().numpy())
        for k in range(probs.shape[1])
    ]
    assert classwise_calibration_error(labels, probs=probs) == pytest.approx(float(np.mean(each)), abs=1e-9)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_errors_equal_torchmetrics(scale: float) -> None:
    """Without confidences of exactly 1, which it puts in a bin of their own."""
    functional = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = problem(scale=scale)
    probs = probs.double()
    assert (probs < 1).all()
    for norm, metric in (("l1", expected_calibration_error), ("max", max_calibration_error)):
        expected = functional.multiclass_calibration_error(probs, labels, 10, n_bins=15, norm=norm)
        assert metric(labels, probs=probs) == pytest.approx(float(expected), abs=1e-6)  # it computes in float32


@pytest.mark.parametrize("num_bins", [1, 7, 15])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_debiased_error_equals_torchmetrics_in_the_same_bins(scale: float, num_bins: int) -> None:
    module = pytest.importorskip("torchmetrics.functional.classification.calibration_error")
    probs, labels = problem(scale=scale, n=2100)  # a multiple of the numbers of bins
    confidence, correct = top(probs, labels)
    parts = np.array_split(np.sort(confidence), num_bins)
    edges = torch.tensor([0.0, *((a[-1] + b[0]) / 2 for a, b in itertools.pairwise(parts)), 1.0], dtype=torch.float64)
    expected = module._ce_compute(torch.tensor(confidence), torch.tensor(correct), edges, norm="l2", debias=True)
    found = debiased_l2_calibration_error(labels, probs=probs.double(), num_bins=num_bins)
    assert found == pytest.approx(float(expected), abs=1e-9)


def test_debiased_square_is_unbiased() -> None:
    """Its square before the clamp has the true value as its mean; the plain one is too large by a quarter of it."""
    generator = torch.Generator().manual_seed(0)
    n, accuracy_given = 40, 0.3
    probs = confident(*[0.6] * n)
    squares = []
    for _ in range(3000):
        labels = (torch.rand(n, generator=generator) > accuracy_given).long()
        squares.append(debiased_l2_calibration_error(labels, probs=probs, num_bins=1) ** 2)
    assert np.mean(squares) == pytest.approx(0.09, abs=4 * np.std(squares) / 3000**0.5)
    assert np.std(squares) / 3000**0.5 < accuracy_given * (1 - accuracy_given) / n / 4


@pytest.mark.parametrize("n", [1, 14, 2000, 2003])
def test_adaptive_error_is_that_of_equal_parts(n: int) -> None:
    probs, labels = problem(n=n)
    confidence, correct = top(probs, labels)
    gaps = (confidence - correct)[np.argsort(confidence)]
    expected = sum(abs(part.sum()) for part in np.array_split(gaps, 15)) / n
    assert adaptive_calibration_error(labels, probs=probs) == pytest.approx(expected, abs=1e-12)


def test_adaptive_bins_keep_equal_confidences_together() -> None:
    """Sorted: 0.6, then three of 0.8. Two equal parts would separate the 0.8 that is wrong from the others."""
    probs, labels = confident(0.8, 0.6, 0.8, 0.8), torch.tensor([1, 0, 0, 0])
    expected = (abs(0.6 - 1 + 3 * 0.8 - 2)) / 4  # ranks 0 and 1 are the first bin, and 0.8 starts at rank 1
    assert adaptive_calibration_error(labels, probs=probs, num_bins=2) == pytest.approx(expected)


def test_ks_error_equals_probmetrics() -> None:
    pytest.importorskip("probmetrics.metrics", exc_type=ImportError)
    from probmetrics.metrics import KolmogorovSmirnovCalibrationMetric

    for scale in (0.5, 3.0):
        probs, labels = problem(scale=scale)
        confidence, correct = (torch.from_numpy(each) for each in top(probs, labels))
        binary = torch.stack([1 - confidence, confidence], 1)
        expected = KolmogorovSmirnovCalibrationMetric().compute_from_labels_probs(correct.long(), binary)
        assert ks_calibration_error(labels, probs=probs) == pytest.approx(float(expected), abs=1e-6)


def test_ks_error_of_one_sign_is_the_gap() -> None:
    probs, labels = problem(scale=3.0)
    labels = (probs.argmax(1) + 1) % 10  # all wrong
    assert ks_calibration_error(labels, probs=probs) == pytest.approx(mean_confidence(labels, probs=probs))


def dense_smooth_error(confidence: np.ndarray, gap: np.ndarray, num_points: int = 2000) -> float:
    """The definition without a grid for the gaps: every example and its images in the two mirrors."""
    points = (np.arange(num_points) + 0.5) / num_points
    images = np.concatenate([sign * confidence + 2 * shift for shift in range(-3, 4) for sign in (1, -1)])

    def error(sigma: float) -> float:
        kernel = np.exp(-(((points[:, None] - images) / sigma) ** 2) / 2) / sigma / math.sqrt(2 * math.pi)
        return float(np.abs(kernel @ np.tile(gap, 14)).mean() / len(gap))

    return float(scipy.optimize.brentq(lambda sigma: error(sigma) - sigma, 1e-3, 1, xtol=1e-6))


@pytest.mark.parametrize(
    ("scale", "label_noise"), [(0.5, False), (1.0, False), (3.0, False), (30.0, False), (3.0, True)]
)
def test_smooth_error_equals_its_definition(scale: float, label_noise: bool) -> None:
    probs, labels = problem(scale=scale, n=300)
    if label_noise:  # calibrated: what is left is noise of both signs
        labels = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    confidence, correct = top(probs, labels)
    expected = dense_smooth_error(confidence, confidence - correct)
    assert smooth_calibration_error(labels, probs=probs) == pytest.approx(expected, abs=1e-5)


def test_smooth_error_equals_relplot() -> None:
    """Recorded from relplot 1.0.3, which stops at bandwidths of 1/1024 and sums over 200 points."""
    recorded = {("calibrated", 2000): 0.014541, ("overconfident", 2000): 0.102405, ("wave", 5000): 0.070547}
    for (kind, n), expected in recorded.items():
        confidence, correct = smooth_example(kind, n)
        found = smooth_calibration_error(
            torch.from_numpy(1 - correct).long(), probs=torch.from_numpy(np.stack([confidence, 1 - confidence], 1))
        )
        assert found == pytest.approx(expected, abs=5e-4)


def smooth_example(kind: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    confidence = rng.uniform(0.5, 1, n)
    wave = 0.15 * np.sin(4 * np.pi * confidence)
    shift = {"calibrated": 0 * wave, "overconfident": 0 * wave + 0.1, "wave": wave}[kind]
    return confidence, (rng.uniform(size=n) < confidence - shift).astype(float)


def test_smooth_error_of_one_sign_is_the_gap() -> None:
    """Also where everything lies on the edge at 1, which the reflection keeps inside."""
    labels = torch.tensor([0, 0, 0, 1])
    assert smooth_calibration_error(labels, probs=confident(1, 1, 1, 1)) == pytest.approx(0.25, abs=1e-5)
    assert smooth_calibration_error(labels, probs=confident(0.9, 0.9, 0.9, 0.9)) == pytest.approx(0.15, abs=1e-5)


@SCALES
def test_brier_parts(scale: float) -> None:
    """The calibration part by plain loops; the refinement is the Brier score after shifting away the gaps."""
    probs, labels = problem(scale=scale, n=500, num_classes=4)
    p, y = probs.double().numpy(), np.eye(4)[labels.numpy()]
    shifted, calibration = p.copy(), 0.0
    for k in range(4):
        bins = np.clip(np.ceil(p[:, k] * 15 - 1e-12).astype(int) - 1, 0, 14)
        for b in np.unique(bins):
            members = bins == b
            gap = (p[members, k] - y[members, k]).mean()
            calibration += members.mean() * gap**2
            shifted[members, k] -= gap
    assert brier_calibration(labels, probs=probs) == pytest.approx(calibration, abs=1e-12)
    assert brier_refinement(labels, probs=probs) == pytest.approx(((shifted - y) ** 2).sum(1).mean(), abs=1e-12)


@SCALES
def test_error_auroc_equals_scikit_learn(scale: float) -> None:
    probs, labels = problem(scale=scale)
    confidence, correct = top(probs, labels)
    expected = sk.roc_auc_score(correct, confidence)
    assert error_auroc(labels, probs=probs) == pytest.approx(expected, abs=1e-12)


def test_aurc_by_hand() -> None:
    probs, labels = confident(0.9, 0.8, 0.7), torch.tensor([0, 1, 0])
    assert aurc(labels, probs=probs) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert accuracy_at_coverage(labels, probs=probs, coverage=0.5) == 0.5
    assert accuracy_at_coverage(labels, probs=probs, coverage=1 / 3) == 1


def test_equal_confidences_count_as_the_mean_over_their_orders() -> None:
    confidences, labels = (0.9, 0.8, 0.8, 0.8, 0.6), (1, 0, 1, 0, 0)
    found = []
    for order in itertools.permutations(range(5)):
        if [confidences[i] for i in order] == sorted(confidences, reverse=True):
            wrong = np.cumsum([labels[i] for i in order])
            found.append([(wrong / np.arange(1, 6)).mean(), 1 - wrong[2] / 3])
    probs, target = confident(*confidences), torch.tensor(labels)
    assert aurc(target, probs=probs) == pytest.approx(np.mean(found, 0)[0])
    assert accuracy_at_coverage(target, probs=probs, coverage=0.6) == pytest.approx(np.mean(found, 0)[1])


@given(
    st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
    st.integers(1, 20),
)
@settings(max_examples=100)
def test_order_of_the_examples_does_not_matter(rows: list[tuple[int, bool]], random: object, num_bins: int) -> None:
    shuffled = sorted(rows, key=lambda _: random.random())  # type: ignore[attr-defined]
    found = [
        all_metrics(
            torch.tensor([int(wrong) for _, wrong in each]),
            probs=confident(*(0.5 + step / 16 for step, _ in each)),
            num_bins=num_bins,
        )
        for each in (rows, shuffled)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-12, nan_ok=True)
    values = dict(found[0])
    values.pop("nll")
    assert all(math.isnan(value) or 0 <= value <= 2 for value in values.values())
    assert values["brier_calibration"] + values["brier_refinement"] == pytest.approx(values["brier"], abs=1e-12)
    gap = abs(values["confidence"] - values["accuracy"])
    for name in ("ece", "adaptive_ece", "ks_error", "smooth_ece"):
        assert values[name] >= gap - 1e-5  # smoothing or binning cannot hide the overall gap


def test_confidence_one_and_label_of_probability_zero() -> None:
    probs, labels = confident(1.0, 1.0, 0.0), torch.tensor([0, 1, 0])
    found = all_metrics(labels, probs=probs)
    assert found["nll"] == math.inf
    expected = {"accuracy": 1 / 3, "confidence": 1, "brier": 4 / 3, "ece": 2 / 3, "adaptive_ece": 2 / 3}
    expected |= {"mce": 2 / 3, "ks_error": 2 / 3, "aurc": 2 / 3, "error_auroc": 0.5, "smooth_ece": 2 / 3}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_one_example() -> None:
    found = all_metrics(torch.tensor([0]), probs=confident(0.8))
    assert math.isnan(found.pop("error_auroc"))
    for name in ("ece", "adaptive_ece", "mce", "ks_error", "classwise_ece", "smooth_ece"):
        assert found[name] == pytest.approx(0.2, abs=1e-5)
    assert found["debiased_l2_ece"] == 0  # bins of fewer than two are left out
    assert (found["aurc"], found["accuracy_at_coverage_90"]) == (0, 1)


def test_all_right_or_all_wrong_has_no_auroc() -> None:
    probs = confident(0.9, 0.8)
    assert math.isnan(error_auroc(torch.tensor([0, 0]), probs=probs))
    assert math.isnan(error_auroc(torch.tensor([1, 1]), probs=probs))
    assert aurc(torch.tensor([1, 1]), probs=probs) == 1


def test_absent_class_counts_in_the_classwise_error() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.2]] * 4).double()
    labels = torch.tensor([0, 0, 1, 1])
    assert classwise_calibration_error(labels, probs=probs) == pytest.approx((0 + 0.2 + 0.2) / 3)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_bad_input_is_refused(name: str) -> None:
    metric, labels, probs = FUNCTIONS[name], torch.tensor([0, 1]), confident(0.9, 0.8)
    broken = probs.clone()
    broken[0, 0] = math.nan
    for arguments in (
        {"probs": broken},
        {"logits": broken},
        {"probs": probs * 3},
        {"logits": probs},  # are probabilities
        {},
        {"logits": probs.log(), "probs": probs},
        {"probs": probs[:0]},
    ):
        with pytest.raises(InputError):
            metric(labels, **arguments)
    with pytest.raises(InputError):
        metric(torch.tensor([0, 2]), probs=probs)


def test_settings_are_checked() -> None:
    labels, probs = torch.tensor([0, 1]), confident(0.9, 0.8)
    for coverage in (0.0, 1.1, math.nan):
        with pytest.raises(InputError, match="coverage"):
            accuracy_at_coverage(labels, probs=probs, coverage=coverage)
    for metric in (adaptive_calibration_error, classwise_calibration_error, max_calibration_error):
        with pytest.raises(InputError, match="num_bins"):
            metric(labels, probs=probs, num_bins=0)


def test_chunks_do_not_matter() -> None:
    """More rows than are held at a time, and the same rows one by one."""
    n, num_classes = 2 * CHUNK_ELEMENTS // 1000 + 7, 1000
    probs, labels = problem(n=n, num_classes=num_classes, scale=4.0)
    double = probs.double()
    assert nll(labels, probs=probs) == pytest.approx(float(-double[torch.arange(n), labels].log().mean()))
    assert brier_score(labels, probs=probs) == pytest.approx(
        float((double - torch.nn.functional.one_hot(labels, num_classes)).square().sum(1).mean())
    )


def test_ood_auroc_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    known = 3 * torch.randn(400, 10, generator=generator)
    unknown = 2 * torch.randn(300, 10, generator=generator)
    target = [1] * 400 + [0] * 300
    by_hand: dict[str, Callable[[Tensor], Tensor]] = {
        "confidence": lambda z: z.double().softmax(1).amax(1),
        "max_logit": lambda z: z.double().amax(1),
        "energy": lambda z: z.double().exp().sum(dim=1).log(),
    }
    for score, expected_scores in by_hand.items():
        scores = ood_scores(known, score), ood_scores(unknown, score)
        assert torch.allclose(scores[0], expected_scores(known))
        expected = sk.roc_auc_score(target, torch.cat(scores))
        assert ood_auroc(*scores) == pytest.approx(expected, abs=1e-12)
        assert expected > 0.6
    assert ood_auroc(torch.tensor([0.5]), torch.tensor([0.5, 0.5])) == 0.5


@pytest.mark.parametrize("shift", [0.2, 1.0, 3.0])
@pytest.mark.parametrize(("n", "m"), [(500, 5), (500, 20), (20, 500), (120, 60)])
def test_the_interval_of_the_ood_auroc_holds_the_true_value(shift: float, n: int, m: int) -> None:
    """Of two normal distributions, whose AUROC is known."""
    generator, true = torch.Generator().manual_seed(0), NormalDist().cdf(shift / math.sqrt(2))
    held = []
    for _ in range(300):
        known, unknown = torch.randn(n, generator=generator) + shift, torch.randn(m, generator=generator)
        low, high = auroc_interval(ood_auroc(known, unknown), n, m)
        held.append(low <= true <= high)
    assert sum(held) / len(held) >= 0.9


def test_the_ends_of_the_auroc_interval_solve_its_equation() -> None:
    for value, n, m in ((0.9, 40, 30), (0.5, 7, 300), (0.03, 100, 10)):
        for end in auroc_interval(value, n, m, level=0.9):
            half = (n + m) / 2 - 1
            variance = end * (1 - end) * (1 + half * (1 - end) / (2 - end) + half * end / (1 + end)) / (n * m)
            assert abs(value - end) == pytest.approx(1.6448536 * math.sqrt(variance), rel=1e-6)
    assert auroc_interval(1.0, 50, 50)[1] == 1
    assert 0.9 < auroc_interval(1.0, 50, 50)[0] < 1
    assert auroc_interval(0.0, 50, 50)[0] == 0


def test_resamples_of_two_models_give_an_interval_for_the_difference_of_their_aurocs() -> None:
    """Both models score the same examples; the truth is known, because the scores are normal."""
    generator, shifts, held = torch.Generator().manual_seed(0), (0.8, 1.2), []
    true = [NormalDist().cdf(shift / math.sqrt(2)) for shift in shifts]
    for _ in range(200):
        common = torch.randn(150, generator=generator)
        models = [(common + torch.randn(150, generator=generator)) / math.sqrt(2) for _ in shifts]
        found = [
            estimate_ood_auroc(scores[:100] + shift, scores[100:], Bootstrap(200))
            for scores, shift in zip(models, shifts, strict=True)
        ]
        resampled = [each for _, each in found if each is not None]
        deviations = (resampled[0] - resampled[1]) - (found[0][0].value - found[1][0].value)
        low, high = deviations.quantile(deviations.new_tensor([0.025, 0.975])).tolist()
        difference = found[0][0].value - found[1][0].value
        held.append(difference + low <= true[0] - true[1] <= difference + high)
    assert 0.9 <= sum(held) / len(held) <= 0.99


def test_few_examples_of_one_data_set_give_no_resamples() -> None:
    generator = torch.Generator().manual_seed(0)
    for known, unknown, has_resamples in ((50, 50, True), (500, 49, False), (49, 500, False), (1, 1, False)):
        scores = torch.randn(known, generator=generator), torch.randn(unknown, generator=generator)
        found, resampled = estimate_ood_auroc(*scores, Bootstrap(50))
        assert found.value == ood_auroc(*scores)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0.1 or min(known, unknown) >= 50 or found.value in (0, 1)
        assert (resampled is not None) == has_resamples


def test_ood_input_is_checked() -> None:
    good = torch.tensor([0.1, 0.2])
    for bad in (good[:0], good[:, None], torch.tensor([0.1, math.nan]), torch.tensor([1, 2])):
        with pytest.raises(InputError, match="score for each example"):
            ood_auroc(good, bad)
    with pytest.raises(InputError, match="confidence, max_logit, energy"):
        ood_scores(torch.zeros(2, 2), "margin")
