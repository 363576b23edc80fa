"""compressed-tensors, ``pack-quantized``: codes packed into 32-bit words without gaps.

Of a weight (m, n) at b bits: ``weight_packed`` (m, ceil(n b / 32)) int32, ``weight_scale``
(m, groups) in the type of the weights, ``weight_shape``. Source of the format: compressed-tensors
0.20.

Its zero points are packed too, and transformers 5.23 does not load them. A matrix in the
asymmetric form is therefore kept as its differences c - z, which need one bit more and no zero
points; -1 and 1 of a symmetric single bit need two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from frog.compression.formats import CheckpointFormat, Stored
from frog.errors import UsageError
from frog.numerics.rounding import Rounded, Rounding
from frog.serial.config_groups import config_groups


class CompressedTensors(CheckpointFormat):
    """Files as small as the bits say."""

    name = "compressed-tensors"
    meaning = "packed: files shrink to the bits of the plan and its scales"
    package = "compressed_tensors"

    def check(self, name: str, how: Rounding) -> None:
        if how.bits == 8 and not how.symmetric:
            raise UsageError(
                f"{name}: {self.name} keeps an asymmetric matrix at one bit more, at most 8, got "
                "8 asymmetric bits: take the symmetric form or 7 bits"
            )

    def store(self, module: str, rounded: Rounded, how: Rounding) -> Stored:
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

        steps = rounded.steps().to(torch.int8)
        return Stored(
            tensors={
                f"{module}.weight_packed": pack_to_int32(steps, container(how).bits),
                f"{module}.weight_scale": rounded.scales,
                f"{module}.weight_shape": torch.tensor(rounded.codes.shape),
            }
        )

    def config(self, widths: Mapping[str, Rounding], kept: Sequence[str]) -> dict[str, Any]:
        import compressed_tensors
        from compressed_tensors.quantization import QuantizationConfig

        groups = config_groups({module: container(how) for module, how in widths.items()})
        for group in groups.values():
            group["format"] = "pack-quantized"
        made = QuantizationConfig.model_validate(
            {
                "config_groups": groups,
                "format": "pack-quantized",
                "quantization_status": "compressed",
                "ignore": list(kept),
            }
        )
        return {**made.model_dump(mode="json"), "version": compressed_tensors.__version__}


def container(how: Rounding) -> Rounding:
    """The symmetric integers that hold the codes.

    >>> container(Rounding(bits=4)).bits, container(Rounding(bits=1)).bits
    (4, 2)
    >>> container(Rounding(bits=4, symmetric=False)).bits
    5
    """
    wider = not how.symmetric or how.bits == 1
    return replace(how, bits=how.bits + wider, symmetric=True)
