"""AR-AdaLS in the training of a text classifier by the Trainer of transformers: which library does a sentence document?

The texts are sentences from the docstrings of NumPy and scikit-learn, so that nothing has to be downloaded.
"""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import numpy as np
import torch
from sklearn import datasets, linear_model, metrics, model_selection, preprocessing
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from aradals import AdaptiveSmoothing, diagnose
from aradals.integrations.loops import WithIds
from aradals.integrations.transformers import AdaptiveSmoothingCallback, embedded

LIBRARIES = [
    [np, np.linalg, np.random, np.fft],
    [datasets, linear_model, metrics, model_selection, preprocessing],
]


def sentences(modules: list[ModuleType]) -> list[str]:
    """List the sentences in the docstrings of the functions and classes of some modules."""
    docs = {inspect.getdoc(each) or "" for module in modules for each in vars(module).values() if callable(each)}
    parts = {" ".join(part.split()) for doc in docs for part in re.split(r"\.\s|\n\n", doc)}
    return sorted(part.lower() for part in parts if re.fullmatch(r"[A-Z][\w ,'()-]{25,200}", part))


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer of the 800 most frequent words."""
    backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=800, special_tokens=["[PAD]", "[UNK]"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


if __name__ == "__main__":
    set_seed(0)
    labeled = [(text, label) for label, modules in enumerate(LIBRARIES) for text in sentences(modules)]
    labeled = [labeled[row] for row in torch.randperm(len(labeled)).tolist()]
    tokenizer = make_tokenizer([text for text, _ in labeled[:1000]])
    examples = [{**tokenizer(text, truncation=True, max_length=32), "labels": label} for text, label in labeled]
    train_set, validation_set, (texts, labels) = (
        examples[:1000],
        examples[1000:1500],
        zip(*labeled[1500:2000], strict=True),
    )
    print(len(examples), "sentences")

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=800, num_labels=2, max_position_embeddings=64, initializer_range=0.1, **sizes)
    adaptive = AdaptiveSmoothingCallback(AdaptiveSmoothing(2, num_subsets=3), train_set, validation_set, every=2)
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            num_train_epochs=8,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=100,
            learning_rate=3e-3,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=WithIds(train_set),
        eval_dataset=WithIds(validation_set),
        processing_class=tokenizer,
        compute_loss_func=adaptive.loss,
        callbacks=[adaptive],
    )
    trainer.train()
    print("target of each subset:", [round(p, 3) for p in adaptive.criterion.target_prob.tolist()])

    encoded = tokenizer(list(texts), truncation=True, max_length=32, padding=True, return_tensors="pt")
    model, inputs = embedded(trainer.model, encoded)
    results = diagnose(model, (inputs, torch.tensor(labels)), num_subsets=3, audit=0)
    print(results.table())
