"""Measure each example's robustness: the smallest perturbation that changes the model's prediction.

Writes a parquet table: id (row in the split), predicted, score (finite, larger = more robust), norm (verified, null
where none was; see --verified), success, num_forward, num_backward. A command that was killed goes on where it stopped
when it is given again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from aradals.cli.common import (
    Source,
    add_attack_arguments,
    add_audit_argument,
    add_data_arguments,
    add_model_arguments,
    load_classifier,
)
from aradals.cli.terminal import print_result

EXAMPLE = "aradals score --model resnet20 --checkpoint weights.pt --data cifar10 --split test --output scores.parquet"
RESUMES = True


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Model, data, attack, and the table to write."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_attack_arguments(parser)
    add_audit_argument(parser, default=0)
    parser.add_argument("--num_subsets", type=PositiveInt, default=10, help="R, the subsets that the audit compares")
    parser.add_argument("--seed", type=int, default=0, help="of the audited sample")
    parser.add_argument("--output", type=Path, required=True, help="FILE.parquet")
    return arguments


def run(
    model: str | None,
    checkpoint: Path | None,
    model_args: dict[str, Any],
    device: str,
    attack: str,
    attack_args: dict[str, Any],
    verified: bool,
    bf16: bool,
    audit: int,
    num_subsets: int,
    seed: int,
    output: Path,
    **source: Any,
) -> None:
    """Score the examples."""
    from aradals.artifacts import json_text, load_scores, save_scores
    from aradals.audit import audit_scores, describe_audit
    from aradals.errors import InputError
    from aradals.files import ensure_writable
    from aradals.scoring import check_attack, check_num_subsets, score_examples, scoring_record

    check_attack(attack, attack_args)
    if output.is_dir():
        raise InputError(expected="--output FILE.parquet", got=f"folder {output}", hint=str(output / "scores.parquet"))
    ensure_writable(output.parent)
    examples = Source(**source).load()
    if audit:
        check_num_subsets(num_subsets, min(audit, len(examples)), "--num-subsets", "the audit")
    classifier = load_classifier(model, checkpoint, model_args, examples, device)
    score_examples(
        classifier.model,
        examples,
        output,
        attack=attack,
        attack_args=attack_args,
        model_digest=classifier.digest,
        verified=verified,
        bf16=bf16,
    )
    table, metadata = load_scores(output)
    if audit:
        record = audit_scores(
            classifier.model, examples, table, num_examples=audit, num_subsets=num_subsets, seed=seed, progress=True
        )
        save_scores(output, table, {**metadata, "audit": json_text(record)})
        print_result(describe_audit(record))
    cost = scoring_record(output)
    seconds, rate = cost["seconds"], len(table) / max(cost["seconds"], 0.01)
    print_result(
        f"{len(table)} examples scored by {table.attack} in {seconds:.1f} s ({rate:.1f} images per second; on average "
        f"{cost['mean_forward']:.1f} forward and {cost['mean_backward']:.1f} backward passes); "
        f"{int(table.norm.isfinite().sum())} with a verified norm, {table.num_failed} with a fallback for a score; "
        f"median score {table.score.median():.4f}\nscores: {output}"
    )
