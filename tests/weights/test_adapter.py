"""LoRA adapters: factors, scales and sums, by the rules of PEFT written out by hand."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from frog.errors import ModelError, UnsupportedFormat, UsageError
from frog.weights.loader import ProductLoader
from frog.weights.source import list_tensors

Q = "layers.0.self_attn.q_proj"
DOWN = "layers.1.mlp.down_proj"


def pair_of(module, up=6, down=4, rank=2, seed=0):
    """PEFT's names and shapes of the two factors of a linear layer."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"base_model.model.{module}.lora_A.weight": torch.randn(rank, down, generator=generator),
        f"base_model.model.{module}.lora_B.weight": torch.randn(up, rank, generator=generator),
    }


def adapter(folder, tensors, binary=False, **config):
    """An adapter folder as PEFT saves it."""
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if binary:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def values(tensor):
    return tensor.decode(tensor.codes())


def summed(base, folder):
    """Values of base + adapter by name."""
    return {x.name: values(x) for x in list_tensors(base, base=None).tensors} | {
        x.name: values(x) for x in list_tensors(folder, base=base).tensors
    }


@pytest.mark.parametrize("binary", [False, True])
def test_pairs_and_scale(tmp_path, binary):
    tensors = pair_of(Q) | pair_of(DOWN, 3, 5, seed=1)
    listed = list_tensors(adapter(tmp_path / "a", tensors, binary))
    assert listed.format == "peft lora"
    assert listed.tensors == ()
    assert [(x.name, x.target) for x in listed.adapters] == [
        (f"{Q}.lora", f"{Q}.weight"),
        (f"{DOWN}.lora", f"{DOWN}.weight"),
    ]
    for pair, module in zip(listed.adapters, (Q, DOWN), strict=True):
        down, up = (tensors[f"base_model.model.{module}.lora_{x}.weight"] for x in "AB")
        assert pair.scale == 4.0
        np.testing.assert_allclose(ProductLoader(pair).load(), 4 * (up @ down).numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 3}, 1.5),
        ({"use_rslora": True}, 8 / math.sqrt(2)),
        ({"alpha_pattern": {"q_proj": 32}}, 16.0),
        ({"alpha_pattern": {"0.self_attn.q_proj": 32}}, 16.0),
        ({"alpha_pattern": {r".*\.q_.*": 32}}, 16.0),
        ({"alpha_pattern": {"proj": 32, "1.self_attn.q_proj": 32}}, 4.0),
        ({"r": 16, "rank_pattern": {"q_proj": 2}}, 4.0),
        ({"r": 16, "rank_pattern": {"q_proj": 2}, "use_rslora": True}, 8 / math.sqrt(2)),
    ],
)
def test_scale_and_patterns(tmp_path, config, scale):
    (pair,) = list_tensors(adapter(tmp_path / "a", pair_of(Q), **config)).adapters
    assert pair.scale == pytest.approx(scale)


def test_adapter_name_in_the_key_and_no_prefix(tmp_path):
    tensors = {
        k.removeprefix("base_model.model.").replace(".weight", ".default.weight"): v
        for k, v in pair_of(Q).items()
    }
    (pair,) = list_tensors(adapter(tmp_path / "a", tensors)).adapters
    assert pair.target == f"{Q}.weight"


def test_sum_with_the_base(tmp_path):
    base = {f"{Q}.weight": torch.randn(6, 4).bfloat16(), "norm.weight": torch.ones(4)}
    tensors = pair_of(Q)
    folder = adapter(tmp_path / "a", tensors, use_rslora=True)
    down, up = tensors.values()
    expected = base[f"{Q}.weight"].float() + 8 / math.sqrt(2) * (up @ down)
    result = list_tensors(folder, base=base)
    assert [x.name for x in result.tensors] == list(base)
    assert result.adapters == ()
    assert result.tensors[0].dtype == "float32"
    np.testing.assert_allclose(values(result.tensors[0]), expected.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(values(result.tensors[1]), np.ones(4))
    # Reading twice adds once, and the base is not changed.
    np.testing.assert_allclose(values(result.tensors[0]), expected.numpy(), rtol=1e-5)


def test_sum_of_a_base_with_many_rows(tmp_path):
    base = {f"{Q}.weight": torch.randn(2500, 4)}
    tensors = pair_of(Q, up=2500)
    down, up = tensors.values()
    got = summed(base, adapter(tmp_path / "a", tensors))[f"{Q}.weight"]
    expected = base[f"{Q}.weight"] + 4 * (up @ down)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (4, 4)])
