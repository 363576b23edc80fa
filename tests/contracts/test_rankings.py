"""Laws of a ranking, over every member of the registry: a new one is tested by itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from frog.metrics.measure import measure
from frog.metrics.ranking import RANKINGS, rank
from frog.types import LayerReport, NullLook, Settings
from tests.matrices import handle, planted

SETTINGS = Settings(bootstrap=0, curves=False)
CONTROLS = ("params", "aspect", "depth", "random")


@pytest.fixture(scope="module")
def layers() -> list[LayerReport]:
    """Trained-like, random, small, zero and constant layers, measured as ``analyze`` does."""
    rng = np.random.default_rng(0)
    steep = (1.0 + np.arange(60)) ** -1.2
    arrays = {
        "steep": planted((60, 90), steep, 1),
        "flat": planted((60, 90), steep**0.3, 2),
        "random": rng.standard_normal((64, 128)),
        "small": rng.standard_normal((8, 20)),
        "zero": np.zeros((60, 70)),
        "constant": np.full((55, 60), 0.3),
    }
    rows = (measure(handle(array, name, block=0), SETTINGS)[0] for name, array in arrays.items())
    return [replace(row, position=i) for i, row in enumerate(rows)]


@pytest.mark.parametrize("name", RANKINGS)
def test_facts_are_complete(name: str) -> None:
    ranking = RANKINGS[name]
    assert ranking.name == name
    assert ranking.source
    assert ranking.words
    assert ranking.meaning.endswith(".")


@pytest.mark.parametrize("name", RANKINGS)
def test_the_order_of_the_layers_does_not_matter(name: str, layers: list[LayerReport]) -> None:
    expected = rank(layers, by=name)
    for seed in range(3):
        moved = [layers[i] for i in np.random.default_rng(seed).permutation(len(layers))]
        found = rank(moved, by=name)
        assert [x.layer for x in found] == [x.layer for x in expected]
        np.testing.assert_allclose([x.score for x in found], [x.score for x in expected])


@pytest.mark.parametrize("name", RANKINGS)
def test_every_layer_has_one_place_a_finite_score_or_none(
    name: str, layers: list[LayerReport]
) -> None:
    ranked = rank(layers, by=name)
    assert sorted(x.layer for x in ranked) == sorted(x.name for x in layers)
    assert [x.place for x in ranked] == list(range(1, len(layers) + 1))
    scores = [x.score for x in ranked]
    assert not any(math.isinf(score) for score in scores)
    known = [score for score in scores if not math.isnan(score)]
    assert known == sorted(known, reverse=True)
    assert scores[: len(known)] == known, "layers without a score come last"
    assert known


@pytest.mark.parametrize("name", RANKINGS)
def test_no_layers_give_no_places(name: str) -> None:
    assert rank([], by=name) == ()


@pytest.mark.parametrize("name", RANKINGS)
def test_layers_without_any_number_have_no_score_or_a_control(name: str) -> None:
    """A report of an older version may lack every column."""
    bare = LayerReport(
        name="w", kind="linear", role="up", block=None, shape=(4, 5), dtype="float32", params=20
    )
    (ranked,) = rank([bare], by=name)
    assert math.isnan(ranked.score) == (name not in CONTROLS)
    assert ranked.place == 1


@pytest.mark.parametrize("name", RANKINGS)
def test_nonsense_from_an_edited_file_has_no_score_and_raises_nothing(name: str) -> None:
    look = NullLook(name="x", value=-1.0, percentile=0.0, low=-2.0, high=3.0)
    odd = LayerReport(
        name="w",
        kind="linear",
        role="",
        block=None,
        shape=(),
        dtype="",
        params=0,
        values={"norm": -1.0, "alpha": 0.5, "stable_rank": -3.0},
        null=dict.fromkeys(("alpha", "stable_rank", "spikes"), look),
    )
    (ranked,) = rank([odd], by=name)
    assert not math.isinf(ranked.score)
    assert ranked.layer == "w"
