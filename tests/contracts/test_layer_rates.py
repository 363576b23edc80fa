"""What learning-rate ratios owe: 1 at strength 0, bounds, order, one ratio for what is fused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import frog
from frog.allocation.layer_rates import KINDS, NOTE, with_ratios
from frog.allocation.plan import split
from frog.errors import UnknownName, UsageError
from frog.types import Budget, LayerReport, Plan
from tests.contracts.test_rules import layers, report

ONE_SHAPE = (64, 64)


def one_shape(count: int = 12, seed: int = 0, sigma: float = 0.0) -> list[LayerReport]:
    return [
        replace(x, shape=ONE_SHAPE, params=4096, values=dict(x.values) | {"sigma": sigma})
        for x in layers(count, seed)
    ]


def ratios(found: list[LayerReport], kind: str, strength: float = 0.25, tau: float = 2.0) -> list:
    whole = report(found)
    plan = split(whole, Budget(share=0.1))
    made = with_ratios(plan, whole, kind, strength=strength, tau=tau)
    assert [x.count for x in made.layers] == [x.count for x in plan.layers]
    return [x.lr_ratio for x in made.layers]


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_is_exactly_one(kind: str) -> None:
    assert set(ratios(layers(), kind, strength=0.0)) == {1.0}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 15), seed=st.integers(0, 50), strength=st.floats(-2, 2),
    tau=st.floats(0.01, 50),
)  # fmt: skip
def test_ratios_keep_their_bounds(
    kind: str, count: int, seed: int, strength: float, tau: float
) -> None:
    edge = 10.0 ** (abs(strength) / 2) * (1 + 1e-12)
    found = ratios(layers(count, seed), kind, strength, tau)
    assert all(1 / edge <= x <= edge for x in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.25, 1.0, -0.5])
def test_monotone_in_alpha_among_equal_shapes(kind: str, strength: float) -> None:
    given_layers = one_shape()
    order = np.argsort([x.values["alpha"] for x in given_layers])
    found = np.array(ratios(given_layers, kind, strength))[order] ** np.sign(strength)
    assert (np.diff(found) >= 0).all() and found[0] < 1 < found[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_the_layers_does_not_matter(kind: str) -> None:
    given_layers = layers()
    assert ratios(given_layers[::-1], kind) == ratios(given_layers, kind)[::-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula(kind: str) -> None:
    given_layers = one_shape(9)
    alpha = np.array([x.values["alpha"] for x in given_layers])
    middle = np.median(alpha)
    z = np.clip((alpha - middle) / (1.4826 * np.median(np.abs(alpha - middle))), -3, 3)
    if kind == "sigmoid":
        expected = 10 ** (0.4 * (1 / (1 + np.exp(-1.5 * z)) - 0.5))
    else:
        high, low = 10**0.2, 10**-0.2
        expected = np.where(z > 0, 1 + (high - 1) * z / 3, 1 + (1 - low) * z / 3)
    np.testing.assert_allclose(ratios(given_layers, kind, 0.4, 1.5), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_uncertain_alpha_is_pulled_to_one_and_an_unknown_one_is_one(kind: str) -> None:
    def far(sigma: float) -> float:
        given_layers = one_shape()
        given_layers[3] = replace(given_layers[3], values={"alpha": 30.0, "sigma": sigma})
        return ratios(given_layers, kind)[3] - 1

    pulls = [far(x) for x in (0.0, 2.0, 10.0, 1e6)]
    assert pulls == sorted(pulls, reverse=True) and pulls[0] > 0.1 and pulls[-1] < 1e-6
    given_layers = [*one_shape(), replace(one_shape(1)[0], name="blind", values={})]
    assert ratios(given_layers, kind)[-1] == 1.0
    assert ratios(layers(3), kind) == [1.0] * 3  # fewer than three of each shape


@pytest.mark.parametrize("kind", KINDS)
def test_scale_of_alpha_does_not_matter(kind: str) -> None:
    given_layers = one_shape()
    moved = [
        replace(x, values={"alpha": 5 + 7 * x.values["alpha"], "sigma": 0.0}) for x in given_layers
    ]
    np.testing.assert_allclose(ratios(moved, kind), ratios(given_layers, kind), rtol=1e-9)


@pytest.mark.parametrize(("names", "together"), [
    (["h.0.c_attn.weight[q]", "h.0.c_attn.weight[k]", "h.0.c_attn.weight[v]"], True),
    (["h.0.moe.experts.0.w1.weight", "h.0.moe.experts.1.w1.weight", "h.0.moe.experts.1.w3.weight"],
     True),
    (["h.0.mlp.experts.gate_up_proj[3].gate", "h.0.mlp.experts.gate_up_proj[0].up",
      "h.0.mlp.experts.down_proj[0]"], True),
    (["h.0.q.weight", "h.1.q.weight", "h.2.q.weight"], False),
    (["h.0.moe.experts.0.w1.weight", "h.1.moe.experts.0.w1.weight", "h.2.moe.experts.1.w1.weight"],
     False),
])  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_what_trains_as_one_gets_one_ratio(kind: str, names: list[str], together: bool) -> None:
    given_layers = one_shape()
    for place, name in enumerate(names):
        given_layers[place] = replace(given_layers[place], name=name)
    found = ratios(given_layers, kind)
    alone = ratios(one_shape(), kind)
    assert (len(set(found[:3])) == 1) == together
    if together:
        assert min(alone[:3]) <= found[0] <= max(alone[:3])
    assert found[3:] == alone[3:]


def test_what_is_wrong_is_said() -> None:
    whole = report(layers())
    plan = split(whole, Budget(share=0.1))
    with pytest.raises(UnknownName, match="Did you mean 'sigmoid'"):
        frog.layer_rates(plan, whole, "sigmoidal")
    for wrong in ({"strength": 2.5}, {"strength": math.nan}, {"tau": 0.0}, {"tau": math.inf}):
        with pytest.raises(UsageError, match="must"):
            frog.layer_rates(plan, whole, **wrong)
    with pytest.raises(UsageError, match=r"lacks layer\.11\.weight"):
        frog.layer_rates(plan, report(layers()[:-1]))


def test_the_plan_tells_and_keeps_the_ratios(tmp_path: object) -> None:
    whole = report(layers())
    first = frog.layer_rates(split(whole, Budget(share=0.1)), whole, "linear", strength=1.0)
    again = frog.layer_rates(first, whole)
    assert len([x for x in again.notes if x.startswith(NOTE)]) == 1
    assert "sigmoid, strength 0.25, tau 2" in again.notes[-1]
    assert again.layers != first.layers
    again.to_json(f"{tmp_path}/plan.json")
    assert Plan.from_json(f"{tmp_path}/plan.json") == again
