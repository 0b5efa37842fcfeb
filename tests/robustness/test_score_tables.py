"""Scores of whole data sets: the same whatever the batches, and refused where they would mean nothing."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aradals.attacks import ATTACKS, AttackResult, deepfool, describe_attack, get_attack, pgd, secant
from aradals.data import load_data
from aradals.errors import InputError
from aradals.models import build_model, load_checkpoint
from aradals.robustness.scores import ScoreTable, score, score_batches
from aradals.smoothing.subsets import assign_subsets

COLUMNS = ("ids", "predicted", "score", "margin", "norm", "success", "num_forward", "num_backward")
SECANT = (
    "secant(num_candidates=3, accurate=False, reach=None, steps=None, tolerance=None, verified={}, "
    "num_starts=0, starts=None)"
)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.rand(23, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_equal(table: ScoreTable, expected: ScoreTable) -> None:
    for name in COLUMNS:
        torch.testing.assert_close(getattr(table, name), getattr(expected, name), rtol=1e-5, atol=0)


def test_columns(model: nn.Module, inputs: Tensor) -> None:
    table = score(model, inputs)
    result = secant(model, inputs)
    assert len(table) == 23
    assert table.ids.tolist() == list(range(23))
    assert table.num_failed == 0
    assert table.attack == SECANT.format(False)
    for name in COLUMNS[1:]:
        torch.testing.assert_close(getattr(table, name), getattr(result, name))


@pytest.mark.parametrize("batch_size", [1, 5, 23, 100])
def test_independent_of_batch_size(model: nn.Module, inputs: Tensor, batch_size: int) -> None:
    assert_equal(score(model, inputs, batch_size=batch_size), score(model, inputs))


def test_independent_of_order(model: nn.Module, inputs: Tensor) -> None:
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    batches = [(ids, inputs[ids], labels[ids]) for ids in torch.split(order, 7)]
    assert_equal(score(model, batches), score(model, inputs))


def test_kinds_of_batches(model: nn.Module, inputs: Tensor) -> None:
    labels, ids = torch.zeros(len(inputs), dtype=torch.int64), torch.arange(len(inputs))
    expected = score(model, inputs)
    assert_equal(score(model, (inputs, labels), batch_size=6), expected)
    assert_equal(score(model, list(torch.split(inputs, 6))), expected)
    assert_equal(score(model, iter(torch.split(inputs, 6))), expected)
    assert_equal(score(model, DataLoader(TensorDataset(inputs), batch_size=6)), expected)
    assert_equal(score(model, DataLoader(TensorDataset(inputs, labels), batch_size=6)), expected)
    loader = DataLoader(TensorDataset(ids, inputs, labels), batch_size=6, shuffle=True)
    assert_equal(score(model, loader), expected)


def test_repeated_ids_count_once(model: nn.Module, inputs: Tensor) -> None:
    ids = torch.tensor([5, 2, 5])
    table = score(model, [(ids, inputs[ids], ids), (ids[:1], inputs[:1], ids[:1])])
    assert table.ids.tolist() == [2, 5]
    assert torch.equal(table.norm, score(model, inputs[[2, 5]]).norm)


def test_shuffling_without_ids_is_refused(model: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(InputError, match="shuffle=False"):
        score(model, DataLoader(TensorDataset(inputs, inputs[:, 0]), batch_size=6, shuffle=True))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (torch.zeros(2, 6, dtype=torch.uint8), "/ 255"),
        (torch.full((2, 6), 2.0), "values from 2 to 2"),
        (torch.zeros(0, 6), "at least one example"),
        (torch.zeros(2, 5), r"a model that takes inputs of shape \(2, 5\), got RuntimeError"),
        ([], "at least one example"),
        ([["cat", "dog"]], "list of str, str"),
        ([(torch.rand(2), torch.rand(2, 6), torch.zeros(2))], "integer ids"),
        ([(torch.arange(3), torch.rand(2, 6), torch.zeros(2))], "2 integer ids"),
    ],
)
def test_bad_batches(model: nn.Module, batches: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score(model, batches)


def test_batch_by_batch(model: nn.Module, inputs: Tensor) -> None:
    tables = list(score_batches(model, inputs, batch_size=10))
    assert [table.ids.tolist() for table in tables] == [[*range(10)], [*range(10, 20)], [20, 21, 22]]
    assert torch.equal(torch.cat([table.score for table in tables]), score(model, inputs, batch_size=10).score)


def test_a_table_does_not_wait_for_the_next_batch(model: nn.Module, inputs: Tensor) -> None:
    asked_for: list[int] = []

    def batches() -> Any:
        for number, batch in enumerate(torch.split(inputs, 5)):
            asked_for.append(number)
            yield batch

    tables = score_batches(model, batches(), num_starts=0)
    assert asked_for == []
    next(tables)
    assert asked_for == [0]


def subsets_moved(table: ScoreTable, other: ScoreTable) -> int:
    return int((assign_subsets(table.score, 10) != assign_subsets(other.score, 10)).sum())


def assert_batches_do_not_matter(model: nn.Module, inputs: Tensor, max_moved: int) -> None:
    whole = score(model, inputs, batch_size=len(inputs), starts=inputs[:128])
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(3))
    other = score(model, [(ids, inputs[ids], ids) for ids in torch.split(order, 17)], starts=inputs[:128])
    assert subsets_moved(whole, other) <= max_moved
    torch.testing.assert_close(other.score, whole.score, rtol=0.02, atol=0)


def test_batches_do_not_matter_in_single_precision() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    ).eval()
    inputs = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert_batches_do_not_matter(model, inputs, max_moved=0)


def test_batches_do_not_matter_on_resnet20(shared_data: Path) -> None:
    model = build_model("resnet20", num_classes=10, in_channels=3)
    load_checkpoint(model, shared_data / "models" / "cifar10-resnet20.safetensors")
    images = load_data(str(shared_data / "data" / "cifar10-test.parquet"), limit=200)
    assert_batches_do_not_matter(model, images.batch(range(200))[1], max_moved=0)


class TestVerified:
    def test_norms_are_seen_to_hold(self, model: nn.Module, inputs: Tensor) -> None:
        estimates, table = score(model, inputs), score(model, inputs, verified=True)
        assert estimates.norm.isinf().all()
        assert table.norm.isfinite().all()
        torch.testing.assert_close(table.score, estimates.score)
        assert table.attack == SECANT.format(True)
        result = secant(model, inputs, verified=True)
        torch.testing.assert_close(table.norm, result.norm)

    def test_attacks_that_always_verify_take_no_setting(self, model: nn.Module, inputs: Tensor) -> None:
        table = score(model, inputs, "deepfool", verified=True)
        assert table.attack == describe_attack("deepfool")
        assert torch.equal(table.norm.isfinite(), table.success)

    @pytest.mark.parametrize("attack", ["logit_margin", "log_odds", "first_order_margin"])
    def test_estimates_cannot(self, attack: str, model: nn.Module, inputs: Tensor) -> None:
        with pytest.raises(InputError, match="verified no norm of 23"):
            score(model, inputs, attack, verified=True)

    def test_what_holds_for_a_faster_copy_alone_does_not_count(self, model: nn.Module, inputs: Tensor) -> None:
        """The attack is given a copy in bfloat16; norms and predictions are the model's own."""

        def on_the_boundary_of_the_copy(model: nn.Module, inputs: Tensor) -> AttackResult:
            result = secant(model, inputs, verified=True)
            untrue = result.predicted != 0
            wrong = torch.where(untrue[:, None], inputs, result.adv_inputs)
            return dataclasses.replace(result, adv_inputs=wrong, predicted=torch.full_like(result.predicted, 7))

        model = model.float()
        expected = model(inputs.float()).argmax(1)
        table = score(model, inputs, on_the_boundary_of_the_copy, bf16=True)
        assert torch.equal(table.predicted, expected)
        assert table.norm[expected != 0].isinf().all()


