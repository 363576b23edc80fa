"""What guards saw and did while a model was tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RESPONSES = ("log", "slow", "restore", "stop")
"""What a guard may do about an alarm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What a guard saw: a number beyond its limit, in a layer, at a step; and what was done.

    ``kind`` is the quantity, ``before`` its value in health (at the start, or the best so far),
    ``now`` that at ``step``, ``action`` one of ``log``, ``slow``, ``restore`` and ``stop``, or
    what became of it (``slow`` after too many times is ``stop``).
    """

    step: int
    guard: str
    layer: str
    kind: str
    before: float
    now: float
    limit: float
    action: str
    text: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.text} ({self.guard}: {self.action})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The worst value of one quantity that a guard saw in a run: where, when, and its limit.

    ``used`` is how much of the way from ``before`` (health) to ``limit`` it went: above 1 is an
    alarm. ``seen`` is the number of values that it is the worst of.
    """

    guard: str
    kind: str
    layer: str
    step: int
    before: float
    value: float
    limit: float
    used: float
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """How a run went, by its guards: the worst of each, all alarms, what was done, what it cost.

    ``untouched`` weights outside the selection were checked to have the bits of before;
    ``touched`` names the tensors in which some have not (none in a sound run); ``unchecked``
    weights have nothing to be checked against. ``slow`` is what the learning rate is multiplied
    with at the end. Seconds: ``run`` from the first step to the last (evaluations included),
    ``guards`` of these, ``start`` before the first step and ``check`` for the bits.

    ``print`` shows it as text, at most 80 columns wide.
    """

    model: str
    steps: int
    trainable: int
    stopped: bool
    slow: float = 1.0
    worst: tuple[Worst, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    untouched: int = 0
    touched: tuple[str, ...] = ()
    unchecked: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Share of the run's time that the guards took; NaN before the first step."""
        run = self.seconds.get("run", 0.0)
        return self.seconds.get("guards", 0.0) / run if run > 0 else float("nan")

    @property
    def sound(self) -> bool:
        """Whether no guard raised an alarm and nothing outside the selection was touched."""
        return not self.alarms and not self.touched and not self.stopped

    def to_json(self, path: Any = None) -> str:
        """The certificate as JSON text; also written to ``path`` where one is given."""
        from frog.serial.certificate import certificate_to_json
        from frog.serial.whole_file import write_whole

        text = certificate_to_json(self)
        if path is not None:
            write_whole(text.encode(), path)
        return text

    @staticmethod
    def from_json(path: Any) -> Certificate:
        """Read what :meth:`to_json` wrote; :class:`~frog.errors.ReportError` if it is none."""
        from frog.serial.certificate import read_certificate

        return read_certificate(path)

    def __str__(self) -> str:
        from frog.report.certificates import certificate_text

        return certificate_text(self)
