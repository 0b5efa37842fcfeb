"""Score tables of whole splits on disk, which several workers can make together."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aradals._internal.files import atomic_path, set_aside
from aradals._internal.ids import first_of_each
from aradals._internal.json_files import json_text, save_json, settings_digest
from aradals.data import Data, Examples, as_examples
from aradals.errors import InputError
from aradals.inference.gradients import model_inputs
from aradals.inference.predictions import Batch, evaluation_mode, model_device_dtype
from aradals.pipeline.artifacts import (
    SCHEMA_VERSION,
    as_arrow,
    load_scores,
    merge_parquet,
    save_scores,
    score_columns,
    verify_parquet,
    versions,
)
from aradals.pipeline.attack_settings import AttackSettings
from aradals.pipeline.classifier import Classifier, Model, as_classifier
from aradals.pipeline.outputs import output_file, refuse_other_request
from aradals.pipeline.score_tables import (
    COST,
    SCORE_FILES,
    SCORES,
    check_num_subsets,
    describe_score_file,
    describe_scores,
    rankings_of,
    read_scores,
    read_seconds,
    scores_of,
    scoring_record,
    subsets_of,
)
from aradals.pipeline.shards import Scored, Sharing, Work, do_shards, shard_metadata
from aradals.pipeline.stage import describe_other_versions, remove_stages, run_stage, same_outputs
from aradals.results.files import plain
from aradals.robustness.audit import AUDIT_ATTACKS, Audit, audit_sample, compare_with_attacks
from aradals.robustness.scores import ScoreTable, check_differentiable, one_attack, score, score_batches
from aradals.robustness.starts import spread_rows, uses_starts

__all__ = [
    "AUDIT_FOLDERS",
    "SCORES",
    "SCORE_FILES",
    "AttackSettings",
    "Sharing",
    "audit_file",
    "audit_ranking",
    "check_differentiable",
    "check_num_subsets",
    "describe_score_file",
    "describe_scores",
    "rankings_of",
    "read_scores",
    "score_dataset",
    "score_examples",
    "score_file",
    "score_stage",
    "scores_of",
    "scoring_record",
    "subsets_of",
]

Log = Callable[[str], None]

AUDIT_FOLDERS = ("audit", "audit-neighbors")
"""The folders of the stages of an audit, one for each of its attacks."""

_BATCHES_PER_WORKER = 4
_FLOPS_PER_BATCH = {"cpu": 2.0**33}
"""Floating-point operations of a forward pass over one batch, so that a search of some 20 passes forward and backward
takes a few seconds on 2 cores. An accelerator needs seconds only for batches that fill its memory."""
_FLOPS_PER_BATCH_ELSEWHERE = 2.0**40


def score_dataset(
    model: Classifier | Model,
    data: Data,
    *,
    attack: str = "secant",
    attack_args: Mapping[str, Any] | None = None,
    verified: bool = False,
    bf16: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    log: Log = print,
) -> ScoreTable:
    """Measure each example's robustness: the smallest perturbation that changes the model's prediction.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K), or to outputs that `LogitModel` reads.
        data: `Examples`, inputs, (inputs, labels), or a ``DataLoader``; see `aradals.data.as_examples`.
        attack: a name in ``aradals.attacks.ATTACKS``.
        attack_args: settings of the attack.
        verified: also find a perturbation that changes the prediction, for the column ``norm``.
        bf16: attack a copy of the model in bfloat16.
        output: parquet file for the table. With a file, the same call continues after an interruption, and does nothing
            after it has finished.
        overwrite: replace an output that another program has made, or that was made from other inputs.
        log: called with a line if the table exists already.

    Raises:
        InputError: the attack or a setting is unknown; outputs are not logits; or another program
            has made the output.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> table = score_dataset(model, (torch.rand(8, 1, 2, 2), torch.arange(8) % 3), attack="logit_margin")
        >>> len(table)
        8
    """
    settings = AttackSettings(attack, attack_args or {}, verified, bf16)
    settings.check()
    examples = as_examples(data, labeled=False)
    classifier = as_classifier(model, examples, log=log)
    if output is None:
        batches = _batches(examples, choose_batch_size(classifier.model, examples))
        starts = _starts(examples, settings)
        return score(classifier.model, batches, settings.run, verified=verified, bf16=bf16, starts=starts)
    seconds = score_file(classifier, examples, Path(output), settings, overwrite=overwrite, log=log)
    return replace(load_scores(Path(output))[0], seconds=seconds)


def score_file(
    classifier: Classifier,
    examples: Examples,
    output: Path,
    settings: AttackSettings,
    *,
    overwrite: bool = False,
    sharing: Sharing[Scored] | None = None,
    log: Log = print,
) -> float:
    """Score examples into a parquet file, unless the file exists already from the same model, data and settings.

    Returns:
        The seconds of the scoring; NaN if the file existed already.

    Raises:
        InputError: another program has made the output, or it was made from other inputs; see `score_examples`.
    """
    request, work = settings_digest(_provenance(classifier, examples, settings)), _work_folder(output)
    with output_file(output, ".parquet", "scores", overwrite=overwrite):
        done = refuse_other_request(output, request, overwrite=overwrite)
        if done and _is_current(classifier, output, log):
            return math.nan
        probe = None if classifier.probe is None else classifier.probe.tolist()
        metadata, stage = {"request": request, "probe": json_text(probe)}, work / "scores"
        fill_score_stage(
            classifier,
            examples,
            stage,
            settings,
            log=lambda line: log(f"scores: {line}"),
            sharing=sharing,
            more=metadata,
        )
        seconds = read_seconds(stage)
        with atomic_path(output) as temporary:
            shutil.copyfile(stage / SCORES, temporary)
        remove_stages(work, ("scores",))
        return seconds


def audit_file(
    classifier: Classifier,
    examples: Examples,
    output: Path,
    *,
    num_examples: int,
    num_subsets: int,
    seed: int,
    log: Log = print,
) -> Audit:
    """Audit the ranking of a score table, see `audit_ranking`, and write the record into the metadata of its file."""
    (table, metadata), work = load_scores(output), _work_folder(output)
    sample = {"num_examples": num_examples, "num_subsets": num_subsets, "seed": seed}
    record = audit_ranking(classifier, examples, table, work, **sample, log=log)
    # No seconds, so that equal commands write equal files.
    save_scores(output, table, {**metadata, "audit": json_text(plain(replace(record, seconds=math.nan)))})
    remove_stages(work, AUDIT_FOLDERS)
    return record


def audit_ranking(
    classifier: Classifier,
    examples: Examples,
    table: ScoreTable,
    folder: Path,
    *,
    num_examples: int,
    num_subsets: int,
    seed: int,
    log: Log,
) -> Audit:
    """Compare a score table with strong attacks on a sample, see `audit_scores`; continue if interrupted.

    The sample has at least ``num_subsets`` examples. Each attack has a stage below ``folder``.
    """
    num_examples = max(num_examples, num_subsets)
    sample = audit_sample(examples, table, num_examples=num_examples, num_subsets=num_subsets, seed=seed)
    strong = [
        score_stage(
            classifier,
            sample,
            folder / name,
            AttackSettings(attack, verified=True),
            log=lambda line: log(f"audit: {line}"),
        )
        for name, attack in zip(AUDIT_FOLDERS, AUDIT_ATTACKS, strict=True)
    ]
    found = compare_with_attacks(table, strong, num_subsets)
    return replace(found, seconds=sum(each.seconds for each in strong))


def _work_folder(output: Path) -> Path:
    """Return the folder of the unfinished work for a score table."""
    return output.with_name(f".{output.name}.work")


def _is_current(classifier: Classifier, output: Path, log: Log) -> bool:
    """Check a score table: rename a damaged one; return False, too, if the model's outputs have changed."""
    try:
        metadata = verify_parquet(output)
        probe, made_with = (json.loads(metadata.get(key, "{}")) for key in ("probe", "versions"))
        other = describe_other_versions(made_with)
    except (InputError, ValueError, RecursionError, AttributeError):
        aside = set_aside(output, "changed")
        log(f"scores: {output} was changed or damaged, and is kept in {aside.name}; made anew")
        return False
    if classifier.probe is not None and not same_outputs(probe, classifier.probe):
        return False
    log(f"scores: {output} is of this model, data and attack already{f'; made with {other}' if other else ''}")
    return True


