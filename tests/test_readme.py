"""The README's code runs as it stands, and the core needs torch and numpy alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from aradals import AdaptiveSmoothing

ROOT = Path(__file__).parents[1]


def python_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_a_diagnosis_of_what_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = python_of("README.md")
    torch.manual_seed(0)
    names = {
        "model": nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
        "inputs": torch.rand(200, 1, 4, 4),
        "labels": torch.randint(3, (200,)),
    }
    monkeypatch.chdir(tmp_path)
    exec(code, names)
    assert "subset 9 (most robust)" in capsys.readouterr().out
    assert "What is wrong" in (tmp_path / "diagnosis.html").read_text(encoding="utf-8")


def test_the_users_own_loop() -> None:
    _, code = python_of("README.md")
    torch.manual_seed(0)

    def examples(num_examples: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(10, (num_examples,))
        inputs = (0.5 + 0.3 * nn.functional.one_hot(labels, 10) + 0.17 * torch.randn(num_examples, 10)).clamp(0, 1)
        return inputs, labels

    train, validation = examples(400), examples(200)
    vanilla, model = (nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 10)) for _ in range(2))
    fitted = torch.optim.Adam(vanilla.parameters(), lr=0.01)
    for _ in range(100):
        loss = nn.functional.cross_entropy(vanilla(train[0]), train[1])
        fitted.zero_grad()
        loss.backward()
        fitted.step()
    names = {
        "torch": torch,
        "train": train,
        "validation": validation,
        "vanilla": vanilla,
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=0.01),
        "num_epochs": 30,
    }
    exec(code, names)
    criterion = names["criterion"]
    assert isinstance(criterion, AdaptiveSmoothing)
    assert len(criterion.history) == 30
    # Memorized noise is over-confident on validation data, and most of all where it is least robust.
    assert criterion.target_prob[0] < criterion.target_prob[-1]
    assert criterion.target_prob[0] < 0.99
    assert (model(train[0]).argmax(1) == train[1]).float().mean() > 0.5
