"""Reports of results: a verdict, tables, figures, one HTML file (extra: report). Models are never run."""

from aradals.report.findings import Verdict, verdict
from aradals.report.page import html_table, write_report

__all__ = ["Verdict", "html_table", "verdict", "write_report"]
