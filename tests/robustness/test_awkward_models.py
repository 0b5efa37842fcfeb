"""Models without gradients, with noise, or with a mind of their own about batches: ranked rightly, or refused."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from aradals.attacks import ATTACKS, logit_margin
from aradals.data import Examples
from aradals.errors import InputError
from aradals.inference.padding import Padded, padded
from aradals.pipeline.diagnose import diagnose
from aradals.pipeline.evaluate import evaluate
from aradals.pipeline.score import describe_scores, rankings_of
from aradals.report.findings import verdict
from aradals.robustness.audit import rank_agreement
from aradals.robustness.scores import ScoreTable, score


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that was trained on the digits, with 400 others and their labels."""
    data = load_digits()
    inputs, labels = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(inputs[:1397]), labels[:1397]))
        optimizer.step()
    return model, inputs[1397:], labels[1397:]


class LogOfSoftmax(nn.Module):
    """The logarithm of saturated probabilities, as logits; without a gradient where the softmax saturates."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return ((self.factor * logits).softmax(1) + 1e-8).log()


class LogSoftmax(LogOfSoftmax):
    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return (self.factor * logits).log_softmax(1)


def table_of(scores: list[float], margins: list[float], found: list[bool]) -> ScoreTable:
    whole = torch.arange(len(scores))
    return ScoreTable(
        ids=whole,
        predicted=whole,
        score=torch.tensor(scores),
        margin=torch.tensor(margins),
        norm=torch.full((len(scores),), torch.inf),
        success=torch.tensor(found),
        num_forward=whole,
        num_backward=whole,
        attack="secant()",
    )


class TestFailures:
    def test_a_few_take_the_place_of_their_margin(self) -> None:
        """Every margin is ten times its score, but for the failures: least, in the middle and most robust."""
        scores = [float(value) for value in range(1, 58)]
        table = table_of(
            [*scores, 0.0, 0.0, 0.0], [*(10 * value for value in scores), 1.0, 205.0, 900.0], [True] * 57 + [False] * 3
        )
        assert not table.by_margin
        assert table.ranking.tolist() == [*scores, 1.0, 21.0, 57.0]

    def test_many_leave_the_ranking_to_the_margin(self) -> None:
        table = table_of([1.0, 2.0, 3.0, 0.0], [4.0, 3.0, 2.0, 9.0], [True, True, True, False])
        assert table.by_margin
        assert table.ranking.tolist() == [4.0, 3.0, 2.0, 9.0]

    def test_none_leaves_the_scores(self) -> None:
        table = table_of([3.0, 1.0], [1.0, 2.0], [True, True])
        assert table.ranking.tolist() == [3.0, 1.0]

    def test_rankings_that_are_compared_are_of_one_kind(self) -> None:
        whole, lost = table_of([3.0, 1.0], [1.0, 2.0], [True, True]), table_of([0.0, 1.0], [8.0, 9.0], [False, True])
        ids = torch.tensor([1, 0])
        assert [each.tolist() for each in rankings_of((whole, ids), (lost, ids))] == [[2.0, 1.0], [9.0, 8.0]]
        assert rankings_of((whole, ids))[0].tolist() == [1.0, 3.0]
        assert lost.by_margin

    @pytest.mark.parametrize("factor", [12.0, 20.0])
    def test_saturation_does_not_turn_the_ranking_around(
        self, factor: float, digits: tuple[nn.Module, Tensor, Tensor]
    ) -> None:
        model, inputs, _ = digits
        truth = score(model, inputs, "ddn").score
        saturated = score(LogOfSoftmax(model, factor), inputs, num_starts=0)
        assert saturated.num_failed > 20
        assert rank_agreement(saturated.ranking, truth).spearman.value > 0.55
        started = score(LogOfSoftmax(model, factor), inputs)
        assert "num_starts=3" in started.attack
        assert started.num_failed < saturated.num_failed
        assert rank_agreement(started.ranking, truth).spearman.value > 0.85
        safe = score(LogSoftmax(model, factor), inputs)
        assert safe.num_failed == 0
        assert rank_agreement(safe.ranking, truth).spearman.value > 0.98

    def test_nothing_is_said_by_robustness(self, digits: tuple[nn.Module, Tensor, Tensor]) -> None:
        model, inputs, labels = digits
        data = Examples(inputs, labels, num_classes=10)
        told: list[str] = []
        settings = {"num_starts": 0}  # by default, the search starts from other examples, and finds boundaries
        results = diagnose(LogOfSoftmax(model, 20.0), data, attack_args=settings, log=told.append)
        assert results.num_subsets == 0
        assert not results.least_robust_classes
        assert results.audit is None
        failed = results.scoring[0].num_failed
        [warning] = verdict(results).warnings
        assert warning == (
            f"Warning: secant found no boundary for {failed} of 400 examples. The logit margin ranks all of them, and "
            "nothing is reported by robustness."
        )
        assert verdict(results).sentences[0].startswith("On all 400 examples, ")

        table = score(LogOfSoftmax(model, 20.0), inputs, num_starts=0)
        assert warning in describe_scores(table)
        assert evaluate(LogOfSoftmax(model, 20.0), data, scores=table).num_subsets == 0
        assert evaluate(model, data, scores=score(model, inputs)).num_subsets == 10


class AlwaysDropout(nn.Module):
    def __init__(self, model: nn.Module, share: float) -> None:
        super().__init__()
        self.model, self.share = model, share

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(nn.functional.dropout(inputs, self.share, training=True))  # type: ignore[no-any-return]


class BatchStatistics(AlwaysDropout):
    """Centers the inputs by the mean of the batch: for one input alone, nothing is left of it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs - self.share * inputs.mean(0))  # type: ignore[no-any-return]


