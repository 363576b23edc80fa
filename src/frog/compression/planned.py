"""A plan of compression as levels: what is done to each matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from frog.compression.curves import Bits, Level, Sparsity, digest_of
from frog.compression.pruning import IMPORTANCE, n_of_m_mask
from frog.errors import UsageError
from frog.numerics.rounding import Rounding
from frog.types.level_plans import LevelPlan, PlannedMatrix, Pruning, Quantisation


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """``keep`` of every ``of`` inputs in turn stay, those of the highest ``importance``."""

    keep: int
    of: int
    importance: str = "magnitude"
    norms: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def key(self) -> str:
        """Pattern and importance; a digest of the norms where there are some."""
        named = f"pattern={self.keep}:{self.of} {self.importance}"
        return f"{named} norms={digest_of(self.norms)}" if self.norms else named

    @property
    def value(self) -> float:
        """The share that is set to zero."""
        return 1 - self.keep / self.of

    def apply(self, name: str, weight_mn: Tensor) -> None:
        """Set the others to zero."""
        scores = IMPORTANCE[self.importance](weight_mn, self.norms.get(name))
        mask = n_of_m_mask(weight_mn, scores, keep=self.keep, of=self.of)
        weight_mn.masked_fill_(mask.logical_not_(), 0.0)

    def size(self, params: int) -> int:
        """Weights that are kept."""
        return params * self.keep // self.of


def level_of(
    how: Quantisation | Pruning, level: float, norms: Mapping[str, Tensor] | None = None
) -> Level:
    """What a level of a plan does to a matrix; ``norms`` of inputs are for Wanda."""
    if isinstance(how, Quantisation):
        return Bits(Rounding(bits=int(level), group=how.group, symmetric=how.symmetric))
    if how.pattern is not None and level > 0:
        keep, of = how.pattern
        return Pattern(keep=keep, of=of, importance=how.importance, norms=norms or {})
    return Sparsity(share=level, importance=how.importance, within=how.within, norms=norms or {})


def levels_of(plan: LevelPlan, norms: Mapping[str, Tensor] | None = None) -> dict[str, Level]:
    """The level of every matrix of a plan, by name; pruned counts are exact.

    Raises :class:`~frog.errors.UsageError` where a pattern does not give the weights that the
    plan keeps, or Wanda lacks its norms.
    """
    how = plan.how
    if isinstance(how, Pruning) and how.importance == "wanda" and not norms:
        raise UsageError(
            "a plan by Wanda needs the text or images it was made with: give calibration, on the "
            "command line --calibration FILE"
        )
    return _levels(plan, norms)


def is_judged(plan: LevelPlan) -> bool:
    """Whether the plan has a verdict, and is still the one that was judged: it may be edited."""
    if plan.verification is None:
        return False
    judged = {name: key.split(" norms=")[0] for name, key in plan.verification.levels.items()}
    return judged == {name: level.key for name, level in _levels(plan, None).items()}


def _levels(plan: LevelPlan, norms: Mapping[str, Tensor] | None) -> dict[str, Level]:
    found = {}
    for unit in plan.units:
        for matrix in unit.matrices:
            level = unit.level if plan.action == "bits" else _share(matrix, plan.how)
            found[matrix.name] = level_of(plan.how, level, norms)
    return found


def _share(matrix: PlannedMatrix, how: Quantisation | Pruning) -> float:
    share = 1 - matrix.size / matrix.params
    pattern = how.pattern if isinstance(how, Pruning) else None
    if pattern is not None and share > 0 and matrix.size * pattern[1] != matrix.params * pattern[0]:
        raise UsageError(
            f"{matrix.name} must keep all of its {matrix.params} weights or {pattern[0]} of every "
            f"{pattern[1]}, the plan keeps {matrix.size}: mend the plan"
        )
    return share
