"""The verbs: each joins rooms, takes values and gives a value."""

from frog.api.listing import list_metrics
from frog.api.measuring import Run, analyze, check, device_of, inspect, matrices_of
from frog.api.merging import merge_reports

__all__ = [
    "Run",
    "analyze",
    "check",
    "device_of",
    "inspect",
    "list_metrics",
    "matrices_of",
    "merge_reports",
]
