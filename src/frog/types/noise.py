"""Noise on the weights that are not trained, as a setting."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from frog.errors import UnknownName, UsageError

SCHEDULES = ("constant", "linear", "cosine")
DRAWS = ("token", "sequence")
GUIDES = ("relevance", "even", "rounding")
UNTIL = 0.7
"""Share of a run after which a decaying noise has ended, where none is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Noise on the weights of tuned matrices that are not selected, in training forward passes.

    Entry ij of a matrix W (m, n) gets the standard deviation

        s_ij = nu_t * ||W||_F / sqrt(m n) * a_i * b_j,    0 on selected entries,

    where the ``guide`` a_i b_j has RMS 1 over the matrix: ``relevance`` spares rows and columns of
    high relevance S_ij, ``even`` is 1, ``rounding`` follows the largest entry of each row, as the
    step of a row-wise quantisation does; or a function from W, (m, n) float32, to two arrays (m,)
    and (n,), not negative. The noise is added to the output of a layer with the distribution that
    noise in the weight would give it; nothing is written into a weight.

    ``nu_t`` is ``nu`` under the ``constant`` schedule; ``linear`` and ``cosine`` fall from ``nu``
    to 0 over the first share ``until`` of the run (0.7 if not given), whose number of optimizer
    steps comes from ``tuner.plan_steps`` or from ``steps``. ``draw`` says whether every ``token``
    gets a draw of its own, or all tokens of a ``sequence`` the same one, as noise in the weights
    themselves would be.

    With ``bits`` the noise has the size of what rounding to nearest at so many bits would change,
    with a scale for every ``group`` of inputs (None: a whole row): s_ij = nu_t times the RMS error
    of row i, and ``nu`` is a share of that error (:meth:`rounding`).

    Weights that a selection of a pruned model leaves out (``Choice(keep=...)``) get no noise, and
    do not count in any RMS.

    >>> noise = Noise.guided(0.02, schedule="linear", until=0.5)
    >>> [noise.level(step, 100) for step in (0, 25, 50, 99)]
    [0.02, 0.01, 0.0, 0.0]
    """

    nu: float = 0.01
    schedule: str = "cosine"
    until: float | None = None
    draw: str = "token"
    guide: str | Callable[[Any], tuple[Any, Any]] = "relevance"
    steps: int | None = None
    seed: int = 0
    bits: int | None = None
    group: int | None = 64

    def __post_init__(self) -> None:
        if isinstance(self.nu, bool) or not 0 <= self.nu <= 1:
            raise UsageError(
                "nu is a share of the RMS of a matrix, or of its rounding error, and must lie in "
                f"0..1, got {self.nu!r}"
            )
        if self.bits is not None:
            self._check_rounding()
        for word, value, known in (
            ("schedule of noise", self.schedule, SCHEDULES),
            ("draw of noise", self.draw, DRAWS),
            ("guide of noise", self.guide, GUIDES),
        ):
            if value not in known and not (known is GUIDES and callable(value)):
                raise UnknownName(word, str(value), known)
        if self.until is not None and self.schedule == "constant":
            raise UsageError(
                "constant noise has no end: leave until= out, or take schedule='linear' or "
                f"'cosine', got until={self.until!r}"
            )
        if self.until is not None and not 0 < self.until <= 1:
            raise UsageError(f"until must be a share of the run in (0, 1], got {self.until!r}")
        if self.steps is not None:
            checked_steps(self.steps)

    def _check_rounding(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in range(1, 9):
            raise UsageError(f"bits must be a whole number in 1..8, got {self.bits!r}")
        if self.group is not None and (
            isinstance(self.group, bool) or not isinstance(self.group, int) or self.group < 1
        ):
            raise UsageError(
                f"a group must be 1 or more inputs, got {self.group!r}: None takes a whole row"
            )
        if self.guide != "rounding":
            raise UsageError(
                f"noise of a number of bits follows the rounding error of each row, got "
                f"guide={self.guide!r}: leave guide= or bits= out"
            )

    def level(self, step: int, steps: int | None) -> float:
        """nu_t at optimizer step ``step`` (from 0) of ``steps``.

        Raises :class:`~frog.errors.UsageError` where a decaying schedule is not told ``steps``.
        """
        if self.schedule == "constant":
            return float(self.nu)
        if steps is None:
            raise UsageError(
                f"noise with schedule='{self.schedule}' must know how many optimizer steps the run "
                "has, got none: call tuner.plan_steps(total) before the first step, give "
                "frog.Noise.guided(..., steps=total), or take schedule='constant'"
            )
        share = step / (steps * (UNTIL if self.until is None else self.until))
        if share >= 1:
            return 0.0
        fall = 1 - share if self.schedule == "linear" else (1 + math.cos(math.pi * share)) / 2
        return float(self.nu * fall)

    @staticmethod
    def guided(
        nu: float = 0.01,
        *,
        schedule: str = "cosine",
        until: float | None = None,
        draw: str = "token",
        guide: str | Callable[[Any], tuple[Any, Any]] = "relevance",
        steps: int | None = None,
        seed: int = 0,
    ) -> Noise:
        """Noise of strength ``nu`` (a share of each matrix's RMS) that spares relevant weights."""
        return Noise(
            nu=nu, schedule=schedule, until=until, draw=draw, guide=guide, steps=steps, seed=seed
        )

    @staticmethod
    def rounding(
        bits: int = 4,
        *,
        group: int | None = 64,
        nu: float = 1.0,
        schedule: str = "constant",
        draw: str = "token",
        steps: int | None = None,
        seed: int = 0,
    ) -> Noise:
        """Noise of the size of the error of rounding to nearest at ``bits`` and ``group``.

        Noise as a model of rounding to come: Defossez et al. 2021, DiffQ, arXiv:2104.09987. Its
        noise is uniform, on all weights, and in training alone, as here; ours is the normal noise
        at the outputs that has the measured error of each row (for a smooth density about
        step / sqrt(12)), and selected weights have none.

        >>> Noise.rounding(3).level(0, None)
        1.0
        """
        return Noise(
            nu=nu, schedule=schedule, draw=draw, guide="rounding", steps=steps, seed=seed,
            bits=bits, group=group,
        )  # fmt: skip


def checked_steps(total: Any) -> int:
    """``total`` as a number of optimizer steps; UsageError where it is none."""
    if isinstance(total, bool) or not isinstance(total, int) or total < 1:
        raise UsageError(f"the number of optimizer steps must be 1 or more, got {total!r}")
    return total
