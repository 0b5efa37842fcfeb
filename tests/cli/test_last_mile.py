"""The code in docs/predictions.md works as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Study, run_once
from torch import nn

from aradals import CalibratedModel, load_data

PAGE = Path(__file__).parents[2] / "docs" / "predictions.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_once(tmp_path_factory.getbasetemp() / "tiny-study")


def test_a_calibrator_is_saved_loaded_and_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    inputs = torch.rand(200, 1, 2, 2)
    with torch.no_grad():
        probs = (5 * model(inputs)).softmax(1).numpy()
    labels = torch.randint(3, (200,))
    given = {"labels": labels.numpy(), "probs": probs, "new_labels": labels.tolist(), "new_probs": probs.tolist()}
    exec(BLOCKS[0], given)
    found: dict[str, Any] = {"model": model, "inputs": inputs, "labels": labels}
    exec(BLOCKS[1], found)
    loaded = torch.export.load("calibrated.pt2").module()
    with torch.no_grad():
        assert loaded(inputs[:7]).exp().numpy() == pytest.approx(found["probs"][:7].detach().numpy(), abs=1e-6)


def test_the_calibrated_model_of_a_study(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(study.folder)
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(BLOCKS[2], found)
    calibrated = found["calibrated"]
    assert isinstance(calibrated, CalibratedModel)
    _, inputs, _ = load_data("digits", "test").batch(range(5))
    assert calibrated(inputs).exp().sum(1).detach().numpy() == pytest.approx(1, abs=1e-5)
