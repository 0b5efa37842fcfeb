"""Time of the metrics on large sets of predictions, beside torchmetrics and netcal in the same process.

    OMP_NUM_THREADS=1 python benchmarks/metrics/metrics_speed.py --output results/metrics/README.md

Everything starts from the same float32 logits and ends with numbers, softmax included. Ours are computed in float64 by
`all_metrics` (the whole family at once) and by the single functions; torchmetrics by its functional interface in
float32; netcal, which takes NumPy arrays of probabilities, after a float32 softmax by torch. Rounds are interleaved: in
each round everybody runs once. Ratios are those of the same round, over the time of ours for the same metric.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import netcal.metrics
import torch
from torch import Tensor
from torchmetrics.functional import classification as tm

from aradals import metrics
from aradals._internal.files import atomic_path

SIZES = ((1_000_000, 10), (50_000, 1_000))
Run = Callable[[Tensor, Tensor], object]

OURS: dict[str, Run] = {
    "all 16 metrics": lambda z, y: metrics.all_metrics(y, logits=z),
    "accuracy": lambda z, y: metrics.accuracy(y, logits=z),
    "ECE": lambda z, y: metrics.expected_calibration_error(y, logits=z),
    "maximum CE": lambda z, y: metrics.max_calibration_error(y, logits=z),
    "AUROC of errors": lambda z, y: metrics.error_auroc(y, logits=z),
    "adaptive ECE": lambda z, y: metrics.adaptive_calibration_error(y, logits=z),
    "class-wise ECE": lambda z, y: metrics.classwise_calibration_error(y, logits=z),
    "smooth ECE": lambda z, y: metrics.smooth_calibration_error(y, logits=z),
}


def top(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence and correctness."""
    confidence, predicted = logits.softmax(1).max(1)
    return confidence, (predicted == labels).long()


def tm_calibration(norm: str) -> Run:
    """The calibration error of torchmetrics."""
    return lambda z, y: tm.multiclass_calibration_error(z, y, num_classes=z.shape[1], n_bins=15, norm=norm)  # type: ignore[arg-type]


PEERS: dict[tuple[str, str], Run] = {
    ("accuracy", "torchmetrics"): lambda z, y: tm.multiclass_accuracy(z, y, num_classes=z.shape[1], average="micro"),
    ("ECE", "torchmetrics"): tm_calibration("l1"),
    ("maximum CE", "torchmetrics"): tm_calibration("max"),
    ("AUROC of errors", "torchmetrics"): lambda z, y: tm.binary_auroc(*top(z, y)),
    ("ECE", "netcal"): lambda z, y: netcal.metrics.ECE(15).measure(z.softmax(1).numpy(), y.numpy()),
    ("maximum CE", "netcal"): lambda z, y: netcal.metrics.MCE(15).measure(z.softmax(1).numpy(), y.numpy()),
}


def predictions(num_examples: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Logits, float32, about as confident as a network's, and labels that make it over-confident."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_examples, num_classes, generator=generator)
    logits[torch.arange(num_examples), torch.randint(num_classes, (num_examples,), generator=generator)] += 6
    labels = (logits + 1.5 * torch.randn(logits.shape, generator=generator)).argmax(1)
    return logits, labels


def seconds(run: Run, logits: Tensor, labels: Tensor) -> float:
    """Wall time of one run."""
    started = time.perf_counter()
    run(logits, labels)
    return time.perf_counter() - started


def spread(values: list[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def table(num_examples: int, num_classes: int, rounds: int) -> str:
    """A Markdown section for one size."""
    logits, labels = predictions(num_examples, num_classes)
    runs = {(metric, "aradals"): run for metric, run in OURS.items()} | PEERS
    for run in runs.values():  # a round that is not timed
        run(logits, labels)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(seconds(run, logits, labels))
    lines = [
        f"## {num_examples:,} examples, {num_classes:,} classes\n",
        "| metric | aradals, s | torchmetrics, s | ratio | netcal, s | ratio |\n|---|---|---|---|---|---|",
    ]
    for metric in OURS:
        ours, cells = times[metric, "aradals"], []
        for peer in ("torchmetrics", "netcal"):
            theirs = times.get((metric, peer))
            if theirs is None:
                cells += ["", ""]
            else:
                ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
                cells += [spread(theirs, ".3f"), spread(ratios, ".1f")]
        lines.append(f"| {metric} | {spread(ours, '.3f')} | " + " | ".join(cells) + " |")
    for peer in ("torchmetrics", "netcal"):
        names = [metric for metric, who in PEERS if who == peer]
        sums = [sum(times[name, peer][i] for name in names) for i in range(rounds)]
        ratios = [total / family for total, family in zip(sums, times["all 16 metrics", "aradals"], strict=True)]
        lines.append(
            f"\n{peer}, its {len(names)} of these metrics one after the other: {spread(sums, '.3f')} s, "
            f"{spread(ratios, '.1f')} times our 16."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="Markdown file; printed as well")
    parser.add_argument("--note", default="", help="about the machine, for the file")
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("ar-adals", "torch", "torchmetrics", "netcal", "numpy"))
    text = "\n\n".join(
        [
            "# Speed of the metrics",
            f"By `benchmarks/metrics/metrics_speed.py`, whose docstring says what is measured. {platform.machine()}, "
            f"{torch.get_num_threads()} thread(s), python {platform.python_version()}, {packages}. {options.note}",
            f"Medians and ranges of n = {options.rounds} rounds. A ratio above 1: the other one takes longer.",
            *(table(*size, options.rounds) for size in SIZES),
        ]
    )
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(options.output) as path:
            path.write_text(text + "\n")


if __name__ == "__main__":
    main()
