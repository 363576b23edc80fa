"""torchao, ``IntxWeightOnlyConfig`` by layer: tensors that torchao can compute and export with.

Of a weight (m, n): ``_weight_qdata`` (m, n) int8 at every width, so that files never get below
8 bits a weight; ``_weight_scale`` (m, groups) in the type of the weights and ``_weight_zero_point``
(m, groups) int8. Source of the format: torchao 0.18, ``IntxUnpackedToInt8Tensor`` and
``flatten_tensor_state_dict``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from frog.compression.formats import CheckpointFormat, Stored
from frog.numerics.rounding import Rounded, Rounding


class TorchAO(CheckpointFormat):
    """The numbers of few bits, in files of 8 bits a weight."""

    name = "torchao"
    meaning = "for torchao's kernels and torch.export: files of 8 bits a weight at any width"
    package = "torchao"

    def store(self, module: str, rounded: Rounded, how: Rounding) -> Stored:
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
        from torchao.quantization import IntxUnpackedToInt8Tensor

        zeros = (
            torch.zeros(rounded.scales.shape, dtype=torch.int8)
            if rounded.zeros is None
            else _signed(rounded.zeros, how)
        )
        made: Any = IntxUnpackedToInt8Tensor(
            qdata=_signed(rounded.codes, how),
            scale=rounded.scales,
            zero_point=zeros,
            target_dtype=_dtype(how),
            block_size=(1, rounded.group),
            dtype=rounded.scales.dtype,
            activation_quantization=None,
        )
        name = f"{module}.weight"
        tensors, metadata = flatten_tensor_state_dict({name: made})
        return Stored(tensors=tensors, metadata={name: metadata[name]})

    def config(self, widths: Mapping[str, Rounding], kept: Sequence[str]) -> dict[str, Any]:
        from torchao.quantization import FqnToConfig
        from transformers import TorchAoConfig

        by_name = OrderedDict((module, intx_config(how)) for module, how in widths.items())
        made = TorchAoConfig(FqnToConfig(by_name), modules_to_not_convert=list(kept))
        return made.to_dict()

    def metadata(self, entries: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
        # readers join the metadata of all files, and the list of the last one counts
        return {**entries, "tensor_names": json.dumps(list(names))}


def intx_config(how: Rounding) -> Any:
    """The ``IntxWeightOnlyConfig`` that rounds the same way, from two bits on."""
    from torchao.quantization import IntxWeightOnlyConfig, PerAxis, PerGroup
    from torchao.quantization.quant_primitives import MappingType

    return IntxWeightOnlyConfig(
        weight_dtype=_dtype(how),
        granularity=PerAxis(0) if how.group is None else PerGroup(how.group),
        mapping_type=MappingType.SYMMETRIC if how.symmetric else MappingType.ASYMMETRIC,
    )


def _dtype(how: Rounding) -> torch.dtype:
    """Integers of that width; -1 and 1 of a symmetric single bit need two."""
    return getattr(torch, f"int{2 if how.symmetric and how.bits == 1 else how.bits}")


def _signed(codes: Tensor, how: Rounding) -> Tensor:
    """Codes or zero points as signed integers: those of the asymmetric form moved down."""
    if how.symmetric:
        return codes
    return (codes.to(torch.int16) - 2 ** (how.bits - 1)).to(torch.int8)
