"""Methods with settings to choose: which candidate is kept, what it costs, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scipy.optimize import minimize_scalar
from small_study import VANILLA, save_digits, small_config
from torch.nn import functional

from aradals.errors import InputError
from aradals.pipeline.artifacts import load_predictions
from aradals.pipeline.config import (
    EnsembleConfig,
    MethodConfig,
    RankedSubsets,
    SelfScoredSubsets,
    ShapedTargets,
    SplitConfig,
    StudyConfig,
    TrainingConfig,
)
from aradals.pipeline.study import run_study
from aradals.pipeline.study.tasks import Choose, Predict, plan
from aradals.results import Results

LEVELS = [0.0, 0.5]
CHOICE = MethodConfig(choose={"targets.smoothing": LEVELS})
METHODS = {
    "vanilla": VANILLA,
    "smoothing": CHOICE,
    "shaped": MethodConfig(targets=ShapedTargets(0.3, 0.4, RankedSubsets(2))),
    "shaped_self": MethodConfig(targets=ShapedTargets(0.3, 0.4, SelfScoredSubsets(every=1, count=2))),
}


@dataclass(frozen=True)
class Finished:
    """A study with a choice."""

    config: StudyConfig
    folder: Path
    results: Results


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("choice")
    config = small_config(
        save_digits(folder / "digits.npz"), METHODS, ensembles={"pair": EnsembleConfig("smoothing", num_members=2)}
    )
    return Finished(config, folder / "out", run_study(config, folder / "out", log=lambda line: None))


def nll_after_best_temperature(path: Path) -> float:
    """The NLL in nats that an independent search over temperatures finds, with the pull of the package's fit."""
    predictions, _ = load_predictions(path)
    best = minimize_scalar(
        lambda log_t: functional.cross_entropy(
            predictions.logits.double() / math.exp(log_t), predictions.labels
        ).item(),
        bounds=(-5, 5),
        method="bounded",
    )
    return float(best.fun)


def test_the_candidate_with_the_lowest_nll_after_a_temperature_is_kept(finished: Finished) -> None:
    home = finished.folder / "seed-0" / "smoothing"
    losses = [nll_after_best_temperature(home / f"candidate-{n}/predict/calibration.parquet") for n in range(2)]
    chosen = losses.index(min(losses))
    kept, wanted = (home / part / "model.safetensors" for part in ("train", f"candidate-{chosen}/train"))
    assert kept.read_bytes() == wanted.read_bytes()
    [record] = [each for each in finished.results.training if each.method == "smoothing"]
    assert [each.nll for each in record.candidates] == pytest.approx(losses, abs=0.02)
    assert [each.settings["targets"] for each in record.candidates] == [{"smoothing": level} for level in LEVELS]
    assert record.settings["targets"] == {"smoothing": LEVELS[chosen]}


def test_candidates_see_no_test_example(finished: Finished) -> None:
    for number in range(len(LEVELS)):
        folder = finished.folder / f"seed-0/smoothing/candidate-{number}/predict"
        assert sorted(path.name for path in folder.glob("*.parquet")) == ["calibration.parquet"]
    tasks = [task for task in plan(finished.config) if isinstance(task, Choose)]
    assert len(tasks) == 2  # the model of the method, and the second member of the ensemble
    for task in tasks:
        assert all(isinstance(each, Predict) and each.conditions == [] for each in task.predictions)


def test_the_cost_counts_every_candidate(finished: Finished) -> None:
    costs = {cost.method: cost.training_seconds for cost in finished.results.costs}
    [record] = [each for each in finished.results.training if each.method == "smoothing"]
    assert costs["smoothing"] == record.seconds
    assert costs["pair"] > record.seconds > max(sum(epoch.seconds for epoch in record.epochs), 0)


def test_the_targets_of_a_shape_stay(finished: Finished) -> None:
    records = {each.method: each for each in finished.results.training}
    assert records["shaped"].target_prob == pytest.approx([0.64, 0.76])
    assert records["shaped_self"].target_prob == pytest.approx([0.64, 0.76])
    # Before the first scoring, all examples have the target of the level.
    assert [update.target_prob for update in records["shaped_self"].updates] == [
        pytest.approx((0.7, 0.7)),
        pytest.approx((0.64, 0.76)),
    ]


def test_candidates_are_all_combinations() -> None:
    method = MethodConfig(
        objective="mixup", choose={"objective_args.alpha": [0.1, 1.0], "augment": ["none", "flip_crop"]}, label="Mixup"
    )
    assert method.candidates == [
        MethodConfig(objective="mixup", objective_args={"alpha": alpha}, augment=augment)
        for alpha in (0.1, 1.0)
        for augment in ("none", "flip_crop")
    ]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MethodConfig(choose={"targets.smothing": [0.1, 0.2]}), "choose.targets.smoothing"),
        (MethodConfig(choose={"targets.smoothing": [0.1, 2]}), "smoothing of at least 0 and below 1"),
        (MethodConfig(choose={"flavor": ["sweet", "sour"]}), "a setting of choose"),
    ],
)
def test_choices_that_cannot_be_meant_are_refused(method: MethodConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_config("digits", {"vanilla": VANILLA, "other": method})


def test_a_choice_needs_several_values_and_calibration_examples() -> None:
    with pytest.raises(InputError, match=r"values of choose.targets.smoothing of at least 2"):
        MethodConfig(choose={"targets.smoothing": [0.1]})
    with pytest.raises(InputError, match=r"splits.calibration of at least 1"):
        small_config("digits", {"other": CHOICE}, splits=SplitConfig(40, 0), calibrators=[])
    with pytest.raises(InputError, match="in step of a method with nothing to choose"):
        small_config("digits", {"other": CHOICE}, ensembles={"pair": EnsembleConfig("other", in_step=True)})


def test_a_shape_is_checked_before_the_work(tmp_path: Path) -> None:
    too_soft = MethodConfig(targets=ShapedTargets(0.85, 0.9, RankedSubsets(2)))
    config = small_config(save_digits(tmp_path / "digits.npz"), {"vanilla": VANILLA, "soft": too_soft})
    with pytest.raises(InputError, match="targets of at least 1/10"):
        run_study(config, tmp_path / "out", log=lambda line: None)
    assert not (tmp_path / "out" / "seed-0").exists()
    late = MethodConfig(targets=ShapedTargets(0.3, 0.4, SelfScoredSubsets(every=2, count=2)))
    with pytest.raises(InputError, match="scored early enough"):
        replace(config, methods={"late": late}, training=TrainingConfig(epochs=2))
