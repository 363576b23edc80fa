"""Arithmetic of packed weights: codes and scales in, float32 out. No names, no files.

The layouts are those in which the formats are stored; each function says which.
"""

from __future__ import annotations

import math

import numpy as np

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FP4_VALUES = np.concatenate([_E2M1, -_E2M1])
"""Values of the 16 codes of E2M1 (OCP Microscaling Formats 1.0, section 5.3.3)."""

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring columns lies in nibble 0, 1, ... of a word of AWQ."""


def scaled(values: np.ndarray, scale: np.ndarray, blocks: tuple[int, ...]) -> np.ndarray:
    """``values`` (float32, changed in place) times a scale per tensor, row, column or block.

    ``blocks[a]`` is the number of entries along axis a that share a scale, the last block may
    be shorter: see :func:`scale_blocks`.
    """
    scale = scale.reshape(scale.shape + (1,) * (values.ndim - scale.ndim))
    for axis in range(1, values.ndim):
        if scale.shape[axis] != 1:
            scale = np.repeat(scale, blocks[axis], axis=axis)
            scale = scale[(slice(None),) * axis + (slice(values.shape[axis]),)]
    if blocks[0] == 1 or scale.shape[0] == 1:
        values *= scale
        return values
    # By blocks of rows: a scale for every entry would be an array as large as the values.
    for i in range(scale.shape[0]):
        values[i * blocks[0] : (i + 1) * blocks[0]] *= scale[i]
    return values


def scale_blocks(
    shape: tuple[int, ...], scale: tuple[int, ...], block: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Entries per scale along each axis for shapes of values and scale; None if none fit.

    ``block`` is the nominal size along the last axes (128, 128); where the number of scales is
    another, blocks are of equal size.

    >>> scale_blocks((256, 300), (2, 3), (128, 128))
    (128, 128)
    >>> scale_blocks((256, 300), (256, 1), (128, 128))
    (1, 300)
    """
    if math.prod(scale) == 1:
        return shape
    if len(scale) > len(shape):
        return None
    scale = scale + (1,) * (len(shape) - len(scale))
    block = (1,) * (len(shape) - len(block)) + block
    found = []
    for size, count, nominal in zip(shape, scale, block[-len(shape) :], strict=True):
        if count == 1:
            found.append(size)
        elif count == size:
            found.append(1)
        elif count == -(-size // nominal):
            found.append(nominal)
        elif count and size % count == 0:
            found.append(size // count)
        else:
            return None
    return tuple(found)


def unpack_words(words: np.ndarray, bits: int) -> np.ndarray:
    """(..., p) 32-bit words -> (..., p * 32 // bits) unsigned codes, lowest bits first.

    Codes lie without gaps: where ``bits`` does not divide 32, some begin in one word and end in
    the next.

    >>> unpack_words(np.array([0b101_001_011]), 3)[:3].tolist()
    [3, 1, 5]
    """
    common = math.gcd(bits, 32)
    period, count = bits // common, 32 // common  # words after which codes begin a word again
    lead, length = words.shape[:-1], words.shape[-1]
    rest = [(0, 0)] * len(lead) + [(0, -length % period)]
    padded = np.pad(words.astype(np.uint32), rest)
    runs = padded.reshape(*lead, padded.shape[-1] // period, period)
    codes = np.empty((*runs.shape[:-1], count), np.uint8)
    for i in range(count):
        word, start = divmod(i * bits, 32)
        code = runs[..., word] >> np.uint32(start)
        if start + bits > 32:
            code |= runs[..., word + 1] << np.uint32(32 - start)
        codes[..., i] = code & np.uint32((1 << bits) - 1)
    return codes.reshape(*lead, runs.shape[-2] * count)[..., : length * 32 // bits]


def mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """(..., g, 16) bytes and (..., g) exponents -> (..., g * 32) float32.

    Two E2M1 codes in a byte, the low nibble first; each 32 share the scale 2**(code - 127).
    """
    values = _pairs(FP4_VALUES, high_first=False)[blocks]  # (..., g, 16, 2)
    exponent = scales.astype(np.int32)[..., None, None] - 127
    return np.ldexp(values, exponent, out=values).reshape(*scales.shape[:-1], -1)


def fp4(packed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(m, n / 2) bytes and (m, g) scales -> (m, n) float32, the low nibble first."""
    values = _pairs(FP4_VALUES, high_first=False)[packed].reshape(*scale.shape, -1)
    values *= scale[..., None]
    return values.reshape(packed.shape[0], -1)


def four_bit(
    packed: np.ndarray, code: np.ndarray, absmax: np.ndarray, blocksize: int, count: int
) -> np.ndarray:
    """bitsandbytes' nf4 and fp4: bytes -> (count,) float32.

    Two codes in a byte, the high nibble first; ``code`` (16,) holds their values, ``absmax``
    the scale of each run of ``blocksize`` entries. Source: Dettmers et al. 2023,
    arXiv:2305.14314, section 3.
    """
    values = _pairs(code, high_first=True)[packed].reshape(-1)[:count]
    whole = count // blocksize * blocksize
    values[:whole].reshape(-1, blocksize)[...] *= absmax[: count // blocksize, None]
    if whole < count:
        values[whole:] *= absmax[count // blocksize]
    return values


def nested_absmax(
    codes: np.ndarray, code: np.ndarray, absmax: np.ndarray, blocksize: int, offset: float
) -> np.ndarray:
    """bitsandbytes' double quantisation: 8-bit codes of absmax -> float32, same shape."""
    scale = np.repeat(absmax, blocksize)[: codes.size]
    return (code[codes] * scale + np.float32(offset)).astype(np.float32)


def gptq(
    words: np.ndarray, zeros: np.ndarray, scales: np.ndarray, group: np.ndarray, plus: int
) -> np.ndarray:
    """GPTQ: words (n / p, m), zeros (g, m / p), scales (g, m), group (n,) -> (m, n) float32.

    W[o, i] = scale[group[i], o] * (code[i, o] - zero[group[i], o]). Codes run along the inputs;
    zeros are stored less ``plus`` (1 in the first version of the format, 0 in "gptq_v2").
    Source of the method: Frantar et al. 2022, arXiv:2210.17323.
    """
    bits = 32 * words.shape[0] // group.size
    code_mn = unpack_words(words.T, bits)
    # A zero of 0 is stored as all ones; without the mask it would come back as 2**bits.
    zero_gm = (unpack_words(zeros, bits) + np.uint8(plus)) & np.uint8((1 << bits) - 1)
    zero_mg = zero_gm.T.astype(np.float32)
    return _grouped(code_mn.astype(np.float32), scales.T, zero_mg, group)


def awq(words: np.ndarray, zeros: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """AWQ, 4 bits ("gemm"): words (n, m / 8), zeros (g, m / 8), scales (g, m) -> (m, n) float32.

    Codes run along the outputs in the order of :data:`AWQ_ORDER`.
    Source of the method: Lin et al. 2023, arXiv:2306.00978.
    """
    code_mn = _awq_columns(words).T.astype(np.float32)
    zero_mg = _awq_columns(zeros).T.astype(np.float32)
    n, groups = words.shape[0], scales.shape[0]
    return _grouped(code_mn, scales.T, zero_mg, np.arange(n) // (n // groups))


def packed_integers(
    words: np.ndarray, zeros: np.ndarray | None, scale: np.ndarray, bits: int, group: np.ndarray
) -> np.ndarray:
    """compressed-tensors: words (m, n / p), zeros (m / p, g), scale (m, g) -> (m, n) float32.

    p is 32 / ``bits``, ``group`` (n,) the group of each input. Signed codes are stored plus
    2**(bits - 1), those of weights along the inputs, those of zeros along the outputs, the last
    word padded.
    """
    m, groups = scale.shape
    code_mn = unpack_words(words, bits)[:, : group.size].astype(np.float32)
    # Both carry the same offset, so it drops out of code - zero; symmetric means a zero of 0.
    zero_mg = np.full((m, groups), 1 << (bits - 1), np.float32)
    if zeros is not None:
        zero_mg = unpack_words(zeros.T, bits)[:, :m].T.astype(np.float32)
    return _grouped(code_mn, scale, zero_mg, group)


def grouped_integers(codes: np.ndarray, zeros: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """torchao: signed codes (m, n), zeros (m, g) and scale (m, g) -> (m, n) float32."""
    n, groups = codes.shape[1], scale.shape[1]
    group = np.arange(n) // (n // groups)
    return _grouped(codes.astype(np.float32), scale, zeros.astype(np.float32), group)


def _grouped(
    code_mn: np.ndarray, scale_mg: np.ndarray, zero_mg: np.ndarray, group_n: np.ndarray
) -> np.ndarray:
    """(code - zero) * scale in place, where column i has the zero and scale of ``group_n[i]``."""
    if group_n.size and not 0 <= group_n.min() <= group_n.max() < scale_mg.shape[1]:
        raise ValueError(f"group {group_n.max()} of {scale_mg.shape[1]}")
    for group in np.unique(group_n):
        columns = np.flatnonzero(group_n == group)
        pick = slice(columns[0], columns[-1] + 1) if _is_run(columns) else columns
        code_mn[:, pick] -= zero_mg[:, group, None]
        code_mn[:, pick] *= scale_mg[:, group, None]
    return code_mn


def _is_run(columns: np.ndarray) -> bool:
    return columns[-1] - columns[0] + 1 == columns.size


def _awq_columns(words: np.ndarray) -> np.ndarray:
    """Codes of AWQ in the order of the columns."""
    codes = unpack_words(words, 4).reshape(*words.shape, 8)
    return codes[..., np.argsort(AWQ_ORDER)].reshape(words.shape[0], -1)


def _pairs(values: np.ndarray, *, high_first: bool) -> np.ndarray:
    """(256, 2) values of the two nibbles of every byte."""
    byte = np.arange(256)
    high, low = values[byte >> 4], values[byte & 15]
    return np.stack([high, low] if high_first else [low, high], axis=1).astype(np.float32)
