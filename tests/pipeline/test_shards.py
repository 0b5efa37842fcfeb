"""Work that is cut into shards: equal files for any number of workers and after any death."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from torch import nn

from aradals.data import Examples, load_data
from aradals.errors import InputError, TrainingFailed
from aradals.pipeline import corrupt, predict, score, shards
from aradals.pipeline.attack_settings import AttackSettings
from aradals.pipeline.classifier import Classifier, as_classifier
from aradals.pipeline.corrupt import corrupt_file
from aradals.pipeline.evaluate import evaluate
from aradals.pipeline.shards import Finished, Sharing, Work, do_shards
from aradals.pipeline.workers import ThisProcess, Workers
from aradals.results.files import plain


@dataclass(frozen=True)
class Squares(Work[list[int]]):
    """The squares of some numbers; a batch of them is a table."""

    def identity(self, loaded: list[int], rows: range) -> dict[str, str]:
        return {"numbers": str(loaded[rows.start : rows.stop])}

    def tables(self, loaded: list[int], file: int, rows: range) -> Iterator[Any]:
        for start in range(0, len(rows), self.batch_size):
            own = loaded[rows.start : rows.stop][start : start + self.batch_size]
            yield pyarrow.table({"square": [file * 1000 + number**2 for number in own]})


def squares(num_files: int = 1, **settings: Any) -> Squares:
    return Squares(num_examples=23, batch_size=4, batches_per_worker=1, num_files=num_files, **settings)


def values(done: Finished, work: Work[Any], file: int = 0) -> list[int]:
    tables = [pyarrow.parquet.read_table(path) for path in done.of_file(work, file)]
    found: list[int] = pyarrow.concat_tables(tables)["square"].to_pylist() if tables else []
    return found


@contextmanager
def in_one_process(number: int, *arguments: Any, **settings: Any) -> Iterator[Workers]:
    """Workers that all are this process, so that no process has to start."""
    yield Workers(ThisProcess(), number, number, settings.get("threads"))


@pytest.fixture
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A number of workers without processes, and a shard for each batch."""
    number: int = request.param
    monkeypatch.setattr(shards, "open_workers", partial(in_one_process, number))
    monkeypatch.setattr(shards, "_SHARD_SECONDS", 0.0)
    shards._loaded.clear()
    return number


