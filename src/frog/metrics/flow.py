"""Correlation flow: how far what one matrix writes lies in what the next ones read.

FROG's own measure (the word is WeightWatcher's, for alpha over depth: see
:mod:`frog.metrics.depth`), of weights alone. For a writer A and a reader B over the same n
coordinates, overlap_k(A, B) = ||U_A,k^T V_B,k||_F^2 / k, with the k leading left singular vectors
of A and right singular vectors of B; independent directions give k / n with a known spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from frog.metrics.faces import Face, reader_face, writer_face
from frog.numerics.similarity import overlap, overlap_null
from frog.types import Edge, Overlap, Pair, Settings, WeightMatrix, Wiring

OUTLIER_MADS = 6.0
"""Robust standard deviations beyond which a coordinate of the stream is an outlier."""

OUTLIER_SHARE = 0.01
"""Largest share of the coordinates that are removed, rounded up."""

MAD_TO_STD = 1.4826

DIRECTIONS_SHARE = 4
"""At most n / 4 directions are compared: with more, two subspaces must overlap anyway."""


def measure_pairs(
    wiring: Wiring, matrices: Mapping[str, WeightMatrix], settings: Settings
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Every edge of a wiring as measured, in its order and by head, and notes.

    Three readings: ``plain``; ``trimmed``, without the outlier coordinates of the residual stream
    (:func:`outliers`), whose null is that of the n that are left; ``folded``, trimmed and with
    the gains that stand between writer and reader multiplied in, where they stand: W diag(g) of
    a reader behind a LayerNorm, diag(g) W of a writer before a BatchNorm. The centring of a
    LayerNorm is left out.
    """
    desk = _Desk(wiring, matrices, settings)
    pairs: list[Pair] = []
    for place, edge in enumerate(wiring.edges):
        pairs += desk.measure(edge)
        desk.forget(place)
    return tuple(pairs), tuple(desk.notes)


def outliers(energies_wn: np.ndarray) -> np.ndarray:
    """Coordinates of a stream into which its writers put far more than into the others.

    The rows are the squared row norms of each writer, which are divided by their mean and then
    averaged over the writers: e. Outliers are coordinates with
    e > median + 6 * 1.4826 * MAD, the largest first, at most one in a hundred (rounded up).

    >>> outliers(np.array([[1.0, 1.1, 0.9, 1.0, 9.0], [2.0, 2.2, 1.9, 2.1, 7.0]])).tolist()
    [4]
    """
    means = np.mean(energies_wn, axis=1, keepdims=True)
    kept = energies_wn[np.isfinite(means[:, 0]) & (means[:, 0] > 0)]
    if not len(kept):
        return np.empty(0, dtype=int)
    e = np.mean(kept / np.mean(kept, axis=1, keepdims=True), axis=0)
    middle = np.median(e)
    spread = MAD_TO_STD * np.median(np.abs(e - middle))
    most = int(np.ceil(OUTLIER_SHARE * len(e)))
    order = np.argsort(-e, kind="stable")[:most]
    return np.sort(order[e[order] > middle + OUTLIER_MADS * spread])


