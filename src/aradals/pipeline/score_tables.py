"""Score tables of finished scorings: their files, and the robustness subsets that they define."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aradals._internal.json_files import load_json
from aradals.errors import InputError
from aradals.pipeline.artifacts import load_scores, read_column, read_metadata
from aradals.results.failed import describe_lost_searches
from aradals.results.records import Scoring
from aradals.robustness.scores import ScoreTable
from aradals.smoothing.subsets import assign_subsets

SCORE_FILES = SCORES, COST = ("scores.parquet", "cost.json")
"""Output files of a scoring stage: the table, and the seconds of the scoring.

The seconds are in a separate file, so that tables of equal scores are equal files.
"""

_LONGEST = 1e12


def read_scores(folder: Path) -> ScoreTable:
    """Read the table of a scoring stage, with the seconds of the scoring.

    Raises:
        InputError: the files are missing, or no scoring stage has written them.
    """
    return replace(load_scores(folder / SCORES)[0], seconds=read_seconds(folder))


def read_seconds(folder: Path) -> float:
    """Read the seconds of a scoring stage.

    Raises:
        InputError: the file is missing, or no scoring stage has written it.
    """
    content = load_json(cost := folder / COST)
    seconds = content.get("seconds") if isinstance(content, dict) else None
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST:
        raise InputError(
            expected=f"the seconds of a scoring in {cost}", got="something else", hint="scoring into another folder"
        )
    return float(seconds)


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
    return _describe(scoring_record(table, "evaluated"), int(table.norm.isfinite().sum()), table.score.median().item())


def describe_score_file(path: Path, seconds: float) -> str:
    """Describe a score table in a file, see `describe_scores`; memory holds one column at a time.

    Args:
        path: path of the table.
        seconds: time of the scoring; NaN if it is not known.
    """

    def mean(name: str) -> float:
        return float(read_column(path, name).mean())

    success = read_column(path, "success")
    scoring = Scoring(
        split="evaluated",
        attack=read_metadata(path).get("attack", "unknown"),
        n=len(success),
        num_failed=int((~success).sum()),
        mean_forward=mean("num_forward"),
        mean_backward=mean("num_backward"),
        seconds=seconds,
    )
    num_verified = int(np.isfinite(read_column(path, "norm")).sum())
    return _describe(scoring, num_verified, torch.from_numpy(read_column(path, "score")).median().item())


def _describe(scoring: Scoring, num_verified: int, median: float) -> str:
    seconds, n = scoring.seconds, scoring.n
    speed = f" in {seconds:.1f} s ({n / max(seconds, 0.01):.1f} examples per second; " if seconds >= 0 else " ("
    return (
        f"{n} examples scored by {scoring.attack}{speed}on average {scoring.mean_forward:.1f} forward and "
        f"{scoring.mean_backward:.1f} backward passes); {num_verified} with a verified norm, {scoring.num_failed} "
        f"without a boundary, which are ranked by the logit margin; median score {median:.4f}"
    ) + (f"\nWarning: {describe_lost_searches(scoring)}" if scoring.by_margin else "")


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
