"""Records to plain dictionaries and back: the one place that knows the shape of the files.

NaN becomes ``null`` on the way out and ``null`` NaN on the way in, so that a file is plain JSON.
Reading validates: a file that is damaged, of another make or from a later version is a
:class:`~frog.errors.ReportError` that names the place.
"""

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
    "REPORT_FORMAT",
    "REPORT_VERSION",
    "finding_from_dict",
    "finding_to_dict",
    "layer_from_dict",
    "layer_to_dict",
    "report_from_dict",
    "report_from_json",
    "report_to_dict",
    "report_to_json",
]
