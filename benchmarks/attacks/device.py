"""Attacks on a GPU: images per second, and whether the scores are those of the CPU.

    python benchmarks/attacks/device.py --cifar10 PATH --checkpoint FILE [--device cuda] [--num-examples 2048]

FILE holds the weights of a ResNet-20 for CIFAR-10. Each attack runs once to warm up, and then ``--rounds`` times in
turns with the others. The first examples are scored on the CPU, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from foolbox.attacks.ddn import DDNAttack
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from aradals import score
from aradals.data import Examples, load_data
from aradals.geometry import perturbation_norm
from aradals.models import build_model, load_checkpoint
from aradals.robustness.audit import rank_agreement

ATTACKS = ("first_order_margin", "secant", "deepfool", "ddn", "fmn")
BATCH_SIZE = 1024


def our_scores(attack: str, model: nn.Module, examples: Examples) -> Tensor:
    return score(model, examples.batches(BATCH_SIZE), attack).score


def foolbox_scores(model: nn.Module, examples: Examples) -> Tensor:
    """Norms of Foolbox's DDN with 100 steps."""
    device = next(model.parameters()).device
    attacked, norms = PyTorchModel(model, bounds=(0, 1), device=device), []
    for _, inputs, _ in examples.batches(BATCH_SIZE):
        inputs = inputs.to(device)
        adv_inputs = DDNAttack(steps=100).run(attacked, inputs, model(inputs).argmax(1))
        norms.append(perturbation_norm(adv_inputs - inputs).cpu())
    return torch.cat(norms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", required=True, help="data, as aradals takes them")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--num-examples", type=int, default=2048)
    parser.add_argument("--on-cpu", type=int, default=256, help="examples that are scored on the CPU, too")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    model = build_model("resnet20", num_classes=10, in_channels=3).eval()
    load_checkpoint(model, given.checkpoint)
    examples = load_data(given.cifar10, "test", limit=given.num_examples)
    few = examples.select(torch.arange(given.on_cpu))
    on_cpu = {name: our_scores(name, model, few) for name in ATTACKS}
    model.to(given.device)
    contenders: dict[str, Callable[[], Tensor]] = {
        **{name: lambda name=name: our_scores(name, model, examples) for name in ATTACKS},  # type: ignore[misc]
        "Foolbox: DDN, 100 steps": lambda: foolbox_scores(model, examples),
    }
    found = {name: run() for name, run in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(given.rounds):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()  # ends with scores on the CPU, so that the device has finished
            seconds[name].append(time.perf_counter() - started)
    where = torch.cuda.get_device_name() if given.device == "cuda" else given.device
    print(f"torch {torch.__version__}, {where}, {len(examples)} test images, median of {given.rounds} (min to max)")
    print("| attack | images/s | same decile as DDN of Foolbox | same decile as on the CPU | largest difference |")
    print("|---|---|---|---|---|")
    for name, scores in found.items():
        rates = sorted(len(examples) / each for each in seconds[name])
        row = f"{statistics.median(rates):.0f} ({rates[0]:.0f} to {rates[-1]:.0f})"
        row += f" | {rank_agreement(scores, found['Foolbox: DDN, 100 steps']).same_subset.value:.3f}"
        if name in on_cpu:
            there, here = on_cpu[name], scores[: given.on_cpu]
            same = rank_agreement(here, there).same_subset.value
            row += f" | {same:.3f} | {float(((here - there).abs() / there).max()):.1e}"
        else:
            row += " | |"
        print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