def _provenance(classifier: Classifier, examples: Examples, settings: AttackSettings) -> dict[str, str]:
    """Return everything that decides the content of a score table."""
    return {**settings.record, "model_digest": classifier.digest, "data_fingerprint": examples.fingerprint}


def score_stage(
    classifier: Classifier,
    examples: Examples,
    folder: Path,
    settings: AttackSettings,
    *,
    log: Log,
    sharing: Sharing[Scored] | None = None,
    **options: Any,
) -> ScoreTable:
    """Score a split in a stage, unless this was done before from the same inputs; see `score_examples`, `run_stage`."""
    fill_score_stage(classifier, examples, folder, settings, log=log, sharing=sharing, **options)
    return read_scores(folder)


def fill_score_stage(
    classifier: Classifier,
    examples: Examples,
    folder: Path,
    settings: AttackSettings,
    *,
    log: Log,
    sharing: Sharing[Scored] | None = None,
    more: Mapping[str, str] | None = None,
    **options: Any,
) -> None:
    """Do the work of `score_stage`; ``more`` is further metadata of the table."""
    inputs = _provenance(classifier, examples, settings)

    def make(folder: Path) -> None:
        log(f"{len(examples)} examples by {inputs['attack_settings']}{' in bfloat16' if settings.bf16 else ''}")
        seconds = score_examples(classifier, examples, folder / SCORES, settings, sharing, more)
        save_json(folder / COST, {"seconds": seconds})

    run_stage(folder, inputs, SCORE_FILES, make, log, probe=classifier.probe, **options)


