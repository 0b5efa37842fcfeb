"""Reports from results on disk: headlines, tables, figures, one HTML file (extra: report). Models are never run."""

from aradals.report.findings import diagnosis_headlines, study_headlines
from aradals.report.page import write_report
from aradals.report.tables import comparison_table, diagnosis_rows, diagnosis_table, study_table, table_rows

__all__ = [
    "comparison_table",
    "diagnosis_headlines",
    "diagnosis_rows",
    "diagnosis_table",
    "study_headlines",
    "study_table",
    "table_rows",
    "write_report",
]
