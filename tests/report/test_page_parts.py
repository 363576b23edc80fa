"""Pieces of the page: curves, labels, lines of the map, words for every metric and finding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from frog.metrics.registry import METRICS
from frog.report.page.columns import TITLES
from frog.report.page.curves import packed, unpacked
from frog.report.page.layers import line_order, lines_of
from frog.report.page.meanings import MEANINGS
from frog.report.page.series_view import unlike
from frog.types import KINDS, LayerReport
from tests.report.synthetic import a_report


def test_curves_without_points_or_with_zeros() -> None:
    assert packed({"eigenvalue": [], "survival": []}) is None
    assert packed({"eigenvalue": [0.0, math.nan], "survival": [0.5, 1.0]}) is None
    made = packed({"eigenvalue": [4.0, 1e-320, 0.0], "survival": [0.3, 0.6, 1.0]})
    assert made is not None and made["n"] == 2
    one = packed({"eigenvalue": [4.0], "survival": [1.0]})
    assert one is not None and unpacked(one)[0] == [4.0]


def test_curves_of_very_many_layers_keep_their_tail() -> None:
    n = 256
    curve = {
        "eigenvalue": [1.0 + n - i for i in range(n)],
        "survival": [(i + 1) / n for i in range(n)],
    }
    made = packed(curve, 32)
    assert made is not None and made["n"] == 32
    assert unpacked(made)[0][:16] == pytest.approx(curve["eigenvalue"][:16], rel=1e-3)
    assert unpacked(made)[0][-1] == pytest.approx(1.0 + 1, rel=1e-3)


def test_towers_have_lines_of_their_own_and_stages_do_not() -> None:
    def layer(name: str, block: int | None, role: str = "conv") -> LayerReport:
        return replace(a_report(1).layers[1], name=name, block=block, role=role)

    stages = [
        layer("layer1.0.w", 0),
        layer("layer1.1.w", 1),
        layer("layer2.0.w", 2),
        layer("x", None),
    ]
    assert lines_of(stages) == ["conv"] * 4
    towers = [
        layer("vision.0.q.w", 0, "q"),
        layer("text.0.down.w", 0, "down"),
        layer("text.0.q.w", 0, "q"),
        layer("head.w", None, "head"),
    ]
    assert lines_of(towers) == ["vision q", "text down", "text q", "head"]
    assert line_order(towers) == ["vision q", "text q", "text down", "head"]


@pytest.mark.parametrize(
    ("labels", "short"),
    [
        (["run_x_dense.safetensors", "run_x_pruned_more.safetensors"], ["dense", "pruned_more"]),
        (["checkpoint-1000000", "checkpoint-2000000"], ["1000000", "2000000"]),
        (["a" * 20, "a" * 20 + "_b"], ["a" * 20, "a" * 20 + "_b"]),
        (["same-long-label-of-two"] * 2, ["same-long-label-of-two"] * 2),
        (["", " " * 20], ["", " " * 20]),
        (["x-1", "x-2"], ["x-1", "x-2"]),
        ([], []),
    ],
)
def test_labels_are_shortened_to_what_differs(labels: list[str], short: list[str]) -> None:
    assert unlike(labels) == short


def test_every_metric_has_a_title_and_every_kind_a_meaning() -> None:
    assert "alpha" in METRICS
    assert not [name for name in METRICS if name not in TITLES and not name.endswith("_sd")]
    assert not [kind for kind in KINDS if kind not in MEANINGS]
