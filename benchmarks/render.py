"""Write the pages of evidence from the results of studies: every number comes from a file of results.

    python benchmarks/render.py --study runs/letter/results.json --output results/letter/README.md
    python benchmarks/render.py --all

The first form writes one page, and beside it ``evidence.json``, which has its answers. The second form writes
docs/evidence.md and the table of README.md from all of these files.
"""

from __future__ import annotations

import argparse
import math
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aradals._internal.files import atomic_path
from aradals._internal.json_files import load_json, save_json
from aradals._internal.typed import read_typed
from aradals.report.tables import cell, failed_rows, stability_rows
from aradals.report.view import METRIC_NAMES, label, shift_mean
from aradals.results import read_results
from aradals.results.aggregate import by_seed, mean_over_seeds, measure, places, relative_cost
from aradals.results.compare import paired_t_test
from aradals.results.files import plain
from aradals.results.records import CLEAN, Comparison, Measure, Metric, Place, Results, Variant

ROOT = Path(__file__).parents[1]
SHOWN: tuple[Metric, ...] = (
    *("accuracy", "ece", "ece_noise_floor", "subset_calibration_error", "subset_noise_floor", "nll", "brier", "aurc"),
    *("coverage_at_error_1", "coverage_at_error_5"),
)
JUDGED: tuple[Metric, ...] = ("ece", "subset_calibration_error", "nll", "aurc")
REPAIRED: tuple[Metric, ...] = ("nll", "aurc")
"""Metrics that are judged after a temperature, which repairs the level that label smoothing changes."""
MIN_SEEDS = 3
"""Number of seeds from which on there are tests."""
NAMES: dict[Metric, str] = {**METRIC_NAMES, "subset_calibration_error": "subset CE"}
PLACES: dict[Place, str] = {"clean": "clean", "all_shifts": "shift"}
RULE = (
    "Rule of all answers: *shown* (or *contradicted*) if the 95 % interval of the difference excludes zero in this (or "
    "in the other) direction and p < .05, with Holm's correction where several variants are compared; else *not "
    "shown*. Fewer than three seeds have no test, and so show nothing."
)
NONE_YET = "No study is complete yet."
SITUATIONS: dict[str, tuple[Place, Metric]] = {
    "cannot retrain": ("clean", "nll"),
    "can retrain": ("clean", "nll"),
    "shift expected": ("all_shifts", "nll"),
    "need to abstain": ("clean", "aurc"),
    "ensemble affordable": ("clean", "nll"),
}


@dataclass(frozen=True)
class Answer:
    """An answer to a claim: a difference, its interval and its p value."""

    claim: str
    answer: str
    difference: Measure
    p: float = math.nan


@dataclass(frozen=True)
class Choice:
    """The best variant for a situation by its mean, beside vanilla with a temperature."""

    situation: str
    best: str
    metric: str
    value: Measure
    against_baseline: str
    cost: float = math.nan


@dataclass(frozen=True)
class Evidence:
    """One page, as blocks of Markdown, and what the page of all studies shows of it."""

    name: str
    text: str
    num_seeds: int
    answers: tuple[Answer, ...]
    choices: tuple[Choice, ...]


def judge(difference: float, low: float, high: float, p: float, *, expected: int) -> str:
    """Apply `RULE`; ``expected`` is the sign of the difference that the claim predicts."""
    sign = Measure(difference, low, high).sign
    if not sign or not p < 0.05:
        return "not shown"
    return "shown" if sign == expected else "contradicted"


def flipped(found: Comparison) -> Measure:
    """Turn baseline minus method into method minus baseline."""
    return Measure(-found.difference, -found.high, -found.low)


def answers(results: Results) -> Iterator[Answer]:
    """Answer the claims of the paper, and those about every method of ``compare_with``."""
    yield from _by_robustness(results)
    yield from _by_stability(results)
    for name in results.config.get("compare_with", ()):
        yield from _by_comparison(results, name)


