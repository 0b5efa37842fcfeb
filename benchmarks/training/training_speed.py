"""Images per second of a training: our trainer, a plain loop and the bare steps, in turns.

    python benchmarks/training/training_speed.py --data DIR                          # trainer, plain loop, bare steps
    python benchmarks/training/training_speed.py --data DIR --contest settings       # what each setting buys
    python benchmarks/training/training_speed.py --data DIR --contest adaptive       # AR-AdaLS beside vanilla
    python benchmarks/training/training_speed.py --data DIR --contest scoring        # scoring beside training

DIR has ``cifar10-train.parquet``. Each contender runs in a process of its own, with one thread, and does one turn in
every round. So a change in the load of the machine meets all contenders, and no contender inherits the memory of
another. A ratio is that of two turns of one round, to the first contender: of images per second of the processor, or of
wall time with ``--device cuda``.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import contenders
import torch

Turn = Callable[[], int]


@dataclass(frozen=True)
class Contest:
    """Contenders by name, each made by a function of the data, the network and its sizes; ratios are to the first."""

    contenders: dict[str, Callable[[contenders.Setting], Turn]]


CONTESTS = {
    "trainer": Contest(
        {
            "bare steps": partial(contenders.steps, channels_last=True),
            "our trainer": contenders.trainer,
            "plain loop": contenders.plain_loop,
        }
    ),
    "settings": Contest(
        {
            "float32": contenders.steps,
            "fused optimizer": partial(contenders.steps, fused=True),
            "memory kept": partial(contenders.steps, keep=True),
            "channels_last": partial(contenders.steps, channels_last=True),
            "channels_last, memory kept": partial(contenders.steps, channels_last=True, keep=True),
            "channels_last, compiled": partial(contenders.steps, channels_last=True, compiled=True),
            "channels_last, bf16": partial(contenders.steps, channels_last=True, bf16=True),
        }
    ),
    "adaptive": Contest({"vanilla": contenders.trainer, "scores itself": contenders.self_scored}),
    "scoring": Contest(
        {
            "training": contenders.trainer,
            "first_order_margin": partial(contenders.scoring, attack="first_order_margin"),
            "secant": partial(contenders.scoring, attack="secant"),
            "secant, num_starts=6": partial(contenders.scoring, attack="secant", num_starts=6),
        }
    ),
}


@dataclass(frozen=True)
class Measured:
    """One turn: images per second of the processor, and per second of wall time."""

    processor: float
    wall: float


def serve(make: Callable[[contenders.Setting], Turn], setting: contenders.Setting, pipe: Connection) -> None:
    """Prepare a contender, take one turn to warm up, and then one for each message."""
    torch.set_num_threads(1)
    turn = make(setting)
    turn()
    pipe.send(None)
    while pipe.recv():
        processor, wall = time.process_time(), time.perf_counter()
        num_images = turn()
        if setting.device == "cuda":
            torch.cuda.synchronize()
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        pipe.send(Measured(num_images / processor, num_images / wall))


@contextlib.contextmanager
def started(contest: Contest, setting: contenders.Setting) -> Iterator[dict[str, Connection]]:
    """Start a process for each contender, one after the other."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, make in contest.contenders.items():
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(make, setting, theirs), daemon=True)
        process.start()
        processes.append(process)
        theirs.close()
        pipes[name].recv()
    yield pipes
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()


def take_turns(pipes: dict[str, Connection], rounds: int) -> dict[str, list[Measured]]:
    """Let each contender take one turn in each round; every other round goes backwards."""
    turns: dict[str, list[Measured]] = {name: [] for name in pipes}
    for number in range(rounds):
        for name in list(pipes)[:: 1 if number % 2 == 0 else -1]:
            pipes[name].send(True)
            turns[name].append(pipes[name].recv())
    return turns


def spread(values: Sequence[float], form: str) -> str:
    """Show the median, the minimum and the maximum."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def print_table(turns: dict[str, list[Measured]], device: str) -> None:
    def rate(turn: Measured) -> float:
        return turn.processor if device == "cpu" else turn.wall

    first = next(iter(turns.values()))
    print("| | images/s of the processor | images/s of wall time | ratio |\n|---|---|---|---|")
    for name, own in turns.items():
        processors, walls = [each.processor for each in own], [each.wall for each in own]
        ratios = [rate(mine) / rate(base) for mine, base in zip(own, first, strict=True)]
        print(
            f"| {name} | {spread(processors, '.0f')} | {spread(walls, '.0f')} | {spread(ratios, '.3f')} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10-train.parquet")
    parser.add_argument("--contest", choices=CONTESTS, default="trainer")
    parser.add_argument("--networks", nargs="+", default=["small_cnn", "resnet20"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4096, help="of one epoch")
    parser.add_argument("--epochs", type=int, help="of one turn; default: 2, or 11 with adaptive, as 1 scoring in 11")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    epochs = given.epochs or (contenders.EVERY + 1 if given.contest == "adaptive" else 2)
    machine = torch.cuda.get_device_name() if given.device == "cuda" else "one thread"
    print(f"torch {torch.__version__}, {machine}, {given.rounds} rounds, batches of {contenders.BATCH_SIZE}")
    for network in given.networks:
        setting = contenders.Setting(given.data / "cifar10-train.parquet", network, given.images, epochs, given.device)
        print(f"\n{given.contest}, {network}: turns of {epochs} x {given.images} images of 32x32 pixels", flush=True)
        with started(CONTESTS[given.contest], setting) as pipes:
            print_table(take_turns(pipes, given.rounds), given.device)


if __name__ == "__main__":
    main()
