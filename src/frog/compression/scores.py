"""How much a unit matters: one number for each, from weights, forward passes or losses.

A score is a function from :class:`Evidence` to a number by unit, with the decorator
``@unit_score``. It declares what it ``needs`` (``weights``, ``forward``, ``loss``) and the
``direction`` in which a unit is worth keeping (``high`` or ``low``). A minus before the name turns
the direction round: on a small encoder the published sign of alpha was worse than none.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from frog.compression.live import LiveUnit, inference, read, restored, write
from frog.errors import UsageError
from frog.numerics.rounding import Rounding, squared_error
from frog.registry import Registry
from frog.types import ModelReport, WeightMatrix

DUMITRU_2024 = "Dumitru et al. 2024, arXiv:2406.17415"

Z = 1.0
"""Standard deviations above the mean from which ``zd`` counts a weight."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What scores are made of; each says what it misses.

    ``outputs(model, batch)`` runs the model, ``loss(model, batch)`` gives a scalar. ``epsilon``,
    ``draws`` and ``seed`` are for ``zeroth-order``: size of a step, noises for each batch.
    """

    model: nn.Module
    units: tuple[LiveUnit, ...]
    rounding: Rounding = field(default_factory=lambda: Rounding(bits=4))
    report: ModelReport | None = None
    batches: Sequence[Any] = ()
    outputs: Callable[[nn.Module, Any], Any] | None = None
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    epsilon: float = 1e-3
    draws: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitScore:
    """One way to score units."""

    name: str
    needs: str
    direction: str
    source: str
    function: Callable[[Evidence], dict[str, float]]

    def __call__(self, evidence: Evidence) -> dict[str, float]:
        """The score of every unit, by name; NaN where it has none."""
        return self.function(evidence)

    def importance(self, evidence: Evidence) -> dict[str, float]:
        """The same with the sign with which higher means keep."""
        sign = 1.0 if self.direction == "high" else -1.0
        return {name: sign * value for name, value in self(evidence).items()}

    @property
    def meaning(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


UNIT_SCORES: Registry[UnitScore] = Registry("score of units")

Function = Callable[[Evidence], dict[str, float]]


def unit_score(
    name: str, *, needs: str, direction: str, source: str
) -> Callable[[Function], Function]:
    """Register a function ``(evidence) -> {unit: number}`` and give it back unchanged."""

    def register(function: Function) -> Function:
        UNIT_SCORES.add(
            name,
            UnitScore(
                name=name, needs=needs, direction=direction, source=source, function=function
            ),
        )
        return function

    return register


def score_named(name: str) -> UnitScore:
    """The score of that name; ``-name`` is the same with its direction turned round.

    >>> score_named("alpha").direction, score_named("-alpha").direction
    ('low', 'high')
    """
    found = UNIT_SCORES[name.removeprefix("-")]
    if not name.startswith("-"):
        return found
    return replace(found, name=name, direction="low" if found.direction == "high" else "high")


@unit_score("rounding-error", needs="weights", direction="high", source="FROG")
def rounding_error_of(evidence: Evidence) -> dict[str, float]:
    """||W - Q|| / ||W|| of rounding to nearest, over all matrices of the unit."""
    found = {}
    for unit in evidence.units:
        parts = [squared_error(read(evidence.model, x), evidence.rounding) for x in unit.matrices]
        lost, whole = (math.fsum(x) for x in zip(*parts, strict=True))
        found[unit.name] = math.sqrt(lost / whole) if whole > 0 else 0.0
    return found


@unit_score("zd", needs="weights", direction="low", source=DUMITRU_2024)
def zd(evidence: Evidence) -> dict[str, float]:
    """Share of the unit's weights more than one standard deviation above their mean."""
    found = {}
    for unit in evidence.units:
        count, total = 0, 0.0
        for matrix in unit.matrices:
            weight = read(evidence.model, matrix)
            count += weight.numel()
            total += float(weight.sum(dtype=torch.float64))
        mean = total / count
        spread = math.fsum(
            float((read(evidence.model, x).double() - mean).square_().sum()) for x in unit.matrices
        )
        beyond = mean + Z * math.sqrt(spread / count)
        above = sum(int((read(evidence.model, x).double() > beyond).sum()) for x in unit.matrices)
        # rounding errors of the mean are no spread
        found[unit.name] = above / count if beyond > mean else 0.0
    return found


@unit_score("alpha", needs="weights", direction="low", source="Lu et al. 2024, arXiv:2410.10912")
def alpha(evidence: Evidence) -> dict[str, float]:
    """Mean alpha of the unit's matrices in the report; as published, high alpha is pruned more."""
    return _mean_of(evidence, "alpha")


@unit_score("over-parameterised", needs="weights", direction="low", source="FROG")
def over_parameterised(evidence: Evidence) -> dict[str, float]:
    """Mean degree of randomness of the unit's matrices in the report: 1 is like random ones."""
    return _mean_of(evidence, "randomness")