def _by_comparison(results: Results, name: str) -> Iterator[Answer]:
    """Compare a method, or the ensemble of the reference, with the others: as trained, and after a temperature."""
    ensemble = results.method(name).num_members > 1
    others = [
        each
        for each in results.methods
        if each.name != name and (each.num_members > 1) == ensemble and (ensemble or not each.variant_of)
    ]
    judged = [(place, metric) for place in places(results) for metric in JUDGED]
    for other, (place, metric) in ((other, each) for other in others for each in judged):
        calibrator = "temperature" if metric in REPAIRED else "none"
        pair = (Variant(other.name, calibrator), Variant(name, calibrator), place, metric)
        if (found := results.by_comparison.get(pair)) is None:
            continue
        first, second = (other.name, name) if ensemble else (name, other.name)
        lower = found.measure if ensemble else flipped(found)
        claim = f"{results.method(first).label} has a lower {NAMES[metric]} than {results.method(second).label}"
        where = PLACES[place] + (", both with a temperature" if metric in REPAIRED else "")
        answer = judge(lower.value, lower.low, lower.high, found.p_holm, expected=-1)
        yield Answer(f"{claim}, {where}", answer, lower, found.p_holm)


def _by_robustness(results: Results) -> Iterator[Answer]:
    """Compare the gap of the least robust subset with that of the most robust one, as trained."""
    if results.num_subsets < 2:
        return
    least, most = (
        by_seed(results, Variant(results.reference), "gap", (CLEAN,), subset) for subset in (0, results.num_subsets - 1)
    )
    seeds = sorted(least.keys() & most.keys())
    first, second = ([abs(part[seed].value) for seed in seeds] for part in (least, most))
    reference = Variant(results.reference)
    ends = [measure(results, reference, "gap", subset=subset).size for subset in (0, results.num_subsets - 1)]
    # The two subsets have no example in common. The ends of both intervals bound the difference.
    difference = Measure(ends[0].value - ends[1].value, ends[0].low - ends[1].high, ends[0].high - ends[1].low)
    p = paired_t_test(first, second)
    answer = judge(difference.value, difference.low, difference.high, p, expected=1)
    yield Answer("the least robust subset has a larger gap than the most robust one, clean", answer, difference, p)


def _by_stability(results: Results) -> Iterator[Answer]:
    """Compare how much the members of ensembles vary, at equal mean confidence, with the reference; paired by seed."""
    found: dict[str, dict[int, Measure]] = {}
    for row in results.stability:
        if row.models == "members" and row.subset is None and row.seed is not None:
            found.setdefault(row.method, {})[row.seed] = row.matched_prediction_variance
    reference = found.pop(results.reference, {})
    for method, own in found.items():
        seeds = sorted(own.keys() & reference.keys())
        if not seeds:
            continue
        ours, theirs = ([part[seed] for seed in seeds] for part in (own, reference))
        first, second = (mean_over_seeds(part, "brier") for part in (ours, theirs))
        p = paired_t_test([each.value for each in ours], [each.value for each in theirs])
        change = Measure(first.value - second.value, first.low - second.high, first.high - second.low)
        answer = judge(change.value, change.low, change.high, p, expected=-1)
        names = [results.method(name).label for name in (method, results.reference)]
        yield Answer(f"trainings of {names[0]} vary less than those of {names[1]}, clean", answer, change, p)


def choices(results: Results) -> Iterator[Choice]:
    """Name the best variant for each situation by its mean."""
    baseline = Variant(results.reference, "temperature")
    for situation, (place, metric) in SITUATIONS.items():
        if place not in places(results):
            continue
        means = {
            variant: mean
            for variant in results.variants
            if (results.method(variant.method).num_members > 1) == (situation == "ensemble affordable")
            and (situation != "cannot retrain" or variant.method == results.reference)
            and (mean := measure(results, variant, metric, conditions=places(results)[place])).known
        }
        if not means:
            continue
        best = min(means, key=lambda variant: means[variant].value)
        found = results.by_comparison.get((best, baseline, place, metric))
        against = "is the baseline" if best == baseline else "not compared"
        if found:
            answer = judge(found.difference, found.low, found.high, found.p_holm, expected=-1)
            against = f"{answer}: {difference(found.measure)}"
        name, cost = label(results, best), relative_cost(results, best.method)
        yield Choice(situation, name, f"{NAMES[metric]}, {PLACES[place]}", means[best], against, cost)


