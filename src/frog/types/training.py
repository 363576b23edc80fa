"""What is watched and done while a model is tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frog.errors import UsageError

SCHEDULES = ("constant", "linear", "cosine")
SHARING = ("token", "sequence")
GUIDES = ("relevance", "uniform")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Noise on the weights that are not trained, during training forward passes only.

    Entry ij of a matrix gets the standard deviation nu_t * ||W||_F / sqrt(m n) * a_i * b_j;
    ``guide`` ``relevance`` makes a and b the marginals of 1 - relevance, ``uniform`` makes them 1.
    ``nu`` holds at the start and decays to 0 by ``schedule`` at the share ``until`` of the run.
    ``sharing`` draws noise anew for every ``token`` or once for each ``sequence``, as noise in the
    weights themselves would be. Chosen entries carry none, and nothing is written into a weight.
    """

    nu: float = 0.01
    schedule: str = "cosine"
    until: float = 0.7
    sharing: str = "token"
    guide: str = "relevance"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.nu <= 1:
            raise UsageError(f"nu must lie in 0..1 (of the RMS of a matrix), got {self.nu!r}")
        if not 0 < self.until <= 1:
            raise UsageError(f"until must be a share of the run in (0, 1], got {self.until!r}")
        for name, value, known in (
            ("schedule", self.schedule, SCHEDULES),
            ("sharing", self.sharing, SHARING),
            ("guide", self.guide, GUIDES),
        ):
            if value not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, got {value!r}")

    @staticmethod
    def guided(nu: float = 0.01, **knobs: Any) -> Noise:
        """Noise of strength ``nu`` that spares relevant weights."""
        return Noise(nu=nu, guide="relevance", **knobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What a guard saw: a number beyond its limit, in a layer, at a step; and what was done.

    ``action`` is ``log``, ``slow``, ``restore`` or ``stop``.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The worst number that a guard saw in a run, where, when, and its limit."""

    guard: str
    kind: str
    layer: str
    step: int
    value: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """How a run went, by its guards: the worst of each, all alarms, and what was done.

    ``untouched`` is the number of weights outside the selection that were checked to be the bits
    of before; ``touched`` that of others which were not (0 in a sound run). ``cost`` is the share
    of the run's time that the guards took.
    """

    steps: int
    trainable: int
    worst: tuple[Worst, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    untouched: int = 0
    touched: int = 0
    cost: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, path: Any = None) -> str:
        """The certificate as JSON text; also written to ``path`` where one is given."""
        from frog.serial.certificate import certificate_to_json
        from frog.serial.whole_file import write_whole

        text = certificate_to_json(self)
        if path is not None:
            write_whole(text.encode(), path)
        return text
