"""Results of evaluations: aggregates over seeds, and paired differences between methods."""

from aradals.results.compare import aggregate_seeds, compare_methods

__all__ = ["aggregate_seeds", "compare_methods"]