def test_base_that_stores_inputs_first(tmp_path, shape):
    up, down = shape
    base = {"h.0.attn.c_attn.weight": torch.randn(down, up)}
    tensors = pair_of("transformer.h.0.attn.c_attn", up, down)
    folder = adapter(tmp_path / "a", tensors, fan_in_fan_out=True)
    assert "inputs" in list_tensors(folder).notes[0]
    a, b = tensors.values()
    expected = base["h.0.attn.c_attn.weight"] + 4 * (b @ a).T
    got = summed(base, folder)["h.0.attn.c_attn.weight"]
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_embedding(tmp_path):
    a, b = torch.randn(2, 7), torch.randn(4, 2)
    tensors = {
        "base_model.model.embed.lora_embedding_A": a,
        "base_model.model.embed.lora_embedding_B": b,
    }
    folder = adapter(tmp_path / "a", tensors)
    (pair,) = list_tensors(folder).adapters
    assert (pair.up.shape, pair.down.shape) == ((7, 2), (2, 4))
    np.testing.assert_allclose(ProductLoader(pair).load(), 4 * (b @ a).T.numpy(), rtol=1e-5)
    base = {"embed.weight": torch.randn(7, 4)}
    expected = base["embed.weight"] + 4 * (b @ a).T
    got = summed(base, folder)["embed.weight"]
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_convolution(tmp_path):
    a, b = torch.randn(2, 3, 5, 5), torch.randn(6, 2, 1, 1)
    tensors = {
        "base_model.model.conv.lora_A.weight": a,
        "base_model.model.conv.lora_B.weight": b,
    }
    folder = adapter(tmp_path / "a", tensors)
    (pair,) = list_tensors(folder).adapters
    assert (pair.up.shape, pair.down.shape) == ((6, 2), (2, 75))
    base = {"conv.weight": torch.randn(6, 3, 5, 5)}
    expected = base["conv.weight"] + 4 * torch.einsum("orxy,rikl->oikl", b, a)
    got = summed(base, folder)["conv.weight"]
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_convolution_with_two_kernels_is_listed_as_unsupported(tmp_path):
    tensors = {
        "base_model.model.conv.lora_A.weight": torch.randn(2, 3, 1, 1),
        "base_model.model.conv.lora_B.weight": torch.randn(6, 2, 3, 3),
    }
    listed = list_tensors(adapter(tmp_path / "a", tensors))
    assert listed.adapters == ()
    assert all("kernel" in x.unsupported for x in listed.tensors)


def test_modules_to_save_replace_those_of_the_base(tmp_path):
    head = torch.randn(3, 4)
    tensors = pair_of(Q) | {"base_model.model.head.modules_to_save.default.weight": head}
    tensors["base_model.model.head.original_module.weight"] = torch.zeros(3, 4)
    folder = adapter(tmp_path / "a", tensors)
    assert [x.name for x in list_tensors(folder).tensors] == ["head.weight"]
    base = {f"{Q}.weight": torch.zeros(6, 4), "head.weight": torch.zeros(3, 4)}
    np.testing.assert_array_equal(summed(base, folder)["head.weight"], head.numpy())


def test_saved_base_layer_is_replaced_before_the_product_is_added(tmp_path):
    a, b = torch.randn(2, 7), torch.randn(4, 2)
    tensors = {
        "base_model.model.embed.base_layer.weight": torch.ones(7, 4),
        "base_model.model.embed.lora_embedding_A": a,
        "base_model.model.embed.lora_embedding_B": b,
    }
    got = summed({"embed.weight": torch.zeros(7, 4)}, adapter(tmp_path / "a", tensors))
    np.testing.assert_allclose(got["embed.weight"], 1 + 4 * (b @ a).T.numpy(), rtol=1e-4, atol=1e-5)


