"""Text classifiers of transformers, scored in the space of their embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aradals
from aradals import InputError
from aradals.attacks import get_attack
from aradals.inference.outputs import LogitModel
from aradals.robustness.starts import with_starts

transformers = pytest.importorskip("transformers")

from aradals.integrations.transformers import embedded  # noqa: E402
from aradals.integrations.transformers.texts import embedded_texts  # noqa: E402

SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}


def classifier(name: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, "hidden_size": 8, "num_labels": 3, **settings})
    model: nn.Module = getattr(transformers, f"{name}ForSequenceClassification")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that predictions differ
    return model


def texts(num: int = 24, length: int = 7, padding: int = 0) -> dict[str, Tensor]:
    """Token ids of texts of 3 to ``length`` words, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 30, (num, length), generator=generator)
    mask = (torch.arange(length) < torch.randint(3, length + 1, (num, 1), generator=generator)).long()
    return {"input_ids": torch.where(mask.bool(), ids, padding), "attention_mask": mask}


@pytest.mark.parametrize("name", ["Bert", "Roberta"])
def test_the_same_logits_as_from_the_ids(name: str) -> None:
    padding = 0 if name == "Bert" else 1
    encoded, original = texts(padding=padding), classifier(name, pad_token_id=padding)
    original.eval()
    model, inputs = embedded(original, encoded)
    expected = original(**encoded).logits.detach()
    assert inputs.shape == (24, 7, 10)
    assert inputs.min() >= 0
    assert inputs.max() <= 1
    labels = torch.arange(24) % 3
    found = aradals.predict(model, [(labels, inputs, labels)])
    assert found.logits.allclose(expected, atol=1e-3 * float(expected.abs().max()))


def test_scores_are_distances_between_embeddings_of_words() -> None:
    encoded, original = texts(), classifier("Bert")
    model, inputs = embedded(original, encoded)
    table = aradals.score(model, inputs, "ddn", verified=True)
    assert table.norm.isfinite().sum() >= 12
    attacked = aradals.attacks.ddn(model, inputs)
    changed = (attacked.adv_inputs - inputs).abs()
    padding = encoded["attention_mask"] == 0
    assert changed[..., -2:].max() == 0  # the mask and the type stay
    assert changed[padding].max() == 0
    assert changed[~padding].max() > 0
    results = aradals.diagnose(model, (inputs, torch.arange(24) % 3), num_subsets=2, audit=0, log=lambda line: None)
    assert results.rows[0].n == 24


@pytest.mark.parametrize(
    ("attack", "settings"), [("secant", {"num_starts": 3}), ("first_order_margin", {}), ("ddn", {})]
)
@pytest.mark.parametrize("name", ["Bert", "Roberta"])
def test_more_padding_changes_no_score(name: str, attack: str, settings: dict[str, Any]) -> None:
    padding = 0 if name == "Bert" else 1
    short, model = texts(padding=padding), classifier(name, pad_token_id=padding)
    long = {key: nn.functional.pad(each, (0, 5), value=padding * (key == "input_ids")) for key, each in short.items()}
    first, second = (aradals.score(*embedded(model, encoded), attack, **settings) for encoded in (short, long))
    assert len(first.score.unique()) > 12
    assert second.score.allclose(first.score, rtol=2e-3)


def test_all_batches_of_a_training_are_padded_to_the_longest_text() -> None:
    encoded, model = texts(24), classifier("Bert")
    ids = torch.arange(24)
    parts = [
        {name: each[rows, : 4 + k] for name, each in encoded.items()} | {"ids": rows}
        for k, rows in enumerate(ids.split(6))
    ]
    prepared, batches = embedded_texts(model, parts)
    found = list(batches)
    assert torch.equal(torch.cat([each for each, _, _ in found]), ids)
    inputs = torch.cat([each for _, each, _ in found])
    assert inputs.shape == (24, 7, 10)
    logits = torch.cat([model.eval()(**{n: v for n, v in part.items() if n != "ids"}).logits for part in parts])
    assert prepared(inputs).logits.allclose(logits, rtol=1e-3, atol=1e-3)


def test_starts_change_neither_masks_nor_padding() -> None:
    encoded = texts(60)
    model, inputs = embedded(classifier("Bert"), encoded)
    readable = LogitModel(model)
    attack = with_starts(get_attack("secant", num_starts=3), readable, inputs[:40], 40)
    changed = (attack(readable, inputs).adv_inputs - inputs).abs()
    assert changed[..., -2:].max() == 0
    assert changed[encoded["attention_mask"] == 0].max() == 0
    assert changed.flatten(1).amax(1).gt(0).sum() > 30


def test_token_types_are_kept() -> None:
    encoded = texts()
    encoded["token_type_ids"] = (torch.arange(7) > 2).long().expand(24, 7) * encoded["attention_mask"]
    original = classifier("Bert").eval()
    model, inputs = embedded(original, encoded)
    assert model(inputs).logits.allclose(original(**encoded).logits, rtol=1e-3, atol=1e-3)


def test_a_model_that_needs_the_ids_to_find_the_padding_is_refused() -> None:
    original = classifier("GPT2", n_embd=8, n_layer=1, n_head=2, pad_token_id=0)
    with pytest.raises(InputError, match="the same logits from embeddings as from token ids"):
        embedded(original, texts())


def test_other_models_are_refused() -> None:
    with pytest.raises(InputError, match="got Linear"):
        embedded(nn.Linear(3, 3), texts())
