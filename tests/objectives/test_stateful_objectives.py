"""AdaFocal and FedLAS against their equations, written out, and what their states do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aradals.errors import InputError
from aradals.losses import focal_loss
from aradals.objectives import AdaFocal, FedLAS, get_objective


def problem(n: int = 40, k: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return logits, torch.randint(k, (n,), generator=generator)


def validation(confidences: list[float], correct: list[bool]) -> tuple[Tensor, Tensor]:
    """Predictions of two classes, always of class 0."""
    confidence = torch.tensor(confidences)
    return torch.tensor([0 if each else 1 for each in correct]), torch.stack([confidence, 1 - confidence], 1).log()


class TestAdaFocal:
    def test_begins_as_focal_loss(self) -> None:
        logits, labels = problem()
        loss, returned = AdaFocal(gamma=3)(nn.Identity(), logits, labels)
        torch.testing.assert_close(loss, focal_loss(logits, labels, 3))
        assert returned is logits

    def test_inverse_focal_loss(self) -> None:
        logits, labels = problem()
        prob = logits.softmax(1)[torch.arange(40), labels]
        loss, _ = AdaFocal(gamma=-1.5)(nn.Identity(), logits, labels)
        torch.testing.assert_close(loss, -((1 + prob) ** 1.5 * prob.log()).mean())

    def test_update_by_hand(self) -> None:
        """Two bins: confidence .6 at accuracy 1/2, and .9 at accuracy 1, which is under-confident."""
        objective = AdaFocal(gamma=0.22, num_bins=2, rate=2)
        objective.update(*validation([0.9, 0.6, 0.9, 0.6], [True, True, True, False]))
        assert objective.edges.tolist() == pytest.approx([0.9])
        assert objective.gammas.tolist() == pytest.approx([0.22 * math.exp(2 * 0.1), -0.2])  # 0.22 e^-0.2 < 0.2
        objective.update(*validation([0.9, 0.6, 0.9, 0.6], [True, True, True, False]))
        assert objective.gammas.tolist() == pytest.approx([0.22 * math.exp(2 * 0.2), -0.2 * math.exp(2 * 0.1)])

    def test_inverse_focal_loss_switches_back(self) -> None:
        objective = AdaFocal(gamma=-0.21, num_bins=1)
        objective.update(*validation([0.9, 0.9], [True, False]))  # over-confident: |gamma| falls below 0.2
        assert objective.gammas.tolist() == pytest.approx([0.2])

    def test_the_bin_is_that_of_the_labels_probability(self) -> None:
        objective = AdaFocal(num_bins=2)
        objective.edges.fill_(0.6)
        objective.gammas.copy_(torch.tensor([5.0, 2.0]))
        logits, labels = problem()
        prob = logits.softmax(1)[torch.arange(40), labels]
        gamma = torch.where(prob < 0.6, 5.0, 2.0)
        expected = -((1 - prob) ** gamma * prob.log()).mean()
        torch.testing.assert_close(objective(nn.Identity(), logits, labels)[0], expected)

    def test_clipped(self) -> None:
        for gamma, correct, bound in ((19.9, False, 20.0), (-1.95, True, -2.0)):
            objective = AdaFocal(gamma=gamma, num_bins=3)
            objective.update(*validation([0.6] * 9, [correct] * 9))
            assert objective.gammas[-1] == bound  # ties are in the last bin
            assert objective.gammas[0] == pytest.approx(gamma)  # an empty bin stays

    @pytest.mark.parametrize(
        "settings", [{"gamma": 0}, {"gamma": -3}, {"gamma": 21}, {"switch": 0}, {"lowest": 0.5}, {"num_bins": 0}]
    )
    def test_bad_settings(self, settings: dict[str, float]) -> None:
        with pytest.raises(InputError):
            get_objective("adafocal", **settings)

    def test_certain_predictions_have_gradients(self) -> None:
        logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
        AdaFocal(gamma=0.5)(nn.Identity(), logits, torch.tensor([0, 0]))[0].backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)).double()


class TestFedLAS:
    def test_equation(self) -> None:
        inputs, labels = problem()
        model, objective = network(), FedLAS(4, alpha=0.2, beta=3, momentum=0.9).double()
        loss, logits = objective(model, inputs, labels)
        norms = model[1](model[0](inputs)).abs().sum(1)
        mean, std = 0.9 * norms.mean() + 0.1 * 20, 0.9 * norms.std(correction=0) + 0.1 * 100
        gate = objective.gate(logits.float().double()).softmax(1)
        sign = torch.where(gate[:, 1] > gate[:, 0], 1, -1)
        smoothing = 2 * 0.2 / (1 + (-3 * sign * (norms - mean) / (std + 1e-3)).exp())
        log_probs = logits.log_softmax(1)
        expected = (1 - smoothing) * F.nll_loss(log_probs, labels, reduction="none") - smoothing * log_probs.mean(1)
        torch.testing.assert_close(loss, expected.mean(), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(logits, model(inputs))

    def test_the_gate_learns_and_the_smoothing_sends_the_model_no_gradient(self) -> None:
        inputs, labels = problem()
        model, objective = network(), FedLAS(4).double()
        objective(model, inputs, labels)[0].backward()
        assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in objective.parameters())
        found = [each.grad for each in model.parameters()]
        model.zero_grad()
        objective.eval()  # the running values stay
        logits = model(inputs)
        with torch.no_grad():
            norms = model[1](model[0](inputs)).abs().sum(1)
            smoothing = 0.1 * torch.sigmoid(4 * objective._direction(logits) * objective._standardized(norms))
        log_probs = logits.log_softmax(1)
        (
            (1 - smoothing) * F.nll_loss(log_probs, labels, reduction="none") - smoothing * log_probs.mean(1)
        ).mean().backward()
        for each, expected in zip(model.parameters(), found, strict=True):
            torch.testing.assert_close(each.grad, expected)

    def test_evaluation_mode_keeps_the_running_values(self) -> None:
        inputs, labels = problem()
        objective = FedLAS(4).double().eval()
        objective(network(), inputs, labels)
        assert (float(objective.mean), float(objective.std)) == (20, 100)

    def test_batch_of_one_example(self) -> None:
        inputs, labels = problem(1)
        objective = FedLAS(4).double()
        assert objective(network(), inputs, labels)[0].isfinite()
        assert objective.std.isfinite()

    @pytest.mark.parametrize("model", [nn.Identity(), nn.Sequential(nn.Linear(4, 6), nn.Conv1d(6, 4, 1))])
    def test_models_without_a_last_linear_layer(self, model: nn.Module) -> None:
        inputs, labels = problem()
        if len(list(model.children())):
            model.double()[1].forward = lambda hidden: hidden[:, :4]  # type: ignore[index]
        with pytest.raises(InputError, match="last layer is a linear layer"):
            FedLAS(4).double()(model, inputs, labels)

    def test_other_number_of_classes(self) -> None:
        inputs, labels = problem()
        with pytest.raises(InputError, match="logits of 3 classes"):
            FedLAS(3).double()(network(), inputs, labels)

    def test_the_number_of_classes_is_needed(self) -> None:
        with pytest.raises(InputError, match="number of classes"):
            get_objective("fedlas")
