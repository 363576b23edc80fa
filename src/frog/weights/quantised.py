"""Packed tensors become the weights that they stand for.

A packed weight is a tensor of codes with siblings that hold scales, zeros and shapes. It is
recognised by the names and shapes of the siblings and becomes one tensor with its logical name
and shape, unpacked in float32 when it is asked for. A format that is not known stays refused:
integer codes are never measured as weights.

============================  ===================================================  ===========
format                        stored as                                            ``dtype``
============================  ===================================================  ===========
float8 with scales            X, X_scale or X_scale_inv                            float8_...
int8 with scales              X, X_scale                                           int8
bitsandbytes 8 bit            M.weight, M.SCB                                      int8
bitsandbytes 4 bit            X, X.absmax, X.quant_map, X.quant_state.*            nf4, fp4
MXFP4                         X_blocks, X_scales                                   mxfp4
GPTQ, AWQ                     M.qweight, M.qzeros, M.scales, M.g_idx               int4, ...
compressed-tensors            X_packed, X_scale, X_shape                           int4, int8
============================  ===================================================  ===========
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from frog.errors import ModelError
from frog.weights import dequantise
from frog.weights.stored import StoredTensor, as_is

Names = Mapping[str, StoredTensor]
Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedTensor(StoredTensor):
    """A packed stack (experts on axis 0): ``member(i)`` unpacks one without the others."""

    member: Callable[[int], np.ndarray] = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True)
class Folded:
    """What a packed tensor stands for, and the names that went into it."""

    tensor: StoredTensor
    used: tuple[str, ...]
    format: str


def fold_quantised(
    tensors: Sequence[StoredTensor], config: Mapping[str, Any] | None
) -> tuple[tuple[StoredTensor, ...], tuple[str, ...]]:
    """Tensors with every packed group replaced by one tensor, and a note for each format."""
    names = {x.name: x for x in tensors}
    settings = (config or {}).get("quantization_config")
    settings = settings if isinstance(settings, Mapping) else {}
    folded: dict[str, Folded] = {}
    for tensor in tensors:
        found = _recognise(tensor, names, settings)
        if found is not None:
            folded[tensor.name] = found
    owner = {used: key for key, found in folded.items() for used in found.used}
    result: list[StoredTensor] = []
    for tensor in tensors:
        if tensor.name in folded:
            result.append(folded[tensor.name].tensor)
        elif tensor.name not in owner:
            result.append(tensor)
        elif folded[owner[tensor.name]].tensor.unsupported:
            why = f"belongs to the packed tensor {owner[tensor.name]}"
            result.append(dataclasses.replace(tensor, unsupported=why))
    return tuple(result), _notes(folded)


def _notes(folded: Mapping[str, Folded]) -> tuple[str, ...]:
    counts: dict[tuple[str, bool], int] = {}
    for found in folded.values():
        key = found.format, found.tensor.unsupported is None
        counts[key] = counts.get(key, 0) + 1
    return tuple(
        f"{n} tensors are packed as {name}: " + ("measured as unpacked" if ok else "not supported")
        for (name, ok), n in counts.items()
    )


def _recognise(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """The first format whose siblings are there; None for a tensor that is not packed."""
    for rule in _RULES:
        found = rule(tensor, names, settings)
        if found is not None:
            return found
    return None


# ------------------------------------------------------------------ one scale, many codes


def _scaled(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
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
        return _refuse(tensor, used, format, f"scales of shape {scale.shape} do not fit")
    if zero in names:
        return _refuse(tensor, used, format, "zero points are not supported")
    decode = tensor.decode  # int8: as_is gives the integers themselves

    def member(part: int | slice) -> np.ndarray:
        factor = _floats(scale)
        if factor.size == 1:
            factor = factor.reshape((1,) * len(tensor.shape))
        elif isinstance(part, int) and factor.shape[0] != 1:
            factor = factor[part // blocks[0]][None]
        rows = slice(part, part + 1) if isinstance(part, int) else part
        values = np.array(decode(tensor.codes()[rows]), np.float32)
        return dequantise.scaled(values, factor, blocks)

    return _fold(tensor, tensor.name, tensor.shape, tensor.dtype, used, format, member)


def _bnb_int8(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
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
        return _refuse(tensor, used, format, "only the row layout is supported")
    if len(tensor.shape) != 2 or names[scb].shape != tensor.shape[:1]:
        return _refuse(tensor, used, format, f"SCB of shape {names[scb].shape} does not fit")

    def unpack(part: int | slice) -> np.ndarray:
        values = tensor.codes()[part].astype(np.float32)
        values *= _floats(names[scb])[part, None] / np.float32(127)
        return values

    return _fold(tensor, tensor.name, tensor.shape, "int8", used, format, unpack)


# ---------------------------------------------------------------------------- four bits


def _bnb_four_bit(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
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
        return _refuse(tensor, used, format, "its quantisation state is incomplete or damaged")

    def unpack(part: int | slice) -> np.ndarray:
        if nested:
            code, top = _floats(at["nested_quant_map"]), _floats(at["nested_absmax"])
            codes = at["absmax"].codes().ravel()
            absmax = dequantise.nested_absmax(codes, code.ravel(), top.ravel(), nested, offset)
        else:
            absmax = _floats(at["absmax"]).ravel()
        # The codes may be stored under any type (bnb_4bit_quant_storage): bytes are bytes.
        packed = np.ascontiguousarray(tensor.codes()).reshape(-1).view(np.uint8)
        code = _floats(at["quant_map"]).ravel()
        count = math.prod(shape)
        return dequantise.four_bit(packed, code, absmax, blocksize, count).reshape(shape)[part]

    return _fold(tensor, tensor.name, shape, kind, used, format, unpack)


def _mxfp4(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """MXFP4 as GPT-OSS stores it: rows are outputs on disk, inputs in the logical tensor."""
    del settings
    name = tensor.name.removesuffix("_blocks")
    scales = names.get(name + "_scales")
    if name == tensor.name or scales is None or tensor.dtype != "uint8":
        return None
    if len(tensor.shape) != 4 or tensor.shape[3] != 16 or scales.shape != tensor.shape[:3]:
        return _refuse(
            tensor, (scales.name,), "MXFP4", f"scales of shape {scales.shape} do not fit"
        )
    if scales.dtype not in ("uint8", "float8_e8m0fnu"):
        return _refuse(tensor, (scales.name,), "MXFP4", f"scales of type {scales.dtype}")
    experts, rows, groups, _ = tensor.shape
    shape = (experts, groups * 32, rows)

    def member(part: int | slice) -> np.ndarray:
        part = slice(part, part + 1) if isinstance(part, int) else part
        values = dequantise.mxfp4(tensor.codes()[part], scales.codes()[part])
        return values.transpose(0, 2, 1)

    return _fold(tensor, name, shape, "mxfp4", (scales.name,), "MXFP4", member)


def _gptq_or_awq(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """GPTQ packs along the inputs, AWQ along the outputs: the shapes tell which it is."""
    module = tensor.name.removesuffix("qweight")
    at = {p: names.get(module + p) for p in ("qzeros", "scales", "g_idx")}
    if module == tensor.name or tensor.dtype not in ("int32", "uint32") or at["scales"] is None:
        return None
    used = tuple(x.name for x in at.values() if x is not None)
    zeros, scales, order = at["qzeros"], at["scales"], at["g_idx"]
    if zeros is None or len(scales.shape) != 2 or len(tensor.shape) != 2 or scales.unsupported:
        return _refuse(tensor, used, "GPTQ or AWQ", "its scales or zeros are missing or misshapen")
    groups, m = scales.shape
    if tensor.shape[1] == m and m > 0:
        return _gptq(tensor, (zeros, scales, order), used, settings)
    awq_shapes = tensor.shape[1] * 8 == m and zeros.shape == (groups, m // 8)
    n = tensor.shape[0]
    if not awq_shapes or settings.get("version", "gemm") != "gemm" or not groups or n % groups:
        return _refuse(tensor, used, "GPTQ or AWQ", "shapes fit neither GPTQ nor AWQ (gemm)")

    def unpack(part: int | slice) -> np.ndarray:
        return dequantise.awq(tensor.codes(), zeros.codes(), _floats(scales))[part]

    return _fold(tensor, module + "weight", (m, n), "int4", used, "AWQ", unpack)


def _gptq(
    tensor: StoredTensor,
    siblings: tuple[StoredTensor, StoredTensor, StoredTensor | None],
    used: tuple[str, ...],
    settings: Settings,
) -> Folded:
    zeros, scales, order = siblings
    groups, m = scales.shape
    # Without g_idx the number of inputs follows from the width of a code.
    bits = settings.get("bits", 4)
    bits = 32 * tensor.shape[0] // max(1, order.params) if order is not None else bits
    if bits not in (2, 4, 8) or zeros.shape != (groups, m * bits // 32) or not groups:
        return _refuse(tensor, used, "GPTQ", f"{bits} bits or its shapes are not supported")
    n = tensor.shape[0] * 32 // bits
    if order is None and n % groups:
        return _refuse(tensor, used, "GPTQ", f"{n} inputs do not divide into {groups} groups")
    plus = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1

    def unpack(part: int | slice) -> np.ndarray:
        run = np.arange(n) // (n // groups) if order is None else order.codes().ravel()
        words, zero_words = tensor.codes(), zeros.codes()
        return dequantise.gptq(words, zero_words, _floats(scales), run, plus)[part]

    name = tensor.name.removesuffix("qweight") + "weight"
    return _fold(tensor, name, (m, n), f"int{bits}", used, "GPTQ", unpack)


def _compressed(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """compressed-tensors "pack-quantized", 2, 4 or 8 bits, with or without zeros."""
    name = tensor.name.removesuffix("_packed")
    parts = ("scale", "shape", "zero_point", "g_idx", "global_scale")
    at = {p: names[f"{name}_{p}"] for p in parts if f"{name}_{p}" in names}
    if name == tensor.name or "scale" not in at:
        return None
    used = tuple(x.name for x in at.values())
    format = "compressed-tensors"
    scale, logical, zeros, order = (at.get(p) for p in ("scale", "shape", "zero_point", "g_idx"))
    integers = tensor.dtype == "int32" and len(tensor.shape) == 2
    if not integers or logical is None or logical.params != 2 or "global_scale" in at:
        return _refuse(tensor, used, format, "only pack-quantized integers are supported")
    m, n = (int(x) for x in logical.codes().ravel())
    fitting = [b for b in _config_bits(settings) if -(-n * b // 32) == tensor.shape[1]]
    groups = scale.shape[1] if scale and len(scale.shape) == 2 and scale.shape[0] == m else 0
    if len(fitting) != 1 or not groups or n % groups or m < 1 or tensor.shape[0] != m:
        return _refuse(tensor, used, format, "its shapes are not those of 2, 4 or 8 bits")
    bits = fitting[0]
    if order is not None and order.params != n:
        return _refuse(tensor, used, format, f"g_idx has {order.params} entries for {n} inputs")
    if zeros is not None and zeros.shape != (-(-m * bits // 32), groups):
        return _refuse(tensor, used, format, f"zeros of shape {zeros.shape} do not fit")

    def unpack(part: int | slice) -> np.ndarray:
        group = np.arange(n) // (n // groups) if order is None else order.codes().ravel()
        zero_words = None if zeros is None else zeros.codes()
        factor = _floats(at["scale"])
        return dequantise.packed_integers(tensor.codes(), zero_words, factor, bits, group)[part]

    return _fold(tensor, name, (m, n), f"int{bits}", used, format, unpack)


def _config_bits(settings: Settings) -> list[int]:
    """The widths of weights that a compressed-tensors config names, else all that fit a word."""
    groups = settings.get("config_groups")
    weights = (
        [g.get("weights") for g in groups.values() if isinstance(g, Mapping)]
        if (isinstance(groups, Mapping))
        else []
    )
    named = {w.get("num_bits") for w in weights if isinstance(w, Mapping)}
    return [b for b in (2, 4, 8) if not named or b in named]


def _mlx(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """MLX's affine quantisation: recognised so that its scales are not taken for weights."""
    del settings
    module = tensor.name.removesuffix("weight")
    used = tuple(module + p for p in ("scales", "biases") if module + p in names)
    if module == tensor.name or tensor.dtype != "uint32" or not used:
        return None
    return _refuse(tensor, used, "MLX affine", "use the checkpoint it was made from")


