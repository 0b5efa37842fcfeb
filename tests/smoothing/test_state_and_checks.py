"""The state keeps its precision, and input that cannot be meant is refused before it changes a target."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.geometry import exact_dtype
from aradals.losses import soft_cross_entropy
from aradals.smoothing import (
    AdaptiveSmoothing,
    UpdateRule,
    assign_subsets,
    default_update_rate,
    fold_of,
    match_subsets,
    random_subsets,
    smoothing_to_target_prob,
    soft_targets,
    target_prob_to_smoothing,
)
from aradals.smoothing.update_rules import TargetState, measure, update_target_prob

NUM_CLASSES, NUM_EXAMPLES = 4, 3000


def validation(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Over-confident logits of more examples than bfloat16 can count to, with labels and subsets."""
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(NUM_EXAMPLES, NUM_CLASSES, generator=generator)).bfloat16().float()
    labels = torch.randint(NUM_CLASSES, (NUM_EXAMPLES,), generator=generator)
    return logits, labels, torch.arange(NUM_EXAMPLES) % 2


def criterion(**settings: Any) -> AdaptiveSmoothing:
    return AdaptiveSmoothing(NUM_CLASSES, 2, rule=UpdateRule(0.01, averaging=0.3), **settings)


def update(made: AdaptiveSmoothing, logits: Tensor, labels: Tensor, subsets: Tensor) -> Tensor:
    return made.update(labels, logits, subsets)


def to_half_and_back(made: AdaptiveSmoothing) -> AdaptiveSmoothing:
    return made.to(torch.float16).to(torch.float32)


def loaded(made: AdaptiveSmoothing, assign: bool = False) -> AdaptiveSmoothing:
    """A module in bfloat16, with a state that was converted to bfloat16 while all values were 1 or NaN."""
    other = criterion().to(torch.bfloat16)
    state = {name: v.bfloat16() if isinstance(v, Tensor) else v for name, v in made.state_dict().items()}
    other.load_state_dict(state, assign=assign)
    return other


def saved(made: AdaptiveSmoothing) -> AdaptiveSmoothing:
    buffer = io.BytesIO()
    torch.save(made.state_dict(), buffer)
    buffer.seek(0)
    other = criterion().half()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    return other


class TestPrecision:
    @pytest.mark.parametrize(
        "convert",
        [
            lambda made: made.to(torch.bfloat16),
            lambda made: made.half(),
            lambda made: made.float(),
            lambda made: made.type(torch.bfloat16),
            lambda made: nn.ModuleList([made]).to("cpu", torch.bfloat16)[0],
            to_half_and_back,
            loaded,
            lambda made: loaded(made, assign=True),
            saved,
            lambda made: copy.deepcopy(made.to(torch.bfloat16)),
            lambda made: pickle.loads(pickle.dumps(made.half())),
            lambda made: made.share_memory().bfloat16(),
        ],
    )
    def test_targets_adapt_as_in_float64_however_the_module_was_converted(
        self, convert: Callable[[AdaptiveSmoothing], AdaptiveSmoothing]
    ) -> None:
        exact, converted = criterion(), convert(criterion())
        for seed in range(3):
            logits, labels, subsets = validation(seed)
            expected = exact.update(labels, logits, subsets)
            assert converted.update(labels, logits.bfloat16(), subsets).equal(expected)
        assert all(buffer.dtype == torch.float64 for buffer in converted.buffers())
        assert expected.max() < 1
        assert converted.history == exact.history

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_the_loss_takes_exact_targets(self, dtype: torch.dtype) -> None:
        made = criterion(initial_target_prob=0.99).to(dtype)
        logits, labels, subsets = validation()
        loss = made(logits.to(dtype), labels, subsets)
        assert loss.dtype == torch.float32
        expected = soft_cross_entropy(logits.double(), labels, torch.full((NUM_EXAMPLES,), 0.99, dtype=torch.float64))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_the_default_dtype_does_not_matter(self) -> None:
        torch.set_default_dtype(torch.bfloat16)
        try:
            made = criterion(initial_target_prob=0.99)
            found = made.target_prob_for(torch.tensor([0, 1]), torch.tensor([0, 1]))
            confidence = torch.full((1000,), 0.5)
            counted = measure(confidence, confidence > 0, torch.zeros(1000, dtype=torch.int64), 1)
        finally:
            torch.set_default_dtype(torch.float32)
        assert found.tolist() == pytest.approx([0.99, 0.99], rel=1e-6)
        assert (counted.count.item(), counted.confidence.item(), counted.accuracy.item()) == (1000, 0.5, 1)

    def test_other_devices(self) -> None:
        moved = criterion().to("meta", torch.bfloat16)
        assert moved.target_prob.device.type == "meta"
        assert moved.target_prob.dtype == torch.float64
        assert exact_dtype(torch.device("mps")) == torch.float32

    def test_class_weights_stay_exact(self) -> None:
        made = criterion(weight=torch.tensor([0.3, 1, 1, 2])).to(torch.bfloat16)
        assert made.weight is not None
        assert made.weight.tolist() == torch.tensor([0.3, 1, 1, 2]).tolist()
        assert "weight" not in made.state_dict()


