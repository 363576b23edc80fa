"""Select: weights, a plan and a score become a selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from frog.errors import ModelError, UsageError
from frog.numerics.scored import Scored
from frog.numerics.units import unit_sizes
from frog.selection.choose import ELEMENTS, Units, choose, normalised, settle
from frog.selection.expression import Expression, parse
from frog.selection.guard import spare, without_dead, without_pruned
from frog.selection.keep import (
    Keep,
    kept_entries,
    kept_in_units,
    kept_mask,
    refuse_beyond_kept,
    word_of,
)
from frog.selection.scores import Kept, Score, Subject
from frog.types import GRANULARITIES, Chosen, Gradient, ModelReport, Plan, Selection, WeightMatrix
from frog.types.level_plans import refuse_levels
from frog.weights.catalogue import catalogue
from frog.weights.source import list_tensors

BLOCK = (16, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How weights are chosen, beside the score.

    ``rank`` is the number of components for scores that use some only (None: 64, 0: those beyond
    the random bulk); ``block_size`` that of blocks. ``protect`` keeps the choice away from weights
    with leverage in so many leading singular directions, ``protect_strength`` says how much
    (negative: draws it there). ``gradients`` maps the names of the plan's matrices to the mean and
    mean square of their gradient over a few batches, as :func:`frog.collect_gradients` gives them;
    ``report`` gives the alphas for a score times alpha. ``bits`` and ``group`` (None: a whole row)
    are those of the rounding that ``near-boundary`` looks ahead to.

    ``keep`` is for a pruned model: ``"nonzero"`` takes the weights that are zero as pruned, a
    mapping has a mask (m, n) for every matrix of the plan, True where a weight stays (what it
    leaves out must be zero). Pruned weights are never chosen; of rows, columns and blocks the rest
    is, and only that counts.
    """

    rank: int | None = None
    block_size: tuple[int, int] = BLOCK
    protect: int = 0
    protect_strength: float = 1.0
    gradients: Mapping[str, Gradient] | None = None
    report: ModelReport | None = None
    on_matrix: Callable[[str], None] | None = None
    keep: Keep = None
    bits: int = 4
    group: int | None = 64

    def __post_init__(self) -> None:
        word_of(self.keep)
        if any(isinstance(x, bool) or int(x) != x or x < 1 for x in self.block_size):
            raise UsageError(f"block_size must be two whole numbers from 1, got {self.block_size}")
        if isinstance(self.protect, bool) or int(self.protect) != self.protect or self.protect < 0:
            raise UsageError(f"protect must be a whole number from 0, got {self.protect!r}")
        if not math.isfinite(self.protect_strength):
            raise UsageError(f"protect_strength must be finite, got {self.protect_strength!r}")
        if isinstance(self.bits, bool) or self.bits not in range(1, 9):
            raise UsageError(f"bits must be a whole number in 1..8, got {self.bits!r}")
        if self.group is not None and (isinstance(self.group, bool) or self.group < 1):
            raise UsageError(f"group must be 1 or more, or None for a row, got {self.group!r}")
        if self.rank is not None and self.rank < 0:
            raise UsageError(f"rank must be at least 0, got {self.rank}")


