"""Packed formats whose codes lie in 32-bit words, and those that are only recognised.

Rules as in :mod:`frog.weights.packed_bytes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from frog.weights import dequantise
from frog.weights.folding import Folded, Names, Settings, floats, fold, refuse
from frog.weights.stored import StoredTensor

_SCALES = re.compile(r"(.*_)?(scales?|zeros?|zero_points?|codebooks?|biases|absmax|s)")
"""Last names of what accompanies codes of any kind."""


def gptq_or_awq(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """GPTQ packs along the inputs, AWQ along the outputs: the shapes tell which it is."""
    module = tensor.name.removesuffix("qweight")
    at = {p: names.get(module + p) for p in ("qzeros", "scales", "g_idx")}
    if module == tensor.name or tensor.dtype not in ("int32", "uint32") or at["scales"] is None:
        return None
    used = tuple(x.name for x in at.values() if x is not None)
    zeros, scales, order = at["qzeros"], at["scales"], at["g_idx"]
    if zeros is None or len(scales.shape) != 2 or len(tensor.shape) != 2 or scales.unsupported:
        return refuse(tensor, used, "GPTQ or AWQ", "its scales or zeros are missing or misshapen")
    groups, m = scales.shape
    if tensor.shape[1] == m and m > 0:
        return _gptq(tensor, (zeros, scales, order), used, settings)
    awq_shapes = tensor.shape[1] * 8 == m and zeros.shape == (groups, m // 8)
    n = tensor.shape[0]
    if not awq_shapes or settings.get("version", "gemm") != "gemm" or not groups or n % groups:
        return refuse(tensor, used, "GPTQ or AWQ", "shapes fit neither GPTQ nor AWQ (gemm)")

    def unpack(part: int | slice) -> np.ndarray:
        return dequantise.awq(tensor.codes(), zeros.codes(), floats(scales))[part]

    return fold(tensor, module + "weight", (m, n), "int4", used, "AWQ", unpack)


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
        return refuse(tensor, used, "GPTQ", f"{bits} bits or its shapes are not supported")
    n = tensor.shape[0] * 32 // bits
    if order is None and n % groups:
        return refuse(tensor, used, "GPTQ", f"{n} inputs do not divide into {groups} groups")
    plus = 0 if settings.get("checkpoint_format") == "gptq_v2" else 1

    def unpack(part: int | slice) -> np.ndarray:
        run = np.arange(n) // (n // groups) if order is None else order.codes().ravel()
        words, zero_words = tensor.codes(), zeros.codes()
        return dequantise.gptq(words, zero_words, floats(scales), run, plus)[part]

    name = tensor.name.removesuffix("qweight") + "weight"
    return fold(tensor, name, (m, n), f"int{bits}", used, "GPTQ", unpack)


def compressed_tensors(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
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
        return refuse(tensor, used, format, "only pack-quantized integers are supported")
    m, n = (int(x) for x in logical.codes().ravel())
    fitting = [b for b in _config_bits(settings) if -(-n * b // 32) == tensor.shape[1]]
    groups = scale.shape[1] if scale and len(scale.shape) == 2 and scale.shape[0] == m else 0
    if len(fitting) != 1 or not groups or n % groups or m < 1 or tensor.shape[0] != m:
        return refuse(tensor, used, format, "its shapes are not those of 2, 4 or 8 bits")
    bits = fitting[0]
    if order is not None and order.params != n:
        return refuse(tensor, used, format, f"g_idx has {order.params} entries for {n} inputs")
    if zeros is not None and zeros.shape != (-(-m * bits // 32), groups):
        return refuse(tensor, used, format, f"zeros of shape {zeros.shape} do not fit")

    def unpack(part: int | slice) -> np.ndarray:
        group = np.arange(n) // (n // groups) if order is None else order.codes().ravel()
        zero_words = None if zeros is None else zeros.codes()
        factor = floats(at["scale"])
        return dequantise.packed_integers(tensor.codes(), zero_words, factor, bits, group)[part]

    return fold(tensor, name, (m, n), f"int{bits}", used, format, unpack)


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


def mlx(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """MLX's affine quantisation: recognised so that its scales are not taken for weights."""
    del settings
    module = tensor.name.removesuffix("weight")
    used = tuple(module + p for p in ("scales", "biases") if module + p in names)
    if module == tensor.name or tensor.dtype != "uint32" or not used:
        return None
    return refuse(tensor, used, "MLX affine", "use the checkpoint it was made from")


def unknown(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """Integer codes with scales beside them, of no format above: their scales are no weights."""
    del settings
    packed = re.fullmatch(r"u?int(8|16|32)", tensor.dtype) and len(tensor.shape) > 1
    module = tensor.name.rpartition(".")[0] + "."
    if not packed or module == ".":
        return None
    used = tuple(
        name
        for name, x in names.items()
        if name.startswith(module) and x is not tensor and _SCALES.fullmatch(name[len(module) :])
    )
    return refuse(tensor, used, "integer codes", "of a format that is not known") if used else None
