"""Robustness of whole data sets: score tables, and audits of a ranking with a strong attack."""

from aradals.robustness.audit import audit_scores, describe_audit, rank_agreement
from aradals.robustness.scores import ScoreTable, score, score_batches

__all__ = ["ScoreTable", "audit_scores", "describe_audit", "rank_agreement", "score", "score_batches"]
