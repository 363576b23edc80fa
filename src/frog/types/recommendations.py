"""What is worth doing with a model: actions on layers, how much to tune, and for how long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frog.errors import UsageError
from frog.types.plans import Plan

ACTIONS = ("mend", "train", "choose", "prune", "lower-bits", "tune-harder", "freeze", "tune",
           "leave")  # fmt: skip
"""Every kind of action, in the order in which they are told."""

POLICIES = ("open", "tune", "prune", "bits")
"""What is done with over-parameterised layers; ``open``: nothing until the user has chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is known of the tuning to come; everything may be left out.

    ``full_rate`` is the learning rate that tuning all weights would use (AdamW), ``steps`` the
    optimizer steps, ``tokens`` those with a loss, once each; ``examples`` have one label of
    ``classes`` each.
    """

    full_rate: float | None = None
    steps: int | None = None
    tokens: int | None = None
    examples: int | None = None
    classes: int = 2

    def __post_init__(self) -> None:
        rate = self.full_rate
        if rate is not None and not (_real(rate) and 0 < rate < math.inf):
            raise UsageError(f"full_rate must be a number above 0, got {rate!r}")
        for name in ("steps", "tokens", "examples"):
            value = getattr(self, name)
            if value is not None and not (_whole(value) and 1 <= value <= LARGEST):
                raise UsageError(f"{name} must be a whole number from 1, got {value!r}")
        if not (_whole(self.classes) and 2 <= self.classes <= LARGEST):
            raise UsageError(f"classes must be a whole number from 2, got {self.classes!r}")

    @property
    def bits(self) -> float:
        """Information in the data, at one bit a token and log2(classes) an example; 0: unknown.

        >>> Workload(examples=1000, classes=4).bits
        2000.0
        """
        return float(self.tokens or 0) + (self.examples or 0) * math.log2(self.classes)


LARGEST = 10**15
"""Steps, tokens or examples beyond which a number is a slip."""


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What an action does to the budget: ``trainable`` weights of the layer, ``change`` of that
    against an even share, AdamW's state and the delta file in bytes (8 a weight each, float32;
    the delta takes 5 to 8 and a header), ``lr_ratio`` of the layer, ``removed`` weights, ``bits``
    (0: as they are)."""

    trainable: int = 0
    change: int = 0
    optimizer_bytes: int = 0
    delta_bytes: int = 0
    lr_ratio: float = 1.0
    removed: int = 0
    bits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do with one layer (``layer`` is empty where it is the whole model).

    ``measure`` names the number that decided, ``value`` what it is and ``threshold`` what it is
    held against (both NaN where nothing was measured); ``degree`` in [0, 1] how strongly to act,
    ``source`` whose rule it is, ``evidence`` what is known of its worth. ``options`` are the
    alternatives of ``choose``.
    """

    kind: str
    layer: str
    certainty: str
    measure: str
    value: float
    threshold: float
    degree: float
    reason: str
    source: str
    evidence: str
    effect: Effect
    options: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A reason for a budget of at least a ``share``; that of the largest one ``decides``."""

    name: str
    share: float
    formula: str
    text: str
    evidence: str
    decides: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much to tune: ``count`` of ``params`` weights, and the learning rate that goes with it.

    ``rate`` = min(``full_rate`` / share, ``rate_cap``). ``rms`` is the size of the weights,
    sqrt(sum ||W||_F^2 / params).
    """

    share: float
    count: int
    params: int
    rms: float
    full_rate: float
    rate: float
    rate_cap: float
    optimizer_bytes: int
    delta_bytes: int
    bounds: tuple[Bound, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A limit for a guard: stop, or slow, where ``watch`` exceeds ``limit`` (NaN: no number)."""

    watch: str
    limit: float
    text: str
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How long to tune: limits to watch, and what the weights are expected to do.

    ``change_low`` and ``change_high`` bracket the relative change after the given steps,
    ``steps_low`` and ``steps_high`` the steps until its limit (NaN where it is not known).
    ``alpha`` maps tuned layers to the range that their alpha should not leave.
    """

    steps_low: float
    steps_high: float
    change_low: float
    change_high: float
    stops: tuple[Stop, ...] = ()
    alpha: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """Ranked actions, a budget, an extent, and the tune plan that follows from them.

    ``policy`` is what was asked for over-parameterised layers; ``plan`` is None where nothing is
    left to tune. Made by :func:`frog.recommend`.
    """

    path: str
    digest: str
    frog_version: str
    policy: str
    workload: Workload
    actions: tuple[Action, ...]
    amount: Amount
    extent: Extent
    plan: Plan | None = None
    notes: tuple[str, ...] = ()

    def to_json(self, path: Any = None) -> str:
        """The recommendation as JSON text; also written to ``path`` where one is given."""
        from frog.serial.recommendation import recommendation_to_json
        from frog.serial.whole_file import write_whole

        text = recommendation_to_json(self)
        if path is not None:
            write_whole(text.encode(), path)
        return text

    @staticmethod
    def from_json(path: Any) -> Recommendation:
        """Read what :meth:`to_json` wrote; :class:`~frog.errors.ReportError` if it is none."""
        from frog.serial.recommendation import read_recommendation

        return read_recommendation(path)

    def __str__(self) -> str:
        from frog.report.recommendations import as_text

        return as_text(self)
