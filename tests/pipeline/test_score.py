"""Score tables on disk: a call that was interrupted goes on, and ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch
from torch import Tensor, nn

from aradals.data import Examples
from aradals.errors import InputError
from aradals.pipeline import score as scoring
from aradals.pipeline import shards
from aradals.pipeline.artifacts import load_scores, save_scores
from aradals.pipeline.classifier import Classifier
from aradals.pipeline.score import (
    AttackSettings,
    Sharing,
    choose_batch_size,
    score_dataset,
    score_examples,
    score_stage,
    subsets_of,
)
from aradals.pipeline.workers import torch_threads
from aradals.robustness import starts
from aradals.robustness.scores import ScoreTable, merge_tables, score, score_batches

COLUMNS = ("ids", "predicted", "score", "norm", "success", "num_forward", "num_backward")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    linear = nn.Linear(12, 16)
    linear.weight.data *= 5
    return nn.Sequential(nn.Flatten(), linear, nn.Tanh(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def examples() -> Examples:
    """With ids that are no positions."""
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.rand(100, 3, 2, 2, generator=generator), torch.arange(100) % 3
    return Examples(inputs, labels, num_classes=3, ids=7 + 2 * torch.arange(100), name="squares")


class Interrupted(Exception):
    """In place of a kill."""


class Interrupting(nn.Module):
    """Does what the model does, until it meets a certain input."""

    def __init__(self, model: nn.Module, at: Tensor | None = None) -> None:
        super().__init__()
        self.model, self.at = model, at

    def forward(self, inputs: Tensor) -> Tensor:
        if self.at is not None and (inputs == self.at).flatten(1).all(1).any():
            raise Interrupted
        logits: Tensor = self.model(inputs)
        return logits


def run(model: nn.Module, examples: Examples, path: Path, **settings: Any) -> ScoreTable:
    digest = settings.pop("model_digest", "m")
    score_examples(classify(model, digest), examples, path, AttackSettings(**settings))
    return load_scores(path)[0]


def classify(model: nn.Module, digest: str = "m") -> Classifier:
    return Classifier(model, "model", digest, weights="w", probe=None)


def interrupt(model: nn.Module, examples: Examples, path: Path, position: int, **settings: Any) -> None:
    stop = Interrupting(model, examples.batch([position])[1])
    with pytest.raises(Interrupted):
        run(stop, examples, path, **settings)


def assert_equal(table: ScoreTable, expected: ScoreTable) -> None:
    assert table.attack == expected.attack
    for name in COLUMNS:
        assert torch.equal(getattr(table, name), getattr(expected, name)), name


@pytest.fixture
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards as often as there are batches, of 8 examples each; the searches start from 24 of the others."""
    monkeypatch.setattr(starts, "_NUM_EXAMPLES", 24)
    monkeypatch.setattr(shards, "_SHARD_SECONDS", 0.0)
    monkeypatch.setattr(scoring, "choose_batch_size", lambda model, examples: 8)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids that were scored, in order."""
    ids: list[int] = []

    def spy(*arguments: Any, **settings: Any) -> Iterator[ScoreTable]:
        for table in score_batches(*arguments, **settings):
            ids.extend(table.ids.tolist())
            yield table

    monkeypatch.setattr(scoring, "score_batches", spy)
    return ids


def test_table_is_that_of_score(model: nn.Module, examples: Examples, tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    table = run(model, examples, path, attack="deepfool", attack_args={"steps": 3})
    expected = score(model, examples.batches(), "deepfool", steps=3)
    assert table.attack == expected.attack
    for name in COLUMNS:
        torch.testing.assert_close(getattr(table, name), getattr(expected, name), check_dtype=False)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_norms_are_null_where_none_was_verified(model: nn.Module, examples: Examples, tmp_path: Path) -> None:
    for verified in (False, True):
        table = run(model, examples, tmp_path / "scores.parquet", verified=verified, attack_args={"num_starts": 0})
        stored = parquet.read_table(tmp_path / "scores.parquet").column("norm")
        assert stored.null_count == (0 if verified else 100)
        assert str(stored.type) == "double"
        assert bool(table.norm.isfinite().all()) == verified
        assert verified or bool(table.norm.isinf().all())


@pytest.mark.usefixtures("every_batch")
class TestInterrupted:
    def test_it_goes_on_and_ends_the_same(
        self, model: nn.Module, examples: Examples, tmp_path: Path, scored: list[int]
    ) -> None:
        uninterrupted = run(model, examples, tmp_path / "whole.parquet", verified=True)
        del scored[:]
        path = tmp_path / "scores.parquet"
        interrupt(model, examples, path, 60, verified=True)
        assert not path.exists()
        assert scored == examples.ids[:56].tolist()
        interrupt(model, examples, path, 99, verified=True)
        assert scored == examples.ids[:96].tolist()
        assert_equal(run(model, examples, path, verified=True), uninterrupted)
        assert scored == examples.ids.tolist()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.parquet", "whole.parquet"]

    def test_seconds_add_up(self, model: nn.Module, examples: Examples, tmp_path: Path) -> None:
        path = tmp_path / "scores.parquet"
        interrupt(model, examples, path, 60)
        found = sorted((tmp_path / ".scores.parquet.shards").glob("[0-9]*"))
        assert len(found) == 7
        request = parquet.read_schema(found[1]).metadata[b"request"].decode()
        shards._save(found[1].parent, range(1, 2), [parquet.read_table(found[1])], request, 1000.0)
        found[1].unlink()
        seconds = score_examples(classify(model), examples, path, AttackSettings())
        assert 1000 < seconds < 1100

    @pytest.mark.parametrize(
        "changed",
        [
            {"model_digest": "other"},
            {"attack": "deepfool"},
            {"attack_args": {"steps": 2}},
            {"verified": True},
            {"bf16": True},
        ],
    )
    def test_what_was_done_otherwise_is_done_anew(
        self, changed: dict[str, Any], model: nn.Module, examples: Examples, tmp_path: Path, scored: list[int]
    ) -> None:
        path = tmp_path / "scores.parquet"
        interrupt(model, examples, path, 60)
        del scored[:]
        run(model, examples, path, **changed)
        assert scored == examples.ids.tolist()

    def test_so_are_other_data(self, model: nn.Module, examples: Examples, tmp_path: Path, scored: list[int]) -> None:
        path = tmp_path / "scores.parquet"
        interrupt(model, examples, path, 60)
        del scored[:]
        fewer = examples.select(torch.arange(80))
        assert run(model, fewer, path).ids.tolist() == sorted(fewer.ids.tolist())
        assert scored == fewer.ids.tolist()

    @pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
    def test_a_damaged_shard_costs_its_own_examples(
        self, damage: str, model: nn.Module, examples: Examples, tmp_path: Path, scored: list[int]
    ) -> None:
        uninterrupted = run(model, examples, tmp_path / "whole.parquet")
        path = tmp_path / "scores.parquet"
        interrupt(model, examples, path, 60)
        [shard] = (tmp_path / ".scores.parquet.shards").glob("000000000001-*.parquet")
        content = bytearray(shard.read_bytes())
        content[40] ^= 1
        shard.write_bytes({"empty": b"", "cut": bytes(content[:-1]), "flipped": bytes(content)}[damage])
        del scored[:]
        assert_equal(run(model, examples, path), uninterrupted)
        assert scored == [*examples.ids[8:16].tolist(), *examples.ids[56:].tolist()]

    def test_a_half_written_shard_is_ignored(
        self, model: nn.Module, examples: Examples, tmp_path: Path, scored: list[int]
    ) -> None:
        path = tmp_path / "scores.parquet"
        interrupt(model, examples, path, 60)
        (tmp_path / ".scores.parquet.shards" / ".000007.parquet.x1y2.aradals-partial").write_bytes(b"PAR1")
        run(model, examples, path)
        assert scored == examples.ids.tolist()

    def test_a_stage_goes_on_too(self, model: nn.Module, examples: Examples, tmp_path: Path, scored: list[int]) -> None:
        log: list[str] = []
        folder, settings = tmp_path / "stage", AttackSettings()
        stop = Interrupting(model, examples.batch([60])[1])
        with pytest.raises(Interrupted):
            score_stage(classify(stop), examples, folder, settings, log=log.append)
        for _ in range(2):
            table = score_stage(classify(model), examples, folder, settings, log=log.append)
            assert table.seconds > 0
        assert scored == examples.ids.tolist()
        assert log[-2].startswith("100 examples by secant(")
        assert log[-1] == "done before, inputs unchanged"
        assert sorted(file.name for file in folder.iterdir()) == ["cost.json", "scores.parquet", "stage.json"]

    def test_a_model_that_means_nothing_is_refused_again(self, examples: Examples, tmp_path: Path) -> None:
        """Though all but its last batch has been put aside."""
        torch.manual_seed(0)
        linear = nn.Linear(12, 3)
        linear.bias.data[1] += 50
        dominated = nn.Sequential(nn.Flatten(), linear)
        for _ in range(2):
            with pytest.raises(InputError, match="depends on its input"):
                run(dominated, examples, tmp_path / "scores.parquet")
        assert not (tmp_path / "scores.parquet").exists()


class Slow(nn.Module):
    """As many operations as are asked for, in one product of matrices."""

    def __init__(self, flops: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(12, int(flops / 24)))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.flatten(1) @ self.weight)[:, :3]


def test_the_size_of_a_batch_follows_from_model_and_data(model: nn.Module, examples: Examples) -> None:
    assert choose_batch_size(model, examples) == 64
    assert choose_batch_size(Slow(2.0**28), examples) == 32
    assert choose_batch_size(Slow(2.0**28), examples.select(torch.arange(3))) == 32
    assert choose_batch_size(Slow(1.1 * 2.0**28), examples) == 16
    assert choose_batch_size(nn.Bilinear(2, 2, 2), examples) == 64  # cannot be called like this


def test_equal_runs_write_equal_files(model: nn.Module, examples: Examples, tmp_path: Path) -> None:
    """No clock stands in them."""
    for name in ("one.parquet", "other.parquet"):
        run(model, examples, tmp_path / name)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_subsets_by_any_ids() -> None:
    ids = torch.tensor([-3, 10**15, 7, 4 * 10**17])
    zeros, values = torch.zeros_like(ids), ids.double()
    table = ScoreTable(ids, zeros, values, values, values, zeros == 0, zeros, zeros, "a()")
    subsets = subsets_of(table, ids.flip(0), 4)
    assert subsets is not None
    assert subsets.tolist() == [3, 1, 2, 0]
    with pytest.raises(InputError, match="no score for 2 of 3"):
        subsets_of(table, torch.tensor([7, 8, 5 * 10**17]), 2)


@pytest.mark.parametrize("attack", ["secant", "deepfool", "ddn", "fmn"])
def test_settings_are_tried_on_many_classes(attack: str) -> None:
    with pytest.raises(InputError, match=f"settings that {attack} can use"):
        AttackSettings(attack, {"num_candidates": 12.5}).check()


def test_merged_tables_are_sorted_and_hold_each_id_once() -> None:
    def table(ids: list[int], value: float) -> ScoreTable:
        column = torch.tensor(ids)
        return ScoreTable(
            column, column, column + value, column + value, column + value, column > 0, column, column, "a()"
        )

    merged = merge_tables([table([5, 1], 0.25), table([3, 5], 0.5)])
    assert merged.ids.tolist() == [1, 3, 5]
    assert merged.score.tolist() == [1.25, 3.5, 5.25]


def test_a_finished_table_of_other_versions_is_kept_and_told(
    model: nn.Module, examples: Examples, tmp_path: Path
) -> None:
    path, log = tmp_path / "scores.parquet", list[str]()
    first = score_dataset(model, examples, attack="logit_margin", output=path)
    table, metadata = load_scores(path)
    made_with = {**json.loads(metadata["versions"]), "torch": "2.1.0"}
    save_scores(path, table, {**metadata, "versions": json.dumps(made_with)})
    assert_equal(score_dataset(model, examples, attack="logit_margin", output=path, log=log.append), first)
    [line] = log
    assert "already; made with torch 2.1.0 instead of 2." in line


def load_or_die(folder: Path) -> tuple[Classifier, Examples]:
    """Load a model and examples in a worker; the first worker dies."""
    mark = folder / "mark"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    model, examples = torch.load(folder / "both.pt", weights_only=False)
    return classify(model), examples


def test_several_workers_write_the_same_table(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them dies, and its part is scored again."""
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.rand(1500, 3, 2, 2, generator=generator), torch.arange(1500) % 3
    examples = Examples(inputs, labels, num_classes=3, ids=torch.randperm(1500, generator=generator), name="squares")
    torch.save((model, examples), tmp_path / "both.pt")
    paths = tmp_path / "one.parquet", tmp_path / "two.parquet"
    assert choose_batch_size(model, examples) < 750
    with torch_threads(1):
        score_examples(classify(model), examples, paths[0], AttackSettings("deepfool"))
    monkeypatch.setattr(scoring, "_BATCHES_PER_WORKER", 1)
    sharing = Sharing(partial(load_or_die, tmp_path), workers=2, device="cpu")
    score_examples(classify(model), examples, paths[1], AttackSettings("deepfool"), sharing)
    assert (tmp_path / "mark").exists()
    assert paths[1].read_bytes() == paths[0].read_bytes()
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_a_worker_with_other_data_is_refused(model: nn.Module, examples: Examples, tmp_path: Path) -> None:
    settings, rows = AttackSettings("logit_margin"), range(50)
    work = scoring.Scoring(settings, num_examples=100, batch_size=50, batches_per_worker=1)
    changed = Examples(1 - examples.batch(range(100))[1], examples.labels, num_classes=3, ids=examples.ids)
    expected = work.identity((classify(model), changed), rows)

    def load() -> tuple[Classifier, Examples]:
        return classify(model), examples

    with pytest.raises(InputError, match="another data_fingerprint"):
        shards._do_elsewhere(work, load, tmp_path, "request", None, range(1), expected)
    assert list(tmp_path.iterdir()) == []
    shards._do_elsewhere(work, load, tmp_path, "request", None, range(1), work.identity(load(), rows))
    assert len(list(tmp_path.iterdir())) == 1


def test_tables_are_sorted_by_id_and_hold_each_id_once(model: nn.Module, examples: Examples, tmp_path: Path) -> None:
    expected = run(model, examples, tmp_path / "sorted.parquet", attack="logit_margin")
    positions = torch.cat([torch.randperm(100, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 5])])
    found = run(model, examples.select(positions), tmp_path / "mixed.parquet", attack="logit_margin")
    assert_equal(found, expected)