LOGITS, LABELS, SUBSETS = validation()


def changed(**changes: Tensor) -> dict[str, Tensor]:
    return {"logits": LOGITS, "labels": LABELS, "subsets": SUBSETS} | changes


def with_value(values: Tensor, value: float, row: int = 5) -> Tensor:
    values = values.clone()
    values[row] = value
    return values


BAD = [
    (changed(labels=with_value(LABELS, -100)), r"labels from 0 to 3.*from -100.*ignore_index=-100"),
    (changed(labels=with_value(LABELS, -1)), r"ignore_index=-1, which leaves these examples out"),
    (changed(labels=with_value(LABELS, 4)), r"labels from 0 to 3.*from 0 to 4"),
    (changed(labels=LABELS.double()), r"integer labels.*labels\.long\(\)"),
    (changed(labels=LABELS > 1), "integer labels"),
    (changed(labels=LABELS[:-1]), r"logits of shape \(2999, K\)"),
    (changed(subsets=with_value(SUBSETS, -1)), r"indices from 0 to 1, got indices from -1 to 1.*assign_subsets"),
    (changed(subsets=with_value(SUBSETS, 2)), "got indices from 0 to 2"),
    (changed(subsets=SUBSETS.double()), "integer subsets"),
    (changed(subsets=SUBSETS[:-1]), "integer subsets of shape"),
    (changed(logits=with_value(LOGITS, math.nan)), "finite logits, got NaN or infinite values for 1 of 3000"),
    (changed(logits=with_value(LOGITS, math.inf)), "finite logits"),
    (changed(logits=with_value(LOGITS, -math.inf)), r"got -inf for 1 of 3000 examples; try masking with"),
    (changed(logits=LOGITS[:, :3]), r"K = 4, got shape \(3000, 3\)"),
    (changed(logits=torch.cat([LOGITS, LOGITS], 1)), r"K = 4, got shape \(3000, 8\)"),
    (changed(logits=LOGITS.softmax(1)), r"got probabilities.*probs\.log\(\)"),
    (changed(logits=LOGITS.long()), "floating-point logits"),
    (changed(logits=LOGITS[..., None, None], labels=LABELS[:, None, None]), r"movedim\(1, -1\)\.flatten\(0, -2\)"),
]


class TestChecks:
    @pytest.mark.parametrize(("arguments", "message"), BAD)
    def test_a_refused_update_changes_nothing(self, arguments: dict[str, Tensor], message: str) -> None:
        made = criterion()
        update(made, *validation())
        before = copy.deepcopy(made.state_dict())
        with pytest.raises(InputError, match=message):
            made.update(**arguments)
        assert str(made.state_dict()) == str(before)
        assert made(*validation()).isfinite()

    @pytest.mark.parametrize(("arguments", "message"), BAD)
    def test_the_first_batch_is_checked(self, arguments: dict[str, Tensor], message: str) -> None:
        with pytest.raises(InputError, match=message):
            criterion()(**arguments)

    @pytest.mark.parametrize(("arguments", "message"), [each for each in BAD if each[0]["logits"] is LOGITS])
    def test_later_batches_cannot_take_a_wrong_target(self, arguments: dict[str, Tensor], message: str) -> None:
        made = criterion()
        made(*validation())
        with pytest.raises(InputError, match=message):
            made(**arguments)

    def test_later_batches_read_no_value(self) -> None:
        """A tensor without values raises an error when one is read, as a device would have to wait."""
        made = criterion()
        made(*validation())
        logits, labels, subsets = (each.to("meta") for each in validation())
        assert made.to("meta")(logits, labels, subsets).device.type == "meta"
        assert made.target_prob_for(labels, subsets).device.type == "meta"

    def test_no_target_belongs_to_subset_minus_1(self) -> None:
        made = criterion()
        with pytest.raises(InputError, match="from -1 to -1"):
            made.target_prob_for(torch.tensor([1]), torch.tensor([-1]))
        assert made.target_prob_for(torch.tensor([1]), torch.tensor([1], dtype=torch.uint8)).tolist() == [1]

    def test_ignored_examples_count_nowhere(self) -> None:
        logits, labels, subsets = validation()
        keep = torch.rand(NUM_EXAMPLES) < 0.7
        ignoring, plain = criterion(ignore_index=-100), criterion()
        given = (logits, labels.where(keep, -100), subsets.where(keep, -1))
        kept = (logits[keep], labels[keep], subsets[keep])
        for _ in range(2):
            assert update(ignoring, *given).equal(update(plain, *kept))
            torch.testing.assert_close(ignoring(*given), plain(*kept))
        with pytest.raises(InputError, match="at least one validation example"):
            ignoring.update(torch.full_like(labels, -100), logits, subsets)

    def test_weights_and_reduction_are_those_of_torch(self) -> None:
        logits, labels, subsets = validation()
        weight = torch.tensor([0.5, 1.0, 2.0, 0.0])
        smoothing = 0.2
        for reduction in ("mean", "sum", "none"):
            made = criterion(
                initial_target_prob=smoothing_to_target_prob(smoothing, NUM_CLASSES),
                weight=weight,
                reduction=reduction,
                ignore_index=1,
            )
            theirs = nn.CrossEntropyLoss(weight, ignore_index=1, reduction=reduction, label_smoothing=smoothing)
            torch.testing.assert_close(made(logits, labels, subsets), theirs(logits, labels), rtol=1e-5, atol=1e-5)


