"""Score tables of whole splits on disk, and the robustness subsets of these scores."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aradals._internal.files import set_aside
from aradals._internal.json_files import json_text, load_json, save_json, settings_digest
from aradals._internal.specs import code_digest
from aradals.attacks import Attack, describe_attack
from aradals.data import Data, Examples, as_examples
from aradals.errors import InputError
from aradals.inference.gradients import model_inputs
from aradals.inference.predictions import Batch, evaluation_mode, model_device_dtype
from aradals.pipeline.artifacts import SCHEMA_VERSION, load_scores, save_scores, versions
from aradals.pipeline.classifier import Classifier, as_classifier
from aradals.pipeline.outputs import output_file, refuse_other_request
from aradals.pipeline.stage import remove_stages, run_stage, same_outputs
from aradals.results.failed import describe_lost_searches
from aradals.results.files import plain
from aradals.results.records import Scoring
from aradals.robustness.audit import AUDIT_ATTACKS, Audit, audit_sample, compare_with_attacks
from aradals.robustness.scores import (
    ScoreTable,
    check_differentiable,
    choose_attack,
    merge_tables,
    score,
    score_batches,
    with_progress,
)
from aradals.robustness.starts import spread_rows, uses_starts
from aradals.smoothing.subsets import assign_subsets

__all__ = [
    "SCORES",
    "SCORE_FILES",
    "audit_file",
    "audit_ranking",
    "audit_stage",
    "check_attack",
    "check_differentiable",
    "check_num_subsets",
    "describe_scores",
    "rankings_of",
    "score_dataset",
    "score_examples",
    "score_file",
    "score_stage",
    "scores_of",
    "scoring_record",
    "subsets_of",
]

SCORE_FILES = SCORES, _COST = ("scores.parquet", "cost.json")
"""Output files of a scoring stage: the table, and the seconds of the scoring."""

AUDIT_FOLDERS = ("audit", "audit-neighbors")
"""The folders of the stages of an audit, one for each of its attacks."""

_SHARD_SECONDS = 10.0
_LONGEST = 1e12
_FLOPS_PER_BATCH = {"cpu": 2.0**33}
"""Floating-point operations of a forward pass over one batch, so that a search of some 20 passes forward and backward
takes a few seconds on 2 cores. An accelerator needs seconds only for batches that fill its memory."""
_FLOPS_PER_BATCH_ELSEWHERE = 2.0**40


def score_dataset(
    model: Classifier | nn.Module,
    data: Data,
    *,
    attack: str = "secant",
    attack_args: Mapping[str, Any] | None = None,
    verified: bool = False,
    bf16: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> ScoreTable:
    """Measure each example's robustness: the smallest perturbation that changes the model's prediction.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        data: `Examples`, (inputs, labels), or a ``DataLoader``; see `aradals.data.as_examples`.
        attack: a name in ``aradals.attacks.ATTACKS``.
        attack_args: settings of the attack.
        verified: also find a perturbation that changes the prediction, for the column ``norm``.
        bf16: attack a copy of the model in bfloat16.
        output: parquet file for the table. With a file, the same call continues after an interruption, and does nothing
            after it has finished.
        overwrite: replace an output that another program has made, or that was made from other inputs.
        log: called with a line if the table exists already.

    Raises:
        InputError: the attack or a setting is unknown; data have no labels; outputs are not logits; or another program
            has made the output.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> table = score_dataset(model, (torch.rand(8, 1, 2, 2), torch.arange(8) % 3), attack="logit_margin")
        >>> len(table)
        8
    """
    settings = dict(attack_args or {})
    check_attack(attack, settings)
    examples = as_examples(data)
    classifier = as_classifier(model, examples)
    if output is None:
        run_attack = choose_attack(attack, settings, verified=verified)
        batches = _batches(examples, choose_batch_size(classifier.model, examples))
        starts = _starts(examples, run_attack)
        return score(classifier.model, batches, run_attack, verified=verified, bf16=bf16, starts=starts)
    options: dict[str, Any] = {"attack": attack, "attack_args": settings, "verified": verified, "bf16": bf16}
    return score_file(classifier, examples, Path(output), **options, overwrite=overwrite, log=log)[0]


def score_file(
    classifier: Classifier,
    examples: Examples,
    output: Path,
    *,
    attack: str,
    attack_args: dict[str, Any],
    verified: bool = False,
    bf16: bool = False,
    overwrite: bool = False,
    log: Callable[[str], None] = print,
) -> tuple[ScoreTable, float | None]:
    """Score examples into a parquet file, unless the file exists already from the same model, data and settings.

    Returns:
        The table, and the seconds of the scoring; None if the table existed already.

    Raises:
        InputError: another program has made the output, or it was made from other inputs; see `score_examples`.
    """
    bound = describe_attack(choose_attack(attack, attack_args, verified=verified))
    request = settings_digest([classifier.digest, examples.fingerprint, bound, bf16])
    with output_file(output, ".parquet", "scores", overwrite=overwrite):
        done = refuse_other_request(output, request, overwrite=overwrite)
        if done and same_outputs(_probe_of(output, log), classifier.probe):
            log(f"scores: {output} is of this model, data and attack already")
            return load_scores(output)[0], None
        work = _work_folder(output)
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
            log=lambda line: log(f"scores: {line}"),
        )
        (table, metadata), seconds = load_scores(made), scoring_seconds(made)
        save_scores(output, table, {**metadata, "request": request, "probe": json_text(classifier.probe.tolist())})
        remove_stages(work, ("scores",))
        return table, seconds


def audit_file(
    classifier: Classifier,
    examples: Examples,
    output: Path,
    *,
    num_examples: int,
    num_subsets: int,
    seed: int,
    log: Callable[[str], None] = print,
) -> Audit:
    """Compare a score table with a strong attack on a sample, and write the record into the table's metadata."""
    table, metadata = load_scores(output)
    work = _work_folder(output)
    record = audit_stage(
        classifier.model,
        examples,
        output,
        work,
        num_examples=num_examples,
        num_subsets=num_subsets,
        seed=seed,
        model_digest=classifier.digest,
        probe=classifier.probe,
        log=lambda line: log(f"audit: {line}"),
    )
    save_scores(output, table, {**metadata, "audit": json_text(plain(record))})
    remove_stages(work, AUDIT_FOLDERS)
    return record


