"""Packed formats: what a plain quantiser packed comes back, under its logical name and shape.

Each quantiser here is written from the description of the format, one entry at a time, and
shares no code with what is tested.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from frog.errors import ModelError
from frog.weights.catalogue import catalogue
from frog.weights.folding import StackedTensor
from frog.weights.source import list_tensors

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
AWQ_COLUMNS = [0, 2, 4, 6, 1, 3, 5, 7]
rng = np.random.default_rng(0)


def listed(tensors, folder=None, settings=None):
    """The tensor list of a state dict, or of a checkpoint folder with a config."""
    tensors = {k: torch.as_tensor(v).contiguous() for k, v in tensors.items()}
    if folder is None:
        return list_tensors(tensors)
    save_file(tensors, folder / "model.safetensors")
    config = {"quantization_config": settings} if settings else {}
    (folder / "config.json").write_text(json.dumps(config))
    return list_tensors(folder)


def only(tensors, folder=None, settings=None):
    """The one tensor that is left when the group is folded; where it is unpacked, its matrices
    are measured."""
    found = listed(tensors, folder, settings)
    (tensor,) = found.tensors
    if tensor.unsupported is None and len(tensor.shape) > 1:
        made = catalogue(found)
        assert not made.skipped and sum(x.params for x in made.matrices) == tensor.params
    return tensor


def values(tensor):
    assert tensor.unsupported is None, tensor.unsupported
    decoded = tensor.decode(tensor.codes())
    assert decoded.shape == tensor.shape
    return decoded


def words(codes, bits):
    """Rows of unsigned codes -> rows of 32-bit words, lowest bits first, the last one padded.

    Each row is one long number, cut into words: codes have no gaps between them.
    """
    rows = []
    for row in codes:
        number = sum(int(c) << (bits * i) for i, c in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append([number >> (32 * i) & 0xFFFFFFFF for i in range(count)])
    return np.array(rows, np.uint32).view(np.int32)


# ------------------------------------------------------------------------------- float8


@pytest.mark.parametrize("shape", [(), (1,), (5,), (5, 1), (1, 300)])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_per_tensor_row_and_column(tmp_path, shape, dtype):
    weight = torch.from_numpy(rng.normal(size=(5, 300))).to(dtype)
    scale = torch.from_numpy(rng.uniform(0.5, 2, size=shape)).float()
    tensor = only({"a.weight": weight, "a.weight_scale": scale}, tmp_path)
    assert (tensor.name, tensor.shape, tensor.params) == ("a.weight", (5, 300), 1500)
    assert tensor.dtype == str(dtype).removeprefix("torch.")
    factor = scale[:, None] if shape == (5,) else scale
    np.testing.assert_array_equal(values(tensor), (weight.float() * factor).numpy())


@pytest.mark.parametrize("block", [None, [128, 128], [2, 64]])
@pytest.mark.parametrize("scale_type", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_float8_in_blocks(tmp_path, block, scale_type):
    rows, columns = block or (128, 128)
    weight = torch.from_numpy(rng.normal(size=(2 * rows + 1, 2 * columns + 1)))
    weight = weight.to(torch.float8_e4m3fn)
    scale = torch.from_numpy(rng.uniform(0.5, 2, size=(3, 3))).float().to(scale_type)
    settings = {"quant_method": "fp8", "weight_block_size": block} if block else None
    tensor = only({"a.weight": weight, "a.weight_scale_inv": scale}, tmp_path, settings)
    expected = weight.float().numpy()
    for i in range(expected.shape[0]):
        for j in range(expected.shape[1]):
            expected[i, j] *= scale.float()[i // rows, j // columns].item()
    np.testing.assert_array_equal(values(tensor), expected)


def test_float8_in_groups_of_another_size():
    weight = torch.from_numpy(rng.normal(size=(3, 96))).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 3) + 0.5
    expected = weight.float() * scale.repeat_interleave(32, dim=1)
    tensor = only({"a.weight": weight, "a.weight_scale": scale})
    np.testing.assert_array_equal(values(tensor), expected.numpy())


def test_float8_experts_are_unpacked_one_at_a_time():
    weight = torch.from_numpy(rng.normal(size=(3, 4, 8))).to(torch.float8_e4m3fn)
    for shape in ((3, 4, 1), (3, 1, 8), (3, 1, 1), (3,), (1,)):
        scale = torch.from_numpy(rng.uniform(0.5, 2, size=shape)).float()
        tensor = only({"e.gate_up_proj": weight, "e.gate_up_proj_scale": scale})
        factor = scale[:, None, None] if shape == (3,) else scale
        expected = (weight.float() * factor).numpy()
        np.testing.assert_array_equal(values(tensor), expected)
        assert isinstance(tensor, StackedTensor)
        for i in range(3):
            np.testing.assert_array_equal(tensor.member(i), expected[i])


def test_float8_without_scale_is_taken_as_it_is():
    weight = torch.linspace(-2, 2, 8).to(torch.float8_e5m2)
    np.testing.assert_array_equal(values(only({"w": weight})), weight.float().numpy())


@pytest.mark.parametrize("shape", [(4, 7), (0, 1), (5, 1, 1)])
def test_scale_that_does_not_fit_is_refused(shape):
    weight = torch.zeros(5, 300).to(torch.float8_e4m3fn)
    result = listed({"a.weight": weight, "a.weight_scale": torch.ones(shape)})
    assert all(x.unsupported for x in result.tensors)
    assert "not supported" in result.notes[0]


def test_int8_with_row_scale():
    weight = torch.from_numpy(rng.integers(-128, 128, size=(4, 6), dtype=np.int8))
    scale = torch.rand(4, 1).bfloat16()
    tensor = only({"a.weight": weight, "a.weight_scale": scale})
    assert tensor.dtype == "int8"
    np.testing.assert_array_equal(values(tensor), (weight.float() * scale.float()).numpy())


# ------------------------------------------------------------------------- bitsandbytes


def test_bnb_int8():
    weight = rng.normal(size=(4, 6)).astype(np.float32)
    top = np.abs(weight).max(axis=1)
    codes = np.array([[round(w / t * 127) for w in r] for r, t in zip(weight, top, strict=True)])
    group = {"a.weight": codes.astype(np.int8), "a.SCB": top, "a.bias": np.ones(4)}
    result = listed({**group, "a.weight_format": np.uint8(0)})
    assert [x.name for x in result.tensors] == ["a.weight", "a.bias"]
    np.testing.assert_allclose(values(result.tensors[0]), codes * top[:, None] / 127, rtol=1e-6)
    turned = listed({**group, "a.weight_format": np.uint8(2)})
    assert "row layout" in turned.tensors[0].unsupported


def four_bit_group(shape, kind, blocksize, nested):
    """A bitsandbytes 4-bit group, and the values that it stands for."""
    code = np.sort(rng.uniform(-1, 1, size=16)).astype(np.float32)
    count = int(np.prod(shape))
    index = rng.integers(0, 16, size=count)
    blocks = -(-count // blocksize)
    state = {"quant_type": kind, "blocksize": blocksize, "dtype": "bfloat16", "shape": list(shape)}
    if nested:
        nested_code = np.linspace(-1, 1, 256).astype(np.float32)
        nested_index = rng.integers(0, 256, size=blocks).astype(np.uint8)
        nested_top = rng.uniform(0.5, 1, size=-(-blocks // 4)).astype(np.float32)
        offset = 1.25
        absmax = [nested_code[c] * nested_top[i // 4] + offset for i, c in enumerate(nested_index)]
        state |= {"nested_blocksize": 4, "nested_offset": offset, "nested_dtype": "float32"}
        scales = {"absmax": nested_index, "nested_absmax": nested_top}
        scales["nested_quant_map"] = nested_code
    else:
        absmax = rng.uniform(0.5, 2, size=blocks).astype(np.float32)
        scales = {"absmax": absmax}
    expected = [code[c] * absmax[i // blocksize] for i, c in enumerate(index)]
    pairs = [*index, *([0] * (count % 2))]
    packed = [pairs[i] << 4 | pairs[i + 1] for i in range(0, len(pairs), 2)]
    group = {f"a.weight.{k}": v for k, v in scales.items()}
    group["a.weight"] = np.array(packed, np.uint8)[:, None]
    group["a.weight.quant_map"] = code
    text = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
    group[f"a.weight.quant_state.bitsandbytes__{kind}"] = text
    return group, np.array(expected, np.float32).reshape(shape)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shape", [(8, 16), (5, 13), (3, 3)])
def test_bnb_four_bit(tmp_path, kind, nested, shape):
    group, expected = four_bit_group(shape, kind, 16, nested)
    tensor = only(group, tmp_path)
    assert (tensor.name, tensor.shape, tensor.dtype) == ("a.weight", shape, kind)
    np.testing.assert_allclose(values(tensor), expected, rtol=1e-6)


def test_bnb_four_bit_in_another_storage_type():
    group, expected = four_bit_group((8, 16), "nf4", 16, False)
    group["a.weight"] = torch.from_numpy(group["a.weight"].ravel()).view(torch.bfloat16)
    np.testing.assert_allclose(values(only(group)), expected, rtol=1e-6)


@pytest.mark.parametrize("lost", ["absmax", "quant_map", "state"])
def test_bnb_four_bit_with_a_part_missing_is_refused(lost):
    group, _ = four_bit_group((8, 16), "nf4", 16, False)
    if lost == "state":
        group["a.weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(b"{}", np.uint8).copy()
    else:
        del group[f"a.weight.{lost}"]
    assert all(x.unsupported for x in listed(group).tensors)


# -------------------------------------------------------------------------------- MXFP4


def test_mxfp4_experts(tmp_path):
    experts, outputs, groups = 2, 3, 2
    codes = rng.integers(0, 16, size=(experts, outputs, groups * 32))
    exponents = rng.integers(100, 140, size=(experts, outputs, groups)).astype(np.uint8)
    expected = np.zeros((experts, groups * 32, outputs), np.float32)
    blocks = np.zeros((experts, outputs, groups, 16), np.uint8)
    for e, o, i in np.ndindex(*codes.shape):
        code = codes[e, o, i]
        expected[e, i, o] = E2M1[code] * 2.0 ** (int(exponents[e, o, i // 32]) - 127)
        blocks[e, o, i // 32, i % 32 // 2] |= code << (4 * (i % 2))
    group = {"x.down_proj_blocks": blocks, "x.down_proj_scales": exponents}
    tensor = only(group, tmp_path)
    assert (tensor.name, tensor.dtype) == ("x.down_proj", "mxfp4")
    np.testing.assert_array_equal(values(tensor), expected)
    assert isinstance(tensor, StackedTensor)
    np.testing.assert_array_equal(tensor.member(1), expected[1])


# -------------------------------------------------------------------- GPTQ, AWQ and packs


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("order", ["none", "in turn", "shuffled"])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq(tmp_path, bits, order, version):
    inputs, outputs, groups = 64, 32, 4
    top = 2**bits - 1
    code = rng.integers(0, top + 1, size=(inputs, outputs))
    zero = rng.integers(0, top + 1, size=(groups, outputs))
    scale = rng.uniform(0.01, 0.1, size=(groups, outputs)).astype(np.float16)
    group = np.repeat(np.arange(groups), inputs // groups)
    if order == "shuffled":
        group = rng.permutation(group)
    stored_zero = zero if version == "gptq_v2" else (zero - 1) & top
    tensors = {
        "a.qweight": words(code.T, bits).T.copy(),
        "a.qzeros": words(stored_zero, bits),
        "a.scales": scale,
    }
    if order != "none":
        tensors["a.g_idx"] = group.astype(np.int32)
    settings = {"quant_method": "gptq", "bits": bits, "checkpoint_format": version}
    tensor = only(tensors, tmp_path, settings)
    assert (tensor.name, tensor.shape, tensor.dtype) == ("a.weight", (32, 64), f"int{bits}")
    expected = (code - zero[group]) * scale.astype(np.float32)[group]
    np.testing.assert_allclose(values(tensor), expected.T, rtol=1e-6)


def test_gptq_with_an_impossible_group_is_an_error():
    tensors = {
        "a.qweight": np.zeros((8, 32), np.int32),
        "a.qzeros": np.zeros((4, 4), np.int32),
        "a.scales": np.ones((4, 32), np.float16),
        "a.g_idx": np.full(64, 9, np.int32),
    }
    with pytest.raises(ModelError, match=r"a\.weight: its packed data \(GPTQ\)"):
        values(only(tensors))


def test_awq(tmp_path):
    inputs, outputs, groups = 32, 16, 2
    code = rng.integers(0, 16, size=(inputs, outputs))
    zero = rng.integers(0, 16, size=(groups, outputs))
    scale = rng.uniform(0.01, 0.1, size=(groups, outputs)).astype(np.float16)

    def turned(rows):
        return np.stack([rows[:, 8 * w + c] for w in range(2) for c in AWQ_COLUMNS], axis=1)

    tensors = {
        "a.qweight": words(turned(code), 4),
        "a.qzeros": words(turned(zero), 4),
        "a.scales": scale,
    }
    tensor = only(tensors, tmp_path, {"quant_method": "awq", "bits": 4, "version": "gemm"})
    assert (tensor.name, tensor.shape, tensor.dtype) == ("a.weight", (16, 32), "int4")
    group = np.repeat(np.arange(groups), inputs // groups)
    expected = (code - zero[group]) * scale.astype(np.float32)[group]
    np.testing.assert_allclose(values(tensor), expected.T, rtol=1e-6)
    other = listed(tensors, tmp_path, {"quant_method": "awq", "bits": 4, "version": "gemv"})
    assert all(x.unsupported for x in other.tensors)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("order", [False, True])
def test_compressed_tensors(tmp_path, bits, zeros, groups, order):
    outputs, inputs = 5, 36
    half = 2 ** (bits - 1)
    code = rng.integers(-half, half, size=(outputs, inputs))
    zero = rng.integers(-half, half, size=(outputs, groups)) * zeros
    scale = torch.from_numpy(rng.uniform(0.01, 0.1, size=(outputs, groups))).bfloat16()
    group = np.repeat(np.arange(groups), inputs // groups)
    group = rng.permutation(group) if order else group
    tensors = {
        "a.weight_packed": words(code + half, bits),
        "a.weight_scale": scale,
        "a.weight_shape": np.array([outputs, inputs]),
    }
    if zeros:
        tensors["a.weight_zero_point"] = words((zero + half).T, bits).T.copy()
    if order:
        tensors["a.weight_g_idx"] = group.astype(np.int32)
    settings = {"config_groups": {"group_0": {"weights": {"num_bits": bits}}}, "version": "0.20.0"}
    tensor = only(tensors, tmp_path, settings)
    assert (tensor.name, tensor.shape, tensor.dtype) == ("a.weight", (5, 36), f"int{bits}")
    expected = (code - zero[:, group]) * scale.float().numpy()[:, group]
    np.testing.assert_allclose(values(tensor), expected, rtol=1e-6)


def packed_group(bits, inputs, count=None):
    """Codes of 0 at that width; ``count`` words a row where not as many as without gaps."""
    count = count or -(-inputs * bits // 32)
    return {
        "a.weight_packed": torch.zeros(4, count, dtype=torch.int32),
        "a.weight_scale": torch.ones(4, 1),
        "a.weight_shape": torch.tensor([4, inputs]),
    }


def config_group(bits, *targets):
    return {"targets": list(targets), "weights": {"num_bits": bits}}


def test_the_width_is_that_of_the_module(tmp_path):
    # 8 inputs take one word at 3 bits and at 4.
    groups = {"x": config_group(3, "a"), "y": config_group(4, "b")}
    tensor = only(packed_group(3, 8), tmp_path, {"config_groups": groups})
    assert tensor.dtype == "int3"
    np.testing.assert_array_equal(values(tensor), np.full((4, 8), -4))
    groups["x"] = config_group(3, "Linear")
    refused = listed(packed_group(3, 8), tmp_path, {"config_groups": groups}).tensors
    why = {x.name: x.unsupported or "" for x in refused}
    assert all(why.values())
    assert "use the checkpoint it was made from" in why["a.weight_packed"]


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_codes_with_gaps_of_older_versions_are_never_read_as_if_without(tmp_path, bits):
    held = 32 // bits
    settings = {"config_groups": {"x": config_group(bits, "Linear"), "y": config_group(8, "b")}}
    for inputs in (1, 4, 5, 6, 7, 10, 11, 16, 31, 32, 33, 40, 64, 99):
        gaps, dense = -(-inputs // held), -(-inputs * bits // 32)
        old = listed(packed_group(bits, inputs, gaps), tmp_path, settings).tensors
        if inputs > held:  # in the first word both lie alike
            assert all(x.unsupported for x in old), inputs
        elif -(-inputs * 8 // 32) != gaps:
            assert old[0].dtype == f"int{bits}", inputs
        alone = {"config_groups": {"x": settings["config_groups"]["x"]}}
        for version, known in (("0.20.0", True), ("0.16.0", False), (None, False)):
            found = listed(packed_group(bits, inputs), tmp_path, {**alone, "version": version})
            read = all(x.unsupported is None for x in found.tensors)
            assert read == (known or inputs <= held or gaps != dense), (inputs, version)


@pytest.mark.parametrize(
    "groups", [7, {"x": 7}, {"x": {"weights": {"num_bits": [4]}, "targets": 7}}]
)
def test_a_config_without_widths_leaves_those_that_divide_a_word(tmp_path, groups):
    assert only(packed_group(4, 64), tmp_path, {"config_groups": groups}).dtype == "int4"
    odd = listed(packed_group(3, 64), tmp_path, {"config_groups": groups}).tensors
    assert all(x.unsupported for x in odd)


@pytest.mark.parametrize("scale_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4])
def test_torchao_integers(tmp_path, groups, scale_type):
    code = rng.integers(-8, 8, size=(5, 36))
    zero = rng.integers(-8, 8, size=(5, groups))
    scale = torch.from_numpy(rng.uniform(0.01, 0.1, size=(5, groups))).to(scale_type)
    tensors = {
        "a._weight_qdata": code.astype(np.int8),
        "a._weight_scale": scale,
        "a._weight_zero_point": zero.astype(np.int8),
    }
    tensor = only(tensors, tmp_path)
    assert (tensor.name, tensor.shape, tensor.dtype) == ("a.weight", (5, 36), "int8")
    group = np.repeat(np.arange(groups), 36 // groups)
    expected = (code - zero[:, group]).astype(np.float32) * scale.float().numpy()[:, group]
    np.testing.assert_array_equal(values(tensor), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"a._weight_qdata": torch.zeros(4, 8, dtype=torch.uint8)},
        {"a._weight_qdata": torch.zeros(4, 8).to(torch.float8_e4m3fn)},
        {"a._weight_qdata": torch.zeros(2, 2, 8, dtype=torch.int8)},
        {"a._weight_zero_point": None},
        {"a._weight_zero_point": torch.zeros(4, 1, dtype=torch.int8)},
        {"a._weight_scale": torch.ones(4, 3), "a._weight_zero_point": torch.zeros(4, 3).char()},
        {"a._weight_scale": torch.ones(2, 4), "a._weight_zero_point": torch.zeros(2, 4).char()},
        {"a._weight_scale": torch.ones(4), "a._weight_zero_point": torch.zeros(4).char()},
        {"a._weight_zero_point": torch.zeros(4, 2)},
        {"a._weight_act_pre_scale": torch.ones(8)},
        {
            "a._weight_qdata": torch.zeros(4, 8, dtype=torch.int32),
            "a._weight_scale": None,
            "a._weight_zero_point": None,
            "a._weight_scale_and_zero": torch.ones(2, 4, 2),
        },
    ],
)
def test_other_tensors_of_torchao_are_refused_whole(change):
    whole = {
        "a._weight_qdata": torch.zeros(4, 8, dtype=torch.int8),
        "a._weight_scale": torch.ones(4, 2),
        "a._weight_zero_point": torch.zeros(4, 2, dtype=torch.int8),
    }
    tensors = {name: x for name, x in {**whole, **change}.items() if x is not None}
    made = catalogue(listed(tensors))
    assert not made.matrices
    assert {x.rule for x in made.skipped} == {"0 unsupported"}
    assert all(x.reason for x in made.skipped)


@pytest.mark.parametrize("kind", ["compressed-tensors", "ModelOpt", "mxfp4"])
def test_fp4_in_blocks_along_the_inputs(tmp_path, kind):
    rows, columns = 3, 64
    size = 32 if kind == "mxfp4" else 16
    code = rng.integers(0, 16, size=(rows, columns))
    packed = np.zeros((rows, columns // 2), np.uint8)
    for i, j in np.ndindex(rows, columns):
        packed[i, j // 2] |= code[i, j] << (4 * (j % 2))
    if kind == "mxfp4":
        scale = torch.from_numpy(rng.integers(110, 140, size=(rows, columns // size))).byte()
        factor = 2.0 ** (scale.double().numpy() - 127)
    else:
        scale = torch.from_numpy(rng.uniform(0.5, 2, size=(rows, columns // size)))
        scale = scale.to(torch.float8_e4m3fn)
        factor = scale.double().numpy()
    if kind == "compressed-tensors":
        group = {"a.weight_packed": packed, "a.weight_global_scale": torch.tensor([400.0])}
        factor = factor / 400.0
    elif kind == "ModelOpt":
        group = {"a.weight": packed, "a.weight_scale_2": torch.tensor(0.0025)}
        factor = factor * 0.0025
    else:
        group = {"a.weight_packed": packed}
    tensor = only({**group, "a.weight_scale": scale}, tmp_path)
    assert (tensor.name, tensor.shape) == ("a.weight", (rows, columns))
    assert tensor.dtype == ("mxfp4" if kind == "mxfp4" else "nvfp4")
    expected = np.array(E2M1)[code] * np.repeat(factor, size, axis=1)
    np.testing.assert_allclose(values(tensor), expected, rtol=1e-6)


def test_other_packs_are_refused_whole():
    mlx = {
        "b.weight": torch.zeros(64, 8, dtype=torch.uint32),
        "b.scales": torch.zeros(64, 64).half(),
        "b.biases": torch.zeros(64, 64).half(),
    }
    other = {
        "d.W_q": torch.zeros(64, 8, dtype=torch.uint8),
        "d.scale": torch.zeros(64, 64),
        "d.zero": torch.zeros(64, 64),
        "d.bias": torch.zeros(64),
    }
    ids = {"embeddings.position_ids": torch.arange(4)[None], "embeddings.w": torch.zeros(3, 3)}
    result = listed({**mlx, **other, **ids})
    # The scales are matrices by their shape, but nothing that was trained.
    assert [x.name for x in result.tensors if not x.unsupported] == ["d.bias", "embeddings.w"]
    assert len(result.tensors) == 9
    assert sum("not supported" in x for x in result.notes) == 2
