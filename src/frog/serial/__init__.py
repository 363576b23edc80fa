"""Records to plain dictionaries and back: the one place that knows the shape of the files.

NaN becomes ``null`` on the way out and ``null`` NaN on the way in, so that a file is plain JSON.
Reading validates: a file that is damaged, of another make or from a later version is a
:class:`~frog.errors.ReportError` that names the place.
"""

from frog.serial.comparison import (
    COMPARISON_FORMAT,
    COMPARISON_VERSION,
    FORMATS,
    SERIES_FORMAT,
    SERIES_VERSION,
    comparison_from_dict,
    comparison_from_json,
    comparison_to_dict,
    comparison_to_json,
    format_of,
    record_from_json,
    series_from_dict,
    series_from_json,
    series_to_dict,
    series_to_json,
)
from frog.serial.report import (
    REPORT_FORMAT,
    REPORT_VERSION,
    finding_from_dict,
    finding_to_dict,
    layer_from_dict,
    layer_to_dict,
    report_from_dict,
    report_from_json,
    report_to_dict,
    report_to_json,
)

__all__ = [
    "COMPARISON_FORMAT",
    "COMPARISON_VERSION",
    "FORMATS",
    "REPORT_FORMAT",
    "REPORT_VERSION",
    "SERIES_FORMAT",
    "SERIES_VERSION",
    "comparison_from_dict",
    "comparison_from_json",
    "comparison_to_dict",
    "comparison_to_json",
    "finding_from_dict",
    "finding_to_dict",
    "format_of",
    "layer_from_dict",
    "layer_to_dict",
    "record_from_json",
    "report_from_dict",
    "report_from_json",
    "report_to_dict",
    "report_to_json",
    "series_from_dict",
    "series_from_json",
    "series_to_dict",
    "series_to_json",
]