def _mean_of(evidence: Evidence, metric: str) -> dict[str, float]:
    """Mean over the matrices of a unit that have a value; NaN where none has."""
    if evidence.report is None:
        raise UsageError(
            f"a score from '{metric}' needs a report of the model, got none: give "
            "frog.analyze(model)"
        )
    values = {
        name: layer.values.get(metric, math.nan)
        for layer in evidence.report.measured
        for name in (layer.name, *layer.aliases)
    }
    found = {}
    for unit in evidence.units:
        for matrix in unit.matrices:
            if matrix.name not in values:
                raise UsageError(
                    f"the report has no {matrix.name}: make it of this model, or leave it out"
                )
        known = [values[x.name] for x in unit.matrices if not math.isnan(values[x.name])]
        found[unit.name] = math.fsum(known) / len(known) if known else math.nan
    return found


@unit_score("lim", needs="forward", direction="high", source=DUMITRU_2024)
def lim(evidence: Evidence) -> dict[str, float]:
    """-cos(x_in, x_out) of the unit's module, mean over tokens and batches: -1 changes nothing.

    All positions count the same: give batches without padding.
    """
    if evidence.outputs is None or not evidence.batches:
        raise UsageError("'lim' needs batches and outputs(model, batch), got none: give both")
    sums: dict[str, tuple[float, int]] = {}
    handles = []

    def tap(name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
        ) -> None:
            before = args[0] if args else kwargs.get("hidden_states")
            after = out[0] if isinstance(out, (tuple, list)) else out
            if not isinstance(before, Tensor) or not isinstance(after, Tensor):
                raise UsageError(
                    f"'lim' needs a tensor into and out of {name}, got "
                    f"{type(before).__name__} and {type(after).__name__}: take units of blocks"
                )
            if before.shape != after.shape:
                raise UsageError(
                    f"'lim' needs inputs and outputs of one shape, {name} has "
                    f"{tuple(before.shape)} and {tuple(after.shape)}: take units of blocks"
                )
            cosine = torch.cosine_similarity(before.double(), after.double(), dim=-1)
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total - float(cosine.sum()), count + cosine.numel())

        return hook

    try:
        for unit in evidence.units:
            module = evidence.model.get_submodule(unit.module)
            handles.append(module.register_forward_hook(tap(unit.name), with_kwargs=True))
        with inference(evidence.model):
            for batch in evidence.batches:
                evidence.outputs(evidence.model, batch)
    finally:
        for handle in handles:
            handle.remove()
    pairs = {x.name: sums.get(x.name, (0.0, 0)) for x in evidence.units}
    return {name: total / count if count else math.nan for name, (total, count) in pairs.items()}


@unit_score("zeroth-order", needs="loss", direction="high",
            source="Sung et al. 2023, ECoFLaP, arXiv:2310.02998")  # fmt: skip
def zeroth_order(evidence: Evidence) -> dict[str, float]:
    """Mean |L(w + eps z) - L(w - eps z)| / (2 eps), summed over the unit's matrices.

    Each matrix moves alone, with normal noise z for each batch and draw that is made anew from its
    seed: beside the model there are a copy of one matrix and one noise. Its expectation is
    sqrt(2/pi) times the norm of the gradient. Weights of 16 bits lose most of a step of 1e-3:
    load the model in float32.
    """
    if evidence.loss is None or not evidence.batches:
        raise UsageError("'zeroth-order' needs batches and loss(model, batch), got none: give both")
    if not evidence.epsilon > 0 or evidence.draws < 1:
        raise UsageError(
            f"epsilon must be above 0 and draws 1 or more, got {evidence.epsilon} and "
            f"{evidence.draws}"
        )
    with inference(evidence.model):
        return {
            unit.name: math.fsum(_slope(evidence, matrix) for matrix in unit.matrices)
            for unit in evidence.units
        }


def _slope(evidence: Evidence, matrix: WeightMatrix) -> float:
    """The mean size of the directional derivative of one matrix."""
    assert evidence.loss is not None
    slopes = []
    with restored(evidence.model, [matrix]) as (weight,):
        for number, batch in enumerate(evidence.batches):
            for draw in range(evidence.draws):
                ends = []
                for step in (evidence.epsilon, -evidence.epsilon):
                    moved = _noise(evidence.seed, matrix.name, number, draw, like=weight)
                    write(evidence.model, matrix, moved.mul_(step).add_(weight))
                    del moved  # before the next is made
                    ends.append(float(evidence.loss(evidence.model, batch)))
                slopes.append(abs(ends[0] - ends[1]) / (2 * evidence.epsilon))
    return math.fsum(slopes) / len(slopes)


def _noise(seed: int, name: str, batch: int, draw: int, *, like: Tensor) -> Tensor:
    """Normal noise of a matrix, the same for the same words on any device."""
    words = f"{seed}/{name}/{batch}/{draw}".encode("utf-8", "backslashreplace")
    key = int.from_bytes(hashlib.blake2b(words, digest_size=7).digest(), "little")
    made = torch.randn(like.shape, generator=torch.Generator().manual_seed(key))
    return made.to(like.device, torch.promote_types(like.dtype, torch.float32))
