"""Bit widths by matrix as a recipe of llm-compressor: one ``QuantizationModifier``.

Source of the format: vllm-project/llm-compressor, recipes of modifiers in YAML; its
``config_groups`` are those of compressed-tensors. ``GPTQModifier`` takes the same groups.
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from frog.errors import UsageError
from frog.serial.config_groups import WidthLevel, config_groups, module_of

MODIFIER = "QuantizationModifier"


def compressor_recipe(levels: Mapping[str, WidthLevel], modifier: str = MODIFIER) -> str:
    """The YAML for ``llmcompressor.oneshot(recipe=...)``: a group for every way to round.

    Targets are the modules' exact names, so what is not named stays as it is. The tool rounds
    itself: with ``QuantizationModifier`` and symmetric levels to what FROG rounds to, with
    ``GPTQModifier`` to something better on its calibration data. Raises
    :class:`~frog.errors.UsageError` for parts of tensors and for one symmetric bit, which the tool
    understands as -1 and 0.

    >>> from frog.compression.curves import Bits
    >>> from frog.numerics.rounding import Rounding
    >>> text = compressor_recipe({"a.b.weight": Bits(Rounding(bits=4))})
    >>> modifier = yaml.safe_load(text)["quant_stage"]["quant_modifiers"]["QuantizationModifier"]
    >>> modifier["config_groups"]["bits4_group64_symmetric"]["targets"]
    ['a.b']
    """
    widths = {}
    for name, level in levels.items():
        how = level.rounding
        if how.bits == 1 and how.symmetric:
            raise UsageError(
                f"{name}: one symmetric bit is -1 and 1 here, but -1 and 0 in llm-compressor: take "
                "2 bits"
            )
        widths[module_of(name)] = how
    if not widths:
        raise UsageError("levels must name one matrix or more, got none")
    settings = {"config_groups": config_groups(widths), "ignore": []}
    recipe = {"quant_stage": {"quant_modifiers": {modifier: settings}}}
    return yaml.safe_dump(recipe, sort_keys=False)
