"""Audit of a cheap ranking: its agreement with strong attacks on a random sample."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from aradals.attacks import Attack
from aradals.errors import InputError
from aradals.metrics import Estimate, wilson_interval
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

AUDIT_ATTACKS = ("ddn", "aradals.attacks.neighbors:neighbors")
"""The attacks of an audit: one follows gradients from the input, the other starts at examples of other classes."""

MIN_SPEARMAN, MIN_SAME_SUBSET = 0.95, 0.75
"""Limits of a good ranking. A ranking by one gradient often misses the second limit, a short search does not."""

_CLEARLY_SMALLER = 0.99


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of two rankings of the same examples.

    All attributes except ``n`` have 95 % intervals: Wilson's (1927) for the shares; for the correlations Fisher's z
    with the standard errors of Bonett and Wright (Psychometrika 65, 2000, p. 23-28), which are √((1 + ρ²/2)/(N - 3))
    for Spearman's ρ, and √(0.437/(N - 4)) for Kendall's τ. The intervals cover the expected agreement on N examples.
    Ranks and cuts within a sample are noisy, so that the agreement on all examples is a little better.

    Attributes:
        n: number of examples; 0 if the rankings could not be compared.
        spearman: Spearman's rank correlation, where ties have their mean rank; 0 if all values are equal.
        same_subset: share of examples that both rankings put into the same subset.
        within_one: share of examples that both rankings put into the same or a neighboring subset.
        kendall: Kendall's rank correlation τ-b: the share of pairs in the same order minus the share in the opposite
            order, corrected for ties; 0 if all values are equal.
    """

    n: int = 0
    spearman: Estimate = field(default_factory=Estimate)
    same_subset: Estimate = field(default_factory=Estimate)
    within_one: Estimate = field(default_factory=Estimate)
    kendall: Estimate = field(default_factory=Estimate)


@dataclass(frozen=True)
class Audit:
    """Comparison of scores with the norms that strong attacks verify on some of the same examples.

    The reference is the smallest norm of the strong attacks, or the verified norm of the scores if that is smaller.
    Examples on which all strong attacks fail are counted and left out.

    Attributes:
        scores_by: description of the attack that made the scores.
        attack: descriptions of the strong attacks, joined by " and ".
        num_examples: number of examples in the sample.
        num_failed: number of examples on which the strong attacks failed.
        num_subsets: R.
        agreement: agreement of the two rankings; empty if the strong attacks succeed on fewer than R examples.
        first_alone: agreement of the first strong attack alone with the reference. It shows how certain the reference
            is; empty if there is one strong attack.
        num_carried: largest number of subsets, up to R, for which 75 % of the examples are in the same subset; 1 if
            there is none.
        median_ratio: median ratio of score to reference; it has a meaning only if the scores estimate an L2 norm.
        num_verified: number of compared scores with a verified L2 norm.
        num_norms_reduced: number of these for which a strong attack found a norm smaller by more than 1 %.
        num_reference_from_table: number of these for which no strong attack found a smaller norm.
        mean_forward: mean number of forward passes of all strong attacks for each example.
        mean_backward: mean number of their backward passes for each example.
        seconds: time of the strong attacks; NaN if it was not measured.
    """

    scores_by: str
    attack: str
    num_examples: int
    num_failed: int
    num_subsets: int
    agreement: RankAgreement = field(default_factory=RankAgreement)
    first_alone: RankAgreement = field(default_factory=RankAgreement)
    num_carried: int = 1
    median_ratio: float = math.nan
    num_verified: int = 0
    num_norms_reduced: int = 0
    num_reference_from_table: int = 0
    mean_forward: float = math.nan
    mean_backward: float = math.nan
    seconds: float = math.nan

    @property
    def attack_names(self) -> str:
        """Names of the strong attacks: ``ddn and neighbors``."""
        return " and ".join(each.partition("(")[0] for each in self.attack.split(" and "))


