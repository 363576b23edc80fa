"""Masks: exact counts, ties, zeros that are there, and slow twins."""

import numpy as np
import pytest
import torch

from frog.compression.inputs import input_norms
from frog.compression.pruning import (
    IMPORTANCE,
    count_at,
    keep_mask,
    n_of_m_mask,
    relevance,
    wanda,
)
from frog.errors import UsageError
from tests.compression.toy import Tower, batches, located, run


def drawn(m: int = 12, n: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed))


def twin(w: torch.Tensor, scores: torch.Tensor, pruned: int) -> torch.Tensor:
    """Entries sorted by (not a zero, score), equals last index first; the first ones fall."""
    flat, values = w.flatten().tolist(), scores.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda k: (flat[k] != 0, values[k], -k))
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[order[:pruned]] = False
    return mask.view(w.shape)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("pruned", [0, 1, 37, 119, 239, 240])
def test_the_count_of_a_matrix_is_exact(pruned: int, coarse: bool) -> None:
    w = (drawn() * 2).round() if coarse else drawn()  # coarse: many ties, many zeros
    mask = keep_mask(w, w.abs(), pruned=pruned)
    assert int((~mask).sum()) == pruned
    assert torch.equal(mask, twin(w, w.abs(), pruned))


@pytest.mark.parametrize("pruned", [0, 5, 120, 127, 240])
def test_rows_share_the_count_and_the_sum_is_exact(
    pruned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = (drawn() * 2).round()
    mask = keep_mask(w, w.abs(), pruned=pruned, within="row")
    each, more = divmod(pruned, 12)
    assert (~mask).sum(1).tolist() == [each + (i < more) for i in range(12)]
    for i in range(12):
        assert torch.equal(mask[i : i + 1], twin(w[i : i + 1], w[i : i + 1].abs(),
                                                  each + (i < more)))  # fmt: skip
    monkeypatch.setattr("frog.compression.pruning.SLAB_ENTRIES", 45)
    assert torch.equal(keep_mask(w, w.abs(), pruned=pruned, within="row"), mask)


def test_of_equal_scores_the_first_stays() -> None:
    w = torch.ones(2, 3)
    assert keep_mask(w, w, pruned=4).int().tolist() == [[1, 1, 0], [0, 0, 0]]
    assert keep_mask(w, w, pruned=4, within="row").int().tolist() == [[1, 0, 0], [1, 0, 0]]
    assert n_of_m_mask(torch.ones(1, 4), torch.ones(1, 4)).int().tolist() == [[1, 1, 0, 0]]


def test_zeros_that_are_there_count_and_go_first_whatever_their_score() -> None:
    w = torch.tensor([[0.0, 2.0, 0.0, 1.0]])
    scores = torch.tensor([[9.0, 0.0, 9.0, 1.0]])
    assert keep_mask(w, scores, pruned=2).int().tolist() == [[0, 1, 0, 1]]
    assert keep_mask(w, scores, pruned=3).int().tolist() == [[0, 0, 0, 1]]
    assert n_of_m_mask(w, scores).int().tolist() == [[0, 1, 0, 1]]
    # fewer asked for than are there: no other weight is lost
    assert torch.equal(w * keep_mask(w, scores, pruned=1), w)


@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 4), (4, 5), (0, 2), (2, 2)])
def test_n_of_m_holds_in_every_group(keep: int, of: int) -> None:
    w = drawn()
    mask = n_of_m_mask(w, w.abs(), keep=keep, of=of)
    groups = mask.view(12, -1, of)
    assert (groups.sum(2) == keep).all()
    sizes = w.abs().view(12, -1, of)
    least_kept = sizes.masked_fill(~groups, np.inf).amin(2)
    assert (sizes.masked_fill(groups, -np.inf).amax(2) <= least_kept).all()


def test_wanda_is_that_of_the_slow_twin() -> None:
    model, data = Tower().double(), [x.double() for x in batches()]
    matrix = next(x for x in located(model) if x.name == "blocks.0.down.weight")
    norms = input_norms(model, [matrix], batches=data, outputs=run)[matrix.name]
    inputs = torch.cat([torch.relu(model.blocks[0].up(x)) for x in data]).detach()
    w = model.blocks[0].down.weight.detach()
    m, n = w.shape
    slow = torch.empty(m, n, dtype=torch.float64)
    for i in range(m):
        for j in range(n):
            slow[i, j] = abs(w[i, j]) * sum(x**2 for x in inputs[:, j].tolist()) ** 0.5
    found = wanda(w, norms)
    torch.testing.assert_close(found, slow, rtol=1e-12, atol=0)
    pruned = count_at(m * n, 0.5)
    mask = keep_mask(w, found, pruned=pruned, within="row")
    for i in range(m):
        order = sorted(range(n), key=lambda j: float(slow[i, j]))
        assert sorted(order[: n // 2]) == torch.nonzero(~mask[i])[:, 0].tolist()
    assert not torch.equal(mask, keep_mask(w, w.abs(), pruned=pruned, within="row"))
    assert model.training and model.dropout.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_relevance_is_the_sum_over_singular_vectors() -> None:
    w = drawn()
    u, s, vh = np.linalg.svd(w.numpy().astype(np.float64), full_matrices=False)
    exact = np.abs(u) @ np.diag(s) @ np.abs(vh)
    np.testing.assert_allclose(relevance(w).numpy(), exact, rtol=1e-4)
    assert list(IMPORTANCE) == ["magnitude", "wanda", "relevance"]


def test_what_cannot_be_pruned_is_refused() -> None:
    w = drawn()
    with pytest.raises(UsageError, match="needs the norms of the 20 inputs"):
        wanda(w, None)
    with pytest.raises(UsageError, match=r"0\.\.240"):
        keep_mask(w, w.abs(), pruned=241)
    with pytest.raises(UsageError, match="0 or more"):
        keep_mask(w, w, pruned=3)
    with pytest.raises(UsageError, match="whole groups of 8"):
        n_of_m_mask(w, w.abs(), keep=2, of=8)
    with pytest.raises(UsageError, match=r"0\.\.1"):
        count_at(10, 1.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_counts_are_exact_in_every_type_and_over_slabs(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frog.compression.pruning.SLAB_ENTRIES", 7)
    w = (drawn().double() * torch.logspace(-3, 3, 20).double()).to(dtype)
    w[::3, ::2] = 0.0
    w[1::3, ::2] = w[0, 1]
    for pruned in (1, 39, 40, 41, 60, 100, 200, 239):
        mask = keep_mask(w, w.abs(), pruned=pruned)
        assert torch.equal(mask, twin(w, w.abs(), pruned))


def test_a_zero_of_either_sign_is_one_score() -> None:
    w = torch.ones(1, 4)
    scores = torch.tensor([[-0.0, 0.0, -0.0, 0.0]])
    assert keep_mask(w, scores, pruned=2).int().tolist() == [[1, 1, 0, 0]]
    w[0, 0] = -0.0
    assert keep_mask(w, scores, pruned=2).int().tolist() == [[0, 1, 1, 0]]
