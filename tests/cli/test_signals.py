"""A signal ends a command with an exit status that says so, and one true line."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from command_line import aradals
from command_process import finish, start, write_recipe

from aradals.cli.main import COMMANDS
from aradals.cli.signals import Interrupted, StopSignals

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

GOES_ON = "interrupted; the same command goes on from here"


def wait_for(words: str, process: subprocess.Popen[str]) -> str:
    """Read stderr until a line holds ``words``; returns what was read."""
    assert process.stderr is not None
    read = ""
    for line in process.stderr:
        read += line
        if words in line:
            return read
    raise AssertionError(read)


def test_training_ends_at_a_signal_and_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Lightning would end without an error at this signal."""
    arguments = ("train", write_recipe(tmp_path), "--method=vanilla", "--output")
    process = start(*arguments, tmp_path / "out")
    wait_for("epoch 2/", process)
    process.terminate()
    code, out, err = finish(process)
    assert (code, out) == (143, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1] == GOES_ON
    weights = "vanilla/train/model.safetensors"
    assert not (tmp_path / "out" / weights).exists()

    again = aradals(*arguments, tmp_path / "out")
    assert again.code == 0, again.err
    assert "epoch 1/" not in again.err
    whole = aradals(*arguments, tmp_path / "whole")
    assert whole.code == 0, whole.err
    assert (tmp_path / "out" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


@pytest.mark.parametrize("module", ["aradals.cli.parser", "numpy", "torch.nn", "aradals.smoothing"])
def test_while_modules_load(module: str, tmp_path: Path) -> None:
    """Python reports on stderr when each module is loaded, so that the moment of the signal does not need a clock."""
    environment = {"PYTHONPROFILEIMPORTTIME": "1"}
    process = start("run", write_recipe(tmp_path), "--output", tmp_path / "out", environment=environment)
    wait_for(f" {module}\n", process)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert [line for line in err.splitlines() if not line.startswith("import time:")][-1].startswith("interrupted; ")
    assert "Traceback" not in err


MODEL = """
import signal, sys, time
from torch import nn

class Slow(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.layer = nn.Linear(64, k)

    def forward(self, x):
        {body}
        return self.layer(x.flatten(1))

def build(num_classes):
    return Slow(num_classes)
"""

WAITS = "print('in forward', file=sys.stderr, flush=True); time.sleep(60)"
BODIES = {
    "catches exceptions": f"""
        try:
            {WAITS}
        except (Exception, SystemExit, KeyboardInterrupt):
            pass""",
    "catches everything": f"""
        try:
            {WAITS}
        except:
            pass
        time.sleep(60)""",
    "raises another": f"""
        try:
            {WAITS}
        except BaseException:
            raise ValueError("mine") from None""",
    "cleans up for a while": f"""
        try:
            {WAITS}
        finally:
            time.sleep(0.7)
            print("cleaned up", file=sys.stderr, flush=True)""",
}


def diagnosis(body: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "slow.py").write_text(MODEL.format(body=body), encoding="utf-8")
    data = ("--data", "digits", "--limit", 20, "--num-subsets", 2)
    process = start("diagnose", "--model", folder / "slow.py:build", *data, "--output", folder / "out")
    wait_for("in forward", process)
    return process


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_each_signal_has_its_exit_code(number: signal.Signals, tmp_path: Path) -> None:
    process = diagnosis(WAITS, tmp_path)
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out, err) == (128 + number, "", f"{GOES_ON}\n")


@pytest.mark.parametrize("body", BODIES)
def test_within_other_peoples_code(body: str, tmp_path: Path) -> None:
    process = diagnosis(BODIES[body], tmp_path)
    process.terminate()
    code, _, err = finish(process)
    assert code == 143
    assert "Traceback" not in err
    assert err.splitlines() == [*(["cleaned up"] if body == "cleans up for a while" else []), GOES_ON]


def test_a_second_signal_ends_what_hangs(tmp_path: Path) -> None:
    body = f"""
        try:
            {WAITS}
        finally:
            print("cleaning up", file=sys.stderr, flush=True)
            time.sleep(60)"""
    process = diagnosis(body, tmp_path)
    process.terminate()
    wait_for("cleaning up", process)
    process.terminate()  # the same again, as `timeout` sends it
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (143, f"{GOES_ON}\n")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As by ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            signals.arm()
        assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_raising_keyboard_interrupt_is_an_interruption(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(MODEL.format(body="raise KeyboardInterrupt"), encoding="utf-8")
    model = ("--model", tmp_path / "slow.py:build", "--data", "digits", "--limit", 20)
    for command, file, words in (
        ("score", "scores.parquet", "goes on from here"),
        ("calibrate", "calibrator.json", "starts over"),
    ):
        ran = aradals(command, *model, "--output", tmp_path / file)
        assert ran.code == 130
        assert ran.err.splitlines()[-1] == f"interrupted; the same command {words}"


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    assert aradals("--version").code == 0
    assert aradals("recipes", "show", "no-such").code == 2
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(aradals("recipes").code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_only_from_arm_to_disarm() -> None:
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        with pytest.raises(Interrupted):
            signals.arm()
        signals.disarm()
        time.sleep(0.5)  # the reminders raise nothing


def test_a_forked_child_keeps_the_default() -> None:
    with StopSignals() as signals:
        signals.arm()
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


def test_every_command_says_whether_it_goes_on() -> None:
    resumes = {name for name in COMMANDS if importlib.import_module(f"aradals.cli.{name}").RESUMES}
    assert resumes == {"run", "train", "evaluate", "diagnose", "score", "corrupt"}
