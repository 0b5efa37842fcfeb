"""Robustness scores of a whole data set."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from aradals._internal.ids import first_of_each
from aradals._internal.optional import optional_imports
from aradals._internal.processes import of_all_processes
from aradals.attacks import (
    ATTACKS,
    Attack,
    AttackResult,
    deepfool,
    describe_attack,
    get_attack,
    log_odds,
    logit_margin,
    pgd,
)
from aradals.attacks.base import prediction_changes
from aradals.checks import check_inputs, check_output
from aradals.errors import InputError
from aradals.inference.accelerate import accelerated
from aradals.inference.batches import InputBatches, in_memory, numbered
from aradals.inference.gradients import (
    class_margin,
    forward_with_graph,
    gradients_enabled,
    input_gradient,
    margin_rounding,
    model_inputs,
)
from aradals.inference.padding import padded
from aradals.inference.predictions import evaluation_mode, try_model, understood
from aradals.robustness.starts import first_examples, sample_loader, spread_rows, uses_starts, with_starts

_NUM_TRIED = 32
_LOG_SECONDS = 30.0
_MAX_FAILED = 0.05
_MAX_NOISE = 0.02


def failed_too_often(num_failed: int, num_examples: int) -> bool:
    """Return True if a search has failed for so many examples that its scores rank nothing."""
    return num_failed > _MAX_FAILED * num_examples


@dataclass(frozen=True)
class ScoreTable:
    """Robustness of the examples of a data set; tensors on the CPU of shape (N,).

    Attributes:
        ids: int64; the row of each example in its split.
        predicted: int64; the class that the model predicts.
        score: finite; larger = more robust. An estimate of the smallest norm if the attack succeeded, else the
            first-order margin at the input. `ranking` ranks all examples.
        margin: finite; the logit of the predicted class minus the next largest logit.
        norm: L2 norm of the smallest perturbation that was seen to change the prediction; inf if there is none.
        success: bool; true if the search ended at a boundary. The scores of all other examples are fallbacks.
        num_forward: int64; forward passes spent on the example.
        num_backward: int64; backward passes, one for each gradient.
        attack: the attack and all its settings.
        seconds: time of the scoring; NaN if it was not measured.
    """

    ids: Tensor
    predicted: Tensor
    score: Tensor
    margin: Tensor
    norm: Tensor
    success: Tensor
    num_forward: Tensor
    num_backward: Tensor
    attack: str
    seconds: float = math.nan

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_failed(self) -> int:
        """Number of examples whose score is a fallback, because the search found no boundary."""
        return int((~self.success).sum())

    @property
    def by_margin(self) -> bool:
        """True if the search failed too often for a ranking by robustness, so that the logit margin ranks."""
        return failed_too_often(self.num_failed, len(self))

    @property
    def ranking(self) -> Tensor:
        """Values that rank the examples, float64, shape (N,); larger = more robust.

        These are the scores. An example without a boundary is neither the least nor the most robust: it takes the
        place that its logit margin has among the margins of the others. If the search failed for more than 5 % of the
        examples, all values are logit margins, which need no search.
        """
        margin, values, found = self.margin.double(), self.score.double(), self.success
        if self.by_margin:
            return margin
        place = torch.searchsorted(margin[found].sort().values, margin)
        stand_in = values[found].sort().values[place.clamp(max=int(found.sum()) - 1)]
        return torch.where(found, values, stand_in)

    def for_ids(self, ids: Tensor) -> ScoreTable:
        """Select the rows of these examples, in this order.

        Raises:
            InputError: the table has no score for some of them.
        """
        known = torch.isin(ids, self.ids[~self.score.isnan()])
        if not known.all():
            raise InputError(
                expected="a score for every example",
                got=f"no score for {int((~known).sum())} of {len(ids)}",
                hint="scoring the same split with the same limit",
            )
        ids_in_order, order = self.ids.sort()
        rows = order[torch.searchsorted(ids_in_order, ids)]
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})


_COLUMNS = tuple(field.name for field in fields(ScoreTable) if field.name not in ("attack", "seconds"))


def score(
    model: nn.Module,
    batches: InputBatches,
    attack: str | Attack = "secant",
    *,
    batch_size: int = 256,
    verified: bool = False,
    bf16: bool = False,
    starts: Tensor | None = None,
    progress: bool = False,
    **attack_args: Any,
) -> ScoreTable:
    """Score the robustness of each input: its distance to a change of the model's own prediction.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K). The call does not change the model.
        batches: a tensor of inputs (N, ...); a tuple (inputs, labels); or an iterable of batches, each a tensor of
            inputs, a pair (inputs, labels) or a triple (ids, inputs, labels). If there are no ids, the id of an
            example is its running number. If several examples have the same id, the first one counts; distributed
            samplers repeat examples to fill their batches.
        attack: see `aradals.attacks.get_attack`.
        batch_size: number of examples attacked at a time, if ``batches`` is a tensor or a tuple.
        verified: also verify a perturbation that changes the prediction, for ``norm``.
        bf16: attack a copy of the model that computes in bfloat16. This is faster on some hardware, and less precise:
            up to 1 example in 10 moves to a neighboring decile of the ranking.
        starts: examples, shape (M, ...), that the search for examples of other classes starts from, if the attack has
            such a search. By default, a random quarter (from 32 to 128) of a tensor or of the data set of a
            ``DataLoader``, or the first 128 of other batches. The default attack uses them only if they find clearly
            nearer boundaries for more than 5 % of 32 of them, as on networks with flat regions; the description of the
            attack says so. Give the same examples to calls that score splits to be compared, or parts of one data set.
        progress: show a bar on stderr, with the rate and the remaining time (needs tqdm).
        **attack_args: arguments of the attack.

    Returns:
        A table sorted by id, each id once.

    Raises:
        InputError: inputs that are not floats in [0, 1]; rows without a clear identity; logits that are NaN, of a
            wrong shape, or probabilities; an unknown attack or argument; a model without gradients, with a prediction
            that never changes, or with other logits in every call; an attack that verifies no norm although
            ``verified`` is set.
    """
    tables = score_batches(
        model, batches, attack, batch_size=batch_size, verified=verified, bf16=bf16, starts=starts, **attack_args
    )
    if progress:
        tables = with_progress(tables, _num_examples(batches))
    return merge_tables(list(tables))


def score_batches(
    model: nn.Module,
    batches: InputBatches,
    attack: str | Attack = "secant",
    *,
    batch_size: int = 256,
    verified: bool = False,
    bf16: bool = False,
    starts: Tensor | None = None,
    **attack_args: Any,
) -> Iterator[ScoreTable]:
    """Run `score` batch by batch: yield the table of each batch, in order, so that memory does not grow.

    The model is copied once, for speed (`aradals.inference.accelerate.accelerated`). After the last batch, a check
    raises an error if no input changes the model's prediction.

    Args:
        model: see `score`.
        batches: see `score`.
        attack: see `score`.
        batch_size: see `score`.
        verified: see `score`.
        bf16: see `score`.
        starts: see `score`.
        **attack_args: arguments of the attack.

    Raises:
        InputError: see `score`.
    """
    run_attack = choose_attack(attack, attack_args, verified=verified)
    if starts is None and uses_starts(run_attack):
        starts = _starts_of(batches)
    unlabeled = ((ids, inputs) for ids, inputs, _ in numbered(batches, batch_size))
    return _score_batches(model, unlabeled, run_attack, verified, bf16, starts)


def _score_batches(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    run_attack: Attack,
    verified: bool,
    bf16: bool,
    starts: Tensor | None,
) -> Iterator[ScoreTable]:
    fast, num_done, moved, depends = None, 0, False, False
    if starts is None and uses_starts(run_attack):
        starts, batches = first_examples(batches)
    some: tuple[Tensor, Tensor] | None = None
    generator = torch.Generator().manual_seed(0)
    for ids, inputs in batches:
        check_inputs(inputs)
        if fast is None:
            model = padded(understood(model, inputs)[0], inputs)
            if _uses_gradients(run_attack):
                check_differentiable(model, inputs)
            check_repeatable(model, inputs)
            fast = accelerated(model, inputs, bf16=bf16)
            if starts is not None and uses_starts(run_attack):
                run_attack = with_starts(run_attack, fast, starts, len(inputs))
            description = describe_attack(run_attack)
        result = run_attack(fast, inputs)
        if verified and result.success.any() and not result.norm.isfinite().any():
            raise InputError(
                expected="an attack that verifies its norms",
                got=f"{description}, which verified no norm of {len(ids)} examples",
                hint="secant or ddn, or scores without verified norms",
            )
        if fast is not model:
            result = _confirm(model, inputs, result, bf16)
        num_done += len(ids)
        moved = moved or bool((result.success | (result.score > 0)).any())
        if not depends:
            some = _sample(some, inputs, result.predicted, generator)
            other_class = (result.predicted.cpu() != some[1][0]).any()
            depends = bool(other_class or result.norm.isfinite().any())
        # The table has no perturbed inputs, so that memory does not grow with the size of an input.
        columns = {name: getattr(result, name).cpu() for name in _COLUMNS if name != "ids"}
        yield ScoreTable(ids=ids.long().cpu(), **columns, attack=description)

    if some is None:
        raise InputError(expected="at least one example", got="no example", hint="another split or a larger limit")
    if not moved or not (depends or _prediction_depends_on(model, *some)):
        raise InputError(
            expected="a model whose prediction depends on its input",
            got=f"the same class, or no gradient, for all of {num_done} examples and all changes to them",
            hint="a model whose training has not collapsed, with a forward that does not detach, round or threshold",
        )


def _starts_of(batches: InputBatches) -> Tensor | None:
    """Draw the examples to start from, if the batches have rows to choose from."""
    if tensors := in_memory(batches):
        return tensors[0][spread_rows(len(tensors[0]))]
    loader = sample_loader(batches) if isinstance(batches, DataLoader) else None
    return None if loader is None else torch.cat([inputs for _, inputs, _ in numbered(loader, _NUM_TRIED)])


def choose_attack(attack: str | Attack, attack_args: dict[str, Any], *, verified: bool = False) -> Attack:
    """Bind the arguments of an attack; with ``verified``, also its setting of this name if it has one.

    Raises:
        InputError: there is no such attack or argument.
    """
    run_attack = get_attack(attack, **attack_args)
    if verified and "verified" in inspect.signature(run_attack).parameters:
        run_attack = get_attack(run_attack, verified=True)
    return run_attack


def merge_tables(tables: Sequence[ScoreTable]) -> ScoreTable:
    """Merge tables by the same attack into one, sorted by id; if rows have the same id, the first one counts.

    Raises:
        InputError: the tables are by several attacks, so that their scores are not comparable.
    """
    attack = one_attack([table.attack for table in tables])
    columns: dict[str, Any] = {name: torch.cat([getattr(table, name) for table in tables]) for name in _COLUMNS}
    kept = first_of_each(columns["ids"])
    return ScoreTable(**{name: column[kept] for name, column in columns.items()}, attack=attack)


def score_together(score_part: Callable[[], ScoreTable]) -> ScoreTable:
    """Merge the scores of the processes that train together, see `merge_tables`; each must call this function.

    Args:
        score_part: scores the part of this process.

    Raises:
        InputError: the scores of one process fail. All processes raise the error, so that none waits for another.
    """
    part: ScoreTable | InputError
    try:
        part = score_part()
    except InputError as error:
        part = error
    tables = []
    for each in of_all_processes(part):
        if isinstance(each, InputError):
            raise each
        tables.append(each)
    return merge_tables(tables)


def one_attack(attacks: Iterable[str]) -> str:
    """Return the attack of all parts of a table.

    Raises:
        InputError: the parts are by several attacks, so that their scores are not comparable.
    """
    attack, *others = sorted(set(attacks))
    if others:
        raise InputError(
            expected="one attack for all parts of a table",
            got="; ".join([attack, *others]),
            hint="--attack-args '{num_starts: 3}', which decides for all parts",
        )
    return attack


def with_progress(tables: Iterable[ScoreTable], total: int | None) -> Iterator[ScoreTable]:
    """Pass on the tables that `score_batches` yields, and show a bar, see `progress_bar`.

    Args:
        tables: the tables.
        total: number of examples, if known.
    """
    with progress_bar(total) as bar:
        for table in tables:
            yield table
            bar.update(len(table))


def progress_bar(total: int | None, *, unit: str = "img") -> Any:
    """Make a bar on stderr: live on a terminal, one line every half minute in a log file; none if TQDM_DISABLE is set.

    Args:
        total: number of units, if known.
        unit: what the bar counts.

    Raises:
        MissingExtraError: tqdm is not installed.
    """
    with optional_imports():
        from tqdm import tqdm
    on_terminal = sys.stderr.isatty()
    pause = 0.1 if on_terminal else _LOG_SECONDS
    return tqdm(
        total=total,
        disable="TQDM_DISABLE" in os.environ,
        unit=unit,
        leave=False,
        file=sys.stderr,
        ascii=not on_terminal,
        mininterval=pause,
        maxinterval=max(10.0, pause),
        delay=0 if on_terminal else pause,  # short work leaves no trace in a log
    )


def check_differentiable(model: nn.Module, inputs: Tensor) -> None:
    """Check that ``model`` has gradients, by one gradient before an attack takes thousands.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1]; the check uses a few of them, and a few random inputs.

    Raises:
        InputError: the model cannot be called, it has no gradient, or its gradient vanishes at all of these inputs.
    """
    got, some = "logits without a gradient", inputs[:_NUM_TRIED]
    try_model(model, some)
    try:
        with gradients_enabled(model):
            for tried in (some, _noise(some)):
                points, logits = forward_with_graph(model, model_inputs(model, tried))
                check_output(logits, len(tried))
                lead = logits.amax(1) - logits.mean(
                    1
                )  # the mean over all classes, because two classes may tie everywhere
                if input_gradient(lead, points).any():
                    return
                if lead.requires_grad:
                    got = f"a gradient of 0 at {len(some)} inputs and at {len(some)} random ones"
    except RuntimeError as error:
        got = f"{type(error).__name__}: {error}"
    raise InputError(
        expected="a model whose logits have a gradient with respect to its inputs",
        got=got,
        hint="torch.backends.cudnn.flags(enabled=False) around the recurrent layers in forward"
        if "cudnn RNN" in got
        else "a forward without no_grad, inference_mode, detach, rounding, numpy or quantized layers",
    )


def check_repeatable(model: nn.Module, inputs: Tensor) -> None:
    """Check that ``model`` says the same of an example in every call: twice, and alone or in a batch.

    Args:
        model: maps inputs in [0, 1] to logits of shape (N, K).
        inputs: shape (N, ...), values in [0, 1]; the check uses a few of them.

    Raises:
        InputError: the logit margins differ by more than rounding and 2 % of their spread.
    """
    with evaluation_mode(model), torch.no_grad():
        some = model_inputs(model, inputs[:_NUM_TRIED])
        logits = check_output(model(some.clone()), len(some))
        again, alone = model(some.clone()), torch.cat([model(each.clone()) for each in some.split(1)])
    margin, predicted, rival = class_margin(logits.double())
    spread = margin.std() if len(margin) > 1 else margin.abs().mean()
    rounding = margin_rounding(logits, predicted, rival, 4 * torch.finfo(logits.dtype).eps).max()
    for other, calls, hint in (
        (again, "two equal calls", "a model whose dropout or noise is off in evaluation mode"),
        (alone, "a call with the example alone and one with others", "a model that normalizes by running statistics"),
    ):
        noise = (class_margin(other.double(), predicted)[0] - margin).square().mean().sqrt()
        if noise > max(_MAX_NOISE * spread, rounding):
            raise InputError(
                expected="a model that always computes the same logits for an example",
                got=f"logit margins that differ by {100 * noise / spread:.0f} % of their spread between {calls}",
                hint=hint,
            )


def _uses_gradients(run_attack: Attack) -> bool:
    """Return True for an attack of this package that uses gradients; the code assumes nothing about other attacks."""
    attack = getattr(run_attack, "func", run_attack)
    ours = attack is pgd or any(attack is other for other in ATTACKS.values())
    return ours and attack not in (logit_margin, log_odds)


def _confirm(model: nn.Module, inputs: Tensor, result: AttackResult, bf16: bool) -> AttackResult:
    """Verify on ``model`` the result of a faster copy: a norm counts only if it changes the prediction of ``model``.

    A perturbation that ends just behind the boundary of the copy may, because of rounding, end before the boundary of
    the model. Such a perturbation is lengthened. The predictions are those of the copy, which differ only by rounding,
    except with bf16.
    """
    predicted, num_forward = result.predicted, result.num_forward + int(bf16)
    norm = torch.full_like(result.norm, torch.inf)
    with evaluation_mode(model), torch.no_grad():
        origin = model_inputs(model, inputs)
        if bf16:
            predicted = check_output(model(origin), len(inputs)).argmax(1)
        for lengthening in (1.0, 1.001, 1.01, 1.1):
            rows = (result.norm.isfinite() & norm.isinf()).nonzero()[:, 0]
            if len(rows) == 0:
                break
            start = origin[rows]
            points = (start + lengthening * (model_inputs(model, result.adv_inputs[rows]) - start)).clamp(0, 1)
            changed = prediction_changes(model, points, predicted[rows])
            norm[rows[changed]] = lengthening * result.norm[rows[changed]]  # an upper bound: the box may shorten it
            num_forward[rows] += 1
    success = result.success & (norm.isfinite() | result.norm.isinf())
    return replace(result, predicted=predicted, norm=norm, success=success, num_forward=num_forward)


def _sample(
    before: tuple[Tensor, Tensor] | None, inputs: Tensor, predicted: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Keep a few of the examples seen so far, spread over the data: (inputs, predicted)."""
    keep = torch.randperm(len(inputs), generator=generator)[:_NUM_TRIED]
    chosen, classes = inputs[keep].cpu(), predicted.cpu()[keep]
    if before is None:
        return chosen, classes
    # Old and new examples have equal parts. The spread is uneven, but it covers the beginning and the end.
    keep = torch.randperm(len(before[0]) + len(chosen), generator=generator)[:_NUM_TRIED]
    return torch.cat([before[0], chosen])[keep], torch.cat([before[1], classes])[keep]


def _prediction_depends_on(model: nn.Module, inputs: Tensor, predicted: Tensor) -> bool:
    """Return True if the model predicts another class than ``predicted`` near some of ``inputs`` or at random ones."""
    with evaluation_mode(model):
        points = model_inputs(model, _noise(inputs))
        elsewhere = prediction_changes(model, points, predicted[0].to(points.device))
    return bool(elsewhere.any()) or bool(deepfool(model, inputs).success.any())


def _noise(inputs: Tensor) -> Tensor:
    """Draw uniformly random inputs in [0, 1], of the same shape."""
    return torch.rand(inputs.shape, generator=torch.Generator().manual_seed(0)).to(inputs)


def _num_examples(batches: InputBatches) -> int | None:
    """Count the examples, if the number is known."""
    if isinstance(batches, DataLoader):
        return len(batches.dataset) if isinstance(batches.dataset, Sized) else None
    tensors = in_memory(batches)
    return None if tensors is None else len(tensors[0])
