"""The subsets that a method trains with: who scored them, what they are cut by, and what is not made for them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from small_study import ADAPTIVE, VANILLA, SeedRun, save_digits, seed_run, small_config
from torch import Tensor

from aradals import InputError
from aradals._internal.hashes import decode_hashes
from aradals._internal.json_files import load_json
from aradals.data import Examples, load_data, overlap
from aradals.inference.predictions import predict
from aradals.models import build_model, load_checkpoint, read_checkpoint_metadata
from aradals.pipeline.artifacts import load_scores
from aradals.pipeline.config import (
    AdaptiveTargets,
    ColumnSubsets,
    MethodConfig,
    RandomSubsets,
    RankedSubsets,
    ScoringConfig,
    Subsets,
)
from aradals.pipeline.study.finished import read_file
from aradals.pipeline.study.groups import TrainingSubsets
from aradals.pipeline.study.tasks import Train
from aradals.results.records import Training
from aradals.robustness.scores import score
from aradals.smoothing.subsets import random_subsets


def grouped(subsets: Subsets) -> MethodConfig:
    """A method whose targets adapt by these subsets."""
    return MethodConfig(targets=AdaptiveTargets(ADAPTIVE, subsets))


GROUPED = grouped(RankedSubsets(5))


def by_rank(scores: Tensor, num_subsets: int = 5) -> Tensor:
    """Subsets of equal size, written once more."""
    subsets = torch.empty(len(scores), dtype=torch.int64)
    for subset, members in enumerate(np.array_split(np.argsort(scores.numpy(), kind="stable"), num_subsets)):
        subsets[members] = subset
    return subsets


def margins(checkpoint: Path, examples: Examples) -> Tensor:
    """First-order margins of a model that is loaded and called by hand."""
    model = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
    load_checkpoint(model, checkpoint)
    return score(model, examples.batches(), "first_order_margin").score.double()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return save_digits(tmp_path_factory.mktemp("data") / "digits.npz")


def check_last_update(history: Training, run: SeedRun, method: str, subsets: Tensor) -> None:
    """The last update has measured the final weights, on the validation examples of each subset."""
    model = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
    load_checkpoint(model, run.train(method))
    predictions = predict(model, run.splits.validation.batches())
    confidence, predicted = predictions.probs.max(1)
    correct = (predicted == predictions.labels).double()
    members = [subsets == subset for subset in range(len(history.target_prob))]
    assert history.updates[-1].confidence == pytest.approx([confidence[m].mean().item() for m in members], abs=1e-5)
    assert history.updates[-1].accuracy == pytest.approx([correct[m].mean().item() for m in members])


Trained = tuple[SeedRun, list[str], TrainingSubsets]


@pytest.fixture(scope="module")
def cross_fitted(data: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    settings = grouped(RankedSubsets(5, folds=2))
    run, log = seed_run(small_config(data, {"fitted": settings}), tmp_path_factory.mktemp("cross-fit"))
    run.train("fitted")
    return run, log, run.subsets("fitted")


class TestCrossFit:
    def test_each_half_is_scored_by_the_model_that_has_not_seen_it(self, cross_fitted: Trained) -> None:
        run, _, _ = cross_fitted
        train = run.splits.train
        scored: list[int] = []
        for fold in (0, 1):
            checkpoint = run.folder / "scorer" / f"without-fold-{fold}" / "model.safetensors"
            table, _ = load_scores(run.folder / "scores" / f"fold-{fold}-train" / "scores.parquet")
            half = train.select(torch.isin(train.ids, table.ids))
            assert len(half) == len(table) == len(train) // 2
            description = json.loads(read_checkpoint_metadata(checkpoint)["aradals"])
            fitted = decode_hashes(description["fitted_examples"])
            assert overlap(fitted, half.hashes) == 0
            others = train.select(~torch.isin(train.ids, table.ids))
            assert overlap(fitted, others.hashes) == len(others)
            torch.testing.assert_close(table.score.double(), margins(checkpoint, half), rtol=1e-5, atol=1e-6)
            scored += table.ids.tolist()
        assert sorted(scored) == sorted(train.ids.tolist())
        tables = run.plan.train("fitted").train_scores
        scorers = [table.scorer.folder for table in tables if isinstance(table.scorer, Train)]
        assert scorers == ["scorer/without-fold-0", "scorer/without-fold-1"]

    def test_subsets_are_ranks_within_the_half(self, cross_fitted: Trained) -> None:
        run, _, groups = cross_fitted
        train, validation = run.splits.train, run.splits.validation
        quantiles = torch.zeros(len(validation))
        for fold in (0, 1):
            table, _ = load_scores(run.folder / "scores" / f"fold-{fold}-train" / "scores.parquet")
            assert torch.equal(groups.train[torch.isin(train.ids, table.ids)], by_rank(table.score))
            table, _ = load_scores(run.folder / "scores" / f"fold-{fold}-validation" / "scores.parquet")
            assert torch.equal(table.ids, validation.ids)
            quantiles += table.score.argsort().argsort()
        assert torch.equal(groups.validation, by_rank(quantiles))

    def test_it_trains_with_these_and_counts_what_they_cost(self, cross_fitted: Trained) -> None:
        run, log, subsets = cross_fitted
        assert not (run.folder / "scorer" / "train").exists()
        tables = run.plan.train("fitted").score_tables
        assert len(tables) == 4
        halves = [
            load_json(run.folder / "scorer" / f"without-fold-{fold}" / "history.json")["seconds"] for fold in (0, 1)
        ]
        scoring = [load_json(run.folder / table.folder / "cost.json")["seconds"] for table in tables]
        cost = run.cost("fitted")
        assert cost.scorer_seconds == pytest.approx(sum(halves))
        assert cost.scoring_seconds == pytest.approx(sum(scoring))
        assert sum("scorer of fold" in line and "epoch 2/2" in line for line in log) == 2
        [history] = run.finished("fitted").training
        assert subsets.validation.bincount().tolist() == [8] * 5
        check_last_update(history, run, "fitted", subsets.validation)


def test_thresholds_cut_the_training_split_where_the_validation_subsets_begin(data: str, tmp_path: Path) -> None:
    settings = grouped(RankedSubsets(5, matching="thresholds"))
    run, _ = seed_run(small_config(data, {"matched": settings}), tmp_path)
    groups = run.subsets("matched")
    scores = {split: load_scores(run.scores(split))[0].score.double() for split in ("train", "validation")}
    assert torch.equal(groups.validation, by_rank(scores["validation"]))
    lowest = [scores["validation"][groups.validation == subset].min() for subset in range(1, 5)]
    assert torch.equal(groups.train, torch.stack([scores["train"] >= cut for cut in lowest]).sum(0))
    assert not torch.equal(groups.train, by_rank(scores["train"]))


def test_confidence_ranks_by_the_log_odds_of_the_prediction(data: str, tmp_path: Path) -> None:
    settings = grouped(RankedSubsets(5, by="confidence"))
    run, _ = seed_run(small_config(data, {"vanilla": VANILLA, "sure": settings}), tmp_path)
    groups = run.subsets("sure")
    model = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
    load_checkpoint(model, run.train("vanilla"))
    for split, subsets in (("train", groups.train), ("validation", groups.validation)):
        _, inputs, _ = getattr(run.splits, split).batch(list(range(len(subsets))))
        with torch.no_grad():
            confidence = model.eval()(inputs).double().softmax(1).amax(1)
        assert torch.equal(subsets, by_rank(confidence))
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"log_odds-train", "log_odds-validation"}
    assert run.cost("sure").scorer_seconds > 0


def test_random_subsets_need_no_scores_and_do_not_follow_any(data: str, tmp_path: Path) -> None:
    settings = grouped(RandomSubsets(5))
    run, _ = seed_run(small_config(data, {"control": settings}), tmp_path)
    run.train("control")
    assert {path.name for path in tmp_path.iterdir()} == {"control"}
    groups = run.subsets("control")
    assert torch.equal(groups.train, random_subsets(run.splits.train.ids, 5, 0))
    assert groups.train.bincount().tolist() == [20] * 5
    assert run.cost("control").seconds == run.cost("control").training_seconds
    robust = by_rank(load_scores(run.scores("train"))[0].score)
    shared = sum(int(((groups.train == r) & (robust == r)).sum()) for r in range(5))
    assert shared < 40  # 20 by chance, 100 where they follow the scores
    other, _ = seed_run(small_config(data, {"control": settings}), tmp_path / "other", seed=1)
    assert not torch.equal(other.subsets("control").train, groups.train)


WRITERS = ("ann", "bob", "eve")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    for split, num in (("train", 200), ("test", 60)):
        _, inputs, labels = load_data("digits", split).batch(list(range(num)))
        encoded = []
        for image in (inputs * 255).round().byte().numpy():
            buffer = io.BytesIO()
            Image.fromarray(image[0]).save(buffer, "png")
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        writer = [WRITERS[row % 3] for row in range(num)]
        size = [(row * 37 % num) / num for row in range(num)]
        table = pa.table({"image": encoded, "label": labels.tolist(), "writer": writer, "size": size})
        parquet.write_table(table, folder / f"{split}.parquet")
    return folder


class TestColumn:
    """A parquet file of encoded images, in which a column says who wrote them and another how large they are."""

    def test_each_value_of_a_category_is_a_subset(self, folder: Path, tmp_path: Path) -> None:
        settings = grouped(ColumnSubsets("writer", 3))
        run, _ = seed_run(small_config(str(folder), {"by_writer": settings}), tmp_path)
        run.check()
        groups = run.subsets("by_writer")
        assert torch.equal(groups.train, run.splits.train.ids % 3)
        assert torch.equal(groups.validation, run.splits.validation.ids % 3)
        history = read_file(run.train("by_writer").parent / "history.json", Training)
        check_last_update(history, run, "by_writer", run.splits.validation.ids % 3)
        assert {path.name for path in tmp_path.iterdir()} == {"by_writer"}

    def test_measurements_are_ranked(self, folder: Path, tmp_path: Path) -> None:
        settings = grouped(ColumnSubsets("size", 5))
        run, _ = seed_run(small_config(str(folder), {"by_size": settings}), tmp_path)
        groups = run.subsets("by_size")
        assert torch.equal(groups.train, by_rank(run.splits.train.ids * 37 % 200))
        assert torch.equal(groups.validation, by_rank(run.splits.validation.ids * 37 % 200))

    @pytest.mark.parametrize(
        ("column", "message"),
        [("writer", r"count=3, one for each value of the column writer, got 5"), ("weight", "'weight'")],
    )
    def test_a_wrong_number_of_subsets_or_column_is_refused_before_training(
        self, folder: Path, tmp_path: Path, column: str, message: str
    ) -> None:
        settings = grouped(ColumnSubsets(column, 5))
        run, _ = seed_run(small_config(str(folder), {"vanilla": VANILLA, "wrong": settings}), tmp_path)
        with pytest.raises(InputError, match=message):
            run.check()
        assert not list(tmp_path.iterdir())


def test_all_methods_share_the_score_tables(data: str, tmp_path: Path) -> None:
    methods = {
        "vanilla": VANILLA,
        "ranked": GROUPED,
        "fewer": grouped(RankedSubsets(2)),
        "matched": grouped(RankedSubsets(5, matching="thresholds")),
    }
    run, log = seed_run(small_config(data, methods), tmp_path)
    for method in methods:
        run.train(method)
    assert sum("examples by first_order_margin" in line for line in log) == 2
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {"train", "validation"}


def test_scores_made_again_do_not_train_anything_again(data: str, tmp_path: Path) -> None:
    """The seconds that a table took are in it, but decide no subset."""
    config = small_config(data, {"ranked": GROUPED})
    seed_run(config, tmp_path)[0].train("ranked")
    for table in (tmp_path / "scores").glob("*/scores.parquet"):
        table.unlink()
    run, log = seed_run(config, tmp_path)
    run.train("ranked")
    assert sum("examples by first_order_margin" in line for line in log) == 2
    assert "[seed 0] ranked: train: done before, inputs unchanged" in log


@pytest.mark.parametrize("folds", [1, 2])
def test_one_search_ranks_all_splits_of_a_scorer(folds: Literal[1, 2], data: str, tmp_path: Path) -> None:
    """Its examples to start from, which also decide about the search, are those of the training split."""
    method = grouped(RankedSubsets(2, matching="thresholds", folds=folds))
    scoring = ScoringConfig(attack="secant", attack_args={"num_starts": 1})
    run, _ = seed_run(small_config(data, {"vanilla": VANILLA, "ar_adals": method}, scoring=scoring), tmp_path)
    run.subsets("ar_adals")
    run.scores("test")
    tables = [load_scores(path) for path in (tmp_path / "scores").rglob("scores.parquet")]
    assert len(tables) == 2 * folds + 1
    assert len({table.attack for table, _ in tables}) == 1
    assert "starts=Starts(32 examples" in tables[0][0].attack
    assert {metadata["starts_from"] for _, metadata in tables} == {run.splits.train.fingerprint}
