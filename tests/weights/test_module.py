"""Live modules and state dicts: the same tensors as a file, ties once, nothing copied."""

import numpy as np
import pytest
import torch
from torch import nn

from frog.errors import ModelError
from frog.weights.source import list_tensors

FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def values(tensor):
    return tensor.decode(tensor.codes())


class Tied(nn.Module):
    """An embedding that is also the head, a norm, a linear layer and a buffer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.proj = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("positions", torch.arange(3))


def test_module_lists_parameters_with_owners_and_ties():
    model = Tied()
    listed = list_tensors(model)
    assert (listed.path, listed.format) == ("Tied", "module")
    owners = {x.name: x.owner for x in listed.tensors}
    assert owners == {
        "embed.weight": "Embedding",
        "norm.weight": "BatchNorm1d",
        "norm.bias": "BatchNorm1d",
        "proj.weight": "Linear",
    }
    assert listed.tensors[0].aliases == ("head.weight",)
    assert sum(x.params for x in listed.tensors) == sum(p.numel() for p in model.parameters())


def test_state_dict_lists_ties_once_and_keeps_buffers():
    listed = list_tensors(Tied().state_dict())
    names = {x.name: x for x in listed.tensors}
    assert names["embed.weight"].aliases == ("head.weight",)
    assert "head.weight" not in names
    assert "norm.running_mean" in names
    assert "int64" in names["positions"].unsupported


@pytest.mark.parametrize("dtype", FLOATS)
def test_codes_are_views_and_decode_as_torch_does(dtype):
    tensor = torch.linspace(-3, 3, 15).reshape(3, 5).to(getattr(torch, dtype))
    (stored,) = list_tensors({"w": tensor}).tensors
    assert stored.dtype == dtype
    expected = tensor.double() if dtype == "float64" else tensor.float()
    np.testing.assert_array_equal(values(stored), expected.numpy())
    assert stored.codes().__array_interface__["data"][0] == tensor.data_ptr()


def test_transposed_and_sliced_tensors_are_read_as_they_look():
    whole = torch.arange(24.0).reshape(4, 6).to(torch.bfloat16)
    listed = list_tensors({"t": whole.T, "rows": whole[1:3], "scalar": whole[0, 0]})
    for stored, tensor in zip(listed.tensors, (whole.T, whole[1:3], whole[0, 0]), strict=True):
        np.testing.assert_array_equal(values(stored), tensor.float().numpy())


def test_views_of_one_storage_are_not_ties():
    whole = torch.zeros(4, 6)
    listed = list_tensors({"whole": whole, "half": whole[:2], "same": whole.view(4, 6)})
    assert [(x.name, x.aliases) for x in listed.tensors] == [("whole", ("same",)), ("half", ())]


def test_empty_tensors_are_not_ties():
    listed = list_tensors({"a": torch.empty(0, 3), "b": torch.empty(0, 3)})
    assert [x.name for x in listed.tensors] == ["a", "b"]


def test_parameters_that_need_gradients_can_be_read():
    layer = nn.Linear(3, 2)
    np.testing.assert_array_equal(
        values(list_tensors(layer).tensors[0]), layer.weight.detach().numpy()
    )


def test_numpy_state_dict():
    array = np.arange(6.0).reshape(2, 3)
    listed = list_tensors({"a": array, "b": array, "half": array.astype(np.float16)})
    assert [(x.name, x.aliases) for x in listed.tensors] == [("a", ("b",)), ("half", ())]
    assert values(listed.tensors[0]).dtype == np.float64
    assert values(listed.tensors[1]).dtype == np.float32


def test_what_is_no_tensor_becomes_a_note():
    listed = list_tensors({"w": torch.zeros(2, 2), "epoch": 3, 5: "x"})
    assert [x.name for x in listed.tensors] == ["w"]
    assert "epoch" in listed.notes[0]


def test_prefixes_of_wrappers_are_stripped_where_all_have_them():
    listed = list_tensors(nn.DataParallel(nn.Sequential(nn.Linear(2, 2))))
    assert [x.name for x in listed.tensors] == ["0.weight", "0.bias"]
    assert "'module.'" in listed.notes[0]
    twice = {"module._orig_mod.a": torch.zeros(2), "module._orig_mod.b": torch.zeros(2)}
    assert [x.name for x in list_tensors(twice).tensors] == ["a", "b"]
    some = {"module.a": torch.zeros(2), "b": torch.zeros(2)}
    assert [x.name for x in list_tensors(some).tensors] == ["module.a", "b"]


def test_config_of_a_transformers_model_is_read_through_wrappers():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=10,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    for wrapped in (model, nn.DataParallel(model)):
        listed = list_tensors(wrapped)
        assert listed.config is not None and listed.config["model_type"] == "llama"
        assert listed.tensors[0].aliases == ("lm_head.weight",)
        assert sum(x.params for x in listed.tensors) == model.num_parameters()


def test_meta_tensors_have_no_data():
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    with pytest.raises(ModelError, match=r"meta device .* load the weights"):
        list_tensors(model)


def test_distributed_tensors_are_refused():
    class Spread(torch.Tensor):
        def full_tensor(self):
            raise AssertionError("must not be called")

    with pytest.raises(ModelError, match="gather it first"):
        list_tensors({"w": torch.zeros(2, 2).as_subclass(Spread)})


def test_sparse_quantised_and_wrapped_tensors_are_listed_as_unsupported():
    class Packed(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise NotImplementedError(func)

    packed = torch.Tensor._make_wrapper_subclass(Packed, (2, 2))
    listed = list_tensors(
        {
            "sparse": torch.eye(3).to_sparse(),
            "packed": packed,
            "complex": torch.zeros(2, dtype=torch.complex64),
        }
    )
    reasons = {x.name: x.unsupported for x in listed.tensors}
    assert "sparse" in reasons["sparse"]
    assert "Packed" in reasons["packed"]
    assert "complex" in reasons["complex"]


class PackedLinear(nn.Module):
    """A layer for inference that keeps int8 codes as its parameter and scales beside it."""

    def __init__(self, codes, scales):
        super().__init__()
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("SCB", scales)
        self.register_buffer("steps", torch.zeros(3, 3))


class PackedBuffers(nn.Module):
    """A layer for inference that has no parameters at all."""

    def __init__(self, words, scales):
        super().__init__()
        self.register_buffer("qweight", words)
        self.register_buffer("qzeros", torch.zeros(1, 1, dtype=torch.int32))
        self.register_buffer("scales", scales)


def test_quantised_layers_are_unpacked_with_what_lies_beside_their_parameters():
    codes = torch.tensor([[127, -127], [64, 0]], dtype=torch.int8)
    model = nn.ModuleDict(
        {
            "a": PackedLinear(codes, torch.tensor([2.0, 254.0])),
            "b": PackedBuffers(torch.full((1, 8), 0x21, dtype=torch.int32), torch.ones(1, 8)),
            "c": PackedBuffers(torch.zeros(3, 5, dtype=torch.int32), torch.ones(1, 7)),
        }
    )
    tensors = {x.name: x for x in list_tensors(model).tensors}
    assert list(tensors) == ["a.weight", "b.weight", "c.qweight"]
    assert tensors["a.weight"].owner == "PackedLinear"
    np.testing.assert_allclose(values(tensors["a.weight"]), [[2, -2], [128, 0]])
    assert values(tensors["b.weight"])[3].tolist() == [0, 1, -1, -1, -1, -1, -1, -1]
    assert "neither GPTQ nor AWQ" in tensors["c.qweight"].unsupported


def test_factors_of_a_live_adapter_are_noted():
    model = nn.ModuleDict({"q": nn.ModuleDict({"lora_A": nn.ModuleDict({"x": nn.Linear(2, 2)})})})
    assert "LoRA" in list_tensors(model).notes[0]


@pytest.mark.gpu
def test_tensors_on_a_gpu_are_copied_when_read():
    tensor = torch.linspace(-3, 3, 15, device="cuda").to(torch.bfloat16)
    (stored,) = list_tensors({"w": tensor}).tensors
    np.testing.assert_array_equal(values(stored), tensor.float().cpu().numpy())


@pytest.mark.parametrize("model", [{}, {"epoch": 3}, nn.ReLU()])
def test_nothing_to_measure(model):
    with pytest.raises(ModelError, match=r"no tensors|no parameters"):
        list_tensors(model)


@pytest.mark.parametrize("model", [None, 3, [1, 2], torch.zeros(3), b"path", nn.Linear])
def test_other_things_are_refused_with_the_list_of_what_is_accepted(model):
    with pytest.raises(ModelError, match=r"a model must be .*nn\.Module.*; got"):
        list_tensors(model)
