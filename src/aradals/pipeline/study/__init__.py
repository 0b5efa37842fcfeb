"""A whole study: data -> vanilla model -> scores -> subsets -> training -> calibration -> evaluation -> results."""

from aradals.pipeline.study.checks import check_config
from aradals.pipeline.study.run import KINDS, OUTPUTS, files_of, run_study, train_one
from aradals.pipeline.study.tasks import plan
from aradals.pipeline.study.work import run_task
from aradals.pipeline.study.workspace import Workspace

__all__ = ["KINDS", "OUTPUTS", "Workspace", "check_config", "files_of", "plan", "run_study", "run_task", "train_one"]
