"""Which matrix writes what which other reads, and the gains that stand between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The vector by which a normalisation multiplies one side of a matrix.

    ``side`` is ``input`` (a LayerNorm or RMSNorm before a reader: W diag(g), g of length n) or
    ``output`` (a BatchNorm after a convolution: diag(g) W, g of length m). ``tensor`` names its
    weight on disk. ``load()`` gives g, float64: the weight itself, 1 + weight where the model
    adds one (Gemma), weight / sqrt(running variance + eps) for BatchNorm.
    """

    side: str
    tensor: str
    load: Callable[[], np.ndarray] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """How an attention circuit splits: heads of ``size`` rows; ``queries`` share ``shared`` kv.

    Query head h reads from key and value head h // (queries // shared).
    """

    queries: int
    shared: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One matrix writes what another reads; both by canonical name.

    ``kind``: ``residual`` (through the residual stream, within a block or to the next one),
    ``activation`` (up to down, through an elementwise function), ``ov`` (value to output, per
    head), ``qk`` (query against key, per head: both read the stream, their rows meet),
    ``sequential`` (to the next layer of a plain network).
    """

    writer: str
    reader: str
    kind: str
    heads: Heads | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """All edges of a model, and the gains by matrix; ``notes`` say what was not understood."""

    edges: tuple[Edge, ...] = ()
    gains: Mapping[str, tuple[Gain, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
