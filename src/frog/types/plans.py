"""How much of a model may be trained: a budget, and its split over the matrices."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frog.errors import UsageError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_AMOUNT = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(%|[kmb]?)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many weights may train in all, and within what bounds in each matrix.

    Either ``share`` (of the parameters of the matrices that are targeted, above 0, at most 1) or
    ``count`` (weights) is given. ``floor`` and ``cap`` bound the share of every single matrix.
    """

    share: float | None = None
    count: int | None = None
    floor: float = 0.0
    cap: float = 1.0

    def __post_init__(self) -> None:
        if (self.share is None) == (self.count is None):
            raise UsageError(
                f"a budget must have either a share or a count, got share {self.share} and "
                f"count {self.count}: Budget.trainable(0.01) or Budget.trainable('5M')"
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise UsageError(
                f"a budget must be above 0 and at most 100 %, got {self.share:.6g}: 0.01 is 1 %"
            )
        if self.count is not None and self.count < 1:
            raise UsageError(f"a budget must be at least 1 weight, got {self.count}")
        if not 0 <= self.floor <= self.cap <= 1 or self.cap == 0:
            raise UsageError(
                "floor and cap must be shares of a matrix with 0 <= floor <= cap <= 1 and cap "
                f"above 0, got {self.floor:.6g} and {self.cap:.6g}"
            )

    @staticmethod
    def trainable(amount: float | int | str, *, floor: float = 0.0, cap: float = 1.0) -> Budget:
        """A budget from a share (0.01), a count (5_000_000) or words (``"1%"``, ``"5M"``).

        An ``int`` is a count, a ``float`` a share. Raises :class:`~frog.errors.UsageError` for
        what is no amount or out of range.

        >>> Budget.trainable("1%").share, Budget.trainable("5M").count
        (0.01, 5000000)
        """
        if isinstance(amount, str):
            found = _AMOUNT.fullmatch(amount)
            if found is None:
                raise UsageError(f"a budget must read like '1%', '0.01' or '5M', got {amount!r}")
            number, unit = float(found[1]), found[2].lower()
            if unit == "%":
                amount = number / 100
            elif unit or (number > 1 and number == int(number)):
                amount = round(number * UNITS[unit])
            else:
                amount = number
        if isinstance(amount, bool) or not math.isfinite(amount):
            raise UsageError(f"a budget must be a share or a count, got {amount!r}")
        if isinstance(amount, int):
            return Budget(count=amount, floor=floor, cap=cap)
        return Budget(share=float(amount), floor=floor, cap=cap)

    def total(self, params: int) -> int:
        """Number of weights out of ``params`` targeted ones, at least 1.

        Raises :class:`~frog.errors.UsageError` where a count exceeds ``params``.

        >>> Budget.trainable(0.01).total(12345)
        123
        """
        if self.count is None:
            assert self.share is not None
            return max(1, round(self.share * params))
        if self.count > params:
            raise UsageError(
                f"a budget must be at most the {params:,} weights that are targeted, "
                f"got {self.count:,}"
            )
        return self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What one matrix gets of the budget: ``count`` of its ``params`` weights, and why.

    ``lr_ratio`` multiplies the learning rate of this matrix.
    """

    name: str
    role: str
    block: int | None
    shape: tuple[int, int]
    params: int
    count: int
    lr_ratio: float = 1.0
    reason: str = ""

    @property
    def share(self) -> float:
        """Share of the matrix's own weights."""
        return self.count / self.params if self.params else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of every matrix is trained: can be read, edited, diffed and shared as JSON.

    ``path`` and ``digest`` are those of the report that it was made from, ``rule`` and ``knobs``
    how. ``layers`` are in the order of the listing; ``left_out`` gives the reason for every
    matrix of the report that gets nothing. Where ``by_score`` is set (rule ``global``) the counts
    are provisional: the selection settles them with one threshold over all scores, and stores the
    settled plan.
    """

    path: str
    digest: str
    rule: str
    budget: Budget
    layers: tuple[Allotment, ...]
    knobs: Mapping[str, float | str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    by_score: bool = False
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Number of weights that the plan gives out."""
        return sum(layer.count for layer in self.layers)

    @property
    def params(self) -> int:
        """Number of weights in the targeted matrices."""
        return sum(layer.params for layer in self.layers)

    def to_json(self, path: Any = None) -> str:
        """The plan as JSON text; also written to ``path`` where one is given."""
        from frog.serial.plan import plan_to_json
        from frog.serial.whole_file import write_whole

        text = plan_to_json(self)
        if path is not None:
            write_whole(text.encode(), path)
        return text

    @staticmethod
    def from_json(path: Any) -> Plan:
        """Read a plan that :meth:`to_json` wrote; :class:`~frog.errors.ReportError` if not."""
        from frog.serial.plan import read_plan

        return read_plan(path)
