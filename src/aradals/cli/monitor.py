"""Estimate a model's accuracy on unlabeled data, and say whether the inputs have drifted.

The calibrator is that of aradals calibrate --method batch_temperature. The unlabeled data are a file of predictions, or
--data for the model. For each batch, the command prints the estimated accuracy with its interval, the evidence, and a
verdict: no drift, covariate shift, class mix changed, or cannot say. docs/shift.md says when to trust it.
"""

from __future__ import annotations

import json

from aradals.cli.arguments import DataArguments, ModelArguments, MonitorArguments
from aradals.cli.prediction_arguments import UnlabeledArguments
from aradals.cli.terminal import print_log, print_result

EXAMPLE = "aradals monitor --predictions today.parquet --calibrator batch.json --batch-size 500"
RESUMES = False


def run(model: ModelArguments, data: DataArguments, stored: UnlabeledArguments, batches: MonitorArguments) -> None:
    """Report on each batch."""
    import torch

    from aradals.calibration import load_calibrator
    from aradals.inference.predictions import predict
    from aradals.pipeline.leakage import check_calibrators, tell_unchecked
    from aradals.pipeline.monitor import check_monitoring, monitor

    stored.refuse_beside(model, data)
    calibrator = load_calibrator(batches.calibrator)
    check_monitoring(calibrator, batch_size=batches.batch_size, level=batches.level)
    if stored.predictions is not None:
        given = stored.load(model.output_kind)
        logits, weights, hashes, where = given.predictions.logits, given.weights, given.hashes, given.data
    else:
        classifier, examples = model.load(data, labeled=False)
        batches_of_zeros = ((ids, inputs, torch.zeros_like(labels)) for ids, inputs, labels in examples.batches())
        logits = predict(classifier.model, batches_of_zeros).logits
        weights, hashes, where = classifier.weights, examples.hashes, examples.name
    names = {batches.calibrator.stem: calibrator}
    checks = check_calibrators(names, weights=weights, num_classes=logits.shape[1], evaluated=hashes, where=where)
    if stored.predictions is not None:
        print_log(given.taken)
    tell_unchecked(checks, print_log)
    found = monitor(calibrator, logits=logits, batch_size=batches.batch_size, level=batches.level)
    print_result(json.dumps(found.to_dict(), indent=1) if batches.json else str(found))
