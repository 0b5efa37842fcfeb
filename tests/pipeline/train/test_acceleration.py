"""The precision of a training, which hardware decides and the state of a training keeps, and compilation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_tools import assert_same, digits, dying, small_cnn, weights

from aradals import InputError
from aradals.pipeline.config import MethodConfig, TrainingConfig
from aradals.pipeline.train import TrainedModel, fit, fit_classifier
from aradals.pipeline.train.acceleration import choose_precision

TRAINING = TrainingConfig(epochs=3, batch_size=32)
TRAIN, VALIDATION = digits(0, 100), digits(100, 40)


def trained(training: TrainingConfig = TRAINING, resume: Path | None = None) -> TrainedModel:
    method = MethodConfig()
    return fit_classifier(
        small_cnn(0), TRAIN, VALIDATION, method=method, training=training, seed=3, device="cpu", resume=resume
    )


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_only_a_gpu_with_bfloat16_units_uses_them_unasked(
    has_bf16: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert choose_precision("auto", "cuda:0") == chosen
    assert choose_precision("auto", "cpu") == "32-true"
    assert choose_precision("16-mixed", "cpu") == "16-mixed"


def test_a_training_goes_on_with_the_precision_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(replace(TRAINING, precision="bf16-mixed"))
    with monkeypatch.context() as elsewhere, dying(2, monkeypatch):
        elsewhere.setattr(fit, "choose_precision", lambda wanted, device: "bf16-mixed")
        trained(resume=tmp_path / "state")
    resumed = trained(resume=tmp_path / "state")
    assert resumed.precision == "bf16-mixed"
    assert_same(resumed, whole)
    assert trained().precision == "32-true"


def test_a_machine_that_cannot_compile_is_noticed_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(InputError, match=r"no C\+\+ compiler; try training\.compile: false"):
        trained(replace(TRAINING, compile=True))


@pytest.mark.slow
def test_a_compiled_model_learns_the_same_up_to_rounding() -> None:
    compiled, plain = trained(replace(TRAINING, compile=True)), trained()
    torch.testing.assert_close(weights(compiled.model), weights(plain.model), rtol=0.01, atol=0.01)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()
