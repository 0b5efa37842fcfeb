"""Find out where a trained classifier's confidence is wrong, without training anything.

Accuracy, confidence and ECE with their intervals by robustness subset, reliability diagrams, the classes that the least
robust subset is made of, and the confidence above which at most 1 % / 5 % of the predictions are wrong. The ranking by
robustness is audited: a strong attack is run on a sample, and the agreement reported.
Writes OUTPUT/report.html, diagnosis.json, scores/scores.parquet, predictions/ and audit/. Examples that the
model was trained on (where its checkpoint says) are refused.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from aradals.cli.arguments import (
    AttackArguments,
    DataArguments,
    DefaultAuditArguments,
    ModelArguments,
    ResultsArguments,
    StoredArguments,
)
from aradals.cli.terminal import print_log

EXAMPLE = "aradals diagnose --model my_model.py:build --checkpoint weights.pt --data photos/ --output runs/diagnosis"
RESUMES = True


def run(
    model: ModelArguments,
    data: DataArguments,
    attack: AttackArguments,
    stored: StoredArguments,
    audit: DefaultAuditArguments,
    output: ResultsArguments,
) -> Path:
    """Diagnose and report."""
    from aradals.cli.finish import finish
    from aradals.pipeline.diagnose import diagnose, diagnose_predictions
    from aradals.pipeline.outputs import input_paths, output_folder

    stored.refuse_beside(model=model.model, checkpoint=model.checkpoint, **asdict(data))
    read = input_paths(data.data, model.model, model.checkpoint, stored.predictions, stored.scores)
    names, kinds, folder = ["diagnosis.json", "report.html"], ["diagnosis"], output.output
    settings: dict[str, Any] = {"scores": stored.scores, "num_subsets": audit.num_subsets, "seed": audit.seed}
    with output_folder(folder, names, kinds=kinds, inputs=read, overwrite=output.overwrite, log=print_log):
        if stored.predictions is not None:
            given = stored.load()
            results = diagnose_predictions(given.predictions, name=given.name, data=given.data, **settings)
        else:
            examples = data.load()
            settings |= {**asdict(attack), "audit": audit.audit, "output": folder, "log": print_log}
            results = diagnose(model.load(examples), examples, **settings)
        finish(results, folder, "diagnosis.json", json=output.json)
    return folder
