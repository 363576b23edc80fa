"""What a model must keep to: the rules of a gate, each with the line of the policy it stands in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frog.types.spectra import NAN

KINDS = (
    "trained",
    "untrained",
    "over-parameterised",
    "over-trained",
    "correlation-trap",
    "nonfinite",
    "scale-collapse",
    "scale-outlier",
    "drift",
    "intruder-dimensions",
    "pathway-lost",
)
"""Kinds of finding that a report or a comparison can hold."""

SEVERITIES = ("info", "warning", "error")
"""From what is only told to what fails a gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingRule:
    """How grave a finding of one kind is: ``ignore`` or one of :data:`SEVERITIES`.

    With ``certain`` only findings that are certain count. Those that the report itself calls
    ``info`` (most possible verdicts, a change of scale that is compensated) count only with
    ``info``. Up to ``share`` of the measured layers may have one.
    """

    kind: str
    severity: str
    certain: bool = False
    info: bool = False
    share: float = 0.0
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The range of one number, for every layer or for the whole model.

    ``section`` says what is limited: ``limits`` a metric of each layer, ``summary`` a mean of the
    model, ``changes`` and ``summary_changes`` the change of either against a baseline, where
    ``maximum`` bounds its size and ``relative`` that size over the size before; ``direction``
    ``up`` or ``down`` counts changes of that sign only. ``layers`` (a regular expression) and
    ``roles`` select layers; up to ``share`` of them, or of their parameters where ``of`` is
    ``params``, may lie outside. A number that is NaN is no limit.
    """

    rule: str
    section: str
    metric: str
    severity: str = "error"
    minimum: float = NAN
    maximum: float = NAN
    relative: float = NAN
    direction: str = "both"
    layers: str | None = None
    roles: tuple[str, ...] = ()
    share: float = 0.0
    of: str = "layers"
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """Layers that no rule looks at, and why."""

    layers: str
    reason: str
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of a gate; ``origin`` is the file they come from.

    ``settings`` holds only what the policy names. ``unmatched`` is the severity of a layer
    without a partner in the baseline.
    """

    origin: str
    fail_on: str = "error"
    unmatched: str = "warning"
    settings: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[FindingRule, ...] = ()
    limits: tuple[Limit, ...] = ()
    exemptions: tuple[Exemption, ...] = ()

    def place(self, line: int) -> str:
        """A line of the policy, for messages."""
        return f"{self.origin}:{line}" if line else self.origin
