"""Profiles over depth: planted trends, the range of its own estimator, what is left out."""

from __future__ import annotations

import math

import pytest

from frog.metrics.depth import profiles
from frog.types import LayerReport, Settings


def layer(block: int | None, alpha: float, role: str = "up", **changes: object) -> LayerReport:
    values = {"alpha": alpha, "log_spectral_norm": 1.0, "stable_rank": 5.0}
    made = dict(name=f"{role}.{block}", kind="linear", role=role, block=block, shape=(64, 64),
                dtype="float32", params=4096, values=values)  # fmt: skip
    return LayerReport(**{**made, **changes})  # type: ignore[arg-type]


def test_a_planted_trend_survives_one_wild_layer() -> None:
    layers = [layer(i, 2.5 + 0.25 * i) for i in range(12)]
    layers[5] = layer(5, 40.0)
    found = next(x for x in profiles(layers, Settings()) if x.metric == "alpha")
    assert found.slope == pytest.approx(0.25, abs=0.05)
    assert found.slope_low <= found.slope <= found.slope_high
    assert found.blocks == tuple(range(12))
    assert found.roughness == pytest.approx(0.25)
    assert found.outside == 1 / 12


def test_the_range_belongs_to_its_estimator() -> None:
    layers = [layer(i, 1.5) for i in range(4)]
    for settings, outside in (
        (Settings(), 1.0),
        (Settings(estimator="hill"), math.nan),
        (Settings(window="farms"), math.nan),
    ):
        found = {x.metric: x for x in profiles(layers, settings)}
        assert found["alpha"].outside == pytest.approx(outside, nan_ok=True)
        assert math.isnan(found["stable_rank"].outside), "no usual range is known"


def test_what_has_no_number_or_no_depth_is_left_out() -> None:
    layers = [
        *(layer(i, 3.0) for i in (4, 0, 2)), layer(1, math.nan), layer(None, 3.0),
        layer(3, 3.0, skipped="not wanted"), layer(0, 3.0, role="q"), layer(1, 3.0, role="q"),
    ]  # fmt: skip
    found = [x for x in profiles(layers, Settings()) if x.metric == "alpha"]
    assert [(x.role, x.blocks) for x in found] == [("up", (0, 2, 4))], "two points are no trend"


def test_experts_stand_for_their_block_by_their_median() -> None:
    layers = [layer(i, 2.0 + i + j) for i in range(3) for j in (0, 1, 5)]
    found = next(x for x in profiles(layers, Settings()) if x.metric == "alpha")
    assert found.values == (3.0, 4.0, 5.0)
    assert found.outside == 3 / 9, "the share counts every expert: 7, 8 and 9 are beyond 6"
