"""torch files: weights only, wherever a training script put them."""

import json
import os
import pickle

import numpy as np
import pytest
import torch

from frog.errors import ModelError, UnsupportedFormat
from frog.weights.source import list_tensors


def values(tensor):
    return tensor.decode(tensor.codes())


@pytest.fixture
def state():
    weight = torch.linspace(-1, 1, 12).reshape(3, 4)
    return {"a.weight": weight, "b.weight": weight, "c.weight": weight.to(torch.bfloat16)}


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.th", "m.bin", "m.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_plain_state_dict(tmp_path, state, name, zipped):
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
    listed = list_tensors(tmp_path / name)
    assert [(x.name, x.aliases) for x in listed.tensors] == [
        ("a.weight", ("b.weight",)),
        ("c.weight", ()),
    ]
    for tensor in listed.tensors:
        np.testing.assert_array_equal(values(tensor), state[tensor.name].float().numpy())


@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("anything",), ("net", "module")])
def test_nested_state_dict_is_found_and_noted(tmp_path, state, keys):
    content = {f"module.{k}": v for k, v in state.items()}
    for key in reversed(keys):
        content = {"epoch": 3, key: content, "args": {"lr": 0.1}}
    torch.save(content, tmp_path / "m.pt")
    listed = list_tensors(tmp_path / "m.pt")
    assert [x.name for x in listed.tensors] == ["a.weight", "c.weight"]
    assert f"'{'.'.join(keys)}'" in listed.notes[0]
    assert "'module.'" in listed.notes[1]


def test_single_numbers_beside_the_model_are_not_taken_for_it(tmp_path, state):
    """Losses are tensors too: a checkpoint with them at its top level has its model below."""
    torch.save({"model": state, "train_loss": torch.tensor(0.1)}, tmp_path / "m.pt")
    listed = list_tensors(tmp_path / "m.pt")
    assert [x.name for x in listed.tensors] == ["a.weight", "c.weight"]
    assert "'model'" in listed.notes[0]


def test_other_entries_become_a_note(tmp_path, state):
    torch.save({**state, "step": 7}, tmp_path / "m.pt")
    listed = list_tensors(tmp_path / "m.pt")
    assert "step" in listed.notes[0]


def test_shards_of_a_folder(tmp_path, state):
    torch.save({"a.weight": state["a.weight"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"c.weight": state["c.weight"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    weight_map = {
        "a.weight": "pytorch_model-00001-of-00002.bin",
        "c.weight": "pytorch_model-00002-of-00002.bin",
    }
    index.write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text('{"model_type": "tiny"}')
    for path in (tmp_path, index):
        listed = list_tensors(path)
        assert [x.name for x in listed.tensors] == ["a.weight", "c.weight"]
        assert listed.config == {"model_type": "tiny"}
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ModelError, match=r"missing in the folder: pytorch_model-00002"):
        list_tensors(tmp_path)


def test_folder_with_one_torch_file(tmp_path, state):
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert len(list_tensors(tmp_path).tensors) == 2


def test_folder_with_several_torch_files(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pt")
    with pytest.raises(ModelError, match=r"a\.pt, b\.pt.*name the one to read"):
        list_tensors(tmp_path)


class RunsCode:
    """A pickle that would call os.mkdir when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, protocol):
    trap = tmp_path / "ran"
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(2), "x": RunsCode(trap)}, path, pickle_protocol=protocol)
    with pytest.raises(ModelError, match=r"Only weights are read|not a torch file") as caught:
        list_tensors(path)
    assert caught.value.exit_code == 4
    path.write_bytes(pickle.dumps({"x": RunsCode(trap)}, protocol=protocol))
    with pytest.raises(ModelError):
        list_tensors(path)
    assert not trap.exists()


def test_whole_model_is_refused_with_the_way_to_convert(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(ModelError, match=r"torch\.nn\.modules\.linear\.Linear.*safetensors"):
        list_tensors(tmp_path / "m.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated(tmp_path, state, zipped):
    path = tmp_path / "m.pt"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (0, 1, 3, 8, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"m\.pt.*(again|git lfs)"):
            list_tensors(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"just some text, no pickle", "again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_not_a_torch_file(tmp_path, content, words):
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        list_tensors(tmp_path / "m.bin")


def test_contents_that_are_no_state_dict(tmp_path):
    for content, word in (
        (torch.zeros(3), "single tensor"),
        ([1], "list"),
        ({"a": 1}, "no tensors"),
    ):
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(ModelError, match=word):
            list_tensors(tmp_path / "m.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_named(tmp_path):
    program = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(program, tmp_path / "m.pt")
    with pytest.raises(UnsupportedFormat, match="TorchScript"):
        list_tensors(tmp_path / "m.pt")
