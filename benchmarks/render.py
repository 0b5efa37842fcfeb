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
from aradals.report.tables import BATCHES, cell, failed_rows, stability_rows
from aradals.report.view import METRIC_NAMES, label, shift_mean
from aradals.results import read_results
from aradals.results.aggregate import by_seed, mean_over_seeds, measure, places, relative_cost
from aradals.results.compare import holm, paired_t_test
from aradals.results.files import plain
from aradals.results.records import CLEAN, Comparison, Measure, Metric, Place, Results, Variant

ROOT = Path(__file__).parents[1]
SHOWN: tuple[Metric, ...] = (
    *("accuracy", "ece", "ece_noise_floor", "subset_calibration_error", "subset_noise_floor", "nll", "brier", "aurc"),
    *("coverage_at_error_1", "coverage_at_error_5"),
)
GAPS: tuple[Metric, ...] = ("ece", "subset_calibration_error")
JUDGED = (*GAPS, "nll", "aurc")
MIN_SEEDS = 3
"""Number of seeds from which on there are tests."""
NAMES: dict[Metric, str] = {**METRIC_NAMES, "subset_calibration_error": "subset CE"}
PLACES: dict[Place, str] = {"clean": "clean", "all_shifts": "shift"}
RULE = (
    "Rule of all answers: *shown* (or *contradicted*) if the 95 % interval of the difference excludes zero in this (or "
    "in the other) direction and p < .05 after Holm's correction; else *not shown*. The claims of a study are one family "
    "of tests. The comparisons of all variants with one of them, by one measure, are another. With three seeds the tests "
    "have little power: *not shown* does not mean that there is no effect. With fewer, there is no test."
)
PAPER_RULE = "ar_adals_plain"
"""The method of the paper to the letter, in every recipe that has it."""
PAPER_OTHERS = ("label_smoothing", "mixup", "ccat", "adals")
"""The methods that the paper compares with, beside the vanilla one; AdaLS is the method without robustness."""
PAPER_ENSEMBLES = ("ensemble_of_ar_adals", "ar_adals_of_ensemble")
"""The ensembles of the paper, which it compares with the one of vanilla models."""
TUNED_ON = {"letter": "shaped", "demo": "shaped"}
"""Study -> the methods, by the start of their names, that have a setting that was chosen on its test data."""
CLAIMED = (
    "Single models are compared as they were trained. If a setting of the other method was chosen by the NLL after a "
    "temperature, both have a temperature, because the choice makes no promise about the confidence before. No claim of "
    "the paper is about vanilla training with a temperature: this is the baseline to beat."
)
COMPARED = (
    "All methods have a temperature. Each cell says whether the method is significantly lower or higher than the other, by the rule above, and by how "
    "much; lower is better. A dash stands for *not shown*; evidence.json has all differences."
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
    """An answer to a claim: a difference, its interval and its p value.

    Attributes:
        claim: a sentence; or, for two methods, the measure that is lower for the first one.
        method: name of the first method.
        other: name of the second method.
    """

    claim: str
    answer: str
    difference: Measure
    p: float = math.nan
    method: str = ""
    other: str = ""


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
    claims: tuple[Answer, ...]
    comparisons: tuple[Answer, ...]
    choices: tuple[Choice, ...]


def judge(difference: Measure, p: float, *, expected: int) -> str:
    """Apply `RULE`; ``expected`` is the sign of the difference that the claim predicts."""
    if not difference.sign or not p < 0.05:
        return "not shown"
    return "shown" if difference.sign == expected else "contradicted"


def claims(results: Results) -> tuple[Answer, ...]:
    """Answer the claims of the paper, as far as the study has the methods; they are one family of tests."""
    tests = [*_by_robustness(results), *_by_paper(results), *_by_stability(results)]
    corrected = holm([p for *_, p, _ in tests])
    return tuple(
        Answer(claim, judge(change, p, expected=expected), change, p)
        for (claim, change, _, expected), p in zip(tests, corrected, strict=True)
    )


Test = tuple[str, Measure, float, int]
"""A claim, the difference, the p value, and the sign of the difference that the claim predicts."""


def _by_robustness(results: Results) -> Iterator[Test]:
    """Compare the least robust subset with the most robust one: the gap as trained, and how much trainings vary."""
    if results.num_subsets < 2:
        return
    subsets = (0, results.num_subsets - 1)
    reference = Variant(results.reference)
    least, most = (by_seed(results, reference, "gap", (CLEAN,), subset) for subset in subsets)
    seeds = sorted(least.keys() & most.keys())
    # The two subsets have no example in common. The ends of both intervals bound the difference.
    ends = [measure(results, reference, "gap", subset=subset).size for subset in subsets]
    p = paired_t_test(*([abs(part[seed].value) for seed in seeds] for part in (least, most)))
    yield "the least robust subset has a larger gap than the most robust one, clean", minus(*ends), p, 1
    least, most = (_variances(results, subset).get(results.reference, {}) for subset in subsets)
    if least.keys() & most.keys():
        name = results.method(results.reference).label
        claim = f"trainings of {name} vary more in the least robust subset than in the most robust one, clean"
        yield claim, *_paired(least, most), 1


def _by_paper(results: Results) -> Iterator[Test]:
    """Compare the gaps of the method and the ensembles of the paper with what the paper compares them with."""
    single, baseline = Variant(PAPER_RULE), Variant(results.reference, "temperature")
    pairs = [(single, Variant(results.reference)), (single, baseline)]
    for other in PAPER_OTHERS:
        calibrator = "temperature" if _is_chosen(results, other) else "none"
        pairs.append((Variant(PAPER_RULE, calibrator), Variant(other, calibrator)))
    pairs += [(Variant(ensemble), Variant("ensemble")) for ensemble in PAPER_ENSEMBLES]
    for ours, theirs in (pair for pair in pairs if set(pair) <= set(results.variants)):
        names = _in_sentence(results, ours), results.method(theirs.method).label
        ending = ", both with a temperature" * (ours.calibrator != "none") + " with a temperature" * (
            theirs == baseline
        )
        for place, metric in ((place, metric) for place in places(results) for metric in GAPS):
            if found := _compared(results, ours, theirs, place, metric):
                claim = f"{names[0]} has a lower {NAMES[metric]} than {names[1]}{ending}, {PLACES[place]}"
                yield claim, found.measure, found.p, -1


def _is_chosen(results: Results, name: str) -> bool:
    """Return True if a setting of a method was chosen, by the NLL after a temperature."""
    return bool(results.config.get("methods", {}).get(name, {}).get("choose"))


def _in_sentence(results: Results, variant: Variant) -> str:
    """Return the label of a method, with a second comma if it has a first one."""
    found = results.method(variant.method).label
    return found + "," * ("," in found)


def _by_stability(results: Results) -> Iterator[Test]:
    """Compare how much trainings of the method of the paper vary with those of the reference."""
    found = _variances(results, None)
    own, reference = found.get(PAPER_RULE, {}), found.get(results.reference, {})
    if own.keys() & reference.keys():
        name, other = _in_sentence(results, Variant(PAPER_RULE)), results.method(results.reference).label
        yield f"trainings of {name} vary less than those of {other}, clean", *_paired(own, reference), -1


def _variances(results: Results, subset: int | None) -> dict[str, dict[int, Measure]]:
    """Collect how much the members of ensembles vary, at equal mean confidence, by method and seed."""
    found: dict[str, dict[int, Measure]] = {}
    for row in results.stability:
        if row.models == "members" and row.subset == subset and row.seed is not None:
            found.setdefault(row.method, {})[row.seed] = row.matched_prediction_variance
    return found


def _paired(first: dict[int, Measure], second: dict[int, Measure]) -> tuple[Measure, float]:
    """Compute the difference of the means, and p of the test that is paired by seed."""
    seeds = sorted(first.keys() & second.keys())
    ours, theirs = ([part[seed] for seed in seeds] for part in (first, second))
    p = paired_t_test([each.value for each in ours], [each.value for each in theirs])
    return minus(*(mean_over_seeds(part, "brier") for part in (ours, theirs))), p


def minus(first: Measure, second: Measure) -> Measure:
    """Subtract; the ends of both intervals bound that of the difference."""
    return Measure(first.value - second.value, first.low - second.high, first.high - second.low)


def comparisons(results: Results) -> Iterator[Answer]:
    """Compare every method of ``compare_with`` with the others, all after a temperature."""
    for name in results.config.get("compare_with", ()):
        is_ensemble = results.method(name).num_members > 1
        others = [
            each
            for each in results.methods
            if each.name != name and (each.num_members > 1) == is_ensemble and (is_ensemble or not each.variant_of)
        ]
        for other in others:
            pair = Variant(name, "temperature"), Variant(other.name, "temperature")
            for place, metric in ((place, metric) for place in places(results) for metric in JUDGED):
                if found := _compared(results, *pair, place, metric):
                    answer, where = judge(found.measure, found.p_holm, expected=-1), f"{NAMES[metric]}, {PLACES[place]}"
                    labels = results.method(name).label, other.label
                    yield Answer(where, answer, found.measure, found.p_holm, *labels)


def _compared(results: Results, first: Variant, second: Variant, place: Place, metric: Metric) -> Comparison | None:
    """Return the comparison of the second variant with the first one, or else the reverse, as first minus second."""
    if found := results.by_comparison.get((second, first, place, metric)):
        return replace(found, difference=-found.difference, low=-found.high, high=-found.low)
    return results.by_comparison.get((first, second, place, metric))


def choices(results: Results) -> Iterator[Choice]:
    """Name the best variant for each situation by its mean, if the study has more than adaptive targets."""
    if "label_smoothing" not in {method.name for method in results.methods}:
        return
    baseline = Variant(results.reference, "temperature")
    for situation, (place, metric) in SITUATIONS.items():
        if place not in places(results):
            continue
        means = {
            variant: mean
            for variant in results.variants
            if (results.method(variant.method).num_members > 1) == (situation == "ensemble affordable")
            and (situation != "cannot retrain" or variant.method == results.reference)
            and not (situation == "shift expected" and variant.calibrator == "batch_temperature" and _on_table(results))
            and (mean := measure(results, variant, metric, conditions=places(results)[place])).known
        }
        if not means:
            continue
        best = min(means, key=lambda variant: means[variant].value)
        found = results.by_comparison.get((best, baseline, place, metric))
        against = "is the baseline" if best == baseline else "not compared"
        if found:
            answer = judge(found.measure, found.p_holm, expected=-1)
            against = f"{answer}: {difference(found.measure)}"
        name, cost = label(results, best), relative_cost(results, best.method)
        yield Choice(situation, name, f"{NAMES[metric]}, {PLACES[place]}", means[best], against, cost)


def _on_table(results: Results) -> bool:
    """Return True if the shift is noise and lost columns, of which the batch temperature makes its domains, too."""
    return any(row.condition.corruption in ("column_noise", "missing_columns") for row in results.rows)


def notes(results: Results) -> str:
    """Say what must be known about the batch temperature."""
    if not any(variant.calibrator == "batch_temperature" for variant in results.variants):
        return ""
    note = "`batch_temperature` takes all test examples of one condition for one batch, without their labels."
    same = (
        " Its fit makes domains by noise and lost columns, as the shift does. So its figures under shift are too good "
        "for another shift, and it is left out of the best under shift."
    )
    return note + same * _on_table(results)


def regime(results: Results) -> str:
    """Say how well the reference has learned its training examples, and how large its calibration error is."""
    reference = Variant(results.reference)
    ece, floor = (measure(results, reference, metric).value for metric in ("ece", "ece_noise_floor"))
    last = [each.epochs[-1].accuracy for each in results.training if each.method == results.reference and each.epochs]
    learned = (
        f"is right on {sum(last) / len(last):.1%} of its training examples in the last epoch, and " if last else ""
    )
    name = results.method(results.reference).label
    return f"The model of {name} {learned}has {ece / floor:.0f} times the ECE of a calibrated one (the noise floor)."


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


def claims_table(found: Sequence[Answer]) -> str:
    """Show each claim with its answer."""
    rows = [[each.claim, f"**{each.answer}**", difference(each.difference), p_value(each.p)] for each in found]
    return table(["claim", "answer", "difference", "p"], rows) if rows else "The study has none of their methods."


def comparison_tables(found: Sequence[Answer]) -> Iterator[str]:
    """Show for each compared method a table of the others: where it is significantly lower, and where higher."""
    for method in dict.fromkeys(each.method for each in found):
        cells = {(each.other, each.claim): each for each in found if each.method == method}
        measures = list(dict.fromkeys(claim for _, claim in cells))
        others = list(dict.fromkeys(other for other, _ in cells))
        rows = [[other, *(_decided(cells.get((other, claim))) for claim in measures)] for other in others]
        yield f"**{method}**, compared with:"
        yield table(["", *measures], rows)


def _decided(answer: Answer | None) -> str:
    """Write a difference that is significant; a dash for any other."""
    if answer is None or answer.answer == "not shown":
        return "–"
    return f"{'lower' if answer.answer == 'shown' else 'higher'}: {answer.difference.value:+.4f}"


def page(results: Results, claimed: Sequence[Answer], compared: Sequence[Answer], origin: str) -> str:
    """Write the page of one study."""
    parts = [f"# {results.name}", results.description, regime(results), origin, notes(results)]
    parts += ["## The claims of the paper", RULE, claims_table(claimed)]
    if compared:
        parts += ["## Comparisons", COMPARED, *comparison_tables(compared)]
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
    packaged = f"src/aradals/pipeline/recipes/{results.name}.yaml"
    recipe = results.name if (ROOT / packaged).exists() else f"results/{results.name}/{results.name}.yaml"
    source = packaged if recipe == results.name else recipe
    return (
        f"`aradals run {recipe} --output runs/{results.name}`; the [recipe](../../{source}) says where the data come "
        f"from. {count(len(results.seeds), 'seed')} "
        f"({', '.join(map(str, results.seeds))}); examples: {splits}; {versions}; {results.device}. "
        f"Rendered by the code of commit {commit} on {hardware}. Intervals are over seeds and examples. Cost is a "
        "multiple of plain training, with the training and scoring of models that only score, and all candidates."
    )


def gather(results: Results, commit: str, hardware: str) -> Evidence:
    """Collect what is shown of a study."""
    claimed, compared = claims(results), tuple(comparisons(results))
    text = page(results, claimed, compared, origin_of(results, commit, hardware))
    return Evidence(results.name, text, len(results.seeds), claimed, compared, tuple(choices(results)))


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
        "## The claims of the paper",
        "The differences of the studies; their pages have the intervals and p values. A dash: the study cannot say.",
        claims_overview(decisive(studies)),
        "## Studies",
    ]  # fmt: skip
    for study in studies:
        given = [each.answer for each in (*study.claims, *study.comparisons)]
        counted = ", ".join(f"{given.count(key)} {key}" for key in ("shown", "not shown", "contradicted"))
        parts.append(
            f"[{study.name}](../results/{study.name}/README.md): {count(study.num_seeds, 'seed')}. Answers: {counted}."
        )
    return "\n\n".join(parts if studies else [*parts[:4], NONE_YET]) + "\n"


def claims_overview(studies: Sequence[Evidence]) -> str:
    """Show the answer of each study to each claim of the paper, and how many studies decide it in either direction."""
    found = {(each.claim, study.name): each for study in studies for each in study.claims}
    rows = []
    for claim in dict.fromkeys(claim for claim, _ in found):
        given = [found.get((claim, study.name)) for study in studies]
        answers = [each.answer for each in given if each]
        counted = f"{answers.count('shown')} / {answers.count('contradicted')} of {len(answers)}"
        rows.append(
            [claim, counted, *(f"{each.answer}: {each.difference.value:+.3f}" if each else "–" for each in given)]
        )
    return table(["claim", "shown / contradicted", *(study.name for study in studies)], rows)


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
    changed = " with changes" * bool(_git("status", "--porcelain", "--", "src"))
    found = gather(
        results, _git("log", "-1", "--format=%h", "--", "src") + changed, f"{platform.machine()}, {platform.system()}"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    _write(output, found.text)
    save_json(output.parent / "evidence.json", plain(replace(found, text="")))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


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
