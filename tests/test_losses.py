from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aradals.errors import InputError
from aradals.losses import focal_loss, jensen_shannon, margin_smoothing_loss, soft_cross_entropy


def batch(num: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels, and target probabilities from 1/K to 1, both included."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_classes, (num,), generator=generator)
    return logits, labels, torch.linspace(1 / num_classes, 1, num, dtype=torch.float64)


def soft_rows(labels: Tensor, target_prob: Tensor, num_classes: int) -> Tensor:
    """Target distributions, written out."""
    one_hot = F.one_hot(labels, num_classes).double()
    return one_hot * target_prob[:, None] + (1 - one_hot) * (1 - target_prob[:, None]) / (num_classes - 1)


def textbook(logits: Tensor, rows: Tensor) -> Tensor:
    return -(rows * logits.softmax(1).log()).sum(1).mean()


def assert_same(loss: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    """The same value and the same gradient."""
    results = []
    for function in (loss, expected):
        leaf = logits.clone().requires_grad_()
        value = function(leaf)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    torch.testing.assert_close(results[0], results[1])


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(2, 7), st.integers(0, 1000))
def test_target_probabilities(num: int, num_classes: int, seed: int) -> None:
    logits, labels, target_prob = batch(num, num_classes, seed)
    rows = soft_rows(labels, target_prob, num_classes)
    assert_same(lambda z: soft_cross_entropy(z, labels, target_prob), lambda z: textbook(z, rows), logits)
    assert_same(lambda z: soft_cross_entropy(z, labels), lambda z: F.cross_entropy(z, labels), logits)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(2, 7), st.integers(0, 1000))
