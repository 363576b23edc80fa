"""Storage types: how the bytes of a tensor become float32.

One table for files and live tensors. Codes are what lies on disk, as a numpy type of the same
width (bfloat16 as uint16, float8 as uint8); ``decode`` turns codes into float32 or float64,
element by element. All decodings are exact. No torch here: reading a file must start fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from frog.weights.stored import as_is


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageType:
    """One storage type: torch's word, numpy type of the codes, decoding, and why not."""

    word: str
    codes: np.dtype
    decode: Callable[[np.ndarray], np.ndarray] = as_is
    unsupported: str | None = None


def storage_type(word: str) -> StorageType | None:
    """The storage type with torch's name ``word`` (``bfloat16``), or None."""
    return _BY_WORD.get(word)


def decode_bfloat16(codes: np.ndarray) -> np.ndarray:
    """float32 whose upper half is the code: bfloat16 is float32 cut short."""
    return np.left_shift(codes, np.uint32(16), dtype=np.uint32).view(np.float32)


def decode_e8m0(codes: np.ndarray) -> np.ndarray:
    """Powers of two, 2**(code - 127); 255 is NaN. Used for scales of blocks."""
    return _E8M0[codes]


def _float8_table(exponent_bits: int, bias: int, *, ieee: bool, fnuz: bool) -> np.ndarray:
    """float32 values of all 256 codes: sign, exponent, mantissa.

    ``ieee``: the top exponent holds Inf and NaN. ``fnuz``: no negative zero, 0x80 is the only
    NaN. Neither: no Inf, and all ones is NaN ("fn"). Source: OCP 8-bit Floating Point
    Specification 1.0, section 5; for fnuz Noune et al. 2022, arXiv:2206.02915.
    """
    code = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent = (code & 0x7F) >> mantissa_bits
    fraction = (code & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    subnormal = exponent == 0
    power = np.where(subnormal, 1, exponent) - bias
    value = np.ldexp(np.where(subnormal, fraction, 1 + fraction), power)
    value = np.where(code & 0x80, -value, value)
    if ieee:
        top = exponent == (1 << exponent_bits) - 1
        value = np.where(top, np.where(fraction == 0, np.copysign(np.inf, value), np.nan), value)
    elif fnuz:
        value[0x80] = np.nan
    else:
        value[[0x7F, 0xFF]] = np.nan
    return value.astype(np.float32)


_E4M3 = _float8_table(4, 7, ieee=False, fnuz=False)
_E5M2 = _float8_table(5, 15, ieee=True, fnuz=False)
_E4M3_FNUZ = _float8_table(4, 8, ieee=False, fnuz=True)
_E5M2_FNUZ = _float8_table(5, 16, ieee=False, fnuz=True)
_E8M0 = np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan).astype(np.float32)


def _table(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Decoding by table: one float32 per code."""
    return lambda codes: values[codes]


def _number(word: str, codes: str) -> StorageType:
    return StorageType(word=word, codes=np.dtype(codes))


def _refused(word: str, codes: str, why: str) -> StorageType:
    return StorageType(word=word, codes=np.dtype(codes), unsupported=why)


def _integer(word: str, codes: str) -> StorageType:
    return _refused(word, codes, f"holds integers ({word}), not weights")


def _float8(word: str, values: np.ndarray) -> StorageType:
    return StorageType(word=word, codes=np.dtype("u1"), decode=_table(values))


_TYPES: dict[str, StorageType] = {
    "F64": _number("float64", "<f8"),
    "F32": _number("float32", "<f4"),
    "F16": _number("float16", "<f2"),
    "BF16": StorageType(word="bfloat16", codes=np.dtype("<u2"), decode=decode_bfloat16),
    "F8_E4M3": _float8("float8_e4m3fn", _E4M3),
    "F8_E5M2": _float8("float8_e5m2", _E5M2),
    "F8_E4M3FNUZ": _float8("float8_e4m3fnuz", _E4M3_FNUZ),
    "F8_E5M2FNUZ": _float8("float8_e5m2fnuz", _E5M2_FNUZ),
    "F8_E8M0": _float8("float8_e8m0fnu", _E8M0),
    "I64": _integer("int64", "<i8"),
    "I32": _integer("int32", "<i4"),
    "I16": _integer("int16", "<i2"),
    "I8": _integer("int8", "i1"),
    "U64": _integer("uint64", "<u8"),
    "U32": _integer("uint32", "<u4"),
    "U16": _integer("uint16", "<u2"),
    "U8": _integer("uint8", "u1"),
    "BOOL": _refused("bool", "?", "holds booleans, not weights"),
    "C64": _refused("complex64", "<c8", "complex weights are not supported"),
}

SAFETENSORS_TYPES = _TYPES
"""Storage types by the word that stands in a safetensors header."""

_BY_WORD = {x.word: x for x in _TYPES.values()} | {
    "complex128": _refused("complex128", "<c16", "complex weights are not supported")
}
