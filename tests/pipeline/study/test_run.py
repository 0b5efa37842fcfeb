"""A study: what its results hold, what is shared and what is kept apart, and what is not done twice."""

from __future__ import annotations

import csv
import json
import math
import shutil
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from small_study import ADAPTIVE, VANILLA, save_digits, seed_run, small_config, trainings

from aradals import InputError, load_calibrator, run_study
from aradals._internal.files import file_name
from aradals._internal.hashes import decode_hashes
from aradals._internal.json_files import load_sealed
from aradals.data import Examples, overlap
from aradals.metrics import stability
from aradals.models import build_model, load_checkpoint, read_checkpoint_metadata
from aradals.pipeline.artifacts import load_predictions, load_scores
from aradals.pipeline.config import (
    AdaptiveTargets,
    ColumnSubsets,
    EnsembleConfig,
    EvaluationConfig,
    FixedTargets,
    MethodConfig,
    RankedSubsets,
    SelfScoredSubsets,
    StudyConfig,
    TrainingConfig,
)
from aradals.pipeline.study import run_studies, train_one
from aradals.pipeline.study.arrays import RunArrays
from aradals.pipeline.study.finished import read_file
from aradals.pipeline.study.run import study_stability
from aradals.results import Condition, Metric, Results, Variant, measure, read_results, read_studies
from aradals.results.aggregate import means
from aradals.results.compare import COMPARED
from aradals.results.files import plain
from aradals.results.records import Training
from aradals.robustness.scores import score
from aradals.smoothing.update_rules import UpdateRule
from in_memory import check_results

NUM_SUBSETS = 2
UNDEFINED = {"error_auroc"}  # where all predictions are right, or wrong
SHIFTS = [("contrast", 5), ("gaussian_blur", 5)]

METHODS = {
    "ada_ls": MethodConfig(targets=AdaptiveTargets(UpdateRule(rate="auto"))),
    "vanilla": VANILLA,
    "ar_adals": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(3), smoothing=0.5)),
    "label_smoothing": MethodConfig(targets=FixedTargets(0.1)),
}


def three_seeds(data: str) -> StudyConfig:
    return small_config(
        data,
        METHODS,
        ensembles={"pair": EnsembleConfig("vanilla", num_members=2)},
        training=TrainingConfig(epochs=3, batch_size=10, learning_rate=0.01),
        evaluation=EvaluationConfig(
            num_subsets=NUM_SUBSETS, corruptions=["contrast", "gaussian_blur"], severities=[5], num_resamples=20
        ),
        seeds=[0, 7, 8],
    )


@dataclass(frozen=True)
class Finished:
    """A study with three seeds."""

    config: StudyConfig
    folder: Path
    results: Results
    log: list[str]

    @property
    def names(self) -> list[str]:
        """Of methods and ensembles."""
        return [*self.config.methods, *self.config.ensembles]

    def splits(self, seed: int) -> dict[str, Examples]:
        """The splits of a seed."""
        return dict(seed_run(self.config, self.folder, seed=seed)[0].splits.items())

    def by_seed(self, method: str, metric: Metric, calibrator: str = "none", corruption: str = "none") -> list[float]:
        """An overall metric at every seed, in the order of the seeds."""
        rows = [
            row
            for row in self.results.rows
            if row.variant == Variant(method, calibrator) and row.corruption == corruption and row.subset is None
        ]
        assert [row.seed for row in rows] == self.config.seeds
        return [row[metric].value for row in rows]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)  # on tensors this small, threads only wait for each other
    folder = tmp_path_factory.mktemp("study")
    config = three_seeds(save_digits(folder / "digits.npz", num_train=220))
    log: list[str] = []
    return Finished(config, folder / "out", run_study(config, folder / "out", name="test", log=log.append), log)


@pytest.fixture(scope="module")
def data(study: Finished) -> str:
    assert isinstance(study.config.data, str)
    return study.config.data


def without_scorer(config: StudyConfig) -> StudyConfig:
    """The same study without a vanilla method that could score."""
    return replace(
        config, methods={name: settings for name, settings in METHODS.items() if name != "vanilla"}, ensembles={}
    )


