"""AR-AdaLS in the Trainer of transformers, with a model and a script that know nothing about it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aradals import AdaptiveSmoothing, InputError, ScoreTable, UpdateRule, assign_subsets, score
from aradals.integrations.loops import WithIds
from processes import in_two_processes

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from aradals.integrations.transformers import (  # noqa: E402
    AdaptiveSmoothingCallback,
    embedded,
    keep_ids,
    unnormalized,
)

Examples = list[dict[str, Any]]


class Linear(transformers.PreTrainedModel):  # type: ignore[misc,name-defined]
    """A user's model of images; its own loss is never used."""

    config_class = transformers.ViTConfig
    main_input_name = "pixel_values"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.layer = nn.Linear(12, 3)
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Mapping[str, Tensor]:
        return {"logits": self.layer(pixel_values.flatten(1))}


def linear(scale: float = 1.0, seed: int = 0) -> nn.Module:
    model = Linear(transformers.ViTConfig())
    with torch.no_grad():
        model.layer.weight.copy_(scale * torch.randn(3, 12, generator=torch.Generator().manual_seed(seed)))
    return model


def images(num: int, seed: int) -> Examples:
    """Images of 2x2 pixels in [0, 1], with noisy labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(num, 3, 2, 2, generator=generator)
    labels = (pixels.mean((2, 3)) + 0.2 * torch.rand(num, 3, generator=generator)).argmax(1)
    return [{"pixel_values": each, "labels": int(label)} for each, label in zip(pixels, labels, strict=True)]


def stacked(examples: Examples) -> tuple[Tensor, Tensor]:
    return torch.stack([each["pixel_values"] for each in examples]), torch.tensor([each["labels"] for each in examples])


TRAIN, VALIDATION = images(90, 0), images(61, 1)


def plain_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return nn.functional.cross_entropy(outputs["logits"], labels)


def criterion() -> AdaptiveSmoothing:
    return AdaptiveSmoothing(3, num_subsets=3, rule=UpdateRule(rate=0.2), initial_target_prob=0.8)


def fit(
    tmp_path: Path,
    model: nn.Module | None = None,
    scoring_model: nn.Module | None = None,
    splits: tuple[Any, Any] = (TRAIN, VALIDATION),
    given: tuple[Any, Any] | None = None,
    resume: bool = False,
    lr: float = 0.5,
    trainer_settings: dict[str, Any] | None = None,
    callback_settings: dict[str, Any] | None = None,
    **arguments: Any,
) -> tuple[nn.Module, AdaptiveSmoothingCallback, Any]:
    """Train with all examples in each step, but in micro-batches of 60 and 30."""
    model = model or linear()
    adaptive = AdaptiveSmoothingCallback(
        criterion(), *splits, scoring_model, **{"every": 1, **(callback_settings or {})}
    )
    usual = {
        "output_dir": str(tmp_path),
        "num_train_epochs": 4,
        "per_device_train_batch_size": 60,
        "per_device_eval_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.0,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    train, validation = given or tuple(map(WithIds, splits))
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(**{**usual, **arguments}),
        train_dataset=train,
        eval_dataset=validation,
        callbacks=[adaptive],
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)),
        **{"compute_loss_func": adaptive.loss, **(trainer_settings or {})},
    )
    trainer.train(resume_from_checkpoint=resume)
    return model, adaptive, trainer


def subsets_by(model: nn.Module) -> list[Tensor]:
    splits = (stacked(split)[0] for split in (TRAIN, VALIDATION))
    return [assign_subsets(score(model, inputs, "first_order_margin").ranking, 3) for inputs in splits]


def by_hand(scoring_model: nn.Module | None, epochs: int = 4) -> tuple[nn.Module, AdaptiveSmoothing]:
    """The same training as a loop of the public pieces; None = the model in training scores itself each epoch."""
    model, loss = linear(), criterion()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    (inputs, labels), (held_out, held_out_labels) = stacked(TRAIN), stacked(VALIDATION)
    subsets = None if scoring_model is None else subsets_by(scoring_model)
    for epoch in range(epochs):
        if scoring_model is None and epoch > 0:
            subsets = subsets_by(model)
        optimizer.zero_grad()
        loss(model(inputs), labels, None if subsets is None else subsets[0]).backward()
        optimizer.step()
        logits = model(held_out)["logits"].detach()
        if subsets is None:
            loss.update_as_one(held_out_labels, logits)
        else:
            loss.update(held_out_labels, logits, subsets[1])
    return model, loss


def same(found: nn.Module, expected: nn.Module) -> None:
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("scores_itself", [False, True])
def test_the_training_is_the_one_of_a_loop_by_hand(tmp_path: Path, scores_itself: bool) -> None:
    scoring_model = None if scores_itself else linear(seed=5)
    model, adaptive, trainer = fit(tmp_path, scoring_model=scoring_model, eval_on_start=scores_itself)
    expected_model, expected = by_hand(scoring_model)
    same(model, expected_model)
    same(adaptive.criterion, expected)
    assert adaptive.criterion.target_prob.unique().numel() == 3
    logged = [entry for entry in trainer.state.log_history if "target_prob/2" in entry]
    assert [entry["target_prob/2"] for entry in logged][:-1] == [
        step["target_prob"][2] for step in adaptive.criterion.history[1:]
    ]
    assert logged[-1]["target_prob/2"] == float(adaptive.criterion.target_prob[2])
    assert [entry["epoch"] for entry in logged] == [1, 2, 3, 4]


def test_the_loss_is_the_cross_entropy_to_the_targets_of_the_subsets(tmp_path: Path) -> None:
    model, adaptive, _ = fit(tmp_path, scoring_model=linear(seed=5))
    inputs, labels = stacked(TRAIN)
    ids = torch.tensor([7, 3, 80, 41])
    p = adaptive.criterion.target_prob[subsets_by(linear(seed=5))[0][ids]].float()
    targets = ((1 - p) / 2)[:, None].repeat(1, 3).scatter(1, labels[ids][:, None], p[:, None])
    logits = model(inputs[ids])["logits"]
    losses = -(targets * logits.log_softmax(1)).sum(1)
    for num_items, expected in ((None, losses.mean()), (10, losses.sum() / 10)):
        outputs = model.train()(pixel_values=inputs[ids], ids=ids)
        assert adaptive.loss(outputs, labels[ids], num_items).allclose(expected, atol=1e-6)
    outputs = model.eval()(pixel_values=inputs[ids], ids=ids)
    assert adaptive.loss(outputs, labels[ids]).allclose(nn.functional.cross_entropy(logits, labels[ids]), atol=1e-6)


def test_only_the_validation_split_in_a_training_updates(tmp_path: Path) -> None:
    other = images(40, 6)
    evaluated = {"held_out": WithIds(VALIDATION), "other": other}
    model, adaptive, trainer = fit(tmp_path, scoring_model=linear(seed=5), given=(WithIds(TRAIN), evaluated))
    same(adaptive.criterion, by_hand(linear(seed=5))[1])
    before = copy.deepcopy(adaptive.criterion.state_dict())
    metrics = trainer.evaluate()
    inputs, labels = stacked(other)
    expected = nn.functional.cross_entropy(model(inputs)["logits"], labels)
    assert metrics["eval_other_loss"] == pytest.approx(expected.item(), abs=1e-5)
    trainer.predict(WithIds(VALIDATION))
    torch.testing.assert_close(adaptive.criterion.state_dict(), before, rtol=0, atol=0, equal_nan=True)


def test_a_training_resumes_exactly(tmp_path: Path) -> None:
    whole, expected, _ = fit(tmp_path / "whole", callback_settings={"every": 2})
    fit(tmp_path / "parts", callback_settings={"every": 2}, num_train_epochs=3, save_strategy="epoch")
    found, adaptive, trainer = fit(
        tmp_path / "parts", linear(seed=9), callback_settings={"every": 2}, resume=True, save_strategy="epoch"
    )
    same(found, whole)
    same(adaptive.criterion, expected.criterion)
    assert expected.loop.train is not None
    assert adaptive.loop.train is not None
    assert torch.equal(adaptive.loop.train, expected.loop.train)
    (tmp_path / "parts" / "checkpoint-4" / "adaptive_smoothing.safetensors").unlink()
    with pytest.raises(InputError, match="in the checkpoint of step 4"):
        trainer.train(resume_from_checkpoint=True)


def test_a_training_resumes_exactly_within_an_epoch(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"gradient_accumulation_steps": 1, "num_train_epochs": 2}
    whole, expected, _ = fit(tmp_path, **settings, save_strategy="steps", save_steps=3)
    assert (tmp_path / "checkpoint-3").is_dir()
    (tmp_path / "checkpoint-4").rename(tmp_path / "other")
    found, adaptive, _ = fit(tmp_path, linear(seed=9), resume=True, **settings)
    same(found, whole)
    same(adaptive.criterion, expected.criterion)


def test_a_training_that_does_not_resume_starts_anew(tmp_path: Path) -> None:
    _, adaptive, trainer = fit(tmp_path, scoring_model=linear(seed=5))
    trainer.train()
    assert len(adaptive.criterion.history) == 4
    assert adaptive.criterion.history[0]["target_prob"] == pytest.approx([0.8] * 3)


@pytest.mark.parametrize("precision", [{"bf16": True}, {"torch_compile_backend": "eager"}])
def test_half_precision_and_compiled_models(tmp_path: Path, precision: dict[str, Any]) -> None:
    _, adaptive, _ = fit(tmp_path, scoring_model=linear(seed=5), **precision)
    expected = by_hand(linear(seed=5))[1]
    assert adaptive.criterion.target_prob.dtype == torch.float64
    assert adaptive.criterion.target_prob.allclose(expected.target_prob, atol=2e-2)
    assert len(adaptive.criterion.history) == 4


def test_updates_within_an_epoch(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "gradient_accumulation_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "num_train_epochs": 2,
    }
    _, adaptive, _ = fit(tmp_path, **settings)
    assert len(adaptive.criterion.history) == 4
    assert all(sum(step["n"]) == 61 for step in adaptive.criterion.history[2:])  # the subsets are known from epoch 1


def as_users_do(examples: Examples) -> dict[str, Tensor]:
    inputs, labels = stacked(examples)
    return {"pixel_values": inputs, "labels": labels}


def test_a_collator_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keep_ids"):
        fit(tmp_path, trainer_settings={"data_collator": as_users_do})
    _, adaptive, _ = fit(
        tmp_path, scoring_model=linear(seed=5), trainer_settings={"data_collator": keep_ids(as_users_do)}
    )
    same(adaptive.criterion, by_hand(linear(seed=5))[1])


def test_columns_that_the_model_does_not_need_are_removed_as_ever(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    train, validation = (
        datasets.Dataset.from_list([{**each, "file": f"{n}.png"} for n, each in enumerate(split)]).with_format("torch")
        for split in (TRAIN, VALIDATION)
    )
    _, adaptive, _ = fit(tmp_path, scoring_model=linear(seed=5), splits=(train, validation))
    same(adaptive.criterion, by_hand(linear(seed=5))[1])


def test_images_that_the_processor_of_the_trainer_has_normalized(tmp_path: Path) -> None:
    processor = transformers.ViTImageProcessorPil(
        do_resize=False, image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.5, 0.2]
    )
    mean, std = (torch.tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std))
    splits = tuple(
        [{**each, "pixel_values": (each["pixel_values"] - mean) / std} for each in split]
        for split in (TRAIN, VALIDATION)
    )
    given: dict[str, Any] = {"scoring_model": linear(seed=5), "splits": splits, "num_train_epochs": 1}
    _, adaptive, _ = fit(tmp_path, **given, trainer_settings={"processing_class": processor})
    model, inputs = unnormalized(linear(seed=5), {"pixel_values": stacked(splits[0])[0]}, processor)
    assert inputs.allclose(stacked(TRAIN)[0], atol=1e-6)
    expected = assign_subsets(score(model, inputs, "first_order_margin").ranking, 3)
    assert adaptive.loop.train is not None
    assert torch.equal(adaptive.loop.train, expected)
    _, other, _ = fit(tmp_path, **given, callback_settings={"bounds": (-5.0, 7.0)})
    assert other.loop.train is not None
    assert not torch.equal(expected, other.loop.train)  # distances on the scale of the normalized images
    with pytest.raises(InputError, match=r"bounds=\(low, high\)"):
        fit(tmp_path, **given)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='eval_strategy="no"'):
        fit(tmp_path, eval_strategy="no")
    with pytest.raises(InputError, match=r"train_dataset=WithIds\(train_set\)"):
        fit(tmp_path, given=(TRAIN, WithIds(VALIDATION)))
    with pytest.raises(InputError, match="got WithIds of 40 examples"):
        fit(tmp_path, given=(WithIds(images(40, 0)), WithIds(VALIDATION)))
    with pytest.raises(InputError, match=r"eval_dataset=WithIds\(validation_set\)"):
        fit(tmp_path, given=(WithIds(TRAIN), VALIDATION))
    with pytest.raises(InputError, match=r"no call of it; try .*compute_loss_func=adaptive\.loss"):
        fit(tmp_path, trainer_settings={"compute_loss_func": plain_loss})
    with pytest.raises(InputError, match="another data set with ids"):
        fit(tmp_path, given=(WithIds(TRAIN), WithIds(images(61, 1))))
    more = [{**each, "mask": torch.ones(2)} for each in TRAIN]
    with pytest.raises(InputError, match="one input"):
        fit(tmp_path, scoring_model=linear(), splits=(more, VALIDATION), remove_unused_columns=False)
    with pytest.raises(InputError, match='reduction="mean"'):
        AdaptiveSmoothingCallback(AdaptiveSmoothing(3, reduction="sum"), TRAIN, VALIDATION)
    with pytest.warns(UserWarning, match="no target changed"):
        fit(tmp_path, eval_delay=10)


def in_ranks(folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    _, adaptive, _ = fit(folder, per_device_train_batch_size=15, gradient_accumulation_steps=1, num_train_epochs=3)
    assert adaptive.loop.train is not None
    return adaptive.criterion.state_dict(), adaptive.loop.train


@pytest.mark.slow  # its two processes import transformers
def test_two_processes_have_the_same_targets(tmp_path: Path) -> None:
    (first, subsets), (second, others) = in_two_processes(in_ranks, tmp_path)
    torch.testing.assert_close(second, first, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(subsets, others)
    assert subsets.bincount().tolist() == [30, 30, 30]
    assert first["steps"][-1][-1].sum() == 61  # the sampler repeats an example, which counts once


SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30, "hidden_size": 8}


def text_classifier() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, num_labels=3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that predictions differ
    return model


def tokenizer() -> Any:
    words = {f"w{n}": n for n in range(30)}
    backend = pytest.importorskip("tokenizers").Tokenizer(
        pytest.importorskip("tokenizers.models").WordLevel(words, "w1")
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0", padding_side="right")


def sentences(num: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (num,), generator=generator)
    ids = [torch.randint(3, 30, (int(length),), generator=generator).tolist() for length in lengths]
    return [
        {"input_ids": each, "attention_mask": [1] * len(each), "token_type_ids": [0] * len(each), "labels": each[0] % 3}
        for each in ids
    ]


@pytest.mark.parametrize("precision", [{}, {"bf16": True}])
def test_texts_of_any_length_are_scored_in_full_precision(
    tmp_path: Path, precision: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables: list[ScoreTable] = []

    def recorded(*args: Any) -> ScoreTable:
        tables.append(score(*args))
        return tables[-1]

    monkeypatch.setattr("aradals.integrations.loops.score", recorded)
    splits, tokenize = (sentences(60, 0), sentences(40, 1)), tokenizer()
    _, adaptive, _ = fit(
        tmp_path,
        text_classifier(),
        splits=splits,
        lr=0.0,
        trainer_settings={"processing_class": tokenize},
        callback_settings={"batch_size": 16},
        num_train_epochs=2,
        **precision,
    )
    found = (adaptive.loop.train, adaptive.loop.validation)
    for split, table, subsets in zip(splits, tables, found, strict=True):
        encoded = tokenize.pad(
            [{name: each[name] for name in ("input_ids", "attention_mask")} for each in split], return_tensors="pt"
        )
        scores = score(*embedded(text_classifier(), encoded), "first_order_margin")
        assert table.score.allclose(scores.score, rtol=1e-4)
        assert subsets is not None
        assert torch.equal(subsets, assign_subsets(table.ranking, 3))
    assert len(adaptive.criterion.history) == 2
    assert adaptive.criterion.target_prob.unique().numel() > 1


def test_a_model_that_the_trainer_makes_itself(tmp_path: Path) -> None:
    adaptive = AdaptiveSmoothingCallback(criterion(), TRAIN, VALIDATION, every=1)
    for removes in (False, True):
        arguments: dict[str, Any] = {"output_dir": str(tmp_path), "eval_strategy": "epoch", "save_strategy": "no"}
        trainer = transformers.Trainer(
            model_init=lambda: linear(),
            args=transformers.TrainingArguments(
                **arguments, num_train_epochs=2, report_to="none", use_cpu=True, remove_unused_columns=removes
            ),
            train_dataset=WithIds(TRAIN),
            eval_dataset=WithIds(VALIDATION),
            compute_loss_func=adaptive.loss,
            callbacks=[adaptive],
        )
        if removes:
            with pytest.raises(InputError, match="remove_unused_columns=False"):
                trainer.train()
        else:
            trainer.train()
            assert adaptive.criterion.target_prob.unique().numel() == 3
