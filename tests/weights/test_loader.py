"""Loaders: slabs join to the whole, and equal content has an equal digest."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from frog.numerics import views
from frog.weights.loader import ProductLoader, ViewLoader
from frog.weights.source import list_tensors
from frog.weights.stored import AdapterPair, StoredTensor


def stored(array, name="w"):
    (tensor,) = list_tensors({name: array}).tensors
    return tensor


def joined(loader, axis, size):
    return np.concatenate(list(loader.blocks(axis, size)), axis=axis)


LAYOUTS = {
    "plain": ((6, 10), lambda s: views.plain(s)),
    "transposed": ((6, 10), lambda s: views.transposed(views.plain(s))),
    "third": ((6, 10), lambda s: views.third(s, 1)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float8_e4m3fn"])
def test_slabs_join_to_the_whole(layout, dtype):
    shape, view = LAYOUTS[layout][0], LAYOUTS[layout][1](LAYOUTS[layout][0])
    array = torch.randn(shape, dtype=torch.float64).to(getattr(torch, dtype))
    loader = ViewLoader(stored(array), view)
    wide = array.double() if dtype == "float64" else array.float()
    expected = views.take(wide.numpy(), view)
    np.testing.assert_array_equal(loader.load(), expected)
    for axis in (0, 1):
        for size in (1, 3, 100):
            np.testing.assert_array_equal(joined(loader, axis, size), expected)


def test_file_state_dict_and_expert_have_the_digest_of_their_content(tmp_path):
    stack = torch.randn(3, 8, 4).bfloat16()
    save_file({"e": stack, "one": stack[1].clone()}, tmp_path / "a.safetensors")
    file = {x.name: x for x in list_tensors(tmp_path / "a.safetensors").tensors}
    plain = views.plain((8, 4))
    expert = views.MatrixView(
        tensor_shape=(3, 8, 4),
        grid=(3, 8, 4),
        index=(1, (0, 8, 1), (0, 4, 1)),
        rows=(1,),
        columns=(2,),
    )
    digests = {
        ViewLoader(file["one"], plain).fingerprint(),
        ViewLoader(file["e"], expert).fingerprint(),
        ViewLoader(stored(stack[1].clone()), plain).fingerprint(),
        ViewLoader(stored(stack[1]), plain).fingerprint(),
        ViewLoader(stored(stack), expert).fingerprint(),
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 32


def test_digest_tells_shape_dtype_and_content_apart():
    array = torch.randn(4, 6)
    other = array.clone()
    other[3, 5] += 1
    turned = views.transposed(views.plain((4, 6)))
    digests = [
        ViewLoader(stored(array), views.plain((4, 6))).fingerprint(),
        ViewLoader(stored(array.reshape(6, 4)), views.plain((6, 4))).fingerprint(),
        ViewLoader(stored(array.view(torch.float64)), views.plain((4, 3))).fingerprint(),
        ViewLoader(stored(array.bfloat16()), views.plain((4, 6))).fingerprint(),
        ViewLoader(stored(array.half()), views.plain((4, 6))).fingerprint(),
        ViewLoader(stored(other), views.plain((4, 6))).fingerprint(),
        ViewLoader(stored(array), turned).fingerprint(),
    ]
    assert len(set(digests)) == len(digests)


def test_one_expert_of_a_packed_stack_is_unpacked_alone():
    weight = torch.randn(3, 4, 8).to(torch.float8_e4m3fn)
    scale = torch.rand(3, 1, 1) + 0.5
    (tensor,) = list_tensors({"e.down_proj": weight, "e.down_proj_scale": scale}).tensors
    view = views.MatrixView(
        tensor_shape=(3, 4, 8),
        grid=(3, 4, 8),
        index=(2, (0, 4, 1), (0, 8, 1)),
        rows=(1,),
        columns=(2,),
    )

    def whole():
        raise AssertionError("the whole stack was unpacked")

    loader = ViewLoader(dataclasses.replace(tensor, codes=whole), view)
    expected = (weight[2].float() * scale[2]).numpy()
    np.testing.assert_array_equal(loader.load(), expected)
    np.testing.assert_array_equal(joined(loader, 1, 3), expected)
    assert loader.fingerprint() == ViewLoader(tensor, view).fingerprint()


def test_what_is_loaded_is_aligned():
    raw = np.frombuffer(b"\0" + np.arange(6, dtype="<f4").tobytes(), np.uint8)
    odd = raw[1:].view("<f4").reshape(2, 3)
    tensor = StoredTensor(name="w", shape=(2, 3), dtype="float32", codes=lambda: odd)
    assert not odd.flags.aligned
    assert ViewLoader(tensor, views.plain((2, 3))).load().flags.aligned


def product(scale=0.5, dtype=torch.float32):
    up, down = torch.randn(7, 2).to(dtype), torch.randn(2, 9).to(dtype)
    pair = AdapterPair(name="q.lora", target="q", up=stored(up), down=stored(down), scale=scale)
    return pair, (up.float() @ down.float() * scale).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_of_an_adapter(dtype):
    pair, expected = product(dtype=dtype)
    loader = ProductLoader(pair)
    np.testing.assert_allclose(loader.load(), expected, rtol=1e-5, atol=1e-6)
    assert loader.load().dtype == np.float32
    for axis in (0, 1):
        for size in (1, 4, 100):
            np.testing.assert_allclose(joined(loader, axis, size), expected, rtol=1e-5, atol=1e-6)
    up, down, scale = loader.factors()
    assert up.dtype == down.dtype == np.float64
    np.testing.assert_allclose(scale * up @ down, expected, rtol=1e-5, atol=1e-6)


def test_digest_of_a_product_covers_factors_and_scale():
    pair, _ = product()
    same = dataclasses.replace(pair, name="other")
    scaled = dataclasses.replace(pair, scale=0.25)
    other, _ = product()
    digests = [ProductLoader(x).fingerprint() for x in (pair, same, scaled, other)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