def test_mixup_pairs(num: int, num_classes: int, seed: int) -> None:
    logits, labels, target_prob = batch(num, num_classes, seed)
    other, weight, other_prob = labels.flip(0), torch.linspace(0.3, 1, num, dtype=torch.float64), target_prob.flip(0)

    def mixed(first: Tensor, second: Tensor) -> Tensor:
        w = weight[:, None]
        return w * soft_rows(labels, first, num_classes) + (1 - w) * soft_rows(other, second, num_classes)

    one = torch.ones(num, dtype=torch.float64)
    cases: list[tuple[dict[str, Any], Tensor]] = [
        ({}, mixed(one, one)),
        ({"target_prob": target_prob}, mixed(target_prob, target_prob)),
        ({"target_prob": target_prob, "other_target_prob": other_prob}, mixed(target_prob, other_prob)),
    ]
    for arguments, rows in cases:
        loss = partial(soft_cross_entropy, targets=labels, other_labels=other, mix_weight=weight, **arguments)
        assert_same(loss, partial(textbook, rows=rows), logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_of_torch(smoothing: float) -> None:
    logits, labels, _ = batch(9, 5)
    target_prob = torch.full((9,), 1 - smoothing * 4 / 5, dtype=torch.float64)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(soft_cross_entropy(logits, labels, target_prob), expected)


def test_distributions() -> None:
    logits, labels, target_prob = batch(8, 4)
    rows = torch.rand(8, 4, dtype=torch.float64).softmax(1)
    assert_same(lambda z: soft_cross_entropy(z, rows), lambda z: F.cross_entropy(z, rows), logits)
    one_hot = F.one_hot(labels, 4).double()
    expected = soft_cross_entropy(logits, labels, target_prob)
    torch.testing.assert_close(soft_cross_entropy(logits, one_hot, target_prob), expected)


def test_double_smoothing_warns_and_only_that() -> None:
    logits, labels, target_prob = batch(6, 3)
    rows = soft_rows(labels, torch.full((6,), 0.7, dtype=torch.float64), 3)
    with pytest.warns(UserWarning, match="already soft"):
        loss = soft_cross_entropy(logits, rows, target_prob)
    smoothing = ((1 - target_prob) * 3 / 2)[:, None]
    torch.testing.assert_close(loss, textbook(logits, (1 - smoothing) * rows + smoothing / 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        soft_cross_entropy(logits, rows)
        soft_cross_entropy(logits, rows, torch.ones(6))
        soft_cross_entropy(logits, F.one_hot(labels, 3).double(), target_prob)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_and_half_precision(dtype: torch.dtype) -> None:
    logits = torch.tensor([[3e4, 0, -3e4], [-3e4, 3e4, 3e4]], dtype=dtype, requires_grad=True)
    labels, target_prob = torch.tensor([2, 0]), torch.tensor([0.9, 1.0], dtype=torch.float64)
    loss = soft_cross_entropy(logits, labels, target_prob)
    assert loss.dtype == torch.float32
    expected = F.cross_entropy(logits.detach().double(), soft_rows(labels, target_prob, 3))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    for function in (soft_cross_entropy, focal_loss, margin_smoothing_loss):
        (gradient,) = torch.autograd.grad(function(logits, labels), logits)
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": torch.rand(4, 3) + 0.5}, "every row sums to 1"),
        ({"targets": torch.tensor([[1.5, -0.5, 0.0]] * 4)}, "no negative value"),
        ({"targets": torch.full((4, 3), math.nan)}, "distributions"),
        ({"targets": torch.ones(4)}, r"float targets of the shape of the logits, \(4, 3\).*labels\.long"),
        ({"target_prob": torch.ones(4, 1)}, r"target_prob of shape \(4,\).*got shape \(4, 1\)"),
        ({"target_prob": torch.tensor(0.9)}, r"target_prob of shape \(4,\)"),
        ({"other_labels": torch.zeros(4, dtype=torch.int64)}, "mix_weight together"),
        ({"mix_weight": torch.ones(4)}, "together"),
    ],
)
def test_bad_targets(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        soft_cross_entropy(torch.zeros(4, 3), **({"targets": torch.zeros(4, dtype=torch.int64)} | arguments))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("num_classes", [2, 6])
def test_focal_loss(gamma: float, num_classes: int) -> None:
    logits, labels, _ = batch(12, num_classes)

    def direct(z: Tensor) -> Tensor:
        prob = z.softmax(1).gather(1, labels[:, None])
        return -((1 - prob) ** gamma * prob.log()).mean()

    assert_same(lambda z: focal_loss(z, labels, gamma), direct, logits)
    if gamma == 0:
        torch.testing.assert_close(focal_loss(logits, labels, gamma), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("gamma", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("log_odds", [-200.0, -15.0, 20.0, 60.0, 1e4])
def test_focal_loss_where_the_probability_is_next_to_0_or_1(gamma: float, log_odds: float) -> None:
    """Against -q^γ log p and its derivative by the log-odds, q^γ (γ p log p - q), in double precision, q = 1 - p."""
    logits = torch.tensor([[log_odds, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0]), gamma)
    (gradient,) = torch.autograd.grad(loss, logits)
    odds_against = math.exp(-log_odds)
    minus_log_p, q = math.log1p(odds_against), odds_against / (1 + odds_against)
    slope = -(q**gamma) * (gamma * (1 - q) * minus_log_p + q)
    assert loss.item() == pytest.approx(q**gamma * minus_log_p, rel=1e-4, abs=1e-36)
    assert gradient[0].tolist() == pytest.approx([slope, -slope], rel=1e-4, abs=1e-36)


def test_margin_smoothing_by_hand() -> None:
    logits = torch.tensor([[12.0, 5.0, 0.0, 1.0], [3.0, 3.0, 3.0, 2.0]], dtype=torch.float64)
    labels = torch.tensor([0, 3])
    # Beyond a margin of 6 in the first row: 12 - 5, 12 - 0 and 12 - 1 by 1, 6 and 5; in the second none.
    expected = F.cross_entropy(logits, labels) + 0.1 * (1 + 6 + 5) / 8
    torch.testing.assert_close(margin_smoothing_loss(logits, labels, margin=6, weight=0.1), expected)
    torch.testing.assert_close(margin_smoothing_loss(logits, labels, margin=12), F.cross_entropy(logits, labels))


def test_jensen_shannon() -> None:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    probs = [view.softmax(1) for view in views]
    mean = sum(probs, torch.zeros(())) / 3
    # F.kl_div(log q, p) is KL(p || q).
    expected = sum(F.kl_div(mean.log(), prob, reduction="batchmean") for prob in probs) / 3
    torch.testing.assert_close(jensen_shannon(views), expected)
    # No difference, and certainty about as many classes as there are views.
    torch.testing.assert_close(jensen_shannon(views[:1] * 2), torch.zeros((), dtype=torch.float64))
    opposite = [1e4 * row[None] for row in torch.eye(3)]
    torch.testing.assert_close(jensen_shannon(opposite), torch.tensor(math.log(3)))


@pytest.mark.parametrize(
    "call",
    [
        lambda z, y: focal_loss(z, y, gamma=-1),
        lambda z, y: focal_loss(z, y, gamma=math.nan),
        lambda z, y: margin_smoothing_loss(z, y, margin=-1),
        lambda z, y: margin_smoothing_loss(z, y, weight=-1),
        lambda z, y: jensen_shannon([z]),
    ],
)
def test_bad_settings(call: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(InputError):
        call(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


LOSSES: list[Callable[[Tensor, Tensor], Tensor]] = [soft_cross_entropy, focal_loss, margin_smoothing_loss]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "labels from 0 to 2"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, -100]), r"ignore_index=-100"),
        (torch.zeros(4, 3), torch.tensor([True, False, True, False]), r"labels\.long"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64), r"logits of shape \(3, K\)"),
        (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), "K >= 2"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), r"got shape \(4,\)"),
        (torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), "floating-point logits"),
        (torch.zeros(4, 3, 2, 2), torch.zeros(4, 2, 2, dtype=torch.int64), r"movedim\(1, -1\)\.flatten"),
    ],
)
def test_logits_and_labels_that_do_not_fit(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        loss(logits, labels)


def test_the_hint_for_positions_is_right() -> None:
    logits, labels = torch.randn(4, 3, 5, 6), torch.randint(3, (4, 5, 6))
    flat = soft_cross_entropy(logits.movedim(1, -1).flatten(0, -2), labels.flatten())
    torch.testing.assert_close(flat, F.cross_entropy(logits, labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_other_integers(dtype: torch.dtype) -> None:
    logits, labels, target_prob = batch(9, 5)
    for loss in LOSSES:
        assert loss(logits, labels.to(dtype)).equal(loss(logits, labels))
    expected = soft_cross_entropy(logits, labels, target_prob)
    assert soft_cross_entropy(logits, labels.to(dtype), target_prob).equal(expected)


def test_losses_read_no_value_on_a_device() -> None:
    """A tensor without values raises an error when one is read, as a device would have to wait."""
    logits, labels, target_prob = (each.to("meta") for each in batch(9, 5))
    rows = torch.rand(9, 5, device="meta")
    for value in (
        *(loss(logits, labels) for loss in LOSSES),
        soft_cross_entropy(logits, labels, target_prob, weight=torch.rand(5, device="meta"), ignore_index=1),
        soft_cross_entropy(logits, labels, other_labels=labels, mix_weight=target_prob),
        soft_cross_entropy(logits, rows, target_prob),
        jensen_shannon([logits, logits]),
    ):
        assert value.shape == ()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ignore_index", [None, 2, -100])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0], dtype=torch.float64)])
def test_weight_ignore_index_and_reduction_of_torch(
    reduction: Any, ignore_index: int | None, weight: Tensor | None
) -> None:
    logits, labels, _ = batch(40, 5)
    if ignore_index is not None:
        labels[::3] = ignore_index
    target_prob = torch.full((40,), 1 - 0.3 * 4 / 5, dtype=torch.float64)
    theirs: dict[str, Any] = {"weight": weight, "reduction": reduction}
    ignoring: dict[str, Any] = {} if ignore_index is None else {"ignore_index": ignore_index}
    assert_same(
        lambda z: soft_cross_entropy(z, labels, target_prob, **theirs, ignore_index=ignore_index).sum(),
        lambda z: F.cross_entropy(z, labels, label_smoothing=0.3, **theirs, **ignoring).sum(),
        logits,
    )
    rows = torch.rand(40, 5, dtype=torch.float64).softmax(1)
    torch.testing.assert_close(soft_cross_entropy(logits, rows, **theirs), F.cross_entropy(logits, rows, **theirs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_prob": torch.full((4,), 0.2)}, r"target_prob from 0\.3333 to 1"),
        ({"target_prob": torch.full((4,), math.nan)}, "target_prob from"),
        ({"other_labels": torch.full((4,), 3), "mix_weight": torch.ones(4)}, "labels from 0 to 2"),
        ({"other_labels": torch.zeros(4).long(), "mix_weight": torch.full((4,), 1.5)}, "mix_weight from 0 to 1"),
        ({"weight": torch.ones(4)}, r"weight of shape \(3,\)"),
        ({"reduction": "average"}, 'reduction "mean", "sum" or "none"'),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        soft_cross_entropy(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), **arguments)


def test_views_of_different_examples() -> None:
    with pytest.raises(InputError, match=r"logits of shape \(2, K\)"):
        jensen_shannon([torch.zeros(2, 3), torch.zeros(3, 3)])
