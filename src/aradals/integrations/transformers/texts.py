"""Text classifiers of transformers, in the space of their embeddings.

Words cannot be changed by a small amount, but their embeddings can. A distance is the L2 norm over the embeddings of
all words of a text; padding has no part in it. Two lines make a model and inputs for all of `aradals`::

    model, inputs = embedded(classifier, tokenizer(texts, padding=True, return_tensors="pt"))
    results = aradals.diagnose(model, (inputs, labels))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from aradals.checks import check_output
from aradals.errors import InputError
from aradals.inference.outputs import find_logits
from aradals.inference.predictions import evaluation_mode
from aradals.integrations.loops import ScoringBatches, take_ids

_MARGIN = 1.0
_BATCH = 32


class EmbeddedClassifier(nn.Module):
    """A text classifier as a model of inputs in [0, 1]: embeddings on a common scale, and their masks.

    The inputs have the shape (N, L, D + 2): the D numbers of each token's embedding, mapped from [low, high] to [0, 1];
    its attention mask; and its token type divided by the number of types. Neither the mask nor the type has a gradient,
    and tokens of padding have no influence, so that perturbations are those of the embeddings of words.

    Attributes:
        low: the embedding value at 0.
        high: the embedding value at 1. A distance of this package, times (high - low), is one between embeddings.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        weight = _embedding(model).weight.detach()
        spread = float(weight.max() - weight.min())
        # The box is wider than the embeddings, so that it does not stop a perturbation.
        self.low, self.high = float(weight.min()) - _MARGIN * spread, float(weight.max()) + _MARGIN * spread
        self.num_types = max(1, int(getattr(model.config, "type_vocab_size", 1) or 1))

    def forward(self, inputs: Tensor) -> Any:
        """Compute the output of the classifier for embedded texts, shape (N, L, D + 2)."""
        scaled, mask, types = inputs[..., :-2], inputs[..., -2].detach() > 0.5, inputs[..., -1].detach()
        embeddings = (self.low + (self.high - self.low) * scaled) * mask[..., None]
        given = {"inputs_embeds": embeddings, "attention_mask": mask.long()}
        if self.num_types > 1:
            given["token_type_ids"] = (types * self.num_types).round().long().clamp(max=self.num_types - 1)
        return self.model(**given)

    @torch.no_grad()
    def embed(self, encoded: Mapping[str, Tensor], length: int | None = None) -> Tensor:
        """Make the inputs of texts that a tokenizer has encoded, on the CPU, shape (N, L, D + 2).

        Args:
            encoded: see `embedded`.
            length: number L of tokens; texts with fewer are padded. None for that of the texts.
        """
        ids, embedding = encoded["input_ids"], _embedding(self.model)
        scaled = (embedding(ids.to(embedding.weight.device)).float() - self.low) / (self.high - self.low)
        types = encoded.get("token_type_ids", torch.zeros_like(ids))
        channels = torch.stack([_mask_of(encoded).float(), types / self.num_types], 2).to(scaled.device)
        inputs = torch.cat([scaled, channels], 2).clamp(0, 1).cpu()
        return inputs if length is None else pad(inputs, (0, 0, 0, length - ids.shape[1]))

    @torch.no_grad()
    def check(self, encoded: Mapping[str, Tensor], inputs: Tensor) -> None:
        """Check that the logits of embedded texts are those of the texts.

        Raises:
            InputError: they are not.
        """
        device, num_texts = _embedding(self.model).weight.device, len(inputs)
        given = {name: values.to(device) for name, values in encoded.items() if isinstance(values, Tensor)}
        with evaluation_mode(self.model):
            expected = check_output(find_logits(self.model(**given), num_texts), num_texts)
            found = check_output(find_logits(self(inputs.to(device)), num_texts), num_texts)
        if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            raise InputError(
                expected="a model that computes the same logits from embeddings as from token ids",
                got=f"logits that differ by up to {float((found - expected).abs().max()):.3g}",
                hint='padding_side="right" or "left" in the tokenizer, or texts of equal length',
            )


def embedded(model: nn.Module, encoded: Mapping[str, Tensor]) -> tuple[EmbeddedClassifier, Tensor]:
    """Turn a text classifier and encoded texts into a model of inputs in [0, 1] and its inputs.

    The inputs need 4 (D + 2) bytes for each token, padding included: 0.4 GB for 1,000 texts of 128 tokens and D = 768.

    Args:
        model: a sequence classifier of transformers, which takes ``inputs_embeds``.
        encoded: the result of a tokenizer with ``padding=True, return_tensors="pt"``: input_ids, attention_mask and
            possibly token_type_ids, each of shape (N, L).

    Returns:
        The model, and its inputs of shape (N, L, D + 2).

    Raises:
        InputError: the model computes other logits from embeddings than from the token ids, as models do that look for
            padding in the ids.
    """
    classifier = EmbeddedClassifier(model)
    inputs = classifier.embed(encoded)
    for rows in torch.arange(len(inputs)).split(_BATCH):
        part = {name: values[rows] for name, values in encoded.items() if isinstance(values, Tensor)}
        classifier.check(part, inputs[rows])
    return classifier, inputs


def embedded_texts(model: nn.Module, batches: Iterable[Any]) -> tuple[nn.Module, ScoringBatches]:
    """Prepare a text classifier and batches of encoded texts for `score`, see `aradals.integrations.loops.Prepare`."""
    # The token ids of a data set are small, and its longest text says how long all inputs are.
    taken = [take_ids(batch) for batch in batches]
    classifier, length = EmbeddedClassifier(model), max(encoded["input_ids"].shape[1] for _, encoded in taken)
    _, most_padded = max(taken, key=lambda each: int((_mask_of(each[1]) == 0).sum()))
    classifier.check(most_padded, classifier.embed(most_padded, length))

    def scoring_batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for ids, encoded in taken:
            yield ids, classifier.embed(encoded, length), ids

    return classifier, scoring_batches()


def _mask_of(encoded: Mapping[str, Tensor]) -> Tensor:
    return encoded.get("attention_mask", torch.ones_like(encoded["input_ids"]))


def _embedding(model: nn.Module) -> nn.Embedding:
    get: Any = getattr(model, "get_input_embeddings", None)
    layer = get() if get is not None else None
    if not isinstance(layer, nn.Embedding):
        raise InputError(
            expected="a text classifier of transformers with an embedding of tokens",
            got=type(model).__name__,
            hint="AutoModelForSequenceClassification.from_pretrained(...)",
        )
    return layer
