"""Bit widths for other tools: their own parsers accept what is written."""

from __future__ import annotations

import json

import pytest
import yaml
from torch import nn

from frog.compression.curves import Bits
from frog.errors import UsageError
from frog.exports.auto_round import layer_config
from frog.exports.llm_compressor import compressor_recipe
from frog.numerics.rounding import Rounding


def level(bits: int, group: int | None = 64, symmetric: bool = True) -> Bits:
    return Bits(Rounding(bits=bits, group=group, symmetric=symmetric))


LEVELS = {
    "h.0.up.weight": level(4),
    "h.1.up.weight": level(3, None),
    "h.10.up.weight": level(4),
    "h.0.down.weight": level(4, 64, symmetric=False),
}


def modifier(text: str, name: str = "QuantizationModifier") -> dict:
    return yaml.safe_load(text)["quant_stage"]["quant_modifiers"][name]


def test_a_recipe_has_a_group_for_every_way_to_round() -> None:
    made = modifier(compressor_recipe(LEVELS))
    targets = [x["targets"] for x in made["config_groups"].values()]
    assert targets == [["h.0.up", "h.10.up"], ["h.1.up"], ["h.0.down"]]
    assert modifier(compressor_recipe(LEVELS, "GPTQModifier"), "GPTQModifier") == made


def test_compressed_tensors_reads_the_groups_and_matches_these_modules_alone() -> None:
    pytest.importorskip("compressed_tensors", reason="needs frog[compress]")
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    groups = modifier(compressor_recipe(LEVELS))["config_groups"]
    for group in groups.values():
        QuantizationScheme.model_validate(group)
    model = nn.Module()
    model.h = nn.ModuleList(
        nn.ModuleDict({"up": nn.Linear(64, 128), "down": nn.Linear(128, 64)}) for _ in range(11)
    )
    apply_quantization_config(model, QuantizationConfig(config_groups=groups), show_progress=False)
    found = {}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None:
            how = scheme.weights
            found[f"{name}.weight"] = (how.num_bits, how.group_size, how.symmetric)
    assert found == {
        name: (x.rounding.bits, x.rounding.group, x.rounding.symmetric)
        for name, x in LEVELS.items()
    }


def test_auto_round_gets_one_line_a_layer() -> None:
    text = layer_config(LEVELS, kept=["head.weight"])
    assert len(text.splitlines()) == len(LEVELS) + 3
    assert json.loads(text) == {
        "h.0.up": {"bits": 4, "group_size": 64, "sym": True},
        "h.1.up": {"bits": 3, "group_size": -1, "sym": True},
        "h.10.up": {"bits": 4, "group_size": 64, "sym": True},
        "h.0.down": {"bits": 4, "group_size": 64, "sym": False},
        "head": {"bits": 16, "data_type": "float"},
    }


@pytest.mark.parametrize("write", [compressor_recipe, layer_config])
@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({}, "got none"),
        ({"h.0.attn.weight[q]": level(4)}, "a part of a tensor"),
        ({"experts": level(4)}, "must be the weight of a module"),
        ({"h.0.up.weight": level(1)}, "take 2"),
    ],
)
def test_levels_that_the_tools_do_not_have_are_refused(write, levels, words) -> None:
    with pytest.raises(UsageError, match=words):
        write(levels)


def test_a_layer_is_rounded_or_kept() -> None:
    with pytest.raises(UsageError, match="got both"):
        layer_config(LEVELS, kept=["h.0.up.weight"])
