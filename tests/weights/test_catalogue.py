"""Rules that transformers' models do not show: plain modules, older layouts, odd tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frog.numerics import views
from frog.weights import roles
from frog.weights.catalogue import catalogue
from frog.weights.layouts import Context
from frog.weights.source import list_tensors
from frog.weights.stored import AdapterPair, StoredTensor, TensorList


def stored(name, shape, **more):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    more = {"dtype": "float32", "codes": lambda: array, **more}
    return StoredTensor(name=name, shape=shape, **more)


def listed(shapes, config=None, adapters=(), **options):
    tensors = tuple(stored(name, shape) for name, shape in shapes.items())
    made = TensorList(
        path="model", format="test", tensors=tensors, config=config, adapters=tuple(adapters)
    )
    return catalogue(made, **options)


def roles_of(made):
    return {matrix.name: matrix.role for matrix in made.matrices}


def test_lstm_and_gru_are_split_by_gate():
    model = torch.nn.ModuleDict(
        {"a": torch.nn.LSTM(5, 4, num_layers=2, proj_size=3), "b": torch.nn.GRU(5, 4)}
    )
    made = catalogue(list_tensors(model))
    assert made.params == sum(p.numel() for p in model.parameters())
    names = roles_of(made)
    assert names["a.weight_ih_l0[f]"] == "ih_f" and names["a.weight_hh_l1[o]"] == "hh_o"
    assert names["a.weight_hr_l0"] == "hr" and names["b.weight_hh_l0[n]"] == "hh_n"
    forget = next(m for m in made.matrices if m.name == "a.weight_hh_l0[f]")
    assert np.array_equal(forget.loader.load(), model["a"].weight_hh_l0.detach()[4:8].numpy())
    assert forget.kind == "recurrent"
    assert not [matrix for matrix in made.matrices if matrix.warning]


def test_an_attention_module_is_split():
    model = torch.nn.TransformerEncoderLayer(8, 2, 16)
    made = catalogue(list_tensors(model))
    q, k, v = (f"self_attn.in_proj_weight[{x}]" for x in "qkv")
    found = roles_of(made)
    assert [found[x] for x in (q, k, v)] == ["q", "k", "v"]
    assert found["self_attn.out_proj.weight"] == "o"


def test_module_and_state_dict_give_the_same():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5),
        torch.nn.BatchNorm2d(6),
        torch.nn.ConvTranspose2d(6, 4, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 10),
        torch.nn.LSTM(10, 3),
    )
    live, state = catalogue(list_tensors(model)), catalogue(list_tensors(model.state_dict()))
    assert [(m.name, m.role, m.kind, m.shape) for m in live.matrices] == [
        (m.name, m.role, m.kind, m.shape) for m in state.matrices
    ]
    skipped = {tensor.name: tensor for tensor in state.skipped}
    assert skipped["1.running_mean"].role == "buffer"
    assert skipped["1.num_batches_tracked"].role == "buffer"
    assert live.matrices[0].shape == (6, 25) and live.matrices[1].shape == (6, 36)


def test_conv1d_is_known_by_its_shape_without_a_config():
    """GPT-2 stores (in, out), nanoGPT (out, in), under the same names."""
    stem = "transformer.h.0"
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    shapes = {f"{stem}.{x}.weight": s for x, s in zip(names, ((8, 24), (8, 8), (8, 32), (32, 8)),
                                                      strict=True)}  # fmt: skip
    for turned in (False, True):
        made = listed({n: s[::-1] if turned else s for n, s in shapes.items()})
        by_name = {matrix.name: matrix for matrix in made.matrices}
        assert by_name[f"{stem}.mlp.c_fc.weight"].shape == (32, 8)
        assert by_name[f"{stem}.mlp.c_proj.weight"].shape == (8, 32)
        assert by_name[f"{stem}.attn.c_attn.weight[k]"].shape == (8, 8)
        proj = by_name[f"{stem}.attn.c_proj.weight"].loader.load()
        assert proj[0, 1] == (1 if turned else 8)


def test_an_unknown_layout_stays_whole():
    """Six times as many rows as heads tell nothing: it may be grouped or concatenated."""
    name = "model.layers.0.attn.qkv_proj.weight"
    made = listed({name: (48, 16)}, {"model_type": "unheard_of", "num_attention_heads": 4})
    assert roles_of(made) == {name: "qkv"}


def test_key_heads_decide_not_the_shape():
    """(4 + 2·1)·8 rows are 3·16: with one key head these are no thirds."""
    name = "model.layers.0.self_attn.qkv_proj.weight"
    config = {"model_type": "phi3", "num_attention_heads": 4, "num_key_value_heads": 1}
    made = listed({name: (48, 16)}, config)
    assert [matrix.shape for matrix in made.matrices] == [(32, 16), (8, 16), (8, 16)]


def test_internlm2_shares_keys_within_groups():
    config = {"model_type": "internlm2", "num_attention_heads": 4, "num_key_value_heads": 2}
    made = listed({"model.layers.0.attention.wqkv.weight": (16, 3)}, config)
    q, k, v = (matrix.loader.load()[:, 0] // 3 for matrix in made.matrices)
    assert q.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert k.tolist() == [4, 5, 12, 13] and v.tolist() == [6, 7, 14, 15]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("stem", ["model.layers.0.mlp.experts.", "model.layers.0.moe."])
def test_the_orientation_of_experts_is_seen_without_a_config(stem, turned):
    first, second = ((2, 6, 8), (2, 4, 6)) if turned else ((2, 6, 8), (2, 8, 3))
    made = listed({f"{stem}gate_up_proj": first, f"{stem}down_proj": second})
    shapes = {matrix.name.removeprefix(stem): matrix.shape for matrix in made.matrices}
    if turned:
        assert shapes["gate_up_proj[1].gate"] == (4, 6) and shapes["down_proj[1]"] == (6, 4)
    else:
        assert shapes["gate_up_proj[1].gate"] == (3, 8) and shapes["down_proj[1]"] == (8, 3)


def test_positions_on_request():
    shapes = {
        "embeddings.word_embeddings.weight": (30, 8),
        "embeddings.position_embeddings.weight": (16, 8),
        "embeddings.token_type_embeddings.weight": (2, 8),
        "pos_embed": (1, 16, 8),
    }
    plain, full = listed(shapes), listed(shapes, as_weightwatcher=True)
    assert len(plain.matrices) == 2 and len(full.matrices) == 3
    assert roles_of(full)["embeddings.position_embeddings.weight"] == "position"
    assert not any(matrix.averaged for matrix in full.matrices)
    assert plain.params == full.params


def test_depthwise_is_listed_and_a_grey_stem_is_measured():
    made = listed({"stem.weight": (8, 1, 3, 3), "a.dwconv.weight": (8, 1, 7, 7),
                   "b.weight": (8, 1, 3, 3), "c.weight": (9, 8, 1, 1)})  # fmt: skip
    assert roles_of(made) == {"stem.weight": "conv", "c.weight": "conv"}
    assert all("depthwise" in tensor.reason for tensor in made.skipped)


def test_unknown_tensors_are_measured_with_a_warning():
    made = listed({"mystery.weight": (4, 5), "enigma": (4, 5, 6), "deep": (2, 2, 2, 2, 2, 2)})
    assert set(roles_of(made).values()) == {"matrix?"}
    assert all(matrix.warning for matrix in made.matrices)
    assert [matrix.shape for matrix in made.matrices] == [(4, 5), (4, 30), (2, 32)]


def test_unsupported_and_integer_tensors_are_listed():
    tensors = (
        stored("a.qweight", (4, 4), unsupported="packed 4-bit codes"),
        stored("model.layers.0.mlp.up_proj.weight", (4, 4), dtype="int8"),
        stored("empty.weight", (0, 4)),
    )
    made = catalogue(TensorList(path="m", format="test", tensors=tensors))
    assert not made.matrices
    assert [x.rule for x in made.skipped] == ["0 unsupported", "0 integer", "0 empty"]
    assert made.skipped[0].reason == "packed 4-bit codes"


def test_adapters_are_products_in_the_role_of_their_target():
    pair = AdapterPair(
        name="model.layers.3.self_attn.q_proj.lora",
        target="model.layers.3.self_attn.q_proj.weight",
        up=stored("b", (6, 2)),
        down=stored("a", (2, 5)),
        scale=0.5,
    )
    (matrix,) = listed({}, adapters=[pair]).matrices
    assert (matrix.kind, matrix.role, matrix.block) == ("adapter", "q", 3)
    assert matrix.shape == (6, 5) and matrix.view is None and matrix.params == 22
    assert np.array_equal(
        matrix.loader.load(), 0.5 * pair.up.codes() @ pair.down.codes()
    )  # fmt: skip


def test_stages_count_on():
    names = ("layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "conv1")
    made = listed({f"{name}.weight": (4, 4, 3, 3) for name in names})
    assert [matrix.block for matrix in made.matrices] == [0, 1, 2, None]


@given(
    st.from_regex(r"[a-z]{1,6}(\.[a-z0-9_]{1,9}){0,4}(\.weight)?", fullmatch=True),
    st.lists(st.integers(1, 12), max_size=5).map(tuple),
    st.sampled_from([{}, {"model_type": "falcon", "num_attention_heads": 2, "num_kv_heads": 1}]),
)
def test_whatever_the_name_nothing_is_lost(name, shape, config):
    reading = roles.read(name, shape, Context(shapes={name: shape}, config=config))
    assert bool(reading.parts) != bool(reading.reason)
    held = [views.all_entries(part.view).ravel() for part in reading.parts]
    if held:
        assert np.array_equal(np.sort(np.concatenate(held)), np.arange(np.prod(shape)))
