"""What every way to draw owes: probabilities above 0, no eye for order, the mean where unsure."""

import math

import numpy as np
import pytest

from frog.allocation.odds import WAYS, probabilities, unit_scores, way
from frog.api.sampling import _values, ways
from frog.errors import UsageError
from frog.types import LayerReport
from tests.contracts.test_rules import layers


def units(count: int) -> list[list[int]]:
    return [[i, i + 1] for i in range(0, count, 2)]


@pytest.mark.parametrize("name", ways())
@pytest.mark.parametrize("temperature", [0.1, 2.0, 1e6])
def test_every_unit_can_be_drawn(name: str, temperature: float) -> None:
    rows = layers(12)
    values, errors = _values(name, rows)
    scores = unit_scores(rows, values, errors, units(12))
    assert np.isfinite(scores).all() and (np.abs(scores) <= 3).all()
    chances = probabilities(scores, temperature)
    assert chances.min() > 0 and chances.sum() == pytest.approx(1)
    assert (np.argsort(chances, kind="stable") == np.argsort(scores, kind="stable")).all()
    if temperature == 1e6:
        assert chances == pytest.approx(np.full(6, 1 / 6), rel=1e-5)


@pytest.mark.parametrize("name", WAYS)
def test_the_order_of_layers_does_not_matter(name: str) -> None:
    rows = layers(12)
    order = np.random.default_rng(0).permutation(12)
    place = np.argsort(order)
    straight = unit_scores(rows, *_values(name, rows), units(12))
    mixed = [rows[i] for i in order]
    members = [[int(place[i]) for i in unit] for unit in units(12)]
    assert unit_scores(mixed, *_values(name, mixed), members) == pytest.approx(straight)


def test_the_ways_look_at_what_they_say() -> None:
    rows = [row(i, alpha=i, randomness=-i, entropy=float(i % 2)) for i in range(6)]
    single = [[i] for i in range(6)]

    def order(name: str) -> list[int]:
        return np.argsort(unit_scores(rows, *WAYS[name](rows), single), kind="stable").tolist()

    assert order("alpha") == [0, 1, 2, 3, 4, 5]
    assert order("randomness") == [5, 4, 3, 2, 1, 0]
    assert order("evenness") == [0, 2, 4, 1, 3, 5]
    assert not unit_scores(rows, *WAYS["uniform"](rows), single).any()


def test_an_uncertain_alpha_is_pulled_to_the_mean() -> None:
    sure = [row(i, alpha=i, sigma=0.0) for i in range(5)]
    unsure = [row(i, alpha=i, sigma=100.0 if i == 4 else 0.0) for i in range(5)]
    single = [[i] for i in range(5)]
    a, b = (unit_scores(x, *WAYS["alpha"](x), single) for x in (sure, unsure))
    assert a[4] > 1 and 0 < b[4] < 0.01 and a[:4] == pytest.approx(b[:4])


def test_matrices_are_compared_with_their_like() -> None:
    """Alpha of all up projections is far above that of all others: no unit gains by having one."""
    low = [row(i, role="q", alpha=2 + 0.1 * i) for i in range(4)]
    high = [row(i + 4, role="up", alpha=8 + 0.1 * i, shape=(64, 256)) for i in range(4)]
    rows = [*low, *high]
    scores = unit_scores(rows, *WAYS["alpha"](rows), [[i] for i in range(8)])
    assert scores[:4] == pytest.approx(scores[4:])
    both = unit_scores(rows, *WAYS["alpha"](rows), [[i, i + 4] for i in range(4)])
    assert both == pytest.approx(np.clip(math.sqrt(2) * scores[:4], -3, 3))


def test_what_cannot_be_compared_counts_as_average() -> None:
    alone = [row(0, alpha=9.0), row(1, alpha=1.0, shape=(8, 8)), row(2, alpha=math.nan)]
    assert not unit_scores(alone, *WAYS["alpha"](alone), [[0], [1], [2], []]).any()


@pytest.mark.parametrize("temperature", [0.0, 0.09, -1.0, math.nan, math.inf])
def test_a_temperature_that_makes_no_probabilities_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature"):
        probabilities([0.0, 1.0], temperature)


def test_a_way_of_ones_own() -> None:
    try:
        way("of-a-test", words="", source="")(lambda rows: ([float(x.params) for x in rows], None))
        rows = [row(i, shape=(8, 8 + i)) for i in range(3)]
        assert _values("of-a-test", rows)[0] == [64.0, 72.0, 80.0]
        with pytest.raises(UsageError, match="exists already"):
            way("of-a-test", words="", source="")(lambda rows: ([], None))
    finally:
        WAYS._members.pop("of-a-test")


def row(
    place: int, *, role: str = "up", shape: tuple[int, int] = (64, 64), **values: float
) -> LayerReport:
    return LayerReport(
        name=f"layers.{place}.{role}.weight", kind="linear", role=role, block=place, shape=shape,
        dtype="float32", params=shape[0] * shape[1], values=values, position=place,
    )  # fmt: skip
