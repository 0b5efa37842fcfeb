"""What an evaluation under shift costs beside the bare forward passes: corruption, metrics and their intervals.

    python benchmarks/evaluation.py --checkpoint weights.safetensors --data cifar10-test.parquet

Seconds of the processor, on one thread, so that a busy machine does little harm. Bare passes are those of the model as
it is, on clean images in memory, before and after; the evaluation corrupts images by all 19 corruptions on the fly,
predicts with a copy that has batch norm folded in, writes the predictions, and computes every row with its intervals.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from aradals.data import CORRUPTIONS, load_data
from aradals.pipeline.classifier import load_classifier
from aradals.pipeline.evaluate import evaluate_conditions
from aradals.pipeline.predict import predict_conditions, prediction_paths, stored_predictions
from aradals.pipeline.shifts import choose_conditions


def processor_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=1000, help="images")
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 5])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    examples = load_data(arguments.data, limit=arguments.limit)
    classifier = load_classifier(arguments.model, arguments.checkpoint, examples, device="cpu")
    wanted = choose_conditions(list(CORRUPTIONS), arguments.severities)
    images = examples.batch(range(len(examples)))[1]

    @torch.no_grad()
    def bare() -> None:
        for _ in range(len(wanted) // 2):
            for batch in images.split(256):
                classifier.model(batch)

    with tempfile.TemporaryDirectory() as folder:
        paths = prediction_paths(Path(folder), wanted)
        before = processor_seconds(bare)
        predicting = processor_seconds(lambda: predict_conditions(classifier, examples, paths))
        metrics = processor_seconds(
            lambda: evaluate_conditions(stored_predictions(paths), None, {}, method=arguments.model, seed=0)
        )
        after = processor_seconds(bare)
    forward = (before + after) * len(wanted) / (2 * (len(wanted) // 2))
    print(f"{len(wanted)} conditions x {len(examples)} images, torch {torch.__version__}, one thread")
    print(f"bare forward passes       {forward:7.1f} s  (before {before:.1f}, after {after:.1f}, half of them each)")
    print(f"corrupt, predict, write   {predicting:7.1f} s  {predicting / forward:.2f}")
    print(f"metrics and intervals     {metrics:7.1f} s  {metrics / forward:.2f}")
    print(f"evaluation / bare passes           {(predicting + metrics) / forward:.2f}")


if __name__ == "__main__":
    main()