def test_bfloat16_ranks_about_the_same(model: nn.Module) -> None:
    inputs = torch.rand(200, 6, generator=torch.Generator().manual_seed(1))
    exact, coarse = score(model.float(), inputs), score(model, inputs, bf16=True)
    assert not torch.equal(exact.score, coarse.score)
    assert ((assign_subsets(exact.score, 10) - assign_subsets(coarse.score, 10)).abs() <= 1).float().mean() > 0.95
    assert torch.equal(exact.predicted, coarse.predicted)


class TestProgress:
    def test_a_terminal_has_a_bar(
        self, model: nn.Module, inputs: Tensor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        score(model, inputs, batch_size=10, progress=True)
        assert "0/23 [00:00<?, ?img/s]" in capsys.readouterr().err

    @pytest.mark.parametrize(("pause", "lines"), [(1e9, 0), (1e-9, 3)])
    def test_a_log_has_a_line_now_and_then(
        self,
        pause: float,
        lines: int,
        model: nn.Module,
        inputs: Tensor,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr("aradals.robustness.scores._LOG_SECONDS", pause)
        loader = DataLoader(TensorDataset(inputs), batch_size=10)
        score(model, loader, progress=True)
        assert capsys.readouterr().err.count("/23") == lines

    def test_silence_by_default(self, model: nn.Module, inputs: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
        score(model, inputs)
        assert capsys.readouterr().err == ""


def test_frozen_scripts_have_no_mode(model: nn.Module, inputs: Tensor) -> None:
    model, inputs = model.float().eval(), inputs.float()
    assert_equal(score(torch.jit.freeze(torch.jit.script(model)), inputs), score(model, inputs))


class Detached(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.detach()[:, :2] * 3 - 1


class Rounded(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs[:, :2] * 4).round()


class Dominated(nn.Module):
    """Class 1 by a lead that nothing in the box makes up for, with a gradient everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        with torch.no_grad():
            self.linear.bias[1] += 20

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.linear(inputs.to(self.linear.weight.dtype).sin())
        return logits


GRADIENT_ATTACKS = [attack for attack in ATTACKS if attack not in ("logit_margin", "log_odds")]


class TestModelsThatMeanNothing:
    @pytest.mark.parametrize("attack", GRADIENT_ATTACKS)
    @pytest.mark.parametrize("broken", [Detached(), Rounded()])
    def test_without_gradient_no_attack_is_run(
        self, broken: nn.Module, attack: str, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tables = score_batches(broken, inputs, attack)
        monkeypatch.setattr("aradals.robustness.scores.accelerated", None)  # would be called next
        with pytest.raises(InputError, match="a gradient with respect to its inputs"):
            next(tables)

    def test_without_gradient_there_is_no_robust_accuracy(self, inputs: Tensor) -> None:
        with pytest.raises(InputError, match="a gradient with respect to its inputs"):
            score(Detached(), inputs.float(), functools.partial(pgd, radius=0.1))

    def test_equal_classes_have_a_gradient(self, inputs: Tensor) -> None:
        """Every class is there twice: the margin over the second is 0 everywhere, the others are still away."""

        class Twice(nn.Linear):
            def forward(self, inputs: Tensor) -> Tensor:
                return super().forward(inputs).repeat(1, 2)

        torch.manual_seed(0)
        model = Twice(6, 4).double()
        with torch.no_grad():
            model.bias.sub_(model(inputs)[:, :4].mean(0))
        once = nn.Linear(6, 4).double()
        once.load_state_dict(model.state_dict())
        torch.testing.assert_close(score(model, inputs, "deepfool").norm, score(once, inputs, "deepfool").norm)
        assert score(model, inputs, verified=True).norm.isfinite().all()

    def test_without_gradient_the_logit_margin_does(self, inputs: Tensor) -> None:
        table = score(Detached(), inputs.float(), "logit_margin")
        torch.testing.assert_close(table.score, 3 * (inputs[:, 0] - inputs[:, 1]).abs().float())

    @pytest.mark.parametrize("attack", [a for a in ATTACKS if a not in ("carlini_wagner", "ddn", "fmn")])
    def test_the_same_class_everywhere_is_no_ranking(self, attack: str, inputs: Tensor) -> None:
        torch.manual_seed(0)
        tables = score_batches(Dominated().double(), inputs, attack, batch_size=4)
        with pytest.raises(InputError, match="all of 23 examples"):
            list(tables)

    @pytest.mark.parametrize("attack", ["secant", "logit_margin"])
    def test_data_of_a_single_class_does(self, attack: str, model: nn.Module, inputs: Tensor) -> None:
        predicted = model(inputs).argmax(1)
        alike = inputs[predicted == predicted.mode().values]
        assert len(alike) > 3
        assert score(model, alike, attack, batch_size=2).score.isfinite().all()

    def test_other_classes_in_a_late_batch_do(self) -> None:
        """Nothing changes in front, where a step function has no gradient, but there is another class behind it."""

        class Steps(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                return torch.stack([inputs[:, 0].mul(2).floor(), inputs[:, 0] * 0.5 + 0.4], 1)

        late = torch.cat([torch.full((40, 1), 0.1), torch.full((2, 1), 0.9)])
        assert score(Steps(), late, "first_order_margin", batch_size=4).predicted.sum() == 40

    def test_probabilities(self, model: nn.Module, inputs: Tensor) -> None:
        for attack in ATTACKS:
            with pytest.raises(InputError, match="removing the softmax"):
                score(nn.Sequential(model, nn.Softmax(1)), inputs, attack)


def test_an_attack_may_be_a_function(model: nn.Module, inputs: Tensor) -> None:
    def twice_as_far(model: nn.Module, inputs: Tensor, *, factor: float = 2.0) -> AttackResult:
        result = deepfool(model, inputs)
        return dataclasses.replace(result, norm=factor * result.norm)

    table = score(model, inputs, twice_as_far, factor=3.0)
    assert table.attack == "twice_as_far(factor=3.0)"
    assert torch.equal(table.norm, 3 * score(model, inputs, "deepfool").norm)


def test_attacks_by_name(model: nn.Module, inputs: Tensor) -> None:
    attack = get_attack("carlini-wagner", steps=3)
    assert describe_attack(attack).startswith("carlini_wagner(binary_search_steps=9, steps=3, learning_rate=0.01,")
    assert describe_attack("deepfool", overshoot=0.5) == "deepfool(steps=50, num_candidates=10, overshoot=0.5)"
    assert get_attack("deepfool") is deepfool
    table = score(model, inputs, "deepfool", steps=1, num_candidates=2)
    assert table.attack == "deepfool(steps=1, num_candidates=2, overshoot=0.01)"


def test_unknown_attacks_and_arguments(model: nn.Module, inputs: Tensor) -> None:
    with pytest.raises(InputError, match=r"an attack: secant, .*deepfool, carlini_wagner.*; try deepfool$"):
        get_attack("deep_pool")
    with pytest.raises(InputError, match=r"deepfool: steps, num_candidates, overshoot, got step; try steps$"):
        score(model, inputs, "deepfool", step=3)


def test_an_attack_in_a_file(model: nn.Module, inputs: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from aradals.attacks import ddn\n\ndef few(model, inputs, *, steps=3):\n"
        "    return ddn(model, inputs, steps=steps)\n"
    )
    table = score(model, inputs, f"{path}:few", steps=2)
    assert table.attack == "few(steps=2)"
    assert torch.equal(table.norm, score(model, inputs, "ddn", steps=2).norm)


def test_rows_of_some_examples_in_their_order(model: nn.Module, inputs: Tensor) -> None:
    table = score(model, inputs, "logit_margin")
    some = table.for_ids(torch.tensor([5, 0, 3]))
    assert some.ids.tolist() == [5, 0, 3]
    assert torch.equal(some.score, table.score[[5, 0, 3]])
    assert torch.equal(some.for_ids(torch.tensor([3])).predicted, table.predicted[3:4])
    with pytest.raises(InputError, match="a score for every example, got no score for 1 of 2"):
        some.for_ids(torch.tensor([5, 1]))
    nothing = dataclasses.replace(table, score=table.score * torch.nan)
    with pytest.raises(InputError, match="no score for 1"):
        nothing.for_ids(torch.tensor([0]))
