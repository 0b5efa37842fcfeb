"""AR-AdaLS in a training by the Trainer of transformers: a loss and a callback.

The data sets get ids, and the Trainer gets the loss and the callback::

    adaptive = AdaptiveSmoothingCallback(AdaptiveSmoothing(num_classes, num_subsets=10), train_set, validation_set)
    trainer = Trainer(
        model,
        TrainingArguments(..., eval_strategy="epoch"),
        train_dataset=WithIds(train_set),
        eval_dataset=WithIds(validation_set),
        compute_loss_func=adaptive.loss,
        callbacks=[adaptive],
    )
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from aradals._internal.files import atomic_path
from aradals._internal.optional import load_extra, optional_imports
from aradals.errors import InputError
from aradals.inference.outputs import find_logits
from aradals.integrations.loops import IDS, AdaptiveLoop, Prepare, WithIds, in_box
from aradals.integrations.transformers.images import images_in_unit_range
from aradals.integrations.transformers.texts import embedded_texts
from aradals.smoothing.adaptive import AdaptiveSmoothing

with optional_imports():
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

STATE_FILE = "adaptive_smoothing.safetensors"
"""Name of the file with targets and subsets in the checkpoints of the Trainer."""

_UNLABELED = -100
"""Label of the examples that the Trainer does not count."""


class AdaptiveSmoothingCallback(TrainerCallback):  # type: ignore[misc]
    """Callback and loss that make a training of the Trainer one with AR-AdaLS.

    In training, each example gets the target of its subset. In evaluation, the loss is the plain cross-entropy, which
    can be compared between epochs. The targets change after each evaluation, during the training, of the validation
    split with ids. Other evaluations change nothing. The log history of the Trainer gets the targets as
    ``target_prob/0`` and so on, and the measured gaps, confidence minus accuracy, as ``gap/0``.

    The model gets its batches without ids. Checkpoints contain targets and subsets, so that a training resumes exactly;
    a training that does not resume starts with the initial targets. If several processes train together (``torchrun``),
    each scores a part of the splits.

    Robustness is the L2 distance between images with values in [0, 1], if the Trainer has their processor as its
    ``processing_class``, and the L2 distance between the embeddings of texts.

    Args:
        criterion: the loss, whose reduction is "mean".
        train_set: the training split without random augmentation, in the order of the one that the Trainer has.
        validation_set: the validation split, the one that the Trainer has with ids.
        scoring_model: a trained model whose robustness makes the subsets, before the first epoch. None: the model in
            training scores itself every few epochs, and all targets are equal before the first scoring.
        every: epochs between two scorings by the model itself.
        attack: an attack of `aradals.score`. Others than "first_order_margin" take more passes.
        bounds: the least and the largest value of an input that is neither a text nor normalized by the processor of
            the Trainer. None stands for (0, 1) if the Trainer has no image processor.
        batch_size: number of examples that are scored at a time.

    Attributes:
        criterion: the loss, with its targets and their history.

    Raises:
        InputError: a setting is out of its range; later, no evaluation runs, the model is distributed over devices in
            another way than DDP, or a batch has no ids.
    """

    def __init__(
        self,
        criterion: AdaptiveSmoothing,
        train_set: Any,
        validation_set: Any,
        scoring_model: nn.Module | None = None,
        *,
        every: int = 5,
        attack: str = "first_order_margin",
        bounds: tuple[float, float] | None = None,
        batch_size: int = 256,
    ) -> None:
        if criterion.reduction != "mean":
            raise InputError(
                expected='AdaptiveSmoothing with reduction="mean", because the Trainer divides by the size of a batch',
                got=f"reduction={criterion.reduction!r}",
                hint="AdaptiveSmoothing(num_classes, num_subsets)",
            )
        self.criterion, self.bounds = criterion, bounds
        prepare = in_box(*(bounds or (0.0, 1.0)))
        usage = (
            "Trainer(compute_loss_func=adaptive.loss), or, in a subclass with a compute_loss of its own, "
            "adaptive.loss(outputs, labels, num_items_in_batch) there"
        )
        self.loop = AdaptiveLoop(train_set, validation_set, scoring_model, every, attack, prepare, batch_size, usage)
        self._initial = copy.deepcopy(criterion.state_dict())
        self._is_training = self._is_evaluated = False
        self._network: nn.Module | None = None  # the model that accepts ids
        self._batch: tuple[Tensor | None, bool] | None = None  # ids, and whether the model is in training

    def loss(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Compute the loss of the batch that the model has just seen: the ``compute_loss_func`` of the Trainer.

        Args:
            outputs: the output of the model.
            labels: class indices, int64, shape (N,).
            num_items_in_batch: number of labels in all batches before the next step of the optimizer.

        Returns:
            Scalar: the sum of the losses divided by ``num_items_in_batch``, or the mean if it is None.

        Raises:
            InputError: the batch has no ids, or no labels; or see `AdaptiveSmoothing`.
        """
        (ids, is_training), self._batch = self._batch or (None, True), None
        if labels is None or (is_training and ids is None):
            raise InputError(
                expected=f"batches with labels and the {IDS} of their examples",
                got="no labels" if labels is None else f"no {IDS}",
                hint="train_dataset=WithIds(dataset); if the Trainer has a data_collator of your own, "
                "data_collator=keep_ids(collator); if it has a model_init, remove_unused_columns=False",
            )
        logits = find_logits(outputs, len(labels))
        if is_training:
            assert ids is not None
            loss: Tensor = self.criterion(logits, labels, self.loop.train_subsets(ids).to(labels.device))
        else:
            if ids is not None and self._is_training:
                self.loop.observe(ids, labels, logits)
            loss = self.loop.evaluation_loss(self.criterion, logits, labels)
        return loss if num_items_in_batch is None else loss * (labels != _UNLABELED).sum() / num_items_in_batch

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Make the model accept ids, so that the Trainer does not remove them from the examples."""
        self._accept_ids(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the training, and start from the initial state or from that of the checkpoint."""
        _check_arguments(args)
        _check_split(kwargs["train_dataloader"].dataset, self.loop.train_set)
        self._accept_ids(kwargs["model"])
        self.loop.prepare = _prepare_for(kwargs["model"], kwargs.get("processing_class"), self.bounds)
        self.loop.forget()
        self._load_state(_read_state(args, state.global_step) if state.global_step else self._initial)
        self.criterion.to(args.device)
        self._is_training = self._is_evaluated = False  # the last training may have been interrupted

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Score both splits and cut new subsets, if a scoring is due."""
        if self._is_evaluated and not self.criterion.history:
            raise InputError(
                expected="evaluations of the validation split with ids, because it drives the update",
                got="evaluations without ids",
                hint="eval_dataset=WithIds(validation_set)",
            )
        self._is_training, epoch = True, state.epoch or 0.0
        if epoch == int(epoch) and self.loop.is_due(int(epoch)):  # else the training resumes within an epoch
            model = kwargs["model"] if self.loop.scoring_model is not None else _in_full_precision(kwargs["model"])
            self.loop.score(model, self.criterion.num_subsets, kwargs["train_dataloader"].collate_fn)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the targets after an evaluation of the validation split; checkpoints are saved after this hook."""
        self._is_evaluated = self._is_evaluated or self._is_training
        dataset = kwargs["eval_dataloader"].dataset
        if not self._is_training or not isinstance(dataset, WithIds):
            return
        if dataset.dataset is not self.loop.validation_set:
            raise InputError(
                expected="ids only for the validation split that the callback has",
                got="an evaluation of another data set with ids",
                hint="the same object in eval_dataset=WithIds(validation_set) and in the callback",
            )
        figures = self.loop.update(self.criterion)
        state.log_history.append({**figures, "epoch": state.epoch, "step": state.global_step})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write targets and subsets into the checkpoint."""
        folder = _checkpoint(args.output_dir, state.global_step)
        if args.should_save and folder.is_dir():
            content = load_extra("safetensors.torch").save(self._state())
            with atomic_path(folder / STATE_FILE) as path:
                path.write_bytes(content)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn if the targets have never been updated."""
        self._is_training = False
        if not self.criterion.history:
            warnings.warn("AR-AdaLS: no evaluation of the validation split, so that no target changed", stacklevel=2)

    def _accept_ids(self, model: nn.Module) -> None:
        """Make a model take ids besides its inputs, remember those of each batch, and compute its outputs without them.

        The Trainer reads the signature of ``forward`` and removes what is not in it from the examples.
        """
        network = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        if network is self._network:
            return
        self._network = network
        original = network.forward
        # A copy of the model must call its own forward, not that of the original.
        function = getattr(original, "__func__", None) or (lambda _, *args, **kwargs: original(*args, **kwargs))

        # No `functools.wraps`, because Accelerate unwraps functions to undo its own changes.
        def forward(module: nn.Module, *args: Any, ids: Tensor | None = None, **kwargs: Any) -> Any:
            self._batch = (ids, module.training)
            return function(module, *args, **kwargs)

        forward.__doc__, forward.__signature__ = original.__doc__, _with_ids(original)  # type: ignore[attr-defined]
        network.forward = MethodType(forward, network)

    def _state(self) -> dict[str, Tensor]:
        subsets = {name: each for name, each in self.loop.state_dict().items() if each is not None}
        return {name: each.cpu().contiguous() for name, each in {**self.criterion.state_dict(), **subsets}.items()}

    def _load_state(self, state: Mapping[str, Tensor]) -> None:
        subsets = {name: state.get(name) for name in self.loop.state_dict()}
        self.loop.load_state_dict(subsets)
        self.criterion.load_state_dict({name: each for name, each in state.items() if name not in subsets})


