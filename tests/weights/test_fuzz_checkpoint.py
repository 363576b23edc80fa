"""Any file is either read to the last tensor or refused with a ModelError: nothing else happens."""

import json
import math
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frog.errors import ModelError
from frog.weights.source import list_tensors

FAST = settings(max_examples=200, deadline=None, derandomize=True, database=None)
THOROUGH = settings(
    max_examples=10_000,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
WIDTH |= {"I64": 8, "I32": 4, "I8": 1, "U8": 1, "U32": 4, "BOOL": 1, "C64": 8}
# Names by which packed formats are recognised, so that their siblings meet at random.
NAMES = [
    "m.weight",
    "m.weight_scale",
    "m.weight_scale_inv",
    "m.weight_zero_point",
    "m.SCB",
    "m.weight_format",
    "m.weight.absmax",
    "m.weight.quant_map",
    "m.weight.nested_absmax",
    "m.weight.nested_quant_map",
    "m.weight.quant_state.bitsandbytes__nf4",
    "m.qweight",
    "m.qzeros",
    "m.scales",
    "m.g_idx",
    "m.biases",
    "m.weight_packed",
    "m.weight_shape",
    "m.weight_g_idx",
    "m.weight_global_scale",
    "m.weight_scale_2",
    "m.W_q",
    "x_blocks",
    "x_scales",
]


def file_of(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@st.composite
def sound_files(draw):
    """A file that obeys the format; its tensors may be those of damaged packed groups."""
    header, data = {}, b""
    for name in draw(st.lists(st.sampled_from(NAMES) | st.text(max_size=4), unique=True)):
        dtype = draw(st.sampled_from(sorted(WIDTH)))
        shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 16, 32]), max_size=4))
        length = WIDTH[dtype] * math.prod(shape)
        if name == "__metadata__" or length > 4096 or not name.isprintable():
            continue
        state = b'{"shape": [4, 8], "blocksize": 16, "nested_blocksize": 2}'
        content = np.random.default_rng(draw(st.integers(0, 99))).bytes(length)
        if "quant_state" in name:
            dtype, shape, content, length = "U8", [len(state)], state, len(state)
        span = [len(data), len(data) + length]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
        data += content
    return file_of(json.dumps(header).encode(), data)


@st.composite
def wild_headers(draw):
    """A header of the right words with any numbers and any types in any place."""
    number = st.integers(-3, 40) | st.sampled_from([2**31, 2**32, 2**63, 2**64, -(2**63), 1e300])
    junk = st.none() | st.booleans() | st.text(max_size=3) | st.just([]) | st.just({})
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(sorted(WIDTH)) | st.text(max_size=4) | junk,
            "shape": st.lists(number, max_size=5) | junk,
            "data_offsets": st.lists(number, min_size=1, max_size=3) | junk,
        }
    )
    names = st.sampled_from([*NAMES, "__metadata__"]) | st.text(max_size=4)
    header = draw(st.dictionaries(names, entry | junk, max_size=4))
    return file_of(json.dumps(header).encode(), draw(st.binary(max_size=40)))


@st.composite
def bitten_files(draw):
    """A sound file of which some bytes were changed, or the end cut off or grown."""
    whole = bytearray(draw(sound_files()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(whole) - 1))
        whole[at] = draw(st.integers(0, 255) | st.sampled_from(b'{}[]":,0123456789'))
    return bytes(whole[: draw(st.integers(0, len(whole)) | st.just(len(whole)))])


FILES = sound_files() | wild_headers() | bitten_files() | st.binary(max_size=64)


def read_or_refuse(content: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    try:
        listed = list_tensors(path)
        for tensor in listed.tensors:
            codes = tensor.codes()
            if tensor.unsupported is None:
                with np.errstate(all="ignore"):
                    values = tensor.decode(codes)
                assert values.shape == tensor.shape
                assert values.dtype in (np.float32, np.float64)
    except ModelError as error:
        assert str(error)


@FAST
@given(content=FILES)
def test_any_file_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        read_or_refuse(content, Path(folder))


@pytest.mark.slow
@THOROUGH
@given(content=FILES)
def test_any_file_is_read_or_refused_thoroughly(content):
    with tempfile.TemporaryDirectory() as folder:
        read_or_refuse(content, Path(folder))


@FAST
@given(content=sound_files())
def test_sound_files_are_all_read(content):
    """Nothing that obeys the format is refused as a whole, and every tensor is accounted for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        listed = list_tensors(path)
        assert len({x.name for x in listed.tensors}) == len(listed.tensors)