class TestBatches:
    def test_batches_give_the_update_of_all_examples(self) -> None:
        logits, labels, subsets = validation()
        whole, batched = criterion(), criterion()
        for _ in range(2):
            expected = whole.update(labels, logits, subsets)
            for rows in torch.arange(NUM_EXAMPLES).split(700):
                batched.observe(labels[rows], logits[rows], subsets[rows])
            assert batched.update().tolist() == pytest.approx(expected.tolist(), rel=1e-12)
        for name in ("confidence", "accuracy", "standard_error", "n"):
            assert batched.history[1][name] == pytest.approx(whole.history[1][name], rel=1e-12)

    def test_the_last_batch_may_come_with_the_update(self) -> None:
        logits, labels, subsets = validation()
        batched = criterion()
        batched.observe(labels[:1000], logits[:1000], subsets[:1000])
        found = batched.update(labels[1000:], logits[1000:], subsets[1000:])
        assert found.tolist() == pytest.approx(update(criterion(), logits, labels, subsets).tolist(), rel=1e-12)

    def test_batches_without_subsets(self) -> None:
        logits, labels, subsets = validation()
        made = criterion()
        made.observe(labels[:1000], logits[:1000])
        with pytest.raises(InputError, match="subsets for some"):
            made.observe(labels[1000:], logits[1000:], subsets[1000:])
        made.observe(labels[1000:], logits[1000:])
        with pytest.raises(InputError, match="calling update_as_one"):
            made.update()
        assert made.update_as_one().tolist() == pytest.approx(criterion().update_as_one(labels, logits).tolist())
        with pytest.raises(InputError, match="at least one validation example"):
            made.update()

    def test_a_refused_batch_is_not_counted(self) -> None:
        logits, labels, subsets = validation()
        made = criterion()
        made.observe(labels, logits, subsets)
        with pytest.raises(InputError, match="labels from 0 to"):
            made.observe(labels + 1, logits, subsets)
        assert made.update().equal(update(criterion(), logits, labels, subsets))

    def test_arrays_and_unsigned_labels(self) -> None:
        logits, labels, subsets = validation()
        expected = update(criterion(), logits, labels, subsets)
        found = criterion().update(labels.numpy().astype(np.uint8), logits.numpy(), subsets.numpy().astype(np.uint16))
        assert found.equal(expected)


