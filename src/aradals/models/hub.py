"""A built-in network with its calibrator, as a model of huggingface_hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn

from aradals._internal.optional import optional_imports
from aradals.calibration import CalibratedModel, calibrator_from_dict
from aradals.calibration.calibrated_model import LogProbabilities
from aradals.errors import InputError
from aradals.models.builder import build_model, is_built_in, list_models
from aradals.models.checkpoint import CheckpointDescription

with optional_imports():
    from huggingface_hub import PyTorchModelHubMixin


class HubModel(
    LogProbabilities, PyTorchModelHubMixin, library_name="ar-adals", tags=["calibration", "image-classification"]
):
    """A network that returns calibrated log-probabilities, float32, shape (N, K), of inputs in [0, 1].

    ``HubModel.from_pretrained(folder)`` loads a folder of `aradals.export` without network access. The configuration is
    untrusted data: it can name only a built-in network, with numbers as arguments.

    Args:
        model: name of a built-in network.
        num_classes: K.
        input_shape: shape of an input.
        model_args: further arguments of the network.
        class_names: one name for each class, or empty.
        calibrator: ``to_dict()`` of a fitted calibrator; None for the plain network.

    Raises:
        InputError: the network is not built in, or an argument is not a number.
    """

    def __init__(
        self,
        model: str,
        num_classes: int,
        input_shape: Sequence[int],
        model_args: Mapping[str, Any],
        class_names: Sequence[str] = (),
        calibrator: Mapping[str, Any] | None = None,
    ) -> None:
        if not is_built_in(model):
            raise InputError(expected="a built-in network", got=repr(model), hint=f"one of: {', '.join(list_models())}")
        arguments = CheckpointDescription(model=model, model_args=model_args).arguments_for(model, {})
        network = build_model(model, num_classes=num_classes, input_shape=tuple(input_shape), **arguments)
        # safetensors writes only tensors in the usual order, not the channels-last weights of some networks.
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # not in torch's stubs
        super().__init__(network, None if calibrator is None else calibrator_from_dict(calibrator))
        self.class_names = tuple(class_names)

    @classmethod
    def _from_pretrained(cls, **settings: Any) -> Self:
        """Refuse weights of another network, because huggingface_hub alone would leave missing ones at random."""
        try:
            return super()._from_pretrained(**{"strict": True, **settings})  # type: ignore[no-any-return]
        except RuntimeError as error:
            raise InputError(
                expected=f"all weights of the network in {settings['model_id']}",
                got=str(error),
                hint="exporting the model again",
            ) from error

    @property
    def network(self) -> nn.Module:
        """The network without its calibrator."""
        return self.calibrated.model if isinstance(self.calibrated, CalibratedModel) else self.calibrated
