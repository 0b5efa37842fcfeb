"""`aradals`: finds the subcommand, parses its arguments, and turns bad input into one line and exit code 2."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from aradals.cli.messages import explain
from aradals.errors import InputError, MissingExtraError, RunsFailed

COMMANDS = {
    "score": "measure each example's robustness",
    "diagnose": "find where a classifier's confidence is wrong",
    "train": "train one model of a recipe",
    "calibrate": "fit a calibrator after training",
    "evaluate": "accuracy, confidence and calibration, clean and under shift",
    "corrupt": "write corrupted images, as CIFAR-10-C and ImageNet-C have them",
    "run": "a whole study: methods x seeds, from data to report",
    "report": "the HTML report of results on disk",
    "recipes": "list, show and copy recipes",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for a study some runs of which failed, or 2 for bad input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    try:
        if name in ("-h", "--help"):
            print(_overview())
        elif name == "--version":
            from aradals import __version__

            print(f"aradals {__version__}")
        elif name in COMMANDS:
            _run(name, rest)
        else:
            raise InputError(expected=f"a command: {', '.join(COMMANDS)}", got=repr(name), hint="aradals --help")
    except (InputError, MissingExtraError) as error:
        return _fail(str(error))
    except RunsFailed as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "aradals":
            raise
        return _fail(f"the command line needs {error.name}; try pip install 'ar-adals[all]'")
    except BrokenPipeError:
        # Whoever read the output has seen enough, as in `aradals recipes | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _run(name: str, arguments: list[str]) -> None:
    """Parse and run one subcommand: a module with ``EXAMPLE``, ``add_arguments`` and ``run``."""
    from jsonargparse import ArgumentParser

    command = importlib.import_module(f"aradals.cli.{name}")
    warnings.showwarning = _show_warning
    parser = ArgumentParser(
        prog=f"aradals {name}",
        description=command.__doc__,
        epilog=f"example: {command.EXAMPLE}",
        exit_on_error=False,
        allow_abbrev=False,
    )
    arguments = command.add_arguments(parser, arguments)
    _spell_with_dashes(parser)
    try:
        values = parser.instantiate(parser.parse_args(arguments)).as_dict()
    except argparse.ArgumentError as error:
        raise explain(str(error), parser, example=command.EXAMPLE) from error
    values.pop("recipe", None)
    command.run(**values)


def _spell_with_dashes(parser: argparse.ArgumentParser) -> None:
    """Offer ``--image-column`` for ``image_column``; keys of recipes (``--a.b_c``) keep the spelling of the YAML."""
    for action in parser._actions:
        for option in list(action.option_strings):
            dashed = option.replace("_", "-")
            if dashed != option and "." not in option:
                action.option_strings = [dashed, *action.option_strings]
                parser._option_string_actions[dashed] = action


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, *more: object, **options: object
) -> None:
    """Our own warnings as one line each; those of libraries are for their developers."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parents[1]):
        print(f"warning: {message}", file=sys.stderr)


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _overview() -> str:
    lines = [f"  aradals {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Find out where a classifier's confidence is wrong, train it to be right, and prove it.",
            "",
            *lines,
            "",
            "Each command has --help with an example. First steps:",
            "  aradals run demo --output runs/demo",
            "  aradals diagnose --model my_model.py:build --checkpoint weights.pt --data photos/ --output out",
        ]
    )
