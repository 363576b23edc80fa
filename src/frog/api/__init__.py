"""The verbs: each joins rooms, takes values and gives a value."""

from frog.api.allocating import allocate, layer_rates
from frog.api.applying import apply_plan, default_log, read_calibration, verify_plan
from frog.api.comparing import compare
from frog.api.compressing import plan_bits, plan_prune, preview_levels
from frog.api.deltas import apply_delta, diff
from frog.api.demonstrating import write_demo
from frog.api.exporting import export_delta, export_plan
from frog.api.flowing import Flow, flow
from frog.api.gating import gate, read_policy
from frog.api.listing import (
    list_allocators,
    list_granularities,
    list_guards,
    list_metrics,
    list_rankings,
    list_rules,
    list_scores,
    list_tasks,
    list_unit_scores,
    list_ways,
)
from frog.api.measuring import Run, analyze, check, device_of, inspect, matrices_of
from frog.api.merging import merge_reports
from frog.api.recipes import Watch, gradients_from, read_recipe
from frog.api.recommending import recommend
from frog.api.selecting import Choice, select
from frog.api.strategies import are_strategies, compare_runs
from frog.api.tuning import checkpoint_step, preview, tune
from frog.compression.planned import is_judged

__all__ = [
    "Choice",
    "Flow",
    "Run",
    "Watch",
    "allocate",
    "analyze",
    "apply_delta",
    "apply_plan",
    "are_strategies",
    "check",
    "checkpoint_step",
    "compare",
    "compare_runs",
    "default_log",
    "device_of",
    "diff",
    "export_delta",
    "export_plan",
    "flow",
    "gate",
    "gradients_from",
    "inspect",
    "is_judged",
    "layer_rates",
    "list_allocators",
    "list_granularities",
    "list_guards",
    "list_metrics",
    "list_rankings",
    "list_rules",
    "list_scores",
    "list_tasks",
    "list_unit_scores",
    "list_ways",
    "matrices_of",
    "merge_reports",
    "plan_bits",
    "plan_prune",
    "preview",
    "preview_levels",
    "read_calibration",
    "read_policy",
    "read_recipe",
    "recommend",
    "select",
    "tune",
    "verify_plan",
    "write_demo",
]
