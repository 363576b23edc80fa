"""Pairs: a plain twin by decompositions, planted channels, laws, what has no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import frog
from frog.metrics.faces import Face
from frog.metrics.flow import outliers
from frog.numerics.similarity import overlap_null
from frog.types import Pair
from tests.weights.tiny_models import TEXT


def llama(seed: int = 0, **settings: Any) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{**TEXT, "tie_word_embeddings": False, **settings})
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5 if "norm" in name
                            else torch.randn_like(parameter))  # fmt: skip
    return model


def array(model: nn.Module, name: str) -> np.ndarray:
    return model.state_dict()[name].double().numpy()


def top(matrix: np.ndarray, k: int) -> np.ndarray:
    """The k leading left singular vectors."""
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :k]


def find(found: Any, writer: str, reader: str, head: int | None = None) -> Pair:
    (pair,) = [
        x for x in found.pairs
        if x.writer.endswith(writer) and x.reader.endswith(reader) and x.head == head
    ]  # fmt: skip
    return pair


def expect(pair: Pair, reading: str, writer: np.ndarray, reader: np.ndarray) -> None:
    """The overlap of two matrices with the shared coordinates as rows."""
    u, v = top(writer, pair.k), top(reader, pair.k)
    value = np.linalg.norm(u.T @ v) ** 2 / pair.k
    mean, spread = overlap_null(pair.k, pair.k, len(writer))
    measured = pair.overlaps[reading]
    assert np.isclose(measured.value, value, atol=1e-8)
    assert np.isclose(measured.z, (value - mean) / spread, atol=1e-5)


def test_every_kind_of_edge_is_what_plain_decompositions_give() -> None:
    model = llama()
    found = frog.flow(model)
    at = "model.layers.{}."
    down = array(model, at.format(0) + "mlp.down_proj.weight")
    q1 = array(model, at.format(1) + "self_attn.q_proj.weight")
    pair = find(found, "0.mlp.down_proj.weight", "1.self_attn.q_proj.weight")
    assert (pair.kind, pair.k, pair.dimension) == ("residual", 8, 32)
    expect(pair, "plain", down, q1.T)
    gain = array(model, at.format(1) + "input_layernorm.weight")
    expect(pair, "folded", down, gain[:, None] * q1.T)
    product = np.linalg.norm(q1 @ down) / np.linalg.norm(q1) / np.linalg.norm(down)
    assert np.isclose(pair.gain, product)

    embedding = array(model, "model.embed_tokens.weight")
    pair = find(found, "embed_tokens.weight", "0.mlp.up_proj.weight")
    expect(pair, "plain", embedding.T, array(model, at.format(0) + "mlp.up_proj.weight").T)

    up = array(model, at.format(1) + "mlp.up_proj.weight")
    pair = find(found, "1.mlp.up_proj.weight", "1.mlp.down_proj.weight")
    expect(pair, "plain", up, array(model, at.format(1) + "mlp.down_proj.weight").T)
    assert "folded" not in pair.overlaps, "no gain stands between"


def test_heads_that_share_keys_and_values_meet_their_own() -> None:
    model = llama()
    found = frog.flow(model)
    name = "model.layers.1.self_attn.{}_proj.weight".format
    q, k, v, o = (array(model, name(x)) for x in "qkvo")
    for head in range(4):
        own, shared = slice(8 * head, 8 * head + 8), slice(8 * (head // 2), 8 * (head // 2) + 8)
        ov = find(found, name("v"), name("o"), head)
        assert (ov.k, ov.dimension) == (2, 8)
        expect(ov, "plain", v[shared], o[:, own].T)
        product = np.linalg.norm(o[:, own] @ v[shared])
        expected = product / np.linalg.norm(o[:, own]) / np.linalg.norm(v[shared])
        assert np.isclose(ov.gain, expected)
        expect(find(found, name("q"), name("k"), head), "plain", q[own], k[shared])


def test_a_convolution_reads_channels_at_every_position() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Flatten(), nn.Linear(96, 9))
    found = frog.flow(net)
    first, second, last = (array(net, f"{i}.weight") for i in (0, 1, 3))
    expect(found.pairs[0], "plain", first.reshape(16, -1), second.swapaxes(0, 1).reshape(16, -1))
    flat = last.reshape(9, 24, 4).swapaxes(0, 1).reshape(24, -1)
    expect(found.pairs[1], "plain", second.reshape(24, -1), flat)


def test_a_batch_norm_is_folded_into_what_is_written() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(16)
    nn.init.uniform_(norm.weight, 0.1, 3.0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), norm, nn.Conv2d(16, 8, 3))
    (pair,) = frog.flow(net).pairs
    gain = norm.weight.detach().double().numpy() / np.sqrt(1 + 1e-5)
    reader = array(net, "2.weight").swapaxes(0, 1).reshape(16, -1)
    expect(pair, "folded", gain[:, None] * array(net, "0.weight").reshape(16, -1), reader)


# ------------------------------------------------------------------------- planted truth


def test_a_planted_shared_channel_is_found() -> None:
    rng = np.random.default_rng(0)
    channel = np.linalg.qr(rng.standard_normal((128, 4))).Q
    writer, reader = rng.standard_normal((2, 128, 128))
    writer += 100 * channel @ rng.standard_normal((4, 128))
    reader += 100 * rng.standard_normal((128, 4)) @ channel.T
    planted = {"0.weight": torch.tensor(writer), "1.weight": torch.tensor(reader)}
    (pair,) = frog.flow(planted, rank=4).pairs
    assert pair.overlaps["plain"].value > 0.999
    assert pair.overlaps["plain"].z > 80


def test_outlier_coordinates_fake_an_overlap_and_are_taken_out() -> None:
    model = llama(hidden_size=128, head_dim=32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight[7] *= 60
            elif name.endswith("embed_tokens.weight") or (
                weight.ndim == 2 and weight.shape[1] == 128
            ):
                weight[:, 7] *= 60
    found = frog.flow(model, rank=2)
    pair = find(found, "0.mlp.down_proj.weight", "1.mlp.up_proj.weight")
    assert pair.overlaps["plain"].z > 10
    assert abs(pair.overlaps["trimmed"].z) < 4
    assert np.isclose(pair.overlaps["trimmed"].expected, 2 / 127), "the null of what is left"
    assert any("leave out 1 outlier coordinate: 7" in note for note in found.notes)


def test_a_random_net_has_as_many_large_z_as_the_null_says() -> None:
    rng = np.random.default_rng(3)
    state = {f"{i}.weight": torch.tensor(rng.standard_normal((96, 96))) for i in range(160)}
    z = np.array([x.overlaps["plain"].z for x in frog.flow(state, rank=8).pairs])
    assert len(z) == 159
    assert abs(z.mean()) < 4 / np.sqrt(159)
    assert 0.8 < z.std() < 1.2
    assert np.mean(np.abs(z) > 3) <= 0.02, "0.3 % if normal; four of 159 are allowed"


def test_without_outliers_none_is_removed() -> None:
    energies = np.random.default_rng(0).chisquare(64, (4, 256))
    assert not len(outliers(energies))
    assert not len(outliers(np.zeros((3, 8)))), "writers of zeros say nothing"


# -------------------------------------------------------------------------------- laws


def test_renumbering_hidden_coordinates_changes_nothing() -> None:
    model = llama(seed=1)
    before = frog.flow(model)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    hidden = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.copy_(weight[order])
            elif weight.ndim == 2:
                weight.copy_(weight[:, order])
            else:
                weight.copy_(weight[order])
            if name.endswith(("gate_proj.weight", "up_proj.weight")):
                weight.copy_(weight[hidden])
            elif name.endswith("down_proj.weight"):
                weight.copy_(weight[:, hidden])
    after = frog.flow(model)
    for old, new in zip(before.pairs, after.pairs, strict=True):
        assert np.isclose(old.gain, new.gain)
        assert old.overlaps.keys() == new.overlaps.keys()
        for reading, overlap in old.overlaps.items():
            assert np.isclose(overlap.value, new.overlaps[reading].value, atol=1e-5)
    assert [x.layers for x in before.pathways] == [x.layers for x in after.pathways]


def test_scale_does_not_matter() -> None:
    state = {f"{i}.weight": torch.randn(24, 24, generator=torch.manual_seed(i)) for i in range(3)}
    scaled = {name: 1e-3 * weight for name, weight in state.items()}
    for one, other in zip(frog.flow(state).pairs, frog.flow(scaled).pairs, strict=True):
        assert np.isclose(one.weight, other.weight, rtol=1e-4)


@pytest.mark.parametrize("shapes", [((6, 9), (6, 4)), ((6, 4), (6, 9)), ((6, 3), (6, 4))])
def test_a_face_gives_the_same_whichever_way_it_is_held(shapes: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape) for shape in shapes)
    scale = rng.uniform(0.5, 2.0, 6)
    faces = [
        [Face(factor_np=x), Face(gram_nn=x @ x.T)] for x in (a, b)
    ]  # fmt: skip
    for first in faces[0]:
        for second in faces[1]:
            assert np.isclose(first.product_norm(second), np.linalg.norm(a.T @ b))
        assert np.allclose(first.energy_n, np.sum(a**2, axis=1))
        part = first.part(np.array([1, 2, 5]), scale)
        u = top((scale[:, None] * a)[[1, 2, 5]], 2)
        assert np.isclose(np.linalg.norm(part.directions(2).T @ u) ** 2, 2.0)


# ------------------------------------------------------------------------ no number, refusals


def test_a_matrix_without_directions_has_no_overlap() -> None:
    good = torch.randn(16, 16, generator=torch.manual_seed(0))
    for bad in (torch.zeros(16, 16), torch.full((16, 16), float("nan"))):
        (pair,) = frog.flow({"0.weight": good, "1.weight": bad}).pairs
        assert not pair.overlaps
        assert pair.weight == pair.gain == 0.0


def test_what_cannot_be_measured_is_refused_with_the_reason() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    with pytest.raises(frog.UsageError, match="flow_rank must be at least 1, got 0"):
        frog.flow(net, rank=0)
    with pytest.raises(frog.UsageError, match="a shard measures only some"):
        frog.analyze(net, frog.Settings(flow=True), run=frog.Run(shard=(1, 2)))
    with pytest.raises(frog.UsageError, match="measure it without compat"):
        frog.analyze(net, frog.Settings(flow=True, compat="weightwatcher"))


def test_the_report_has_the_flow_where_it_was_asked_for() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    assert not frog.analyze(net).pairs
    report = frog.analyze(net, frog.Settings(flow=True))
    assert report.pairs == frog.flow(net).pairs
    assert report.pathways == frog.flow(net).pathways


def test_no_forward_pass_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a forward pass was made")

    for module in model.modules():
        monkeypatch.setattr(module, "forward", refuse)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert frog.flow(model).pairs
    assert all(torch.equal(before[x], weight) for x, weight in model.state_dict().items())
