"""What every rule owes: exact sums, bounds, no eye for order or scale."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frog.allocation.fill import fill
from frog.allocation.plan import split
from frog.allocation.rules import RULES
from frog.types import Budget, LayerReport, ModelReport, Settings

SHAPES = ((64, 64), (64, 256), (256, 64))


def layer(place: int, draw: np.random.Generator, *, scale: float = 1.0) -> LayerReport:
    shape = SHAPES[place % 3]
    values = {
        "alpha": float(draw.uniform(1.5, 9)),
        "sigma": float(draw.uniform(0, 1)),
        "norm": scale * float(draw.uniform(1, 50)),
        "randomness": float(draw.uniform(0, 1)),
    }
    return LayerReport(
        name=f"layer.{place}.weight", kind="linear", role="up", block=place, shape=shape,
        dtype="float32", params=shape[0] * shape[1], values=values, position=place,
    )  # fmt: skip


def report(layers: list[LayerReport]) -> ModelReport:
    return ModelReport(
        path="model", digest="d", format="module", frog_version="0", settings=Settings(),
        layers=tuple(layers),
    )  # fmt: skip


def layers(count: int = 12, seed: int = 0, **knobs: float) -> list[LayerReport]:
    draw = np.random.default_rng(seed)
    return [layer(i, draw, **knobs) for i in range(count)]


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 15), seed=st.integers(0, 50), share=st.floats(0.0005, 1.0),
    bounds=st.sampled_from([(0.0, 1.0), (0.001, 0.5), (0.0, 0.03)]),
)  # fmt: skip
def test_every_rule_spends_exactly_and_keeps_the_bounds(
    name: str, count: int, seed: int, share: float, bounds: tuple[float, float]
) -> None:
    floor, cap = bounds
    share = min(max(share, floor * 1.2), cap * 0.9)
    budget = Budget(share=share, floor=floor, cap=cap)
    whole = report(layers(count, seed))
    plan = split(whole, budget, name)
    assert plan.total == budget.total(plan.params)
    for row in plan.layers:
        assert math.ceil(floor * row.params) <= row.count <= math.floor(cap * row.params)


@pytest.mark.parametrize("name", RULES)
def test_order_of_the_layers_does_not_matter(name: str) -> None:
    given_layers = layers()
    counts = {x.name: x.count for x in split(report(given_layers), Budget(share=0.1), name).layers}
    turned = split(report(given_layers[::-1]), Budget(share=0.1), name)
    assert all(abs(counts[x.name] - x.count) <= 1 for x in turned.layers)  # a tie in rounding


@pytest.mark.parametrize("name", RULES)
def test_scale_of_all_weights_changes_nothing(name: str) -> None:
    plain = split(report(layers()), Budget(share=0.1), name)
    scaled = split(report(layers(scale=64.0)), Budget(share=0.1), name)
    assert [x.count for x in plain.layers] == [x.count for x in scaled.layers]


@pytest.mark.parametrize("name", RULES)
def test_a_layer_without_numbers_gets_its_even_share_and_says_so(name: str) -> None:
    given_layers = layers()
    blind = LayerReport(
        name="blind", kind="linear", role="up", block=0, shape=(64, 64), dtype="float32",
        params=4096, values={},
    )  # fmt: skip
    plan = split(report([*given_layers, blind]), Budget(share=0.01), name)
    row = next(x for x in plan.layers if x.name == "blind")
    assert row.count > 0
    if name not in ("uniform", "global"):
        assert "no number" in row.reason


@pytest.mark.parametrize(("name", "knobs"), [
    ("frobenius", {"power": 0.0}),
    ("alpha", {"power": 0.0}),
    ("frobenius-alpha", {"power": 0.0, "alpha_power": 0.0}),
    ("over-parameterised", {"strength": 0.0}),
    ("global", {}),
])  # fmt: skip
def test_power_zero_is_the_uniform_rule(name: str, knobs: dict[str, float]) -> None:
    even = split(report(layers()), Budget(share=0.037), "uniform")
    made = split(report(layers()), Budget(share=0.037), name, knobs=knobs)
    assert [x.count for x in made.layers] == [x.count for x in even.layers]


@pytest.mark.parametrize(("name", "metric", "knobs", "sign"), [
    ("frobenius", "norm", {}, 1),
    ("alpha", "alpha", {}, 1),
    ("alpha", "alpha", {"power": -1.0}, -1),
    ("over-parameterised", "randomness", {}, 1),
])  # fmt: skip
def test_monotone_among_equal_shapes(name: str, metric: str, knobs: dict, sign: int) -> None:
    given_layers = [x for x in layers(30) if x.shape == (64, 64)]
    for x in given_layers:
        x.values["sigma"] = 0.1  # type: ignore[index]
    plan = split(report(given_layers), Budget(share=0.1), name, knobs=knobs)
    order = np.argsort([x.values[metric] for x in given_layers], kind="stable")
    counts = np.array([x.count for x in plan.layers])[order]
    assert (np.diff(counts) * sign >= -1).all() and counts[0] != counts[-1]


def test_uncertainty_pulls_to_the_even_share() -> None:
    def count(error: float) -> int:
        given_layers = [x for x in layers(30) if x.shape == (64, 64)]
        for x in given_layers:
            x.values["sigma"] = error  # type: ignore[index]
        given_layers[0].values["alpha"] = 20.0  # type: ignore[index]
        return split(report(given_layers), Budget(share=0.1), "alpha").layers[0].count

    even = 410
    counts = [count(error) for error in (0.0, 1.0, 4.0, 100.0)]
    assert counts == sorted(counts, reverse=True) and abs(counts[-1] - even) <= 2
    assert counts[0] > 2 * even


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(0, 1e6), st.integers(0, 40), st.integers(0, 60)), min_size=1,
        max_size=8,
    ),
    share=st.floats(0, 1),
)  # fmt: skip
def test_filling_is_exact(rows: list[tuple[float, int, int]], share: float) -> None:
    floors = [low for _, low, _ in rows]
    caps = [low + more for _, low, more in rows]
    total = sum(floors) + int(share * (sum(caps) - sum(floors)))
    counts = fill([want for want, _, _ in rows], total, floors, caps)
    assert sum(counts) == total
    assert all(a <= x <= b for a, x, b in zip(floors, counts, caps, strict=True))
