"""The state of a training: the old one or the new one, whole, whatever happens; and never one that is not its own."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_fit import ADAPTIVE, SETTINGS, TRAIN, VALIDATION, fit, network
from torch import nn
from training_tools import assert_same, dying, read_state, weights

from aradals.errors import OutputError, TrainingFailed
from aradals.pipeline.config import MethodConfig
from aradals.pipeline.train import fit_classifier
from aradals.pipeline.train.state import StateIO, UnusableState

METHOD = MethodConfig()
KEPT_AS = "resume.ckpt.unreadable-1"


@pytest.fixture
def resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state after two of six epochs."""
    path = tmp_path / "resume.ckpt"
    with dying(2, monkeypatch):
        fit(METHOD, resume=path)
    return path


def cut(length: int) -> Callable[[Path], object]:
    return lambda path: os.truncate(path, length)


def replaced(path: Path) -> None:
    """By what Lightning itself writes, with the same content."""
    torch.save(read_state(path), path)


def unwrapped(path: Path) -> None:
    path.write_bytes(path.read_bytes().partition(b"\n")[2])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_text("something")


@pytest.mark.parametrize(
    "damage",
    [cut(0), cut(1), cut(90), cut(5000), unwrapped, replaced, folder, lambda path: path.write_bytes(b"\0" * 9000)],
)
def test_what_is_no_state_is_set_aside_and_training_starts_anew(damage: Callable[[Path], object], resume: Path) -> None:
    damage(resume)
    before = None if resume.is_dir() else resume.read_bytes()
    log: list[str] = []
    assert_same(fit(METHOD, resume=resume, log=log.append), fit(METHOD))
    [line] = [line for line in log if "cannot be used" in line]
    assert line.startswith(f"the state of an earlier call in {resume}")
    assert line.endswith(f"it is kept as {KEPT_AS}, and training starts anew")
    assert log.index(line) == 0
    aside = resume.with_name(KEPT_AS)
    assert aside.is_dir() if before is None else aside.read_bytes() == before
    assert len(read_state(resume)["epochs"]) == SETTINGS.epochs


def test_a_second_one_is_set_aside_under_a_number(resume: Path) -> None:
    for content in (b"one", b"two", b"three"):
        resume.write_bytes(content)
        fit(METHOD, resume=resume)
    kept = {path.name[-1]: path.read_bytes() for path in resume.parent.glob(f"{KEPT_AS[:-1]}*")}
    assert kept == {"1": b"one", "2": b"two", "3": b"three"}


def test_a_good_state_is_gone_on_from_without_a_word(resume: Path) -> None:
    log: list[str] = []
    assert_same(fit(METHOD, resume=resume, log=log.append), fit(METHOD))
    assert log[0].startswith("epoch 3/6")
    assert [path.name for path in resume.parent.iterdir()] == [resume.name]


@pytest.mark.parametrize(
    "other",
    [
        lambda path, log: fit(METHOD, replace(SETTINGS, learning_rate=0.01), path, log),
        lambda path, log: fit(METHOD, replace(SETTINGS, optimizer="sgd"), path, log),
        lambda path, log: fit(METHOD, SETTINGS, path, log, seed=6),
        lambda path, log: fit(ADAPTIVE, SETTINGS, path, log),
        lambda path, log: fit_classifier(
            network(), TRAIN, VALIDATION, method=METHOD, training=SETTINGS, seed=5, device="cpu", resume=path, log=log,
            inputs_digest="other data",
        ),
    ],
)  # fmt: skip
def test_the_state_of_another_training_is_not_gone_on_from(
    other: Callable[[Path, Callable[[str], None]], object], resume: Path
) -> None:
    log: list[str] = []
    other(resume, log.append)
    assert "(it belongs to a training with other inputs)" in log[0]
    assert log[1].startswith("epoch 1/6")
    assert resume.with_name(KEPT_AS).exists()


