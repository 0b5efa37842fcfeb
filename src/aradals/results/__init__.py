"""Results: typed records, which are read, written, averaged and compared here."""

from aradals.results.aggregate import difference, measure
from aradals.results.compare import compare_methods
from aradals.results.files import json_schema, read_results, read_studies
from aradals.results.records import CLEAN, Condition, Measure, Method, Metric, Results, Row, Variant

__all__ = [
    "CLEAN",
    "Condition",
    "Measure",
    "Method",
    "Metric",
    "Results",
    "Row",
    "Variant",
    "compare_methods",
    "difference",
    "json_schema",
    "measure",
    "read_results",
    "read_studies",
]