_RULES = (_bnb_four_bit, _bnb_int8, _scaled, _mxfp4, _gptq_or_awq, _compressed, _mlx)


# --------------------------------------------------------------------------- the results


def _fold(
    tensor: StoredTensor,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    used: tuple[str, ...],
    format: str,
    unpack: Callable[[Any], np.ndarray],
) -> Folded:
    """The unpacked tensor; a stack (3-D) can also be unpacked member by member."""

    def guarded(part: int | slice) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):  # NaN and Inf are counted by who measures
                return unpack(part)
        except (IndexError, ValueError) as error:
            raise ModelError(
                f"{name}: its packed data ({format}) contradict each other ({error}); "
                "download or save the model again"
            ) from error

    fields: dict[str, Any] = {
        "name": name,
        "shape": shape,
        "dtype": dtype,
        "codes": lambda: guarded(slice(None)),
        "decode": as_is,
        "aliases": tensor.aliases,
        "owner": tensor.owner,
    }
    if len(shape) == 3:
        return Folded(StackedTensor(**fields, member=lambda i: guarded(i)[0]), used, format)
    return Folded(StoredTensor(**fields), used, format)


def _refuse(tensor: StoredTensor, used: tuple[str, ...], format: str, why: str) -> Folded:
    """The codes as they are, marked as not measurable."""
    reason = f"packed as {format}: {why}"
    return Folded(dataclasses.replace(tensor, unsupported=reason), used, format)


def _floats(tensor: StoredTensor) -> np.ndarray:
    return np.asarray(tensor.decode(tensor.codes()), np.float32)


def _block_size(value: object) -> tuple[int, ...]:
    """A block size from a config where it is two positive integers, else the usual one."""
    if isinstance(value, list | tuple) and len(value) == 2:
        sizes = tuple(x for x in value if isinstance(x, int) and x > 0)
        if len(sizes) == 2:
            return sizes
    return 128, 128