def count(number: int, noun: str) -> str:
    """Write a number and its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def number(value: Measure) -> str:
    """Write a mean with its interval."""
    shown = cell(value, ".4f")
    return f"{shown.text} [{shown.note}]" if shown.note else shown.text


def difference(value: Measure) -> str:
    """Write a difference with its interval."""
    shown = cell(value, "+.4f")
    return f"{shown.text} [{shown.note}]" if shown.note else shown.text


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)


def p_value(p: float) -> str:
    """Write a p value; a dash if there was no test."""
    return "–" if p != p else "< .0001" if p < 0.0001 else f"{p:.4f}"


def means_table(results: Results, place: Place) -> str:
    """Show the means of all variants, with intervals over seeds and examples."""
    rows = [
        [
            label(results, variant),
            *(number(measure(results, variant, metric, conditions=places(results)[place])) for metric in SHOWN),
            f"{relative_cost(results, variant.method):.1f}",
        ]
        for variant in results.variants
    ]
    return table(["method", *(NAMES.get(metric, metric.replace("_", " ")) for metric in SHOWN), "cost"], rows)


def differences_table(results: Results, reference: Variant, place: Place) -> str:
    """Show every variant minus a reference, with p after Holm's correction."""
    rows = []
    for variant in results.variants:
        found = [results.by_comparison.get((variant, reference, place, metric)) for metric in JUDGED]
        if any(found):
            cells = [f"{difference(each.measure)}, p {p_value(each.p_holm)}" if each else "–" for each in found]
            rows.append([label(results, variant), *cells])
    return table(["method", *(NAMES[metric] for metric in JUDGED)], rows)


def answers_table(found: Sequence[Answer]) -> str:
    """Show each claim that has an answer, and count the others."""
    decided = [each for each in found if each.answer != "not shown"]
    rows = [[each.claim, f"**{each.answer}**", difference(each.difference), p_value(each.p)] for each in decided]
    left = f"{len(found) - len(decided)} further claims are *not shown*; evidence.json has their differences."
    return "\n\n".join([*([table(["claim", "answer", "difference", "p"], rows)] if rows else []), left])


def page(results: Results, answered: Sequence[Answer], origin: str) -> str:
    """Write the page of one study."""
    parts = [f"# {results.name}", results.description, origin, "## Answers", RULE, answers_table(answered)]
    for place in places(results):
        title = "Clean" if place == "clean" else f"Under shift: {shift_mean(results)}"
        parts += [f"## {title}", means_table(results, place)]
        for reference in (Variant(results.reference), Variant(results.reference, "temperature")):
            if reference in results.variants:
                parts += [f"Minus {label(results, reference)}:", differences_table(results, reference, place)]
    for block in (stability_rows(results), failed_rows(results)):
        rows = [[f"{each.text} [{each.note}]" if each.note else each.text for each in row] for row in block.rows]
        parts += [f"## {block.title.capitalize()}", table(block.columns, rows) if rows else "None."]
    return "\n\n".join(filter(None, parts)) + "\n"


