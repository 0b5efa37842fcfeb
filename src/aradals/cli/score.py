"""Measure each example's robustness: the smallest perturbation that changes the model's prediction.

Writes a parquet table: id (row in the split), predicted, score (finite, larger = more robust), norm (verified, null
where none was; see --verified), success, num_forward, num_backward. A command that was killed goes on where it stopped
when it is given again, and one that is done is not done again.
"""

from __future__ import annotations

import json
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
    add_overwrite_argument,
    load_classifier,
)
from aradals.cli.terminal import print_log, print_result

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
    add_overwrite_argument(parser)
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
    overwrite: bool,
    **source: Any,
) -> None:
    """Score the examples."""
    from aradals.attacks import describe_attack
    from aradals.pipeline.artifacts import json_text, load_scores, save_scores, settings_digest
    from aradals.pipeline.outputs import output_file, refuse_other_request
    from aradals.pipeline.score import audit_stage, check_attack, check_num_subsets, score_stage, scoring_seconds
    from aradals.pipeline.stage import remove_stages, same_outputs
    from aradals.robustness.audit import describe_audit
    from aradals.robustness.scores import choose_attack

    check_attack(attack, attack_args)
    read = Source(**source)
    with output_file(output, ".parquet", "scores", inputs=read.paths(checkpoint, model), overwrite=overwrite):
        examples = read.load()
        if audit:
            check_num_subsets(num_subsets, min(audit, len(examples)), "--num-subsets", "the audit")
        classifier = load_classifier(model, checkpoint, model_args, examples, device)
        bound = describe_attack(choose_attack(attack, attack_args, verified=verified))
        request = settings_digest([classifier.digest, examples.fingerprint, bound, bf16])
        work = output.with_name(f".{output.name}.work")
        seconds = None
        done = refuse_other_request(output, request, overwrite=overwrite)
        before = _probe_of(output) if done else None
        if same_outputs(before, classifier.probe):
            print_log(f"scores: {output} is of this model, data and attack already")
        else:
            made = score_stage(
                classifier.model,
                examples,
                work / "scores",
                attack=attack,
                attack_args=attack_args,
                model_digest=classifier.digest,
                verified=verified,
                bf16=bf16,
                probe=classifier.probe,
                log=lambda line: print_log(f"scores: {line}"),
            )
            seconds = scoring_seconds(made)
            table, metadata = load_scores(made)
            save_scores(output, table, {**metadata, "request": request, "probe": json_text(classifier.probe.tolist())})
        table, metadata = load_scores(output)
        if audit:
            record = audit_stage(
                classifier.model,
                examples,
                output,
                work / "audit",
                num_examples=audit,
                num_subsets=num_subsets,
                seed=seed,
                model_digest=classifier.digest,
                probe=classifier.probe,
                log=lambda line: print_log(f"audit: {line}"),
            )
            save_scores(output, table, {**metadata, "audit": json_text(record)})
            print_result(describe_audit(record))
        remove_stages(work, ("scores", "audit"))
    speed = f" in {seconds:.1f} s ({len(table) / max(seconds, 0.01):.1f} images per second; " if seconds else " ("
    forward, backward = (passes.double().mean().item() for passes in (table.num_forward, table.num_backward))
    print_result(
        f"{len(table)} examples scored by {table.attack}{speed}on average {forward:.1f} forward and {backward:.1f} "
        f"backward passes); {int(table.norm.isfinite().sum())} with a verified norm, {table.num_failed} with a "
        f"fallback for a score; median score {table.score.median():.4f}\nscores: {output}"
    )


def _probe_of(output: Path) -> object:
    """Read the logits of a score table; a damaged table is renamed, and gives None."""
    from aradals._internal.files import set_aside
    from aradals.errors import InputError
    from aradals.pipeline.artifacts import load_scores

    try:
        return json.loads(load_scores(output)[1].get("probe", "null"))
    except (InputError, ValueError, RecursionError):
        aside = set_aside(output, "changed")
        print_log(f"scores: {output} was changed or damaged, and is kept in {aside.name}; made anew")
        return None
