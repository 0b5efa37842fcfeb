"""Score tables of whole splits on disk, and the robustness subsets of these scores."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
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
from aradals.pipeline.classifier import Classifier, Model, as_classifier
from aradals.pipeline.outputs import output_file, refuse_other_request
from aradals.pipeline.stage import describe_other_versions, remove_stages, run_stage, same_outputs
from aradals.pipeline.workers import MAX_DEATHS, Workers, died_too_often, open_workers, torch_threads
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
    "AUDIT_FOLDERS",
    "SCORES",
    "SCORE_FILES",
    "AttackSettings",
    "Sharing",
    "audit_file",
    "audit_ranking",
    "check_differentiable",
    "check_num_subsets",
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

SCORE_FILES = SCORES, _COST = ("scores.parquet", "cost.json")
"""Output files of a scoring stage: the table, and the seconds of the scoring.

The seconds are in a separate file, so that tables of equal scores are equal files.
"""

AUDIT_FOLDERS = ("audit", "audit-neighbors")
"""The folders of the stages of an audit, one for each of its attacks."""

_SHARD_SECONDS = 10.0
_BATCHES_PER_WORKER = 4
_LONGEST = 1e12
_FLOPS_PER_BATCH = {"cpu": 2.0**33}
"""Floating-point operations of a forward pass over one batch, so that a search of some 20 passes forward and backward
takes a few seconds on 2 cores. An accelerator needs seconds only for batches that fill its memory."""
_FLOPS_PER_BATCH_ELSEWHERE = 2.0**40


@dataclass(frozen=True)
class Sharing:
    """Workers that share a scoring.

    Attributes:
        load: function that loads the model and the examples in a worker.
        workers: see `aradals.pipeline.workers.open_workers`.
        threads: number of torch's threads in each worker; None leaves the number as it is.
        device: device of the model.
        log: called in the workers with each warning.
    """

    load: Callable[[], tuple[Classifier, Examples]]
    workers: int | str | None = None
    threads: int | None = 1
    device: str = "auto"
    log: Log = print

    def open(self, most: int) -> AbstractContextManager[Workers]:
        """Start the workers; more than ``most`` would be of no use, because to start a worker takes seconds."""
        return open_workers(self.workers, most=most, device=self.device, threads=self.threads, log=self.log)


@dataclass(frozen=True)
class AttackSettings:
    """How robustness is measured.

    Attributes:
        attack: a name, see `aradals.attacks.get_attack`.
        attack_args: settings of the attack.
        verified: also find a perturbation that changes the prediction.
        bf16: attack a copy of the model in bfloat16.
        starts_from: examples to draw from if the attack starts from other examples; default: the scored ones. Tables
            that are compared with each other need the same ones.
    """

    attack: str = "secant"
    attack_args: Mapping[str, Any] = field(default_factory=dict)
    verified: bool = False
    bf16: bool = False
    starts_from: Examples | None = None

    @cached_property
    def run(self) -> Attack:
        """The attack with its settings.

        Raises:
            InputError: there is no such attack or setting.
        """
        return choose_attack(self.attack, dict(self.attack_args), verified=self.verified)

    @cached_property
    def record(self) -> dict[str, str]:
        """Everything that decides the scores of a model, including the code of an attack from a file."""
        code = code_digest(self.attack)
        found = {"attack_settings": describe_attack(self.run), "attack_code": str(code), "bf16": str(self.bf16).lower()}
        if self.starts_from is not None and uses_starts(self.run):
            found["starts_from"] = self.starts_from.fingerprint
        return found

    def check(self) -> None:
        """Test the attack on a single input of a hundred classes, before the long work.

        Raises:
            InputError: there is no such attack or setting, or a value is out of range.
        """
        try:
            self.run(nn.Identity(), torch.linspace(0.9, 0.3, 100)[None])
        except (TypeError, RuntimeError) as error:
            raise InputError(
                expected=f"settings that {self.attack} can use",
                got=f"{self.attack_args} ({error})",
                hint="numbers",
            ) from error


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
    return score_file(classifier, examples, Path(output), settings, overwrite=overwrite, log=log)


def score_file(
    classifier: Classifier,
    examples: Examples,
    output: Path,
    settings: AttackSettings,
    *,
    overwrite: bool = False,
    sharing: Sharing | None = None,
    log: Log = print,
) -> ScoreTable:
    """Score examples into a parquet file, unless the file exists already from the same model, data and settings.

    Returns:
        The table; its seconds are NaN if it existed already.

    Raises:
        InputError: another program has made the output, or it was made from other inputs; see `score_examples`.
    """
    request = settings_digest(_provenance(classifier, examples, settings))
    with output_file(output, ".parquet", "scores", overwrite=overwrite):
        done = refuse_other_request(output, request, overwrite=overwrite)
        if done and (made := _table_of(classifier, output, log)) is not None:
            return made
        work = _work_folder(output)
        table = score_stage(
            classifier, examples, work / "scores", settings, log=lambda line: log(f"scores: {line}"), sharing=sharing
        )
        _, metadata = load_scores(work / "scores" / SCORES)
        probe = None if classifier.probe is None else classifier.probe.tolist()
        save_scores(output, table, {**metadata, "request": request, "probe": json_text(probe)})
        remove_stages(work, ("scores",))
        return table


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


def _table_of(classifier: Classifier, output: Path, log: Log) -> ScoreTable | None:
    """Read a score table; rename a damaged table, and return None. None, too, if the model's outputs have changed."""
    try:
        table, metadata = load_scores(output)
        probe, made_with = (json.loads(metadata.get(key, "{}")) for key in ("probe", "versions"))
        other = describe_other_versions(made_with)
    except (InputError, ValueError, RecursionError, AttributeError):
        aside = set_aside(output, "changed")
        log(f"scores: {output} was changed or damaged, and is kept in {aside.name}; made anew")
        return None
    if classifier.probe is not None and not same_outputs(probe, classifier.probe):
        return None
    log(f"scores: {output} is of this model, data and attack already{f'; made with {other}' if other else ''}")
    return table


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
    sharing: Sharing | None = None,
    **options: Any,
) -> ScoreTable:
    """Score a split in a stage, unless this was done before from the same inputs; see `score_examples`, `run_stage`."""
    inputs = _provenance(classifier, examples, settings)

    def make(folder: Path) -> None:
        log(f"{len(examples)} examples by {inputs['attack_settings']}{' in bfloat16' if settings.bf16 else ''}")
        seconds = score_examples(classifier, examples, folder / SCORES, settings, sharing)
        save_json(folder / _COST, {"seconds": seconds})

    run_stage(folder, inputs, SCORE_FILES, make, log, probe=classifier.probe, **options)
    return read_scores(folder)


