"""Reports, comparisons and series as one self-contained page each, and as small pieces of HTML.

A page holds its data (JSON), its styles, its scripts and plotly.js, and asks no network for
anything. The same record gives the same bytes.
"""

from frog.report.page.fragments import comparison_fragment, report_fragment, series_fragment
from frog.report.page.pages import comparison_page, report_page, series_page, write_page

__all__ = [
    "comparison_fragment",
    "comparison_page",
    "report_fragment",
    "report_page",
    "series_fragment",
    "series_page",
    "write_page",
]