class TestRepeatable:
    @pytest.mark.parametrize("attack", ["secant", "logit_margin"])
    def test_noise_is_refused(self, attack: str, digits: tuple[nn.Module, Tensor, Tensor]) -> None:
        model, inputs, _ = digits
        with pytest.raises(InputError, match=r"differ by \d+ % of their spread between two equal calls.*dropout"):
            score(AlwaysDropout(model, 0.1), inputs, attack)

    @pytest.mark.parametrize("share", [0.1, 1.0])
    def test_statistics_of_the_batch_are_refused(self, share: float, digits: tuple[nn.Module, Tensor, Tensor]) -> None:
        model, inputs, _ = digits
        with pytest.raises(InputError, match=r"differ by \d+ % of their spread between a call with the .* alone"):
            score(BatchStatistics(model, share), inputs)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_rounding_is_not(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(50, 300), nn.ReLU(), nn.Linear(300, 5)).to(dtype)
        assert len(score(model, torch.rand(64, 50), "logit_margin")) == 64
        assert len(score(model, torch.rand(1, 50), "logit_margin")) == 1


class Squeezes(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)[None].squeeze()  # type: ignore[no-any-return]


class FixedBatch(Squeezes):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs.reshape(40, 64))  # type: ignore[no-any-return]


class TestSmallBatches:
    """Searches end with a few examples, and data with a part of a batch."""

    @pytest.mark.parametrize("kind", [Squeezes, FixedBatch])
    @pytest.mark.parametrize("attack", sorted(set(ATTACKS) - {"carlini_wagner", "ddn", "fmn"}))
    def test_models_that_need_more_are_scored_alike(
        self, attack: str, kind: type[Squeezes], digits: tuple[nn.Module, Tensor, Tensor]
    ) -> None:
        model, inputs = digits[0], digits[1][:81]  # the last batch has one example
        found, expected = score(kind(model), inputs, attack, batch_size=40), score(model, inputs, attack, batch_size=40)
        torch.testing.assert_close(found.score, expected.score, rtol=1e-3, atol=1e-5)

    def test_a_model_that_needs_nothing_is_left_alone(self, digits: tuple[nn.Module, Tensor, Tensor]) -> None:
        model, inputs, _ = digits
        assert padded(model, inputs) is model
        fixed = padded(FixedBatch(model), inputs[:40])
        assert isinstance(fixed, Padded)
        torch.testing.assert_close(fixed(inputs[:3]), model(inputs[:3]))
        torch.testing.assert_close(logit_margin(fixed, inputs[:3]).score, logit_margin(model, inputs[:3]).score)

    def test_a_model_that_always_fails_is_refused(self, digits: tuple[nn.Module, Tensor, Tensor]) -> None:
        with pytest.raises(InputError, match=r"takes inputs of shape \(9, 64\), got RuntimeError"):
            score(FixedBatch(digits[0]), digits[1][:9])


@pytest.mark.slow
def test_compiled_models(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Compiled graphs give up their memory when they are walked."""
    model, inputs = digits[0], digits[1][:24]
    inside = nn.Sequential(*model.children())
    inside[1] = torch.compile(inside[1], backend="aot_eager")  # type: ignore[assignment]
    for compiled in (inside, torch.compile(model, backend="aot_eager")):
        found, expected = score(compiled, inputs), score(model, inputs)  # type: ignore[arg-type]
        torch.testing.assert_close(found.score, expected.score)
