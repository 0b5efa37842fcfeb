"""What the tests of training have in common: digits, trainings that die, and when two of them are the same."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aradals.data import Examples, load_data
from aradals.models import build_model
from aradals.pipeline.train import TrainedModel, member_seed
from aradals.pipeline.train.module import AdaptiveClassifier
from aradals.pipeline.train.self_scoring import SelfScoring


def digits(first: int, num_examples: int) -> Examples:
    """Some of scikit-learn's digits."""
    return load_data("digits", "train").select(torch.arange(first, first + num_examples))


def small_cnn(seed: int, member: int = 0) -> nn.Module:
    """A small network for digits, as an ensemble's member with that seed is initialized."""
    torch.manual_seed(member_seed(seed, member))
    return build_model("small_cnn", num_classes=10, in_channels=1, width=4)


def weights(model: nn.Module) -> Tensor:
    """All parameters and running means as one vector."""
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


@contextmanager
def dying(
    epoch: int,
    monkeypatch: pytest.MonkeyPatch,
    hook_of: type[AdaptiveClassifier] | type[SelfScoring] = AdaptiveClassifier,
) -> Iterator[None]:
    """Training in the block dies as that epoch starts: before it is scored, or after that and before it is trained."""
    hook = hook_of.on_train_epoch_start

    def die(owner: Any, *arguments: Any) -> None:
        module = arguments[-1] if arguments else owner
        if module.current_epoch == epoch:
            raise RuntimeError("killed")
        hook(owner, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(hook_of, "on_train_epoch_start", die)
        with pytest.raises(RuntimeError, match="killed"):
            yield


def read_state(path: Path) -> dict[str, Any]:
    """The state of a training, whatever its inputs."""
    line, _, content = path.read_bytes().partition(b"\n")
    assert line == b"ar-adals training state, sha256 " + hashlib.sha256(content).hexdigest().encode()
    state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return state


def assert_same(resumed: TrainedModel, whole: TrainedModel) -> None:
    """All but the time that they took."""
    assert weights(resumed.model).equal(weights(whole.model))
    assert resumed.updates == whole.updates
    assert resumed.target_prob == whole.target_prob
    for records in ("epochs", "scorings"):
        ours, theirs = getattr(resumed, records), getattr(whole, records)
        assert [{**record, "seconds": 0} for record in ours] == [{**record, "seconds": 0} for record in theirs]