class TestLoading:
    @pytest.mark.parametrize(
        "other",
        [
            AdaptiveSmoothing(5, 2, rule=UpdateRule(0.01, averaging=0.3)),
            AdaptiveSmoothing(4, 3, rule=UpdateRule(0.01, averaging=0.3)),
            AdaptiveSmoothing(4, 2, rule=UpdateRule(0.02, averaging=0.3)),
            AdaptiveSmoothing(4, 2, rule=None),
        ],
        ids=str,
    )
    def test_refuses_the_state_of_other_settings(self, other: AdaptiveSmoothing) -> None:
        made = criterion()
        update(made, *validation())
        before = other.target_prob.clone()
        with pytest.raises(InputError, match=r"the state of AdaptiveSmoothing\(num_classes="):
            other.load_state_dict(made.state_dict())
        with pytest.raises(InputError, match="the settings that it had"):
            nn.Sequential(other).load_state_dict(nn.Sequential(made).state_dict())
        assert other.target_prob.equal(before)
        assert other.history == []

    def test_the_state_contains_only_tensors(self, tmp_path: Path) -> None:
        """So safetensors can write a model that has the loss as a part."""
        made = criterion()
        for seed in range(2):
            update(made, *validation(seed))
        whole = nn.Sequential(nn.Linear(3, 4), made)
        assert all(isinstance(value, Tensor) for value in whole.state_dict().values())
        save_file(whole.state_dict(), tmp_path / "model.safetensors")
        other = nn.Sequential(nn.Linear(3, 4), resumed := criterion())
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        assert resumed.history == made.history
        assert len(resumed.history) == 2
        assert update(resumed, *validation(3)).equal(update(made, *validation(3)))

    @pytest.mark.parametrize("num_seen", [0, 300, NUM_EXAMPLES])
    def test_the_state_contains_what_was_observed(self, num_seen: int, tmp_path: Path) -> None:
        made, (logits, labels, subsets) = criterion(), validation()
        made.observe(labels[:num_seen], logits[:num_seen], subsets[:num_seen])
        save_file(made.state_dict(), tmp_path / "loss.safetensors")
        resumed = criterion().half()
        resumed.observe(labels, -logits, subsets)  # belongs to the state that is replaced
        resumed.load_state_dict(load_file(tmp_path / "loss.safetensors"))
        for each in (made, resumed):
            each.observe(labels[num_seen:], logits[num_seen:], subsets[num_seen:])
        assert resumed.update().equal(made.update())
        assert resumed.history == made.history
        assert resumed.target_prob.allclose(update(criterion(), logits, labels, subsets), atol=1e-12)

    @pytest.mark.parametrize("value", [math.nan, 0.1, 1.5])
    def test_refuses_targets_that_cannot_be(self, value: float) -> None:
        state = criterion().state_dict()
        state["target_prob"] = torch.tensor([1.0, value])
        with pytest.raises(InputError, match=r"target_prob from 0\.25 to 1"):
            criterion().load_state_dict(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdaptiveSmoothing(1, 2), "at least 2 classes"),
        (lambda: AdaptiveSmoothing(4, 0), "at least one subset"),
        (lambda: AdaptiveSmoothing(4, 2, initial_target_prob=math.nan), "from 1/4 to 1"),
        (lambda: smoothing_to_target_prob(1.5, 4), "smoothing from 0 to 1"),
        (lambda: smoothing_to_target_prob(math.nan, 4), "smoothing from 0 to 1"),
        (lambda: target_prob_to_smoothing(0.1, 4), r"target_prob from 0\.25 to 1"),
        (lambda: target_prob_to_smoothing(0.5, 1), "at least 2 classes"),
        (lambda: soft_targets(torch.tensor([-1]), torch.tensor([0.9]), 4), "labels from 0 to 3"),
        (lambda: soft_targets(torch.tensor([0]), torch.tensor([0.1]), 4), r"target_prob from 0\.25"),
        (lambda: soft_targets(torch.tensor([0, 1]), torch.tensor([0.9]), 4), r"integer labels of shape \(1,\)"),
        (lambda: default_update_rate(0), "at least one update"),
        (lambda: assign_subsets(torch.rand(4, 1), 2), r"scores of shape \(N,\)"),
        (lambda: assign_subsets(torch.rand(4), 2, torch.arange(3)), "integer ids"),
        (lambda: match_subsets(torch.rand(4), torch.tensor([0.1, math.nan])), "thresholds that do not fall"),
        (lambda: random_subsets(torch.tensor([1, 1, 2]), 2, seed=0), "distinct ids"),
        (lambda: random_subsets(torch.rand(3), 2, seed=0), "integer ids"),
        (lambda: fold_of(torch.tensor([], dtype=torch.int64), seed=0), "from 1 to 0 subsets"),
        (lambda: measure(torch.rand(3), torch.ones(2), torch.zeros(3).long(), 1), r"of one shape \(N,\)"),
        (lambda: measure(torch.rand(3) - 2, torch.ones(3), torch.zeros(3).long(), 1), "confidence from 0 to 1"),
        (lambda: measure(torch.rand(3), torch.ones(3), torch.tensor([0, 1, -1]), 2), "indices from 0 to 1"),
        (lambda: measure(torch.rand(0), torch.ones(0), torch.zeros(0).long(), 2), "with N >= 1"),
    ],
)
def test_public_functions_refuse_what_cannot_be_meant(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_measurement_of_another_number_of_subsets() -> None:
    measurement = measure(torch.rand(3), torch.ones(3), torch.zeros(3).long(), 1)
    with pytest.raises(InputError, match="a measurement of 2 subsets, got 1"):
        update_target_prob(TargetState.initial(2), measurement, UpdateRule(0.1), 4)


@pytest.mark.parametrize("num_classes", [3, 7, 10, 49, 1000])
def test_the_strongest_smoothing_is_accepted(num_classes: int) -> None:
    """1 - (K - 1)/K rounds to a number below 1/K for some K."""
    made = AdaptiveSmoothing(num_classes, initial_target_prob=smoothing_to_target_prob(1.0, num_classes))
    assert made(torch.randn(2, num_classes), torch.tensor([0, 1])).isfinite()