def keep_ids(collator: Callable[[list[Any]], Mapping[str, Any]]) -> Callable[[list[Any]], dict[str, Any]]:
    """Make a ``data_collator`` that keeps the ids of the examples, from one that would drop them.

    The collators of transformers keep the ids. Write ``data_collator=keep_ids(collator)`` for one of your own.

    Args:
        collator: makes a batch, which is a mapping, of a list of examples without ids.

    Example:
        >>> collate = keep_ids(lambda examples: {"inputs": torch.tensor([each["inputs"] for each in examples])})
        >>> collate([{"inputs": 0.5, "ids": 7}, {"inputs": 0.25, "ids": 3}])
        {'inputs': tensor([0.5000, 0.2500]), 'ids': tensor([7, 3])}
    """
    return partial(_collate_with_ids, collator)


def _collate_with_ids(collator: Callable[[list[Any]], Mapping[str, Any]], examples: list[Any]) -> dict[str, Any]:
    batch = collator([{name: each for name, each in example.items() if name != IDS} for example in examples])
    ids = [example[IDS] for example in examples if IDS in example]
    return {**batch, **({IDS: torch.tensor(ids)} if ids else {})}


def _with_ids(forward: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of an unbound ``forward`` with the argument ``ids``."""
    parameters = list(inspect.signature(forward).parameters.values())
    ids = inspect.Parameter(IDS, inspect.Parameter.KEYWORD_ONLY, default=None)
    last = len(parameters) - any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    module = inspect.Parameter("module", inspect.Parameter.POSITIONAL_ONLY)
    return inspect.Signature([module, *parameters[:last], ids, *parameters[last:]])


def _check_arguments(args: TrainingArguments) -> None:
    """Refuse a training in which no evaluation runs, or whose model is not whole in one process."""
    if args.eval_strategy == "no":
        raise InputError(
            expected="evaluations during the training, because the update needs validation data",
            got='eval_strategy="no"',
            hint='TrainingArguments(..., eval_strategy="epoch")',
        )
    if args.n_gpu > 1 or args.fsdp or args.deepspeed:
        raise InputError(
            expected="one process for each device, and the whole model in each process (DDP)",
            got=f"one process for {args.n_gpu} devices" if args.n_gpu > 1 else "a model in parts, by FSDP or DeepSpeed",
            hint="torchrun --nproc_per_node N script.py, without fsdp and deepspeed, or CUDA_VISIBLE_DEVICES=0",
        )


def _check_split(dataset: Any, train_set: Sequence[Any]) -> None:
    if not isinstance(dataset, WithIds) or len(dataset) != len(train_set):
        sized = f" of {len(dataset)} examples" if hasattr(dataset, "__len__") else ""
        raise InputError(
            expected=f"WithIds around the training split of {len(train_set)} examples, as the train_dataset",
            got=f"{type(dataset).__name__}{sized}",
            hint="train_dataset=WithIds(train_set), with WithIds of aradals.integrations.loops",
        )


def _in_full_precision(model: nn.Module) -> nn.Module:
    """Copy a model that trains in half precision, whose rounding would blur the ranking."""
    unwrapped = load_extra("accelerate.utils").extract_model_from_parallel
    copied: nn.Module = unwrapped(copy.deepcopy(model), keep_fp32_wrapper=False)
    return copied.float()


def _prepare_for(model: nn.Module, processing_class: Any, bounds: tuple[float, float] | None) -> Prepare:
    """Choose how batches of the Trainer become inputs in [0, 1]: as texts, or as images, or by their bounds."""
    if getattr(model, "main_input_name", None) == "input_ids":
        return embedded_texts
    processor = getattr(processing_class, "image_processor", processing_class)
    if bounds is None and hasattr(processor, "image_mean"):
        return _of_one_input(images_in_unit_range(processor))
    return _of_one_input(in_box(*(bounds or (0.0, 1.0))))


def _of_one_input(prepare: Prepare) -> Prepare:
    """Refuse batches with several inputs, because a score would be that of the model without the others."""

    def checked(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            if len(names := sorted(batch.keys() - {IDS, "labels"})) > 1:
                raise InputError(
                    expected="batches with one input and the labels, for scores of robustness",
                    got=", ".join(names),
                    hint="a data_collator that leaves out what the model does not need",
                )
            yield batch

    return lambda model, batches: prepare(model, checked(batches))


def _checkpoint(output_dir: str | None, step: int) -> Path:
    return Path(output_dir or "") / f"checkpoint-{step}"


def _read_state(args: TrainingArguments, step: int) -> dict[str, Tensor]:
    """Read targets and subsets in the checkpoint from which a training resumes."""
    named = [Path(args.resume_from_checkpoint)] if isinstance(args.resume_from_checkpoint, str) else []
    for folder in (*named, _checkpoint(args.output_dir, step)):
        if (folder / STATE_FILE).is_file():
            state: dict[str, Tensor] = load_extra("safetensors.torch").load_file(folder / STATE_FILE)
            return state
    raise InputError(
        expected=f"{STATE_FILE} in the checkpoint of step {step}, with the targets and the subsets",
        got=f"no such file in {_checkpoint(args.output_dir, step)}",
        hint="TrainingArguments(resume_from_checkpoint=FOLDER), if the checkpoint is in another folder",
    )