def score_examples(
    classifier: Classifier,
    examples: Examples,
    path: Path,
    settings: AttackSettings,
    sharing: Sharing | None = None,
) -> float:
    """Score a split with a progress bar, and write the table with its provenance.

    Finished batches are written to a hidden folder beside the table every 10 to 20 seconds. After an interruption, a
    call with the same arguments continues from there. The size of a batch depends only on the model and the data, so
    that every run has the same batches, whatever the number of workers, and on the same kind of machine the same scores
    to the last bit.

    Args:
        classifier: the model.
        examples: the examples to score.
        path: path of the table, which ends in .parquet.
        settings: how robustness is measured; see `aradals.robustness.scores.score`.
        sharing: workers that score a part each; default: this process.

    Returns:
        The seconds of the scoring, summed over workers, including those of interrupted calls.

    Raises:
        InputError: see `aradals.robustness.scores.score`.
        OutputError: the table cannot be written.
    """
    both = partial(_both, classifier, examples)
    sharing = sharing or Sharing(both, workers=1, threads=None)
    batch_size = choose_batch_size(classifier.model, examples)
    most = max(1, math.ceil(len(examples) / batch_size) // _BATCHES_PER_WORKER)
    provenance = {**_provenance(classifier, examples, settings), "data": examples.name}
    shards = path.with_name(f".{path.name}.shards").resolve()
    (tables, seconds), num_deaths = _load_shards(shards, provenance), 0
    with sharing.open(most) as workers:
        load = sharing.load if workers.number > 1 else both
        work = partial(_score_part, load, settings, provenance, shards, workers.threads)
        while len(rest := _not_in(tables, examples)):
            parts = _parts(rest.split(batch_size), workers.number)
            futures = [workers.executor.submit(work, part, number) for number, part in enumerate(parts)]
            wait(futures)
            try:
                for future in futures:
                    future.result()
            except workers.lost as error:
                num_deaths += 1
                if num_deaths == MAX_DEATHS:
                    raise died_too_often(error) from error
            tables, seconds = _load_shards(shards, provenance)
    save_scores(path, merge_tables(tables), {**provenance, "versions": json.dumps(versions())})
    shutil.rmtree(shards, ignore_errors=True)
    return seconds


def _not_in(tables: Sequence[ScoreTable], examples: Examples) -> Tensor:
    """List the positions of the examples that no table contains."""
    done = torch.cat([torch.tensor([], dtype=torch.int64), *(table.ids for table in tables)])
    return (~torch.isin(examples.ids, done)).nonzero()[:, 0]


def _parts(batches: Sequence[Tensor], number: int) -> list[Sequence[Tensor]]:
    """Divide batches into at most ``number`` parts of neighboring batches."""
    size = math.ceil(len(batches) / min(number, len(batches)))
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def _both(classifier: Classifier, examples: Examples) -> tuple[Classifier, Examples]:
    return classifier, examples


def _score_part(
    load: Callable[[], tuple[Classifier, Examples]],
    settings: AttackSettings,
    provenance: Mapping[str, str],
    shards: Path,
    threads: int | None,
    batches: Sequence[Tensor],
    part: int,
) -> None:
    """Score some batches of examples, given by their positions, and write the tables into a folder."""
    classifier, examples = load()
    found = {**_provenance(classifier, examples, settings), "data": examples.name}
    if found != provenance:
        raise InputError(
            expected="the same model, data and code for every worker",
            got=f"another {', '.join(name for name in found if found[name] != provenance[name])}",
            hint="workers that read the same files",
        )
    num_examples = sum(map(len, batches))
    new: list[ScoreTable] = []
    num_done, started = 0, time.perf_counter()

    def save() -> None:
        nonlocal new, started
        path = shards / f"{int(new[0].ids[0]):012d}.parquet"  # no other shard has this id
        seconds = f"{time.perf_counter() - started:.2f}"
        save_scores(path, merge_tables(new), {**provenance, "seconds": seconds})
        new, started = [], time.perf_counter()

    with torch_threads(threads):
        loaded = (examples.batch(positions.tolist()) for positions in batches)
        tables = score_batches(
            classifier.model,
            loaded,
            settings.run,
            verified=settings.verified,
            bf16=settings.bf16,
            starts=_starts(examples, settings),
        )
        for table in with_progress(tables, num_examples, position=part):
            new.append(table)
            num_done += len(table)
            # The last batch is stored only after the checks that follow it.
            if time.perf_counter() - started >= _SHARD_SECONDS and num_done < num_examples:
                save()
        save()


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


def _load_shards(folder: Path, provenance: Mapping[str, str]) -> tuple[list[ScoreTable], float]:
    """Load the work of interrupted calls with the same provenance, and its seconds; remove all other shards."""
    expected = {**provenance, "schema": SCHEMA_VERSION}.items()
    tables: list[ScoreTable] = []
    seconds = 0.0
    for path in sorted(folder.glob("[0-9]*.parquet")):
        try:
            table, metadata = load_scores(path)
        except InputError:
            metadata = {}
        if expected <= metadata.items():
            tables.append(table)
            seconds += float(metadata["seconds"])
        else:
            path.unlink()
    return tables, seconds


def read_scores(folder: Path) -> ScoreTable:
    """Read the table of a scoring stage, with the seconds of the scoring.

    Raises:
        InputError: the files are missing, or no scoring stage has written them.
    """
    cost, (table, _) = folder / _COST, load_scores(folder / SCORES)
    content = load_json(cost)
    seconds = content.get("seconds") if isinstance(content, dict) else None
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST:
        raise InputError(
            expected=f"the seconds of a scoring in {cost}", got="something else", hint="scoring into another folder"
        )
    return replace(table, seconds=float(seconds))


def rankings_of(*lookups: tuple[ScoreTable, Tensor]) -> list[Tensor]:
    """Look up values that are compared and rank the examples, see `ScoreTable.ranking`; float64.

    If the search failed too often for one of the tables, the logit margin ranks the examples of all of them.

    Args:
        *lookups: each a score table, and ids.

    Raises:
        InputError: a table lacks some of the ids.
    """
    by_margin = any(table.by_margin for table, _ in lookups)
    return [
        replace(table, score=table.margin if by_margin else table.ranking).for_ids(ids).score.double()
        for table, ids in lookups
    ]


def scores_of(table: ScoreTable, ids: Tensor) -> Tensor | None:
    """Look up the values that rank the examples by robustness, float64.

    Returns:
        A value for each of ``ids``; None if the search failed too often, so that nothing is known about robustness.

    Raises:
        InputError: the table lacks some of the ids.
    """
    [ranking] = rankings_of((table, ids))
    return None if table.by_margin else ranking


def subsets_of(table: ScoreTable | None, ids: Tensor, num_subsets: int) -> Tensor | None:
    """Cut examples into robustness subsets, int64; None if nothing is known about robustness, see `scores_of`.

    Raises:
        InputError: the table lacks some of the ids, or there are fewer ids than subsets.
    """
    ranking = None if table is None else scores_of(table, ids)
    return None if ranking is None else assign_subsets(ranking, num_subsets, ids)


def check_num_subsets(num_subsets: int, num_examples: int, key: str, split: str) -> None:
    """Raise InputError unless ``num_examples`` can be cut into ``num_subsets``."""
    if not 1 <= num_subsets <= num_examples:
        raise InputError(
            expected=f"{key} from 1 to {num_examples} (the size of {split})",
            got=str(num_subsets),
            hint="fewer subsets or a larger split",
        )


def describe_scores(table: ScoreTable) -> str:
    """Describe the size, the cost and the failures of a score table in a sentence."""
    seconds = table.seconds
    speed = f" in {seconds:.1f} s ({len(table) / max(seconds, 0.01):.1f} images per second; " if seconds >= 0 else " ("
    forward, backward = (passes.double().mean().item() for passes in (table.num_forward, table.num_backward))
    return (
        f"{len(table)} examples scored by {table.attack}{speed}on average {forward:.1f} forward and {backward:.1f} "
        f"backward passes); {int(table.norm.isfinite().sum())} with a verified norm, {table.num_failed} without a "
        f"boundary, which are ranked by the logit margin; median score {table.score.median():.4f}"
    ) + (f"\nWarning: {describe_lost_searches(scoring_record(table, split='evaluated'))}" if table.by_margin else "")


def scoring_record(table: ScoreTable, split: str, seed: int = 0) -> Scoring:
    """Make the record of a score table: attack, size, failures and cost."""
    return Scoring(
        split=split,
        attack=table.attack,
        n=len(table),
        seed=seed,
        num_failed=table.num_failed,
        mean_forward=table.num_forward.double().mean().item(),
        mean_backward=table.num_backward.double().mean().item(),
        seconds=table.seconds,
    )
