"""The formulas of the budget and the extent: what they owe, and numbers worked out by hand."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frog.allocation.amount import (
    CHANGE,
    FULL_RATE,
    STEP,
    Size,
    amount_of,
    expected_change,
    extent_of,
    size_of,
    spectral_share,
)
from frog.errors import UsageError
from frog.types import LayerReport, Settings, Workload

SIZE = Size(params=10_000_000, rms=0.05)
WORK = st.builds(
    Workload,
    full_rate=st.none() | st.floats(1e-9, 1.0),
    steps=st.none() | st.integers(1, 10**7),
    tokens=st.none() | st.integers(1, 10**12),
    examples=st.none() | st.integers(1, 10**9),
    classes=st.integers(2, 1000),
)
SIZES = st.builds(
    Size,
    params=st.integers(1, 10**11),
    rms=st.floats(1e-6, 10.0) | st.just(math.nan),
)


def layer(place: int, shape: tuple[int, int] = (64, 128), **values: float) -> LayerReport:
    return LayerReport(
        name=f"layer.{place}", kind="linear", role="up", block=place, shape=shape, dtype="float32",
        params=shape[0] * shape[1], values=values, position=place,
    )  # fmt: skip


def test_size_is_what_the_formulas_say() -> None:
    rows = [layer(0, norm=81.92, num_spikes=8.0), layer(1, (10, 10), norm=4.0, num_spikes=0.0)]
    size = size_of(rows)
    assert size.params == 8292
    assert size.rms == pytest.approx(math.sqrt(85.92 / 8292))
    blind = size_of([layer(0, norm=81.92), layer(1)])
    assert blind.params == 2 * 8192 and blind.rms == pytest.approx(0.1)
    assert math.isnan(size_of([layer(0)]).rms)
    assert size_of(rows[::-1]) == size


def test_without_a_full_rate_the_budget_is_the_ratio_of_two_constants() -> None:
    for rms in (0.01, 0.3):
        found = amount_of(Size(params=10**7, rms=rms), Workload())
        assert found.share == pytest.approx(FULL_RATE / STEP)
        assert found.rate == pytest.approx(STEP * rms)
        assert found.rate < found.rate_cap == pytest.approx(0.15 * rms)


def test_the_deciding_bound_decides() -> None:
    plain = amount_of(SIZE, Workload(full_rate=3e-4))
    assert plain.share == pytest.approx(3e-4 / (STEP * 0.05))
    assert [x.name for x in plain.bounds if x.decides] == ["step"]
    data = amount_of(SIZE, Workload(full_rate=3e-4, tokens=4_000_000))
    assert data.rate_cap == pytest.approx(0.15 * 0.05)
    assert data.share == 0.2 and data.count == 2_000_000
    assert [x.name for x in data.bounds if x.decides] == ["data"]
    assert data.rate == pytest.approx(3e-4 / 0.2)
    most = amount_of(SIZE, Workload(tokens=10**9))
    assert most.share == 1.0 and "takes less memory" in most.reason
    assert "takes less memory" not in data.reason
    assert amount_of(SIZE, Workload(), untrained=True).share == 1.0
    assert amount_of(SIZE, Workload(full_rate=1e-9)).share == 0.001


@settings(max_examples=300, deadline=None)
@given(size=SIZES, work=WORK)
def test_any_budget_is_one(size: Size, work: Workload) -> None:
    found = amount_of(size, work)
    assert 0 < found.share <= 1 and 1 <= found.count <= size.params
    assert found.optimizer_bytes == found.delta_bytes == 8 * found.count
    if math.isfinite(size.rms):
        assert 0 < found.rate <= found.rate_cap * (1 + 1e-12)
        assert found.rate <= found.full_rate / found.share * (1 + 1e-12)
    assert sum(x.decides for x in found.bounds) >= (0.001 < found.share < 1)


@settings(max_examples=100, deadline=None)
@given(size=SIZES, work=WORK, more=st.integers(2, 1000))
def test_more_data_and_a_larger_rate_never_ask_for_less(
    size: Size, work: Workload, more: int
) -> None:
    def share(**changes: object) -> float:
        known = {k: getattr(work, k) for k in ("full_rate", "tokens", "examples", "classes")}
        return amount_of(size, Workload(**{**known, **changes})).share  # type: ignore[arg-type]

    assert share(tokens=min(10**15, (work.tokens or 1) * more)) >= share()
    assert share(examples=min(10**15, (work.examples or 1) * more)) >= share()
    if work.full_rate is not None:
        assert share(full_rate=work.full_rate * more) >= share()


def test_nothing_to_tune_is_no_budget() -> None:
    found = amount_of(size_of([]), Workload(tokens=5))
    assert (found.count, found.share) == (0, 0.0) and found.reason
    extent = extent_of([], found, Workload(steps=5), Settings())
    assert math.isnan(extent.change_low) and not extent.stops


def test_the_bracket_of_the_change_holds_simulated_steps() -> None:
    """Steps of random sign and steps all one way, warmed up and falling linearly."""
    import numpy as np

    draw, steps, rate = np.random.default_rng(0), 400, 0.01
    rates = rate * (1 - np.arange(steps) / steps)
    random = np.abs(draw.choice([-1, 1], (4000, steps)) @ rates)
    low, high = expected_change(rate, steps)
    assert math.sqrt((random**2).mean()) == pytest.approx(low, rel=0.03)
    assert rates.sum() == pytest.approx(high, rel=0.01)


def test_the_extent_is_where_the_bracket_meets_the_limit() -> None:
    rows = [layer(0, norm=81.92, num_spikes=8.0, alpha=3.0, alpha_low=1.6, alpha_high=4.0),
            layer(1, norm=81.92, num_spikes=8.0, alpha=3.0, alpha_band_low=2.5,
                  alpha_band_high=9.0)]  # fmt: skip
    amount = amount_of(size_of(rows), Workload(full_rate=1e-4))
    extent = extent_of(rows, amount, Workload(steps=100), Settings())
    limit = next(x.limit for x in extent.stops if x.watch == "relative change")
    assert limit == pytest.approx(CHANGE / math.sqrt(amount.share))
    step = math.sqrt(amount.share) * amount.rate / amount.rms
    assert step * extent.steps_low / 2 == pytest.approx(limit)
    assert step * math.sqrt(extent.steps_high / 3) == pytest.approx(limit)
    assert (extent.change_low, extent.change_high) == expected_change(step, 100)
    assert extent.alpha == {"layer.0": (2.0, 4.0), "layer.1": (2.5, 9.0)}
    windows = extent_of(rows, amount, Workload(), Settings(window="farms"))
    assert windows.alpha["layer.0"] == (1.6, 4.0)


def test_the_limit_of_the_spectral_share_is_twice_that_of_independent_entries() -> None:
    import numpy as np

    change = np.random.default_rng(0).standard_normal((64, 128))
    share = np.linalg.norm(change, 2) / np.linalg.norm(change)
    assert 2 * share == pytest.approx(spectral_share([layer(0)]), rel=0.05)


@pytest.mark.parametrize("wrong", [
    {"steps": 0}, {"steps": 1.5}, {"steps": True}, {"tokens": -1}, {"examples": 10**16},
    {"classes": 1}, {"full_rate": 0.0}, {"full_rate": math.nan}, {"full_rate": math.inf},
    {"full_rate": True}, {"full_rate": "1e-3"},
])  # fmt: skip
def test_a_wrong_work_load_is_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be"):
        Workload(**wrong)
