"""Robustness of whole data sets: score tables, and what a cheap ranking is worth."""

from aradals.robustness.audit import audit_scores, describe_audit, rank_agreement
from aradals.robustness.scores import ScoreTable, score, score_batches

__all__ = ["ScoreTable", "audit_scores", "describe_audit", "rank_agreement", "score", "score_batches"]
