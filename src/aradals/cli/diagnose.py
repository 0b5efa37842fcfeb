"""Find out where a trained classifier's confidence is wrong, without training anything.

The report shows accuracy, confidence and ECE by robustness subset with their intervals, reliability diagrams, the
classes of the least robust subset, and the confidence from which on at most 1 % or 5 % of new predictions are wrong
(--max-errors). An audit checks the ranking by robustness: it attacks a sample with two strong attacks, and reports how
often both rankings agree.
The command writes OUTPUT/report.html, diagnosis.json, scores/scores.parquet, predictions/, audit/ and
audit-neighbors/. It refuses examples that the model was trained on, and says so if the checkpoint does not record them.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aradals.cli.arguments import DataArguments, RankingArguments, ResultsArguments, SharedModel
from aradals.cli.prediction_arguments import ScoredArguments
from aradals.cli.terminal import print_log

EXAMPLE = "aradals diagnose --model my_model.py:build --checkpoint weights.pt --data photos/ --output runs/diagnosis"
RESUMES = True


def run(
    model: SharedModel,
    data: DataArguments,
    ranking: RankingArguments,
    stored: ScoredArguments,
    output: ResultsArguments,
) -> Path:
    """Diagnose the model, and report the results."""
    from aradals.cli.finish import claim, finish
    from aradals.pipeline.diagnose import diagnose, diagnose_stored
    from aradals.pipeline.outputs import input_paths, output_folder

    stored.refuse_beside(model, data)
    read = input_paths(data.data, model.model, model.checkpoint, *stored.files)
    names, kinds, folder = ["diagnosis.json", "report.html"], ["diagnosis"], output.output
    settings: dict[str, Any] = {name: getattr(ranking, name) for name in ("num_subsets", "max_errors", "seed")}
    with output_folder(folder, names, kinds=kinds, inputs=read, overwrite=output.overwrite, log=print_log):
        if stored.predictions is not None:
            request = claim(output, names[0], asdict(ranking), model.output_kind, files=stored.files)
            given, scores = stored.load(model.output_kind), stored.load_scores()
            results = diagnose_stored(given, scores=scores, log=print_log, **settings)
        else:
            classifier, examples = model.load(data)
            of = (classifier.digest, examples.fingerprint, asdict(ranking))
            request = claim(output, names[0], *of, files=stored.files)
            settings = {**asdict(ranking), "scores": stored.scores, "sharing": model.sharing(data)}
            results = diagnose(classifier, examples, output=folder, log=print_log, **settings)
        finish({folder: replace(results, request=request)}, folder, "diagnosis.json", json=output.json)
    return folder
