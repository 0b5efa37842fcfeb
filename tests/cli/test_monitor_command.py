"""`aradals monitor` from images to a verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import aradals
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.pipeline.domains import check_domains, image_drifts, predict_domains, table_drifts

MODEL = """\
import torch
from torch import nn


def build(num_classes=3):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, num_classes))
    layers[1].weight.data.mul_(20)
    return layers
"""


def make_model() -> nn.Module:
    namespace: dict[str, object] = {}
    exec(MODEL, namespace)
    model: nn.Module = namespace["build"]()  # type: ignore[operator]
    return model


def make_images(n: int, seed: int, contrast: float = 1.0) -> tuple[Tensor, Tensor]:
    """Images whose labels the model knows less well than it says; a low contrast leaves it nothing to see."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, 8, 8, generator=generator)
    with torch.no_grad():
        labels = torch.multinomial((make_model()(images) / 4).softmax(1), 1, generator=generator)[:, 0]
    return 0.5 + contrast * (images - 0.5), labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, labeled images, a calibrator, and unlabeled images and predictions."""
    folder = tmp_path_factory.mktemp("monitor")
    (folder / "model.py").write_text(MODEL)
    for name, seed, contrast in (("calibration", 0, 1.0), ("calm", 1, 1.0), ("dull", 2, 0.1)):
        images, labels = make_images(400, seed, contrast)
        pixels = (255 * images).round().byte().permute(0, 2, 3, 1).numpy()
        np.savez(folder / f"{name}.npz", images=pixels, labels=labels.numpy())
        with torch.no_grad():
            np.savez(
                folder / f"{name}-logits.npz", logits=make_model()(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
            )
    ran = aradals("calibrate", *model_of(folder), "--data", folder / "calibration.npz", *METHOD, folder / "batch.json")
    assert ran.code == 0, ran.err
    return folder


METHOD = ["--method", "batch_temperature", "--output"]


def model_of(folder: Path) -> list[object]:
    return ["--model", f"{folder / 'model.py'}:build", "--device", "cpu"]


def test_from_images_to_a_verdict(folder: Path) -> None:
    given = ["monitor", "--calibrator", folder / "batch.json", "--json"]
    for name, verdict in (("calm", "no drift"), ("dull", "covariate shift")):
        by_model = aradals(*given, *model_of(folder), "--data", folder / f"{name}.npz")
        assert by_model.code == 0, by_model.err
        (batch,) = by_model.json["batches"]
        assert batch["verdict"] == verdict
        by_file = aradals(*given, "--predictions", folder / f"{name}-logits.npz")
        assert by_file.json["batches"][0]["verdict"] == verdict
        assert by_file.json["batches"][0]["accuracy"] == pytest.approx(batch["accuracy"], abs=1e-5)
    text = aradals(*given[:-1], "--predictions", folder / "calm-logits.npz", "--batch-size", 200)
    assert text.out.startswith("predictions 0 to 199: no drift; ")
    assert "predictions 200 to 399: no drift; " in text.out
    assert "estimated accuracy " in text.out


def test_bad_input(folder: Path) -> None:
    given = ["monitor", "--calibrator", folder / "batch.json"]
    predictions = ["--predictions", folder / "calm-logits.npz"]
    (folder / "plain.json").unlink(missing_ok=True)
    assert (
        aradals("calibrate", *model_of(folder), "--data", folder / "calm.npz", "--output", folder / "plain.json").code
        == 0
    )
    wrong: dict[str, list[object]] = {
        "--data": given,
        "expected --predictions, or a model and data": [*given, *predictions, *model_of(folder)],
        "a batch_temperature calibrator": ["monitor", "--calibrator", folder / "plain.json", *predictions],
        "batches of at least 50": [*given, *predictions, "--batch-size", 3],
        "a level above 0": [*given, *predictions, "--level", 2],
        "--calibrator": ["monitor", *predictions],
        "no such file": [*given, "--predictions", folder / "nothing.npz"],
        "examples that the calibrator batch was not fitted on": [
            *given, *model_of(folder), "--data", folder / "calibration.npz"
        ],
    }  # fmt: skip
    for message, words in wrong.items():
        ran = aradals(*words)
        assert ran.code == 2, words
        assert message in ran.err
        assert "Traceback" not in ran.err


def test_a_batch_temperature_needs_inputs_and_a_known_statistic(folder: Path) -> None:
    labels = np.arange(400) % 3
    np.savez(folder / "labeled.npz", logits=np.load(folder / "calm-logits.npz")["logits"], labels=labels)
    ran = aradals("calibrate", "--predictions", folder / "labeled.npz", *METHOD, folder / "c.json")
    assert ran.code == 2
    assert "a model and data for batch_temperature" in ran.err
    given = ["calibrate", *model_of(folder), "--data", folder / "calm.npz"]
    ran = aradals(*given, "--method-args", "{statistic: entropy}", *METHOD, folder / "c.json")
    assert ran.code == 2
    assert "a statistic: guarded_information" in ran.err
    ran = aradals(*given, "--method-args", "{statistic: mean_entropy}", *METHOD, folder / "c.json")
    assert ran.code == 0, ran.err
    assert "statistic mean_entropy" in ran.out


def test_drifts_stay_in_range_and_grow() -> None:
    torch.manual_seed(0)
    images, rows = torch.rand(20, 3, 8, 8), torch.rand(200, 5)
    rows[:, 0] = 0.5
    for drift in image_drifts():
        changed = drift(images)
        assert changed.shape == images.shape
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    drifts = table_drifts(rows)
    distances = [float((drift(rows) - rows).abs().mean()) for drift in drifts]
    assert distances[:4] == sorted(distances[:4])
    assert distances[4:] == sorted(distances[4:])
    assert all(bool((drift(rows)[:, 0] == 0.5).all()) for drift in drifts)  # a constant column has no noise


def test_domains_of_a_table_are_the_same_in_every_call() -> None:
    from aradals.data import Examples

    rows = Examples(torch.rand(60, 5), torch.arange(60) % 3, num_classes=3)
    model = nn.Linear(5, 3)
    state = torch.random.get_rng_state()
    first, domains = predict_domains(model, rows)
    second, _ = predict_domains(model, rows)
    assert torch.random.get_rng_state().equal(state)
    assert first.logits.equal(second.logits)
    assert domains.bincount().tolist() == [60] * 9
    with pytest.raises(InputError, match="images or the rows of a table"):
        check_domains(Examples(torch.rand(6, 5, 4), torch.arange(6) % 3, num_classes=3))
