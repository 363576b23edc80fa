"""A matrix with its entries in random order: what of its spectrum the values alone make.

Every correlation between entries goes, the values stay. An eigenvalue that still stands out then
comes from a few huge entries: a correlation trap, in the words of WeightWatcher.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from frog.numerics.random_matrix import LEVEL, LOOKS, bulk_edge, bulk_variance
from frog.numerics.spectrum import spectrum
from frog.types import NAN, Loader

COARSE = 1e-3
"""Error of the median eigenvalue, relative to itself, up to which single precision will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffled:
    """What N permutations of one matrix gave, one entry for each; empty without any.

    ``largest`` eigenvalue, ``distance`` of its spectrum to that of the matrix, number of ``traps``.
    """

    largest: tuple[float, ...] = ()
    distance: tuple[float, ...] = ()
    traps: tuple[float, ...] = ()


def shuffle(
    loader: Loader,
    eigenvalues: np.ndarray,
    shape: tuple[int, int],
    *,
    count: int,
    seed: tuple[int, str],
    device: str = "cpu",
) -> Shuffled:
    """Permute the entries ``count`` times and measure each matrix; empty for a zero or NaN one.

    traps = #{lambda > edge}, the :func:`~frog.numerics.random_matrix.bulk_edge` at level 0.1 %
    over ``count``. Not counted is the one eigenvalue that the mean of the entries makes, which no
    permutation changes: one is subtracted where mean^2 > v / sqrt(m n), above which a rank-one
    part stands out of a random matrix of variance v. NaN for r < 8. Single precision where it is
    enough: another permutation differs by more.

    ``eigenvalues`` (k,) of the matrix, descending. The order follows from ``seed``, a number and
    a name, alone. Needs the matrix twice in memory.
    Source: the permutation: Martin & Mahoney 2021, JMLR 22(165); the limit of the mean:
    Benaych-Georges & Nadakuditi 2012, J. Multivariate Anal. 111, theorem 2.8.
    """
    if not len(eigenvalues) or not 0.0 < eigenvalues[0] < math.inf:
        return Shuffled()
    rows = []
    for order in _permutations(loader, shape, count, seed):
        found = _eigenvalues(order, shape, device)
        edge = bulk_edge(found, shape, p=LEVEL / len(LOOKS) / count)
        traps = NAN if math.isnan(edge) else float(np.count_nonzero(found > edge))
        stands_out = bulk_variance(found, shape) / math.sqrt(order.flat.size)
        if traps > 0 and order.mean**2 > stands_out:
            traps -= 1.0
        rows.append((found[0], shuffle_distance(eigenvalues, found), traps))
    largest, distance, traps = (tuple(map(float, column)) for column in zip(*rows, strict=True))
    return Shuffled(largest=largest, distance=distance, traps=traps)


def _eigenvalues(order: _Order, shape: tuple[int, int], device: str) -> np.ndarray:
    """Descending; again in double precision where the bulk is near the error of the largest."""
    found = spectrum(order, shape, precision="fast", device=device)
    values = found.eigenvalues
    if values[0] * found.resolution < COARSE * values[len(values) // 2]:
        return values
    return spectrum(order, shape, device=device).eigenvalues


class _Order:
    """A loader of the matrix with its entries in another order."""

    def __init__(self, flat: np.ndarray, shape: tuple[int, int], mean: float) -> None:
        self.flat, self.shape, self.mean = flat, shape, mean

    def load(self) -> np.ndarray:
        return self.flat.reshape(self.shape)

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        array = self.load()
        for start in range(0, self.shape[axis], size):
            part = slice(start, start + size)
            yield array[part] if axis == 0 else array[:, part]

    def fingerprint(self) -> str:
        raise NotImplementedError("a permutation is never kept")


def _permutations(
    loader: Loader, shape: tuple[int, int], count: int, seed: tuple[int, str]
) -> Iterator[_Order]:
    flat = np.array(loader.load(), order="C").reshape(-1)
    if flat.dtype != np.float64:
        flat = flat.astype(np.float32, copy=False)
    mean = float(flat.mean(dtype=np.float64))
    name = hashlib.blake2b(seed[1].encode("utf-8", "surrogatepass"), digest_size=16).digest()
    rng = np.random.default_rng([seed[0], *np.frombuffer(name, np.uint32).tolist()])
    for _ in range(count):
        rng.shuffle(flat)
        yield _Order(flat, shape, mean)


def shuffle_distance(values: np.ndarray, shuffled: np.ndarray) -> float:
    """sqrt(JSD) of two sorted spectra, each divided by its sum, in nats: 0 to sqrt(ln 2).

    As in WeightWatcher the k-th eigenvalue is compared with the k-th: it is no distance between
    densities, and is small for any two spectra of like slope.
    Source: WeightWatcher 0.7.7 (``rand_distance``), described from its behaviour.

    >>> shuffle_distance(np.array([3.0, 1.0]), np.array([6.0, 2.0]))
    0.0
    """
    size = max(len(values), len(shuffled))
    p, q = (np.zeros(size) for _ in range(2))
    p[: len(values)] = values / values.sum()
    q[: len(shuffled)] = shuffled / shuffled.sum()
    middle = 0.5 * (p + q)
    total = 0.0
    for one in (p, q):
        kept = one > 0
        total += float((one[kept] * np.log(one[kept] / middle[kept])).sum())
    return math.sqrt(max(0.5 * total, 0.0))
