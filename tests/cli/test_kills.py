"""Killed at any moment, every command ends with the same files when it is given again.

A moment is an operation on files: the process kills itself before it opens a file for writing, renames, removes or
makes one. So the moments are the same on every machine, and no block between two operations is left out.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from command_process import RECIPE

from aradals.models import build_model, save_checkpoint, seal_description

SERVER = """
import json, os, signal, sys
from aradals.cli.main import main
import aradals.cli.finish, aradals.pipeline.train.fit, aradals.pipeline.study, aradals.pipeline.calibrate
import aradals.data.corrupted_parquet, aradals.report.page, pyarrow.parquet, sklearn.datasets
import aradals.pipeline.export, aradals.models.hub, onnxruntime, onnxscript, torch.onnx

def serve(arguments, moment):
    count = 0

    def hook(event, given):
        nonlocal count
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        inside = given and str(given[0]).startswith(folder)
        if inside and (writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    code = main(arguments)
    with open(told, "w") as file:
        json.dump([code, count], file)

folder, told = sys.argv[1:]
for line in sys.stdin:
    process = os.fork()
    if not process:
        os.dup2(2, 1)
        serve(*json.loads(line))
        os._exit(0)
    _, status = os.waitpid(process, 0)
    print(status, flush=True)
"""
"""A process that has loaded everything, and forks another one for each command: a start would take seconds."""


@dataclass(frozen=True)
class Server:
    """Runs commands, and kills them.

    Attributes:
        process: the process that forks.
        folder: only operations in this folder count.
        told: file with the exit code and the number of operations.
    """

    process: subprocess.Popen[str]
    folder: Path
    told: Path

    def run(self, arguments: list[object], moment: int | None = None) -> int | None:
        """Run a command; returns the number of its operations, or None if it was killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([list(map(str, arguments)), moment]) + "\n")
        self.process.stdin.flush()
        if int(self.process.stdout.readline()):
            return None
        code, count = json.loads(self.told.read_text())
        assert code == 0, arguments
        return int(count)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("kills")
    work = folder / "work"
    work.mkdir()
    (folder / "tiny.yaml").write_text(RECIPE.replace("epochs: 20", "epochs: 2"))
    torch.manual_seed(0)
    network = build_model("small_cnn", num_classes=10, in_channels=1, width=4)
    description = {"model": "small_cnn", "model_args": {"width": 4}, "num_classes": 10}
    save_checkpoint(network, folder / "model.safetensors", seal_description(network, description))
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", SERVER, str(work), str(folder / "told.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as process,
    ):
        yield Server(process, work, folder / "told.json")
        assert process.stdin is not None
        process.stdin.close()


OUTPUTS = {
    "score": "out.parquet",
    "calibrate": "out.json",
    "evaluate": "out",
    "diagnose": "out",
    "corrupt": "out.parquet",
    "train": "out",
    "run": "out",
    "export": "out.onnx",
    "export program": "out.pt2",
    "export folder": "out",
}
"""The commands that write; `report` writes one file from the results of `run`."""


def words(command: str, server: Server, audit: int = 0) -> list[object]:
    """A command that takes a second (an audit takes more), without its output."""
    folder = server.folder.parent
    given = ["--checkpoint", folder / "model.safetensors", "--data", "digits", "--limit", 40]
    match command:
        case "score":
            return [command, *given, "--attack=first_order_margin", f"--audit={audit}", "--num-subsets=2"]
        case "calibrate":
            return [command, *given]
        case "evaluate":
            return [command, *given, "--corruptions=contrast", "--severities=1,5"]
        case "diagnose":
            return [command, *given, "--attack=first_order_margin", "--num-subsets=2", f"--audit={audit}"]
        case "corrupt":
            return [command, "--data=digits", "--limit=40", "--corruption=contrast", "--severity=3"]
        case "train":
            return [command, folder / "tiny.yaml", "--method=vanilla"]
        case "export" | "export program":
            return ["export", *given[:2], "--input-shape=[1,8,8]"]
        case "export folder":
            return ["export", *given[:2], "--input-shape=[1,8,8]", "--format=safetensors"]
    return [command, folder / "tiny.yaml"]


CLOCKS = {"cost.json", "history.json", "stage.json", "report.html", "table.csv", "table.parquet"}
"""Files that contain seconds, or the digest of such a file."""


def content(output: Path) -> dict[str, Any]:
    """What a command has written, without seconds; names that begin with a dot are no results."""
    files = [output] if output.is_file() else [path for path in sorted(output.rglob("*")) if path.is_file()]
    found: dict[str, Any] = {}
    for path in files:
        if path.name == "results.json" or path.name == "diagnosis.json":
            results = json.loads(path.read_text())
            found[path.name] = [results[part] for part in ("rows", "reliability", "checks", "weights")]
        else:
            found[str(path.relative_to(output.parent))] = None if path.name in CLOCKS else path.read_bytes()
    return found


def check(command: str, server: Server, *, kills: int, seed: int, audit: int = 0) -> None:
    """Kill a command ``kills`` times in the same folder, then let it end."""
    chance = random.Random(f"{command} {seed}")
    whole, killed = (server.folder / f"{command}-{seed}-{kind}" for kind in ("whole", "killed"))
    for folder in (whole, killed):
        folder.mkdir()
    given = words(command, server, audit)
    count = server.run([*given, "--output", whole / OUTPUTS[command]])
    assert count
    for _ in range(kills):
        # Less is to do after each kill, and a command that has ended has few operations left.
        server.run([*given, "--output", killed / OUTPUTS[command]], chance.randint(1, max(2, count // 2)))
    server.run([*given, "--output", killed / OUTPUTS[command]])
    found, expected = content(killed / OUTPUTS[command]), content(whole / OUTPUTS[command])
    assert found.keys() - expected.keys() == set()
    for name, value in expected.items():
        assert found[name] == value, name
    assert not list(killed.rglob("*.aradals-partial"))


@pytest.mark.parametrize("command", OUTPUTS)
def test_three_kills(command: str, server: Server) -> None:
    check(command, server, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("command", OUTPUTS)
def test_thirty_kills(command: str, server: Server) -> None:
    for seed in range(1, 11):
        check(command, server, kills=3, seed=seed, audit=10)


def test_a_kill_while_a_report_is_written(server: Server) -> None:
    folder = server.folder / "reported"
    server.run(["evaluate", *words("evaluate", server)[1:], "--output", folder])
    before = (folder / "report.html").read_bytes()
    for moment in (1, 2, 3):
        server.run(["report", folder], moment)
        assert (folder / "report.html").read_bytes() == before
    assert server.run(["report", folder])
    assert (folder / "report.html").read_bytes() == before
