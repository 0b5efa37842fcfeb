"""Write the pages of evidence from the results of studies: every number comes from a file of results.

    python benchmarks/evidence/render.py --study runs/letter/results.json --output results/letter/README.md
    python benchmarks/evidence/render.py --all

The first form writes one page, and beside it ``evidence.json``, which has its answers. The second form writes
docs/evidence.md and the table of README.md from all of these files.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from answers import (
    JUDGED,
    NAMES,
    PLACES,
    SITUATIONS,
    TUNED_ON,
    Answer,
    Choice,
    choices,
    claims,
    comparisons,
    is_on_table,
)

from aradals._internal.files import atomic_path
from aradals._internal.json_files import load_json, save_json
from aradals._internal.typed import read_typed
from aradals.report.tables import BATCHES, cell, failed_rows, stability_rows
from aradals.report.view import label, other_data, shift_mean
from aradals.results import read_results
from aradals.results.aggregate import measure, places, relative_cost
from aradals.results.files import plain
from aradals.results.records import Comparison, Measure, Metric, Place, Results, Variant

ROOT = Path(__file__).parents[2]
SHOWN: tuple[Metric, ...] = (
    *("accuracy", "ece", "ece_noise_floor", "subset_calibration_error", "subset_noise_floor", "nll", "brier", "aurc"),
    *("coverage_at_error_1", "coverage_at_error_5"),
)
MIN_SEEDS = 3
"""Number of seeds from which on there are tests."""
RULE = (
    "Rule of all answers: *shown* (or *contradicted*) if the 95 % interval of the difference excludes zero in this (or "
    "in the other) direction and p < .05 after Holm's correction; else *not shown*. The claims of a study are one "
    "family of tests. The comparisons of all variants with one of them, by one measure, are another. With three seeds "
    "the tests have little power: *not shown* does not mean that there is no effect. With fewer, there is no test."
)
CLAIMED = (
    "Models are compared as they were trained. If a setting of the other method was chosen by the NLL after a "
    "temperature, both have a temperature, because the choice makes no promise about the confidence before. Vanilla "
    "training with a temperature is no claim of the paper, but the baseline to beat. CCAT takes fewer steps than "
    "published, and no setting of it is chosen."
)
COMPARED = (
    "All methods have a temperature. Each cell says whether the method is significantly lower or higher than the "
    "other, by the rule above, and by how much; lower is better. A dash stands for *not shown*; evidence.json has all "
    "differences."
)
WORDS = (
    "**vanilla**: plain training with one-hot labels. **+ T**: with temperature scaling, fitted on a calibration "
    "split. **shaped**: label smoothing whose labels are softer for the less robust examples, at a chosen mean level. "
    "**ECE**: expected calibration error. **subset CE**: its mean over ten robustness subsets. **AURC**: mean error "
    "over all shares of accepted predictions, the most confident ones first. **shift**: the mean over corrupted copies "
    "of the test data. Lower is better for all measures."
)
OTHER = (
    "AUROC: the probability that a test example has a higher confidence than one of the other data; higher is better. "
    "A calibrator that fits itself to a batch gets all of these examples in one batch."
)
NONE_YET = "No study is complete yet."


@dataclass(frozen=True)
class Evidence:
    """One page, as blocks of Markdown, and what the page of all studies shows of it."""

    name: str
    text: str
    num_seeds: int
    claims: tuple[Answer, ...]
    comparisons: tuple[Answer, ...]
    choices: tuple[Choice, ...]


def notes(results: Results) -> str:
    """Say what must be known about the batch temperature."""
    if not any(variant.calibrator == "batch_temperature" for variant in results.variants):
        return ""
    same = (
        " Its fit makes domains by noise and lost columns, as the shift does. So its figures under shift are too good "
        "for another shift, and it is left out of the best under shift."
    )
    return BATCHES + same * is_on_table(results)


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


def difference_and_p(compared: Comparison | None) -> str:
    """Write a paired difference with its interval and p; a dash if there was no comparison."""
    return f"{difference(compared.measure)}, p {p_value(compared.p_holm)}" if compared else "–"


def references(results: Results) -> list[Variant]:
    """List what all variants are compared with: the reference as trained, and with a temperature."""
    found = (Variant(results.reference), Variant(results.reference, "temperature"))
    return [each for each in found if each in results.variants]


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
            rows.append([label(results, variant), *map(difference_and_p, found)])
    return table(["method", *(NAMES[metric] for metric in JUDGED)], rows)


def ood_table(results: Results) -> str:
    """Show the AUROC of the confidence for telling other data from the test data, and its differences."""
    against = references(results)
    rows = []
    for variant in results.variants:
        compared = [results.by_comparison.get((variant, each, "clean", "ood_auroc")) for each in against]
        auroc = number(measure(results, variant, "ood_auroc"))
        rows.append([label(results, variant), auroc, *map(difference_and_p, compared)])
    return table(["method", "AUROC", *(f"minus {label(results, each)}" for each in against)], rows)


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
    parts += ["## The claims of the paper", f"{RULE} {CLAIMED}", claims_table(claimed)]
    if compared:
        parts += ["## Comparisons", COMPARED, *comparison_tables(compared)]
    for place in places(results):
        title = "Clean" if place == "clean" else f"Under shift: {shift_mean(results)}"
        parts += [f"## {title}", means_table(results, place)]
        for reference in references(results):
            parts += [f"Minus {label(results, reference)}:", differences_table(results, reference, place)]
    if results.data.ood:
        parts += [f"## Out-of-distribution data: {other_data(results)}", OTHER, ood_table(results)]
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
        f"({', '.join(map(str, results.seeds))}); examples: {splits}; {versions}; {results.device}; "
        f"page of commit {commit}; {hardware}. Intervals are over seeds and examples. Cost is a "
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
    if not studies:
        return f"# Evidence\n\n{NONE_YET}\n"
    tuned = [study.name for study in studies if study.name in TUNED_ON]
    parts = [
        "# Evidence",
        "`make evidence` runs or resumes the studies, except for the one that needs a GPU, and writes this page and "
        "theirs. Every number comes from a file of results. [How to choose](choosing.md) says what follows.",
        WORDS,
        f"The slope of the shaped targets was chosen on {', '.join(f'`{name}`' for name in tuned)}. So these methods "
        "are left out of the best variants of that study." if tuned else "",
        RULE,
        "## Which method when",
        "The best variant by its mean, and its difference to vanilla + T (*shown*: it is significantly lower). Studies "
        f"of fewer than {MIN_SEEDS} seeds have no test, and are left out. The epochs are equal, the cost is not: a "
        "method with a chosen setting trains each candidate.",
        table(
            ["situation", "study", "best by the mean", "measure", "value", "cost", "against vanilla + T"],
            [
                [each.situation, study.name, each.variant, each.metric, number(each.value), f"{each.cost:.1f}",
                 "is the baseline" if each.answer == "none" else f"{each.answer}: {difference(each.difference)}"]
                for situation in SITUATIONS
                for study in decisive(studies)
                if (each := best(study, situation))
            ],
        ),
        "In how many studies a variant is significantly better than vanilla + T, and in how many it is worse. Variants "
        "that differ significantly in no study are left out.",
        counts_table(studies),
        "## The claims of the paper",
        "The differences of the studies; their pages have the intervals and p values. A dash: the study cannot say. "
        f"{CLAIMED}",
        claims_overview(decisive(studies)),
        "## Studies",
    ]  # fmt: skip
    tested = decisive(studies)
    for study in studies:
        given = [each.answer for each in study.claims]
        counted = ", ".join(f"{given.count(key)} {key}" for key in ("shown", "not shown", "contradicted"))
        judged = f"Claims: {counted}" if study in tested else "No test"
        parts.append(f"[{study.name}](../results/{study.name}/README.md): {count(study.num_seeds, 'seed')}. {judged}.")
    return "\n\n".join(filter(None, parts)) + "\n"


def best(study: Evidence, situation: str) -> Choice | None:
    """Return the variant with the lowest mean in a situation."""
    found = [each for each in study.choices if each.situation == situation]
    return min(found, key=lambda each: each.value.value, default=None)


def by_variant(studies: Sequence[Evidence], situation: str) -> dict[str, list[Choice]]:
    """Collect what the decisive studies say of each variant beside the baseline in a situation."""
    found: dict[str, list[Choice]] = {}
    for study in decisive(studies):
        for each in study.choices:
            if each.situation == situation and each.answer != "none":
                found.setdefault(each.variant, []).append(each)
    return found


def counts(studies: Sequence[Evidence], situation: str) -> dict[str, tuple[int, int, int]]:
    """Count for each variant the studies in which it is better and worse than the baseline, and all that have it.

    The first one has the largest surplus of better over worse; of equal ones, the one with the lowest differences.
    """
    found = by_variant(studies, situation)

    def surplus(variant: str) -> tuple[int, float]:
        answers, changes = ([getattr(each, name) for each in found[variant]] for name in ("answer", "difference"))
        return answers.count("contradicted") - answers.count("shown"), sum(each.value for each in changes)

    answers = {variant: [each.answer for each in found[variant]] for variant in sorted(found, key=surplus)}
    return {name: (each.count("shown"), each.count("contradicted"), len(each)) for name, each in answers.items()}


def counts_table(studies: Sequence[Evidence]) -> str:
    """Show the counts of the variants that differ significantly in any study."""
    rows = [
        [situation, variant, f"{better} of {num}", f"{worse} of {num}"]
        for situation in SITUATIONS
        for variant, (better, worse, num) in counts(studies, situation).items()
        if better or worse
    ]
    return table(["situation", "variant", "better", "worse"], rows) if rows else "None differs in any study."


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
    """Write the table of README.md: for each situation, the variant with the lowest mean change over the studies."""
    rows = []
    for situation, (place, metric) in SITUATIONS.items():
        changes = relative_changes(studies, situation)
        if changes:
            best_one = min(changes, key=lambda variant: fmean(changes[variant]))
            better, worse, num = counts(studies, situation)[best_one]
            change, costs = changes[best_one], [each.cost for each in by_variant(studies, situation)[best_one]]
            cells = [
                f"{fmean(change):+.0%} ({min(change):+.0%} to {max(change):+.0%})",
                f"{min(costs):.0f}" if max(costs) - min(costs) < 1 else f"{min(costs):.0f} to {max(costs):.0f}",
                *(f"{better} of {num}", f"{worse} of {num}"),
            ]
            rows.append([f"{situation} ({NAMES[metric]}, {PLACES[place]})", best_one, *cells])
    return table(["situation", "variant", "change", "cost", "better in", "worse in"], rows) if rows else NONE_YET


def relative_changes(studies: Sequence[Evidence], situation: str) -> dict[str, list[float]]:
    """Compute the relative change against the baseline in each study, of the variants that all studies have."""
    num_asked = sum(bool(study.choices) for study in decisive(studies))
    changes = {
        variant: [each.difference.value / (each.value.value - each.difference.value) for each in found]
        for variant, found in by_variant(studies, situation).items()
    }
    return {variant: each for variant, each in changes.items() if len(each) == num_asked}


def with_block(text: str, block: str) -> str:
    """Replace what stands between the two comments ``evidence:start`` and ``evidence:end``."""
    start, end = "<!-- evidence:start -->\n", "<!-- evidence:end -->"
    return re.sub(f"(?<={start}).*(?={end})", lambda _: f"{block}\n", text, count=1, flags=re.DOTALL)


def present_commit() -> str:
    """Name the last commit that changed the package, and say whether the package has changed since."""
    changed = " with changes" * bool(_git("status", "--porcelain", "--", "src"))
    return _git("log", "-1", "--format=%h", "--", "src") + changed


def render_study(file: Path, output: Path, commit: str) -> None:
    """Write the page of a study, and `Evidence` beside it."""
    found = gather(read_results(file), commit, f"{platform.machine()}, {platform.system()}")
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
        render_study(given.study, given.output, present_commit())


if __name__ == "__main__":
    main()
