"""Every error that FROG raises on purpose, and the exit code that each becomes.

    FrogError                     1  our fault
    ├── UsageError                2  wrong use or configuration
    │   ├── UnknownName           2  no such metric, score, rule, ...: names the nearest
    │   └── ReportError           2  not a report of ours, damaged, or of another make
    ├── PlanRefused               3  a plan of compression is worse than none
    ├── ModelError                4  the model cannot be read or is not supported
    │   └── UnsupportedFormat     4  recognised, but not something FROG can measure
    └── MissingPackage            2  an optional package is needed: gives the install line

Messages say what must be what, what was got, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FrogError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(FrogError):
    """An argument, a flag or a setting is out of range or contradicts another."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is in no registry or list.

    >>> str(UnknownName("metric", "stabel_rank", ["alpha", "stable_rank"]))
    "no metric 'stabel_rank'. Did you mean 'stable_rank'? Known: alpha, stable_rank"
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        super().__init__(f"no {kind} '{name}'.{hint} Known: {', '.join(known)}")


class ReportError(UsageError):
    """A saved report cannot be read or does not fit the others."""


class PlanRefused(FrogError):
    """A plan of compression does more harm than a uniform one of its size."""

    exit_code = 3


class ModelError(FrogError):
    """A model is missing, damaged or of an unknown format."""

    exit_code = 4


class UnsupportedFormat(ModelError):
    """A format that was recognised and is refused, with the reason."""


class MissingPackage(UsageError):
    """An optional package is not installed.

    >>> str(MissingPackage("ray", "cluster"))
    "this needs the package 'ray': pip install 'frog[cluster]'"
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package '{package}': pip install 'frog[{extra}]'")
