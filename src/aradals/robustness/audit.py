"""What a cheap ranking is worth on one's own model: how far it agrees with a strong attack on a random sample."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from aradals.attacks import Attack
from aradals.errors import InputError
from aradals.metrics import Estimate, wilson_interval
from aradals.robustness.scores import ScoreTable, score
from aradals.smoothing.subsets import assign_subsets


class Examples(Protocol):
    """What an audit needs of a data set; `aradals.data.Examples` has it."""

    @property
    def ids(self) -> Tensor:
        """Of all examples, int64, shape (N,)."""
        ...

    def select(self, mask: Tensor) -> Self:
        """The examples at some positions."""
        ...

    def batches(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Batches of (ids, inputs, labels)."""
        ...


SomeExamples = TypeVar("SomeExamples", bound=Examples)

MIN_SPEARMAN, MIN_SAME_SUBSET = 0.95, 0.75
"""What a ranking needs to be good enough. One gradient often falls short of the second, a short search does not."""

_CLEARLY_SMALLER = 0.99


@dataclass(frozen=True)
class RankAgreement:
    """How far two rankings of the same examples agree.

    The three figures come with 95 % intervals: Wilson's (1927) for the shares; for the correlation Fisher's z with the
    standard error √((1 + ρ²/2)/(N - 3)) of Bonett and Wright (Psychometrika 65, 2000, p. 23-28). They cover what is
    expected of N examples. Ranks and cuts within a sample are noisy: all examples together agree a little better.

    Attributes:
        n: number of examples; 0 where the rankings could not be compared.
        spearman: Spearman's rank correlation, ties with their mean rank; 0 where all values are equal and rank nothing.
        same_subset: share of examples that both rankings put into the same subset.
        within_one: share that they put into the same subset or a neighboring one.
    """

    n: int = 0
    spearman: Estimate = field(default_factory=Estimate)
    same_subset: Estimate = field(default_factory=Estimate)
    within_one: Estimate = field(default_factory=Estimate)


@dataclass(frozen=True)
class Audit:
    """Scores compared with the norms that a strong attack verifies on some of the same examples.

    The reference is the smaller of the two verified norms where the scores come with norms of their own. Examples on
    which the strong attack fails are counted and left out.

    Attributes:
        scores_by: the attack that made the scores, described.
        attack: the strong attack, described.
        num_examples: in the sample.
        num_failed: examples on which the strong attack failed.
        num_subsets: R.
        agreement: of the two rankings; empty where the attack left fewer than R examples.
        median_ratio: of score to reference; it means something only for scores that estimate an L2 norm.
        num_verified: compared scores that come with a verified L2 norm.
        num_norms_reduced: of these, how many the strong attack reduced by more than 1 %.
        num_reference_from_table: of these, how many the strong attack did not reduce.
        mean_forward: forward passes of the strong attack per example.
        mean_backward: backward passes.
        seconds: of the strong attack; NaN where it was not timed.
    """

    scores_by: str
    attack: str
    num_examples: int
    num_failed: int
    num_subsets: int
    agreement: RankAgreement = field(default_factory=RankAgreement)
    median_ratio: float = math.nan
    num_verified: int = 0
    num_norms_reduced: int = 0
    num_reference_from_table: int = 0
    mean_forward: float = math.nan
    mean_backward: float = math.nan
    seconds: float = math.nan


def rank_agreement(scores: Tensor, reference: Tensor, num_subsets: int = 10) -> RankAgreement:
    """Measure how far two rankings of the same examples agree.

    Args:
        scores: shape (N,), finite.
        reference: shape (N,), finite.
        num_subsets: R of `assign_subsets`, which cuts both rankings; ties are broken by position.

    Raises:
        InputError: values that are not finite, of different lengths, or fewer than ``num_subsets``.
    """
    if scores.ndim != 1 or scores.shape != reference.shape:
        raise InputError(
            expected="two rankings of the same N examples",
            got=f"shapes {tuple(scores.shape)} and {tuple(reference.shape)}",
            hint="the rows of both tables in the order of their ids",
        )
    moved = (assign_subsets(scores, num_subsets) - assign_subsets(reference, num_subsets)).abs()
    return RankAgreement(len(scores), _spearman(scores, reference), _share(moved == 0), _share(moved <= 1))


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
) -> Audit:
    """Compare scores with the norms that a strong attack verifies, on a random sample.

    Args:
        model: the one that was scored.
        examples: what was scored.
        table: its scores.
        num_examples: size of the sample; all that were scored, where there are fewer.
        attack: the strong one; L2.
        attack_args: its settings.
        num_subsets: R.
        seed: of the sample.
        progress: whether to show a progress bar on stderr.

    Raises:
        InputError: no attack of that name, or one that verifies no norms; a sample smaller than ``num_subsets``.
    """
    sample = audit_sample(examples, table, num_examples=num_examples, num_subsets=num_subsets, seed=seed)
    started = time.perf_counter()
    strong = score(model, sample.batches(), attack, verified=True, progress=progress, **(attack_args or {}))
    seconds = time.perf_counter() - started
    return replace(compare_with_attack(table, strong, num_subsets), seconds=seconds)


