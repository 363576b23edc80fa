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
compressed-tensors            X_packed, X_scale, X_shape                           int1 to int8
torchao                       M._X_qdata, M._X_scale, M._X_zero_point              int8
NVFP4                         X_packed, X_scale, X_global_scale; X, X_scale,       nvfp4
                              X_scale_2
============================  ===================================================  ===========
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from frog.weights import packed_bytes, packed_words
from frog.weights.folding import Folded, Names, Settings, refuse
from frog.weights.stored import StoredTensor

_RULES = (
    packed_bytes.bnb_four_bit,
    packed_bytes.bnb_int8,
    packed_bytes.float8_or_int8,
    packed_bytes.mxfp4_experts,
    packed_bytes.nvfp4,
    packed_words.gptq_or_awq,
    packed_words.compressed_tensors,
    packed_words.torchao,
    packed_words.mlx,
)


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
    folded |= _unknown(tensors, folded, settings)
    owner = _owners(folded)
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


def _unknown(
    tensors: Sequence[StoredTensor], folded: Mapping[str, Folded], settings: Settings
) -> dict[str, Folded]:
    """Groups of codes and scales that no format claimed, module by module."""
    owner = _owners(folded)
    modules: dict[str, dict[str, StoredTensor]] = {}
    for tensor in tensors:
        if tensor.name not in owner and tensor.name not in folded:
            modules.setdefault(tensor.name.rpartition(".")[0], {})[tensor.name] = tensor
    found: dict[str, Folded] = {}
    for siblings in modules.values():
        for tensor in siblings.values():
            group = packed_words.unknown(tensor, siblings, settings)
            if group is not None:
                found[tensor.name] = group
    return found


def _owners(folded: Mapping[str, Folded]) -> dict[str, str]:
    """Name of a sibling -> name of the packed tensor that it belongs to."""
    return {used: key for key, found in folded.items() for used in found.used}


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
        if found is None:
            continue
        taken = found.tensor.name
        if taken != tensor.name and taken in names:
            return refuse(tensor, found.used, found.format, f"there is a tensor {taken} too")
        return found
    return None
