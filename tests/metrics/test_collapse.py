"""Scale collapse: planted ones are seen, whole roles and dying layers too, healthy ones are not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import frog
from frog.metrics.collapse import (
    CHANGE_LIMIT,
    FEWEST,
    OUTLIER,
    against_reference,
    factor,
    scale_outliers,
    sizes,
    with_scale_outliers,
    within_model,
)
from frog.metrics.measure import measure
from frog.types import Finding, LayerReport, Settings
from tests.matrices import handle

SETTINGS = Settings(bootstrap=0, curves=False)


def row(array: np.ndarray, name: str, role: str, position: int = 0) -> LayerReport:
    """The columns that scale is judged by, computed plainly."""
    squares = np.square(np.linalg.svd(array, compute_uv=False)) if np.isfinite(array).all() else (
        np.full(min(array.shape), np.nan)
    )  # fmt: skip
    total, rank = squares.sum(), (squares > 1e-20 * squares[0]).sum()
    share = squares[squares > 0] / total if total > 0 else np.array([np.nan])
    with np.errstate(divide="ignore"):
        values = {
            "norm": total,
            "log_norm": np.log10(total) if total > 0 else math.nan,
            "log_spectral_norm": np.log10(squares[0]) if total > 0 else math.nan,
            "entropy": -(share * np.log(share)).sum() / np.log(rank) if rank > 1 else math.nan,
            "matrix_rank": float(rank),
            "M": float(min(array.shape)),
        }
    return LayerReport(
        name=name, kind="linear", role=role, block=position, shape=array.shape, dtype="float64",
        params=array.size, values=values, position=position,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["whole", "truncated"])
def test_the_columns_of_a_report_give_the_same_sizes(kind: str) -> None:
    array = model()["0.q"]
    array = truncated(array) if kind == "truncated" else array
    measured, _ = measure(handle(array, "0.q", role="q"), SETTINGS)
    assert sizes(measured) == pytest.approx(sizes(row(array, "0.q", "q")))


def model(seed: int = 0, per_role: int = 6, roles: tuple[str, ...] = ("q", "k", "down")):
    """Arrays by name: blocks of random layers with a spectrum that falls, in order of depth."""
    rng = np.random.default_rng(seed)
    return {
        f"{block}.{role}": rng.standard_normal((24, 40)) * np.geomspace(2, 0.5, 40)
        for block in range(per_role)
        for role in roles
    }


def rows(arrays: dict[str, np.ndarray]) -> list[LayerReport]:
    return [row(x, name, name.split(".")[1], i) for i, (name, x) in enumerate(arrays.items())]


def tuned(arrays: dict[str, np.ndarray], size: float = 0.05) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(99)
    return {name: x + size * rng.standard_normal(x.shape) for name, x in arrays.items()}


def truncated(x: np.ndarray) -> np.ndarray:
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return (u[:, :2] * s[:2]) @ vt[:2]


def flagged(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    found = against_reference(list(zip(rows(before), rows(after), strict=True)))
    return {name for name, scale in found.items() if scale.flagged}


DAMAGE = {"a tenth": lambda x: 0.1 * x, "ten times": lambda x: 10 * x, "truncated": truncated}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["0.q", "3.k", "5.down"])
def test_one_damaged_layer_is_flagged_and_no_other(kind: str, name: str) -> None:
    before = model()
    after = tuned(before)
    assert flagged(before, after) == set()
    after[name] = DAMAGE[kind](after[name])
    assert flagged(before, after) == {name}


def test_two_damaged_layers_in_opposite_directions() -> None:
    before = model()
    after = tuned(before) | {"1.q": before["1.q"] * 0.1, "4.q": before["4.q"] * 10}
    assert flagged(before, after) == {"1.q", "4.q"}


def test_a_whole_role_that_collapses_is_seen() -> None:
    before = model(roles=("q", "k", "v", "up", "down"))
    after = tuned(before)
    names = {name for name in after if name.endswith(".q")}
    after |= {name: 0.1 * after[name] for name in names}
    assert flagged(before, after) == names


def test_a_model_that_is_rescaled_as_a_whole_has_no_collapse() -> None:
    before = model()
    assert flagged(before, {name: 0.1 * x for name, x in before.items()}) == set()


def test_large_changes_among_large_changes_are_no_collapse() -> None:
    rng = np.random.default_rng(7)
    before = model(per_role=6, roles=("q", "k", "v", "o", "up", "down"))
    after = {name: x * 10.0 ** rng.uniform(-0.6, 0.6) for name, x in before.items()}
    assert flagged(before, after) == set()


@pytest.mark.parametrize("count", [2, 3])
def test_few_layers_are_held_against_each_other(count: int) -> None:
    before = model(per_role=count, roles=("q",))
    after = tuned(before)
    after["1.q"] = 0.1 * after["1.q"]
    assert flagged(before, after) == {"1.q"}


def test_a_single_layer_has_nothing_to_differ_from() -> None:
    before = model(per_role=1, roles=("q",))
    assert flagged(before, {"0.q": 0.1 * before["0.q"]}) == set()


def test_a_layer_that_dies_or_wakes_is_flagged_and_a_dead_one_left_out() -> None:
    before, zero = model(), np.zeros((24, 40))
    before["2.k"] = before["4.q"] = zero
    after = {**before, "1.down": zero, "2.k": np.ones((24, 40)), "4.q": zero}
    found = against_reference(list(zip(rows(before), rows(after), strict=True)))
    assert {n for n, s in found.items() if s.flagged} == {"1.down", "2.k"}
    assert found["1.down"].change == -math.inf and found["2.k"].change == math.inf
    assert "4.q" not in found


def test_layers_with_nan_take_no_part() -> None:
    before, after = model(), tuned(model())
    after["2.k"] = np.full((24, 40), np.nan)
    assert flagged(before, after) == set()


def test_effective_rank_falls_where_the_column_entropy_rises() -> None:
    """Why the effective rank is asked: entropy is divided by the logarithm of the rank."""
    x = np.random.default_rng(0).standard_normal((24, 40)) * np.geomspace(2, 0.1, 40)
    whole, cut = row(x, "w", "q"), row(truncated(x), "w", "q")
    assert cut.values["entropy"] > whole.values["entropy"]
    assert whole.values["matrix_rank"] == 24 and cut.values["matrix_rank"] == 2
    fall = sizes(cut)["log_effective_rank"] - sizes(whole)["log_effective_rank"]
    assert fall < -2 * CHANGE_LIMIT["log_effective_rank"]


def test_effective_rank_is_the_number_of_equal_directions() -> None:
    assert 10 ** sizes(row(np.eye(12), "w", "q"))["log_effective_rank"] == pytest.approx(12)


# -------------------------------------------------------------------- within one model


@pytest.mark.parametrize("decades", [-1.0, 1.0])
def test_a_layer_out_of_line_with_its_neighbours_is_found(decades: float) -> None:
    arrays = model(per_role=8)
    arrays["3.k"] = arrays["3.k"] * 10**decades
    found = scale_outliers(rows(arrays))
    assert [(x.layer, x.kind, x.certainty) for x in found] == [("3.k", OUTLIER, "possible")]
    assert found[0].value == pytest.approx(2 * decades, abs=0.3)
    assert "frog" not in found[0].text and "normalisation" in found[0].text


def test_a_trend_over_depth_and_unlike_shapes_are_no_outliers() -> None:
    rng = np.random.default_rng(1)
    arrays = {
        f"{i}.conv": rng.standard_normal((m, 9 * m)) * (2 / (9 * m)) ** 0.5 * 1.1**i
        for i, m in enumerate([8, 8, 8, 8, 16, 16, 16, 16, 32, 32, 32])
    }
    assert scale_outliers(rows(arrays)) == ()


def test_roles_of_few_layers_are_not_judged_within_a_model() -> None:
    arrays = model(per_role=FEWEST - 1)
    arrays["1.k"] = 100 * arrays["1.k"]
    assert within_model(rows(arrays)) == {}


def test_a_zero_layer_is_told_and_left_out() -> None:
    arrays = model(per_role=8, roles=("q",))
    arrays["3.q"] = np.zeros((24, 40))
    found = scale_outliers(rows(arrays))
    assert [(x.layer, x.severity) for x in found] == [("3.q", "info")]
    assert "all zero" in found[0].text


def test_findings_about_scale_are_made_anew_when_parts_are_joined() -> None:
    arrays = model(per_role=8)
    arrays["3.k"] = 10 * arrays["3.k"]
    stale = Finding(kind=OUTLIER, certainty="possible", severity="warning", layer="0.q",
                    value=1.0, threshold=1.0, text="of a part")  # fmt: skip
    kept = replace(stale, kind="trained")
    made = with_scale_outliers([stale, kept], rows(arrays))
    assert [(x.layer, x.kind) for x in made] == [("0.q", "trained"), ("3.k", OUTLIER)]
    assert with_scale_outliers([stale, kept], rows(arrays), part=True) == [kept]


def test_analyze_reports_an_outlier_and_compat_mode_does_not() -> None:
    import torch

    arrays = model(per_role=8, roles=("q_proj", "k_proj"))
    arrays["3.k_proj"] = 10 * arrays["3.k_proj"]
    state = {
        f"model.layers.{name.replace('.', '.self_attn.')}.weight": torch.tensor(x)
        for name, x in arrays.items()
    }
    found = [x for x in frog.analyze(state, SETTINGS).findings if x.kind == OUTLIER]
    assert [x.layer for x in found] == ["model.layers.3.self_attn.k_proj.weight"]
    compat = frog.analyze(state, replace(SETTINGS, compat="weightwatcher"))
    assert not [x for x in compat.findings if x.kind == OUTLIER]


@pytest.mark.parametrize("decades, text", [(1.0, "10 times"), (-0.3, "0.5 times")])
def test_factor_in_words(decades: float, text: str) -> None:
    assert factor(decades) == text