def audit_sample(
    examples: SomeExamples, table: ScoreTable, *, num_examples: int, num_subsets: int, seed: int = 0
) -> SomeExamples:
    """Draw the examples that an audit attacks, at random from those that were scored.

    Raises:
        InputError: fewer than ``num_subsets`` of them.
    """
    scored = torch.isin(examples.ids, table.ids).nonzero()[:, 0]
    num_examples = min(num_examples, len(scored))
    if num_examples < num_subsets:
        raise InputError(
            expected=f"at least {num_subsets} scored examples to audit {num_subsets} subsets on",
            got=str(num_examples),
            hint="more examples or fewer subsets",
        )
    generator = torch.Generator().manual_seed(seed)
    return examples.select(scored[torch.randperm(len(scored), generator=generator)[:num_examples]])


def compare_with_attack(table: ScoreTable, strong: ScoreTable, num_subsets: int = 10) -> Audit:
    """Compare scores with the norms of a strong attack on some of the same examples.

    Args:
        table: the scores.
        strong: what the strong attack found; its ids are among those of ``table``.
        num_subsets: R.
    """
    found = strong.norm.isfinite()
    same = table.for_ids(strong.ids[found])
    scores, norm, own_norm = same.score.double(), strong.norm[found].double(), same.norm.double()
    if "norm_order=inf" in table.attack:
        own_norm = torch.full_like(own_norm, math.inf)  # an L-inf norm is always the smaller one
    reference = norm.minimum(own_norm)
    return Audit(
        scores_by=table.attack,
        attack=strong.attack,
        num_examples=len(strong),
        num_failed=int((~found).sum()),
        num_subsets=num_subsets,
        agreement=rank_agreement(scores, reference, num_subsets) if len(scores) >= num_subsets else RankAgreement(),
        median_ratio=(scores / reference).quantile(0.5).item() if len(scores) else math.nan,
        num_verified=int(own_norm.isfinite().sum()),
        num_norms_reduced=int((own_norm.isfinite() & (norm < _CLEARLY_SMALLER * own_norm)).sum()),
        num_reference_from_table=int((own_norm <= norm).sum()),
        mean_forward=strong.num_forward.double().mean().item(),
        mean_backward=strong.num_backward.double().mean().item(),
    )


def describe_audit(audit: Audit) -> str:
    """Say in plain sentences what an audit found; they start with "Warning: " where the ranking is too coarse."""
    attack, agreement = audit.attack.partition("(")[0], audit.agreement
    if audit.scores_by == audit.attack:
        return f"The ranking by robustness was not audited, because {attack} made the scores itself."
    if not agreement.n:
        return (
            f"Warning: the ranking by robustness could not be audited: {attack} failed on {audit.num_failed} of "
            f"{audit.num_examples} examples."
        )
    sentences = [
        f"{_verdict(agreement, audit.num_subsets)}: of {agreement.n} examples drawn at random "
        f"{_percent(agreement.same_subset, '95 % interval ')} are in the same subset as by {attack}, "
        f"{_percent(agreement.within_one)} in the same or the next one; Spearman's correlation is "
        f"{agreement.spearman.value:.3f} ({agreement.spearman.low:.3f} to {agreement.spearman.high:.3f})."
    ]
    if audit.num_norms_reduced:
        sentences.append(
            f"Of {audit.num_verified} verified norms {attack} found {audit.num_norms_reduced} to be too large by more "
            "than 1 %."
        )
    if audit.num_failed:
        sentences.append(f"Left out: {audit.num_failed} on which {attack} failed.")
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
    # At exactly 1 the interval would be a point, as if no example could ever swap with its neighbor: half a swap off.
    largest = 1 - 6 / (n * (n**2 - 1)) if n > 1 else 0.0
    z = math.atanh(max(-largest, min(rho, largest)))
    quantile = torch.special.ndtri(torch.tensor(0.975, dtype=torch.float64)).item()
    low, high = math.tanh(z - quantile * error), math.tanh(z + quantile * error)
    return Estimate(rho, min(rho, low), max(rho, high))


def _mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 1 on, the mean rank where values are equal; shape (N,)."""
    _, group, sizes = values.detach().cpu().unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    ranks: Tensor = (last - (sizes - 1) / 2)[group]
    return ranks


def _share(members: Tensor) -> Estimate:
    low, high = wilson_interval(members.sum(), torch.tensor(len(members)))
    return Estimate(members.double().mean().item(), float(low), float(high))


def _percent(share: Estimate, what: str = "") -> str:
    return f"{100 * share.value:.1f} % ({what}{100 * share.low:.1f} to {100 * share.high:.1f})"
