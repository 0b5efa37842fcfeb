"""A whole study: data -> vanilla model -> scores -> subsets -> training -> calibration -> evaluation -> results."""

from aradals.study.checks import check_config
from aradals.study.run import load_study_data, run_study, train_one
from aradals.study.seed import SeedRun

__all__ = ["SeedRun", "check_config", "load_study_data", "run_study", "train_one"]
