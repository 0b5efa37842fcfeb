"""Shards: the work on one data set, cut into parts for several workers and merged in order.

A worker makes a table of each batch of examples. It writes the tables of some seconds into a file of a shared folder,
and the name of the file says which batches it has. So a call that was interrupted continues, a worker that dies loses
seconds, and the result does not depend on who made which batch.
"""

from __future__ import annotations

import io
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import AbstractContextManager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

from aradals._internal.files import atomic_path, bytes_digest, file_digest
from aradals._internal.optional import load_extra
from aradals.data import Examples
from aradals.errors import InputError
from aradals.pipeline.classifier import Classifier
from aradals.pipeline.workers import MAX_DEATHS, Workers, died_too_often, open_workers, torch_threads
from aradals.robustness.scores import progress_bar

T = TypeVar("T")

Log = Callable[[str], None]

Scored = tuple[Classifier, Examples]
"""A model, and the examples that it is given."""

_SHARD_SECONDS = 10.0
_SHARD_BYTES = 2**24
_PARTS_PER_WORKER = 4
_DISPLAY_SECONDS = 0.5
_KEPT = (b"request", b"seconds")


@dataclass(frozen=True)
class Sharing(Generic[T]):
    """Workers that share the work on one data set.

    Attributes:
        load: function that loads in a worker what the work needs, such as the model and the examples.
        workers: see `aradals.pipeline.workers.open_workers`.
        threads: number of torch's threads in each worker; None leaves the number as it is.
        device: device of the model.
        log: called in the workers with each warning.
    """

    load: Callable[[], T]
    workers: int | str | None = None
    threads: int | None = 1
    device: str = "auto"
    log: Log = print

    def open(self, most: int) -> AbstractContextManager[Workers]:
        """Start the workers; more than ``most`` would be of no use, because to start a worker takes seconds."""
        return open_workers(self.workers, most=most, device=self.device, threads=self.threads, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Work(ABC, Generic[T]):
    """Work that makes rows from examples, for one or several files, batch by batch.

    The batches are numbered through all files, so that any worker can do any range of them.

    Attributes:
        num_examples: number of examples, each of which is a row in every file.
        batch_size: number of examples in a batch.
        num_files: number of files.
        batches_per_worker: fewest batches for which another worker is worth its start.
        done: numbers of the files that exist already.
    """

    num_examples: int
    batch_size: int
    num_files: int = 1
    done: frozenset[int] = frozenset()
    batches_per_worker: int

    @property
    def batches_per_file(self) -> int:
        """Number of batches that make a file."""
        return math.ceil(self.num_examples / self.batch_size)

    @property
    def num_batches(self) -> int:
        """Number of batches of all files."""
        return self.num_files * self.batches_per_file

    def place(self, batches: range) -> tuple[int, range]:
        """Find the number of the file of some batches, and the examples in them."""
        file, start = divmod(batches.start, self.batches_per_file)
        rows = range(start * self.batch_size, min((start + len(batches)) * self.batch_size, self.num_examples))
        return file, rows

    @abstractmethod
    def tables(self, loaded: T, file: int, rows: range) -> Iterator[Any]:
        """Make the Arrow table of each batch of these examples, in order."""

    @abstractmethod
    def identity(self, loaded: T, rows: range) -> dict[str, str]:
        """Describe everything that decides these tables; a worker must find the same as the caller."""


@dataclass(frozen=True)
class Finished:
    """The finished tables of a `Work`.

    Attributes:
        folder: folder of the shards.
        shards: file of each shard, by its batches, in order.
        seconds: time of the work, summed over workers and interrupted calls.
    """

    folder: Path
    shards: dict[range, Path]
    seconds: float

    def of_file(self, work: Work[Any], file: int) -> list[Path]:
        """List the shards of one file of the work, in order."""
        return [path for batches, path in self.shards.items() if work.place(batches)[0] == file]

    def remove(self) -> None:
        """Remove the shards."""
        shutil.rmtree(self.folder, ignore_errors=True)


def do_shards(work: Work[T], loaded: T, folder: Path, request: str, sharing: Sharing[T] | None = None) -> Finished:
    """Do all batches that no earlier call has done, and show one display of progress.

    Args:
        work: the work.
        loaded: what the work needs, in this process.
        folder: folder of the shards, which only this work uses.
        request: digest of everything that decides the tables of all batches; other shards in the folder are removed.
        sharing: workers that do a part each; default: this process. They share the folder.

    Raises:
        InputError: a worker has found other data, another model or other code; or see `Work.tables`.
        TrainingFailed: several workers have died.
    """
    done = _finished(folder, request)
    rest = _missing(work, done.shards)
    if not rest:
        return done
    sharing = sharing or Sharing(lambda: loaded, workers=1, threads=None)
    num_deaths, most = 0, max(1, sum(map(len, rest)) // work.batches_per_worker)
    with sharing.open(most) as workers, progress_bar(work.num_examples * (work.num_files - len(work.done))) as bar:
        while rest:
            _show(work, done.shards, bar)
            if workers.number == 1:
                with torch_threads(workers.threads):
                    for part in rest:
                        _do_part(work, loaded, folder, request, part, bar.update)
            else:
                parts = _parts(rest, workers.cores * _PARTS_PER_WORKER)
                do = partial(_do_elsewhere, work, sharing.load, folder.resolve(), request, workers.threads)
                tasks = [partial(do, part, work.identity(loaded, work.place(part)[1])) for part in parts]
                futures = [workers.executor.submit(task) for task in tasks]
                died = _wait(futures, workers, lambda: _show(work, _names(folder), bar))
                num_deaths += died is not None
                if num_deaths == MAX_DEATHS:
                    raise died_too_often(died) from died
            done = _finished(folder, request)
            rest = _missing(work, done.shards)
    return done


def _wait(futures: Sequence[Future[None]], workers: Workers, show: Callable[[], None]) -> BaseException | None:
    """Wait for workers, and return the error of one that has died; raise any other error at once."""
    running, died = set(futures), None
    while running:
        finished, running = wait(running, _DISPLAY_SECONDS, FIRST_EXCEPTION)
        show()
        for future in finished:
            try:
                future.result()
            except workers.lost as error:
                died = error
    return died


def _show(work: Work[Any], shards: Iterable[range], bar: Any) -> None:
    """Show how many rows these shards have."""
    rows = sum(len(work.place(batches)[1]) for batches in shards)
    bar.update(min(rows, bar.total) - bar.n)


def _finished(folder: Path, request: str) -> Finished:
    """Find the shards of earlier calls with the same request; remove all others, and those that overlap or changed."""
    parquet = load_extra("pyarrow.parquet")
    shards, seconds, end = dict[range, Path](), 0.0, 0
    for path in sorted(folder.glob("*.parquet")):
        batches = _batches_of(path)
        if batches is not None and batches.start >= end and file_digest(path) == path.stem.rpartition("-")[2]:
            metadata = parquet.read_schema(path).metadata or {}
            if metadata.get(b"request") == request.encode():
                shards[batches], end = path, batches.stop
                seconds += float(metadata[b"seconds"])
                continue
        path.unlink(missing_ok=True)
    return Finished(folder, shards, seconds)


def _batches_of(shard: Path) -> range | None:
    """Read the batches from the name of a shard; None for other files."""
    start, _, rest = shard.stem.partition("-")
    stop, _, digest = rest.partition("-")
    return range(int(start), int(stop)) if start.isdigit() and stop.isdigit() and digest else None


def _names(folder: Path) -> list[range]:
    """List the batches of the files in a folder."""
    return [batches for path in folder.glob("*.parquet") if (batches := _batches_of(path))]


def _missing(work: Work[Any], shards: Iterable[range]) -> list[range]:
    """List the batches of each file that are in none of the shards, which are in order."""
    number = work.batches_per_file
    ends = [range(place, place) for place in range(0, work.num_batches + 1, number)]
    files = [range(file * number, (file + 1) * number) for file in work.done]
    edges = sorted([*shards, *ends, *files], key=lambda each: (each.start, each.stop))
    gaps = [range(before.stop, after.start) for before, after in pairwise(edges)]
    return [gap for gap in gaps if gap]


def _parts(ranges: Sequence[range], number: int) -> list[range]:
    """Divide batches into about ``number`` parts of neighboring batches."""
    size = math.ceil(sum(map(len, ranges)) / number)
    return [batches[start : start + size] for batches in ranges for start in range(0, len(batches), size)]


def _do_elsewhere(
    work: Work[T],
    load: Callable[[], T],
    folder: Path,
    request: str,
    threads: int | None,
    batches: range,
    expected: dict[str, str],
) -> None:
    """Do some batches in a worker."""
    loaded = _load_once(load, request)
    with torch_threads(threads):
        found = work.identity(loaded, work.place(batches)[1])
        if found != expected:
            raise InputError(
                expected="the same model, data and code for every worker",
                got=f"another {', '.join(name for name in found if found[name] != expected.get(name))}",
                hint="workers that read the same files",
            )
        _do_part(work, loaded, folder, request, batches)


def _do_part(
    work: Work[T],
    loaded: T,
    folder: Path,
    request: str,
    batches: range,
    update: Callable[[int], object] = lambda rows: None,
) -> None:
    """Do some batches of one file, and write their tables into the folder every 10 to 20 seconds."""
    new: list[Any] = []
    first, started = batches.start, time.perf_counter()
    # `zip` asks for the next table before the next batch, so that checks after the last table run.
    for table, batch in zip(work.tables(loaded, *work.place(batches)), batches, strict=False):
        new.append(table)
        update(table.num_rows)
        is_long = time.perf_counter() - started >= _SHARD_SECONDS or sum(each.nbytes for each in new) >= _SHARD_BYTES
        # The last batch is stored only after the checks that follow it.
        if is_long and batch + 1 < batches.stop:
            _save(folder, range(first, batch + 1), new, request, time.perf_counter() - started)
            new, first, started = [], batch + 1, time.perf_counter()
    _save(folder, range(first, batches.stop), new, request, time.perf_counter() - started)


def _save(folder: Path, batches: range, tables: Sequence[Any], request: str, seconds: float) -> None:
    """Write a shard; its name has the digest of the file, so that any damage shows."""
    arrow, parquet = load_extra("pyarrow"), load_extra("pyarrow.parquet")
    table = arrow.concat_tables(tables)
    metadata = {**(table.schema.metadata or {}), b"request": request.encode(), b"seconds": f"{seconds:.2f}".encode()}
    content = arrow.BufferOutputStream()
    parquet.write_table(table.replace_schema_metadata(metadata), content)
    written = content.getvalue()
    name = f"{batches.start:012d}-{batches.stop:012d}-{bytes_digest(written)}.parquet"
    with atomic_path(folder / name) as temporary:
        temporary.write_bytes(written)


_loaded: dict[str, Any] = {}
"""What a worker has loaded for a request; the last request only, because data fill the memory."""


def _load_once(load: Callable[[], T], request: str) -> T:
    if request not in _loaded:
        _loaded.clear()
        with redirect_stderr(io.StringIO()):  # the caller has loaded the same, and has shown the same lines
            _loaded[request] = load()
    loaded: T = _loaded[request]
    return loaded


def shard_metadata(shards: Sequence[Path]) -> list[dict[str, str]]:
    """List the distinct metadata that `Work.tables` gave to the tables of some shards."""
    parquet = load_extra("pyarrow.parquet")
    found: list[dict[str, str]] = []
    for path in shards:
        given = parquet.read_schema(path).metadata
        metadata = {key.decode(): value.decode() for key, value in given.items() if key not in _KEPT}
        if metadata not in found:
            found.append(metadata)
    return found
