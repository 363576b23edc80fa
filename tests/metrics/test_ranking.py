"""Who is ranked, ties, missing scores, and reasons made of the layer's own numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import frog
from frog.errors import UnknownName
from frog.metrics.ranking import AUTO, RANKINGS, Ranking, rank
from frog.serial import report_from_json, report_to_json
from frog.types import LayerReport, NullLook


def layer(name: str, position: int = 0, **facts: object) -> LayerReport:
    given: dict = {
        "name": name,
        "kind": "linear",
        "role": "up",
        "block": 3,
        "shape": (384, 1536),
        "dtype": "float32",
        "params": 384 * 1536,
        "fit_status": "ok",
        "position": position,
        **facts,
    }
    return LayerReport(**given)


def with_alpha(name: str, alpha: float, position: int = 0, **facts: object) -> LayerReport:
    return layer(name, position, values={"alpha": alpha}, **facts)


def test_only_what_was_measured_and_counts_is_ranked() -> None:
    layers = [
        with_alpha("kept", 3.0),
        with_alpha("embedding", 2.0, averaged=False),
        layer("bias", skipped="one-dimensional"),
        layer("broken", skipped="failed: truncated"),
        layer("nan", fit_status="nonfinite", verdicts=("nonfinite",)),
    ]
    assert [x.layer for x in rank(layers, by="alpha_high")] == ["kept"]


def test_high_first_and_low_first_are_each_other_reversed() -> None:
    layers = [with_alpha("a", 2.5, 0), with_alpha("b", 6.5, 1), with_alpha("c", 3.5, 2)]
    high = rank(layers, by="alpha_high")
    assert [x.layer for x in high] == ["b", "c", "a"]
    assert [x.score for x in high] == [6.5, 3.5, 2.5]
    assert [x.layer for x in rank(layers, by="alpha_low")] == ["a", "c", "b"]


def test_ties_go_by_place_in_the_listing() -> None:
    layers = [with_alpha("z", 3.0, 0), with_alpha("a", 3.0, 1), with_alpha("m", 3.0, 2)]
    for moved in (layers, layers[::-1]):
        assert [x.layer for x in rank(moved, by="alpha_high")] == ["z", "a", "m"]


def test_a_layer_without_a_score_comes_last_and_says_why() -> None:
    layers = [with_alpha("small", math.nan, 0, fit_status="too_few"), with_alpha("b", 3.0, 1)]
    first, last = rank(layers, by="alpha_low")
    assert (first.layer, last.layer, last.place) == ("b", "small", 2)
    assert math.isnan(last.score)
    assert last.reason.startswith(
        "last, without a score by smallest alpha (no alpha: too few): up of block 3, 384 x 1536"
    )


def test_reasons_hold_the_numbers_of_the_layer() -> None:
    looks = {
        "alpha": NullLook(name="alpha", value=4.12, percentile=0.0, low=6.0, high=14.5),
        "stable_rank": NullLook(name="stable_rank", value=90.0, percentile=50.0, low=88, high=95),
    }
    values = {
        "alpha": 4.12,
        "alpha_low": 3.5,
        "alpha_high": 5.25,
        "stable_rank": 90.0,
        "entropy": 0.921,
    }
    one = layer("w", values=values, null=looks, verdicts=("trained", "possibly over-trained"))
    (ranked,) = rank([one], by="alpha_high")
    assert ranked.reason == (
        "place 1 of 1 by largest alpha: up of block 3, 384 x 1536; "
        "alpha 4.12 (interval 3.5 to 5.25; random: 6 to 14.5); "
        "stable rank 90 (random: 88 to 95); "
        "evenness of the spectrum 0.921 of 1; judged trained, possibly over-trained"
    )
    (bare,) = rank([layer("w", block=None, values={"alpha": 4.12})], by="alpha_high")
    assert bare.reason == "place 1 of 1 by largest alpha: up, 384 x 1536; alpha 4.12"


def test_alpha_in_its_null_is_fair_to_shape() -> None:
    """The same place among random matrices counts the same, whatever the level of the null."""

    def look(value: float, low: float, high: float) -> dict[str, NullLook]:
        return {"alpha": NullLook(name="alpha", value=value, percentile=1, low=low, high=high)}

    wide = with_alpha("wide", 9.0, 0, null=look(1 + 10**0.25 * 4, 5.0, 41.0))
    square = with_alpha("square", 3.0, 1, null=look(1 + 10**0.75, 2.0, 11.0))
    scores = {x.layer: x.score for x in rank([wide, square], by="alpha_in_null")}
    assert scores == pytest.approx({"wide": 0.25, "square": 0.75})


def test_auto_is_a_member_and_a_ranking_itself_is_accepted() -> None:
    layers = [layer("a", 0, params=5), layer("b", 1, params=7)]
    assert AUTO in RANKINGS
    found, named = rank(layers), rank(layers, by=AUTO)
    assert [x.reason for x in found] == [x.reason for x in named]
    assert [x.reason for x in found] == [x.reason for x in rank(layers, by="auto")]
    own = Ranking(
        name="own", words="fewest parameters", source="me",
        function=lambda found: [-x.params for x in found],
    )  # fmt: skip
    assert [x.layer for x in rank(layers, by=own)] == ["a", "b"]


def test_an_unknown_ranking_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"no ranking 'alpha_hihg'\. Did you mean 'alpha_high'"):
        rank([], by="alpha_hihg")


def test_chance_depends_on_the_name_alone() -> None:
    layers = [layer(f"layer {i}", i) for i in range(50)]
    found = rank(layers, by="random")
    assert [x.layer for x in found] == [
        x.layer for x in rank([replace(x, params=3) for x in layers], by="random")
    ]
    assert [x.layer for x in found] != [x.name for x in layers]
    assert 0 <= min(x.score for x in found) < 0.2 < 0.8 < max(x.score for x in found) < 1


def test_analyze_fills_the_ranking_and_a_file_keeps_it(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Linear(96, 80))
    settings = frog.Settings(bootstrap=0, curves=False)
    report = frog.analyze(model, settings)
    assert [x.place for x in report.ranking] == [1, 2]
    assert {x.layer for x in report.ranking} == {"0.weight", "1.weight"}
    assert all("stable rank" in x.reason for x in report.ranking)
    again = report_from_json(report_to_json(report), "memory")
    assert again.ranking == report.ranking
    compat = frog.analyze(model, frog.Settings(compat="weightwatcher"))
    assert compat.ranking == ()


def test_random_layers_rank_behind_spiked_ones() -> None:
    """Planted truth for the shape-fair scores: a spike is seen at every shape."""
    import torch

    rng = np.random.default_rng(0)
    state = {}
    for i, (m, n) in enumerate([(64, 64), (64, 256), (96, 128)]):
        state[f"random{i}.weight"] = rng.standard_normal((m, n))
        spike = np.outer(rng.standard_normal(m), rng.standard_normal(n)) * 3 / math.sqrt(m)
        state[f"spiked{i}.weight"] = rng.standard_normal((m, n)) + spike
    tensors = {name: torch.from_numpy(array).float() for name, array in state.items()}
    report = frog.analyze(tensors, frog.Settings(bootstrap=0, curves=False))
    for by, first in (("stable_rank_high", "random"), ("stable_rank_low", "spiked")):
        top = [x.layer for x in rank(report.layers, by=by)[:3]]
        assert all(name.startswith(first) for name in top), (by, top)
