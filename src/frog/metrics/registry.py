"""The metrics that a report can hold: each a function of a probe, with its facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frog.registry import Registry

if TYPE_CHECKING:
    from frog.metrics.probe import Probe

Degree = int | str
"""What W -> cW does to a metric: the exponent of c; ``"log"`` adds 2 log10(c); ``"alpha-log"``
adds 2 alpha log10(c)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One column of the report."""

    name: str
    symbol: str
    better: str
    degree: Degree
    source: str
    function: Callable[[Probe], float]

    def __call__(self, probe: Probe) -> float:
        """The value for one matrix; NaN where it has none."""
        return self.function(probe)

    @property
    def meaning(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


METRICS: Registry[Metric] = Registry("metric")


def metric(
    name: str, *, symbol: str, better: str, degree: Degree, source: str
) -> Callable[[Callable[[Probe], float]], Callable[[Probe], float]]:
    """Register a function ``(probe) -> float`` as a metric and give it back unchanged.

    ``better`` is ``lower``, ``higher``, ``band`` (neither end is good) or ``none``.
    """

    def register(function: Callable[[Probe], float]) -> Callable[[Probe], float]:
        METRICS.add(
            name,
            Metric(
                name=name,
                symbol=symbol,
                better=better,
                degree=degree,
                source=source,
                function=function,
            ),
        )
        return function

    return register