def test_results_hold_every_row(study: Finished) -> None:
    rows = study.results.rows
    found = [(row.method, row.seed, row.calibrator, *row.condition, row.subset) for row in rows]
    expected = {
        (method, seed, calibrator, *condition, subset)
        for method in study.names
        for seed in study.config.seeds
        for calibrator in ("none", "temperature")
        for condition in [("none", 0), *SHIFTS]
        for subset in (None, *range(NUM_SUBSETS))
    }
    assert len(found) == len(expected)
    assert set(found) == expected
    assert all(row.n == (100 if row.subset is None else 50) for row in rows)
    assert study.results.data.splits == {"train": 100, "validation": 40, "calibration": 40, "test": 100}


def test_results_hold_no_nan(study: Finished) -> None:
    text = (study.folder / "results.json").read_text()
    rows = json.loads(text, parse_constant=pytest.fail)["rows"]  # called for NaN and Infinity
    assert rows == plain(study.results.rows)
    missing = {name for row in study.results.rows for name, found in row.metrics.items() if not found.known}
    assert missing <= UNDEFINED


def test_results_are_those_of_the_file(study: Finished) -> None:
    """NaN is not equal to itself, so that the plain values are compared."""
    assert plain(read_results(study.folder)) == plain(study.results)
    assert read_results(study.folder).rows == study.results.rows


