"""A study from the inside: what is shared, what is kept apart, and that every result is there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from safetensors.torch import load_file

from aradals import InputError
from aradals.artifacts import decode_hashes, load_calibrator, load_json, load_scores
from aradals.config import EvaluationConfig, MethodConfig, ScoringConfig, SplitConfig, StudyConfig, TrainingConfig
from aradals.data import Examples, overlap
from aradals.models import build_model, load_checkpoint, read_checkpoint_metadata
from aradals.robustness import score
from aradals.study import SeedRun, load_study_data, run_study, train_one
from aradals.update_rules import UpdateRule

NUM_SUBSETS = 4

CONFIG = StudyConfig(
    data="digits",
    model="small_cnn",
    model_args={"width": 4},
    methods={
        "ada_ls": MethodConfig(rule=UpdateRule(rate="auto")),
        "plain": MethodConfig(),
        "ar_adals": MethodConfig(num_subsets=3, rule=UpdateRule(rate=0.5)),
        "label_smoothing": MethodConfig(initial_target_prob=0.9),
    },
    splits=SplitConfig(validation=60, calibration=40, train=150),
    training=TrainingConfig(epochs=2, batch_size=25, learning_rate=0.01),
    scoring=ScoringConfig(attack_args={"steps": 5}),
    evaluation=EvaluationConfig(
        num_subsets=NUM_SUBSETS, corruptions=["contrast", "gaussian_blur"], severities=[1, 5], num_resamples=20
    ),
    seeds=[0, 7],
)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A study with two seeds."""

    folder: Path
    results: dict[str, Any]
    log: list[str]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)  # on tensors this small, threads only wait for each other
    folder = tmp_path_factory.mktemp("study")
    log: list[str] = []
    return Finished(folder, run_study(CONFIG, folder, name="test", log=log.append), log)


@pytest.fixture
def seed_run(tmp_path: Path) -> Callable[..., tuple[SeedRun, list[str]]]:
    """The stages of one seed in an empty folder, and what they log."""

    def make(config: StudyConfig = CONFIG, seed: int = 0) -> tuple[SeedRun, list[str]]:
        log: list[str] = []
        return SeedRun(config, *load_study_data(config), seed, tmp_path / "run", "cpu", log.append), log

    return make


def without_scorer(config: StudyConfig) -> StudyConfig:
    """The same study without a vanilla method that could score."""
    methods = {name: settings for name, settings in config.methods.items() if name != "plain"}
    return dataclasses.replace(config, methods=methods)


def self_scoring(**settings: Any) -> StudyConfig:
    """A study of a vanilla model and one that scores itself, in three epochs."""
    methods = {"plain": MethodConfig(), "self": MethodConfig(**settings)}
    training = dataclasses.replace(CONFIG.training, epochs=3)
    evaluation = dataclasses.replace(CONFIG.evaluation, corruptions=[])
    return dataclasses.replace(CONFIG, methods=methods, training=training, evaluation=evaluation, seeds=[0])


def splits_of(seed: int) -> dict[str, Examples]:
    run = SeedRun(CONFIG, *load_study_data(CONFIG), seed, Path("nowhere"), "cpu", print)
    return dict(run.splits.items())


def test_results_hold_every_row(study: Finished) -> None:
    rows = study.results["rows"]
    keys = ("method", "seed", "calibrator", "corruption", "severity", "subset")
    found = [tuple(row[key] for key in keys) for row in rows]
    expected = {
        (method, seed, calibrator, *condition, subset)
        for method in CONFIG.methods
        for seed in CONFIG.seeds
        for calibrator in ("none", "temperature")
        for condition in [("none", 0), *((c, s) for c in ("contrast", "gaussian_blur") for s in (1, 5))]
        for subset in (None, *range(NUM_SUBSETS))
    }
    assert len(found) == len(expected)
    assert set(found) == expected
    assert all(row["n"] == (800 if row["subset"] is None else 200) for row in rows)
    assert study.results["data"]["splits"] == {"train": 150, "validation": 60, "calibration": 40, "test": 800}


def test_results_hold_no_nan(study: Finished) -> None:
    text = (study.folder / "results.json").read_text()
    rows = json.loads(text, parse_constant=pytest.fail)["rows"]  # called for NaN and Infinity
    assert rows == study.results["rows"]
    empty = [(row["method"], key) for row in rows for key, value in row.items() if value is None and key != "subset"]
    assert not empty


def test_training_and_calibrators_say_whose_they_are(study: Finished) -> None:
    everyone = {(method, seed) for method in CONFIG.methods for seed in CONFIG.seeds}
    for part in ("training", "calibrators"):
        assert {(row["method"], row["seed"]) for row in study.results[part]} == everyone
    assert {(row["split"], row["seed"]) for row in study.results["scoring"]} == {
        (split, seed) for split in ("train", "validation", "test") for seed in CONFIG.seeds
    }


