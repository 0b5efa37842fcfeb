from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.losses import focal_loss, margin_smoothing_loss
from aradals.objectives import OBJECTIVES, get_objective, takes_target_prob


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(5, 3), torch.rand(8, 5), torch.randint(3, (8,))


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_trains_a_linear_model(name: str) -> None:
    """On classes that a line separates, and with targets that keep the order of the classes.

    The line needs a steeper margin than CalMO's default flatness allows in two dimensions.
    """
    torch.manual_seed(0)
    inputs = torch.rand(64, 2)
    labels = (inputs[:, 0] > inputs[:, 1]).long()
    model, objective = nn.Linear(2, 2), get_objective(name, 2, **({"flatness": 1e-4} if name == "calmo" else {}))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        loss, logits = objective(model, inputs, labels)
        assert logits.shape == (64, 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(inputs).argmax(1) == labels).double().mean() > 0.9


def test_settings_reach_the_loss() -> None:
    model, inputs, labels = problem()
    logits = model(inputs)
    for name, args, expected in [
        ("focal", {"gamma": 0.5}, focal_loss(logits, labels, 0.5)),
        ("focal", None, focal_loss(logits, labels, 3.0)),
        ("margin-smoothing", {"margin": 0.1, "weight": 2}, margin_smoothing_loss(logits, labels, 0.1, 2)),
        ("cross_entropy", {}, F.cross_entropy(logits, labels)),
    ]:
        loss, returned = get_objective(name, **(args or {}))(model, inputs, labels)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(returned, logits)


def test_which_can_be_smoothed() -> None:
    smoothed = {name for name in OBJECTIVES if takes_target_prob(get_objective(name, 2))}
    assert smoothed == {"cross_entropy", "mixup", "ccat", "logit_norm"}


def test_choosing_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    for name in OBJECTIVES:
        get_objective(name, 2)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (
            "mixpu",
            {},
            r"cross_entropy, mixup, ccat, focal, margin_smoothing, .*path.*got 'mixpu'; try mixup$",
        ),
        ("mixup", {"alhpa": 1}, "the settings of mixup: alpha, got alhpa; try alpha$"),
        ("cross_entropy", {"alpha": 1}, "no settings for cross_entropy, got alpha"),
        ("ccat", {"target_prob": 0.5}, "got target_prob"),
        ("mixup", {"alpha": -1}, "alpha >= 0, got alpha=-1"),
        ("mixup", {"alpha": "much"}, "settings that mixup accepts"),
        ("ccat", {"radius": -1}, "radius > 0"),
        ("logit_norm", {"temperature": 0}, "temperature > 0"),
        ("sample_focal", {"gamma_low": -1}, "gamma >= 0"),
        ("sample_focal", {"threshold": 2}, "threshold from 0 to 1"),
        ("dual_focal", {"gamma": 0}, "gamma > 0"),
        ("calmo", {"flatness": -1}, "flatness from 0"),
        ("calmo", {"steps": 0}, "steps > 0"),
        ("ccat", {"norm_order": 1}, "norm_order 2 or inf"),
        ("ccat", {"norm_order": "one"}, "settings that ccat accepts"),
        ("ccat", {"steps": 2.5}, "settings that ccat accepts"),
        ("focal", {"gamma": -1}, "gamma >= 0"),
        ("margin_smoothing", {"margin": -1}, "margin >= 0"),
    ],
)
def test_bad_names_and_settings(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_objective(name, **args)


OURS = """
import torch.nn.functional as F
from factors import factor

number = 3
def scaled(model, inputs, labels, *, power=1):
    logits = model(inputs)
    return factor ** power * F.cross_entropy(logits, labels), logits
def smoothed(model, inputs, labels, target_prob=None): ...
def of_two(model, inputs): ...
def needs_more(model, inputs, labels, *, power): ...
"""


@pytest.fixture
def objective_file(tmp_path: Path) -> Path:
    (tmp_path / "factors.py").write_text("factor = 2\n")
    path = tmp_path / "ours.py"
    path.write_text(OURS)
    return path


def test_other_peoples_objectives(objective_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, labels = problem()
    expected = 8 * F.cross_entropy(model(inputs), labels)
    objective = get_objective(f"{objective_file}:scaled", power=3)
    torch.testing.assert_close(objective(model, inputs, labels)[0], expected)
    assert not takes_target_prob(objective)
    assert takes_target_prob(get_objective(f"{objective_file}:smoothed"))
    monkeypatch.chdir(objective_file.parent)
    monkeypatch.setitem(sys.modules, "ours", None)  # so that the module is gone after this test
    del sys.modules["ours"]
    torch.testing.assert_close(get_objective("ours:scaled", power=3)(model, inputs, labels)[0], expected)
    assert get_objective("aradals.objectives:mixup", alpha=1.0) is not None


@pytest.mark.parametrize(
    ("attribute", "args", "message"),
    [
        ("scald", {}, "got 'scald', which does not exist; try scaled$"),
        ("number", {}, "got an object of type int"),
        ("of_two", {}, r"to take \(model, inputs, labels\).*got \(model, inputs\)"),
        ("needs_more", {}, "defaults for all other arguments"),
        ("scaled", {"pwoer": 2}, "power, got pwoer; try power$"),
    ],
)
def test_what_can_go_wrong_with_other_peoples(
    objective_file: Path, attribute: str, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        get_objective(f"{objective_file}:{attribute}", **args)
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        get_objective(f"no_such_module_of_mine:{attribute}", **args)
