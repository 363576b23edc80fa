"""Every code of every storage type against torch's own decoding."""

import numpy as np
import pytest
import torch

from frog.weights.dtypes import SAFETENSORS_TYPES, storage_type

SMALL_FLOATS = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


@pytest.mark.parametrize("word", [*SMALL_FLOATS, "float8_e8m0fnu"])
def test_all_256_codes(word):
    codes = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(codes.copy()).view(getattr(torch, word)).float().numpy()
    got = storage_type(word).decode(codes)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    number = ~np.isnan(expected)  # a NaN has no sign that means anything
    np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(expected)[number])


@pytest.mark.parametrize("word", ["bfloat16", "float16"])
def test_all_65536_codes(word):
    codes = np.arange(65536, dtype=np.uint16)
    expected = torch.from_numpy(codes.copy()).view(getattr(torch, word)).float().numpy()
    kind = storage_type(word)
    got = kind.decode(codes.view(kind.codes))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    number = ~np.isnan(expected)  # a NaN has no sign that means anything
    np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(expected)[number])


def test_float64_stays_float64_and_float32_is_not_copied():
    wide = np.array([1.0, 1 + 1e-15])
    assert storage_type("float64").decode(wide) is wide
    single = np.ones(3, np.float32)
    assert np.shares_memory(storage_type("float32").decode(single), single)


def test_bfloat16_decodes_slabs_of_any_layout():
    codes = np.arange(12, dtype=np.uint16).reshape(3, 4)
    decode = storage_type("bfloat16").decode
    np.testing.assert_array_equal(decode(codes.T[::2]), decode(codes).T[::2])


def test_integers_and_booleans_are_never_weights():
    for word, kind in SAFETENSORS_TYPES.items():
        integer = word[0] in "IU" or word in ("BOOL", "C64")
        assert (kind.unsupported is not None) == integer, word


def test_unknown_word_has_no_type():
    assert storage_type("float3_made_up") is None