def score_examples(
    classifier: Classifier,
    examples: Examples,
    path: Path,
    settings: AttackSettings,
    sharing: Sharing[Scored] | None = None,
    more: Mapping[str, str] | None = None,
) -> float:
    """Score a split with a progress bar, and write the table with its provenance, sorted by id.

    The examples are scored in the order of their ids. Finished batches are written to a hidden folder beside the table,
    see `do_shards`, so that memory does not grow with the number of examples. The size of a batch depends only on the
    model and the data, so that every run has the same batches, whatever the number of workers, and on the same kind of
    machine the same scores to the last bit.

    Args:
        classifier: the model.
        examples: the examples to score. If several have the same id, the first one counts.
        path: path of the table, which ends in .parquet.
        settings: how robustness is measured; see `aradals.robustness.scores.score`.
        sharing: workers that score a part each; default: this process.
        more: further metadata of the table.

    Returns:
        The seconds of the scoring, summed over workers, including those of interrupted calls.

    Raises:
        InputError: see `aradals.robustness.scores.score`.
        OutputError: the table cannot be written.
    """
    provenance = {**_provenance(classifier, examples, settings), "data": examples.name}
    ordered = by_id(examples)
    batch_size = choose_batch_size(classifier.model, ordered)
    work = Scoring(settings, num_examples=len(ordered), batch_size=batch_size, batches_per_worker=_BATCHES_PER_WORKER)
    request = settings_digest([provenance, batch_size, SCHEMA_VERSION])
    folder = path.with_name(f".{path.name}.shards")
    done = do_shards(work, (classifier, examples), folder, request, sharing)
    shards = list(done.shards.values())
    attack = one_attack([metadata["attack"] for metadata in shard_metadata(shards)])
    merge_parquet(
        path, "scores", shards, {"attack": attack, **provenance, "versions": json.dumps(versions()), **(more or {})}
    )
    done.remove()
    return done.seconds


@dataclass(frozen=True)
class Scoring(Work[Scored]):
    """Scores of examples, in the order of their ids."""

    settings: AttackSettings

    def identity(self, loaded: Scored, rows: range) -> dict[str, str]:
        """Describe the model, the settings and these examples."""
        classifier, examples = loaded
        return _provenance(classifier, by_id(examples).select(rows), self.settings)

    def tables(self, loaded: Scored, file: int, rows: range) -> Iterator[Any]:
        """Score batch by batch."""
        classifier, examples = loaded
        settings = self.settings
        tables = score_batches(
            classifier.model,
            by_id(examples).select(rows).batches(self.batch_size),
            settings.run,
            verified=settings.verified,
            bf16=settings.bf16,
            starts=_starts(examples, settings),
        )
        for table in tables:
            yield as_arrow(score_columns(table), {"attack": table.attack})


def by_id(examples: Examples) -> Examples:
    """Sort examples by id; if several have the same id, keep the first one."""
    ids = examples.ids
    if bool((ids[1:] > ids[:-1]).all()):
        return examples
    return examples.select(first_of_each(ids))


def _starts(examples: Examples, settings: AttackSettings) -> Tensor | None:
    """Draw the examples that the attack starts from: of all examples, so that every part has the same ones."""
    source = examples if settings.starts_from is None else settings.starts_from
    return source.batch(spread_rows(len(source)))[1] if uses_starts(settings.run) else None


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