def test_temperature_scaling_keeps_the_accuracy_and_lowers_the_nll_where_it_was_fitted(study: Finished) -> None:
    overall = [row for row in study.results["rows"] if row["subset"] is None and row["corruption"] == "none"]
    for row in overall:
        if row["calibrator"] == "temperature":
            plain = next(r for r in overall if (r["method"], r["seed"]) == (row["method"], row["seed"]))
            assert plain["calibrator"] == "none"
            assert row["accuracy"] == plain["accuracy"]
            assert row["nll"] < plain["nll"] + 0.05


def test_everything_is_scored_once_by_the_vanilla_method(study: Finished) -> None:
    """Whatever the order of the methods; here the first of them is not the vanilla one."""
    for seed in CONFIG.seeds:
        assert not (study.folder / f"seed-{seed}" / "scorer").exists()
        for split in ("train", "validation", "test"):
            scored = f"[seed {seed}] scores: {split}: "
            assert sum(line.startswith(scored) and "examples by" in line for line in study.log) == 1

        model = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
        load_checkpoint(model, study.folder / f"seed-{seed}" / "plain" / "train" / "model.safetensors")
        table, _ = load_scores(study.folder / f"seed-{seed}" / "scores" / "test" / "scores.parquet")
        first = splits_of(seed)["test"].select(range(20))
        torch.testing.assert_close(
            table.score[:20], score(model, first.batches(), steps=5).score.double(), rtol=1e-5, atol=1e-6
        )


def test_subsets_of_a_method_are_those_of_the_scorer(study: Finished) -> None:
    """Rows by subset can be recomputed from stored predictions and the one score table of the seed."""
    folder = study.folder / "seed-7"
    table, _ = load_scores(folder / "scores" / "test" / "scores.parquet")
    order = np.lexsort((table.ids.numpy(), table.score.numpy()))
    labels = splits_of(7)["test"].labels.numpy()
    for method in CONFIG.methods:
        stored = parquet.read_table(folder / method / "predict" / "predictions-contrast-5.parquet")
        correct = np.stack(stored["logits"].to_numpy()).argmax(1) == labels
        for subset, members in enumerate(np.split(order, NUM_SUBSETS)):
            (row,) = (
                row
                for row in study.results["rows"]
                if (row["method"], row["seed"], row["calibrator"]) == (method, 7, "none")
                and (row["corruption"], row["severity"], row["subset"]) == ("contrast", 5, subset)
            )
            assert row["accuracy"] == pytest.approx(correct[members].mean())


def test_two_seeds_differ_in_splits_and_initialisation(study: Finished) -> None:
    first, second = splits_of(0), splits_of(7)
    for split in ("train", "validation", "calibration"):
        assert set(first[split].ids.tolist()) != set(second[split].ids.tolist())
    assert torch.equal(first["test"].ids, second["test"].ids)
    hashes = study.results["data"]["splits_hash"]
    assert len(hashes) == 2
    assert hashes["0"] != hashes["7"]
    weights = [load_file(study.folder / f"seed-{seed}" / "plain" / "train" / "model.safetensors") for seed in (0, 7)]
    assert not torch.equal(weights[0]["linear.weight"], weights[1]["linear.weight"])
    accuracy = [
        next(row for row in study.results["rows"] if (row["method"], row["seed"]) == ("plain", seed))["accuracy"]
        for seed in CONFIG.seeds
    ]
    assert accuracy[0] != accuracy[1]


def test_the_test_split_is_in_nothing_that_was_fitted(study: Finished) -> None:
    for seed in CONFIG.seeds:
        splits = splits_of(seed)
        for method in CONFIG.methods:
            folder = study.folder / f"seed-{seed}" / method
            metadata = read_checkpoint_metadata(folder / "train" / "model.safetensors")
            fitted = decode_hashes(json.loads(metadata["aradals"])["fitted_examples"])
            _, calibrated = load_calibrator(folder / "calibrate" / "temperature.json")
            assert np.array_equal(
                fitted, np.sort(np.concatenate([splits["train"].hashes, splits["validation"].hashes]))
            )
            assert np.array_equal(calibrated, np.sort(splits["calibration"].hashes))
            for hashes in (fitted, calibrated):
                assert overlap(hashes, splits["test"].hashes) == 0
            assert overlap(fitted, calibrated) == 0


def test_without_robustness_nothing_is_scored_for_training(
    seed_run: Callable[..., tuple[SeedRun, list[str]]],
) -> None:
    run, log = seed_run(without_scorer(CONFIG))
    run.train("ada_ls")
    run.train("label_smoothing")
    assert not (run.folder / "scores").exists()
    assert not (run.folder / "scorer").exists()
    run.train("ar_adals")
    assert (run.folder / "scorer" / "train" / "model.safetensors").exists()
    assert {path.name for path in (run.folder / "scores").iterdir()} == {"train", "validation"}
    assert [line for line in log if "scorer: train: epoch 2/2" in line]