@dataclass
class _Desk:
    """Faces that are still needed, and the outliers of every stream."""

    wiring: Wiring
    matrices: Mapping[str, WeightMatrix]
    settings: Settings
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._faces: dict[tuple[str, str], Face] = {}
        self._directions: dict[tuple[str, str, str, int], np.ndarray] = {}
        self._last: dict[tuple[str, str], int] = {}
        for place, edge in enumerate(self.wiring.edges):
            for key in self._keys(edge):
                self._last[key] = place
        self._outliers = self._find_outliers()

    # ------------------------------------------------------------------------- one edge

    def measure(self, edge: Edge) -> Iterator[Pair]:
        """The pairs of an edge: one, or one for each query head."""
        writer, reader = (self._face(*key, edge) for key in self._keys(edge))
        if edge.heads is None:
            gain = _ratio(writer.product_norm(reader), writer.norm * reader.norm)
            yield self._pair(edge, self._readings(edge, writer, reader), gain)
            return
        size, shared_by = edge.heads.size, edge.heads.queries // edge.heads.shared
        for head in range(edge.heads.queries):
            own = slice(head * size, (head + 1) * size)
            kv = slice(head // shared_by * size, (head // shared_by + 1) * size)
            first, second = (own, kv) if edge.kind == "qk" else (kv, own)
            parts = writer.part(first), reader.part(second)
            own_gain = _ratio(parts[0].product_norm(parts[1]), parts[0].norm * parts[1].norm)
            scales = [
                None if g is None else g[rows]
                for g, rows in zip(self._between(edge), (first, second), strict=True)
            ]
            k = self._k(*parts)
            overlaps = {"plain": _compared(*parts, k, self.settings.seed)}
            if any(x is not None for x in scales):
                every = slice(None)
                folded = [x.part(every, g) for x, g in zip(parts, scales, strict=True)]
                overlaps["folded"] = _compared(folded[0], folded[1], k, self.settings.seed)
            yield self._pair(edge, (overlaps, k, size), own_gain, head)

    def _readings(
        self, edge: Edge, writer: Face, reader: Face
    ) -> tuple[dict[str, Overlap | None], int, int]:
        k, seed = self._k(writer, reader), self.settings.seed
        removed = self._outliers.get(edge.reader, np.empty(0, dtype=int))
        removed = removed if edge.kind == "residual" else removed[:0]
        kept = np.setdiff1d(np.arange(writer.n), removed)
        w_key, r_key = self._keys(edge)

        def top(face: Face, key: tuple[str, str], reading: str, scale: np.ndarray | None) -> Any:
            if reading == "folded" and scale is None:
                reading = "trimmed" if len(removed) else "plain"
            found = self._directions.get((*key, reading, k))
            if found is None:
                part = face if reading == "plain" else face.part(kept, scale)
                found = self._directions[(*key, reading, k)] = part.directions(k, seed)
            return found

        between = self._between(edge)
        readings: dict[str, Overlap | None] = {}
        for reading in ("plain", "trimmed", "folded"):
            if reading == "trimmed" and not len(removed):
                continue
            if reading == "folded" and all(x is None for x in between):
                continue
            scales = between if reading == "folded" else (None, None)
            u = top(writer, w_key, reading, scales[0])
            v = top(reader, r_key, reading, scales[1])
            readings[reading] = _overlap(u, v)
        return readings, k, writer.n

    def _pair(
        self,
        edge: Edge,
        measured: tuple[Mapping[str, Overlap | None], int, int],
        gain: float,
        head: int | None = None,
    ) -> Pair:
        overlaps, k, n = measured
        found = {reading: x for reading, x in overlaps.items() if x is not None}
        return Pair(
            writer=edge.writer,
            reader=edge.reader,
            kind=edge.kind,
            k=k,
            dimension=n,
            overlaps=found,
            head=head,
            gain=gain,
            weight=edge_weight(found, gain),
        )

    def _k(self, writer: Face, reader: Face) -> int:
        share = max(1, writer.n // DIRECTIONS_SHARE)
        return min(self.settings.flow_rank, share, writer.rank, reader.rank)

    # ------------------------------------------------------------------ what is at hand

    def _keys(self, edge: Edge) -> tuple[tuple[str, str], tuple[str, str]]:
        return (edge.writer, "writes"), (edge.reader, "writes" if edge.kind == "qk" else "reads")

    def _face(self, name: str, side: str, edge: Edge) -> Face:
        key = (name, side)
        if key not in self._faces:
            matrix = self.matrices[name]
            if side == "writes":
                self._faces[key] = writer_face(matrix)
            else:
                n = self._face(edge.writer, "writes", edge).n
                if edge.heads is not None:
                    n = matrix.shape[1]  # heads may share what is written
                self._faces[key] = reader_face(matrix, n)
        return self._faces[key]

    def forget(self, place: int) -> None:
        """Drop what no edge behind this one needs: a few blocks are in memory at a time."""
        done = {key for key in self._faces if self._last[key] <= place}
        self._faces = {key: x for key, x in self._faces.items() if key not in done}
        kept = {key: x for key, x in self._directions.items() if key[:2] not in done}
        self._directions = kept

    def _between(self, edge: Edge) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Gains between writer and reader: behind the one, before the other."""
        sides = ("output", "output" if edge.kind == "qk" else "input")
        found = []
        for name, side in zip((edge.writer, edge.reader), sides, strict=True):
            gains = [g.load() for g in self.wiring.gains.get(name, ()) if g.side == side]
            found.append(np.prod(gains, axis=0) if gains else None)
        return found[0], found[1]

    def _find_outliers(self) -> dict[str, np.ndarray]:
        """Outlier coordinates by reader: of the stream that it reads."""
        stream: dict[tuple[str, str], tuple[str, str]] = {}

        def root(key: tuple[str, str]) -> tuple[str, str]:
            while stream.setdefault(key, key) != key:
                key = stream[key]
            return key

        residual = [edge for edge in self.wiring.edges if edge.kind == "residual"]
        for edge in residual:
            writes, reads = self._keys(edge)
            stream[root(reads)] = root(writes)
        energies: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        for edge in residual:
            writes = self._keys(edge)[0]
            held = energies.setdefault(root(writes), {})
            if edge.writer not in held:
                held[edge.writer] = _row_energy(self.matrices[edge.writer])
        found = {key: outliers(np.stack(list(x.values()))) for key, x in energies.items()}
        for key, coordinates in found.items():
            if len(coordinates):
                shown = ", ".join(map(str, coordinates[:6]))
                shown += ", ..." if len(coordinates) > 6 else ""
                many = "" if len(coordinates) == 1 else "s"
                where = f" of the stream of {key[0]}" if len(found) > 1 else ""
                self.notes.append(
                    f"flow: trimmed and folded readings leave out {len(coordinates)} outlier "
                    f"coordinate{many}{where}: {shown}"
                )
        return {edge.reader: found[root(self._keys(edge)[0])] for edge in residual}


def edge_weight(overlaps: Mapping[str, Overlap], gain: float) -> float:
    """What the graph uses: z of the strictest reading times the gain, 0 where there is none."""
    strictest = strictest_reading(overlaps)
    if strictest is None or not np.isfinite(strictest.z * gain):
        return 0.0
    return strictest.z * gain


def strictest_reading(overlaps: Mapping[str, Overlap]) -> Overlap | None:
    """The reading that can be faked least: folded, else trimmed, else plain."""
    return next((overlaps[x] for x in ("folded", "trimmed", "plain") if x in overlaps), None)


def _compared(writer: Face, reader: Face, k: int, seed: int) -> Overlap | None:
    return _overlap(writer.directions(k, seed), reader.directions(k, seed))


def _overlap(u_nk: np.ndarray, v_nk: np.ndarray) -> Overlap | None:
    """None where a matrix has no k directions, being zero or not finite."""
    if not (np.isfinite(u_nk).all() and np.isfinite(v_nk).all()):
        return None
    n, k = u_nk.shape
    value = overlap(u_nk, v_nk)
    expected, spread = overlap_null(k, k, n)
    z = (value - expected) / spread if spread > 0 else float("nan")
    return Overlap(value=value, expected=expected, spread=spread, z=z)


def _row_energy(matrix: WeightMatrix) -> np.ndarray:
    """Squared norms of what a writer puts into every coordinate, read in slabs."""
    columns = matrix.kind == "embedding"
    parts: Sequence[np.ndarray] = [
        np.sum(np.square(np.asarray(slab, dtype=np.float64)), axis=0 if columns else 1)
        for slab in matrix.loader.blocks(0, 4096)
    ]
    return np.sum(parts, axis=0) if columns else np.concatenate(parts)


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 and np.isfinite(above / below) else 0.0
