"""Laws of matrix views: what is taken, where it lies, and that nothing is lost or doubled."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frog.numerics import views
from frog.numerics.views import ViewError


@st.composite
def random_views(draw):
    """A view built by random moves, on a small tensor."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=4)))
    view = views.plain(shape)
    for _ in range(draw(st.integers(0, 4))):
        axis = draw(st.integers(0, len(view.grid) - 1))
        if isinstance(view.index[axis], int):
            continue
        length = len(range(*view.index[axis]))
        move = draw(st.sampled_from(["transposed", "part", "pick", "regrid"]))
        if move == "transposed":
            view = views.transposed(view)
        elif move == "part":
            start = draw(st.integers(0, length - 1))
            stop = draw(st.integers(start + 1, length))
            view = views.part(view, axis, start, stop, draw(st.integers(1, 3)))
        elif move == "pick" and (len(view.rows) > 1 or axis not in view.rows):
            view = views.pick(view, axis, draw(st.integers(0, length - 1)))
        elif move == "regrid" and view.index[axis] == (0, view.grid[axis], 1):
            factors = [x for x in range(1, length + 1) if length % x == 0]
            view = views.regrid(view, axis, (draw(st.sampled_from(factors)), -1))
    return view


def numbers(view):
    return np.arange(math.prod(view.tensor_shape)).reshape(view.tensor_shape)


@given(random_views())
def test_entries_agree_with_take(view):
    taken = views.take(numbers(view), view)
    assert taken.shape == views.view_shape(view)
    assert np.array_equal(taken, views.all_entries(view))
    assert len(np.unique(taken)) == taken.size


@given(random_views())
def test_torch_takes_the_same(view):
    taken = views.take(torch.from_numpy(numbers(view)), view)
    assert np.array_equal(taken.numpy(), views.all_entries(view))


@given(random_views(), st.data())
def test_writing_through_entries_is_read_back(view, data):
    m, n = views.view_shape(view)
    row, column = data.draw(st.integers(0, m - 1)), data.draw(st.integers(0, n - 1))
    tensor = np.zeros(view.tensor_shape)
    tensor.reshape(-1)[views.entries(view, [row], [column])] = 1
    taken = views.take(tensor, view)
    assert taken[row, column] == 1 and taken.sum() == 1


@given(random_views(), st.integers(1, 7))
def test_slabs_make_the_whole(view, size):
    array, whole = numbers(view), views.take(numbers(view), view)
    m, n = whole.shape
    rows = [views.take_rows(array, view, i, min(i + size, m)) for i in range(0, m, size)]
    columns = [views.take_columns(array, view, i, min(i + size, n)) for i in range(0, n, size)]
    assert np.array_equal(np.concatenate(rows, 0), whole)
    assert np.array_equal(np.concatenate(columns, 1), whole)


@given(random_views())
def test_strided_and_back(view):
    start, rows, columns = views.strided(view)
    again = views.from_strided(view.tensor_shape, start, rows, columns)
    if again is not None:
        assert np.array_equal(views.all_entries(again), views.all_entries(view))


@pytest.mark.parametrize(
    "made",
    [
        [views.third((12, 5), i) for i in range(3)],
        [views.transposed(views.third((5, 12), i, axis=1)) for i in range(3)],
        [views.grouped((24, 5), 4, 2 * i, 2 * i + 2) for i in range(3)],
        [views.grouped((24, 5), 2, *cut) for cut in ((0, 8), (8, 10), (10, 12))],
        [views.expert((3, 4, 5), e) for e in range(3)],
        [views.expert((3, 4, 5), e, swapped=True) for e in range(3)],
        [
            views.part(views.expert((2, 5, 8), e, swapped=True), 2, k, 8, 2)
            for e in range(2)
            for k in range(2)
        ],
        [views.plain((4, 3, 2, 2))],
    ],
)
def test_layouts_are_disjoint_and_cover(made):
    flat = np.concatenate([views.all_entries(view).ravel() for view in made])
    assert sorted(flat) == list(range(math.prod(made[0].tensor_shape)))
    for view in made:
        start, rows, columns = views.strided(view)
        again = views.from_strided(view.tensor_shape, start, rows, columns)
        assert again is not None
        assert np.array_equal(views.all_entries(again), views.all_entries(view))


def test_heads_are_where_gpt_neox_keeps_them():
    heads, d, n = 4, 2, 5
    W = np.arange(heads * 3 * d * n).reshape(heads * 3 * d, n)
    k = views.take(W, views.grouped(W.shape, heads, d, 2 * d))
    slow = np.stack([W[h * 3 * d + d + i] for h in range(heads) for i in range(d)])
    assert np.array_equal(k, slow)


def test_simple_layouts_share_memory():
    W = np.zeros((6, 4))
    for view in (
        views.plain(W.shape),
        views.third(W.shape, 1),
        views.transposed(views.plain((6, 4))),
    ):
        assert np.shares_memory(views.take(W, view), W)
        assert np.shares_memory(views.take_rows(W, view, 1, 2), W)


@settings(max_examples=20)
@given(random_views())
def test_outside_is_refused(view):
    m, n = views.view_shape(view)
    with pytest.raises(ViewError, match=f"rows must lie in 0..{m - 1}"):
        views.entries(view, [m], [0])
    with pytest.raises(ViewError, match="columns must lie in"):
        views.take_columns(numbers(view), view, 0, n + 1)
    with pytest.raises(ViewError, match="belongs to another tensor"):
        views.take(np.zeros((*view.tensor_shape, 1)), view)
