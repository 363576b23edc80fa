"""Data for the demo that are on every machine: Python's own library and its language reference."""

from frog.demo.functions import Documented, documented_functions, split_by_package
from frog.demo.prose import neighbours

__all__ = ["Documented", "documented_functions", "neighbours", "split_by_package"]
