"""Attacks as rankers: cost, and agreement with the best-known norms, beside Foolbox and ART in the same process.

    python benchmarks/attacks/run.py --cifar10 PATH --tiny-imagenet PATH --output FOLDER

trains the networks of ``networks/``, searches reference norms on each, and runs every attack; what is there already is
not done again. ``--checkpoint`` and ``--reference`` add a trained ResNet-20 and its best-known norms (a parquet file
with columns id, row of the test split, and norm); the long searches run on it alone. ``FOLDER/README.md`` is the table,
``FOLDER/results.jsonl`` its rows.

- Cost: forward and backward passes that the network saw for each example, whoever asked for them, counted by a wrapper
  around it. 1 f+b = one forward and one backward pass to the input; a forward pass alone counts 0.446.
- CPU: process time on one thread, over that of one f+b on the same network, measured right before and right after each
  batch of the attack. Every attack gets the same accelerated copy of the network.
- Reference: for each example the smallest norm that any of four long searches (and the given file) has found, verified
  on the network as it was before acceleration. The other libraries' searches rank by the norm where they ended, also
  those that failed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from searches import LONG, OURS, Outcome, Search, reference_searches
from table import write_table
from torch import Tensor, nn
from trained import NETWORKS, attacked_examples, train

from aradals._internal.files import atomic_path
from aradals.attacks import first_order_margin
from aradals.attacks.base import prediction_changes
from aradals.data import load_data
from aradals.geometry import perturbation_norm
from aradals.inference.accelerate import accelerated
from aradals.metrics import Estimate
from aradals.models import build_model, load_checkpoint
from aradals.robustness.audit import rank_agreement

BATCH_SIZE = 256
FORWARD_SHARE = 0.446  # of one f+b, measured on a ResNet-20


class Counting(nn.Module):
    """Counts the examples that pass forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.num_forward, self.num_backward = model, 0, 0
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        self.num_forward += len(inputs)
        if inputs.requires_grad:
            inputs.register_hook(self._count_backward)
        logits: Tensor = self.model(inputs)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.num_backward += len(gradient)


def seconds_of_one_pass(model: nn.Module, inputs: Tensor) -> float:
    """Process time of one forward and backward pass."""
    leaf, started = inputs.clone().requires_grad_(), time.process_time()
    torch.autograd.grad(model(leaf).sum(), leaf)
    return time.process_time() - started


def run_search(search: Search, model: nn.Module, inputs: Tensor) -> tuple[Outcome, dict[str, float]]:
    """What a search finds, and its cost for each example. The predictions that it starts from are not counted."""
    counting = Counting(model)
    outcomes, seconds, unit = [], 0.0, 0.0
    for batch in inputs.split(BATCH_SIZE):
        with torch.no_grad():
            predicted = model(batch).argmax(1)
        unit += seconds_of_one_pass(model, batch)
        started = time.process_time()
        outcomes.append(search(counting, batch, predicted))
        seconds += time.process_time() - started
        unit += seconds_of_one_pass(model, batch)
    outcome = Outcome(*map(torch.cat, zip(*outcomes, strict=True)))
    forward, backward = counting.num_forward / len(inputs), counting.num_backward / len(inputs)
    return outcome, {
        "forward": forward,
        "backward": backward,
        "passes": FORWARD_SHARE * forward + (1 - FORWARD_SHARE) * backward,
        "cpu": seconds / (unit / 2),
        "seconds": seconds / len(inputs),
        "failed": float((~outcome.success).sum()),
    }


