"""Packed formats of integers in groups, most in 32-bit words, and those only recognised.

Rules as in :mod:`frog.weights.packed_bytes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from frog.weights import dequantise
from frog.weights.folding import Folded, Names, Settings, floats, fold, refuse
from frog.weights.stored import StoredTensor

_SCALES = re.compile(r"(.*_)?(scales?|zeros?|zero_points?|codebooks?|biases|absmax|s)")
"""Last names of what accompanies codes of any kind."""

_TORCHAO = (
    "scale", "zero_point", "scale_and_zero", "act_pre_scale", "act_quant_scale",
    "act_quant_zero_point", "per_tensor_scale", "act_per_tensor_scale",
)  # fmt: skip
"""What accompanies codes of torchao's classes."""

_ORIGIN = "use the checkpoint it was made from"


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
    """compressed-tensors "pack-quantized", 1 to 8 bits without gaps, with or without zeros."""
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
    named = _config_bits(settings, name.rpartition(".")[0])
    fitting = _fitting(named, n, tensor.shape[1], dense=_is_dense(settings))
    groups = scale.shape[1] if scale and len(scale.shape) == 2 and scale.shape[0] == m else 0
    if len(fitting) != 1 or not groups or n % groups or m < 1 or tensor.shape[0] != m:
        why = "its shapes do not tell one width of 1 to 8 bits without gaps between codes"
        return refuse(tensor, used, format, f"{why}; {_ORIGIN}")
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


def _config_bits(settings: Settings, module: str) -> list[int]:
    """The width that the config gives for the module by name, else all that it gives at all.

    Without any, those that divide a word.
    """
    groups = settings.get("config_groups")
    named: list[int] = []
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
        if not isinstance(bits, int) or not 1 <= bits <= 8:
            continue
        targets = group.get("targets")
        if isinstance(targets, list) and module in targets:
            return [bits]
        named.append(bits)
    return sorted(set(named)) or [2, 4, 8]


def _is_dense(settings: Settings) -> bool:
    """Whether the version that wrote the file is known to leave no gaps between codes."""
    found = re.match(r"(\d+)\.(\d+)", str(settings.get("version")))
    return found is not None and (int(found[1]), int(found[2])) >= (0, 20)


def _fitting(widths: Sequence[int], inputs: int, words: int, *, dense: bool) -> list[int]:
    """The widths at which a row of codes without gaps takes that many words.

    Older versions began each word with a new code, so that 3, 5, 6 and 7 bits left gaps. None
    fits where ``dense`` is not known and such a row would take as many words.
    """

    def gaps(bits: int) -> bool:
        held = 32 // bits
        return 32 % bits != 0 and inputs > held and -(-inputs // held) == words

    if not dense and any(map(gaps, widths)):
        return []
    return [bits for bits in widths if -(-inputs * bits // 32) == words]


def torchao(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """torchao's integers in a byte each with a scale and a zero point per group of inputs.

    ``IntxUnpackedToInt8Tensor`` at any width. The values of its other classes are refused.
    """
    del settings
    found = re.fullmatch(r"(.*\.)?_(\w+)_qdata", tensor.name)
    if found is None:
        return None
    module, last = found[1] or "", found[2]
    prefix = f"{module}_{last}_"
    used = tuple(prefix + x for x in _TORCHAO if prefix + x in names)
    scale, zeros = names.get(prefix + "scale"), names.get(prefix + "zero_point")
    if not used:
        return None
    only = f"only integers in a byte each with scales and zero points are supported; {_ORIGIN}"
    if scale is None or zeros is None or len(used) != 2 or scale.unsupported:
        return refuse(tensor, used, "torchao", only)
    if (tensor.dtype, zeros.dtype) != ("int8", "int8") or len(tensor.shape) != 2:
        return refuse(tensor, used, "torchao", only)
    m, n = tensor.shape
    groups = scale.shape[1] if len(scale.shape) == 2 and scale.shape[0] == m else 0
    if not groups or n % groups or zeros.shape != scale.shape:
        why = f"scales of shape {scale.shape} and zeros of {zeros.shape} do not fit {(m, n)}"
        return refuse(tensor, used, "torchao", f"{why}; {_ORIGIN}")

    def unpack(part: int | slice) -> np.ndarray:
        return dequantise.grouped_integers(tensor.codes(), zeros.codes(), floats(scale))[part]

    return fold(tensor, module + last, (m, n), "int8", used, "torchao", unpack)


def mlx(tensor: StoredTensor, names: Names, settings: Settings) -> Folded | None:
    """MLX's affine quantisation: recognised so that its scales are not taken for weights."""
    del settings
    module = tensor.name.removesuffix("weight")
    used = tuple(module + p for p in ("scales", "biases") if module + p in names)
    if module == tensor.name or tensor.dtype != "uint32" or not used:
        return None
    return refuse(tensor, used, "MLX affine", _ORIGIN)


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
    return (
        refuse(tensor, used, "integer codes", f"of a format that is not known; {_ORIGIN}")
        if used
        else None
    )