def test_a_model_of_another_form_under_the_same_name(resume: Path) -> None:
    """Its code has changed where no digest sees it."""
    log: list[str] = []
    fit(METHOD, resume=resume, log=log.append, model=nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3)))
    assert "(it belongs to a model of another form)" in log[0]


def test_every_flipped_bit_and_every_lost_byte_is_noticed(resume: Path) -> None:
    content = resume.read_bytes()
    state_io = StateIO(read_state(resume)["inputs"])
    state_io.load_checkpoint(resume)
    generator = random.Random(0)
    anywhere = generator.sample(range(len(content)), 300)
    for position in [*range(120), *anywhere]:
        changed = bytearray(content)
        changed[position] ^= 1 << generator.randrange(8)
        resume.write_bytes(changed)
        with pytest.raises(UnusableState):
            state_io.load_checkpoint(resume)
    for length in [*range(120), *anywhere, len(content) - 1]:
        resume.write_bytes(content[:length])
        with pytest.raises(UnusableState):
            state_io.load_checkpoint(resume)
    resume.write_bytes(content + b"\0")
    with pytest.raises(UnusableState):
        state_io.load_checkpoint(resume)


def test_no_code_in_a_state_is_run(resume: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return pytest.fail, ("code was run",)

    StateIO("inputs").save_checkpoint({"state_dict": Trap()}, resume)
    with pytest.raises(UnusableState, match="torch cannot read it"):
        StateIO("inputs").load_checkpoint(resume)


@pytest.mark.parametrize("value", [None, "text", [1]])
@pytest.mark.parametrize("part", ["pytorch-lightning_version", "optimizer_states", "epochs", "scorings", "state_dict"])
def test_a_state_that_somebody_has_made_up_is_one_line(part: str, value: object, resume: Path) -> None:
    """Its digest and its inputs are right, as those of a state can be that comes from somebody else."""
    state = read_state(resume)
    content = {key: each for key, each in {**state, part: value}.items() if each is not None}
    StateIO(state["inputs"]).save_checkpoint(content, resume)
    if part == "state_dict":
        fit(METHOD, resume=resume)
    else:
        with pytest.raises(TrainingFailed, match=r"cannot be restored \(\w+\): it is kept as resume.ckpt.unreadable-1"):
            fit(METHOD, resume=resume)
    assert resume.with_name(KEPT_AS).exists()
    assert_same(fit(METHOD, resume=resume), fit(METHOD))


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """Sets how large a file may be, in bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_on_a_full_disk_the_state_before_stays(resume: Path, largest_file: Callable[[int], None]) -> None:
    before = resume.read_bytes()
    largest_file(len(before) // 2)
    with pytest.raises(OutputError, match=rf"a writable output {resume}, got {os.strerror(errno.EFBIG)}"):
        fit(METHOD, resume=resume)
    largest_file(resource.RLIM_INFINITY)
    assert resume.read_bytes() == before
    assert [path.name for path in resume.parent.iterdir()] == [resume.name]
    assert_same(fit(METHOD, resume=resume), fit(METHOD))


def test_nothing_is_written_elsewhere(resume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the temporary folder cannot be written to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert_same(fit(METHOD, resume=resume), fit(METHOD))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /dev/shm")
def test_killed_at_any_moment_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a signal that nothing can catch, with the temporary folder on another file system."""
    torch.set_num_threads(1)
    if Path("/dev/shm").is_dir():
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    training, path = replace(SETTINGS, epochs=25), tmp_path / "resume.ckpt"
    whole = fit(METHOD, training)
    generator, num_killed = random.Random(time.time_ns()), 0
    while num_killed < 200:
        child = os.fork()
        if child == 0:
            fit(METHOD, training, path, log=lambda line: None)
            os._exit(0)
        time.sleep(generator.uniform(0.02, 0.3))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        num_killed += 1
        if path.exists():
            assert read_state(path)["epochs"]
    log: list[str] = []
    resumed = fit(METHOD, training, path, log=log.append)
    assert_same(resumed, whole)
    assert weights(resumed.model).equal(weights(whole.model))
    assert num_killed
    assert not any("cannot be used" in line for line in log)