def reference_norms(model: nn.Module, inputs: Tensor, path: Path) -> Tensor:
    """The smallest norm of each input that any long search has verified, from ``path`` where it is there already."""
    if not path.exists():
        fast = accelerated(model, inputs)
        best = torch.full((len(inputs),), torch.inf)
        with torch.no_grad():
            predicted = torch.cat([model(batch).argmax(1) for batch in inputs.split(BATCH_SIZE)])
        for name, search in reference_searches(float(first_order_margin(fast, inputs[:64]).score.median())).items():
            adv_inputs = run_search(search, fast, inputs)[0].adv_inputs
            changed = prediction_changes(model, adv_inputs, predicted)
            best = torch.where(changed, perturbation_norm(adv_inputs - inputs), torch.inf).minimum(best)
            print(
                f"  reference, with {name}: median {best.median():.4f}, {int(best.isinf().sum())} without", flush=True
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            pq.write_table(pa.table({"norm": best.numpy()}), temporary)
    return torch.tensor(pq.read_table(path)["norm"].to_numpy())


def benchmark(
    network: str, model: nn.Module, inputs: Tensor, reference: Tensor, given: Tensor | None, results: Path
) -> None:
    """Append to ``results`` a row for each attack that it lacks on this network."""
    done = {(row["network"], row["attack"]) for row in read_rows(results)}
    fast = accelerated(model, inputs)
    searches = {name: (search, len(inputs)) for name, search in OURS.items()}
    if given is not None:
        searches |= LONG
    for name, (search, num_examples) in searches.items():
        if (network, name) in done:
            continue
        n = min(num_examples, len(inputs))
        outcome, cost = run_search(search, fast, inputs[:n])
        scores = outcome.scores
        row = {"network": network, "attack": name, **cost, "ratio": float((scores / reference[:n]).median())}
        row |= agreement_with(scores, reference[:n])
        if given is not None and n == len(given):
            row["given"] = agreement_with(scores, given)
        if name in LONG:
            default = run_search(OURS["default: secant"], fast, inputs[:n])[0].scores
            row["default"] = agreement_with(default, reference[:n])
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"  {name}: {cost['passes']:.2f} f+b, {row['same_subset']:.3f} in the same decile", flush=True)


def agreement_with(scores: Tensor, reference: Tensor) -> dict[str, float]:
    """How far two rankings agree, as a flat row."""
    found = rank_agreement(scores, reference)
    row: dict[str, float] = {"n": found.n}
    for name in ("spearman", "kendall", "same_subset", "within_one"):
        estimate: Estimate = getattr(found, name)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return row


def read_rows(results: Path) -> list[dict[str, Any]]:
    """The rows so far."""
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", required=True, help="data, as aradals takes them")
    parser.add_argument("--tiny-imagenet", help="the same; without it that network is left out")
    parser.add_argument("--checkpoint", type=Path, help="weights of a ResNet-20 for CIFAR-10")
    parser.add_argument("--reference", type=Path, help="its best-known norms")
    parser.add_argument("--num-examples", type=int, default=512)
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    output: Path = arguments.output
    data = {"cifar10": arguments.cifar10, "tiny_imagenet": arguments.tiny_imagenet}

    if arguments.checkpoint and (not arguments.only or "ResNet-20" in arguments.only):
        print("ResNet-20", flush=True)
        model = build_model("resnet20", num_classes=10, in_channels=3).eval()
        load_checkpoint(model, arguments.checkpoint)
        table = pq.read_table(arguments.reference)
        given = torch.tensor(table["norm"].to_numpy())
        inputs = load_data(data["cifar10"], "test").batch(table["id"].to_pylist())[1]
        own = reference_norms(model, inputs, output / "references" / "ResNet-20.parquet")
        print(f"  more than 0.1 % below the given norm: {float((own < 0.999 * given).float().mean()):.3f} of them")
        benchmark("ResNet-20", model, inputs, own.minimum(given), given, output / "results.jsonl")
    for name, network in NETWORKS.items():
        if data[network.dataset] is None or (arguments.only and name not in arguments.only):
            continue
        print(name, flush=True)
        model = train(network, data[network.dataset], output / "networks")
        examples = attacked_examples(network, data[network.dataset], arguments.num_examples)
        inputs = examples.batch(range(len(examples)))[1]
        reference = reference_norms(model, inputs, output / "references" / f"{name}.parquet")
        benchmark(name, model, inputs, reference, None, output / "results.jsonl")
    write_table(read_rows(output / "results.jsonl"), output / "README.md")


if __name__ == "__main__":
    main()
