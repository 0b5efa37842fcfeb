"""Rankings on a vision transformer at 224 pixels, and rankings in L-inf.

    python benchmarks/attacks/large.py --cifar10 PATH --checkpoint RESNET20 --output FOLDER

trains a small vision transformer (patches of 32 x 32, three layers) on 1,000 images of three classes of CIFAR-10,
enlarged to 224 x 224, and measures rankings of 100 test images. In L2 the reference is the smallest norm that a long
secant search, DDN, FMN and neighbors have verified; in L-inf, that FMN and Foolbox's FMN have verified. The L-inf rows
are of this transformer and of a ResNet-20. ``FOLDER/README.md`` is the table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from flat import ViT
from foolbox.attacks.fast_minimum_norm import LInfFMNAttack
from foolbox.criteria import Misclassification
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor, nn

from aradals.attacks import ddn, fmn, neighbors, secant
from aradals.attacks.base import prediction_changes
from aradals.data import load_data
from aradals.geometry import perturbation_norm
from aradals.models import build_model, load_checkpoint
from aradals.pipeline.artifacts import versions
from aradals.robustness import rank_agreement, score

CLASSES, SIZE, NUM_TRAINED, NUM_EPOCHS, NUM_ATTACKED = (0, 1, 6), 224, 1000, 6, 100
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "logit margin": ("logit_margin", {}),
    "first-order margin": ("first_order_margin", {}),
    "secant, no starts": ("secant", {"num_starts": 0}),
    "secant (default)": ("secant", {}),
    "secant_accurate, no starts": ("secant_accurate", {"num_starts": 0}),
}
ATTACKS_LINF: dict[str, tuple[str, dict[str, Any]]] = {
    "logit margin": ("logit_margin", {}),
    "first-order margin in L2": ("first_order_margin", {}),
    "secant in L2": ("secant", {"num_starts": 0}),
    "first-order margin": ("first_order_margin", {"norm_order": math.inf}),
    "FMN, 20 steps": ("fmn", {"norm_order": math.inf, "steps": 20}),
}


def images(path: str, split: str, count: int) -> tuple[Tensor, Tensor]:
    """The first images of three classes, and their classes."""
    examples = load_data(path, split, limit=10 * count)
    _, inputs, labels = examples.batch(range(len(examples)))
    places = torch.stack([labels == label for label in CLASSES], 1)
    rows = places.any(1).nonzero()[:count, 0]
    return inputs[rows], places[rows].long().argmax(1)


def enlarged(inputs: Tensor) -> Tensor:
    return nn.functional.interpolate(inputs, size=(SIZE, SIZE), mode="bilinear").clamp(0, 1)


def train_transformer(inputs: Tensor, labels: Tensor) -> nn.Module:
    """Train by Adam with a rate that falls to 0."""
    torch.manual_seed(0)
    model = ViT(64, channels=3, patch=32, num_patches=(SIZE // 32) ** 2, num_classes=len(CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_EPOCHS)
    for _ in range(NUM_EPOCHS):
        for rows in torch.randperm(len(inputs)).split(50):
            loss = nn.functional.cross_entropy(model(enlarged(inputs[rows])), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
    return model.requires_grad_(False).eval()


def smallest_norms(model: nn.Module, inputs: Tensor, norm_order: float) -> Tensor:
    """The smallest norms that long searches have verified."""
    with torch.no_grad():
        predicted = model(inputs).argmax(1)
    searches: Sequence[Callable[[], Tensor]]
    if norm_order == math.inf:
        bounded = PyTorchModel(model, bounds=(0, 1), device="cpu")
        searches = (
            lambda: fmn(model, inputs, norm_order=math.inf, steps=60).adv_inputs,
            lambda: LInfFMNAttack(steps=30, min_stepsize=1e-4, gamma=0.1, max_stepsize=0.1).run(
                bounded, inputs, Misclassification(predicted)
            ),
        )
    else:
        searches = (
            lambda: secant(model, inputs, reach=2.0, steps=20, tolerance=0.01, verified=True).adv_inputs,
            lambda: ddn(model, inputs, steps=50).adv_inputs,
            lambda: fmn(model, inputs, steps=50).adv_inputs,
            lambda: neighbors(model, inputs).adv_inputs,
        )
    norms = []
    for search in searches:
        points = search()
        norm = perturbation_norm(points - inputs, norm_order)
        norms.append(torch.where(prediction_changes(model, points, predicted), norm, math.inf))
    return torch.stack(norms).amin(0)


def rows(
    network: str, norm: str, model: nn.Module, inputs: Tensor, attacks: dict[str, tuple[str, dict[str, Any]]]
) -> list[str]:
    """The rows of one network in one norm."""
    reference, lines = smallest_norms(model, inputs, math.inf if norm == "L-inf" else 2), []
    for name, (attack, settings) in attacks.items():
        table = score(model, inputs, attack, batch_size=64, **settings)
        passes = 0.446 * table.num_forward.double().mean() + 0.554 * table.num_backward.double().mean()
        found = rank_agreement(table.ranking, reference)
        share = found.same_subset
        cells = [network, norm, name, f"{passes:.1f}", f"{found.spearman.value:.4f}", f"{found.kendall.value:.4f}"]
        cells.append(f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})")
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", required=True, help="data, as aradals takes them")
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights of a ResNet-20 for CIFAR-10")
    parser.add_argument("--only", nargs="*", default=["ResNet-20", "ViT"], choices=["ResNet-20", "ViT"])
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)

    lines = []
    if "ResNet-20" in arguments.only:
        residual = build_model("resnet20", num_classes=10, in_channels=3).eval()
        load_checkpoint(residual, arguments.checkpoint)
        small = load_data(arguments.cifar10, "test", limit=NUM_ATTACKED).batch(range(NUM_ATTACKED))[1]
        lines += rows("ResNet-20", "L-inf", residual, small, ATTACKS_LINF)
    if "ViT" in arguments.only:
        transformer = train_transformer(*images(arguments.cifar10, "train", NUM_TRAINED))
        tests, labels = images(arguments.cifar10, "test", NUM_ATTACKED)
        large = enlarged(tests)
        accuracy = (transformer(large).argmax(1) == labels).double().mean().item()
        name = f"ViT, 224 px (accuracy {100 * accuracy:.0f} %)"
        lines += rows(name, "L2", transformer, large, ATTACKS)
        lines += rows(name, "L-inf", transformer, large, ATTACKS_LINF)

    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    head = [
        "# Rankings at 224 pixels, and in L-inf",
        "",
        "By `benchmarks/attacks/large.py`, whose docstring says how everything is measured. Passes for each of "
        f"{NUM_ATTACKED} examples (f+b), and agreement with the reference over deciles, with 95 % intervals. "
        f"{packages}.",
        "",
        "| network | norm | attack | f+b | Spearman | Kendall | same decile |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    (arguments.output / "README.md").write_text("\n".join(head + lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
