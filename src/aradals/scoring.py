"""Score tables of whole splits on disk, and the robustness subsets that they give."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aradals.artifacts import SCHEMA_VERSION, load_scores, save_scores, settings_digest, versions
from aradals.attacks import describe_attack
from aradals.data import Examples
from aradals.errors import InputError
from aradals.inference import Batch, model_device_dtype
from aradals.robustness import (
    ScoreTable,
    check_differentiable,
    choose_attack,
    merge_tables,
    score_batches,
    with_progress,
)
from aradals.stages import run_stage
from aradals.subsets import assign_subsets

__all__ = [
    "check_attack",
    "check_differentiable",
    "check_num_subsets",
    "score_examples",
    "score_stage",
    "scores_digest",
    "scores_of",
    "scoring_record",
    "subsets_of",
]

_SHARD_SECONDS = 10.0
_FIRST_BATCH = 8


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
) -> None:
    """Score a split with a progress bar, and write the table with its provenance and cost.

    What is done is written to a hidden folder beside the table every 10 to 20 seconds. A call that was killed is made
    again with the same arguments and goes on from there; the seconds of its parts add up.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        examples: what to score.
        path: of the table, ends in .parquet.
        attack: a name in ``aradals.attacks.ATTACKS``.
        attack_args: its settings.
        model_digest: stands for the model's weights.
        verified: see `aradals.robustness.score`.
        bf16: see `aradals.robustness.score`.

    Raises:
        InputError: see `aradals.robustness.score`; a table that cannot be written.
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
    # A processor is at its best with smaller batches, which fit its caches, than an accelerator is.
    largest = max(1, (examples.batches().batch_size or 1) // (4 if model_device_dtype(model)[0].type == "cpu" else 1))
    batches = _timed_batches(rest, largest, rate=len(done) / seconds if seconds else 0.0)
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
    metadata = {**provenance, "seconds": f"{seconds:.2f}", "versions": json.dumps(versions())}
    save_scores(path, merge_tables([*tables, *new]), metadata)
    shutil.rmtree(shards, ignore_errors=True)


def _load_shards(folder: Path, provenance: Mapping[str, str]) -> tuple[list[ScoreTable], float]:
    """What an interrupted call with the same provenance has done, and its seconds; the shards of others are removed."""
    try:
        loaded = [load_scores(path) for path in sorted(folder.glob("[0-9]*.parquet"))]
    except InputError:
        loaded = []
    expected = {**provenance, "schema": SCHEMA_VERSION}.items()
    if not loaded or not all(expected <= metadata.items() for _, metadata in loaded):
        shutil.rmtree(folder, ignore_errors=True)
        return [], 0.0
    return [table for table, _ in loaded], sum(float(metadata["seconds"]) for _, metadata in loaded)


def _timed_batches(examples: Examples, largest: int, rate: float) -> Iterator[Batch]:
    """Batches that grow to the ``largest``, but not beyond what is scored in the time between two shards.

    Sizes are powers of 2, so that but for slow models they are the same in every run, and the results to the bit.

    Args:
        examples: in order.
        largest: number of examples in a batch.
        rate: examples per second, where it is known from an interrupted call; else 0.
    """
    start, size = 0, _affordable(rate) if rate else _FIRST_BATCH
    while start < len(examples):
        batch = examples.__getitems__(list(range(start, min(start + min(size, largest), len(examples)))))
        started = time.perf_counter()
        yield batch
        start += len(batch[0])
        seconds = time.perf_counter() - started
        size = min(2 * size, _affordable(len(batch[0]) / max(seconds, 1e-6)))


def _affordable(rate: float) -> int:
    """The largest power of 2 of examples that takes no longer than the time between two shards; at least 1."""
    return 1 << max(1, int(rate * _SHARD_SECONDS)).bit_length() - 1


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
) -> Path:
    """Score a split, unless that was done before from the same inputs; returns the table's path."""
    inputs = {
        "attack": describe_attack(choose_attack(attack, attack_args, verified=verified)),
        "bf16": bf16,
        "model": model_digest,
        "data": examples.fingerprint,
    }

    def make(folder: Path) -> None:
        log(f"{len(examples)} examples by {inputs['attack']}{' in bfloat16' if bf16 else ''}")
        score_examples(
            model,
            examples,
            folder / "scores.parquet",
            attack=attack,
            attack_args=attack_args,
            model_digest=model_digest,
            verified=verified,
            bf16=bf16,
        )

    run_stage(folder, inputs, make, log)
    return folder / "scores.parquet"


def subsets_of(scores: Path, ids: Tensor, num_subsets: int) -> Tensor:
    """The robustness subset of each of ``ids``, ranked among them, from a score table. Raises as `scores_of`."""
    return assign_subsets(scores_of(scores, ids), num_subsets, ids)


def scores_of(scores: Path, ids: Tensor) -> Tensor:
    """The score of each of ``ids``, float64, from a score table.

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


def scores_digest(scores: Path) -> str:
    """Stands for what a score table says; the file also holds the seconds that it took, which do not count."""
    table, _ = load_scores(scores)
    values = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in vars(table).items()}
    return settings_digest(values)


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
    table, metadata = load_scores(scores)
    return {
        **keys,
        "attack": table.attack,
        "n": len(table),
        "num_failed": table.num_failed,
        "mean_forward": table.num_forward.double().mean().item(),
        "mean_backward": table.num_backward.double().mean().item(),
        "seconds": float(metadata.get("seconds", "nan")),
    }
