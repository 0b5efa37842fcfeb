"""Score tables of whole splits on disk, and the robustness subsets that they give."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from aradals.adaptive_smoothing import assign_subsets
from aradals.artifacts import load_scores, save_scores, versions
from aradals.attacks import describe_attack, get_attack
from aradals.data import Examples
from aradals.errors import InputError
from aradals.margins import forward_with_graph, gradients_enabled, input_gradient, model_inputs
from aradals.robustness import score
from aradals.stages import run_stage


def score_examples(
    model: nn.Module,
    examples: Examples,
    path: Path,
    *,
    attack: str,
    attack_args: dict[str, Any],
    model_digest: str,
) -> None:
    """Score a split with a progress bar (on a terminal), and write the table with its provenance and cost."""
    started = time.perf_counter()
    with tqdm(total=len(examples), unit="img", disable=None, leave=False) as bar:

        def advance(num_done: int) -> None:
            bar.update(num_done - bar.n)

        table = score(model, examples.batches(), attack, progress=advance, **attack_args)
    save_scores(
        path,
        table,
        {
            "model_digest": model_digest,
            "data": examples.name,
            "data_fingerprint": examples.fingerprint,
            "seconds": f"{time.perf_counter() - started:.2f}",
            "versions": json.dumps(versions()),
        },
    )


def score_stage(
    model: nn.Module,
    examples: Examples,
    folder: Path,
    *,
    attack: str,
    attack_args: dict[str, Any],
    model_digest: str,
    log: Callable[[str], None],
) -> Path:
    """Score a split, unless that was done before from the same inputs; returns the table's path."""
    inputs = {
        "attack": describe_attack(attack, attack_args),
        "model": model_digest,
        "data": examples.fingerprint,
    }

    def make(folder: Path) -> None:
        log(f"{len(examples)} examples by {inputs['attack']}")
        score_examples(
            model,
            examples,
            folder / "scores.parquet",
            attack=attack,
            attack_args=attack_args,
            model_digest=model_digest,
        )

    run_stage(folder, inputs, make, log)
    return folder / "scores.parquet"


def subsets_of(scores: Path, ids: Tensor, num_subsets: int) -> Tensor:
    """The robustness subset of each of ``ids``, ranked among them, from a score table.

    Raises:
        InputError: the table lacks some of them.
    """
    table, _ = load_scores(scores)
    score_of = torch.full((int(max(table.ids.max(), ids.max())) + 1,), float("nan"), dtype=torch.float64)
    score_of[table.ids] = table.score.double()
    found = score_of[ids]
    if found.isnan().any():
        raise InputError(
            expected=f"a score for every example in {scores}",
            got=f"none for {int(found.isnan().sum())} of {len(ids)}",
            hint="scoring the same split with the same --limit",
        )
    return assign_subsets(found, num_subsets, ids)


def check_attack(attack: str, attack_args: dict[str, Any]) -> None:
    """Try an attack and its settings on a single two-dimensional input, before they are needed.

    Raises:
        InputError: no such attack or setting, or a value that it cannot have.
    """
    run_attack = get_attack(attack, **attack_args)
    try:
        run_attack(nn.Identity(), torch.tensor([[0.9, 0.3]]))
    except (TypeError, RuntimeError) as error:
        raise InputError(
            expected=f"settings that {attack} can use", got=f"{attack_args} ({error})", hint="numbers"
        ) from error


def check_differentiable(model: nn.Module, inputs: Tensor) -> None:
    """Take one gradient of ``model``, before its robustness is measured by thousands.

    Raises:
        InputError: the model has none.
    """
    got = "logits without a gradient"
    try:
        with gradients_enabled(model):
            points, logits = forward_with_graph(model, model_inputs(model, inputs))
            if logits.requires_grad:
                input_gradient(logits.amax(1), points)
                return
    except RuntimeError as error:
        got = f"{type(error).__name__}: {error}"
    raise InputError(
        expected="a model whose logits have a gradient with respect to its inputs",
        got=got,
        hint="a forward without no_grad, inference_mode, detach, numpy or quantised layers",
    )


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
