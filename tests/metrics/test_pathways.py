"""Heaviest paths: all paths by enumeration, planted ones, ends, ties."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers

import frog
from frog.metrics.pathways import heaviest, threshold
from frog.types import Overlap, Pair
from tests.weights.tiny_models import TEXT


def pair(writer: str, reader: str, weight: float, **changes: Any) -> Pair:
    z = changes.pop("z", 10.0)
    found = Overlap(value=0.5, expected=0.1, spread=0.01, z=z)
    made = Pair(writer=writer, reader=reader, kind="sequential", k=1, dimension=9, gain=1.0,
                overlaps={"plain": found}, weight=weight)  # fmt: skip
    return replace(made, **changes)


def roles(pairs: list[Pair], **known: str) -> Any:
    names = {name for x in pairs for name in (x.writer, x.reader)}
    return {name: SimpleNamespace(role=known.get(name, "linear")) for name in names}


def test_the_path_of_the_largest_mean_is_found_among_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        names = [f"n{i}" for i in range(7)]
        pairs = [
            pair(names[i], names[j], float(rng.uniform(0.1, 9)))
            for i in range(7) for j in range(i + 1, 7) if rng.random() < 0.5
        ]  # fmt: skip
        if not pairs:
            continue
        weights = {(x.writer, x.reader): x.weight for x in pairs}
        writers, readers = {x.writer for x in pairs}, {x.reader for x in pairs}

        def walk(path: list[str], weights: Any = weights, readers: Any = readers,
                 writers: Any = writers) -> list[list[str]]:  # fmt: skip
            onward = [b for a, b in weights if a == path[-1]]
            if not onward:
                return [path]
            return [x for b in onward for x in walk([*path, b], weights, readers, writers)]

        paths = [x for start in writers - readers for x in walk([start])]
        means = [np.mean([weights[a, b] for a, b in pairwise(x)]) for x in paths]
        found, notes = heaviest(pairs, roles(pairs))
        assert not notes
        assert np.isclose(found[0].weight, max(means))
        assert list(found[0].layers) == paths[int(np.argmax(means))]
        assert len({x.layers for x in found}) == len(found), "every path once"


def test_the_heaviest_head_of_an_edge_is_taken_and_named() -> None:
    pairs = [
        pair("v", "o", 2.0, head=0, kind="ov"), pair("v", "o", 5.0, head=1, kind="ov"),
        pair("o", "up", 1.0), pair("e", "v", 3.0, kind="residual"),
        pair("q", "k", 99.0, head=0, kind="qk"),
    ]  # fmt: skip
    found, _ = heaviest(pairs, roles(pairs, e="embedding", v="v", o="o", q="q", k="k"))
    assert found[0].layers == ("e", "v", "o", "up")
    assert found[0].heads == (None, 1, None)
    assert (found[0].weight, found[0].weakest) == (3.0, 1.0)


def test_edges_within_the_null_are_crossed_only_where_there_is_no_other_way() -> None:
    strong = [pair("a", "b", 3.0), pair("b", "d", 3.0)]
    weak = [pair("a", "c", 90.0, z=1.0), pair("c", "d", 90.0)]
    found, notes = heaviest([*strong, *weak], roles([*strong, *weak]))
    assert found[0].layers == ("a", "b", "d") and not notes
    found, notes = heaviest(weak, roles(weak))
    assert found[0].layers == ("a", "c", "d")
    assert "pathways use weaker ones too" in notes[0]


def test_a_net_without_any_edge_above_the_null_has_no_path() -> None:
    noise = [pair("a", "b", 3.0, z=2.0), pair("b", "c", 3.0, z=-1.0)]
    found, notes = heaviest(noise, roles(noise))
    assert not found
    assert "0 of 2 edges lie above the null" in notes[0]


def test_a_tied_embedding_begins_and_ends_a_path() -> None:
    pairs = [pair("e", "up", 1.0), pair("up", "down", 2.0), pair("down", "e", 3.0)]
    known = roles(pairs, e="embedding", up="up", down="down")
    found, _ = heaviest(pairs, known)
    assert found[0].layers == ("e", "up", "down", "e")


def test_queries_and_values_are_no_ends() -> None:
    pairs = [pair("e", "q", 9.0), pair("e", "up", 1.0), pair("up", "down", 1.0)]
    known = roles(pairs, e="embedding", q="q", up="up", down="down")
    assert [x.layers for x in heaviest(pairs, known)[0]] == [("e", "up", "down")]


def test_ties_and_order_are_settled_by_name() -> None:
    pairs = [pair("a", x, 1.0) for x in "bcd"] + [pair(x, "z", 1.0) for x in "bcd"]
    found, _ = heaviest(pairs, roles(pairs))
    again, _ = heaviest(pairs[::-1], roles(pairs))
    assert [x.layers for x in found] == [x.layers for x in again]
    assert [x.layers[1] for x in found] == ["b", "c", "d"]


def test_no_edges_no_paths() -> None:
    assert heaviest([], {}) == ((), ())
    assert threshold(1) == 3.0
    assert threshold(10_000) > threshold(100) > 3.0


def test_a_planted_path_is_recovered() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{**TEXT, "num_hidden_layers": 3, "hidden_size": 128, "head_dim": 32,
           "intermediate_size": 128, "tie_word_embeddings": False}
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    weights = dict(model.named_parameters())
    rng = np.random.default_rng(0)
    at = "model.layers.{}.{}.weight".format
    path = [
        "model.embed_tokens.weight", at(0, "mlp.up_proj"), at(0, "mlp.down_proj"),
        at(1, "self_attn.v_proj"), at(1, "self_attn.o_proj"), at(2, "mlp.gate_proj"),
        at(2, "mlp.down_proj"), "lm_head.weight",
    ]  # fmt: skip
    for writer, reader in pairwise(path):
        with torch.no_grad():
            _plant(weights[writer], weights[reader], writer, rng)
    found = frog.flow(model, rank=8).pathways[0]
    assert list(found.layers) == path
    assert found.heads[3] == 2, "the head in which it was planted"


def _plant(writer: torch.Tensor, reader: torch.Tensor, name: str, rng: np.random.Generator) -> None:
    """Eight strong directions that one writes and the other reads, over all they have."""
    scale = 3.0
    if "v_proj" in name:  # head 2 of the queries reads the second of two values
        inner = torch.tensor(np.linalg.qr(rng.standard_normal((32, 8))).Q, dtype=torch.float32)
        writer[32:64] += scale * inner @ torch.randn(8, writer.shape[1])
        reader[:, 64:96] += scale * torch.randn(reader.shape[0], 8) @ inner.T
        return
    n = reader.shape[1]
    inner = torch.tensor(np.linalg.qr(rng.standard_normal((n, 8))).Q, dtype=torch.float32)
    if "embed" in name:
        writer += scale * torch.randn(writer.shape[0], 8) @ inner.T
    else:
        writer += scale * inner @ torch.randn(8, writer.shape[1])
    reader += scale * torch.randn(reader.shape[0], 8) @ inner.T
