"""Reports of results: a verdict, tables, figures and one HTML file (extra: report). A report never runs a model."""

from aradals.report.findings import Verdict, verdict
from aradals.report.page import html_table, write_report

__all__ = ["Verdict", "html_table", "verdict", "write_report"]
