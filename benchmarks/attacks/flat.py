"""Rankings on networks with flat regions: the default attack without and with starts from other examples.

    python benchmarks/attacks/flat.py --output FOLDER

trains small networks on two moons and on the digits (about a minute each), and writes ``FOLDER/README.md``. The
reference on two moons is brute force: the crossings of the boundary with a grid of 2,000 x 2,000 lines. On the digits
it is the smallest norm of secant_accurate, DDN, FMN, neighbors with 20 starts, and Foolbox's DDN, each verified on the
network; none of them is the attack that is judged.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from foolbox.attacks.ddn import DDNAttack
from foolbox.criteria import Misclassification
from foolbox.models.pytorch import PyTorchModel
from scipy.spatial import KDTree
from sklearn.datasets import load_digits, make_moons
from torch import Tensor, nn

from aradals.attacks import ddn, fmn, neighbors, secant
from aradals.attacks.base import prediction_changes
from aradals.geometry import perturbation_norm
from aradals.pipeline.artifacts import versions
from aradals.robustness import ScoreTable, rank_agreement, score

Problem = tuple[nn.Module, Tensor, Tensor]
"""A network, the inputs, and their reference distances."""


class ViT(nn.Module):
    """A vision transformer of three layers, by default of width 48 for 8 x 8 images in patches of 2 x 2."""

    def __init__(
        self, width: int = 48, *, channels: int = 1, patch: int = 2, num_patches: int = 16, num_classes: int = 10
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, num_patches + 1, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(inputs), -1, -1), tokens], 1) + self.position
        logits: Tensor = self.head(self.layers(tokens)[:, 0])
        return logits


class BiLSTM(nn.Module):
    """A bidirectional LSTM over the rows of 8 x 8 images."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 10)
        self.width = width

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.lstm(inputs.reshape(-1, 8, 8))
        logits: Tensor = self.head(torch.cat([states[:, -1, : self.width], states[:, 0, self.width :]], 1))
        return logits


def fit(model: nn.Module, inputs: Tensor, labels: Tensor, rate: float, batch_size: int, smoothing: float = 0) -> None:
    """Train by 600 steps of Adam."""
    generator, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(600):
        rows = torch.arange(len(inputs))
        if batch_size < len(inputs):
            rows = torch.randint(len(inputs), (batch_size,), generator=generator)
        loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows], label_smoothing=smoothing)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    model.requires_grad_(False).eval()


def moons(smoothing: float, seed: int, size: int = 2000) -> Problem:
    """A tanh network on two moons, and 400 examples in [0, 1]."""
    points, classes = make_moons(1000, noise=0.1, random_state=seed)
    inputs = torch.tensor(0.1 + 0.8 * (points - points.min(0)) / np.ptp(points, 0), dtype=torch.float32)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    fit(model, inputs[:800], torch.tensor(classes[:800]), 0.01, 800, smoothing)
    return model, inputs[-400:], grid_distances(model, inputs[-400:], size)


def digits(make: Callable[[], nn.Module], rate: float, seed: int) -> Problem:
    """A network on the digits, and 512 test examples."""
    data, order = load_digits(), torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    inputs = torch.tensor(data.data / 16, dtype=torch.float32).view(-1, 1, 8, 8)[order]
    torch.manual_seed(seed)
    model = make()
    fit(model, inputs[:1200], torch.tensor(data.target)[order][:1200], rate, 64)
    return model, inputs[1200:1712], smallest_norms(model, inputs[1200:1712])


def grid_distances(model: nn.Module, inputs: Tensor, size: int) -> Tensor:
    """Distances in the plane to the nearest crossing of the boundary with a line of the grid."""
    line = torch.linspace(0, 1, size + 1)
    logits = torch.cat([model(points) for points in torch.cartesian_prod(line, line).split(200_000)])
    margin, crossings = (logits[:, 0] - logits[:, 1]).view(size + 1, size + 1), []
    for axis in (0, 1):
        one, other = margin.narrow(axis, 0, size), margin.narrow(axis, 1, size)
        edges = ((one > 0) != (other > 0)).nonzero()
        points = edges.double()
        points[:, axis] += (one / (one - other))[edges[:, 0], edges[:, 1]]
        crossings.append(points / size)
    return torch.tensor(KDTree(torch.cat(crossings).numpy()).query(inputs.double().numpy())[0])


def smallest_norms(model: nn.Module, inputs: Tensor) -> Tensor:
    """The smallest norms that long searches of several kinds have verified."""
    predicted = model(inputs).argmax(1)
    found = [
        secant(model, inputs, num_candidates=9, reach=2.0, steps=20, tolerance=0.02, verified=True).adv_inputs,
        ddn(model, inputs, steps=150).adv_inputs,
        fmn(model, inputs).adv_inputs,
        neighbors(model, inputs, num_starts=20, steps=12).adv_inputs,
        DDNAttack(steps=300, init_epsilon=0.3, gamma=0.02).run(
            PyTorchModel(model, bounds=(0, 1), device="cpu"), inputs, Misclassification(predicted)
        ),
    ]
    norms = [perturbation_norm(points - inputs) for points in found]
    changed = [prediction_changes(model, points, predicted) for points in found]
    return torch.stack([torch.where(*pair, math.inf) for pair in zip(changed, norms, strict=True)]).amin(0)


NETWORKS: dict[str, Callable[[int], Problem]] = {
    "two moons, tanh network": lambda seed: moons(0.0, seed),
    "two moons, tanh network, label smoothing 0.1": lambda seed: moons(0.1, seed),
    "digits, ViT": lambda seed: digits(ViT, 1e-3, seed),
    "digits, bi-LSTM": lambda seed: digits(BiLSTM, 5e-3, seed),
}


def row(network: str, seed: int, attack: str, table: ScoreTable, reference: Tensor) -> str:
    """A row of the table."""
    found = rank_agreement(table.ranking, reference)
    passes = 0.446 * table.num_forward.double().mean() + 0.554 * table.num_backward.double().mean()
    cells = [network, str(seed), attack, f"{passes:.1f}", f"{found.spearman.value:.4f}", f"{found.kendall.value:.4f}"]
    share = found.same_subset
    return "| " + " | ".join([*cells, f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), choices=list(NETWORKS), help="names of networks")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# Rankings on networks with flat regions",
        "",
        "By `benchmarks/attacks/flat.py`, whose docstring says how everything is measured. Passes for each example "
        "(f+b), and agreement with the reference over deciles, with 95 % intervals. Without the passes that decide "
        f"about starts and prepare them, some 700 and 2,000 for each table. {packages}.",
        "",
        "| network | seed | attack | f+b | Spearman | Kendall | same decile |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in arguments.only:
        for seed in arguments.seeds:
            model, inputs, reference = NETWORKS[name](seed)
            tables = {
                "secant, no starts": score(model, inputs, num_starts=0),
                "secant (default)": score(model, inputs),
                "ddn": score(model, inputs, "ddn"),
                "neighbors": score(model, inputs, neighbors),
            }
            lines += [row(name, seed, attack, table, reference) for attack, table in tables.items()]
            print("\n".join(lines[-len(tables) :]), flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
