"""Find out where a trained classifier's confidence is wrong, without training anything.

Accuracy, confidence and ECE with their intervals by robustness subset, reliability diagrams, the classes that the least
robust subset is made of, and the confidence above which at most 1 % / 5 % of the predictions are wrong. The ranking by
robustness is audited: a strong attack is run on a sample, and the agreement reported.
Writes OUTPUT/report.html, diagnosis.json, scores/scores.parquet, predictions/ and audit/. Examples that the
model was trained on (where its checkpoint says) are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from aradals.cli.common import (
    Classifier,
    Source,
    add_attack_arguments,
    add_audit_argument,
    add_data_arguments,
    add_model_arguments,
    add_overwrite_argument,
    add_prediction_arguments,
    finish,
    load_classifier,
    prediction_stage,
    refuse_beside_predictions,
    refuse_training_examples,
)
from aradals.cli.terminal import print_log

if TYPE_CHECKING:
    from aradals.data import Examples

EXAMPLE = "aradals diagnose --model my_model.py:build --checkpoint weights.pt --data photos/ --output runs/diagnosis"
RESUMES = True


def add_arguments(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Model and data, or predictions; the attack; the number of subsets."""
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_attack_arguments(parser)
    add_prediction_arguments(parser)
    parser.add_argument("--num_subsets", type=PositiveInt, default=10, help="R; subset 0 is the least robust")
    add_audit_argument(parser, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap and of the audited sample")
    parser.add_argument("--json", action="store_true", help="print diagnosis.json instead of the table")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    add_overwrite_argument(parser)
    return arguments


def run(output: Path, overwrite: bool, **arguments: Any) -> None:
    """Diagnose and report."""
    from aradals.pipeline.outputs import output_folder

    read = Source(arguments["data"]).paths(
        *(arguments[name] for name in ("model", "checkpoint", "predictions", "scores"))
    )
    names, kinds = ["diagnosis.json", "report.html"], ["diagnosis"]
    with output_folder(output, names, kinds=kinds, inputs=read, overwrite=overwrite, log=print_log):
        _diagnose(output=output, **arguments)


def _diagnose(
    model: str | None,
    checkpoint: Path | None,
    model_args: dict[str, Any],
    device: str,
    attack: str,
    attack_args: dict[str, Any],
    verified: bool,
    bf16: bool,
    predictions: Path | None,
    scores: Path | None,
    num_subsets: int,
    audit: int,
    seed: int,
    json: bool,
    output: Path,
    **source: Any,
) -> None:
    """Diagnose and report."""
    from aradals.pipeline.artifacts import SCHEMA_VERSION, load_predictions, versions
    from aradals.pipeline.diagnose import diagnose
    from aradals.pipeline.evaluate import CLEAN
    from aradals.pipeline.score import (
        check_attack,
        check_differentiable,
        check_num_subsets,
        score_stage,
        scores_of,
        scoring_record,
        subsets_of,
    )
    from aradals.pipeline.shown import class_rows, example_images

    if predictions is not None:
        refuse_beside_predictions(model=model, checkpoint=checkpoint, **source)
    about: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "kind": "diagnosis",
        "versions": versions(),
        "attack": None,
        "audit": None,
    }
    class_names: tuple[str, ...] = ()
    if predictions is not None:
        predicted, metadata = load_predictions(predictions)
        about |= {
            "model": str(predictions),
            "checkpoint": "none",
            "data": metadata.get("data", predictions.stem),
            "split": "",
        }
    else:
        check_attack(attack, attack_args)
        examples = Source(**source).load()
        check_num_subsets(num_subsets, len(examples), "--num-subsets", examples.name)
        classifier = load_classifier(model, checkpoint, model_args, examples, device)
        refuse_training_examples(classifier, examples)
        if scores is None:
            check_differentiable(classifier.model, examples.__getitems__([0])[1])
        class_names = classifier.class_names or examples.class_names
        about |= {
            "model": classifier.name,
            "checkpoint": classifier.checkpoint,
            "data": examples.name,
            "split": source.get("split") or "",
        }
        path = prediction_stage(classifier, examples, [CLEAN], output / "predictions")[CLEAN]
        predicted, _ = load_predictions(path)
        scores = scores or score_stage(
            classifier.model,
            examples,
            output / "scores",
            attack=attack,
            attack_args=attack_args,
            verified=verified,
            bf16=bf16,
            model_digest=classifier.digest,
            probe=classifier.probe,
            log=print_log,
        )
    subsets = None
    if scores is not None:
        check_num_subsets(num_subsets, len(predicted), "--num-subsets", "the predictions")
        subsets = subsets_of(scores, predicted.ids, num_subsets)
        about["scoring"] = scoring_record(scores, split=about["split"])
        about["attack"] = about["scoring"]["attack"]
        if predictions is None and audit:
            num_audited = min(max(audit, num_subsets), len(examples))
            about["audit"] = _audit(classifier, examples, scores, output / "audit", num_audited, num_subsets, seed)
    names = [*class_names, *map(str, range(len(class_names), predicted.logits.shape[1]))]
    keys = {"method": about["model"], "seed": seed, "data": about["data"], "corruption": "none", "severity": 0}
    found = diagnose(predicted, subsets, tuple(names), keys=keys, seed=seed)
    about["classes"] = class_rows(predicted, names)
    if predictions is None:
        ranking = None if scores is None else scores_of(scores, predicted.ids)
        about["examples"] = example_images(examples, predicted, ranking)
    finish({**about, **found}, output, "diagnosis.json", json)


def _audit(
    classifier: Classifier,
    examples: Examples,
    scores: Path,
    folder: Path,
    num_examples: int,
    num_subsets: int,
    seed: int,
) -> dict[str, Any] | None:
    """Return the record of `aradals.pipeline.score.audit_stage`; None for scores of another model."""
    from aradals.pipeline.artifacts import load_scores
    from aradals.pipeline.score import audit_stage

    _, metadata = load_scores(scores)
    if metadata.get("model_digest", classifier.digest) != classifier.digest:
        print_log(f"audit: none, because {scores} is of another model or of other data")
        return None
    return audit_stage(
        classifier.model,
        examples,
        scores,
        folder,
        num_examples=num_examples,
        num_subsets=num_subsets,
        seed=seed,
        model_digest=classifier.digest,
        probe=classifier.probe,
        log=lambda line: print_log(f"audit: {line}"),
    )
