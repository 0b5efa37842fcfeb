"""Text classifiers of transformers, in the space of their embeddings.

Words cannot be changed by a small amount, but their embeddings can. Two lines make a model and inputs for all of
`aradals`::

    model, inputs = embedded(classifier, tokenizer(texts, padding=True, return_tensors="pt"))
    results = aradals.diagnose(model, (inputs, labels))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aradals.checks import check_output
from aradals.errors import InputError
from aradals.inference.outputs import find_logits
from aradals.inference.predictions import evaluation_mode

_MARGIN = 1.0
_CHANNELS = ("attention_mask", "token_type_ids")
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

    def embed(self, encoded: Mapping[str, Tensor]) -> Tensor:
        """Make the inputs of texts that a tokenizer has encoded, on the CPU, shape (N, L, D + 2)."""
        ids, embedding = encoded["input_ids"], _embedding(self.model)
        scaled = (embedding(ids.to(embedding.weight.device)).float() - self.low) / (self.high - self.low)
        mask, types = (encoded.get(name, torch.full_like(ids, 1 - k)) for k, name in enumerate(_CHANNELS))
        channels = torch.stack([mask.float(), types / self.num_types], 2).to(scaled.device)
        return torch.cat([scaled, channels], 2).clamp(0, 1).cpu()


@torch.no_grad()
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
    device = _embedding(model).weight.device
    with evaluation_mode(model):
        for rows in torch.arange(len(inputs)).split(_BATCH):
            given = {name: values[rows].to(device) for name, values in encoded.items() if isinstance(values, Tensor)}
            expected = check_output(find_logits(model(**given), len(rows)), len(rows))
            found = check_output(find_logits(classifier(inputs[rows].to(device)), len(rows)), len(rows))
            if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
                raise InputError(
                    expected="a model that computes the same logits from embeddings as from token ids",
                    got=f"logits that differ by up to {float((found - expected).abs().max()):.3g}",
                    hint='padding_side="right" or "left" in the tokenizer, or texts of equal length',
                )
    return classifier, inputs


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
