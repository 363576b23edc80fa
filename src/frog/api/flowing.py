"""Correlation flow: a model becomes pairs of matrices and the heaviest paths through them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from frog.errors import UsageError
from frog.metrics.flow import measure_pairs
from frog.metrics.pathways import heaviest
from frog.types import Catalogue, ModelReport, Pair, Pathway, Settings
from frog.weights.catalogue import catalogue
from frog.weights.source import list_tensors
from frog.weights.stored import TensorList
from frog.weights.wiring import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The pairs of a model in the order of its flow, its heaviest paths, and remarks."""

    pairs: tuple[Pair, ...]
    pathways: tuple[Pathway, ...]
    notes: tuple[str, ...] = ()


def flow(model: Any, *, base: Any = None, rank: int = 16, seed: int = 0) -> Flow:
    """How far what each matrix writes lies in what the next ones read: no data, no forward pass.

    overlap_k(A, B) = ||U_A,k^T V_B,k||_F^2 / k of the ``rank`` leading directions (fewer where
    the space is small), against its exact null: see :class:`~frog.types.Pair`. ``model`` and
    ``base`` are as for :func:`frog.analyze`. Pathways are the heaviest paths, which does not make
    them critical: ablating them did not reliably hurt more than random changes of the same rank
    and norm (design note 005). ``seed`` starts the iteration that finds the directions. Raises
    :class:`~frog.errors.ModelError` when the model cannot be read and
    :class:`~frog.errors.UsageError` for a rank below 1.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    >>> pair, = flow(net).pairs
    >>> pair.writer, pair.reader, pair.overlaps["plain"].expected
    ('0.weight', '1.weight', 0.25)
    """
    settings = Settings(flow=True, flow_rank=rank, seed=seed)
    check_flow(settings)
    tensors = list_tensors(model, base=base)
    return measure_flow(tensors, catalogue(tensors), settings)


def measure_flow(tensors: TensorList, listed: Catalogue, settings: Settings) -> Flow:
    """The flow through the matrices that ``listed`` still has."""
    wiring = wire(tensors, listed)
    matrices = {matrix.name: matrix for matrix in listed.matrices}
    pairs, remarks = measure_pairs(wiring, matrices, settings)
    pathways, notes = heaviest(pairs, matrices)
    return Flow(pairs=pairs, pathways=pathways, notes=(*wiring.notes, *remarks, *notes))


def with_flow(report: ModelReport, tensors: TensorList, listed: Catalogue) -> ModelReport:
    """The report with the flow of the same model."""
    found = measure_flow(tensors, listed, report.settings)
    notes = (*report.notes, *found.notes)
    return replace(report, pairs=found.pairs, pathways=found.pathways, notes=notes)


def check_flow(settings: Settings, shard: tuple[int, int] | None = None) -> None:
    """Raise :class:`~frog.errors.UsageError` where the flow cannot be measured as asked."""
    if settings.flow_rank < 1:
        raise UsageError(f"flow_rank must be at least 1, got {settings.flow_rank}")
    if settings.flow and settings.compat is not None:
        raise UsageError(
            "flow needs fused tensors split, which compat mode does not do: measure it without "
            "compat"
        )
    if settings.flow and shard is not None:
        raise UsageError(
            "flow joins all matrices, but a shard measures only some: leave flow out of the "
            "shards, and measure it on the whole model (frog.flow, or --flow without --shard)"
        )
