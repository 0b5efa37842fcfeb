"""The workspace of a study in one process: its folder, and the data and models, which are loaded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aradals._internal.files import file_digest
from aradals._internal.json_files import settings_digest
from aradals._internal.specs import code_digest
from aradals.data import Examples, Splits, load_splits, make_splits
from aradals.inference.predictions import predict, resolve_device
from aradals.models import build_untrained, load_checkpoint, weights_digest
from aradals.pipeline.classifier import Classifier
from aradals.pipeline.predict import load_other_data
from aradals.pipeline.stage import output_digests, run_stage, same_outputs
from aradals.pipeline.study.groups import folds_of
from aradals.pipeline.study.tasks import Source, Task, Train

Log = Callable[[str], None]

_NUM_PROBED = 8


class Materials:
    """The splits and the model of one seed.

    Attributes:
        source: description of the data and the model.
        examples: examples of the training and the test split.
    """

    def __init__(self, source: Source, examples: tuple[Examples, Examples]) -> None:
        self.source = source
        self.examples = examples

    @cached_property
    def splits(self) -> Splits:
        """The splits: train, validation, calibration and test."""
        sizes = self.source.splits
        return make_splits(
            *self.examples,
            validation=sizes.validation,
            calibration=sizes.calibration,
            train_size=sizes.train,
            seed=self.source.seed,
        )

    @cached_property
    def probe(self) -> Tensor | None:
        """A few logits of the initialized model for `run_stage`, which show changes of all that the model's code uses.

        None if torch's generator does not determine the model.
        """
        batch = self.splits.train.batch(list(range(min(_NUM_PROBED, len(self.splits.train)))))
        logits = []
        for _ in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.source.seed)
                logits.append(predict(self.build(), [batch]).logits)
        return logits[0] if same_outputs(logits[0].tolist(), logits[1]) else None

    @cached_property
    def code(self) -> str | None:
        """Digest of the code that builds the model, including all imports, computed once."""
        return code_digest(self.source.model)

    def build(self) -> nn.Module:
        """Build the model for the shape of the data, initialized from torch's global generator."""
        examples = self.splits.train
        sizes = {"num_classes": examples.num_classes, "input_shape": examples.input_shape}
        return build_untrained(self.source.model, **{**sizes, **self.source.model_args})

    def load(self, checkpoint: Path, digest: str, device: str) -> Classifier:
        """Load a trained model, from a file with this digest."""
        model = self.build()
        load_checkpoint(model, checkpoint)
        return Classifier(
            model=model.to(resolve_device(device)).eval(),
            name=self.source.model,
            digest=self.model_digest(digest),
            weights=weights_digest(model.state_dict()),
            probe=self.probe,
            checkpoint=str(checkpoint),
        )

    def model_digest(self, checkpoint: str) -> str:
        """Hash the weights, by the digest of their file, the code and the settings of a trained model."""
        return settings_digest([checkpoint, self.source.model, self.source.model_args, self.code])

    def fold(self, fold: int) -> Tensor:
        """Select the training examples of one half of the training split, bool, shape (N,)."""
        return folds_of(self.splits.train.ids, 2, self.source.seed) == fold


class Workspace:
    """The folder of a study, and the objects that its tasks share in this process.

    A pickled workspace names the folder only. All copies of it in another process are one workspace.

    Attributes:
        folder: folder of the study.
        device: auto, cpu, cuda or mps, or one of several by its index, such as cuda:1.
        log: called with each line of progress.
        options: of all stages, see `run_stage`.
    """

    def __init__(self, folder: Path, device: str = "auto", log: Log = print, **options: Any) -> None:
        self.folder, self.device, self.log, self.options = folder, device, log, options
        self._examples = cache(self._open_examples)
        self._other = cache(self._open_other)
        self._materials: dict[str, Materials] = {}

    def __reduce__(self) -> tuple[Callable[..., Workspace], tuple[Any, ...]]:
        return _shared_workspace, (self.folder.resolve(), self.device, self.log, self.options)

    def materials(self, source: Source) -> Materials:
        """Make the splits and the model of a seed, once."""
        key = settings_digest(asdict(source))
        if key not in self._materials:
            self._materials[key] = Materials(source, self._examples(*_data_of(source)))
        return self._materials[key]

    def other_data(self, ood: str, source: Source) -> Examples:
        """Load out-of-distribution data, prepared as the data of a seed, once."""
        return self._other(ood, *_data_of(source))

    def paths(self, task: Task | None) -> dict[str, Path]:
        """Return the paths of a task's outputs, by name; empty if there is no task."""
        return {name: self.folder / task.folder / name for name in task.outputs} if task else {}

    def digests(self, task: Task | None) -> dict[str, str]:
        """Read the digests of the outputs of a finished task."""
        return output_digests(self.folder / task.folder, task.outputs) if task else {}

    def checkpoint(self, model: Train | str) -> tuple[Path, str]:
        """Return the file of a trained or given model, and its digest."""
        if isinstance(model, str):
            return Path(model), file_digest(Path(model))
        [name] = model.checkpoints
        return self.paths(model)[name], self.digests(model)[name]

    def fill(
        self, task: Task, inputs: Mapping[str, object], make: Callable[[Path], None], probe: Tensor | None = None
    ) -> None:
        """Fill the folder of a task, see `run_stage`."""
        run_stage(self.folder / task.folder, inputs, task.outputs, make, self.log_of(task), probe=probe, **self.options)

    def log_of(self, task: Task) -> Log:
        """Return the log of a task, which marks its lines."""
        return lambda line: self.log(f"[seed {task.source.seed}] {task.label}: {line}")

    def _open_examples(self, data: str, test_size: int | None, *reading: tuple[str, Any]) -> tuple[Examples, Examples]:
        """Load the training and the test examples."""
        return load_splits(data, test_size=test_size, log=self.log, **dict(reading))

    def _open_other(self, ood: str, *data: Any) -> Examples:
        return load_other_data(ood, self._examples(*data)[1], self.log)


def _data_of(source: Source) -> tuple[Any, ...]:
    return source.data, source.splits.test, *source.reading.items()


_shared: dict[Path, Workspace] = {}
"""The workspace of a worker process by its folder; the last one only, because its data fill the memory."""


def _shared_workspace(folder: Path, device: str, log: Log, options: dict[str, Any]) -> Workspace:
    if folder not in _shared:
        _shared.clear()
        _shared[folder] = Workspace(folder, device, log, **options)
    return _shared[folder]
