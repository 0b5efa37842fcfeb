"""Temperatures that depend on an unlabeled batch, under corruptions and under other mixes of classes.

    python benchmarks/batch_temperature.py --model resnet20 --checkpoint weights.safetensors \
        --data cifar10-test.parquet --folder runs/batch-temperature --output results/batch-temperature/resnet20.md

The first run computes the logits of 6,000 images in the folder: as they are, under AugMix, and under 19 corruptions.
3,000 of the images only calibrate, and the other 3,000 are only evaluated on. Each of three splits fits on 2,500 of the
first and evaluates on 2,000 of the second. Nothing is fitted or chosen on corruptions: batch temperatures are fitted on
AugMix copies of the calibration images.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from aradals.calibration import BatchTemperature, TemperatureScaling
from aradals.calibration.batch_temperature import STATISTICS
from aradals.corruptions import CORRUPTIONS, corrupt
from aradals.data import load_data
from aradals.data.augmix import augmix
from aradals.metrics import brier_score, expected_calibration_error, nll
from aradals.pipeline.classifier import load_classifier
from aradals.pipeline.domains import SEVERITIES
from aradals.pipeline.monitor import report_batch

NUM_IMAGES, NUM_FITTED, NUM_EVALUATED = 6000, 2500, 2000
NUM_CLASSES = 10
BY_BATCH = (*STATISTICS, "two calibrators (Zou)")
Method = Callable[[Tensor], Tensor]
"""Logits of a batch -> calibrated probabilities."""

Means = dict[str, float]


def compute_logits(arguments: argparse.Namespace) -> None:
    """Write the logits of each condition into the folder, unless they are there."""
    examples = load_data(arguments.data, limit=NUM_IMAGES)
    ids, images, labels = examples.batch(range(NUM_IMAGES))
    model = load_classifier(arguments.model, arguments.checkpoint, examples, device="cpu").model
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.save((ids, labels), folder / "labels.pt")
    changes = changes_of(ids, images, arguments.severities)
    torch.manual_seed(0)
    for name, change in changes.items():
        if not (folder / f"{name}.pt").exists():
            is_clean = name.startswith(("clean", "augmix"))
            rows = torch.arange(NUM_IMAGES) if is_clean else evaluation_pool()
            logits = torch.full((NUM_IMAGES, NUM_CLASSES), math.nan)
            with torch.no_grad():
                logits[rows] = torch.cat([model(change(part)) for part in rows.split(250)])
            torch.save(logits, folder / f"{name}.pt")


def changes_of(ids: Tensor, images: Tensor, severities: list[int]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return a function from rows to images for each condition."""

    def mixed(rows: Tensor, level: int, pure: bool) -> Tensor:
        return augmix(images[rows], severity=level, mix_weight=torch.ones(len(rows)) if pure else None)

    def corrupted(rows: Tensor, name: str, severity: int) -> Tensor:
        return corrupt(images[rows], ids[rows], name, severity)

    changes: dict[str, Callable[[Tensor], Tensor]] = {"clean-0": lambda rows: images[rows]}
    for level in SEVERITIES:
        changes[f"augmix-{level}"] = partial(mixed, level=level, pure=False)
        changes[f"augmixpure-{level}"] = partial(mixed, level=level, pure=True)
    for severity in severities:
        for name in CORRUPTIONS:
            changes[f"{name}-{severity}"] = partial(corrupted, name=name, severity=severity)
    return changes


def evaluation_pool() -> Tensor:
    return _order(NUM_IMAGES, 0)[NUM_FITTED : NUM_FITTED + 3000]


def calibration_pool() -> Tensor:
    order = _order(NUM_IMAGES, 0)
    return torch.cat([order[:NUM_FITTED], order[NUM_FITTED + 3000 :]])


