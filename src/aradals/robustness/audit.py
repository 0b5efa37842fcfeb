"""Audit of a cheap ranking: its agreement with a strong attack on a random sample."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from aradals.attacks import Attack
from aradals.errors import InputError
from aradals.metrics import wilson_interval
from aradals.robustness.scores import ScoreTable, score
from aradals.smoothing.subsets import assign_subsets


class Examples(Protocol):
    """Data set that can be audited; `aradals.data.Examples` is one."""

    @property
    def ids(self) -> Tensor:
        """Ids of all examples, int64, shape (N,)."""
        ...

    def select(self, mask: Tensor) -> Self:
        """Select the examples at some positions."""
        ...

    def batches(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Iterate over batches of (ids, inputs, labels)."""
        ...


SomeExamples = TypeVar("SomeExamples", bound=Examples)

MIN_SPEARMAN, MIN_SAME_SUBSET = 0.95, 0.75
"""Limits of a ranking that is good enough. A ranking by one gradient often misses the second, a short search does not.
"""

_CLEARLY_SMALLER = 0.99


def rank_agreement(scores: Tensor, reference: Tensor, num_subsets: int = 10) -> dict[str, Any]:
    """Measure the agreement of two rankings of the same examples.

    Args:
        scores: shape (N,), finite.
        reference: shape (N,), finite.
        num_subsets: R of `assign_subsets`, which cuts both rankings; ties are broken by position.

    Returns:
        ``n``; ``num_subsets``; ``spearman``, Spearman's rank correlation, where ties have their mean rank, and which
        is 0 if all values are equal; ``same_subset``, the share of examples that both rankings put into the same
        subset; ``within_one``, the share that both put into the same or a neighboring subset. The last three have 95 %
        intervals ``..._low`` and ``..._high``: Wilson's (1927) for the shares; for the correlation Fisher's z with the
        standard error √((1 + ρ²/2)/(N - 3)) of Bonett and Wright (Psychometrika 65, 2000, p. 23-28). The intervals
        cover the expected agreement on N examples. Ranks and cuts within a sample are noisy, so that the agreement on
        all examples is a little better.

    Raises:
        InputError: values are not finite, the lengths differ, or there are fewer values than ``num_subsets``.
    """
    if scores.ndim != 1 or scores.shape != reference.shape:
        raise InputError(
            expected="two rankings of the same N examples",
            got=f"shapes {tuple(scores.shape)} and {tuple(reference.shape)}",
            hint="sorting the rows of both tables by their ids",
        )
    moved = (assign_subsets(scores, num_subsets) - assign_subsets(reference, num_subsets)).abs()
    return {
        "n": len(scores),
        "num_subsets": num_subsets,
        **_spearman(scores, reference),
        **_share("same_subset", moved == 0),
        **_share("within_one", moved <= 1),
    }


