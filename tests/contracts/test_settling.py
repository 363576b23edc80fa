"""One threshold over all matrices: whole units, against sorting; each matrix is factorised once."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import frog
from frog.numerics import relevance
from frog.numerics.scored import Dense
from frog.numerics.units import unit_count, unit_sizes
from frog.selection import scores
from frog.selection.choose import Units, choose, settle, unit_scores
from frog.types import GRANULARITIES
from tests.cli.runs import weight

GROUPED = [x for x in GRANULARITIES if x != "element"]
SIZE = (2, 3)


def units_of(granularity: str) -> Units:
    return Units(granularity=granularity, size=SIZE if granularity == "block" else (1, 1))


def by_sorting(maps: dict[str, Dense], units: Units, total: int) -> dict[str, int]:
    """All units of all maps in one list, the highest first, until the next does not fit."""
    rows = []
    for place, (name, scored) in enumerate(maps.items()):
        means = unit_scores(scored, units).astype(np.float32)
        sizes = unit_sizes(np.arange(len(means)), scored.shape, units.granularity, units.size)
        rows += [
            (-float(mean), place, i, name, int(size))
            for i, (mean, size) in enumerate(zip(means, sizes, strict=True))
            if mean > -np.inf
        ]
    found, held = dict.fromkeys(maps, 0), 0
    for *_, name, size in sorted(rows):
        if held + size > total:
            break
        found[name] += size
        held += size
    return found


@pytest.mark.parametrize("granularity", GROUPED)
@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4),
    share=st.floats(0, 1), seed=st.integers(0, 99), levels=st.sampled_from([2, 5, 1000]),
    dead=st.booleans(),
)  # fmt: skip
def test_units_under_one_threshold_are_those_of_sorting_everything(
    granularity: str, shapes: list[tuple[int, int]], share: float, seed: int, levels: int,
    dead: bool,
) -> None:  # fmt: skip
    draw = np.random.default_rng(seed)
    maps = {}
    for i, shape in enumerate(shapes):
        values = draw.integers(0, levels, shape).astype(np.float32)
        if dead:
            values[draw.integers(0, shape[0])] = -np.inf
        maps[str(i)] = Dense(values)
    units = units_of(granularity)
    params = {name: x.values.size for name, x in maps.items()}
    total = int(share * sum(params.values()))
    counts = settle(maps, total, dict.fromkeys(maps, 0), params, units)
    assert counts == by_sorting(maps, units, total)
    # what a map was given is what choosing in it takes
    for name, scored in maps.items():
        index = choose(scored, counts[name], units)
        held = unit_sizes(index, scored.shape, granularity, units.size).sum()
        assert held == counts[name]


@pytest.mark.parametrize("granularity", GROUPED)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0, 1),
       bound=st.sampled_from([(0.0, 0.5), (0.2, 0.7), (0.3, 1.0)]))  # fmt: skip
def test_floors_and_caps_hold_in_whole_units(
    granularity: str, seed: int, share: float, bound: tuple[float, float]
) -> None:
    draw = np.random.default_rng(seed)
    maps = {str(i): Dense(draw.random((6, 9), dtype=np.float32) * 3**i) for i in range(4)}
    floor, cap = ({name: int(x * 54) for name in maps} for x in bound)
    total = sum(floor.values()) + int(share * (sum(cap.values()) - sum(floor.values())))
    units = units_of(granularity)
    counts = settle(maps, total, floor, cap, units)
    assert sum(counts.values()) <= total
    unit = 54 // unit_count((6, 9), granularity, SIZE)
    assert all(floor[x] - unit < counts[x] <= cap[x] for x in maps)
    assert all(count % unit == 0 for count in counts.values())
    assert total - sum(counts.values()) < unit * len(maps)


def test_more_budget_never_takes_units_away() -> None:
    draw = np.random.default_rng(0)
    maps = {str(i): Dense(draw.random((8, 8), dtype=np.float32)) for i in range(3)}
    found = [
        settle(maps, total, dict.fromkeys(maps, 0), dict.fromkeys(maps, 64), units_of("row"))
        for total in range(0, 192, 8)
    ]
    for less, more in pairwise(found):
        assert sum(more.values()) == sum(less.values()) + 8
        assert all(more[name] >= less[name] for name in maps)


# ------------------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def model() -> dict[str, torch.Tensor]:
    shapes = [(96, 64), (64, 96), (64, 64)]
    return {f"b.{i}.weight": torch.tensor((1 + i) * weight(*x, seed=i))
            for i, x in enumerate(shapes)}  # fmt: skip


@pytest.fixture(scope="module")
def plan(model: dict[str, torch.Tensor]) -> frog.Plan:
    return frog.allocate(frog.analyze(model, frog.Settings(bootstrap=0)), 0.1, rule="global")


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("score", ["magnitude", "lowrank", "relevance * magnitude^-1"])
def test_the_settled_plan_is_what_was_chosen(
    model: dict, plan: frog.Plan, granularity: str, score: str
) -> None:
    found = frog.select(model, plan, score=score, granularity=granularity)
    counts = {x.name: x.count for x in found.chosen}
    assert {x.name: x.count for x in found.plan.layers if x.count} == counts
    biggest = {"element": 1, "row": 96, "column": 96, "block": 256}[granularity]
    assert 0 <= plan.total - found.count < biggest
    said = [note for note in found.notes if "not chosen" in note]
    missing = plan.total - found.count
    assert said == [] if not missing else said[0].startswith(f"{missing:,} of {plan.total:,} ")


FACTORISED = ["relevance", "relevance-rank1", "relevance-lowrank", "lowrank", "leverage"]


@pytest.mark.parametrize("score", FACTORISED)
@pytest.mark.parametrize("rank", [None, 0, 5])
def test_each_matrix_is_factorised_once_and_without_memory_thrice(
    model: dict, plan: frog.Plan, monkeypatch: pytest.MonkeyPatch, score: str, rank: int | None
) -> None:
    calls: Counter[tuple[int, ...]] = Counter()
    made = relevance.factors

    def counted(weight_mn: np.ndarray, *words, **more):
        calls[weight_mn.shape] += 1
        return made(weight_mn, *words, **more)

    monkeypatch.setattr(relevance, "factors", counted)
    choice = frog.Choice(rank=rank)
    found = frog.select(model, plan, score=score, choice=choice)
    assert set(calls.values()) == {1}
    calls.clear()
    monkeypatch.setattr(scores.Kept, "__init__", _without_room(scores.Kept.__init__))
    again = frog.select(model, plan, score=score, choice=choice)
    assert max(calls.values()) == 3  # fewer where no score lies near the threshold
    assert again.digest == found.digest


def _without_room(init):
    return lambda self: init(self, limit=0)


def test_what_is_kept_is_bounded_and_dropped() -> None:
    kept = scores.Kept(limit=1000)
    thin = relevance.Factors(np.ones((10, 2), np.float32), np.ones((5, 2), np.float32))
    made = []

    def make() -> relevance.Factors:
        made.append(1)
        return thin

    for name in ("a", "b", "a", "b"):
        kept.get(name, 2, make)
        assert kept.held <= 1000
    assert len(made) == 2 and kept.held == 240
    for i in range(20):
        kept.get(f"c{i}", 2, make)
        assert kept.held <= 1000
    assert kept.held == 960
    kept.drop("a")
    assert kept.held == 840
    kept.get("a", 2, make)
    assert kept.held == 960