def _work_folder(output: Path) -> Path:
    """Return the folder of the unfinished work for a score table."""
    return output.with_name(f".{output.name}.work")


def _probe_of(output: Path, log: Callable[[str], None]) -> object:
    """Read a score table; rename a damaged table, and return None."""
    try:
        return json.loads(load_scores(output)[1].get("probe", "null"))
    except (InputError, ValueError, RecursionError):
        aside = set_aside(output, "changed")
        log(f"scores: {output} was changed or damaged, and is kept in {aside.name}; made anew")
        return None


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
    call with the same arguments continues from there. The size of a batch depends only on the model and the data, so
    that every run has the same batches, and on the same kind of machine the same scores to the last bit.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        examples: the examples to score.
        path: path of the table, which ends in .parquet.
        attack: a name, see `aradals.attacks.get_attack`.
        attack_args: settings of the attack.
        model_digest: digest of the model's weights and code.
        verified: see `aradals.robustness.scores.score`.
        bf16: see `aradals.robustness.scores.score`.

    Returns:
        The seconds of the scoring, including those of interrupted calls.

    Raises:
        InputError: see `aradals.robustness.scores.score`.
        OutputError: the table cannot be written.
    """
    run_attack = choose_attack(attack, attack_args, verified=verified)
    provenance = {
        "attack_settings": describe_attack(run_attack),
        "attack_code": str(code_digest(attack)),
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
    starts = _starts(examples, run_attack)
    options: dict[str, Any] = {"verified": verified, "bf16": bf16, "starts": starts}
    scored = score_batches(model, batches, run_attack, **options) if num_left else iter(())
    for table in with_progress(scored, len(examples), len(examples) - num_left):
        new.append(table)
        num_left -= len(table)
        elapsed = time.perf_counter() - started
        # The last batch is never stored, so that a repeated call runs the checks after it again.
        if elapsed >= _SHARD_SECONDS and num_left:
            shard = merge_tables(new)
            save_scores(shards / f"{num_shards:06d}.parquet", shard, {**provenance, "seconds": f"{elapsed:.2f}"})
            tables, new, seconds, num_shards = [*tables, shard], [], seconds + elapsed, num_shards + 1
            started = time.perf_counter()
    seconds += time.perf_counter() - started
    save_scores(path, merge_tables([*tables, *new]), {**provenance, "versions": json.dumps(versions())})
    shutil.rmtree(shards, ignore_errors=True)
    return seconds


def _starts(examples: Examples, run_attack: Attack) -> Tensor | None:
    """Draw the examples that the attack starts from: of all examples, so that a continued scoring has the same ones."""
    return examples.batch(spread_rows(len(examples)))[1] if uses_starts(run_attack) else None


def choose_batch_size(model: nn.Module, examples: Examples) -> int:
    """Choose the number of examples in a batch: a power of 2 that depends only on the model and the data.

    A processor works best with smaller batches than an accelerator, because they fit its caches. Models that need
    seconds for a pass get even smaller batches, so that an interruption costs little.
    """
    device = model_device_dtype(model)[0].type
    largest = max(1, (examples.batches().batch_size or 1) // (4 if device == "cpu" else 1))
    budget = _FLOPS_PER_BATCH.get(device, _FLOPS_PER_BATCH_ELSEWHERE)
    affordable = max(1, int(budget / max(1, _count_flops(model, examples.batch([0])[1]))))
    return min(largest, 1 << affordable.bit_length() - 1)


def _count_flops(model: nn.Module, inputs: Tensor) -> int:
    """Count the floating-point operations of one forward pass; 0 if they cannot be counted."""
    try:
        counter = FlopCounterMode(display=False)
        with evaluation_mode(model), torch.no_grad(), counter:
            model(model_inputs(model, inputs))
    except Exception:  # models of users may raise anything here, even if they work otherwise
        return 0
    return int(counter.get_total_flops())


def _batches(examples: Examples, size: int) -> Iterator[Batch]:
    for start in range(0, len(examples), size):
        yield examples.batch(range(start, min(start + size, len(examples))))


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
            path = path.rename(folder / f"{len(tables):06d}.parquet")  # numbers of files have no gaps
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
    """Score a split, unless this was done before from the same inputs; return the table's path.

    The arguments are those of `score_examples` and `run_stage`.
    """
    inputs = {
        "attack": describe_attack(choose_attack(attack, attack_args, verified=verified)),
        "attack_code": code_digest(attack),
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

    run_stage(folder, inputs, SCORE_FILES, make, log, probe=probe)
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
) -> Audit:
    """Compare a score table with strong attacks on a sample, see `audit_scores`; continue if interrupted."""
    table, _ = load_scores(scores)
    sample = audit_sample(examples, table, num_examples=num_examples, num_subsets=num_subsets, seed=seed)
    strong = [
        score_stage(
            model,
            sample,
            folder / name,
            attack=attack,
            attack_args={},
            model_digest=model_digest,
            verified=True,
            probe=probe,
            log=log,
        )
        for name, attack in zip(AUDIT_FOLDERS, AUDIT_ATTACKS, strict=True)
    ]
    found = compare_with_attacks(table, [load_scores(path)[0] for path in strong], num_subsets)
    return replace(found, seconds=sum(map(scoring_seconds, strong)))


def audit_ranking(
    classifier: Classifier,
    examples: Examples,
    scores: Path,
    folder: Path,
    *,
    num_examples: int,
    num_subsets: int,
    seed: int,
    log: Callable[[str], None] = print,
) -> Audit | None:
    """Compare a ranking with a strong attack on a sample, see `audit_stage`; None if another model made the scores."""
    _, metadata = load_scores(scores)
    if metadata.get("model_digest", classifier.digest) != classifier.digest:
        log(f"audit: none, because {scores} is of another model or of other data")
        return None
    return audit_stage(
        classifier.model,
        examples,
        scores,
        folder,
        num_examples=min(max(num_examples, num_subsets), len(examples)),
        num_subsets=num_subsets,
        seed=seed,
        model_digest=classifier.digest,
        probe=classifier.probe,
        log=lambda line: log(f"audit: {line}"),
    )


def rankings_of(*lookups: tuple[Path, Tensor]) -> list[Tensor]:
    """Look up values that are compared and rank the examples, see `ScoreTable.ranking`; float64.

    If the search failed too often for one of the tables, the logit margin ranks the examples of all of them.

    Args:
        *lookups: each a file of a score table, and ids.

    Raises:
        InputError: a table lacks some of the ids.
    """
    tables = [load_scores(path)[0] for path, _ in lookups]
    by_margin = any(table.by_margin for table in tables)
    return [
        replace(table, score=table.margin if by_margin else table.ranking).for_ids(ids).score.double()
        for table, (_, ids) in zip(tables, lookups, strict=True)
    ]


def scores_of(scores: ScoreTable | Path, ids: Tensor) -> Tensor | None:
    """Look up the values that rank the examples by robustness, float64, in a score table or its file.

    Returns:
        A value for each of ``ids``; None if the search failed too often, so that nothing is known about robustness.

    Raises:
        InputError: the table lacks some of the ids.
    """
    table = scores if isinstance(scores, ScoreTable) else load_scores(scores)[0]
    ranking = replace(table, score=table.ranking).for_ids(ids).score
    return None if table.by_margin else ranking


def subsets_of(scores: ScoreTable | Path | None, ids: Tensor, num_subsets: int) -> Tensor | None:
    """Cut examples into robustness subsets, int64; None if nothing is known about robustness, see `scores_of`.

    Raises:
        InputError: the table lacks some of the ids, or there are fewer ids than subsets.
    """
    ranking = None if scores is None else scores_of(scores, ids)
    return None if ranking is None else assign_subsets(ranking, num_subsets, ids)


def check_attack(attack: str, attack_args: dict[str, Any]) -> None:
    """Test an attack and its settings on a single input of a hundred classes, before the long work.

    Raises:
        InputError: there is no such attack or setting, or a value is out of range.
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


