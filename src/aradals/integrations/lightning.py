"""AR-AdaLS in the training of any LightningModule: one callback, and one line of the module.

The module's loss becomes ``AdaptiveSmoothing``, and the data sets get ids::

    self.loss = AdaptiveSmoothing(num_classes=10, num_subsets=10)   # in the module; it was nn.CrossEntropyLoss()
    train = DataLoader(WithIds(train_set), batch_size=64, shuffle=True)
    Trainer(callbacks=[AdaptiveSmoothingCallback(train_set, validation_set)]).fit(module, train, validation)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from aradals._internal.optional import optional_imports
from aradals.checks import to_tensor
from aradals.errors import InputError
from aradals.inference.outputs import find_logits
from aradals.integrations.loops import AdaptiveLoop, in_box, take_ids
from aradals.smoothing.adaptive import AdaptiveSmoothing

with optional_imports():
    from lightning.pytorch import Callback, LightningModule, Trainer

_STEPS = ("training_step", "validation_step", "test_step")


class AdaptiveSmoothingCallback(Callback):
    """Callback that gives `AdaptiveSmoothing` in a LightningModule its subsets, and updates it after each validation.

    The callback finds the one `AdaptiveSmoothing` of the module. In training, each call of this loss gets the subsets
    of the batch. In validation, each call is measured, and returns the plain cross-entropy, which can be compared
    between epochs. After the validation epoch the targets change. They go to the logger as ``target_prob/0`` and so on,
    with the measured gaps, confidence minus accuracy, as ``gap/0``. The validation of the sanity check and of
    ``trainer.validate`` changes no target, and neither do further validation loaders.

    The loaders yield ids (`aradals.integrations.loops.WithIds`), and the steps of the module get batches without them.
    Checkpoints contain the subsets. If several processes train together, each scores a part of the splits.

    Args:
        train_set: the training split without random augmentation, in the order of the one that the loader has.
        validation_set: the validation split.
        scoring_model: a trained model whose robustness makes the subsets, before the first epoch. None: the model in
            training scores itself every few epochs, and all targets are equal before the first scoring.
        every: epochs between two scorings by the model itself.
        attack: an attack of `aradals.score`. Others than "first_order_margin" take more passes.
        bounds: the least and the largest value of an input, for example (-3, 3) after a normalization.
        batch_size: number of examples that are scored at a time.
        collate_fn: makes a batch of examples with ids, as in the loader; None: that of ``DataLoader``.

    Raises:
        InputError: a setting is out of its range; later, the module has no `AdaptiveSmoothing` or several, or
            does not call it, no validation runs, or a batch has no ids.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> train, validation = (TensorDataset(torch.rand(9, 4), torch.arange(9) % 3) for _ in range(2))
        >>> callback = AdaptiveSmoothingCallback(train, validation, every=2)
    """

    def __init__(
        self,
        train_set: Any,
        validation_set: Any,
        scoring_model: nn.Module | None = None,
        *,
        every: int = 5,
        attack: str = "first_order_margin",
        bounds: tuple[float, float] = (0.0, 1.0),
        batch_size: int = 256,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        usage = "self.loss(logits, labels) in training_step and in validation_step"
        self.loop = AdaptiveLoop(
            train_set, validation_set, scoring_model, every, attack, in_box(*bounds), batch_size, usage
        )
        self.collate_fn = collate_fn
        self._ids: Tensor | None = None
        self._batch: Any = None
        self._is_used = False  # the training needs the subsets
        self._undo: list[Callable[[], object]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the loss, and stand between the loader, the steps and the loss until `teardown`."""
        criterion = _criterion_of(pl_module)
        # The buffers are equal in all processes, so that DDP need not send them at every step.
        names = [f"{name}.{buffer}" for name, each in pl_module.named_modules() if each is criterion
                 for buffer, _ in criterion.named_buffers()]  # fmt: skip
        ignored = getattr(pl_module, "_ddp_params_and_buffers_to_ignore", [])
        pl_module._ddp_params_and_buffers_to_ignore = [*ignored, *names]  # type: ignore[assignment]
        for step in _STEPS:
            self._hide_ids(pl_module, step)

        # Closures rather than methods: a copy of the module, for scores, must not copy this callback and its data.
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
            return args, self._with_subsets(trainer, args, kwargs)

        def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Tensor) -> Tensor:
            return loss if trainer.training else self._measured(trainer, criterion, *_arguments(args, kwargs)[:2])

        self._undo.append(criterion.register_forward_pre_hook(before, with_kwargs=True).remove)
        self._undo.append(criterion.register_forward_hook(after, with_kwargs=True).remove)

    def _hide_ids(self, module: LightningModule, name: str) -> None:
        """Replace a step of this module by one that takes the ids out of its batch."""
        original = getattr(module, name)
        if getattr(type(module), name) is getattr(LightningModule, name):
            return  # the module has no such step, and Lightning must see this
        required = name != "test_step"

        @wraps(original)
        def step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                self._ids, self._batch = take_ids(batch)
            except InputError:
                if required:
                    raise
                self._ids, self._batch = None, batch
            return original(self._batch, *args, **kwargs)

        setattr(module, name, step)
        self._undo.append(lambda: delattr(module, name))

    def _with_subsets(self, trainer: Trainer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        _, labels, subsets = _arguments(args, kwargs)
        if subsets is not None:
            return kwargs
        labels = to_tensor(labels)
        if not trainer.training:
            return {**kwargs, "subsets": torch.zeros_like(labels)}  # `_measured` replaces this loss
        if not any(_is_same(labels, each) for each in _tensors(self._batch)):
            raise InputError(
                expected="the labels of the batch, in its order",
                got="other labels, such as those of the partners of mixup",
                hint="the argument subsets, such as batch_subsets(self)[permutation]",
            )
        return {**kwargs, "subsets": self.batch_subsets().to(labels.device)}

    def batch_subsets(self) -> Tensor:
        """Return the subsets of the current training batch, see the function `batch_subsets`."""
        if self._ids is None:
            raise InputError(expected="a training step", got="no batch", hint="batch_subsets(self) in training_step")
        self._is_used = True
        return self.loop.train_subsets(self._ids)

    def _measured(self, trainer: Trainer, criterion: AdaptiveSmoothing, output: Any, labels: Any) -> Tensor:
        """Measure a batch of the validation split, if it is one, and return its plain cross-entropy."""
        labels = to_tensor(labels)
        logits = output if isinstance(output, Tensor) else find_logits(output, len(labels))
        if _updates(trainer) and self._ids is not None and self._is_first_loader:
            self.loop.observe(self._ids, labels, logits)
        return self.loop.evaluation_loss(criterion, logits, labels)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Remember whether the batch is of the first validation loader, whose examples drive the update."""
        self._is_first_loader = dataloader_idx == 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that a validation will run."""
        if not trainer.enable_validation:
            raise InputError(
                expected="a validation loader, because the update needs validation data",
                got="a training without validation",
                hint="trainer.fit(module, train_loader, validation_loader)",
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score both splits and cut new subsets, if a scoring is due."""
        if self.loop.is_due(trainer.current_epoch):
            with trainer.precision_plugin.forward_context():
                self.loop.score(pl_module, _criterion_of(pl_module).num_subsets, self.collate_fn)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the training is one with AR-AdaLS."""
        if not self._is_used:
            raise self.loop.no_call("training")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget batches of a validation that was interrupted."""
        self.loop.forget()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update the targets, and log them; checkpoints are saved after this hook."""
        if _updates(trainer):
            pl_module.log_dict(self.loop.update(_criterion_of(pl_module)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        while self._undo:
            self._undo.pop()()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """Return the subsets for a checkpoint; the targets are in the state of the module."""
        return self.loop.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the subsets of a checkpoint."""
        self.loop.load_state_dict(state_dict)


def batch_subsets(module: LightningModule) -> Tensor:
    """Return the subsets of the current training batch, for losses that reorder it, such as mixup.

    Args:
        module: the module in ``training_step``, whose trainer has an `AdaptiveSmoothingCallback`.

    Returns:
        int64, shape (N,), on the device of the batch; all 0 before the first scoring.

    Raises:
        InputError: the trainer has no such callback.

    Example:
        A training step with mixup::

            target_prob = self.loss.target_prob_for(labels, batch_subsets(self))
            loss, logits = aradals.objectives.mixup(self, inputs, labels, target_prob)
    """
    for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, AdaptiveSmoothingCallback):
            return callback.batch_subsets()
    raise InputError(
        expected="a trainer with an AdaptiveSmoothingCallback", got="none", hint="Trainer(callbacks=[callback])"
    )


def _criterion_of(module: nn.Module) -> AdaptiveSmoothing:
    found = [each for each in module.modules() if isinstance(each, AdaptiveSmoothing)]
    if len(found) != 1:
        raise InputError(
            expected="a module with one AdaptiveSmoothing as its loss",
            got=f"{len(found)} of them in {type(module).__name__}",
            hint="self.loss = AdaptiveSmoothing(num_classes, num_subsets) in __init__",
        )
    return found[0]


def _updates(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return the arguments of the loss: logits, labels and subsets."""
    given = {**dict(zip(("logits", "labels", "subsets"), args, strict=False)), **kwargs}
    return given.get("logits"), given.get("labels"), given.get("subsets")


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | list | tuple):
        for each in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(each)


def _is_same(labels: Tensor, column: Tensor) -> bool:
    if column.is_floating_point() or column.shape != labels.shape or column.device != labels.device:
        return False
    return column.data_ptr() == labels.data_ptr() or torch.equal(column.to(labels.dtype), labels)
