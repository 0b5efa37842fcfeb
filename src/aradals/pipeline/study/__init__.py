"""A whole study: data -> vanilla model -> scores -> subsets -> training -> calibration -> evaluation -> results."""

from aradals.pipeline.study.checks import check_config
from aradals.pipeline.study.run import KINDS, OUTPUTS, files_of, load_study_data, run_study, train_one
from aradals.pipeline.study.seed import SeedRun

__all__ = ["KINDS", "OUTPUTS", "SeedRun", "check_config", "files_of", "load_study_data", "run_study", "train_one"]
