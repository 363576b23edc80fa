"""Columns of the report, verdicts, and the one streaming pass that fills them.

A new metric is a function ``(probe) -> float`` with the decorator ``@metric`` in the file of its
family; a new family is a file that is imported here.
"""

from frog.metrics import bulk, norms, randomized, shape, tail
from frog.metrics.registry import METRICS, Metric, metric

__all__ = ["METRICS", "Metric", "bulk", "metric", "norms", "randomized", "shape", "tail"]
