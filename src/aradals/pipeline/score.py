"""Score tables of whole splits on disk, and the robustness subsets that they give."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aradals.attacks import describe_attack
from aradals.data import Examples
from aradals.errors import InputError
from aradals.inference.gradients import model_inputs
from aradals.inference.predictions import Batch, evaluation_mode, model_device_dtype
from aradals.pipeline.artifacts import SCHEMA_VERSION, load_json, load_scores, save_json, save_scores, versions
from aradals.pipeline.stage import run_stage
from aradals.robustness.audit import audit_sample, compare_with_attack
from aradals.robustness.scores import (
    ScoreTable,
    check_differentiable,
    choose_attack,
    merge_tables,
    score_batches,
    with_progress,
)
from aradals.smoothing.subsets import assign_subsets

__all__ = [
    "SCORES",
    "audit_stage",
    "check_attack",
    "check_differentiable",
    "check_num_subsets",
    "score_examples",
    "score_stage",
    "scores_of",
    "scoring_record",
    "subsets_of",
]

SCORES, _COST = "scores.parquet", "cost.json"
"""What a scoring stage writes: the table, and the seconds that it took."""

_SHARD_SECONDS = 10.0
_LONGEST = 1e12
_FLOPS_PER_BATCH = {"cpu": 2.0**33}
"""Floating-point operations of a forward pass over one batch: a search of some 20 passes forward and backward takes a
few seconds then, on 2 cores. What an accelerator does in that time fills its memory first, but for large models."""
_FLOPS_PER_BATCH_ELSEWHERE = 2.0**40


def score_examples(
    model: nn.Module,
    examples: Examples,
    path: Path,
    *,
    attack: str,
    attack_args: dict[str, Any],
    model_digest: str,
    verified: bool = False,
    bf16: bool = False,
) -> float:
    """Score a split with a progress bar, and write the table with its provenance.

    Finished batches are written to a hidden folder beside the table every 10 to 20 seconds. After an interruption, a
    call with the same arguments goes on from there. The size of a batch follows from the model and the data alone, so
    that every run has the same batches, and the same scores to the last bit on the same kind of machine.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        examples: what to score.
        path: of the table, ends in .parquet.
        attack: a name in ``aradals.attacks.ATTACKS``.
        attack_args: its settings.
        model_digest: stands for the model's weights and code.
        verified: see `aradals.robustness.scores.score`.
        bf16: see `aradals.robustness.scores.score`.

    Returns:
        The seconds that it took, those of interrupted calls included.

    Raises:
        InputError: see `aradals.robustness.scores.score`; a table that cannot be written.
    """
    run_attack = choose_attack(attack, attack_args, verified=verified)
    provenance = {
        "attack": describe_attack(run_attack),
        "bf16": str(bf16).lower(),
        "model_digest": model_digest,
        "data": examples.name,
        "data_fingerprint": examples.fingerprint,
    }
    shards = path.with_name(f".{path.name}.shards")
    tables, seconds = _load_shards(shards, provenance)
    done = torch.cat([table.ids for table in tables]) if tables else torch.tensor([], dtype=torch.int64)
    rest = examples.select(~torch.isin(examples.ids, done))
    num_left, num_shards = len(rest), len(tables)

    new: list[ScoreTable] = []
    batches = _batches(rest, choose_batch_size(model, examples)) if num_left else iter(())
    started = time.perf_counter()
    scored = score_batches(model, batches, run_attack, verified=verified, bf16=bf16) if num_left else iter(())
    for table in with_progress(scored, len(examples), len(examples) - num_left):
        new.append(table)
        num_left -= len(table)
        elapsed = time.perf_counter() - started
        # The last batch is never put aside: what is judged after it is judged again when it is repeated.
        if elapsed >= _SHARD_SECONDS and num_left:
            shard = merge_tables(new)
            save_scores(shards / f"{num_shards:06d}.parquet", shard, {**provenance, "seconds": f"{elapsed:.2f}"})
            tables, new, seconds, num_shards = [*tables, shard], [], seconds + elapsed, num_shards + 1
            started = time.perf_counter()
    seconds += time.perf_counter() - started
    save_scores(path, merge_tables([*tables, *new]), {**provenance, "versions": json.dumps(versions())})
    shutil.rmtree(shards, ignore_errors=True)
    return seconds


def choose_batch_size(model: nn.Module, examples: Examples) -> int:
    """Choose how many examples are scored at a time: a power of 2 that depends on the model and the data alone.

    A processor is at its best with smaller batches, which fit its caches, than an accelerator is. Models that take
    seconds for a pass get smaller ones still, so that an interruption costs little.
    """
    device = model_device_dtype(model)[0].type
    largest = max(1, (examples.batches().batch_size or 1) // (4 if device == "cpu" else 1))
    budget = _FLOPS_PER_BATCH.get(device, _FLOPS_PER_BATCH_ELSEWHERE)
    affordable = max(1, int(budget / max(1, _count_flops(model, examples.__getitems__([0])[1]))))
    return min(largest, 1 << affordable.bit_length() - 1)


def _count_flops(model: nn.Module, inputs: Tensor) -> int:
    """Floating-point operations of one forward pass; 0 for a model in which they cannot be counted."""
    try:
        counter = FlopCounterMode(display=False)
        with evaluation_mode(model), torch.no_grad(), counter:
            model(model_inputs(model, inputs))
    except Exception:  # other people's models raise anything, also where they work otherwise
        return 0
    return int(counter.get_total_flops())


def _batches(examples: Examples, size: int) -> Iterator[Batch]:
    for start in range(0, len(examples), size):
        yield examples.__getitems__(list(range(start, min(start + size, len(examples)))))


def _load_shards(folder: Path, provenance: Mapping[str, str]) -> tuple[list[ScoreTable], float]:
    """Load the work of an interrupted call with the same provenance, and its seconds; remove all other shards."""
    expected = {**provenance, "schema": SCHEMA_VERSION}.items()
    tables: list[ScoreTable] = []
    seconds = 0.0
    for path in sorted(folder.glob("[0-9]*.parquet")):
        try:
            table, metadata = load_scores(path)
        except InputError:
            metadata = {}
        if expected <= metadata.items():
            path = path.rename(folder / f"{len(tables):06d}.parquet")  # names without gaps
            tables.append(table)
            seconds += float(metadata["seconds"])
        else:
            path.unlink()
    return tables, seconds


def score_stage(
    model: nn.Module,
    examples: Examples,
    folder: Path,
    *,
    attack: str,
    attack_args: dict[str, Any],
    model_digest: str,
    log: Callable[[str], None],
    verified: bool = False,
    bf16: bool = False,
    probe: Tensor | None = None,
) -> Path:
    """Score a split, unless that was done before from the same inputs; returns the table's path.

    Arguments as in `score_examples` and `run_stage`.
    """
    inputs = {
        "attack": describe_attack(choose_attack(attack, attack_args, verified=verified)),
        "bf16": bf16,
        "model": model_digest,
        "data": examples.fingerprint,
    }

    def make(folder: Path) -> None:
        log(f"{len(examples)} examples by {inputs['attack']}{' in bfloat16' if bf16 else ''}")
        seconds = score_examples(
            model,
            examples,
            folder / SCORES,
            attack=attack,
            attack_args=attack_args,
            model_digest=model_digest,
            verified=verified,
            bf16=bf16,
        )
        save_json(folder / _COST, {"seconds": seconds})

    run_stage(folder, inputs, [SCORES, _COST], make, log, probe=probe)
    return folder / SCORES


def audit_stage(
    model: nn.Module,
    examples: Examples,
    scores: Path,
    folder: Path,
    *,
    num_examples: int,
    num_subsets: int,
    seed: int,
    model_digest: str,
    log: Callable[[str], None],
    probe: Tensor | None = None,
) -> dict[str, Any]:
    """Compare a score table with DDN on a sample, see `aradals.robustness.audit_scores`; goes on when interrupted."""
    table, _ = load_scores(scores)
    sample = audit_sample(examples, table, num_examples=num_examples, num_subsets=num_subsets, seed=seed)
    strong = score_stage(
        model,
        sample,
        folder,
        attack="ddn",
        attack_args={},
        model_digest=model_digest,
        verified=True,
        probe=probe,
        log=log,
    )
    return {**compare_with_attack(table, load_scores(strong)[0], num_subsets), "seconds": scoring_seconds(strong)}


def subsets_of(scores: Path, ids: Tensor, num_subsets: int) -> Tensor:
    """Rank ``ids`` among each other by a score table, and return their subsets. Errors are those of `scores_of`."""
    return assign_subsets(scores_of(scores, ids), num_subsets, ids)


def scores_of(scores: Path, ids: Tensor) -> Tensor:
    """Look up the score of each of ``ids`` in a score table, float64.

    Raises:
        InputError: the table lacks some of them.
    """
    table, _ = load_scores(scores)
    known, order = table.ids.sort()
    row = order[torch.searchsorted(known, ids).clamp(max=len(known) - 1)]
    found = torch.where(table.ids[row] == ids, table.score[row].double(), torch.nan)
    if found.isnan().any():
        raise InputError(
            expected=f"a score for every example in {scores}",
            got=f"none for {int(found.isnan().sum())} of {len(ids)}",
            hint="scoring the same split with the same --limit",
        )
    return found


def check_attack(attack: str, attack_args: dict[str, Any]) -> None:
    """Try an attack and its settings on a single input of a hundred classes, before they are needed.

    Raises:
        InputError: no such attack or setting, or a value that it cannot have.
    """
    run_attack = choose_attack(attack, attack_args)
    try:
        run_attack(nn.Identity(), torch.linspace(0.9, 0.3, 100)[None])
    except (TypeError, RuntimeError) as error:
        raise InputError(
            expected=f"settings that {attack} can use", got=f"{attack_args} ({error})", hint="numbers"
        ) from error


def check_num_subsets(num_subsets: int, num_examples: int, key: str, split: str) -> None:
    """Raise InputError unless ``num_examples`` can be cut into ``num_subsets``."""
    if not 1 <= num_subsets <= num_examples:
        raise InputError(
            expected=f"{key} from 1 to {num_examples} (the size of {split})",
            got=str(num_subsets),
            hint="fewer subsets or a larger split",
        )


def scoring_record(scores: Path, **keys: object) -> dict[str, Any]:
    """Attack, size, failures and cost of a score table, for reports."""
    table, _ = load_scores(scores)
    return {
        **keys,
        "attack": table.attack,
        "n": len(table),
        "num_failed": table.num_failed,
        "mean_forward": table.num_forward.double().mean().item(),
        "mean_backward": table.num_backward.double().mean().item(),
        "seconds": scoring_seconds(scores),
    }


def scoring_seconds(scores: Path) -> float:
    """Seconds that the scoring stage of a table took; NaN for a table that lies elsewhere.

    They are in a file of their own, so that tables of equal scores are equal files.
    """
    cost = scores.with_name(_COST)
    if not cost.exists():
        return math.nan
    content = load_json(cost)
    seconds = content.get("seconds") if isinstance(content, dict) else None
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST:
        raise InputError(
            expected=f"the seconds of a scoring in {cost}", got="something else", hint="scoring into another folder"
        )
    return float(seconds)
