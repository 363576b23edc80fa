"""Packed formats whose codes are bytes: float8, int8, and four bits in two nibbles.

Every rule takes a tensor, all tensors by name and the quantisation settings of the config, and
gives None where the tensor is not the first of a group of its format.
"""

from __future__ import annotations

import json
import math

import numpy as np

from frog.weights import dequantise
from frog.weights.dtypes import decode_e8m0
from frog.weights.folding import Folded, Names, Settings, floats, fold, refuse
from frog.weights.stored import StoredTensor

# ------------------------------------------------------------------ one scale, many codes


def float8_or_int8(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """float8 or int8 codes with a scale per tensor, row or block."""
    float8 = tensor.dtype.startswith("float8") and tensor.dtype != "float8_e8m0fnu"
    siblings = [n for n in (tensor.name + "_scale_inv", tensor.name + "_scale") if n in names]
    if not siblings or not (float8 or tensor.dtype == "int8"):
        return None
    scale = names[siblings[0]]
    format = f"{tensor.dtype} with scales"
    zero = tensor.name + "_zero_point"
    used = (*siblings[:1], *([zero] if zero in names else []))
    block = _block_size(settings.get("weight_block_size"))
    blocks = dequantise.scale_blocks(tensor.shape, scale.shape, block)
    if blocks is None or scale.unsupported or not tensor.shape or 0 in tensor.shape:
        return refuse(tensor, used, format, f"scales of shape {scale.shape} do not fit")
    if zero in names:
        return refuse(tensor, used, format, "zero points are not supported")
    decode = tensor.decode  # int8: as_is gives the integers themselves

    def member(part: int | slice) -> np.ndarray:
        factor = floats(scale)
        if factor.size == 1:
            factor = factor.reshape((1,) * len(tensor.shape))
        elif isinstance(part, int) and factor.shape[0] != 1:
            factor = factor[part // blocks[0]][None]
        rows = slice(part, part + 1) if isinstance(part, int) else part
        values = np.array(decode(tensor.codes()[rows]), np.float32)
        return dequantise.scaled(values, factor, blocks)

    return fold(tensor, tensor.name, tensor.shape, tensor.dtype, used, format, member)


def bnb_int8(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """bitsandbytes LLM.int8: row maxima in SCB. Source: Dettmers et al. 2022, arXiv:2208.07339."""
    del settings
    module = tensor.name.removesuffix("weight")
    scb = module + "SCB"
    if tensor.dtype != "int8" or module == tensor.name or scb not in names:
        return None
    format = "bitsandbytes int8"
    layout = names.get(module + "weight_format")
    used = tuple(x for x in (scb, module + "weight_format") if x in names)
    if layout is not None and (layout.params != 1 or layout.codes().ravel()[0] != 0):
        return refuse(tensor, used, format, "only the row layout is supported")
    if len(tensor.shape) != 2 or names[scb].shape != tensor.shape[:1]:
        return refuse(tensor, used, format, f"SCB of shape {names[scb].shape} does not fit")

    def unpack(part: int | slice) -> np.ndarray:
        values = tensor.codes()[part].astype(np.float32)
        values *= floats(names[scb])[part, None] / np.float32(127)
        return values

    return fold(tensor, tensor.name, tensor.shape, "int8", used, format, unpack)


# ---------------------------------------------------------------------------- four bits


def bnb_four_bit(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """bitsandbytes nf4 and fp4, with plain or doubly quantised scales."""
    del settings
    marks = [tensor.name + ".quant_state.bitsandbytes__" + kind for kind in ("nf4", "fp4")]
    mark = next((x for x in marks if x in names), None)
    if mark is None:
        return None
    kind = mark[-3:]
    format = f"bitsandbytes {kind}"
    parts = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
    at = {p: names[f"{tensor.name}.{p}"] for p in parts if f"{tensor.name}.{p}" in names}
    used = (mark, *(x.name for x in at.values()))
    try:
        state = json.loads(names[mark].codes().tobytes())
        shape = tuple(int(x) for x in state["shape"])
        blocksize = int(state["blocksize"])
        nested = int(state["nested_blocksize"]) if "nested_absmax" in at else 0
        offset = float(state.get("nested_offset", 0.0))
        bytes_stored = tensor.params * tensor.codes().itemsize
        runs = -(-math.prod(shape) // blocksize)
        fits = (
            at["quant_map"].params == 16
            and at["absmax"].params == runs
            and bytes_stored == -(-math.prod(shape) // 2)
            and (not nested or at["nested_absmax"].params == -(-runs // nested))
            and (not nested or at["nested_quant_map"].params == 256)
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
        fits, shape, blocksize, nested, offset = False, (), 1, 0, 0.0
    if not fits or not shape or min(shape) < 1 or (not nested and at["absmax"].unsupported):
        return refuse(tensor, used, format, "its quantisation state is incomplete or damaged")

    def unpack(part: int | slice) -> np.ndarray:
        if nested:
            code, top = floats(at["nested_quant_map"]), floats(at["nested_absmax"])
            codes = at["absmax"].codes().ravel()
            absmax = dequantise.nested_absmax(codes, code.ravel(), top.ravel(), nested, offset)
        else:
            absmax = floats(at["absmax"]).ravel()
        # The codes may be stored under any type (bnb_4bit_quant_storage): bytes are bytes.
        packed = np.ascontiguousarray(tensor.codes()).reshape(-1).view(np.uint8)
        code = floats(at["quant_map"]).ravel()
        count = math.prod(shape)
        return dequantise.four_bit(packed, code, absmax, blocksize, count).reshape(shape)[part]

    return fold(tensor, tensor.name, shape, kind, used, format, unpack)


def mxfp4_experts(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """MXFP4 as GPT-OSS stores it: rows are outputs on disk, inputs in the logical tensor."""
    del settings
    name = tensor.name.removesuffix("_blocks")
    scales = names.get(name + "_scales")
    if name == tensor.name or scales is None or tensor.dtype != "uint8":
        return None
    if len(tensor.shape) != 4 or tensor.shape[3] != 16 or scales.shape != tensor.shape[:3]:
        return refuse(tensor, (scales.name,), "MXFP4", f"scales of shape {scales.shape} do not fit")
    if scales.dtype not in ("uint8", "float8_e8m0fnu"):
        return refuse(tensor, (scales.name,), "MXFP4", f"scales of type {scales.dtype}")
    experts, rows, groups, _ = tensor.shape
    shape = (experts, groups * 32, rows)

    def member(part: int | slice) -> np.ndarray:
        part = slice(part, part + 1) if isinstance(part, int) else part
        values = dequantise.mxfp4(tensor.codes()[part], scales.codes()[part])
        return values.transpose(0, 2, 1)

    return fold(tensor, name, shape, "mxfp4", (scales.name,), "MXFP4", member)


def nvfp4(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """FP4 in blocks along the inputs: NVFP4 of compressed-tensors and of ModelOpt, 2-D MXFP4.

    NVFP4 has a float8 scale per 16 and one for the tensor, which the first divides by and the
    second multiplies with; MXFP4 has a power of two per 32 and no more.
    """
    del settings
    name = tensor.name.removesuffix("_packed")
    scale = names.get(name + "_scale")
    if tensor.dtype != "uint8" or scale is None or len(tensor.shape) != 2:
        return None
    divided, times = names.get(name + "_global_scale"), names.get(name + "_scale_2")
    format = "NVFP4" if divided or times else "MXFP4"
    top = divided or times
    used = (scale.name, *((top.name,) if top else ()))
    m, n = tensor.shape[0], tensor.shape[1] * 2
    size = 16 if top else 32
    fits = scale.shape == (m, n // size) and n % size == 0 and m > 0
    kinds = ("float8_e4m3fn",) if top else ("uint8", "float8_e8m0fnu")
    if not fits or scale.dtype not in kinds or (top and (top.params != 1 or top.unsupported)):
        return refuse(tensor, used, "FP4", f"scales {scale.dtype} {scale.shape} do not fit")

    def unpack(part: int | slice) -> np.ndarray:
        if top is None:
            factor = decode_e8m0(scale.codes().view(np.uint8))
        else:
            whole = floats(top).reshape(())
            factor = floats(scale) / whole if top is divided else floats(scale) * whole
        return dequantise.fp4(tensor.codes(), factor)[part]

    return fold(tensor, name, (m, n), format.lower(), used, format, unpack)


def _block_size(value: object) -> tuple[int, ...]:
    """A block size from a config where it is two positive integers, else the usual one."""
    if isinstance(value, list | tuple) and len(value) == 2:
        sizes = tuple(x for x in value if isinstance(x, int) and x > 0)
        if len(sizes) == 2:
            return sizes
    return 128, 128