def test_a_given_checkpoint_scores_and_no_other_is_trained(
    study: Finished, seed_run: Callable[..., tuple[SeedRun, list[str]]]
) -> None:
    checkpoint = study.folder / "seed-0" / "plain" / "train" / "model.safetensors"
    scoring = dataclasses.replace(CONFIG.scoring, checkpoint=str(checkpoint))
    run, _ = seed_run(dataclasses.replace(without_scorer(CONFIG), scoring=scoring))
    run.check()
    run.train("ar_adals")
    assert {path.name for path in run.folder.iterdir()} == {"ar_adals", "scores"}
    given, _ = load_scores(run.scores("train"))
    own, _ = load_scores(study.folder / "seed-0" / "scores" / "train" / "scores.parquet")
    assert torch.equal(given.score, own.score)
    trained = load_file(run.folder / "ar_adals" / "train" / "model.safetensors")
    expected = load_file(study.folder / "seed-0" / "ar_adals" / "train" / "model.safetensors")
    assert all(torch.equal(trained[name], expected[name]) for name in expected)


def test_train_one_gives_the_model_of_the_study(study: Finished, tmp_path: Path) -> None:
    [checkpoint] = train_one(CONFIG, "ar_adals", 7, tmp_path, log=lambda line: None)
    trained = load_file(checkpoint)
    expected = load_file(study.folder / "seed-7" / "ar_adals" / "train" / "model.safetensors")
    assert all(torch.equal(trained[name], expected[name]) for name in expected)


def test_a_method_that_scores_itself_needs_no_other_model(
    seed_run: Callable[..., tuple[SeedRun, list[str]]], tmp_path: Path
) -> None:
    config = self_scoring(num_subsets=3, rule=UpdateRule(rate=0.5), score_every=1)
    log: list[str] = []
    [checkpoint] = train_one(config, "self", 0, tmp_path / "one", log=log.append)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"self"}
    history = load_json(checkpoint.parent / "history.json")
    assert history["settings"]["score_every"] == 1
    assert [scoring["epoch"] for scoring in history["scorings"]] == [1, 2]
    assert all(scoring["num_forward"] == scoring["num_backward"] == 150 + 60 for scoring in history["scorings"])
    records = [*history["epochs"], *history["scorings"]]
    assert history["seconds"] == pytest.approx(sum(record["seconds"] for record in records))
    assert sum("scored 150 + 60 examples by first_order_margin" in line for line in log) == 2

    run, _ = seed_run(config)
    [training] = run.record("self")["training"]
    assert training["scorings"] == [
        {**scoring, "seconds": training["scorings"][i]["seconds"]} for i, scoring in enumerate(history["scorings"])
    ]
    assert {path.name for path in (run.folder / "scores").iterdir()} == {"test"}  # evaluation has the fixed scorer
    assert (run.folder / "plain").exists()
    trained, expected = load_file(run.folder / "self" / "train" / "model.safetensors"), load_file(checkpoint)
    assert all(torch.equal(trained[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_every": 0}, r"methods\.self\.score_every of at least 1, got 0"),
        ({"score_every": 1, "num_subsets": 1}, r"methods\.self with num_subsets above 1.*got 1; try num_subsets=10"),
        ({"score_every": 2}, r"methods\.self scored early enough.*score_every=2 and update_every=1 in 3 epochs"),
        ({"score_every": 3}, "scored early enough"),
        ({"score_every": 1, "update_every": 3}, "scored early enough"),
    ],
)
def test_a_scoring_that_could_change_nothing_is_refused(settings: dict[str, int], message: str, tmp_path: Path) -> None:
    config = self_scoring(**{"num_subsets": 3, "rule": UpdateRule(), **settings})
    with pytest.raises(InputError, match=message):
        train_one(config, "self", 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_course_of_the_targets_is_recorded(study: Finished) -> None:
    for run in study.results["training"]:
        settings = CONFIG.methods[run["method"]]
        assert len(run["target_prob"]) == settings.num_subsets
        assert [epoch["epoch"] for epoch in run["epochs"]] == [1, 2]
        if settings.rule:
            assert len(run["updates"]) == 2
        elif settings.initial_target_prob != 1:
            assert run["target_prob"] == pytest.approx([settings.initial_target_prob])


def test_a_study_that_cannot_work_fails_before_it_trains(tmp_path: Path) -> None:
    bad = dataclasses.replace(CONFIG, evaluation=dataclasses.replace(CONFIG.evaluation, corruptions=["mist"]))
    with pytest.raises(InputError, match="'mist'"):
        run_study(bad, tmp_path, name="bad")
    assert not list(tmp_path.glob("**/*"))


def test_a_model_file_that_changes_is_trained_anew(
    seed_run: Callable[..., tuple[SeedRun, list[str]]], tmp_path: Path
) -> None:
    source = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.{}())\n"
    file = tmp_path / "model.py"
    config = dataclasses.replace(CONFIG, model=f"{file}:build", model_args={})
    trained = []
    for activation in ("Tanh", "Tanh", "Softsign"):
        file.write_text(source.format(activation))
        run, log = seed_run(config)
        run.train("plain")
        trained.append(not any("done before" in line for line in log))
    assert trained == [True, False, True]


def test_only_the_scores_that_a_run_used_are_reported(seed_run: Callable[..., tuple[SeedRun, list[str]]]) -> None:
    run, _ = seed_run()
    splits = {method: [score["split"] for score in run.record(method)["scoring"]] for method in ("ar_adals", "plain")}
    assert splits == {"ar_adals": ["test", "train", "validation"], "plain": ["test"]}