def select(
    model: Any,
    plan: Plan,
    *,
    score: str | Score = "auto",
    granularity: str = "element",
    seed: int = 0,
    choice: Choice | None = None,
) -> Selection:
    """Choose in every matrix of the plan as many weights as it allots, those of highest score.

    ``model`` is what the plan was made from: a path, a hub id, a module or a state dict; one matrix
    is in memory at a time. ``score`` is a name of ``frog list scores`` or an expression such as
    ``"gradient * relevance^-1"``; ``auto`` is a random choice: no score was shown to beat it at
    equal budget (docs/selecting-weights.md). Dead weights (rows and columns of zeros, weights
    without gradient) are never chosen. Of rows, columns and blocks only whole
    ones are chosen; what they leave of a count goes to the next matrix.

    Raises :class:`~frog.errors.UsageError` for a plan of another model or one that trains more of
    a pruned matrix than is left, :class:`~frog.errors.ModelError` for weights that are not finite.

    >>> import torch, frog
    >>> layer = torch.nn.Linear(64, 256, bias=False)
    >>> plan = frog.allocate(frog.analyze(layer), 0.01)
    >>> select(layer, plan, score="magnitude").count
    164
    """
    refuse_levels(plan)
    expression = parse(score)
    choice = choice or Choice()
    if granularity not in GRANULARITIES:
        raise UsageError(
            f"granularity must be one of {', '.join(GRANULARITIES)}, got '{granularity}'"
        )
    if expression.needs_gradient and choice.gradients is None:
        raise UsageError(
            f"the score '{expression}' needs gradients of a few batches: "
            "choice=Choice(gradients=frog.collect_gradients(model, batches)), on the command line "
            "--data FILE --task NAME"
        )
    units = Units(
        granularity=granularity, size=choice.block_size if granularity == "block" else (1, 1)
    )
    matrices = _matrices(model, plan)
    wanted = plan.total
    kept = None
    if plan.by_score:
        kept = Kept()
        plan = _settled(plan, matrices, expression, units, _Scoring(choice, seed, kept))
    scoring = _Scoring(choice, seed, kept)
    chosen, carried = [], 0
    for layer in plan.layers:
        if layer.count:
            # what whole units left over goes to the next matrix: the total stays within a unit
            here = min(layer.count + carried, layer.params)
            found = _one(
                matrices[layer.name], here, planned=layer.count, expression=expression,
                units=units, scoring=scoring,
            )  # fmt: skip
            carried = layer.count + carried - found.count if granularity != "element" else 0
            chosen.append(found)
        if kept is not None:
            kept.drop(layer.name)
        if choice.on_matrix is not None:
            choice.on_matrix(layer.name)
    return Selection(
        path=plan.path,
        plan=plan,
        score=str(expression),
        granularity=granularity,
        chosen=tuple(x for x in chosen if x.count),
        seed=seed,
        notes=tuple(_remarks(wanted, chosen)),
        keep=word_of(choice.keep),
    )


def _matrices(model: Any, plan: Plan) -> dict[str, WeightMatrix]:
    listed = {x.name: x for x in catalogue(list_tensors(model)).matrices}
    for layer in plan.layers:
        matrix = listed.get(layer.name)
        if matrix is None or matrix.shape != layer.shape:
            got = "there is none" if matrix is None else f"it is {matrix.shape}"
            raise UsageError(
                f"the plan has {layer.name} of {layer.shape}, but in this model {got}: "
                "make a plan from this model"
            )
    return {layer.name: listed[layer.name] for layer in plan.layers}


@dataclass(frozen=True, slots=True)
class _Scoring:
    """What scoring a matrix takes beside the expression."""

    choice: Choice
    seed: int
    kept: Kept | None = None


def _subject(matrix: WeightMatrix, scoring: _Scoring) -> Subject:
    choice = scoring.choice
    weight = matrix.loader.load()
    if not np.isfinite(weight).all():
        bad = int(np.count_nonzero(~np.isfinite(weight)))
        raise ModelError(
            f"{matrix.name} {matrix.shape} holds {bad} NaN or infinite weights: leave it out with "
            "exclude, or mend the model"
        )
    gradient = (choice.gradients or {}).get(matrix.name)
    if gradient is not None:
        for what, values in (("gradient", gradient.mean), ("squared gradient", gradient.square)):
            if values.shape != matrix.shape:
                raise UsageError(
                    f"the {what} of {matrix.name} must be {matrix.shape}, got {values.shape}"
                )
            if not np.isfinite(values).all():
                raise UsageError(
                    f"the {what} of {matrix.name} must be finite, got NaN or infinite entries: "
                    "the loss of a batch was not finite"
                )
    return Subject(
        name=matrix.name,
        weight=weight,
        gradient=gradient,
        alpha=_alpha(choice.report, matrix.name),
        rank=choice.rank,
        seed=scoring.seed,
        kept=scoring.kept,
        bits=choice.bits,
        group=choice.group,
    )


def _alpha(report: ModelReport | None, name: str) -> float:
    layers = () if report is None else report.layers
    return next((x.values.get("alpha", math.nan) for x in layers if x.name == name), math.nan)


def _scores(
    subject: Subject, expression: Expression, choice: Choice, mask: np.ndarray | None
) -> tuple[Scored, int]:
    scores = expression(subject)
    if choice.protect:
        scores = spare(scores, subject, choice.protect, choice.protect_strength)
    scores, dead = without_dead(scores, subject)
    return (scores if mask is None else without_pruned(scores, mask)), dead


