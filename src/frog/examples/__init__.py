"""Data for the demo that are on every machine: Python's own library and its language reference."""

from frog.examples.functions import Documented, documented_functions, split_by_package
from frog.examples.prose import neighbours

__all__ = ["Documented", "documented_functions", "neighbours", "split_by_package"]