def rank_agreement(scores: Tensor, reference: Tensor, num_subsets: int = 10) -> RankAgreement:
    """Measure the agreement of two rankings of the same examples.

    Args:
        scores: shape (N,), finite.
        reference: shape (N,), finite.
        num_subsets: R of `assign_subsets`, which cuts both rankings; ties are broken by position.

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
    return RankAgreement(
        len(scores),
        spearman=_spearman(scores, reference),
        same_subset=_share(moved == 0),
        within_one=_share(moved <= 1),
        kendall=_kendall(scores, reference),
    )


def audit_scores(
    model: nn.Module,
    examples: Examples,
    table: ScoreTable,
    *,
    num_examples: int = 256,
    attacks: Sequence[str | Attack] = AUDIT_ATTACKS,
    num_subsets: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> Audit:
    """Compare scores with the smallest norms that strong attacks verify, on a random sample.

    Args:
        model: the scored model.
        examples: the scored examples.
        table: the scores of the examples.
        num_examples: size of the sample; all scored examples if there are fewer.
        attacks: the strong attacks, in L2.
        num_subsets: R.
        seed: seed of the sample.
        progress: show a progress bar on stderr.

    Raises:
        InputError: there is no such attack, an attack verifies no norms, or the sample is smaller than
            ``num_subsets``.
    """
    sample = audit_sample(examples, table, num_examples=num_examples, num_subsets=num_subsets, seed=seed)
    started = time.perf_counter()
    strong = [score(model, sample.batches(), attack, verified=True, progress=progress) for attack in attacks]
    seconds = time.perf_counter() - started
    return replace(compare_with_attacks(table, strong, num_subsets), seconds=seconds)


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


def compare_with_attacks(table: ScoreTable, strong: Sequence[ScoreTable], num_subsets: int = 10) -> Audit:
    """Compare scores with the smallest norms of strong attacks on some of the same examples.

    Args:
        table: the scores.
        strong: the tables of the strong attacks, of the same ids, which are among the ids of ``table``.
        num_subsets: R.
    """
    norms = torch.stack([each.norm.double() for each in strong])
    found = norms.amin(0).isfinite()
    ids, norms = strong[0].ids[found], norms[:, found]
    same, ranking = table.for_ids(ids), replace(table, score=table.ranking).for_ids(ids).score
    scores, norm, own_norm = same.score.double(), norms.amin(0), same.norm.double()
    if "norm_order=inf" in table.attack:
        own_norm = torch.full_like(own_norm, math.inf)  # an L-inf norm is never larger than an L2 norm
    reference = norm.minimum(own_norm)
    agreement, first_alone, num_carried = RankAgreement(), RankAgreement(), 1
    if len(ids) >= num_subsets:
        agreement = rank_agreement(ranking, reference, num_subsets)
        num_carried = subsets_carried(ranking, reference, num_subsets)
        if len(strong) > 1:
            # An example without a norm of the first attack has the largest rank there.
            first_alone = rank_agreement(norms[0].nan_to_num(posinf=torch.finfo().max), reference, num_subsets)
    return Audit(
        scores_by=table.attack,
        attack=" and ".join(each.attack for each in strong),
        num_examples=len(found),
        num_failed=int((~found).sum()),
        num_subsets=num_subsets,
        agreement=agreement,
        first_alone=first_alone,
        num_carried=num_carried,
        median_ratio=(scores / reference).quantile(0.5).item() if len(scores) else math.nan,
        num_verified=int(own_norm.isfinite().sum()),
        num_norms_reduced=int((own_norm.isfinite() & (norm < _CLEARLY_SMALLER * own_norm)).sum()),
        num_reference_from_table=int((own_norm <= norm).sum()),
        mean_forward=sum(each.num_forward.double().mean().item() for each in strong),
        mean_backward=sum(each.num_backward.double().mean().item() for each in strong),
    )


def subsets_carried(ranking: Tensor, reference: Tensor, num_subsets: int) -> int:
    """Find the largest number of subsets, from 1 to R, that hold at least 75 % of the examples by both rankings."""
    for count in range(num_subsets, 1, -1):
        if rank_agreement(ranking, reference, count).same_subset.value >= MIN_SAME_SUBSET:
            return count
    return 1


def describe_audit(audit: Audit) -> str:
    """Describe an audit in sentences, which start with "Warning: " if the ranking is too coarse."""
    attack, agreement = audit.attack_names, audit.agreement
    if audit.scores_by == audit.attack:
        return f"The ranking by robustness was not audited, because {attack} made the scores itself."
    if not agreement.n:
        return (
            f"Warning: the ranking by robustness could not be audited: {attack} failed on {audit.num_failed} of "
            f"{audit.num_examples} examples."
        )
    sentences = [
        f"{_verdict(agreement, audit.num_subsets)}: of {agreement.n} examples drawn at random, "
        f"{_percent(agreement.same_subset, '95 % interval ')} are in the same subset as with {attack}, and "
        f"{_percent(agreement.within_one)} are in the same or a neighboring subset; Spearman's correlation is "
        f"{_correlation(agreement.spearman)}, Kendall's {_correlation(agreement.kendall)}."
    ]
    if agreement.same_subset.value < MIN_SAME_SUBSET:
        carried = f"{audit.num_carried} subsets" if audit.num_carried > 1 else "no subsets at all"
        sentences.append(f"This ranking carries {carried}.")
        if "num_starts=0" in audit.scores_by:
            sentences.append(
                "A search from examples of other classes may rank better (--attack-args '{num_starts: 3}')."
            )
    if audit.first_alone.n and audit.first_alone.same_subset.value < MIN_SAME_SUBSET:
        first = attack.partition(" ")[0]
        sentences.append(
            f"The reference is uncertain itself: {first} alone puts only {_percent(audit.first_alone.same_subset)} "
            "into the same subset as all attacks together."
        )
    if audit.num_norms_reduced:
        sentences.append(
            f"{attack} found a norm smaller by more than 1 % for {audit.num_norms_reduced} of {audit.num_verified} "
            "verified norms."
        )
    if audit.num_failed:
        sentences.append(f"{audit.num_failed} examples are left out, because {attack} failed on them.")
    return " ".join(sentences)


def _verdict(found: RankAgreement, count: int) -> str:
    if found.spearman.value < MIN_SPEARMAN or found.same_subset.value < MIN_SAME_SUBSET:
        better = "use a slower attack, --attack secant_accurate, or fewer subsets"
        return f"Warning: the ranking by robustness is too coarse for {count} subsets ({better})"
    if found.spearman.low < MIN_SPEARMAN or found.same_subset.low < MIN_SAME_SUBSET:
        return f"The ranking by robustness is probably good enough for {count} subsets (a larger audit can confirm it)"
    return f"The ranking by robustness is good enough for {count} subsets"


def _spearman(first: Tensor, second: Tensor) -> Estimate:
    n = len(first)
    rho = float(torch.corrcoef(torch.stack([_mean_ranks(first), _mean_ranks(second)])).nan_to_num(0)[0, 1])
    error = math.sqrt((1 + rho**2 / 2) / (n - 3)) if n > 3 else math.inf
    # At a correlation of exactly 1 the interval would be a point, as if no two neighbors could ever swap. The limit is
    # the correlation after half a swap.
    return _with_fisher_interval(rho, error, largest=1 - 6 / (n * (n**2 - 1)) if n > 1 else 0.0)


def _kendall(first: Tensor, second: Tensor) -> Estimate:
    n, first, second = len(first), first.detach().cpu(), second.detach().cpu()
    agreeing, untied = 0.0, torch.zeros(2, dtype=torch.float64)
    for rows in torch.arange(n).split(1024):
        order = [(values[rows, None] - values).sign().double() for values in (first, second)]
        agreeing += float((order[0] * order[1]).sum())
        untied += torch.stack([each.abs().sum() for each in order])
    tau = agreeing / math.sqrt(untied.prod()) if untied.all() else 0.0
    error = math.sqrt(0.437 / (n - 4)) if n > 4 else math.inf
    return _with_fisher_interval(tau, error, largest=1 - 2 / (n * (n - 1)) if n > 1 else 0.0)


def _with_fisher_interval(correlation: float, error: float, *, largest: float) -> Estimate:
    """Add the 95 % interval of Fisher's z; ``largest`` is the correlation that stands for 1, which has no finite z."""
    z = math.atanh(max(-largest, min(correlation, largest)))
    quantile = torch.special.ndtri(torch.tensor(0.975, dtype=torch.float64)).item()
    low, high = math.tanh(z - quantile * error), math.tanh(z + quantile * error)
    return Estimate(correlation, min(correlation, low), max(correlation, high))


def _mean_ranks(values: Tensor) -> Tensor:
    """Compute ranks from 1 to N, where equal values have their mean rank; shape (N,)."""
    _, group, sizes = values.detach().cpu().unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    ranks: Tensor = (last - (sizes - 1) / 2)[group]
    return ranks


def _share(members: Tensor) -> Estimate:
    low, high = wilson_interval(members.sum(), torch.tensor(len(members)))
    return Estimate(members.double().mean().item(), float(low), float(high))


def _percent(share: Estimate, what: str = "") -> str:
    return f"{100 * share.value:.1f} % ({what}{100 * share.low:.1f} to {100 * share.high:.1f})"


def _correlation(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
