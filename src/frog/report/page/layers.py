"""Rows of the page: which layer is what, in which block, beside which others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from frog.report.words import short_name, times

ORDER = (
    "embedding", "patch", "q", "k", "v", "qk", "kv", "qkv", "o", "router", "gate", "up",
    "gate_up", "down", "conv", "linear", "pooler", "head",
)  # fmt: skip
"""Rows of the map: attention before feed-forward; roles not named here come after, as met."""


class Placed(Protocol):
    """What a layer of a report and one of a comparison have in common."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def block(self) -> int | None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def params(self) -> int: ...


def layer_facts(layers: Sequence[Placed]) -> dict[str, Any]:
    """Names, shapes and places, a list each."""
    return {
        "name": [x.name for x in layers],
        "short": [short_name(x.name, x.block) for x in layers],
        "role": [x.role for x in layers],
        "line": lines_of(layers),
        "block": [x.block for x in layers],
        "shape": [times(x.shape) for x in layers],
        "params": [x.params for x in layers],
    }


def lines_of(layers: Sequence[Placed]) -> list[str]:
    """The line of the map and of the depth plot that each layer belongs to.

    That is its role, and the tower before it where a model has several (encoder and decoder,
    vision and language): towers are the prefixes of names whose blocks carry the same numbers.

    >>> from frog.types import LayerChange
    >>> names = ["encoder.block.0.q", "encoder.block.1.q", "decoder.block.0.q"]
    >>> lines_of([LayerChange(name=n, role="q", block=int(n.split(".")[2]), shape=(2, 2), params=4)
    ...           for n in names])
    ['encoder.block q', 'encoder.block q', 'decoder.block q']
    """
    blocks: dict[str, set[int]] = {}
    for layer in layers:
        if layer.block is not None:
            blocks.setdefault(_prefix(layer), set()).add(layer.block)
    # stages of one network number their blocks on (layer1.0, layer2.0 as 0, 3): one tower
    towers: list[tuple[list[str], set[int]]] = []
    for prefix, numbers in blocks.items():
        home = next((tower for tower in towers if not tower[1] & numbers), None)
        if home is None:
            towers.append(([prefix], set(numbers)))
        else:
            home[0].append(prefix)
            home[1].update(numbers)
    if len(towers) < 2:
        return [layer.role for layer in layers]
    tower_of = {prefix: tower[0][0] for tower in towers for prefix in tower[0]}
    return [
        layer.role if layer.block is None else f"{tower_of[_prefix(layer)]} {layer.role}".strip()
        for layer in layers
    ]


def line_order(layers: Sequence[Placed]) -> list[str]:
    """The lines from top to bottom: towers as met, roles of a tower in the order of work."""
    met = dict.fromkeys(zip(lines_of(layers), (x.role for x in layers), strict=True))
    towers = list(dict.fromkeys(line.removesuffix(role) for line, role in met))

    def place(item: tuple[str, str]) -> tuple[int, int]:
        line, role = item
        rank = ORDER.index(role) if role in ORDER else len(ORDER)
        return towers.index(line.removesuffix(role)), rank

    return [line for line, _ in sorted(met, key=place)]


def value_lists(tables: Sequence[Mapping[str, float]], keys: Sequence[str]) -> dict[str, Any]:
    """A list of numbers for each metric, in the order of the layers; None where there is none."""
    return {key: [table.get(key) for table in tables] for key in keys}


def indexes(layers: Sequence[Placed]) -> dict[str, int]:
    """The place of each layer by name."""
    return {layer.name: i for i, layer in enumerate(layers)}


def _prefix(layer: Placed) -> str:
    """What stands before the block's number in a name; empty where the number is not in it."""
    before, found, _ = f".{layer.name}".partition(f".{layer.block}.")
    return before[1:] if found else ""
