"""Golden values: what the product computed before its code was moved, to be the same afterwards.

    python tests/golden/record.py --scores F --diagnosis F --digits F     writes them from files that commands have made

- ``aradals score --model resnet20 --checkpoint RESNET20 --data CIFAR10-TEST --limit 512 --workers 1 --output F``
- ``aradals diagnose --model resnet20 --checkpoint RESNET20 --data CIFAR10-TEST --output F`` (its diagnosis.json)
- ``aradals run digits --workers 1 --output F`` (its table.parquet)

each with one torch thread, and the course of every update rule on made-up predictions.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import torch

from aradals.results import Results
from aradals.results.files import parse
from aradals.smoothing import AdaptiveSmoothing, UpdateRule

HERE = Path(__file__).parent
CLOCK = ("seconds", "relative_cost")
LEFT_OUT = ("pictures", "versions", "config", "sha256", "attack", "scores_by", "scoring")
RULES = {
    "paper": UpdateRule(rate=0.1, leak=0),
    "leaky": UpdateRule(rate=0.1),
    "hybrid": UpdateRule(rate=0.1, proportional_gain=0.5),
    "averaged": UpdateRule(rate=0.1, averaging=0.5),
    "shrunk": UpdateRule(rate=0.1, shrink=True),
    "monotone": UpdateRule(rate=0.1, monotone=True),
}


def courses() -> dict[str, list[list[float]]]:
    """The targets of 4 subsets after each of 12 updates, by rule."""
    found = {}
    for name, rule in RULES.items():
        generator = torch.Generator().manual_seed(0)
        criterion = AdaptiveSmoothing(5, 4, rule=rule)
        course = []
        for _ in range(12):
            labels = torch.randint(5, (200,), generator=generator)
            logits = torch.randn(200, 5, generator=generator, dtype=torch.float64)
            logits[torch.arange(200), labels] += 2
            criterion.update(labels, 3 * logits, torch.arange(200) % 4)
            course.append(criterion.target_prob.tolist())
        found[name] = course
    return found


def recorded_diagnosis() -> Results:
    """The recorded diagnosis, which may be of an older form, without the descriptions of attacks."""
    content = json.loads((HERE / "diagnosis.json").read_text(encoding="utf-8"))
    return parse({**content, "audit": {"scores_by": "", "attack": "", **content["audit"]}})


def without(value: Any, keys: tuple[str, ...]) -> Any:
    """Results without entries that are not to be compared."""
    if isinstance(value, dict):
        return {key: without(item, keys) for key, item in value.items() if key not in keys}
    return [without(item, keys) for item in value] if isinstance(value, list) else value


def machine() -> dict[str, str]:
    """What decides the last bits of a number, and with them the course of a training."""
    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "model": processor_model(),
    }


def processor_model() -> str:
    """Family, model and stepping of the processor, on which the course of a training depends; empty outside Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    wanted = ("vendor_id", "cpu family", "model", "stepping")
    found = dict(line.partition(":")[::2] for line in reversed(lines) if line.partition(":")[0].strip() in wanted)
    return ", ".join(f"{name.strip()} {value.strip()}" for name, value in sorted(found.items()))


def main() -> None:
    """Write the golden values."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("scores", "diagnosis", "digits"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    (HERE / "machine.json").write_text(json.dumps(machine(), indent=1) + "\n", encoding="utf-8")
    (HERE / "update_rules.json").write_text(json.dumps(courses(), indent=1) + "\n", encoding="utf-8")
    columns = ["id", "predicted", "score", "success", "num_forward", "num_backward"]
    parquet.write_table(
        parquet.read_table(given.scores, columns=columns).replace_schema_metadata(None), HERE / "scores.parquet"
    )
    diagnosis = without(json.loads(given.diagnosis.read_text(encoding="utf-8")), (*CLOCK, *LEFT_OUT))
    (HERE / "diagnosis.json").write_text(json.dumps(diagnosis) + "\n", encoding="utf-8")
    table = parquet.read_table(given.digits).replace_schema_metadata(None)
    parquet.write_table(
        table.drop([name for name in table.column_names if name in CLOCK]), HERE / "digits.parquet", compression="zstd"
    )


if __name__ == "__main__":
    main()
