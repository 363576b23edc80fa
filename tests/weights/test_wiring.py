"""Wiring: right edges and gains, the same from a file and a live model; else a note."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from frog.types import Heads, Wiring
from frog.weights.catalogue import catalogue
from frog.weights.source import list_tensors
from frog.weights.wiring import wire
from tests.conftest import shared
from tests.weights.tiny_models import build, save


def wired(model: object) -> Wiring:
    tensors = list_tensors(model)
    return wire(tensors, catalogue(tensors))


def edges(found: Wiring, kind: str = "") -> list[tuple[str, str]]:
    return [(e.writer, e.reader) for e in found.edges if kind in ("", e.kind)]


FAMILIES = (
    "llama", "llama_tied", "gemma3", "mixtral", "gpt_oss", "dbrx", "gpt2", "codegen", "gpt_neox",
    "falcon_7b", "bert", "distilbert", "modernbert", "vit", "clip", "t5", "mamba",
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_and_a_live_model_are_wired_alike(name: str, tmp_path: Path) -> None:
    model = build(name)
    save(model, tmp_path)
    live, stored = wired(model), wired(tmp_path)
    assert live == stored
    assert live.edges
    for gains, others in zip(live.gains.values(), stored.gains.values(), strict=True):
        for one, other in zip(gains, others, strict=True):
            assert np.array_equal(one.load(), other.load())


@pytest.mark.parametrize("name", FAMILIES)
def test_what_an_edge_joins_fits(name: str) -> None:
    tensors = list_tensors(build(name))
    listed = catalogue(tensors)
    shapes = {x.name: x.shape for x in listed.matrices}
    kinds = {x.name: x.kind for x in listed.matrices}
    found = wire(tensors, listed)
    for edge in found.edges:
        writer, reader = shapes[edge.writer], shapes[edge.reader]
        if edge.heads is not None:
            size, queries, shared_by = edge.heads.size, edge.heads.queries, edge.heads.shared
            assert writer[0] == size * (queries if edge.kind == "qk" else shared_by)
            assert reader[edge.kind == "ov"] == size * (shared_by if edge.kind == "qk" else queries)
        else:
            side = 1 if kinds[edge.writer] == "embedding" else 0
            assert writer[side] == reader[1], edge
    for matrix, gains in found.gains.items():
        for gain in gains:
            assert gain.load().shape == (shapes[matrix][gain.side == "input"],)


def test_a_pre_norm_model_reads_and_writes_one_stream() -> None:
    found = wired(build("llama"))
    first, second = (f"model.layers.{i}." for i in (0, 1))
    residual = edges(found, "residual")
    embedding = "model.embed_tokens.weight"
    o, down = first + "self_attn.o_proj.weight", first + "mlp.down_proj.weight"
    assert (embedding, first + "self_attn.v_proj.weight") in residual
    assert (o, first + "mlp.up_proj.weight") in residual
    assert (down, second + "self_attn.q_proj.weight") in residual
    assert (second + "mlp.down_proj.weight", "lm_head.weight") in residual
    assert (down, first + "mlp.up_proj.weight") not in residual, "nothing flows backwards"
    assert (embedding, second + "self_attn.q_proj.weight") not in residual, "next block only"
    up = first + "mlp.up_proj.weight"
    assert (up, down) in edges(found, "activation")
    assert found.gains[up][0].tensor == first + "post_attention_layernorm.weight"
    assert found.gains["lm_head.weight"][0].tensor == "model.norm.weight"
    heads = {e.heads for e in found.edges if e.kind in ("ov", "qk")}
    assert heads == {Heads(queries=4, shared=2, size=8)}, "grouped queries"


def test_a_post_norm_model_takes_the_gain_from_the_end_of_the_sub_block_before() -> None:
    found = wired(build("bert_encoder"))
    at = "encoder.layer."
    value, up = "attention.self.value.weight", "intermediate.dense.weight"
    assert found.gains[f"{at}0.{value}"][0].tensor == "embeddings.LayerNorm.weight"
    assert found.gains[f"{at}1.{value}"][0].tensor == f"{at}0.output.LayerNorm.weight"
    assert found.gains[f"{at}1.{up}"][0].tensor == f"{at}1.attention.output.LayerNorm.weight"
    assert found.gains["pooler.dense.weight"][0].tensor == f"{at}1.output.LayerNorm.weight"


def test_gemma_adds_one_and_normalises_behind_its_writers() -> None:
    model = build("gemma3")
    found = wired(model)
    name = "model.layers.0.self_attn.o_proj.weight"
    (gain,) = found.gains[name]
    assert (gain.side, gain.tensor) == ("output", "model.layers.0.post_attention_layernorm.weight")
    stored = model.state_dict()[gain.tensor].numpy().astype(np.float64)
    assert np.array_equal(gain.load(), 1.0 + stored)


def test_parallel_blocks_have_no_edge_from_attention_to_feed_forward() -> None:
    for name in ("codegen", "gpt_neox", "falcon_7b"):
        found = wired(build(name))
        inside = [
            (w, r) for w, r in edges(found, "residual")
            if ".0." in w and ".0." in r and "embed" not in w
        ]  # fmt: skip
        assert not inside, name
    assert any(".0." in w and ".0." in r for w, r in edges(wired(build("gpt2")), "residual"))


def test_experts_read_the_stream_and_write_it_but_only_their_own_hidden_units() -> None:
    found = wired(build("mixtral"))
    expert = "model.layers.0.block_sparse_moe.experts.{}.{}.weight"
    activation = edges(found, "activation")
    assert (expert.format(1, "w3"), expert.format(1, "w2")) in activation
    assert (expert.format(1, "w3"), expert.format(2, "w2")) not in activation
    assert (
        expert.format(2, "w2"), "model.layers.1.self_attn.v_proj.weight"
    ) in edges(found, "residual")  # fmt: skip
    assert not any("experts" in w and "experts" in r for w, r in edges(found, "residual"))
    assert any("experts" in note for note in found.notes)


def test_without_a_configuration_there_are_no_edges_per_head_and_a_note() -> None:
    found = wired(dict(build("llama").state_dict()))
    assert not edges(found, "ov") and not edges(found, "qk")
    assert edges(found, "residual")
    assert any("number of heads is not known" in note for note in found.notes)


def test_a_number_of_heads_that_does_not_fit_is_not_used() -> None:
    tensors = list_tensors(build("gpt2"))
    config = {**(tensors.config or {}), "n_head": 5}
    found = wire(dataclasses.replace(tensors, config=config), catalogue(tensors))
    assert not edges(found, "ov")
    assert any("not that of the shapes" in note for note in found.notes)


def test_normalisations_of_unknown_order_give_no_gain() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = wired(nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4), 2))
    assert not found.gains
    assert any("no gains" in note for note in found.notes)


def test_left_out_matrices_are_in_no_edge() -> None:
    tensors = list_tensors(build("llama"))
    listed = catalogue(tensors)
    kept = tuple(x for x in listed.matrices if ".v_proj." not in x.name)
    found = wire(tensors, dataclasses.replace(listed, matrices=kept))
    assert found.edges
    assert not any("v_proj" in name for edge in edges(found) for name in edge)


# ------------------------------------------------------------------------ plain networks


def test_a_plain_net_is_wired_by_numbers_not_by_the_alphabet() -> None:
    net = nn.Sequential(*[nn.Linear(6, 6) for _ in range(12)])
    state = {name: net.state_dict()[name] for name in sorted(net.state_dict())}
    expected = [(f"{i}.weight", f"{i + 1}.weight") for i in range(11)]
    assert edges(wired(net)) == expected == edges(wired(state))


def test_normalisations_between_layers_of_a_plain_net() -> None:
    norm, variance = nn.BatchNorm2d(8), torch.linspace(0.5, 2.0, 8)
    nn.init.normal_(norm.weight)
    norm.register_buffer("running_var", variance)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(),
        nn.Linear(64, 20), nn.LayerNorm(20), nn.Linear(20, 4),
    )  # fmt: skip
    found = wired(net)
    chain = [("0.weight", "3.weight"), ("3.weight", "5.weight"), ("5.weight", "7.weight")]
    assert edges(found) == chain, "a flattened picture is read channel by channel"
    batch, layer = found.gains["0.weight"][0], found.gains["7.weight"][0]
    assert (batch.side, layer.side) == ("output", "input")
    expected = norm.weight / torch.sqrt(variance + 1e-5)
    assert np.allclose(batch.load(), expected.detach().numpy(), rtol=1e-6)
    assert found == wired(net.state_dict())


class Swapped(nn.Module):
    """Registered in another order than it runs."""

    def __init__(self, middle: int) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(middle, 12), nn.ReLU(), nn.Linear(12, 5))
        self.features = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, middle))


def test_patterns_are_joined_only_where_sizes_allow_one_order() -> None:
    assert ("features.2.weight", "classifier.0.weight") in edges(wired(Swapped(11)))
    found = wired(
        {"first.weight": torch.zeros(8, 8), "second.weight": torch.zeros(8, 8), "b": torch.zeros(8)}
    )
    assert not found.edges
    assert any("not understood" in note or "order" in note for note in found.notes)


class Block(nn.Module):
    def __init__(self, channels: int, planes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        if planes != channels:
            self.downsample = nn.Sequential(nn.Conv2d(channels, planes, 1), nn.BatchNorm2d(planes))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(4, 4))
        self.layer2 = nn.Sequential(Block(4, 8), Block(8, 8))
        self.fc = nn.Linear(8, 5)


def test_a_residual_net_with_projections() -> None:
    net = Residual()
    found = wired(net)
    assert found == wired(net.state_dict())
    residual = edges(found, "residual")
    assert ("layer1.0.conv2.weight", "layer2.0.downsample.0.weight") in residual
    assert ("layer2.0.downsample.0.weight", "layer2.1.conv1.weight") in residual
    assert ("layer2.1.conv2.weight", "fc.weight") in residual
    assert ("layer2.0.conv1.weight", "layer2.0.conv2.weight") in edges(found, "sequential")
    assert found.gains["layer2.0.downsample.0.weight"][0].tensor == "layer2.0.downsample.1.weight"


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_residual_net_of_transformers(kind: str) -> None:
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type=kind, num_labels=3
    )
    model = transformers.ResNetForImageClassification(config)
    found = wired(model)
    stem = "resnet.embedder.embedder.convolution.weight"
    start = "resnet.encoder.stages.1.layers.0"
    last = f"layer.{1 if kind == 'basic' else 2}.convolution.weight"
    before = f"resnet.encoder.stages.0.layers.1.{last}"
    into = (f"{start}.layer.0.convolution.weight", f"{start}.shortcut.convolution.weight")
    assert [w for w, r in edges(found, "residual") if r in into] == [before, before]
    assert (stem, "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight") in edges(found)
    assert (f"resnet.encoder.stages.1.layers.1.{last}", "classifier.1.weight") in edges(found)
    assert all("shortcut" not in w or "shortcut" not in r for w, r in edges(found))
    assert {x.tensor for x in found.gains[stem]} == {
        "resnet.embedder.embedder.normalization.weight"
    }
    # who reads whom, seen from outside: what a writer adds reaches the reader's input
    modules = dict(model.eval().named_modules())
    for writer, reader in edges(found):
        one, other = (modules[x.removesuffix(".weight")] for x in (writer, reader))
        seen: list[torch.Tensor] = []
        hook = other.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0].clone()))
        model(torch.ones(1, 3, 32, 32))
        shift = one.register_forward_hook(lambda _, x, y: y + torch.ones_like(y))
        model(torch.ones(1, 3, 32, 32))
        hook.remove()
        shift.remove()
        assert not torch.equal(*seen), (writer, reader)


def test_a_skip_beside_a_chain_of_unknown_order_is_not_wired() -> None:
    shapes = {"conv1": (8, 8, 3, 3), "skip_proj": (8, 8, 1, 1)}
    found = wired(
        {
            f"part.{i}.{x}.weight": torch.randn(shape)
            for i in range(3)
            for x, shape in shapes.items()
        }
    )
    assert found.edges == () and "stands beside the chain" in found.notes[0]


def test_batch_norms_that_stand_before_give_no_gain() -> None:
    net = Residual()
    net.layer2[0].bn1 = nn.BatchNorm2d(4)  # as wide as what its convolution reads
    found = wired(net)
    assert found.edges and not found.gains
    assert any("may stand before" in note for note in found.notes)


def test_what_is_not_understood_has_no_edge_and_says_so() -> None:
    for model in (nn.LSTM(8, 8, 2), build("convnext")):
        found = wired(model)
        assert not found.edges
        assert any("not understood" in note for note in found.notes)
    assert wired(nn.Linear(4, 3)) == Wiring(), "one layer has nothing to be wired to"


def test_factors_of_an_adapter_are_in_no_edge() -> None:
    state = {f"{i}.weight": torch.ones(8, 8) for i in range(2)}
    factors = {
        "0.lora_A.default.weight": torch.ones(2, 8),
        "0.lora_B.default.weight": torch.ones(8, 2),
    }
    assert edges(wired({**state, **factors})) == edges(wired(state)) == [("0.weight", "1.weight")]
    found = wired(factors)
    assert not found.edges
    assert "give its base model" in found.notes[0]


# ----------------------------------------------------------------------------- real ones


def test_minilm_has_the_edges_of_its_blocks(minilm: Path) -> None:
    found = wired(minilm)
    kinds = [edge.kind for edge in found.edges]
    # 4 from the embedding, 4 into each of 5 blocks from o and from down, o to up, o and down
    # to the pooler
    assert kinds.count("residual") == 4 + 5 * 8 + 6 + 2
    assert kinds.count("ov") == kinds.count("qk") == kinds.count("activation") == 6
    assert len(found.gains) == 6 * 4 + 1
    assert found.edges[3].heads == Heads(queries=12, shared=12, size=32)


def test_real_convolutional_nets(resnet20: Path) -> None:
    found = wired(resnet20)
    assert len(found.edges) == len(found.gains) == 19
    assert not found.notes
    lenet = wired(shared("data/lenet-mnist/lenet_epoch12_test_acc0.991.pth"))
    assert [e.writer for e in lenet.edges] == [
        "convnet.c1.weight", "convnet.c3.weight", "convnet.c5.weight", "fc.f6.weight"
    ]  # fmt: skip


def test_the_real_llama_with_grouped_queries() -> None:
    raw = np.fromfile(shared("data/stories260k/stories260K.bin"), np.int32, 7)
    dim, hidden, layers, heads, keys, vocabulary, _ = (int(x) for x in raw)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=dim, intermediate_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=keys, tie_word_embeddings=True,
    )  # fmt: skip
    found = wired(transformers.LlamaForCausalLM(config))
    assert not found.notes
    per_head = {e.heads for e in found.edges if e.heads}
    assert per_head == {Heads(queries=8, shared=4, size=8)}
    # 5 readers of the embedding, of both writers before in 4 blocks, gate and up of o; the tied
    # head of both writers at the end
    residual = edges(found, "residual")
    assert len(residual) == 5 + 4 * 10 + 5 * 2 + 2
    assert residual[-1] == (f"model.layers.{layers - 1}.mlp.down_proj.weight",
                            "model.embed_tokens.weight")  # fmt: skip