def describe_scores(table: ScoreTable, seconds: float | None) -> str:
    """Describe the size, the cost and the failures of a score table in a sentence.

    Args:
        table: the scores.
        seconds: seconds of the scoring; None if the scores existed already.
    """
    speed = f" in {seconds:.1f} s ({len(table) / max(seconds, 0.01):.1f} images per second; " if seconds else " ("
    forward, backward = (passes.double().mean().item() for passes in (table.num_forward, table.num_backward))
    return (
        f"{len(table)} examples scored by {table.attack}{speed}on average {forward:.1f} forward and {backward:.1f} "
        f"backward passes); {int(table.norm.isfinite().sum())} with a verified norm, {table.num_failed} without a "
        f"boundary, which are ranked by the logit margin; median score {table.score.median():.4f}"
    ) + (f"\nWarning: {describe_lost_searches(scoring_record(table, split='evaluated'))}" if table.by_margin else "")


def scoring_record(scores: ScoreTable | Path, split: str, seed: int = 0) -> Scoring:
    """Make the record of a score table: attack, size, failures and cost."""
    table = scores if isinstance(scores, ScoreTable) else load_scores(scores)[0]
    return Scoring(
        split=split,
        attack=table.attack,
        n=len(table),
        seed=seed,
        num_failed=table.num_failed,
        mean_forward=table.num_forward.double().mean().item(),
        mean_backward=table.num_backward.double().mean().item(),
        seconds=math.nan if isinstance(scores, ScoreTable) else scoring_seconds(scores),
    )


def scoring_seconds(scores: Path) -> float:
    """Read the seconds of a table's scoring stage; NaN for a table outside of a stage.

    The seconds are in a separate file, so that tables of equal scores are equal files.
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
