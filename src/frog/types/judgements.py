"""What came out when a plan of compression was held against plans of equal size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from frog.errors import PlanRefused

Against = Literal["uniform", "random"]
Verdict = Literal["better", "no different", "worse"]
VERDICTS: tuple[Verdict, ...] = ("better", "no different", "worse")
SAME = 0.005
"""A relative change below this is no difference, however sure it is: plans of a few weights more
or less give one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One plan on the data that judges: its size and what it does to the outputs.

    ``size`` is bits of codes, or kept weights. ``error`` is ||Y - Y0|| / ||Y0||, ``angle`` the
    mean 1 - cosine; both infinite where an output is not finite. ``metrics`` are those of the
    task, by name.
    """

    name: str
    size: int
    error: float
    angle: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The plan against its baseline in one measure, with a paired bootstrap interval.

    ``change`` is plan / baseline - 1 where ``relative``, else plan - baseline. ``low`` and ``high``
    are its 2.5 and 97.5 % quantiles over resamples of the same examples for both.
    """

    measure: str
    change: float
    low: float
    high: float
    higher: bool
    relative: bool

    @property
    def verdict(self) -> Verdict:
        """Whether the interval lies wholly on one side of nothing, and the change is no trifle."""
        if self.relative and abs(self.change) < SAME:
            return "no different"
        gain, loss = (self.low > 0, self.high < 0) if self.higher else (self.high < 0, self.low > 0)
        return "better" if gain else "worse" if loss else "no different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A plan, the uniform and random ones of its size, measured on the same examples.

    ``plans`` holds ``plan``, ``uniform``, ``random 1``, ...; ``differences`` the plan against the
    uniform one in ``error``, ``angle`` and every metric, of which ``by`` decides; ``against``
    "random" of a pattern, for which there is no uniform one, against the mean of the random ones,
    and the interval is over examples, not over draws of plans. ``metrics`` are
    those of the unchanged model. ``unseen`` is whether the data were compared with those that the
    plan was made on. ``levels`` is the plan itself, in words, by matrix.
    """

    levels: Mapping[str, str]
    plans: tuple[Judged, ...]
    differences: tuple[Difference, ...]
    by: str
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    unseen: bool = False
    seed: int = 0
    against: Against = "uniform"

    @property
    def baseline(self) -> str:
        """What the plan was held against, in words."""
        if self.against == "uniform":
            return "a uniform one of its size"
        count = sum(x.name.startswith("random") for x in self.plans)
        return f"the mean of {count} random ones of its pattern and size"

    @property
    def decisive(self) -> Difference:
        """The difference that decides."""
        return next(x for x in self.differences if x.measure == self.by)

    @property
    def verdict(self) -> Verdict:
        """The plan against its baseline: better, no different, worse."""
        return self.decisive.verdict

    @property
    def sentence(self) -> str:
        """The verdict with its number, in a sentence."""
        found = self.decisive
        low, high, change = (
            f"{x:+.1%}" if found.relative else f"{x:+.4g}"
            for x in (found.low, found.high, found.change)
        )
        of = "than" if self.verdict != "no different" else "from"
        return (
            f"The plan is {self.verdict} {of} {self.baseline}: {found.measure} {change} "
            f"[{low}, {high}] on {self.examples} examples."
        )

    def require(self) -> None:
        """Raise :class:`~frog.errors.PlanRefused` where the plan is worse than its baseline."""
        if self.verdict == "worse":
            instead = "the uniform one" if self.against == "uniform" else "another"
            raise PlanRefused(f"{self.sentence} Take {instead}, or measure the plan on more data.")

    def to_json(self, path: Any = None) -> str:
        """The judgement as JSON text; also written to ``path`` where one is given."""
        from frog.serial.judgement import judgement_to_json
        from frog.serial.whole_file import write_whole

        text = judgement_to_json(self)
        if path is not None:
            write_whole(text.encode(), path)
        return text

    @staticmethod
    def from_json(path: Any) -> Judgement:
        """Read what :meth:`to_json` wrote; :class:`~frog.errors.ReportError` if it is none."""
        from frog.serial.judgement import read_judgement

        return read_judgement(path)
