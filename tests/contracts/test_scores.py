"""What every score owes: laws over all members, granularities and odd matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frog.numerics.rounding import Rounding, round_to_nearest
from frog.numerics.scored import Dense, Made, slabs
from frog.numerics.topk import top_k
from frog.numerics.units import unit_entries, unit_sizes
from frog.selection.choose import Units, choose, normalised, settle
from frog.selection.expression import parse
from frog.selection.guard import without_dead
from frog.selection.scores import SCORES, Gradient, Subject
from frog.types import GRANULARITIES


def subject(shape: tuple[int, int] = (24, 17), seed: int = 0, **odd: object) -> Subject:
    draw = np.random.default_rng(seed)
    weight = (draw.standard_normal(shape) * np.exp(draw.standard_normal(shape[0]))[:, None]).astype(
        np.float32
    )
    gradient = Gradient(
        mean=draw.standard_normal(shape).astype(np.float32),
        square=draw.random(shape, dtype=np.float32) + 0.1,
    )
    return Subject(name="w", weight=weight, gradient=gradient, rank=5, **odd)  # type: ignore[arg-type]


def whole(scores: object) -> np.ndarray:
    return np.concatenate([slab for _, slab in slabs(scores)])  # type: ignore[arg-type]


def twins() -> dict:
    def svd(s: Subject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.linalg.svd(s.weight.astype(np.float64), full_matrices=False)

    def relevance(s: Subject, rank: int | None = None) -> np.ndarray:
        u, sigma, vh = svd(s)
        return (np.abs(u[:, :rank]) * sigma[:rank]) @ np.abs(vh[:rank])

    def rank_one(s: Subject) -> np.ndarray:
        u, sigma, vh = np.linalg.svd(relevance(s))
        return np.abs(sigma[0] * np.outer(u[:, 0], vh[0]))

    def low_rank(s: Subject) -> np.ndarray:
        u, sigma, vh = svd(s)
        return np.abs((u[:, :5] * sigma[:5]) @ vh[:5])

    def leverage(s: Subject) -> np.ndarray:
        u, _, vh = svd(s)
        return np.outer((u[:, :5] ** 2).sum(1), (vh[:5] ** 2).sum(0))

    def near_boundary(s: Subject) -> np.ndarray:
        found = np.zeros(s.shape)
        top = 2 ** (s.bits - 1)
        middles = np.arange(-top, top - 1) + 0.5
        for (i, j), w in np.ndenumerate(s.weight.astype(np.float64)):
            start = 0 if s.group is None else j // s.group * s.group
            part = s.weight[i, start : None if s.group is None else start + s.group]
            step = np.abs(part.astype(np.float64)).max() / (top - 0.5)
            found[i, j] = max(0.0, 1 - 2 * np.abs(w / step - middles).min()) if step else 0.0
        return found

    return {
        "relevance": relevance,
        "relevance-lowrank": lambda s: relevance(s, 5),
        "relevance-rank1": rank_one,
        "lowrank": low_rank,
        "leverage": leverage,
        "magnitude": lambda s: np.abs(s.weight),
        "near-boundary": near_boundary,
        "gradient": lambda s: np.abs(s.gradient.mean),
        "fisher": lambda s: s.gradient.square,
        "relevance-gradient": lambda s: relevance(s) * np.abs(s.gradient.mean),
    }


@pytest.mark.parametrize("name", sorted(twins()))
@pytest.mark.parametrize("shape", [(24, 17), (17, 24), (20, 20), (1, 9), (9, 1)])
def test_scores_equal_their_slow_twins(name: str, shape: tuple[int, int]) -> None:
    one = subject(shape)
    if min(shape) < 5:
        one.rank = 1
        if name in ("relevance-lowrank", "lowrank", "leverage"):
            pytest.skip("the twin takes five components")
    expected = twins()[name](one)
    assert np.allclose(whole(SCORES[name](one)), expected, rtol=2e-3, atol=2e-4 * expected.max())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [None, 1, 5, 64])
def test_nearness_to_a_boundary_equals_its_twin_at_any_width(bits: int, group: int | None) -> None:
    one = subject(bits=bits, group=group)
    expected = twins()["near-boundary"](one)
    assert np.allclose(whole(SCORES["near-boundary"](one)), expected, atol=1e-3)
    assert expected.any() or group == 1  # the only weight of a group is at its end


def test_a_weight_beyond_the_midpoint_has_another_code() -> None:
    one = subject(bits=4, group=None)
    how = Rounding(bits=4, group=None)
    best = top_k(SCORES["near-boundary"](one), 20)
    best = best[np.abs(one.weight.flat[best]) < np.repeat(np.abs(one.weight).max(1), 17)[best]]
    before = round_to_nearest(torch.from_numpy(one.weight), how).codes.numpy().ravel()
    scale = np.repeat(np.abs(one.weight).max(1) / np.float32(7.5), 17)[best]
    flipped = np.zeros(len(best), dtype=bool)
    for way in (-1, 1):
        moved = one.weight.copy()
        moved.flat[best] += np.float32(way * 0.1) * scale
        after = round_to_nearest(torch.from_numpy(moved), how).codes.numpy().ravel()
        flipped |= (after != before)[best]
    assert flipped.all()


def test_only_chance_has_no_twin() -> None:
    assert set(SCORES) - set(twins()) == {"random"}


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_not_negative_and_change_nothing(name: str) -> None:
    one = subject()
    before = one.weight.copy()
    first, again = whole(SCORES[name](one)), whole(SCORES[name](subject()))
    assert (first >= 0).all() and np.array_equal(first, again)
    assert np.array_equal(one.weight, before)


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"random"}))
def test_permuting_rows_and_columns_permutes_the_choice(name: str) -> None:
    one = subject()
    draw = np.random.default_rng(5)
    rows, columns = draw.permutation(24), draw.permutation(17)
    assert one.gradient is not None
    other = Subject(
        name="w",
        weight=one.weight[rows][:, columns],
        gradient=Gradient(
            mean=one.gradient.mean[rows][:, columns], square=one.gradient.square[rows][:, columns]
        ),
        rank=5,
    )
    here, there = whole(SCORES[name](one)), whole(SCORES[name](other))
    assert np.allclose(here[rows][:, columns], there, rtol=1e-3, atol=1e-4 * here.max())


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_scale_of_the_weights_changes_no_choice(name: str, scale: float) -> None:
    one, other = subject(), subject()
    other.weight = one.weight * np.float32(scale)
    a = top_k(normalised(SCORES[name](one)), 40)
    b = top_k(normalised(SCORES[name](other)), 40)
    assert np.array_equal(a, b)


@pytest.mark.parametrize("name", SCORES)
def test_power_one_and_power_zero_of_others_are_the_plain_choice(name: str) -> None:
    plain = top_k(SCORES[name](subject()), 60)
    for text in (f"{name} * magnitude^0", f"{name} * alpha^0", f"{name}^1"):
        assert np.array_equal(top_k(parse(text)(subject(alpha=3.0)), 60), plain)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_choices_are_ascending_unique_in_range_and_never_dead(name: str, granularity: str) -> None:
    one = subject()
    one.weight[3] = 0.0
    one.weight[:, 7] = 0.0
    scores, dead = without_dead(SCORES[name](one), one)
    assert dead == 17 + 23
    size = (4, 5) if granularity == "block" else (1, 1)
    units = Units(granularity=granularity, size=size)
    index = choose(scores, 100, units)
    assert (np.diff(index) > 0).all()
    held = unit_sizes(index, (24, 17), granularity, size).sum()
    assert held == 100 if granularity == "element" else 100 - 24 < held <= 100
    rows, columns = unit_entries(index, (24, 17), granularity, size)
    if granularity == "element":
        assert not (rows == 3).any() and not (columns == 7).any()
    if granularity == "row":
        assert 3 not in index
    if granularity == "column":
        assert 7 not in index


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("odd", ["zero", "constant", "rank-1", "1 x n", "n x 1"])
def test_odd_matrices(name: str, odd: str) -> None:
    shape = {"1 x n": (1, 30), "n x 1": (30, 1)}.get(odd, (12, 9))
    one = subject(shape)
    if odd == "zero":
        one.weight[:] = 0.0
    elif odd == "constant":
        one.weight[:] = 2.0
    elif odd == "rank-1":
        one.weight[:] = np.outer(one.weight[:, 0], one.weight[0])
    scores, dead = without_dead(SCORES[name](one), one)
    chosen = top_k(scores, 5)
    assert len(chosen) == (0 if odd == "zero" else 5)
    assert dead == (one.weight.size if odd == "zero" else 0)


def test_alpha_moves_the_counts_of_one_threshold() -> None:
    maps = {"a": subject(seed=1), "b": subject(seed=2)}
    maps["a"].alpha, maps["b"].alpha = 2.0, 5.0
    shares = []
    for power in (-2, 0, 2):
        expression = parse(f"magnitude * alpha^{power}" if power else "magnitude")
        scored = {k: normalised(expression(v), expression.weight(v)) for k, v in maps.items()}
        counts = settle(scored, 100, dict.fromkeys(maps, 0), dict.fromkeys(maps, 408))
        shares.append(counts["b"])
    assert shares[0] < shares[1] < shares[2]


def test_more_than_all_living_weights() -> None:
    dead = np.full((4, 4), -np.inf, dtype=np.float32)
    dead[0] = 1.0
    maps = {"a": Dense(dead), "b": Dense(dead.copy())}
    counts = settle(maps, 20, dict.fromkeys(maps, 6), dict.fromkeys(maps, 16))
    assert counts == {"a": 4, "b": 4}


def test_powers_of_tiny_scores_keep_their_order() -> None:
    one = subject()
    assert one.gradient is not None
    one.gradient.square[:] *= np.float32(1e-12)
    for power, best in ((4, np.argmax), (-4, np.argmin)):
        found = top_k(parse(f"fisher^{power}")(one), 1)
        assert found[0] == best(one.gradient.square)


def test_the_sketch_is_near_the_whole_where_the_spectrum_falls() -> None:
    from frog.numerics.relevance import EXACT_UNTIL, factors

    draw = np.random.default_rng(0)
    size = EXACT_UNTIL + 60
    left = np.linalg.qr(draw.standard_normal((size, 24)))[0] * (1.0 + np.arange(24)) ** -0.7
    right = np.linalg.qr(draw.standard_normal((size, 24)))[0]
    weight = (left @ right.T + 1e-5 * draw.standard_normal((size, size))).astype(np.float32)
    found = factors(weight, 12)  # sketched: the whole would take minutes
    assert np.allclose(found.sigma, (1.0 + np.arange(12)) ** -0.7, rtol=1e-3)
    assert np.allclose(np.abs((found.right * right[:, :12]).sum(0)), 1.0, atol=1e-3)


def test_the_sketch_finds_repeated_singular_values_and_most_of_a_slow_spectrum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from frog.numerics.relevance import Factors, factors
    from frog.numerics.relevance import relevance as product

    monkeypatch.setattr("frog.numerics.relevance.EXACT_UNTIL", 500)
    draw = np.random.default_rng(0)
    m, n, rank = 580, 540, 20
    left = np.linalg.qr(draw.standard_normal((m, n), dtype=np.float32))[0]
    right = np.linalg.qr(draw.standard_normal((n, n), dtype=np.float32))[0]
    slow = (1.0 + np.arange(n, dtype=np.float32)) ** -0.5
    equal = np.where(np.arange(n) < rank, np.float32(1.0), np.float32(1e-3))
    for sigma in (slow, equal):
        weight = (left * sigma) @ right.T
        for turned in (False, True):
            found = factors(weight.T.copy() if turned else weight, rank)
            assert np.allclose(found.sigma, sigma[:rank], rtol=0.02)
            assert np.allclose(np.linalg.norm(found.right, axis=0), 1.0, atol=1e-4)
            true = (left if turned else right)[:, :rank]
            inside = np.linalg.norm(true.T @ found.right, axis=0) ** 2
            assert (inside[:10] > 0.99).all() and (sigma is slow or (inside > 0.99).all())
            if sigma is slow and not turned:
                exact = Factors((left * sigma)[:, :rank], right[:, :rank])
                a, b = (top_k(product(x), m * n // 100) for x in (exact, found))
                assert len(np.intersect1d(a, b)) > 0.85 * len(a)


def test_gradients_of_zero_are_dead() -> None:
    one = subject()
    assert one.gradient is not None
    one.gradient.square[:20] = 0.0
    scores, dead = without_dead(SCORES["magnitude"](one), one)
    assert dead == 20 * 17 and (top_k(scores, 68) >= 20 * 17).all()
    assert len(top_k(scores, 200)) == 68


# --------------------------------------------------------------------------- thresholds


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5, np.nan, -np.inf, 1e30]), min_size=1,
                    max_size=60),
    share=st.floats(0, 1),
)  # fmt: skip
def test_top_k_is_a_stable_sort(values: list[float], share: float) -> None:
    array = np.array(values, dtype=np.float32)[None]
    k = int(share * array.size)
    keys = np.where(np.isnan(array[0]), -np.inf, array[0])
    order = np.argsort(-keys, kind="stable")[:k]
    expected = np.sort(order[keys[order] > -np.inf])
    assert np.array_equal(top_k(Dense(array), k), expected)


@pytest.mark.parametrize("seed", range(4))
def test_top_k_of_a_large_matrix_with_rows_of_unequal_size(seed: int) -> None:
    draw = np.random.default_rng(seed)
    array = draw.random((900, 700), dtype=np.float32) * np.exp(3 * draw.standard_normal((900, 1)))
    array = np.round(array, 2).astype(np.float32)  # ties
    expected = np.sort(np.argsort(-array.ravel(), kind="stable")[:6300])
    assert np.array_equal(top_k(Dense(array), 6300), expected)


@pytest.mark.parametrize("order", ["rising", "falling", "misleading", "equal", "dead"])
def test_top_k_reads_scores_once_and_seldom_twice(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of the rows; the rows a guess is read from may mislead it."""
    monkeypatch.setattr("frog.numerics.scored.SLAB_ENTRIES", 20_000)
    m, n, k = 2000, 300, 9000
    array = np.random.default_rng(0).random((m, n), dtype=np.float32)
    if order == "rising":
        array = np.sort(array.ravel()).reshape(m, n)
    elif order == "falling":
        array = np.sort(array.ravel())[::-1].reshape(m, n).copy()
    elif order == "misleading":
        array[np.unique(np.linspace(0, m - 1, 218).astype(int))] += 9.0
    elif order == "equal":
        array = np.round(array, 1)
    else:
        array[:] = -np.inf
        array[7, 3:5] = 1.0
    read: list[int] = []

    def rows(start: int, stop: int) -> np.ndarray:
        read.append(stop - start)
        return array[start:stop].copy()

    expected = np.argsort(-array.ravel(), kind="stable")[:k]
    expected = np.sort(expected[array.ravel()[expected] > -np.inf])
    assert np.array_equal(top_k(Made((m, n), rows), k), expected)
    assert sum(read) <= 2 * m + 500


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
    bound=st.sampled_from([(0.0, 1.0), (0.2, 0.7), (0.3, 1.0), (0.0, 0.5)]),
)
def test_one_threshold_equals_sorting_everything(
    sizes: list[int], share: float, seed: int, bound: tuple[float, float]
) -> None:
    draw = np.random.default_rng(seed)
    maps = {
        str(i): Dense(draw.integers(0, 6, (size, 3)).astype(np.float32) / 7)
        for i, size in enumerate(sizes)
    }
    floor = {name: int(np.ceil(bound[0] * x.values.size)) for name, x in maps.items()}
    cap = {name: int(bound[1] * x.values.size) for name, x in maps.items()}
    total = sum(floor.values()) + int(share * (sum(cap.values()) - sum(floor.values())))
    if sum(floor.values()) > total or any(floor[x] > cap[x] for x in maps):
        return
    counts = settle(maps, total, floor, cap)
    assert sum(counts.values()) == total
    assert all(floor[x] <= counts[x] <= cap[x] for x in maps)
    if bound == (0.0, 1.0):
        flat = np.concatenate([x.values.ravel() for x in maps.values()])
        owner = np.concatenate([[name] * x.values.size for name, x in maps.items()])
        first = owner[np.argsort(-flat, kind="stable")[:total]]
        assert counts == {name: int((first == name).sum()) for name in maps}
