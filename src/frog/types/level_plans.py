"""Plans of compression: which unit gets which bit width or sparsity, why, and how it is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from frog.errors import UnknownName, UsageError
from frog.types.judgements import Judgement

LEVEL_ACTIONS = ("bits", "prune")
TIES = ("tensor", "serving", "block")

BITS = (2, 3, 4, 5, 6, 8)
"""Bit widths that are tried unless asked otherwise."""

SPARSITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Sparsities that are tried unless asked otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How weights are rounded: to nearest, with one scale for ``group`` inputs (None: a row).

    ``widths`` are the bit widths to choose from, 1..8.
    """

    widths: tuple[int, ...] = BITS
    group: int | None = 64
    symmetric: bool = True

    def __post_init__(self) -> None:
        whole = all(isinstance(x, int) and not isinstance(x, bool) for x in self.widths)
        if not self.widths or not whole or not all(1 <= x <= 8 for x in self.widths):
            raise UsageError(f"widths must be whole numbers of bits in 1..8, got {self.widths}")
        if self.group is not None and self.group < 1:
            raise UsageError(f"a group must be 1 or more inputs, got {self.group}: None is a row")

    @property
    def levels(self) -> tuple[float, ...]:
        """The bit widths, lowest first."""
        return tuple(sorted(set(self.widths)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """How weights are chosen that become zero.

    ``importance`` is ``magnitude``, ``wanda`` or ``relevance``, compared ``within`` a ``matrix``
    or a ``row``; ``shares`` are the sparsities to choose from. With a ``pattern`` (2, 4) a matrix
    stays whole or keeps 2 of every 4 inputs in turn.
    """

    shares: tuple[float, ...] = SPARSITIES
    importance: str = "magnitude"
    within: Literal["matrix", "row"] = "matrix"
    pattern: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.importance not in ("magnitude", "wanda", "relevance"):
            raise UnknownName(
                "importance of weights", self.importance, ("magnitude", "wanda", "relevance")
            )
        if self.within not in ("matrix", "row"):
            raise UnknownName("place to compare weights within", self.within, ("matrix", "row"))
        if not self.shares or not all(0 <= x <= 1 for x in self.shares):
            raise UsageError(f"shares must be sparsities in [0, 1], got {self.shares}")
        if self.pattern is not None and not 0 < self.pattern[0] < self.pattern[1]:
            keep, of = self.pattern
            raise UsageError(f"a pattern must keep 1 to {of - 1} of {of}, got {keep}:{of}: 2:4")

    @property
    def levels(self) -> tuple[float, ...]:
        """The sparsities, lowest first; whole or the pattern's where there is one."""
        if self.pattern is not None:
            return (0.0, 1 - self.pattern[0] / self.pattern[1])
        return tuple(sorted({float(x) for x in self.shares}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Which matrices are compressed, and which of them share a level.

    ``include`` and ``exclude`` are regular expressions over names; embeddings, heads and routers
    are left as they are. ``pins`` maps regular expressions to levels that are settled. ``tie`` is
    ``tensor`` (matrices of one stored tensor share a level), ``serving`` (also q, k, v and gate,
    up of a block, which engines fuse) or ``block``.
    """

    include: str | None = None
    exclude: str | None = None
    pins: Mapping[str, float] = field(default_factory=dict)
    tie: str = "tensor"

    def __post_init__(self) -> None:
        if self.tie not in TIES:
            raise UnknownName("tie of matrices", self.tie, TIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRule:
    """How levels are chosen: an allocator, the score that it goes by, its settings.

    ``score`` is empty for allocators that go by measured curves.
    """

    allocator: str
    score: str = ""
    knobs: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def named(words: str, knobs: Mapping[str, float] | None = None) -> LevelRule:
        """A rule from ``allocator`` or ``allocator:score``.

        >>> LevelRule.named("two_level:-alpha").score
        '-alpha'
        """
        allocator, _, score = words.partition(":")
        return LevelRule(allocator=allocator, score=score, knobs=dict(knobs or {}))

    def __str__(self) -> str:
        return f"{self.allocator}:{self.score}" if self.score else self.allocator


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """A few batches that a model is run on, and what of its outputs is compared.

    ``outputs(model, batch)`` gives a tensor whose rows lie along the last axis: logits,
    embeddings; batches have no padding. ``loss(model, batch)`` gives a scalar, for scores that
    need one. ``model`` is the loaded module where a file was read, ``source`` its name. Cells are
    kept in ``log``, so that what was interrupted goes on; ``on_cell(done, total, unit, level)``
    is told of each, counted within its sweep. After the sweep that changes units alone follow
    ``rounds`` around the plan so far (:func:`frog.compression.rounds.in_rounds`); None is what
    helped in measurements: 3 for pruning, 0 for bits and for patterns. ``unused`` is a regular
    expression over matrices that no output depends on, ``task`` that of recipes. ``tokens(batch)``,
    for logits (E, P, V) of a language model, gives (E, P) tokens: that at p + 1 is what p predicts.
    """

    batches: Sequence[Any]
    outputs: Callable[[Any, Any], Any]
    loss: Callable[[Any, Any], Any] | None = None
    model: Any = None
    source: str = ""
    log: Path | None = None
    on_cell: Callable[[int, int, str, str], None] = lambda done, total, unit, level: None
    unused: str | None = None
    task: str = ""
    tokens: Callable[[Any], Any] | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        told = self.rounds
        if told is not None and (isinstance(told, bool) or not isinstance(told, int) or told < 0):
            raise UsageError(f"rounds must be a whole number from 0, got {told!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPreview:
    """What making a plan would measure: ``cells`` (a unit at a level), ``known`` in the log.

    ``seconds`` is what one cell took, None where nothing is to be measured.
    """

    path: str
    rule: LevelRule
    units: int
    matrices: int
    params: int
    left_out: int
    cells: int = 0
    known: int = 0
    seconds: float | None = None

    @property
    def total(self) -> float:
        """Seconds that the cells to come take, about."""
        return (self.cells - self.known) * (self.seconds or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMatrix:
    """A matrix of a plan; ``size`` is the bits of its codes, or its weights that are kept."""

    name: str
    role: str
    block: int | None
    shape: tuple[int, int]
    size: int

    @property
    def params(self) -> int:
        """Weights of the matrix."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUnit:
    """Matrices that share a level: bits, or a sparsity in [0, 1].

    ``damage`` is the squared relative error of the outputs that was measured at this level, alone,
    before any round;
    ``score`` the number that a rule by scores went by; None where there is none.
    """

    name: str
    matrices: tuple[PlannedMatrix, ...]
    level: float
    damage: float | None = None
    score: float | None = None
    pinned: bool = False

    @property
    def params(self) -> int:
        """Weights of the unit."""
        return sum(x.params for x in self.matrices)

    @property
    def size(self) -> int:
        """Bits of its codes, or weights that are kept, exactly."""
        return sum(x.size for x in self.matrices)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelPlan:
    """Which matrices get how many bits, or lose how many weights: can be read, edited, shared.

    ``action`` is ``bits`` or ``prune``; ``budget`` was asked: bits a weight on average, or the
    share of weights that become zero. ``digest`` is of the matrices that are changed; ``data`` is
    the digest of the batches that a plan by measured curves or by Wanda went by, ``rounds`` how
    often it was measured around a plan. ``verification`` holds what ``frog verify`` found, None
    where it did not run. Scales of groups are not counted.
    """

    action: str
    path: str
    digest: str
    rule: LevelRule
    budget: float
    how: Quantisation | Pruning
    units: tuple[PlannedUnit, ...]
    tie: str = "tensor"
    left_out: Mapping[str, str] = field(default_factory=dict)
    calibration: str = ""
    data: str = ""
    rounds: int = 0
    verification: Judgement | None = None
    notes: tuple[str, ...] = ()

    @property
    def params(self) -> int:
        """Weights of all matrices in the plan."""
        return sum(x.params for x in self.units)

    @property
    def size(self) -> int:
        """Bits of all codes, or weights that are kept."""
        return sum(x.size for x in self.units)

    @property
    def reached(self) -> float:
        """Bits a weight on average, or the share of weights that become zero."""
        share = self.size / self.params
        return share if self.action == "bits" else 1 - share

    @property
    def damage(self) -> float | None:
        """The sum of the damages that were measured, None where a unit has none."""
        found = [x.damage for x in self.units if not x.pinned or x.damage is not None]
        known = [x for x in found if x is not None]
        return math.fsum(known) if found and len(known) == len(found) else None

    @property
    def matrices(self) -> tuple[PlannedMatrix, ...]:
        """All matrices, unit by unit."""
        return tuple(x for unit in self.units for x in unit.matrices)

    def to_json(self, path: Any = None) -> str:
        """The plan as JSON text; also written to ``path`` where one is given."""
        from frog.serial.level_plan import level_plan_to_json
        from frog.serial.whole_file import write_whole

        text = level_plan_to_json(self)
        if path is not None:
            write_whole(text.encode(), path)
        return text

    @staticmethod
    def from_json(path: Any) -> LevelPlan:
        """Read a plan that :meth:`to_json` wrote; :class:`~frog.errors.ReportError` if not."""
        from frog.serial.level_plan import read_level_plan

        return read_level_plan(path)


def refuse_levels(plan: Any) -> None:
    """UsageError for a plan of compression where one of what is tuned must be."""
    if isinstance(plan, LevelPlan):
        raise UsageError(
            f"a plan must be of what is tuned (frog.allocate), got one of {plan.action}: "
            "frog.apply_plan carries that out; a layer is compressed or tuned, as you say, never "
            "both by one plan"
        )
