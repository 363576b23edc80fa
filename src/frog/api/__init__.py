"""The verbs: each joins rooms, takes values and gives a value."""

from frog.api.allocating import allocate
from frog.api.comparing import compare
from frog.api.deltas import apply_delta, diff
from frog.api.exporting import export_delta, export_plan
from frog.api.flowing import Flow, flow
from frog.api.gating import gate, read_policy
from frog.api.listing import (
    list_granularities,
    list_guards,
    list_metrics,
    list_rankings,
    list_rules,
    list_scores,
)
from frog.api.measuring import Run, analyze, check, device_of, inspect, matrices_of
from frog.api.merging import merge_reports
from frog.api.selecting import Choice, select

__all__ = [
    "Choice",
    "Flow",
    "Run",
    "allocate",
    "analyze",
    "apply_delta",
    "check",
    "compare",
    "device_of",
    "diff",
    "export_delta",
    "export_plan",
    "flow",
    "gate",
    "inspect",
    "list_granularities",
    "list_guards",
    "list_metrics",
    "list_rankings",
    "list_rules",
    "list_scores",
    "matrices_of",
    "merge_reports",
    "read_policy",
    "select",
]
