"""The overlaps that were first measured on the real MiniLM, k = 16, three decimals each."""

from __future__ import annotations

from pathlib import Path

import pytest

import frog
from frog.api import Flow
from frog.numerics.similarity import leading_directions, overlap

TABLE = {  # edge: writer, reader, blocks between them, overlap by block of the writer
    "o -> up": ("attention.output.dense", "intermediate.dense", 0,
                (0.303, 0.142, 0.224, 0.223, 0.145, 0.073)),
    "down -> v": ("output.dense", "attention.self.value", 1, (0.260, 0.301, 0.250, 0.178, 0.087)),
    "down -> q": ("output.dense", "attention.self.query", 1, (0.045, 0.087, 0.076, 0.091, 0.099)),
    "up -> down": ("intermediate.dense", "output.dense", 0,
                   (0.019, 0.016, 0.011, 0.018, 0.029, 0.021)),
}  # fmt: skip
VALUE_TO_OUT = (0.036, 0.039, 0.041, 0.030, 0.013, 0.009)
"""Of the whole matrices, without regard to heads: below the null of 0.042, it means nothing."""


@pytest.fixture(scope="module")
def found(minilm: Path) -> Flow:
    return frog.flow(minilm)


@pytest.mark.parametrize("edge", TABLE)
def test_minilm_has_the_published_overlaps(found: Flow, edge: str) -> None:
    writer, reader, further, expected = TABLE[edge]
    by_name = {(x.writer, x.reader): x for x in found.pairs}
    name = "encoder.layer.{}.{}.weight".format
    for block, value in enumerate(expected):
        pair = by_name[name(block, writer), name(block + further, reader)]
        assert pair.k == 16
        assert pair.overlaps["plain"].value == pytest.approx(value, abs=0.0006)
        n = pair.dimension
        assert pair.overlaps["plain"].expected == pytest.approx(16 / n)


def test_value_and_output_overlap_by_head_not_as_whole_matrices(found: Flow, minilm: Path) -> None:
    matrices = {x.name: x for x in frog.inspect(minilm).matrices}
    for block, expected in enumerate(VALUE_TO_OUT):
        name = f"encoder.layer.{block}.attention."
        value = matrices[f"{name}self.value.weight"]
        out = matrices[f"{name}output.dense.weight"]
        u = leading_directions(value.loader, value.shape, 16)
        v = leading_directions(out.loader, out.shape, 16, side="right")
        assert overlap(u, v) == pytest.approx(expected, abs=0.0006)
    heads = [x for x in found.pairs if x.kind == "ov"]
    assert len(heads) == 6 * 12
    assert max(x.overlaps["plain"].z for x in heads) > 5, "single heads do overlap"


def test_the_null_is_that_of_the_table(found: Flow) -> None:
    stream = next(x for x in found.pairs if x.kind == "residual")
    assert stream.overlaps["plain"].expected == pytest.approx(0.0417, abs=5e-5)
    assert stream.overlaps["plain"].spread == pytest.approx(0.0035, abs=5e-5)
    hidden = next(x for x in found.pairs if x.kind == "activation")
    assert hidden.overlaps["plain"].expected == pytest.approx(0.010, abs=5e-4)