def _one(
    matrix: WeightMatrix,
    wanted: int,
    *,
    planned: int,
    expression: Expression,
    units: Units,
    scoring: _Scoring,
) -> Chosen:
    subject = _subject(matrix, scoring)
    mask = kept_mask(scoring.choice.keep, matrix, subject.weight)
    scores, dead = _scores(subject, expression, scoring.choice, mask)
    facts = {"wanted": float(wanted), "dead": float(dead)}
    sizes = None
    if mask is not None:
        left = int(mask.sum())
        refuse_beyond_kept(matrix.name, planned, left, mask.size)
        facts["pruned"] = float(mask.size - left)
        if units.granularity != "element":
            sizes = kept_in_units(mask, units)
    index = choose(scores, wanted, units, sizes)
    single = None if mask is None else kept_entries(index, mask, units)
    if single is not None:
        index, units = single, ELEMENTS
    held = int(unit_sizes(index, matrix.shape, units.granularity, units.size).sum())
    return Chosen(
        name=matrix.name,
        shape=matrix.shape,
        dtype=matrix.dtype,
        granularity=units.granularity,
        index=index,
        count=held,
        block_size=units.size,
        digest=matrix.loader.fingerprint(),
        facts=facts,
    )


def _settled(
    plan: Plan,
    matrices: Mapping[str, WeightMatrix],
    expression: Expression,
    units: Units,
    scoring: _Scoring,
) -> Plan:
    """The plan with the counts of one threshold over all normalised scores.

    A map reads its matrix again whenever it is asked: none is kept, but for thin factors.
    """
    maps = {}
    for name, matrix in matrices.items():
        maps[name] = _Reread(matrix, expression, scoring)
    bounds = plan.budget
    left = {x.name: x.params for x in plan.layers}
    sizes: dict[str, np.ndarray] = {}
    if scoring.choice.keep is not None:
        left, sizes = _kept(plan, matrices, units, scoring)
    counts = settle(
        maps,
        plan.total,
        {x.name: math.ceil(bounds.floor * x.params) for x in plan.layers},
        {x.name: min(left[x.name], math.floor(bounds.cap * x.params)) for x in plan.layers},
        units,
        sizes,
    )
    mean = plan.total / plan.params
    layers = tuple(
        replace(
            x,
            count=counts[x.name],
            reason=f"{counts[x.name] / x.params / mean:.2f} of the even share by one threshold",
        )
        for x in plan.layers
    )
    return replace(plan, layers=layers, by_score=False)


def _kept(
    plan: Plan, matrices: Mapping[str, WeightMatrix], units: Units, scoring: _Scoring
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Weights left in every matrix, and in the units of those that lost some."""
    left: dict[str, int] = {}
    sizes: dict[str, np.ndarray] = {}
    for layer in plan.layers:
        mask = kept_mask(
            scoring.choice.keep, matrices[layer.name], matrices[layer.name].loader.load()
        )
        left[layer.name] = layer.params if mask is None else int(mask.sum())
        floor = math.ceil(plan.budget.floor * layer.params)
        refuse_beyond_kept(layer.name, floor, left[layer.name], layer.params)
        if mask is not None and units.granularity != "element":
            sizes[layer.name] = kept_in_units(mask, units)
    refuse_beyond_kept("all matrices", plan.total, sum(left.values()), plan.params)
    return left, sizes


@dataclass(slots=True, eq=False)
class _Reread:
    """Normalised scores of a matrix that is loaded for every pass and dropped after it."""

    matrix: WeightMatrix
    expression: Expression
    scoring: _Scoring
    _made: Scored | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def slab(self, start: int, stop: int) -> np.ndarray:
        if self._made is None or start == 0:
            subject = _subject(self.matrix, self.scoring)
            mask = kept_mask(self.scoring.choice.keep, self.matrix, subject.weight)
            scores = _scores(subject, self.expression, self.scoring.choice, mask)[0]
            self._made = normalised(scores, self.expression.weight(subject))
        slab = self._made.slab(start, stop)
        if stop == self.shape[0]:
            self._made = None
        return slab


def _remarks(wanted: int, chosen: list[Chosen]) -> Iterator[str]:
    missing = wanted - sum(x.count for x in chosen)
    if missing:
        yield (
            f"{missing:,} of {wanted:,} weights of the plan are not chosen: whole units did "
            "not fit, or too few weights are alive"
        )
    dead = sum(int(x.facts["dead"]) for x in chosen)
    if dead:
        yield f"{dead:,} dead weights were kept out"
    pruned = sum(int(x.facts.get("pruned", 0)) for x in chosen)
    if pruned:
        yield f"{pruned:,} pruned weights were kept out"
