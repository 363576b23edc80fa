"""Layer sampling: a model and its report become a sampler that draws layers by quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from frog.allocation.odds import TEMPERATURE, WAYS, Values, probabilities, unit_scores
from frog.errors import UnknownName, UsageError
from frog.metrics.ranking import RANKINGS
from frog.tuning.places import matrix_named
from frog.tuning.sampling import Division, Draws, Sampler, divide
from frog.types import LayerReport, ModelReport, WeightMatrix


class LayerSampler(Sampler):
    """Trains ``active`` whole layers of ``model`` at a time, drawn anew after ``every`` steps.

        sampler = frog.LayerSampler(model, report, active=2, every=20, by="alpha")
        trainer = Trainer(model, args, ..., optimizers=(sampler.optimizer(lr=2e-5), None))
        trainer.train(); sampler.keep()

    A layer is a block of a transformer with all its parameters (``unit="block"``), or where there
    are no blocks a module with a measured matrix (``unit="module"``). Gradients, moments and work
    of the optimizer exist for the active ones only. ``by`` says who is drawn more often:
    ``uniform`` (LISA), ``alpha``, ``randomness``, ``evenness``, or a ranking of ``frog list
    rankings``; ``-alpha`` turns a way round. ``temperature`` says how much more often
    (docs/layer-sampling.md has the formula); a layer never has probability 0. ``always`` are
    regular expressions of parameters that always train; None: all outside the layers (LISA:
    embeddings, last norm, head; so a new head trains). The draws are a function of seed, report
    and step alone. ``report`` may be None where ``by`` is ``uniform``.

    Copies of what has trained are kept in the memory of the CPU, for :meth:`revert` and
    :meth:`delta`. As a context manager it keeps on a normal exit and reverts on an exception.

    Raises :class:`~frog.errors.UsageError` for a report of another model, a pattern or a way that
    does not exist, too many active layers, sharded parameters.

    >>> import torch, frog
    >>> model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(4)))
    >>> sampler = LayerSampler(model, frog.analyze(model), active=1, every=2)
    >>> [turn.units for turn in sampler.schedule(6)]
    [('3',), ('0',), ('1',)]
    >>> sampler.revert()
    """

    def __init__(  # noqa: PLR0913 - settings of a run, all but two by name
        self,
        model: nn.Module,
        report: ModelReport | None,
        *,
        active: int = 2,
        every: int = 20,
        by: str = "uniform",
        temperature: float = TEMPERATURE,
        unit: str = "auto",
        always: Sequence[str] | None = None,
        seed: int = 0,
        frozen_statistics: bool = True,
    ) -> None:
        for name, value, least in (("active", active, 1), ("every", every, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name} must be a whole number from {least}, got {value!r}")
        if report is not None and not isinstance(report, ModelReport):
            raise UsageError(
                f"report must be a ModelReport or None, got {type(report).__name__}: "
                "frog.analyze(model) makes one, frog.ModelReport.from_json reads one"
            )
        division = divide(model, unit, always)
        if active >= len(division.units):
            raise UsageError(
                f"active must be less than the {len(division.units)} {division.kind}s of the "
                f"model, got {active}: with all of them active it is full training"
            )
        scores = _scores(by, report, division)
        draws = Draws(
            active=active,
            every=every,
            seed=seed,
            chances=tuple(float(x) for x in probabilities(scores, temperature)),
            marks=_marks(by, report),
        )
        self.scores = dict(zip((x.name for x in division.units), scores.tolist(), strict=True))
        path = "" if report is None else report.path
        super().__init__(model, division, draws, path=path, frozen_statistics=frozen_statistics)


def ways() -> list[str]:
    """All names for ``by``."""
    return [*WAYS, *RANKINGS]


def _scores(by: str, report: ModelReport | None, division: Division) -> np.ndarray:
    """Standardised scores of the units, (U,)."""
    name = by.removeprefix("-")
    if name not in ways():
        raise UnknownName("way to draw layers", by, ways())
    if report is None:
        if name != "uniform":
            raise UsageError(f"by='{by}' needs a report: give frog.analyze(model)")
        return np.zeros(len(division.units))
    layers, members = _matched(report, division)
    values, errors = _values(name, layers)
    sign = -1.0 if by.startswith("-") else 1.0
    return sign * unit_scores(layers, values, errors, members)


def _values(name: str, layers: Sequence[LayerReport]) -> Values:
    if name in list(WAYS):
        return WAYS[name](layers)
    return [float(x) for x in RANKINGS[name](layers)], None


def _matched(report: ModelReport, division: Division) -> tuple[list[LayerReport], list[list[int]]]:
    """The measured layers of the report that lie in units, and their places by unit."""
    known = {x.name: x for unit in division.units for x in unit.matrices}
    home = {x.name: place for place, u in enumerate(division.units) for x in u.matrices}
    layers: list[LayerReport] = []
    members: list[list[int]] = [[] for _ in division.units]
    for layer in report.layers:
        if not layer.averaged or layer.skipped is not None or layer.failed:
            continue
        matrix = matrix_named(layer.name, known)
        if matrix is not None:
            _must_be_of(layer, matrix)
            members[home[matrix.name]].append(len(layers))
            layers.append(layer)
    if not layers:
        some = ", ".join(list(known)[:3])
        raise UsageError(
            f"the report of {report.path} has none of the matrices of this model ({some}, ...): it "
            "is of another model"
        )
    return layers, members


def _must_be_of(layer: LayerReport, matrix: WeightMatrix) -> None:
    if tuple(layer.shape) != tuple(matrix.shape):
        raise UsageError(
            f"{layer.name} must be {tuple(layer.shape)} as in the report, got {matrix.shape}: the "
            "report is of another model"
        )
    # A model that was loaded in another dtype than it was measured in has other bytes.
    same = layer.dtype == matrix.dtype
    if same and layer.digest and matrix.loader.fingerprint() != layer.digest:
        raise UsageError(
            f"{layer.name} does not hold the weights that were measured: load that model (a "
            "checkpoint of the run is loaded after the LayerSampler is made), or measure this one"
        )


def _marks(by: str, report: ModelReport | None) -> Mapping[str, Any]:
    if report is None:
        return {"by": by}
    layers = sorted((x.name, x.digest, _told(x)) for x in report.measured)
    return {"by": by, "layers": layers}


def _told(layer: LayerReport) -> list[str]:
    """The numbers that draws may rest on, without the last digits that machines disagree on."""
    names = ("alpha", "sigma", "randomness", "entropy")
    numbers = (layer.values.get(name, math.nan) for name in names)
    return [f"{number:.6g}" for number in numbers]
