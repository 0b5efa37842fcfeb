"""The command `aradals`: it runs a subcommand, and reports its end in one line and by the exit status."""

from __future__ import annotations

import importlib
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from aradals.cli.failures import describe
from aradals.cli.signals import StopSignals
from aradals.cli.terminal import StandardStreams, leave, print_log, print_result
from aradals.errors import InputError, RunsFailed

COMMANDS = {
    "score": "measure each example's robustness",
    "diagnose": "find where a classifier's confidence is wrong",
    "train": "train one model of a recipe",
    "calibrate": "fit a calibrator after training",
    "evaluate": "measure accuracy, confidence and calibration, clean and under shift",
    "monitor": "estimate the accuracy on unlabeled data, and whether they have drifted",
    "corrupt": "write corrupted images like those of CIFAR-10-C and ImageNet-C",
    "run": "run a whole study: methods x seeds, from data to report",
    "report": "write the HTML report of results on disk",
    "recipes": "list, show and copy recipes",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0 for success; 1 if some runs of a study failed, or if the results could not be printed; 2 for
        bad input, or if the system refuses a file or memory; 128 plus the number of the signal after an interruption.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with StopSignals() as signals, StandardStreams() as streams:
        code = 0
        try:
            signals.arm()
            code = _exit_code(arguments, signals, streams)
            signals.disarm()
        except BaseException:
            # After a signal, the error is `Interrupted`, or another one that user code has raised instead.
            if signals.received is None:
                raise
            signals.disarm()
        if signals.received is not None:
            code = 128 + signals.received
            print_log(signals.message)
    if signals.received is not None and argv is None:
        leave(code)
    return code


def _exit_code(arguments: list[str], signals: StopSignals, streams: StandardStreams) -> int:
    """Run the command, and print its results or one line about the error."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    code, output = 0, None
    try:
        if name in ("-h", "--help"):
            print_result(_overview())
        elif name == "--version":
            from aradals import __version__

            print_result(f"aradals {__version__}")
        elif name in COMMANDS:
            output = _run(name, rest, signals)
        else:
            raise InputError(expected=f"a command: {', '.join(COMMANDS)}", got=repr(name), hint="aradals --help")
    except RunsFailed as error:  # all other runs have results
        print_log(str(error))
        code = 1
    except KeyboardInterrupt:  # raised by user code, or outside the main thread
        signals.received = signals.received or signal.SIGINT
        raise
    except (Exception, SystemExit) as error:
        line = describe(error)
        if line is None or signals.received is not None:
            raise
        code = _fail(line)
    try:
        streams.write_results()
    except BrokenPipeError:  # the reader has closed the pipe, as in `aradals recipes | head`
        return code or 1
    except OSError as error:
        where = f"; they are in {output}" if output is not None else ""
        _fail(f"the results could not be printed ({error.strerror or error}){where}")
        return code or 1
    return code


def _run(name: str, arguments: list[str], signals: StopSignals) -> Path | None:
    """Parse and run one subcommand: a module with ``EXAMPLE``, ``RESUMES`` and ``run``.

    Returns:
        The path of the command's results; None if it has written nothing.
    """
    from aradals.cli.parser import CommandParser

    command = importlib.import_module(f"aradals.cli.{name}")
    warnings.showwarning = _show_warning
    parser = CommandParser(name, command)
    if {"-h", "--help"} & set(arguments):
        print_result(parser.format_help().removesuffix("\n"))
        return None
    values = parser.read(arguments)
    signals.message = f"interrupted; the same command {'goes on from here' if command.RESUMES else 'starts over'}"
    output: Path | None = command.run(**values)
    return output


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, *more: object, **options: object
) -> None:
    """Print a warning of this package in one line; drop warnings of libraries, which are for their developers."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parents[1]):
        print_log(f"warning: {message}")


def _fail(message: str) -> int:
    print_log("error: " + " ".join(message.split()))
    return 2


def _overview() -> str:
    lines = [f"  aradals {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Find out where a classifier's confidence is wrong, train it to be right, and measure the result.",
            "",
            *lines,
            "",
            "`aradals COMMAND --help` explains a command with an example. First steps:",
            "  aradals run demo --output runs/demo",
            "  aradals diagnose --model my_model.py:build --checkpoint weights.pt --data photos/ --output out",
        ]
    )
