"""Bits flipped in every file of a finished study: it says so, and ends with the same numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_study import save_digits, small_config

from aradals.pipeline.config import AdaptiveTargets, MethodConfig, RankedSubsets, StudyConfig
from aradals.pipeline.study import run_study
from aradals.smoothing.update_rules import UpdateRule

PARTS = ("rows", "reliability", "comparisons", "calibrators", "stability")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("damage")
    methods = {
        "vanilla": MethodConfig(),
        "adaptive": MethodConfig(targets=AdaptiveTargets(UpdateRule(rate=0.1), RankedSubsets(2))),
    }
    config = small_config(save_digits(folder / "digits.npz", num_train=220), methods)
    results = run_study(config, folder / "out", name="test", log=lambda line: None)
    return config, folder / "out", {part: getattr(results, part) for part in PARTS}


@pytest.mark.slow
def test_every_file(study: tuple[StudyConfig, Path, dict[str, object]], tmp_path: Path) -> None:
    config, out, expected = study
    generator = torch.Generator().manual_seed(0)
    files = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    assert len(files) > 20
    for file in files:
        for kind in ("bit", "cut", "empty", "deleted"):
            copy = shutil.copytree(out, tmp_path / "copy")
            damaged = copy / file
            content = bytearray(damaged.read_bytes())
            position = int(torch.randint(len(content), (1,), generator=generator))
            match kind:
                case "bit":
                    content[position] ^= 1 << int(torch.randint(8, (1,), generator=generator))
                    damaged.write_bytes(content)
                case "cut":
                    damaged.write_bytes(content[:position])
                case "empty":
                    damaged.write_bytes(b"")
                case _:
                    damaged.unlink()
            log: list[str] = []
            results = run_study(config, copy, name="test", log=log.append)
            assert {part: getattr(results, part) for part in PARTS} == expected, (file, kind, position)
            if file.parts[0].startswith("seed-") and file.name != "stage.json":
                assert any(file.name in line and ("changed" in line or "deleted" in line) for line in log), (file, kind)
            shutil.rmtree(copy)
