"""Temperatures by robustness: known maps, exact optima, the choice of degrees, ties and extremes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize
from torch import Tensor

from aradals.calibration import ConditionalTemperature, TemperatureScaling, calibrator_from_dict
from aradals.calibration.conditional import fit_temperatures, piecewise_linear, quantile_table, rising_step
from aradals.errors import InputError
from aradals.metrics import accuracy, nll

Map = Callable[[Tensor], Tensor]


def flat(score: Tensor) -> Tensor:
    return torch.full_like(score, 0.5)


def rising(score: Tensor) -> Tensor:
    return 0.3 + 0.6 * score


def falling(score: Tensor) -> Tensor:
    return 0.9 - 0.6 * score


def bent(score: Tensor) -> Tensor:
    return 0.2 + 1.2 * (score - 0.5).clamp(min=0)


def problem(inverse_temperature: Map, n: int = 1000, seed: int = 0, k: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels drawn at an inverse temperature that depends on the score, and scores uniform in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    scores = torch.rand(n, generator=generator, dtype=torch.float64)
    probs = (inverse_temperature(scores)[:, None] * logits).softmax(1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0], scores


@pytest.mark.parametrize(("truth", "num_degrees"), [(rising, 1), (falling, 1), (rising, 3), (falling, 3), (bent, 2)])
def test_recovers_a_known_map(truth: Map, num_degrees: int) -> None:
    scaling = ConditionalTemperature("first_order_margin", num_degrees=num_degrees).fit(*problem(truth, n=60_000))
    scores = torch.linspace(0, 1, 21, dtype=torch.float64)
    assert (1 / scaling.temperature_for(scores)).numpy() == pytest.approx(truth(scores).numpy(), abs=0.04)


@pytest.mark.parametrize(("truth", "num_degrees"), [(flat, 0), (rising, 1), (falling, 1), (bent, 2)])
def test_chooses_the_degrees_that_it_takes(truth: Map, num_degrees: int) -> None:
    scaling = ConditionalTemperature("first_order_margin").fit(*problem(truth, n=8000))
    assert scaling.num_degrees == num_degrees


def test_better_than_one_temperature_where_it_should_be() -> None:
    logits, labels, scores = problem(rising)
    conditional, plain = (
        ConditionalTemperature("first_order_margin").fit(logits, labels, scores),
        TemperatureScaling().fit(logits, labels),
    )
    logits, labels, scores = problem(rising, n=10_000, seed=1)
    best = nll(labels, logits=rising(scores)[:, None] * logits)
    assert nll(labels, logits=plain.predict_logits(logits)) > best + 0.02
    assert nll(labels, logits=conditional.predict_logits(logits, scores)) < best + 0.005
    assert accuracy(labels, logits=conditional.predict_logits(logits, scores)) == accuracy(labels, logits=logits)


def test_is_plain_temperature_scaling_where_the_score_does_not_matter() -> None:
    """In at least 90 % of simulations, and then with the very same number."""
    num_flat = 0
    for seed in range(20):
        logits, labels, scores = problem(flat, n=300, seed=seed)
        scaling = ConditionalTemperature("first_order_margin").fit(logits, labels, scores)
        if scaling.num_degrees == 0:
            num_flat += 1
            plain = TemperatureScaling().fit(logits, labels)
            assert scaling.temperatures == (plain.temperature,)
            assert scaling.predict_logits(logits, scores).numpy() == pytest.approx(plain.predict_logits(logits).numpy())
    assert num_flat >= 18


@pytest.mark.parametrize("truth", [flat, rising, falling, bent])
@pytest.mark.parametrize("num_degrees", [1, 2, 3])
def test_no_optimizer_finds_a_lower_objective(truth: Map, num_degrees: int) -> None:
    logits, labels, levels = problem(truth, n=300)
    knots = np.linspace(0, 1, num_degrees + 1)

    def loss(betas: np.ndarray) -> float:  # with the pull to a single temperature of 1
        beta = torch.tensor(np.interp(levels.numpy(), knots, betas))
        nll = torch.nn.functional.cross_entropy(beta[:, None] * logits, labels)
        return float(nll) + float(((betas - 1) ** 2).sum()) / (2 * len(labels))

    increments = np.diff(np.eye(num_degrees + 1), axis=0)
    best = min(
        minimize(
            loss,
            np.full(num_degrees + 1, 0.5),
            method="SLSQP",
            bounds=[(0.01, 100)] * (num_degrees + 1),
            constraints=LinearConstraint(sign * increments, 0, np.inf),
            options={"ftol": 1e-13, "maxiter": 500},
        ).fun
        for sign in (1, -1)
    )
    temperatures = fit_temperatures(logits, labels, levels, 1.0, num_degrees)
    assert loss((1 / temperatures).numpy()) == pytest.approx(best, abs=1e-8)
    assert loss((1 / temperatures).numpy()) <= best + 1e-10


@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([1e-3, 1.0, 1e3]), st.integers(2, 6))
@settings(max_examples=30)
def test_always_monotone_and_bounded(seed: int, num_degrees: int, scale: float, num_classes: int) -> None:
    """Also where scores are tied, labels are all right at some scores, or logits tiny or huge."""
    generator = torch.Generator().manual_seed(seed)
    logits, labels, scores = problem(flat, n=60, seed=seed, k=num_classes)
    kind = seed % 4
    labels = torch.where(scores > 0.5, logits.argmax(1), labels) if kind == 1 else labels
    labels = torch.randint(num_classes, (60,), generator=generator) if kind == 2 else labels
    scores = (4 * scores).floor() if kind == 3 else scores
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scaling = ConditionalTemperature("first_order_margin", num_degrees=num_degrees).fit(
            scale * logits, labels, scores
        )
    temperatures = scaling.temperature_for(torch.linspace(-1, 5, 300, dtype=torch.float64))
    assert (temperatures.isfinite() & (temperatures > 0)).all()
    assert (temperatures.diff() <= 1e-9).all() or (temperatures.diff() >= -1e-9).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = TemperatureScaling().fit(scale * logits, labels)
    ours = nll(labels, logits=scaling.predict_logits(scale * logits, scores))
    assert ours <= nll(labels, logits=plain.predict_logits(scale * logits)) + 1e-9


def test_the_step_is_the_minimum_of_the_quadratic_on_the_chain() -> None:
    generator = torch.Generator().manual_seed(0)
    identity = np.eye(4)
    for _ in range(20):
        root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        gradient = 5 * torch.randn(4, generator=generator, dtype=torch.float64)
        hessian, point = root @ root.T, torch.full((4,), 0.5, dtype=torch.float64)

        def quadratic(v: np.ndarray, g: Tensor = gradient, h: Tensor = hessian, x: Tensor = point) -> float:
            step = torch.tensor(v) - x
            return float(g @ step + step @ h @ step / 2)

        found = (point + rising_step(point, gradient, hessian)).numpy()
        assert np.all(np.diff(found) > -1e-9)
        best = minimize(
            quadratic,
            point.numpy(),
            method="SLSQP",
            bounds=[(0.01, 100)] * 4,
            constraints=LinearConstraint(np.diff(identity, axis=0), 0, np.inf),
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert quadratic(found) <= best.fun + 1e-7


def test_scores_count_by_rank_alone() -> None:
    logits, labels, scores = problem(rising, n=2000)
    plain, bent_scores = (
        ConditionalTemperature("first_order_margin", num_degrees=2).fit(logits, labels, scores),
        scores.square().exp(),
    )
    scaling = ConditionalTemperature("first_order_margin", num_degrees=2).fit(logits, labels, bent_scores)
    # The table is interpolated, so that only its 101 points agree exactly.
    assert scaling.temperatures == pytest.approx(plain.temperatures, rel=1e-3)


def test_extreme_scores_get_the_temperatures_at_the_ends() -> None:
    scaling = ConditionalTemperature("first_order_margin", num_degrees=1).fit(*problem(rising))
    at_ends = scaling.temperature_for(torch.tensor([-1e300, -1.0, 2.0, 1e300]))
    first, last = scaling.temperatures
    assert at_ends.tolist() == pytest.approx([first, first, last, last])
    assert first > last


def test_ties_share_the_mean_of_their_levels() -> None:
    scores, levels = quantile_table(torch.tensor([0.0] * 600 + [1.0, 2.0, 3.0, 4.0] * 100, dtype=torch.float64))
    middle = scores.frac() == 0
    assert scores[middle].tolist() == [0, 1, 2, 3, 4]
    assert float(levels[0]) == pytest.approx(0.295, abs=0.01)  # the mean of 0 to 0.59 or 0.6
    assert float(levels[-1]) == pytest.approx(0.955, abs=0.01)
    assert (levels.diff() > 0).all()


def test_scores_that_are_all_the_same_allow_one_temperature() -> None:
    logits, labels, _ = problem(rising)
    with pytest.warns(UserWarning, match="1 distinct quantiles.*choosing among 0 to 0"):
        scaling = ConditionalTemperature("first_order_margin").fit(logits, labels, torch.ones(1000))
    assert scaling.temperatures == (TemperatureScaling().fit(logits, labels).temperature,)
    assert ConditionalTemperature("first_order_margin", num_degrees=2).fit(
        logits, labels, torch.ones(1000)
    ).temperatures[1] == pytest.approx(scaling.temperatures[0], rel=2e-3)


@pytest.mark.parametrize(("n", "limit"), [(10, 0), (49, 0), (50, 1), (99, 2)])
def test_few_examples_allow_few_degrees(n: int, limit: int) -> None:
    logits, labels, scores = problem(rising, n=n)
    with pytest.warns(UserWarning, match=rf"^{n} calibration examples.* too few .* among 0 to {limit}$"):
        scaling = ConditionalTemperature("first_order_margin").fit(logits, labels, scores)
    assert scaling.num_degrees <= limit


def test_enough_examples_need_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ConditionalTemperature("first_order_margin").fit(*problem(rising, n=100))


def test_no_error_anywhere_is_named_and_harmless() -> None:
    logits, labels, scores = problem(flat)
    right = logits.argmax(1)
    with pytest.warns(UserWarning, match="rest on the pull to 1: every label of these 1000 examples"):
        plain, (single, *_) = (
            ConditionalTemperature("first_order_margin").fit(logits, right, scores),
            ConditionalTemperature("first_order_margin", num_degrees=0).fit(logits, right, scores).temperatures,
        )
    assert plain.temperatures[0] == pytest.approx(single, rel=0.5)
    robust = torch.where(scores > 0.6, right, labels)  # no error among the robust ones
    temperatures = ConditionalTemperature("first_order_margin", num_degrees=3).fit(logits, robust, scores).temperatures
    assert 0.05 < temperatures[-1] < temperatures[0]


def test_the_margin_is_computed_from_the_logits() -> None:
    logits, labels, scores = problem(flat)
    top = logits.topk(2).values
    margin = top[:, 0] - top[:, 1]
    ours = ConditionalTemperature("logit_margin", num_degrees=2).fit(logits, labels)
    given = ConditionalTemperature("first_order_margin", num_degrees=2).fit(logits, labels, margin)
    assert ours.temperatures == given.temperatures
    assert ours.predict_logits(logits).equal(given.predict_logits(logits, margin))
    # Scores stored for another calibrator do not confuse it.
    assert (
        ConditionalTemperature("logit_margin", num_degrees=2).fit(logits, labels, scores).temperatures
        == ours.temperatures
    )
    assert ours.predict_logits(logits, scores).equal(ours.predict_logits(logits))


def test_each_example_counts_for_itself() -> None:
    logits, labels, scores = problem(rising)
    scaling = ConditionalTemperature("first_order_margin", num_degrees=3).fit(logits, labels, scores)
    together = scaling.predict_logits(logits[:10], scores[:10])
    alone = torch.cat([scaling.predict_logits(logits[i : i + 1], scores[i : i + 1]) for i in range(10)])
    assert together.numpy() == pytest.approx(alone.numpy(), rel=1e-14)


@pytest.mark.parametrize("score", ["logit_margin", "first_order_margin"])
@pytest.mark.parametrize("num_degrees", [0, 1, 3])
def test_round_trip_through_json(score: str, num_degrees: int) -> None:
    logits, labels, scores = problem(rising)
    scaling = ConditionalTemperature(score, num_degrees=num_degrees).fit(logits, labels, scores)
    restored = ConditionalTemperature.from_dict(json.loads(json.dumps(scaling.to_dict())))
    assert restored.score == score
    assert restored.temperatures == scaling.temperatures
    assert restored.num_degrees == num_degrees
    assert restored.predict_logits(logits, scores).equal(scaling.predict_logits(logits, scores))


@pytest.mark.parametrize(
    "change",
    [
        {"method": "temperature"},
        {"method": ["margin_temperature"]},
        {"temperatures": [1.0, -1.0]},
        {"temperatures": []},
        {"scores": [1.0, 1.0]},
        {"levels": [0.0, 0.5, 1.0]},
        {"levels": [0.0, float("nan")]},
    ],
)
def test_bad_fields_are_refused(change: dict[str, object]) -> None:
    fields = {"method": "robustness_temperature", "temperatures": [2.0], "scores": [0.0, 1.0], "levels": [0.0, 1.0]}
    ConditionalTemperature.from_dict(fields)
    with pytest.raises(InputError, match=r"the state of a .*robustness_temperature calibrator"):
        ConditionalTemperature.from_dict({**fields, **change})


@pytest.mark.parametrize("method", ["margin_temperature", "robustness_temperature"])
def test_the_file_says_which_score(method: str) -> None:
    fields = {"method": method, "temperatures": [4.0, 2.0], "scores": [1.0, 3.0], "levels": [0.0, 1.0]}
    logits = torch.tensor([[2.0, 0.0]], dtype=torch.float64)  # a margin of 2: halfway between 1/4 and 1/2
    expected = 3 / 8 * logits if method == "margin_temperature" else 1 / 2 * logits
    calibrator = calibrator_from_dict(fields)
    assert calibrator.predict_logits(logits, torch.tensor([3.0])).equal(expected)
    assert calibrator.to_dict() == fields


def test_bad_input_is_refused() -> None:
    logits, labels, scores = problem(rising, n=200)
    fitted = ConditionalTemperature("first_order_margin", num_degrees=1).fit(logits, labels, scores)
    for bad in (None, scores[:5], scores * np.nan, scores / 0):
        with pytest.raises(InputError, match=r"first_order_margin of each of 200 examples.*margin_temperature"):
            ConditionalTemperature("first_order_margin").fit(logits, labels, bad)
        with pytest.raises(InputError, match="first_order_margin of each of 200 examples"):
            fitted.predict_proba(logits, bad)
    for bad_logits, bad_labels, message in (
        (logits * np.nan, labels, "finite logits"),
        (logits.softmax(1), labels, "got probabilities"),
        (logits[:0], labels[:0], "at least one example"),
        (logits, labels + 5, "labels from 0 to 4"),
    ):
        with pytest.raises(InputError, match=message):
            ConditionalTemperature("logit_margin").fit(bad_logits, bad_labels)
    with pytest.raises(InputError, match="a fitted margin_temperature"):
        ConditionalTemperature("logit_margin").predict_proba(logits)
    with pytest.raises(InputError, match="logit_margin or first_order_margin, got score='norm'"):
        ConditionalTemperature("norm")
    with pytest.raises(InputError, match="num_degrees from 0 to 3"):
        ConditionalTemperature("logit_margin", num_degrees=4)


def test_piecewise_linear_equals_numpy() -> None:
    points = torch.linspace(-1, 2, 50, dtype=torch.float64)
    knots, values = torch.tensor([0.0, 0.3, 1.0]).double(), torch.tensor([2.0, -1.0, 5.0]).double()
    expected = np.interp(points.numpy(), knots.numpy(), values.numpy())
    assert piecewise_linear(points, knots, values).numpy() == pytest.approx(expected)
