"""AR-AdaLS in the training of an image classifier by the Trainer of transformers, and a diagnosis of the result."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    default_data_collator,
    set_seed,
)

from aradals import AdaptiveSmoothing, diagnose
from aradals.integrations.loops import WithIds
from aradals.integrations.transformers import AdaptiveSmoothingCallback, unnormalized

if __name__ == "__main__":
    set_seed(0)
    digits = load_digits()
    processor = ViTImageProcessorPil(do_resize=False)
    images = [
        np.repeat((image * 15.9375).astype(np.uint8)[..., None], 3, 2) for image in digits.images
    ]  # RGB, 8x8 pixels
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    examples = [{"pixel_values": each, "labels": int(label)} for each, label in zip(pixels, digits.target, strict=True)]
    train_set, validation_set, test_set = examples[:1000], examples[1000:1400], examples[1400:]

    sizes = {"image_size": 8, "patch_size": 2, "hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.2}
    config = ViTConfig(**sizes, num_hidden_layers=1, num_attention_heads=4, num_labels=10)
    adaptive = AdaptiveSmoothingCallback(AdaptiveSmoothing(10, num_subsets=5), train_set, validation_set, every=2)
    trainer = Trainer(
        model=ViTForImageClassification(config),
        args=TrainingArguments(
            num_train_epochs=10,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=200,
            learning_rate=3e-3,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=WithIds(train_set),
        eval_dataset=WithIds(validation_set),
        processing_class=processor,
        compute_loss_func=adaptive.loss,
        callbacks=[adaptive],
    )
    trainer.train()
    print("target of each subset:", [round(p, 3) for p in adaptive.criterion.target_prob.tolist()])

    encoded = default_data_collator(test_set)
    model, inputs = unnormalized(trainer.model, encoded, processor)
    results = diagnose(model, (inputs, encoded["labels"]), num_subsets=5, audit=0)
    print(results.table())
