"""Spectra of many kinds, for the tests of the tail fits."""

from __future__ import annotations

import numpy as np


def pareto(rng, n):
    return rng.pareto(rng.uniform(0.5, 5.0), n) + 1.0


def lognormal(rng, n):
    return rng.lognormal(0.0, rng.uniform(0.2, 2.0), n)


def bulk_and_spikes(rng, n):
    g = rng.standard_normal((n, 2 * n))
    bulk = np.linalg.eigvalsh(g @ g.T)
    spikes = min(n // 10, 8)
    return np.concatenate([bulk[: n - spikes], bulk[-1] * (1.0 + rng.pareto(1.5, spikes))])


def ties(rng, n):
    return np.round(rng.pareto(1.5, n) + 1.0, 1)


def two_clusters(rng, n):
    return np.concatenate([1.0 + 0.1 * rng.random(n - n // 3), 50.0 + rng.random(n // 3)])


def tied_top(rng, n):
    x = rng.pareto(2.0, n) + 1.0
    x[np.argsort(x)[-(n // 4 + 1) :]] = x.max()
    return x


FAMILIES = [pareto, lognormal, bulk_and_spikes, ties, two_clusters, tied_top]