def splits(num: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows to fit on, and rows to evaluate on."""
    for seed in range(1, num + 1):
        yield (
            calibration_pool()[_order(3000, seed)[:NUM_FITTED]],
            evaluation_pool()[_order(3000, seed)[:NUM_EVALUATED]],
        )


def fit_methods(logits: dict[str, Tensor], labels: Tensor, rows: Tensor) -> dict[str, Method]:
    """Fit every method on the calibration rows."""
    names = ["clean-0", *(name for name in logits if name.startswith("augmix"))]
    domains = torch.arange(len(names)).repeat_interleave(len(rows))
    all_labels, all_logits = labels[rows].repeat(len(names)), torch.cat([logits[name][rows] for name in names])
    plain = TemperatureScaling().fit(labels[rows], logits=logits["clean-0"][rows])
    methods: dict[str, Method] = {
        "none": lambda batch: batch.softmax(1),
        "temperature": plain.predict_proba,
        "perturbed sets (Tomani)": TemperatureScaling().fit(all_labels, logits=all_logits).predict_proba,
    }
    clean, hard = logits["clean-0"][rows], logits["augmixpure-10"][rows]
    methods["two calibrators (Zou)"] = adaptive_ensemble(clean, hard, labels[rows])
    for statistic in STATISTICS:
        fitted = BatchTemperature(statistic).fit(all_labels, logits=all_logits, domains=domains)
        methods[statistic] = fitted.predict_proba
    return methods


def adaptive_ensemble(clean: Tensor, hard: Tensor, labels: Tensor) -> Method:
    """Interpolate between calibrators fitted on clean and on hard data by the average confidence of the batch.

    The idea of Zou, Deng and Zheng, ICCV 2023. Hard data are AugMix copies here, as for the other methods; the weight
    is linear in the confidence, 0 for that of the clean data and 1 for that of the hard data, and at most 2.
    """
    easy = TemperatureScaling().fit(labels, logits=clean)
    difficult = TemperatureScaling().fit(labels, logits=hard)
    high, low = (float(part.softmax(1).amax(1).mean()) for part in (clean, hard))

    def predict(batch: Tensor) -> Tensor:
        weight = min(2.0, max(0.0, (high - float(batch.softmax(1).amax(1).mean())) / (high - low)))
        temperature = easy.temperature ** (1 - weight) * difficult.temperature**weight
        probs: Tensor = (batch / temperature).softmax(1)
        return probs

    return predict


def in_batches(method: Method, logits: Tensor, size: int) -> Tensor:
    return torch.cat([method(batch) for batch in logits.split(size)])


def measure(probs: Tensor, labels: Tensor) -> Means:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(probs, 1, generator=generator)[:, 0]
    return {
        "ece": expected_calibration_error(labels, probs=probs),
        "nll": nll(labels, probs=probs),
        "brier": brier_score(labels, probs=probs),
        "floor": expected_calibration_error(drawn, probs=probs),
    }


def mean_of(measured: list[Means]) -> Means:
    return {key: sum(each[key] for each in measured) / len(measured) for key in measured[0]}


def corruption_table(logits: dict[str, Tensor], labels: Tensor, num_splits: int) -> list[str]:
    """ECE, NLL and Brier score, clean and mean over the corruptions; mean and standard deviation over the splits."""
    shifted = [name for name in logits if name.rpartition("-")[0] in CORRUPTIONS]
    found: dict[tuple[str, int], list[tuple[Means, Means]]] = defaultdict(list)
    for fitted, evaluated in splits(num_splits):
        for name, method in fit_methods(logits, labels, fitted).items():
            for size in (NUM_EVALUATED, 100, 32) if name in BY_BATCH else (NUM_EVALUATED,):
                by_condition = {
                    where: measure(in_batches(method, logits[where][evaluated], size), labels[evaluated])
                    for where in ("clean-0", *shifted)
                }
                clean = by_condition.pop("clean-0")
                found[name, size].append((clean, mean_of(list(by_condition.values()))))
    lines = [
        f"Mean and standard deviation over {num_splits} splits; shift is the mean over {len(shifted)} conditions. The",
        "noise floor is the ECE that the same probabilities have on labels drawn from them.",
        "",
        "| calibrator | batch | clean: ECE | NLL | shift: ECE | noise floor | NLL | Brier |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, size), results in found.items():
        columns = [(0, "ece"), (0, "nll"), (1, "ece"), (1, "floor"), (1, "nll"), (1, "brier")]
        cells = [_with_spread([each[part][key] for each in results]) for part, key in columns]
        batch = str(size) if name in BY_BATCH else ""
        lines.append(f"| {name} | {batch} | {' | '.join(cells)} |")
    return lines


def random_mix(kind: str, generator: torch.Generator) -> Tensor:
    """Draw the shares of the classes in a batch."""
    order = torch.randperm(NUM_CLASSES, generator=generator)
    if kind == "one class":
        return (order == 0).double()
    if kind == "half of the classes":
        return (order < NUM_CLASSES // 2).double()
    if kind == "the same":
        return torch.ones(NUM_CLASSES).double()
    concentration = {"Dirichlet(1/2)": 0.5, "Dirichlet(1/10)": 0.1}[kind]
    torch.manual_seed(int(order[:6] @ 10 ** torch.arange(6)))
    return torch.distributions.Dirichlet(torch.full((NUM_CLASSES,), concentration).double()).sample()


MIXES = ("the same", "Dirichlet(1/2)", "half of the classes", "Dirichlet(1/10)", "one class")


def draw_batch(labels: Tensor, rows: Tensor, mix: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw rows with these shares of the classes; without replacement, as long as there are enough rows."""
    weight = mix[labels[rows]] / labels[rows].bincount(minlength=NUM_CLASSES)[labels[rows]]
    enough = int((weight > 0).sum()) >= size
    chosen = torch.multinomial(weight, size, replacement=not enough, generator=generator)
    return rows[chosen]


def mix_tables(logits: dict[str, Tensor], labels: Tensor, size: int, repeats: int) -> list[str]:
    """|confidence - accuracy| of batches with other mixes of classes, beside that of plain temperature scaling."""
    fitted, _ = next(splits(1))
    methods, pool = fit_methods(logits, labels, fitted), evaluation_pool()
    shifted = [name for name in logits if name.rpartition("-")[0] in CORRUPTIONS]
    lines = [
        f"Batches of {size}. Cells: ECE of all batches of a condition together, mean over conditions; then the mean",
        "over batches of confidence minus accuracy, from the lowest to the highest condition.",
        "",
        f"| inputs | mix of classes | {' | '.join(methods)} |",
        "|---|---|" + "---|" * len(methods),
    ]
    for inputs, conditions, times in (("clean", ["clean-0"], 20 * repeats), ("corrupted", shifted, repeats)):
        for kind in MIXES:
            generator = torch.Generator().manual_seed(0)
            cells: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for where in conditions:
                batches = [draw_batch(labels, pool, random_mix(kind, generator), size, generator) for _ in range(times)]
                own = labels[torch.cat(batches)]
                for name, method in methods.items():
                    probs = torch.cat([method(logits[where][rows]) for rows in batches])
                    gap = float((probs.amax(1) - (probs.argmax(1) == own).double()).mean())
                    cells[name].append((expected_calibration_error(own, probs=probs), gap))
            texts = []
            for found in cells.values():
                errors, gaps = zip(*found, strict=True)
                texts.append(f"{_short(sum(errors) / len(errors))} ({min(gaps):+.2f} to {max(gaps):+.2f})")
            lines.append(f"| {inputs} | {kind} | {' | '.join(texts)} |")
    return lines


def monitor_table(logits: dict[str, Tensor], labels: Tensor, sizes: tuple[int, ...], repeats: int) -> list[str]:
    """Verdicts of the monitor at a level of 0.01, and the coverage of its intervals for the accuracy."""
    fitted, _ = next(splits(1))
    names = ["clean-0", *(name for name in logits if name.startswith("augmix"))]
    domains = torch.arange(len(names)).repeat_interleave(len(fitted))
    calibrator = BatchTemperature().fit(
        labels[fitted].repeat(len(names)), logits=torch.cat([logits[name][fitted] for name in names]), domains=domains
    )
    pool = evaluation_pool()
    shifted = [name for name in logits if name.rpartition("-")[0] in CORRUPTIONS]
    lines = [
        "| inputs | mix of classes | batch | no drift | covariate shift | class mix changed | cannot say "
        "| error of the accuracy | trusted | covered, if trusted | width |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        for inputs, conditions, times in (("clean", ["clean-0"], 20 * repeats), ("corrupted", shifted, repeats)):
            for kind in MIXES:
                generator, reports = torch.Generator().manual_seed(1), []
                for where in conditions:
                    for _ in range(times):
                        rows = draw_batch(labels, pool, random_mix(kind, generator), size, generator)
                        batch = logits[where][rows]
                        reports.append(
                            (report_batch(calibrator, batch), float((batch.argmax(1) == labels[rows]).double().mean()))
                        )
                verdicts = [report.verdict for report, _ in reports]
                shares = [
                    f"{verdicts.count(each) / len(verdicts):.1%}"
                    for each in ("no drift", "covariate shift", "class mix changed", "cannot say")
                ]
                error = sum(abs(report.accuracy - accuracy) for report, accuracy in reports) / len(reports)
                trusted = [(report, accuracy) for report, accuracy in reports if report.is_trusted]
                covered = [report.accuracy_low <= accuracy <= report.accuracy_high for report, accuracy in trusted]
                width = sum(report.accuracy_high - report.accuracy_low for report, _ in trusted) / max(1, len(trusted))
                cells = [*shares, _short(error), f"{len(trusted) / len(reports):.0%}"]
                cells += [f"{sum(covered) / max(1, len(covered)):.1%}", _short(width)]
                lines.append(f"| {inputs} | {kind} | {size} | {' | '.join(cells)} |")
    return lines


def _order(num: int, seed: int) -> Tensor:
    return torch.randperm(num, generator=torch.Generator().manual_seed(seed))


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _with_spread(values: list[float]) -> str:
    return f"{_short(sum(values) / len(values))} ± {_short(float(torch.tensor(values).std()))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the logits")
    parser.add_argument("--output", type=Path, required=True, help="file of the tables")
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="batches of each condition with another mix of classes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not (arguments.folder / f"saturate-{arguments.severities[-1]}.pt").exists():
        compute_logits(arguments)
    _, labels = torch.load(arguments.folder / "labels.pt")
    wanted = ["clean-0", *(f"augmix{kind}-{level}" for level in SEVERITIES for kind in ("", "pure"))]
    wanted += [f"{name}-{severity}" for severity in arguments.severities for name in CORRUPTIONS]
    logits = {name: torch.load(arguments.folder / f"{name}.pt").double() for name in wanted}
    severities = ", ".join(map(str, arguments.severities))
    lines = [f"# {arguments.model}, 19 corruptions at severities {severities}", "", "## Corruptions", ""]
    lines += corruption_table(logits, labels, arguments.splits)
    for size in (500, 100):
        lines += ["", f"## Other mixes of classes, batches of {size}", ""]
        lines += mix_tables(logits, labels, size, arguments.repeats)
    lines += ["", "## The monitor", "", *monitor_table(logits, labels, (100, 500), arguments.repeats)]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
