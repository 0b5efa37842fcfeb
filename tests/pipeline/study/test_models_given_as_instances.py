"""A model that is an instance in a module is no shared state: no training goes on from another one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from aradals.errors import InputError
from aradals.models import build_model
from aradals.pipeline.recipes import load_recipe
from aradals.pipeline.study import train_one

MODULE = "module_with_an_instance"

RECIPE = f"""
data: digits
model: {MODULE}:MODEL
splits: {{validation: 40, calibration: 40, train: 100}}
training: {{epochs: 1, batch_size: 25, learning_rate: 0.01}}
methods: {{1: {{}}, yes: {{targets: {{smoothing: 0.1}}}}}}
evaluation: {{num_subsets: 2, num_resamples: 20}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / f"{MODULE}.py").write_text(
        "from torch import nn\nMODEL = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    yield tmp_path
    sys.modules.pop(MODULE, None)


def trained(output: str, method: str, seed: int) -> Tensor:
    [checkpoint] = train_one(load_recipe("mine.yaml"), method, seed, Path(output), device="cpu", log=lambda line: None)
    return load_file(checkpoint)["1.weight"]


def test_a_training_does_not_depend_on_those_before_it() -> None:
    alone = trained("alone", "yes", 0)
    given = build_model(f"{MODULE}:MODEL").get_parameter("1.weight").detach()
    first = trained("both", "1", 0)
    assert trained("both", "yes", 0).equal(alone)
    assert not first.equal(alone)
    other_seed = trained("other", "yes", 1)
    assert (other_seed - alone).abs().max() > 0.1  # more than an epoch changes: the initialization is another one
    assert build_model(f"{MODULE}:MODEL").get_parameter("1.weight").equal(given)


def test_an_instance_that_cannot_be_initialized_is_refused_before_training(folder: Path) -> None:
    (folder / f"{MODULE}.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = nn.Parameter(torch.zeros(64, 10))\n"
        "    def forward(self, inputs): return inputs.flatten(1) @ self.weight\n"
        "MODEL = Net()\n"
    )
    with pytest.raises(InputError, match=r"MODEL to be a class or a function.*a Net, which has no reset_parameters"):
        trained("refused", "1", 0)
    assert not list(Path("refused").rglob("*.safetensors"))
    assert build_model(f"{MODULE}:MODEL")(torch.rand(2, 64)).shape == (2, 10)