def test_names_with_and_without_the_prefix_of_a_head(tmp_path):
    folder = adapter(tmp_path / "a", pair_of("model." + Q))
    for name in (f"{Q}.weight", f"model.{Q}.weight", f"outer.model.{Q}.weight"):
        base = {name: torch.zeros(6, 4), "model.other.weight": torch.zeros(6, 4)}
        assert np.abs(summed(base, folder)[name]).max() > 0


def test_dora_is_listed_and_not_added(tmp_path):
    name = f"base_model.model.{Q}.lora_magnitude_vector"
    tensors = pair_of(Q) | {name: torch.ones(6)}
    folder = adapter(tmp_path / "a", tensors, use_dora=True)
    listed = list_tensors(folder)
    assert len(listed.adapters) == 1
    assert "DoRA" in listed.tensors[0].unsupported
    assert "DoRA" in listed.notes[0]
    with pytest.raises(UnsupportedFormat, match="merge_and_unload"):
        list_tensors(folder, base={f"{Q}.weight": torch.zeros(6, 4)})


def test_stack_of_experts_is_listed_as_unsupported(tmp_path):
    tensors = pair_of("mlp.experts", 6, 4, rank=8)
    folder = adapter(tmp_path / "a", tensors, target_parameters=["mlp.experts.down_proj"])
    listed = list_tensors(folder)
    assert listed.adapters == ()
    assert all("experts" in x.unsupported for x in listed.tensors)


def test_start_that_changed_the_base_is_noted(tmp_path):
    folder = adapter(tmp_path / "a", pair_of(Q), init_lora_weights="pissa_niter_4")
    assert "pissa" in list_tensors(folder).notes[0]


# ------------------------------------------------------------------------------- damage


def test_other_kinds_of_adapters_are_refused(tmp_path):
    with pytest.raises(UnsupportedFormat, match="must be LORA, got IA3"):
        list_tensors(adapter(tmp_path / "a", pair_of(Q), peft_type="IA3"))


def test_folder_with_a_config_only(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelError, match=r"neither adapter_model\.safetensors nor"):
        list_tensors(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config\.json: expected a JSON object"):
        list_tensors(tmp_path)


def test_lost_factor(tmp_path):
    tensors = pair_of(Q)
    tensors.popitem()
    with pytest.raises(ModelError, match="has lora_A but no lora_B"):
        list_tensors(adapter(tmp_path / "a", tensors))


def test_empty_adapter(tmp_path):
    with pytest.raises(ModelError, match="no tensors"):
        list_tensors(adapter(tmp_path / "a", {}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"r": 4}, "must have rank 4"),
        ({"r": "x"}, "r or its pattern is damaged"),
        ({"r": 0}, "r must be a positive number"),
        ({"lora_alpha": None}, "lora_alpha or its pattern is damaged"),
        ({"rank_pattern": [1]}, "r or its pattern is damaged"),
        ({"rank_pattern": {"(": 1}}, "r or its pattern is damaged"),
    ],
)
def test_config_that_does_not_fit(tmp_path, config, words):
    with pytest.raises(ModelError, match=words):
        list_tensors(adapter(tmp_path / "a", pair_of(Q), **config))


@pytest.mark.parametrize("shapes", [((2, 4), (6, 3)), ((2, 4), (6,)), ((2,), (6, 2))])
def test_factors_that_do_not_fit_each_other(tmp_path, shapes):
    tensors = dict(zip(pair_of(Q), (torch.zeros(s) for s in shapes), strict=True))
    with pytest.raises(ModelError, match="A \\(rank, inputs\\)"):
        list_tensors(adapter(tmp_path / "a", tensors))


def test_base_of_another_model(tmp_path):
    folder = adapter(tmp_path / "a", pair_of(Q), base_model_name_or_path="org/right")
    with pytest.raises(ModelError, match=r"q_proj\.weight.*org/right"):
        list_tensors(folder, base={"x.weight": torch.zeros(6, 4)})
    with pytest.raises(ModelError, match=r"must be \(6, 4\)"):
        list_tensors(folder, base={f"{Q}.weight": torch.zeros(6, 5)})


def test_base_without_adapter(tmp_path):
    del tmp_path
    with pytest.raises(UsageError, match="base= is for adapters"):
        list_tensors({"w": torch.zeros(2, 2)}, base={"w": torch.zeros(2, 2)})
