"""The slices of fused tensors do what their role says: seen in a forward pass."""

import pytest
import torch

from frog.numerics import views
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors
from tests.weights import tiny_models

# architecture -> module that reads the heads' outputs of block 0
ATTENTION = {
    "phi3": "model.layers.0.self_attn.o_proj",
    "gpt2": "transformer.h.0.attn.c_proj",
    "codegen": "transformer.h.0.attn.out_proj",
    "gpt_bigcode": "transformer.h.0.attn.c_proj",
    "gpt_neox": "gpt_neox.layers.0.attention.dense",
    "falcon_7b": "transformer.h.0.self_attention.dense",
    "falcon_40b": "transformer.h.0.self_attention.dense",
    "falcon_rw": "transformer.h.0.self_attention.dense",
    "bloom": "transformer.h.0.self_attention.dense",
    "mpt": "transformer.blocks.0.attn.out_proj",
    "modernbert": "model.layers.0.attn.Wo",
}
GATED = {
    "phi3": "model.layers.0.mlp.down_proj",
    "modernbert": "model.layers.0.mlp.Wo",
}
EXPERTS = {
    "mixtral": "model.layers.0.mlp.experts",
    "gpt_oss": "model.layers.0.mlp.experts",
    "llama4": "model.layers.1.feed_forward.experts",
}


def scaled(model, role, factor):
    """The matrices of one role, multiplied in the live model through their views."""
    parameters = dict(model.named_parameters())
    for matrix in locate(catalogue(list_tensors(model)), model).matrices:
        if matrix.role == role:
            view = matrix.live.view
            flat = parameters[matrix.live.parameter].detach().reshape(-1)
            flat[torch.from_numpy(views.all_entries(view))] *= factor


def without_biases(name):
    model = tiny_models.build(name).eval()
    for parameter_name, parameter in model.named_parameters():
        if "bias" in parameter_name:
            parameter.detach().zero_()
    return model


def seen(model, module, *, output=False):
    """What goes into (or comes out of) a module in a forward pass over a few tokens."""
    caught = []

    def hook(_, inputs, outputs):
        caught.append(outputs if output else inputs[0])

    handle = model.get_submodule(module).register_forward_hook(hook)
    with torch.no_grad():
        model(torch.tensor([[5, 17, 3, 88, 41]]))
    handle.remove()
    return caught[0].clone()


@pytest.mark.parametrize("name", ATTENTION)
def test_values_are_mixed_by_queries_and_keys(name):
    model = without_biases(name)
    whole = seen(model, ATTENTION[name])
    # doubled values double what is mixed; without queries or keys all tokens mix alike
    scaled(model, "v", 2)
    torch.testing.assert_close(seen(model, ATTENTION[name]), 2 * whole)
    queries_off, keys_off = without_biases(name), without_biases(name)
    scaled(queries_off, "q", 0)
    scaled(keys_off, "k", 0)
    flat = seen(queries_off, ATTENTION[name])
    torch.testing.assert_close(flat, seen(keys_off, ATTENTION[name]))
    assert not torch.allclose(flat, whole)


@pytest.mark.parametrize("name", GATED)
def test_gates_gate(name):
    model, twin = without_biases(name), without_biases(name)
    whole = seen(model, GATED[name])
    scaled(model, "up", 2)
    torch.testing.assert_close(seen(model, GATED[name]), 2 * whole)
    scaled(twin, "gate", 2)
    assert not torch.allclose(seen(twin, GATED[name]), 2 * whole)


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_gates_gate(name):
    model, twin = without_biases(name), without_biases(name)
    scaled(model, "gate", 0)
    assert not seen(model, EXPERTS[name], output=True).any()
    whole = seen(twin, EXPERTS[name], output=True)
    scaled(twin, "up", 0)
    off = seen(twin, EXPERTS[name], output=True)
    # GPT-OSS adds one to what the gate multiplies, so there only the gate can switch it off
    assert bool(off.any()) == (name == "gpt_oss") and whole.any()


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5"])
def test_linear_attention(name):
    module = "model.layers.0.linear_attn.out_proj"
    model, twin = without_biases(name), without_biases(name)
    scaled(model, "z", 0)  # z gates the output
    assert not seen(model, module).any()
    scaled(twin, "v", 0)
    assert seen(twin, module).abs().max() < 1e-3