def audit_scores(
    model: nn.Module,
    examples: Examples,
    table: ScoreTable,
    *,
    num_examples: int = 256,
    attack: str | Attack = "ddn",
    attack_args: Mapping[str, Any] | None = None,
    num_subsets: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Compare scores with the norms that a strong attack verifies, on a random sample.

    Args:
        model: the scored model.
        examples: the scored examples.
        table: the scores of the examples.
        num_examples: size of the sample; all scored examples if there are fewer.
        attack: the strong attack, in L2.
        attack_args: settings of the strong attack.
        num_subsets: R.
        seed: seed of the sample.
        progress: show a progress bar on stderr.

    Returns:
        The results of `compare_with_attack`, and ``seconds``, the time of the strong attack.

    Raises:
        InputError: there is no such attack, the attack verifies no norms, or the sample is smaller than
            ``num_subsets``.
    """
    sample = audit_sample(examples, table, num_examples=num_examples, num_subsets=num_subsets, seed=seed)
    started = time.perf_counter()
    strong = score(model, sample.batches(), attack, verified=True, progress=progress, **(attack_args or {}))
    seconds = time.perf_counter() - started
    return {**compare_with_attack(table, strong, num_subsets), "seconds": seconds}


def audit_sample(
    examples: SomeExamples, table: ScoreTable, *, num_examples: int, num_subsets: int, seed: int = 0
) -> SomeExamples:
    """Draw the examples that an audit attacks, at random from those that were scored.

    Raises:
        InputError: there are fewer than ``num_subsets`` of them.
    """
    scored = torch.isin(examples.ids, table.ids).nonzero()[:, 0]
    num_examples = min(num_examples, len(scored))
    if num_examples < num_subsets:
        raise InputError(
            expected=f"at least {num_subsets} scored examples for an audit of {num_subsets} subsets",
            got=str(num_examples),
            hint="more examples or fewer subsets",
        )
    generator = torch.Generator().manual_seed(seed)
    return examples.select(scored[torch.randperm(len(scored), generator=generator)[:num_examples]])


def compare_with_attack(table: ScoreTable, strong: ScoreTable, num_subsets: int = 10) -> dict[str, Any]:
    """Compare scores with the norms of a strong attack on some of the same examples.

    The reference is the norm of the strong attack, or the verified norm of the scores if that is smaller. Examples on
    which the strong attack fails are counted and left out.

    Args:
        table: the scores.
        strong: the table of the strong attack; its ids are among the ids of ``table``.
        num_subsets: R.

    Returns:
        The results of `rank_agreement` (absent if the strong attack succeeds on fewer than ``num_subsets`` examples);
        ``scores_by`` and ``attack``, the descriptions of both attacks; ``num_examples``, the size of the sample;
        ``num_failed``, ``mean_forward`` and ``mean_backward`` (per example) of the strong attack; ``median_ratio`` of
        score to reference, which has a meaning only if the scores estimate an L2 norm; ``num_verified``, the number of
        compared scores with a verified L2 norm; ``num_norms_reduced``, the number of these for which the strong attack
        found a norm smaller by more than 1 %; ``num_reference_from_table``, the number of examples for which the
        strong attack found no smaller norm.
    """
    found = strong.norm.isfinite()
    order = table.ids.argsort()
    rows = order[torch.searchsorted(table.ids[order], strong.ids[found])]
    scores, norm, own_norm = table.score[rows].double(), strong.norm[found].double(), table.norm[rows].double()
    if "norm_order=inf" in table.attack:
        own_norm = torch.full_like(own_norm, math.inf)  # an L-inf norm is never larger than an L2 norm
    reference = norm.minimum(own_norm)
    return {
        "scores_by": table.attack,
        "attack": strong.attack,
        "num_examples": len(strong),
        "num_failed": int((~found).sum()),
        "num_subsets": num_subsets,
        **(rank_agreement(scores, reference, num_subsets) if len(scores) >= num_subsets else {}),
        "median_ratio": (scores / reference).quantile(0.5).item() if len(scores) else math.nan,
        "num_verified": int(own_norm.isfinite().sum()),
        "num_norms_reduced": int((own_norm.isfinite() & (norm < _CLEARLY_SMALLER * own_norm)).sum()),
        "num_reference_from_table": int((own_norm <= norm).sum()),
        "mean_forward": strong.num_forward.double().mean().item(),
        "mean_backward": strong.num_backward.double().mean().item(),
    }


def describe_audit(record: Mapping[str, Any]) -> str:
    """Describe the result of `audit_scores` in sentences, which start with "Warning: " if the ranking is too coarse."""
    attack, count = record["attack"].partition("(")[0], record["num_subsets"]
    if record["scores_by"] == record["attack"]:
        return f"The ranking by robustness was not audited, because {attack} made it, the attack to compare it with."
    if "spearman" not in record:
        return (
            f"Warning: the ranking by robustness could not be audited: {attack} failed on {record['num_failed']} of "
            f"{record['num_examples']} examples."
        )
    if record["spearman"] < MIN_SPEARMAN or record["same_subset"] < MIN_SAME_SUBSET:
        better = "try a slower attack, --attack secant_accurate, or fewer subsets"
        verdict = f"Warning: the ranking by robustness is too coarse for {count} subsets ({better})"
    elif record["spearman_low"] < MIN_SPEARMAN or record["same_subset_low"] < MIN_SAME_SUBSET:
        verdict = f"The ranking by robustness is probably good enough for {count} subsets (a larger audit can decide)"
    else:
        verdict = f"The ranking by robustness is good enough for {count} subsets"
    low, high = record["spearman_low"], record["spearman_high"]
    sentences = [
        f"{verdict}: of {record['n']} examples drawn at random, {_percent(record, 'same_subset', '95 % interval ')} "
        f"are in the same subset as with {attack}, and {_percent(record, 'within_one')} are in the same or a "
        f"neighboring subset; Spearman's correlation is {record['spearman']:.3f} ({low:.3f} to {high:.3f})."
    ]
    if record["num_norms_reduced"]:
        sentences.append(
            f"{attack} found a norm smaller by more than 1 % for {record['num_norms_reduced']} of "
            f"{record['num_verified']} verified norms."
        )
    if record["num_failed"]:
        sentences.append(f"{record['num_failed']} examples are left out, because {attack} failed on them.")
    return " ".join(sentences)


def _spearman(first: Tensor, second: Tensor) -> dict[str, float]:
    n = len(first)
    rho = float(torch.corrcoef(torch.stack([_mean_ranks(first), _mean_ranks(second)])).nan_to_num(0)[0, 1])
    error = math.sqrt((1 + rho**2 / 2) / (n - 3)) if n > 3 else math.inf
    # At a correlation of exactly 1 the interval would be a point, as if no two neighbors could ever swap. The limit is
    # the correlation after half a swap.
    largest = 1 - 6 / (n * (n**2 - 1)) if n > 1 else 0.0
    z = math.atanh(max(-largest, min(rho, largest)))
    quantile = torch.special.ndtri(torch.tensor(0.975, dtype=torch.float64)).item()
    low, high = math.tanh(z - quantile * error), math.tanh(z + quantile * error)
    return {"spearman": rho, "spearman_low": min(rho, low), "spearman_high": max(rho, high)}


def _mean_ranks(values: Tensor) -> Tensor:
    """Compute ranks from 1 to N, where equal values have their mean rank; shape (N,)."""
    _, group, sizes = values.detach().cpu().unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    ranks: Tensor = (last - (sizes - 1) / 2)[group]
    return ranks


def _share(name: str, members: Tensor) -> dict[str, float]:
    low, high = wilson_interval(members.sum(), torch.tensor(len(members)))
    return {name: members.double().mean().item(), f"{name}_low": float(low), f"{name}_high": float(high)}


def _percent(record: Mapping[str, Any], key: str, what: str = "") -> str:
    value, low, high = (100 * record[name] for name in (key, f"{key}_low", f"{key}_high"))
    return f"{value:.1f} % ({what}{low:.1f} to {high:.1f})"