def test_the_table_is_the_rows_with_their_costs(study: Finished) -> None:
    table = parquet.read_table(study.folder / "table.parquet").to_pylist()
    assert len(table) == len(study.results.rows)
    everything = set(study.results.rows[0].metrics)
    for row, stored in zip(study.results.rows, table, strict=True):
        assert (stored["method"], stored["calibrator"], stored["seed"]) == (row.method, row.calibrator, row.seed)
        assert (stored["corruption"], stored["severity"]) == row.condition
        assert (stored["subset"], stored["n"]) == (row.subset, row.n)
        for name, found in row.metrics.items():
            assert stored[name] == found.value
            if found.has_interval:
                assert (stored[f"{name}_low"], stored[f"{name}_high"]) == (found.low, found.high)
        assert stored["data"] == study.results.data.name
        missing = {key for key in everything if stored[key] is None} - UNDEFINED
        assert missing == everything - UNDEFINED - set(row.metrics)
        assert (missing == set()) == (row.subset is None)
        [cost] = [cost for cost in study.results.costs if (cost.method, cost.seed) == (row.method, row.seed)]
        assert (stored["seconds"], stored["relative_cost"]) == (cost.seconds, cost.relative_cost)
    with (study.folder / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == [row["method"] for row in table]
    assert [float(line["nll"]) for line in lines] == pytest.approx([row["nll"] for row in table])


def test_training_and_calibrators_say_whose_they_are(study: Finished) -> None:
    seeds = study.config.seeds
    trained = [(row.method, row.seed) for row in study.results.training]
    assert sorted(trained) == sorted((method, seed) for method in METHODS for seed in seeds)
    calibrated = [(row.method, row.seed, row.calibrator) for row in study.results.calibrators]
    assert sorted(calibrated) == sorted((name, seed, "temperature") for name in study.names for seed in seeds)
    scored = [(row.split, row.seed) for row in study.results.scoring]
    assert sorted(scored) == sorted((split, seed) for split in ("train", "validation", "test") for seed in seeds)


def test_temperature_scaling_keeps_the_accuracy_and_lowers_the_nll_where_it_was_fitted(study: Finished) -> None:
    for name in study.names:
        assert study.by_seed(name, "accuracy") == study.by_seed(name, "accuracy", "temperature")
        for seed in study.config.seeds:
            folder = study.folder / f"seed-{seed}" / name
            if name not in METHODS:
                continue
            calibration, _ = load_predictions(folder / "predict" / "calibration.parquet")
            fitted = load_calibrator(folder / "calibrate" / "temperature.json")
            scaled = fitted.predict_logits(calibration.logits)
            nll = [
                torch.nn.functional.cross_entropy(z.double(), calibration.labels) for z in (calibration.logits, scaled)
            ]
            assert nll[1] < nll[0]


def test_everything_is_scored_once_by_the_vanilla_method(study: Finished) -> None:
    """Whatever the order of the methods; here the first of them is not the vanilla one."""
    for seed in study.config.seeds:
        assert not (study.folder / f"seed-{seed}" / "scorer").exists()
        for split in ("train", "validation", "test"):
            scored = f"[seed {seed}] scores: {split}: "
            assert sum(line.startswith(scored) and "examples by" in line for line in study.log) == 1

        model = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
        load_checkpoint(model, study.folder / f"seed-{seed}" / "vanilla" / "train" / "model.safetensors")
        table, _ = load_scores(study.folder / f"seed-{seed}" / "scores" / "test" / "scores.parquet")
        expected = score(model, study.splits(seed)["test"].batches(), "first_order_margin").score.double()
        torch.testing.assert_close(table.score.double(), expected, rtol=1e-4, atol=1e-6)


def test_subsets_of_a_method_are_those_of_the_scorer(study: Finished) -> None:
    """Rows by subset can be recomputed from stored predictions and the one score table of the seed."""
    folder = study.folder / "seed-7"
    table, _ = load_scores(folder / "scores" / "test" / "scores.parquet")
    order = np.lexsort((table.ids.numpy(), table.score.numpy()))
    labels = study.splits(7)["test"].labels.numpy()
    for method in METHODS:
        stored = parquet.read_table(folder / method / "predict" / "predictions-contrast-5.parquet")
        correct = np.stack(stored["logits"].to_numpy()).argmax(1) == labels
        for subset, members in enumerate(np.split(order, NUM_SUBSETS)):
            (row,) = (
                row
                for row in study.results.rows
                if (row.method, row.seed, row.calibrator) == (method, 7, "none")
                and (row.corruption, row.severity, row.subset) == ("contrast", 5, subset)
            )
            assert row["accuracy"].value == pytest.approx(correct[members].mean())


def test_two_seeds_differ_in_splits_and_initialization(study: Finished) -> None:
    first, second = study.splits(0), study.splits(7)
    for split in ("train", "validation", "calibration"):
        assert set(first[split].ids.tolist()) != set(second[split].ids.tolist())
    assert torch.equal(first["test"].ids, second["test"].ids)
    hashes = study.results.data.splits_hash
    assert len(set(hashes.values())) == 3
    weights = [load_file(study.folder / f"seed-{seed}" / "vanilla" / "train" / "model.safetensors") for seed in (0, 7)]
    assert not torch.equal(weights[0]["linear.weight"], weights[1]["linear.weight"])
    accuracy = study.by_seed("vanilla", "accuracy")
    assert accuracy[0] != accuracy[1]


def test_the_test_split_is_in_nothing_that_was_fitted(study: Finished) -> None:
    for seed in study.config.seeds:
        splits = study.splits(seed)
        for method in METHODS:
            folder = study.folder / f"seed-{seed}" / method
            metadata = read_checkpoint_metadata(folder / "train" / "model.safetensors")
            fitted = decode_hashes(json.loads(metadata["aradals"])["fitted_examples"])
            calibrated = load_calibrator(folder / "calibrate" / "temperature.json").origin.example_hashes
            assert np.array_equal(
                fitted, np.sort(np.concatenate([splits["train"].hashes, splits["validation"].hashes]))
            )
            assert np.array_equal(calibrated, np.sort(splits["calibration"].hashes))
            for hashes in (fitted, calibrated):
                assert overlap(hashes, splits["test"].hashes) == 0
            assert overlap(fitted, calibrated) == 0


def test_the_course_of_the_targets_is_recorded(study: Finished) -> None:
    for run in study.results.training:
        settings = METHODS[run.method]
        assert len(run.target_prob) == settings.num_subsets
        assert len(run.epochs) == 3
        assert all(epoch.loss > 0 and epoch.seconds > 0 for epoch in run.epochs)
        if settings.targets.rule:
            assert len(run.updates) == 3
        elif settings.initial_target_prob != 1:
            assert run.target_prob == pytest.approx([settings.initial_target_prob])


class TestOverSeeds:
    """Aggregates, comparisons, stability and costs, from numbers that are put together by hand."""

    def test_aggregates_are_means_with_the_spread_over_seeds(self, study: Finished) -> None:
        values = study.by_seed("ar_adals", "nll", corruption="contrast")
        contrast, variant = Condition("contrast", 5), Variant("ar_adals")
        [mean] = [
            mean
            for mean in means(study.results)
            if (mean.variant, mean.condition, mean.subset) == (variant, contrast, None)
        ]
        found = mean.metrics["nll"]
        assert found == measure(study.results, variant, "nll", conditions=[contrast])
        assert found.num_seeds == 3
        assert found.value == pytest.approx(statistics.fmean(values))
        assert found.spread == pytest.approx(statistics.stdev(values))
        # Examples and seeds: the mean interval of the rows, and that of Student over seeds.
        rows = study.results.by_key[variant, contrast, None].values()
        low, high = (np.mean([getattr(row["nll"], end) for row in rows]) for end in ("low", "high"))
        student = stats.t.interval(0.95, 2, loc=0, scale=stats.sem(values))[1]
        half_width = np.hypot((high - low) / 2, student)
        assert (found.low, found.high) == pytest.approx(((low + high) / 2 - half_width, (low + high) / 2 + half_width))
        [stored] = [
            row
            for row in parquet.read_table(study.folder / "means.parquet").to_pylist()
            if (row["method"], row["calibrator"], row["corruption"], row["subset"])
            == ("ar_adals", "none", "contrast", None)
        ]
        assert (stored["nll"], stored["nll_sd"], stored["num_seeds"]) == (found.value, found.spread, 3)
        assert (stored["nll_low"], stored["nll_high"]) == (found.low, found.high)

    @pytest.mark.parametrize("metric", ["ece", "nll", "accuracy"])
    @pytest.mark.parametrize(("method", "calibrator"), [("ar_adals", "none"), ("pair", "temperature")])
    def test_comparisons_are_differences_of_means_with_students_p(
        self, study: Finished, method: str, calibrator: str, metric: Metric
    ) -> None:
        shifted = {
            name: np.mean([study.by_seed(name, metric, c, corruption) for corruption, _ in SHIFTS], 0)
            for name, c in ((method, calibrator), ("vanilla", "none"))
        }
        clean = {name: study.by_seed(name, metric, c) for name, c in ((method, calibrator), ("vanilla", "none"))}
        wanted = (Variant(method, calibrator), Variant("vanilla"), metric)
        found = [row for row in study.results.comparisons if (row.variant, row.reference, row.metric) == wanted]
        assert [row.place for row in found] == ["clean", "all_shifts"]
        for row, values in zip(found, (clean, shifted), strict=True):
            ours, theirs = values[method], values["vanilla"]
            assert row.num_seeds == 3
            assert (row.value, row.reference_value) == pytest.approx((np.mean(ours), np.mean(theirs)))
            assert row.difference == pytest.approx(np.mean(ours) - np.mean(theirs))
            assert row.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
            assert row.p_holm >= row.p
            assert row.low < row.high

    def test_everything_is_compared_with_the_reference(self, study: Finished) -> None:
        found = {
            (row.method, row.calibrator, row.reference_method, row.reference_calibrator, row.place)
            for row in study.results.comparisons
        }
        variants = [(name, calibrator) for name in study.names for calibrator in ("none", "temperature")]
        references = [variant for variant in variants if variant[0] == study.results.reference]
        assert study.results.reference == "vanilla"
        assert found == {
            (*variant, *reference, condition)
            for variant in variants
            for reference in references
            for condition in ("clean", "all_shifts")
            if variant != reference
        }

    def test_stability_is_the_variance_of_the_predictions_of_the_seeds(self, study: Finished) -> None:
        overall = [row for row in study.results.stability if row.subset is None]
        seeds = study.config.seeds
        for method in METHODS:
            logits = [
                load_predictions(study.folder / f"seed-{seed}" / method / "predict" / "predictions-none-0.parquet")[0]
                for seed in seeds
            ]
            probs = np.stack([one.logits.double().softmax(1).numpy() for one in logits])
            by_hand = ((probs - probs.mean(0)) ** 2).sum(0).sum(1).mean() / 2
            [row] = [row for row in overall if (row.method, row.models) == (method, "seeds")]
            assert row.prediction_variance.value == pytest.approx(by_hand, rel=1e-2)  # logits are stored as float16
            assert row.num_models == 3
            common = statistics.fmean(study.by_seed("ada_ls", "accuracy"))
            stacked = torch.stack([one.logits.double() for one in logits])
            matched = stability(logits=stacked, match_confidence=common)[0]["matched_prediction_variance"]
            assert row.matched_prediction_variance.value == pytest.approx(matched, rel=1e-2)
        assert {row.method for row in overall} == set(study.names)
        members = [row for row in overall if row.models == "members"]
        assert [(row.method, row.seed, row.num_models) for row in members] == [("vanilla", seed, 2) for seed in seeds]
        by_subset = [row.subset for row in study.results.stability if row.method == "pair"]
        assert by_subset == [None, *range(NUM_SUBSETS)]

    def test_costs_add_up(self, study: Finished) -> None:
        for cost in study.results.costs:
            assert cost.seconds == pytest.approx(cost.training_seconds + cost.scorer_seconds + cost.scoring_seconds)
            [vanilla] = [c for c in study.results.costs if (c.method, c.seed) == ("vanilla", cost.seed)]
            assert cost.relative_cost == pytest.approx(cost.seconds / vanilla.seconds)
            if cost.method == "ar_adals":
                assert cost.scorer_seconds == vanilla.training_seconds
                scorings = [
                    row.seconds
                    for row in study.results.scoring
                    if row.seed == cost.seed and row.split in ("train", "validation")
                ]
                assert len(scorings) == 2
                assert cost.scoring_seconds == pytest.approx(sum(scorings))
            else:
                assert cost.seconds == cost.training_seconds
            if cost.method in METHODS:
                [run] = [run for run in study.results.training if (run.method, run.seed) == (cost.method, cost.seed)]
                assert cost.training_seconds == pytest.approx(sum(epoch.seconds for epoch in run.epochs))
        assert [cost.relative_cost for cost in study.results.costs if cost.method == "vanilla"] == [1, 1, 1]

    def test_predictions_without_an_error_break_nothing(self, study: Finished) -> None:
        """No temperature has a mean confidence of 1, so that there is nothing to match."""
        labels = torch.arange(20) % 10
        perfect = RunArrays({}, 9.0 * torch.eye(10)[labels][None].double(), labels, labels.double(), labels % 2)
        config = replace(study.config, methods={"vanilla": VANILLA}, ensembles={}, seeds=[0, 1])
        rows = list(study_stability(config, {("vanilla", 0): perfect, ("vanilla", 1): perfect}))
        assert [row.prediction_variance.value for row in rows] == [0, 0, 0]
        assert not any(row.matched_prediction_variance.known for row in rows)


def run_logged(config: StudyConfig, folder: Path) -> tuple[Results, list[str]]:
    log: list[str] = []
    return run_study(config, folder, name="test", log=log.append), log


@pytest.fixture(scope="module")
def small(data: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One seed; its folder is copied by those that change it."""
    methods = {name: METHODS[name] for name in ("vanilla", "ada_ls", "ar_adals")}
    config = small_config(data, methods, ensembles={"pair": EnsembleConfig("vanilla", num_members=2)})
    folder = tmp_path_factory.mktemp("small")
    return Finished(config, folder, *run_logged(config, folder))


@pytest.fixture
def copied(small: Finished, tmp_path: Path) -> Finished:
    return replace(small, folder=Path(shutil.copytree(small.folder, tmp_path / "copy")))


class TestDoneOnce:
    """What is done is not done again, unless it is not as it was made."""

    def test_a_second_call_does_nothing(self, copied: Finished) -> None:
        assert len(trainings(copied.log)) == 4
        before = {path: path.read_bytes() for path in (copied.folder / "seed-0").rglob("*") if path.is_file()}
        again, log = run_logged(copied.config, copied.folder)
        stages = [line for line in log if not line.startswith("run ")]
        assert stages
        assert all(line.endswith("done before, inputs unchanged") for line in stages)
        assert plain(again) == plain(copied.results)
        assert {path: path.read_bytes() for path in before} == before

    @pytest.mark.parametrize(
        "name",
        [
            "vanilla/train/model.safetensors",
            "ada_ls/evaluate/rows.json",
            "ar_adals/evaluate/arrays.npz",
            "vanilla/predict/predictions-none-0.parquet",
            "scores/test/scores.parquet",
            "ar_adals/calibrate/temperature.json",
            "ada_ls/train/history.json",
        ],
    )
    @pytest.mark.parametrize("damage", ["changed", "cut", "deleted"])
    def test_a_file_that_is_not_as_it_was_made_is_made_anew(self, name: str, damage: str, copied: Finished) -> None:
        path = copied.folder / "seed-0" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        if damage == "deleted":
            path.unlink()
        else:
            path.write_bytes(content if damage == "changed" else content[:-1])
        again, log = run_logged(copied.config, copied.folder)
        said = f"{path.name} was {'deleted' if damage == 'deleted' else 'changed or damaged'}"
        assert any(said in line for line in log)
        for part in ("rows", "comparisons", "calibrators", "stability"):
            assert plain(getattr(again, part)) == plain(getattr(copied.results, part))
        assert path.exists()

    def test_other_settings_of_a_method_are_run_for_it_alone(self, copied: Finished) -> None:
        first, config = copied.results, copied.config
        changed = {
            **config.methods,
            "ada_ls": MethodConfig(targets=AdaptiveTargets(UpdateRule(rate="auto"), smoothing=0.3)),
        }
        second, log = run_logged(replace(config, methods=changed), copied.folder)
        assert trainings(log) == ["[seed 0] ada_ls: train"]
        others = [line for line in log if line.startswith("[seed 0]") and " ada_ls:" not in line]
        assert all("done before" in line for line in others)
        for part in ("rows", "costs", "training"):
            ours, theirs = (
                [plain(row) for row in getattr(results, part) if row.method != "ada_ls"] for results in (first, second)
            )
            assert ours == theirs
        assert [row for row in first.rows if row.method == "ada_ls"] != [
            row for row in second.rows if row.method == "ada_ls"
        ]
        back, log = run_logged(config, copied.folder)
        assert trainings(log) == []
        assert back.rows == first.rows

    def test_scores_that_were_made_twice_are_reported_once(self, copied: Finished) -> None:
        """A method that is added later needs them, and takes other seconds to make them."""
        shutil.rmtree(copied.folder / "seed-0")
        added = {**copied.config.methods, "more": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2)))}
        results, _ = run_logged(replace(copied.config, methods=added), copied.folder)
        assert sorted(row.split for row in results.scoring) == ["test", "train", "validation"]

    @pytest.mark.parametrize(
        "words", ["ar_adals: train: epoch 2/2", "scores: train", "member 1: epoch 1/2", "pair, seed"]
    )
    def test_an_interrupted_study_goes_on_to_the_same_rows(self, small: Finished, tmp_path: Path, words: str) -> None:
        def log(line: str) -> None:
            if words in line:
                raise KeyboardInterrupt(line)

        with pytest.raises(KeyboardInterrupt, match=words):
            run_study(small.config, tmp_path, name="test", log=log)
        assert not (tmp_path / "results.json").exists()
        resumed, lines = run_logged(small.config, tmp_path)
        assert resumed.rows == small.results.rows
        assert plain(resumed.comparisons) == plain(small.results.comparisons)
        assert "[seed 0] vanilla: train" not in trainings(lines)


def test_scores_that_are_made_again_in_another_time_change_nothing_that_follows(copied: Finished) -> None:
    shutil.rmtree(copied.folder / "seed-0" / "scores")
    again, log = run_logged(copied.config, copied.folder)
    assert sum("examples by" in line for line in log) == 3
    for name in ("vanilla", "ada_ls", "ar_adals", "pair"):
        assert f"[seed 0] {name}: evaluate: done before, inputs unchanged" in log
    assert trainings(log) == []
    assert again.rows == copied.results.rows


def test_with_two_seeds_nothing_is_said_of_the_spread_over_seeds(data: str, tmp_path: Path) -> None:
    methods = {"vanilla": VANILLA, "label_smoothing": METHODS["label_smoothing"]}
    results = run_study(small_config(data, methods, seeds=[0, 1]), tmp_path, name="test", log=lambda line: None)
    for row in results.comparisons:
        assert row.num_seeds == 2
        assert math.isnan(row.p)
        assert math.isnan(row.p_holm)
        assert math.isnan(row.low)
        assert math.isnan(row.high)
    assert {mean.metrics["nll"].num_seeds for mean in means(results)} == {2}
    assert {row.num_models for row in results.stability} == {2}


class TestSeveralDataSets:
    def test_each_has_a_folder_and_all_have_one_table(self, data: str, tmp_path: Path) -> None:
        other = save_digits(tmp_path / "few.npz", num_train=190, num_test=60)
        config = small_config([data, other], {"vanilla": VANILLA, "ada_ls": METHODS["ada_ls"]})
        out = tmp_path / "out"
        together = run_studies(config, out, name="both", log=lambda line: None)
        assert list(together) == [out / file_name(data), out / file_name(other)]
        studies = list(together.values())
        assert [study.data.name for study in studies] == [data, other]
        assert [study.data.splits["test"] for study in studies] == [100, 60]
        for folder, study in together.items():
            assert plain(read_results(folder)) == plain(study)
        table = parquet.read_table(out / "table.parquet").to_pylist()
        assert len(table) == sum(len(study.rows) for study in studies)
        assert {row["data"] for row in table} == {data, other}
        assert load_sealed(out / "results.json")["kind"] == "studies"
        assert plain(read_studies(out)) == plain(studies)
        alone = run_study(replace(config, data=other), tmp_path / "alone", name="alone", log=lambda line: None)
        assert alone.rows == studies[1].rows

    def test_their_results_are_not_one(self, data: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"one data set.*run_studies"):
            run_study(small_config([data, "digits"], {"vanilla": VANILLA}), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_data_sets_of_one_name_are_refused(self, data: str, tmp_path: Path) -> None:
        (tmp_path / "twin").mkdir()
        twin = save_digits(tmp_path / "twin" / "digits.npz", num_train=220)
        with pytest.raises(InputError, match="different names"):
            run_studies(small_config([data, twin], {"vanilla": VANILLA}), tmp_path / "out", name="test")
        assert not list((tmp_path / "out").iterdir())

    def test_what_the_second_cannot_have_is_said_before_the_first_is_trained(self, data: str, tmp_path: Path) -> None:
        small = save_digits(tmp_path / "small.npz", num_train=90)
        with pytest.raises(InputError, match="sizes that fit the 90 examples"):
            run_studies(small_config([data, small], {"vanilla": VANILLA}), tmp_path / "out", name="test")
        assert not list((tmp_path / "out").iterdir())


def test_without_robustness_nothing_is_scored_for_training(study: Finished, tmp_path: Path) -> None:
    run, log = seed_run(without_scorer(study.config), tmp_path)
    run.train("ada_ls")
    run.train("label_smoothing")
    assert not (run.folder / "scores").exists()
    assert not (run.folder / "scorer").exists()
    run.train("ar_adals")
    assert (run.folder / "scorer" / "train" / "model.safetensors").exists()
    assert {path.name for path in (run.folder / "scores").iterdir()} == {"train", "validation"}
    assert [line for line in log if "scorer: train: epoch 3/3" in line]


def test_a_given_checkpoint_scores_and_no_other_is_trained(study: Finished, tmp_path: Path) -> None:
    checkpoint = study.folder / "seed-0" / "vanilla" / "train" / "model.safetensors"
    scoring = replace(study.config.scoring, checkpoint=str(checkpoint))
    run, _ = seed_run(replace(without_scorer(study.config), scoring=scoring), tmp_path)
    run.check()
    run.train("ar_adals")
    assert {path.name for path in run.folder.iterdir()} == {"ar_adals", "scores"}
    given, _ = load_scores(run.scores("train"))
    own, _ = load_scores(study.folder / "seed-0" / "scores" / "train" / "scores.parquet")
    assert torch.equal(given.score, own.score)
    assert run.cost("ar_adals").scorer_seconds == 0
    trained = load_file(run.folder / "ar_adals" / "train" / "model.safetensors")
    expected = load_file(study.folder / "seed-0" / "ar_adals" / "train" / "model.safetensors")
    assert all(torch.equal(trained[name], expected[name]) for name in expected)


def test_train_one_gives_the_model_of_the_study(study: Finished, tmp_path: Path) -> None:
    [checkpoint] = train_one(study.config, "ar_adals", 7, tmp_path, log=lambda line: None)
    trained = load_file(checkpoint)
    expected = load_file(study.folder / "seed-7" / "ar_adals" / "train" / "model.safetensors")
    assert all(torch.equal(trained[name], expected[name]) for name in expected)


def test_a_method_that_scores_itself_needs_no_other_model(data: str, tmp_path: Path) -> None:
    methods = {"vanilla": VANILLA, "self": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, SelfScoredSubsets(1, 3)))}
    training = TrainingConfig(epochs=3, batch_size=25, learning_rate=0.01)
    config = small_config(data, methods, training=training)
    log: list[str] = []
    [checkpoint] = train_one(config, "self", 0, tmp_path / "one", log=log.append)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"self"}
    history = read_file(checkpoint.parent / "history.json", Training)
    assert history.settings["targets"]["subsets"]["every"] == 1
    assert [scoring["epoch"] for scoring in history.scorings] == [1, 2]
    assert all(scoring["num_forward"] == scoring["num_backward"] == 100 + 40 for scoring in history.scorings)
    seconds = [*(epoch.seconds for epoch in history.epochs), *(scoring["seconds"] for scoring in history.scorings)]
    assert history.seconds == pytest.approx(sum(seconds))
    assert sum("scored 100 + 40 examples by first_order_margin" in line for line in log) == 2

    run, _ = seed_run(config, tmp_path / "run")
    finished = run.finished("self")
    [trained_again] = finished.training
    assert list(trained_again.scorings) == [
        {**scoring, "seconds": again["seconds"]}
        for scoring, again in zip(history.scorings, trained_again.scorings, strict=True)
    ]
    assert finished.cost.seconds == finished.cost.training_seconds == pytest.approx(trained_again.seconds)
    assert {path.name for path in (run.folder / "scores").iterdir()} == {"test"}  # evaluation has the fixed scorer
    assert (run.folder / "vanilla").exists()
    trained, expected = load_file(run.folder / "self" / "train" / "model.safetensors"), load_file(checkpoint)
    assert all(torch.equal(trained[name], expected[name]) for name in expected)


def test_a_model_file_that_changes_is_trained_anew(data: str, tmp_path: Path) -> None:
    source = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.{}())\n"
    file = tmp_path / "model.py"
    config = small_config(data, {"vanilla": VANILLA}, model=f"{file}:build", model_args={})
    trained = []
    for activation in ("Tanh", "Tanh", "Softsign"):
        file.write_text(source.format(activation))
        run, log = seed_run(config, tmp_path / "run")
        run.train("vanilla")
        trained.append(not any("done before" in line for line in log))
    assert trained == [True, False, True]


def test_a_column_that_changes_is_run_anew(tmp_path: Path) -> None:
    methods = {"grouped": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, ColumnSubsets("kind", 2)))}
    trained = []
    for period in (2, 2, 3):
        kind = np.where(np.arange(200) % period == 0, "even", "odd")
        config = small_config(save_digits(tmp_path / "digits.npz", kind_train=kind), methods)
        log: list[str] = []
        run_study(config, tmp_path / "out", name="test", log=log.append)
        trained.append("[seed 0] grouped: train" in trainings(log))
    assert trained == [True, False, True]


def test_only_the_scores_that_a_run_used_are_reported(study: Finished) -> None:
    run, _ = seed_run(study.config, study.folder / "seed-0")
    splits = {method: [each.split for each in run.finished(method).scoring] for method in ("ar_adals", "vanilla")}
    assert splits == {"ar_adals": ["test", "train", "validation"], "vanilla": ["test"]}


def test_methods_may_have_any_names(data: str, tmp_path: Path) -> None:
    """Comparisons, findings and reports depend on settings, not on names; a longer name is no variant of a shorter."""
    own = {
        "baseline": VANILLA,
        "mine": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(2))),
        "mine_wide": MethodConfig(targets=AdaptiveTargets(ADAPTIVE, RankedSubsets(3)), label="Mine, wide"),
    }
    names = {"baseline": "vanilla", "mine": "ar_adals", "mine_wide": "adals"}
    renamed = small_config(data, own)
    results = run_study(renamed, tmp_path / "own", log=lambda line: None)
    assert (results.name, results.reference) == ("own", "baseline")
    assert [(method.label, method.variant_of) for method in results.methods] == [
        ("baseline", None),
        ("mine", None),
        ("Mine, wide", None),
    ]
    variants = [Variant(name, calibrator) for name in own for calibrator in ("none", "temperature")]
    assert {(row.variant, row.reference, row.place, row.metric) for row in results.comparisons} == {
        (variant, reference, place, metric)
        for variant in variants
        for reference in variants[:2]
        for place in ("clean", "all_shifts")
        for metric in COMPARED
        if variant != reference and metric != "ood_auroc"  # there are no other data
    }
    assert {row.method for row in results.classes} == {"baseline", "mine"}
    check_results(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert all(label in page for label in ("baseline", "mine", "Mine, wide"))

    usual = replace(renamed, methods={names[name]: settings for name, settings in own.items()})
    expected = run_study(usual, tmp_path / "usual", log=lambda line: None)
    assert [plain(row) for row in results.comparisons] == [
        {**plain(row), "method": name, "reference_method": "baseline"}
        for row in expected.comparisons
        for name, other in names.items()
        if other == row.method
    ]


def test_the_recipe_says_what_is_compared_with(data: str, tmp_path: Path) -> None:
    methods = {"vanilla": VANILLA, "smooth": METHODS["label_smoothing"]}
    results = run_study(small_config(data, methods, reference="smooth"), tmp_path, log=lambda line: None)
    assert results.reference == "smooth"
    assert {row.reference_method for row in results.comparisons} == {"smooth"}
    assert {row.method for row in results.comparisons} == {"vanilla", "smooth"}
    assert results.classes[0].method == "smooth"
