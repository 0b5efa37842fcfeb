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
from typing import TYPE_CHECKING, Any

from aradals.cli.arguments import (
    AttackArguments,
    DataArguments,
    DefaultAuditArguments,
    ModelArguments,
    ResultsArguments,
    StoredArguments,
)
from aradals.cli.terminal import print_log

if TYPE_CHECKING:
    from aradals.data import Examples
    from aradals.pipeline.classifier import Classifier

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
    from aradals.pipeline.outputs import input_paths, output_folder

    stored.refuse_beside(model=model.model, checkpoint=model.checkpoint, **asdict(data))
    read = input_paths(data.data, model.model, model.checkpoint, stored.predictions, stored.scores)
    names, kinds, folder = ["diagnosis.json", "report.html"], ["diagnosis"], output.output
    with output_folder(folder, names, kinds=kinds, inputs=read, overwrite=output.overwrite, log=print_log):
        finish(_diagnose(model, data, attack, stored, audit, folder), folder, "diagnosis.json", output.json)
    return folder


def _diagnose(
    model: ModelArguments,
    data: DataArguments,
    attack: AttackArguments,
    stored: StoredArguments,
    audit: DefaultAuditArguments,
    output: Path,
) -> dict[str, Any]:
    """The results of the diagnosis."""
    from aradals.pipeline.artifacts import SCHEMA_VERSION, load_predictions, versions
    from aradals.pipeline.diagnose import diagnose
    from aradals.pipeline.predict import predict_and_score
    from aradals.pipeline.score import audit_ranking, check_num_subsets, scores_of, scoring_record, subsets_of
    from aradals.pipeline.shown import class_rows, example_images

    num_subsets, seed = audit.num_subsets, audit.seed
    about: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "kind": "diagnosis",
        "versions": versions(),
        "attack": None,
        "audit": None,
    }
    class_names: tuple[str, ...] = ()
    scores = stored.scores
    if stored.predictions is not None:
        predicted, metadata = load_predictions(stored.predictions)
        about |= {
            "model": str(stored.predictions),
            "checkpoint": "none",
            "data": metadata.get("data", stored.predictions.stem),
            "split": "",
        }
    else:
        examples, classifier = _load(model, data, attack, stored, num_subsets)
        class_names = classifier.class_names or examples.class_names
        about |= {
            "model": classifier.name,
            "checkpoint": classifier.checkpoint,
            "data": examples.name,
            "split": data.split or "",
        }
        predicted, scores = predict_and_score(
            classifier, examples, output, scores=stored.scores, **asdict(attack), log=print_log
        )
    subsets = None
    if scores is not None:
        check_num_subsets(num_subsets, len(predicted), "--num-subsets", "the predictions")
        subsets = subsets_of(scores, predicted.ids, num_subsets)
        about["scoring"] = scoring_record(scores, split=about["split"])
        about["attack"] = about["scoring"]["attack"]
        if stored.predictions is None and audit.audit:
            about["audit"] = audit_ranking(
                classifier,
                examples,
                scores,
                output / "audit",
                num_examples=audit.audit,
                num_subsets=num_subsets,
                seed=seed,
                log=print_log,
            )
    names = [*class_names, *map(str, range(len(class_names), predicted.logits.shape[1]))]
    keys = {"method": about["model"], "seed": seed, "data": about["data"], "corruption": "none", "severity": 0}
    found = diagnose(predicted, subsets, tuple(names), keys=keys, seed=seed)
    about["classes"] = class_rows(predicted, names)
    if stored.predictions is None:
        ranking = None if scores is None else scores_of(scores, predicted.ids)
        about["examples"] = example_images(examples, predicted, ranking)
    return {**about, **found}


def _load(
    model: ModelArguments, data: DataArguments, attack: AttackArguments, stored: StoredArguments, num_subsets: int
) -> tuple[Examples, Classifier]:
    """The examples and the model, after checks that cost little."""
    from aradals.pipeline.classifier import refuse_training_examples
    from aradals.pipeline.score import check_attack, check_differentiable, check_num_subsets

    check_attack(attack.attack, attack.attack_args)
    examples = data.load()
    check_num_subsets(num_subsets, len(examples), "--num-subsets", examples.name)
    classifier = model.load(examples)
    refuse_training_examples(classifier, examples)
    if stored.scores is None:
        check_differentiable(classifier.model, examples.batch([0])[1])
    return examples, classifier
