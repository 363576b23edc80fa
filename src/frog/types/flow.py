"""Correlation flow: pairs of matrices, the heaviest paths, a metric over depth, a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How far the k leading directions of a writer lie in those of a reader.

    ``value`` = ||U_k^T V_k||_F^2 / k in [0, 1]; random directions in n dimensions give
    ``expected`` = k / n with standard deviation ``spread``; ``z`` = (value - expected) / spread.
    """

    value: float
    expected: float
    spread: float
    z: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An edge as measured: writer, reader, and their overlap in up to three readings.

    ``overlaps`` maps ``plain``, ``trimmed`` (outlier coordinates of the stream removed) and
    ``folded`` (normalisation gain folded into the reader, outliers removed too) to an
    :class:`Overlap`; a reading that does not apply is absent. ``head`` is the query head of an
    ``ov`` or ``qk`` edge. ``gain`` is ||R W||_F / (||R||_F ||W||_F) of the whole matrices,
    ``weight`` what the graph uses.
    """

    writer: str
    reader: str
    kind: str
    k: int
    dimension: int
    overlaps: Mapping[str, Overlap] = field(default_factory=dict)
    head: int | None = None
    gain: float
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pathway:
    """One path of the graph, heaviest first; ``layers`` from the input side to the output side.

    ``heads`` names the head of each step (None where the step has none); ``weight`` is the mean
    edge weight, ``weakest`` that of the lightest edge.
    """

    layers: tuple[str, ...]
    heads: tuple[int | None, ...]
    weight: float
    weakest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthProfile:
    """One metric over depth for one role: WeightWatcher's correlation flow, with statistics.

    ``slope`` per block (Theil-Sen, with its 95 % interval ``slope_low``..``slope_high``),
    ``roughness`` = median |difference of neighbours|, ``outside`` = share of layers beyond the
    usual range of the metric (NaN where it has none). ``blocks`` and ``values`` are the points.
    """

    role: str
    metric: str
    blocks: tuple[int, ...]
    values: tuple[float, ...]
    slope: float
    slope_low: float
    slope_high: float
    roughness: float
    outside: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A layer's place among those most worth tuning, 1 first, with the reason in words."""

    layer: str
    place: int
    score: float
    reason: str
