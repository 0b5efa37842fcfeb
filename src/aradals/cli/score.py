"""Measure each example's robustness: the smallest perturbation that changes the model's prediction.

Writes a parquet table: id (row in the split), predicted, score (finite, larger = more robust), norm (verified, null
where none was found), success, num_forward, num_backward.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from aradals.cli.common import (
    Source,
    add_attack_arguments,
    add_data_arguments,
    add_model_arguments,
    load_classifier,
)

EXAMPLE = "aradals score --model resnet20 --checkpoint weights.pt --data cifar10 --split test --output scores.parquet"


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Model, data, attack, and the table to write."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_attack_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="FILE.parquet")
    return arguments


def run(
    model: str | None,
    checkpoint: Path | None,
    model_args: dict[str, Any],
    device: str,
    attack: str,
    attack_args: dict[str, Any],
    output: Path,
    **source: Any,
) -> None:
    """Score the examples."""
    from aradals.artifacts import load_scores
    from aradals.files import ensure_writable
    from aradals.scoring import check_attack, check_differentiable, score_examples

    check_attack(attack, attack_args)
    ensure_writable(output.parent)
    examples = Source(**source).load()
    classifier = load_classifier(model, checkpoint, model_args, examples, device)
    check_differentiable(classifier.model, examples.__getitems__([0])[1])
    score_examples(
        classifier.model,
        examples,
        output,
        attack=attack,
        attack_args=attack_args,
        model_digest=classifier.digest,
    )
    table, metadata = load_scores(output)
    print(
        f"{len(table)} examples scored by {table.attack} in {metadata['seconds']} s, {table.num_failed} without a "
        f"verified norm; median score {table.score.median():.4f}\nscores: {output}"
    )