def origin_of(results: Results, commit: str, hardware: str) -> str:
    """Name the command, the software and the hardware of a study."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    splits = ", ".join(f"{name} {count:,}" for name, count in results.data.splits.items())
    return (
        f"`aradals run {results.name} --output runs/{results.name}`: {count(len(results.seeds), 'seed')} "
        f"({', '.join(map(str, results.seeds))}); examples: {splits}; {versions}; {results.device}. Rendered at commit "
        f"{commit} on {hardware}. Intervals are over seeds and examples. Cost is a "
        "multiple of plain training, with the training and scoring of models that only score, and all candidates."
    )


def gather(results: Results, commit: str, hardware: str) -> Evidence:
    """Collect what is shown of a study."""
    answered = tuple(answers(results))
    text = page(results, answered, origin_of(results, commit, hardware))
    return Evidence(results.name, text, len(results.seeds), answered, tuple(choices(results)))


def decisive(studies: Sequence[Evidence]) -> list[Evidence]:
    """Select the studies that have enough seeds for tests."""
    return [study for study in studies if study.num_seeds >= MIN_SEEDS]


def overview(studies: Sequence[Evidence]) -> str:
    """Write the page of all studies."""
    parts = [
        "# Evidence",
        "`make evidence` runs or resumes all studies and writes this page and those of the studies. Every number comes "
        "from a file of results.",
        "The slope 0.4 of the shaped targets was chosen on `letter`. So `letter` is no evidence for this slope; "
        "`magic`, `spambase` and the studies of images are.",
        RULE,
        "## Which method when",
        "The best variant by its mean, and its difference to the reference with temperature scaling (*shown*: it is "
        f"significantly lower). Studies of fewer than {MIN_SEEDS} seeds have no test, and are left out.",
        table(
            ["situation", "study", "best by the mean", "measure", "value", "cost", "against vanilla + T"],
            [
                [each.situation, study.name, each.best, each.metric, number(each.value), f"{each.cost:.1f}",
                 each.against_baseline]
                for situation in SITUATIONS
                for study in decisive(studies)
                for each in study.choices
                if each.situation == situation
            ],
        ),
        "## Studies",
    ]  # fmt: skip
    for study in studies:
        given = [each.answer for each in study.answers]
        counted = ", ".join(f"{given.count(key)} {key}" for key in ("shown", "not shown", "contradicted"))
        parts.append(
            f"[{study.name}](../results/{study.name}/README.md): {count(study.num_seeds, 'seed')}. Answers: {counted}."
        )
    return "\n\n".join(parts if studies else [*parts[:4], NONE_YET]) + "\n"


def summary(studies: Sequence[Evidence]) -> str:
    """Write the table of README.md: for each situation, the variant that is the best of the most studies."""
    rows = []
    for situation in SITUATIONS:
        found = [each for study in decisive(studies) for each in study.choices if each.situation == situation]
        for best, times in Counter(each.best for each in found).most_common(1):
            better = sum(each.against_baseline.startswith("shown") for each in found)
            share = f"{best} ({times} of {len(found)})"
            rows.append([f"{situation} ({found[0].metric})", share, f"{better} of {len(found)}"])
    return table(["situation", "most often the best", "is better"], rows) if rows else NONE_YET


def with_block(text: str, block: str) -> str:
    """Replace what stands between the two comments ``evidence:start`` and ``evidence:end``."""
    start, end = "<!-- evidence:start -->\n", "<!-- evidence:end -->"
    return re.sub(f"(?<={start}).*(?={end})", lambda _: f"{block}\n", text, count=1, flags=re.DOTALL)


def render_study(file: Path, output: Path) -> None:
    """Write the page of a study, and `Evidence` beside it."""
    results = read_results(file)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    found = gather(results, commit, f"{platform.machine()}, {platform.system()}")
    output.parent.mkdir(parents=True, exist_ok=True)
    _write(output, found.text)
    save_json(output.parent / "evidence.json", plain(replace(found, text="")))


def render_all(folder: Path, output: Path, readme: Path) -> None:
    """Write the page of all studies, and the table of a README."""
    studies = [read_typed(Evidence, {"text": "", **load_json(file)}) for file in sorted(folder.glob("*/evidence.json"))]
    _write(output, overview(studies))
    _write(readme, with_block(readme.read_text(encoding="utf-8"), summary(studies)))


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    if bool(given.study) == given.all or bool(given.study) != bool(given.output):
        parser.error("give --study and --output, or --all")
    if given.all:
        render_all(ROOT / "results", ROOT / "docs" / "evidence.md", ROOT / "README.md")
    else:
        render_study(given.study, given.output)


if __name__ == "__main__":
    main()
