"""Every strategy gives the entries of autograd's dense gradient."""

import numpy as np
import pytest
import torch

from frog.numerics.units import unit_count, unit_entries
from frog.tuning.gradients import (
    FEW,
    STRATEGIES,
    choose_strategy,
    compact_gradient,
    keep,
    panel_of,
    pattern_of,
)
from frog.types import GRANULARITIES

OF = {"rows": "row", "columns": "column", "blocks": "block"}
SHAPE = (24, 40)
TOKENS = 70


@pytest.fixture(autouse=True)
def _small_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frog.tuning.gradients.PANEL", TOKENS * sum(SHAPE))
    assert panel_of(SHAPE) == TOKENS


def pattern(strategy: str, count: int, seed: int = 0):
    granularity = OF.get(strategy, "element")
    size = (4, 8) if granularity == "block" else (1, 1)
    units = np.random.default_rng(seed).permutation(unit_count(SHAPE, granularity, size))
    units = np.sort(units[:count])
    at = unit_entries(units, SHAPE, granularity, size)
    return pattern_of(SHAPE, strategy, lambda: at, units, size), at


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [0, 1, 7, 10**6])
@pytest.mark.parametrize("lead", [(5,), (2, 3), (2, 2, 3), (0,), (1,), (2 * TOKENS + 3,)])
def test_strategies_equal_the_dense_gradient(
    strategy: str, count: int, lead: tuple[int, ...]
) -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(*lead, SHAPE[1], generator=draw)
    dy = torch.randn(*lead, SHAPE[0], generator=draw)
    made, (rows, columns) = pattern(strategy, count)
    weight = torch.zeros(SHAPE, requires_grad=True)
    (torch.nn.functional.linear(x, weight) * dy).sum().backward()
    assert weight.grad is not None
    expected = weight.grad[rows, columns]
    found = compact_gradient(keep(x, made), dy, made)
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5 if len(x) < TOKENS else 1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("tokens", [64, 2000])
def test_low_precision_outputs_with_float_inputs(strategy: str, tokens: int) -> None:
    """Under autocast x is float32 and dy bfloat16."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, SHAPE[1], generator=draw)
    dy = torch.randn(tokens, SHAPE[0], generator=draw).bfloat16()
    made, (rows, columns) = pattern(strategy, 5)
    expected = (dy.float().T @ x.bfloat16().float())[rows, columns]
    found = compact_gradient(keep(x, made), dy, made)
    assert found.dtype == torch.float32
    # sums of bfloat16 numbers, rounded to bfloat16 at most once
    assert torch.allclose(found, expected, rtol=2**-8, atol=1e-2)


@pytest.mark.parametrize("count", [1, 7, 30])
def test_both_ways_of_blocks_are_one_gradient(count: int) -> None:
    """Few blocks of many tokens are multiplied one by one, many in batches of panels."""
    made, (rows, columns) = pattern("blocks", count)
    differ = []
    for tokens in (TOKENS - 1, FEW * count // sum(SHAPE) + 1):
        x, dy = torch.randn(tokens, SHAPE[1]), torch.randn(tokens, SHAPE[0])
        differ.append(count * FEW > tokens * sum(SHAPE))
        found = compact_gradient(keep(x, made), dy, made)
        expected = (dy.double().T @ x.double())[rows, columns].float()
        assert torch.allclose(found, expected, atol=1e-3)
    assert differ == [True, False]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_expanded_gradient(strategy: str) -> None:
    """What sum() sends back has stride 0."""
    x, dy = torch.randn(3, 5, SHAPE[1]), torch.ones(1, 1, 1).expand(3, 5, SHAPE[0])
    made, (rows, columns) = pattern(strategy, 4)
    expected = (dy.reshape(15, -1).T @ x.view(15, -1))[rows, columns]
    assert torch.allclose(compact_gradient(keep(x, made), dy, made), expected, atol=1e-4)


def test_entries_in_any_order() -> None:
    """Views of fused tensors need not be ascending."""
    rows, columns = np.array([5, 0, 5, 2]), np.array([1, 9, 0, 3])
    x, dy = torch.randn(6, SHAPE[1]), torch.randn(6, SHAPE[0])
    for strategy in ("pairs", "sampled", "gather", "slabs"):
        made = pattern_of(SHAPE, strategy, lambda: (rows, columns), rows * SHAPE[1] + columns)
        found = compact_gradient(keep(x, made), dy, made)
        assert torch.allclose(found, (dy.T @ x)[rows, columns], atol=1e-5)


def test_columns_keep_only_their_columns() -> None:
    made, _ = pattern("columns", 3)
    assert keep(torch.zeros(4, 40), made).shape == (4, 3)
    for strategy in ("rows", "blocks", "pairs", "gather", "sampled"):
        x = torch.zeros(4, 40)
        assert keep(x, pattern(strategy, 3)[0]) is x  # alive anyway: no second copy


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_strategy_for_every_granularity(granularity: str) -> None:
    for shape, count, device in (
        ((64, 64), 40, "cpu"),
        ((65, 63), 4000, "cpu"),
        ((64, 64), 40, "cuda"),
    ):
        chosen = choose_strategy(granularity, shape, (16, 16), count, device)
        assert chosen in STRATEGIES
        assert (chosen == "sampled") <= (granularity == "element" and device == "cpu")


def test_elements_by_how_many_they_are() -> None:
    """A pair of columns an entry, a sampled product, or the dense gradient."""

    def of(shape: tuple[int, int], count: int, device: str = "cpu") -> str:
        return choose_strategy("element", shape, (1, 1), count, device)

    assert of((512, 512), 512) == of((64, 172), 118) == "pairs"
    assert of((512, 512), 513) == "sampled"
    assert of((512, 512), 100_000) == of((64, 172), 119) == "gather"
    assert of((512, 512), 3, "cuda") == of((512, 512), 513, "cuda") == "gather"