@pytest.mark.parametrize("workers", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("num_files", [1, 3])
def test_rows_are_in_order(workers: int, num_files: int, tmp_path: Path) -> None:
    work, numbers = squares(num_files), list(range(23))
    done = do_shards(work, numbers, tmp_path, "r", Sharing(lambda: numbers))
    for file in range(num_files):
        assert values(done, work, file) == [file * 1000 + number**2 for number in numbers]


@pytest.mark.parametrize("workers", [1, 2], indirect=True)
def test_only_lost_batches_are_done_again(workers: int, tmp_path: Path) -> None:
    """Whatever is lost, damaged, of another request or twice there."""
    work, numbers, chance = squares(2), list(range(23)), random.Random(0)
    for trial in range(20):
        folder = tmp_path / str(trial)
        do_shards(work, numbers, folder, "r", Sharing(lambda: numbers))
        paths = sorted(folder.iterdir())
        assert len(paths) == 12
        for path in chance.sample(paths, 5):
            match chance.randrange(3):
                case 0:
                    path.unlink()
                case 1:
                    path.write_bytes(path.read_bytes()[:-1])
                case 2:
                    shards._save(folder, range(2, 5), [pyarrow.table({"square": [7]})], "other", 1.0)
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        done = do_shards(work, numbers, folder, "r", Sharing(lambda: numbers))
        for file in range(2):
            assert values(done, work, file) == [file * 1000 + number**2 for number in numbers]
        kept = [path for path in done.shards.values() if before.get(path) == path.stat().st_mtime_ns]
        assert len(kept) >= 7


def test_files_that_exist_already_are_left_out(tmp_path: Path) -> None:
    work = squares(3, done=frozenset({1}))
    done = do_shards(work, list(range(23)), tmp_path, "r")
    assert [len(values(done, work, file)) for file in range(3)] == [23, 0, 23]


def test_overlapping_shards_count_once(tmp_path: Path) -> None:
    """A worker that was taken for dead may still write."""
    work, numbers = squares(), list(range(23))
    shards._do_part(work, numbers, tmp_path, "r", range(3))
    shards._do_part(work, numbers, tmp_path, "r", range(2, 5))
    done = do_shards(work, numbers, tmp_path, "r")
    assert values(done, work) == [number**2 for number in numbers]


@pytest.mark.parametrize("workers", [2], indirect=True)
def test_a_worker_with_other_data_is_refused(workers: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another numbers"):
        do_shards(squares(), list(range(23)), tmp_path, "r", Sharing(lambda: list(range(1, 24))))


CONDITIONS: dict[str, Any] = {"corruptions": ["contrast", "gaussian_noise"], "severities": [2]}


def load(folder: Path | None = None, mark: str = "mark") -> tuple[Classifier, Examples]:
    """Load a model and its examples; the first worker that does so dies, if there is a folder."""
    if folder is not None and not (folder / mark).exists():
        (folder / mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    examples = load_data("digits", "test").select(range(300))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    return as_classifier(model, examples, log=ignore), examples


def load_images(folder: Path) -> Examples:
    """Load the images alone."""
    return load(folder, "mark-images")[1]


def ignore(line: str) -> None:
    """Drop a line of the log; a function that can be pickled."""


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (predict, corrupt, score):
        monkeypatch.setattr(module, "_BATCHES_PER_WORKER", 1)
    monkeypatch.setattr("aradals.data.examples._CHUNK", 64)
    monkeypatch.setattr(score, "choose_batch_size", lambda model, examples: 32)


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all tables."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}
    assert not list(folder.rglob("*.shards"))
    return found


def write_all(folder: Path, sharing: Sharing[Any] | None, images: Sharing[Examples] | None) -> dict[str, bytes]:
    """Evaluate, score and corrupt the same examples into a folder."""
    with torch.random.fork_rng():
        classifier, examples = load()
    results = evaluate(classifier, examples, **CONDITIONS, output=folder, sharing=sharing, log=ignore)
    score.score_examples(classifier, examples, folder / "scores.parquet", AttackSettings("deepfool"), sharing)
    corrupt_file(examples, folder / "fog.parquet", "fog", 3, preset="cifar", request="r", sharing=images)
    return {**contents(folder), "rows": repr(plain(results.rows)).encode()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        small_batches.__wrapped__(patch)  # type: ignore[attr-defined]
        return write_all(tmp_path_factory.mktemp("alone"), None, None)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("workers", [1, 2, 3], indirect=True)
def test_equal_files_for_any_number_of_shards(workers: int, alone: dict[str, bytes], tmp_path: Path) -> None:
    found = write_all(tmp_path, Sharing(load, threads=None), Sharing(lambda: load()[1], threads=None))
    assert len(found) == 6
    assert found == alone


@pytest.mark.usefixtures("small_batches")
def test_a_killed_worker_of_an_evaluation_costs_nothing_but_time(alone: dict[str, bytes], tmp_path: Path) -> None:
    classifier, examples = load()
    sharing = Sharing(partial(load, tmp_path), 2, None, "cpu", ignore)
    evaluate(classifier, examples, **CONDITIONS, output=tmp_path / "out", sharing=sharing, log=ignore)
    assert (tmp_path / "mark").exists()
    found = contents(tmp_path / "out")
    assert len(found) == 3
    assert found == {name: alone[name] for name in found}


@pytest.mark.slow
@pytest.mark.usefixtures("small_batches")
def test_a_killed_worker_of_three_costs_nothing_but_time(alone: dict[str, bytes], tmp_path: Path) -> None:
    """One of the workers dies in each kind of work."""
    marks = tmp_path / "marks"
    marks.mkdir()
    both = Sharing(partial(load, marks), 3, None, "cpu", ignore)
    assert write_all(tmp_path / "out", both, Sharing(partial(load_images, marks), 3, None, "cpu", ignore)) == alone
    assert {path.name for path in marks.iterdir()} == {"mark", "mark-images"}


def die() -> tuple[Classifier, Examples]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
@pytest.mark.usefixtures("small_batches")
def test_work_that_kills_every_worker_fails(tmp_path: Path) -> None:
    classifier, examples = load()
    with pytest.raises(TrainingFailed, match="3 workers have died"):
        evaluate(classifier, examples, sharing=Sharing(die, 2, 1, "cpu", ignore), output=tmp_path, log=ignore)


@pytest.mark.slow
@pytest.mark.usefixtures("small_batches")
def test_a_dask_cluster_gives_the_same_files(alone: dict[str, bytes], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = f"dask:{cluster.scheduler_address}"
        both = Sharing(load, address, None, "cpu", ignore)
        assert write_all(tmp_path, both, Sharing(only_images, address, None, "cpu", ignore)) == alone


def only_images() -> Examples:
    return load()[1]
