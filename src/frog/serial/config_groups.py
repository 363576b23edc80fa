"""Bit widths by matrix in the words of compressed-tensors, which llm-compressor and vLLM share.

A config group is a list of modules with one way to round their weights:
``{"targets": [...], "weights": {"num_bits": ..., "strategy": ..., ...}}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from frog.errors import UsageError


class Width(Protocol):
    """How a matrix is rounded: bits, inputs that share a scale (None: a row), form."""

    @property
    def bits(self) -> int: ...

    @property
    def group(self) -> int | None: ...

    @property
    def symmetric(self) -> bool: ...


class WidthLevel(Protocol):
    """A level of compression that rounds, as :class:`frog.compression.curves.Bits`."""

    @property
    def rounding(self) -> Width: ...


def module_of(matrix: str) -> str:
    """The module whose weight the matrix is; :class:`~frog.errors.UsageError` where there is none.

    >>> module_of("encoder.layer.0.attention.self.query.weight")
    'encoder.layer.0.attention.self.query'
    """
    if "[" in matrix:
        raise UsageError(
            f"{matrix} is a part of a tensor: other tools round whole tensors only; leave it out"
        )
    module, dot, last = matrix.rpartition(".")
    if not dot or last != "weight":
        raise UsageError(
            f"{matrix} must be the weight of a module, '....weight': leave it out of the levels"
        )
    return module


def config_groups(widths: Mapping[str, Width]) -> dict[str, dict[str, Any]]:
    """One group for every way to round, with the modules as exact names, in the order given.

    >>> from collections import namedtuple
    >>> Bits = namedtuple("Bits", "bits group symmetric")
    >>> config_groups({"a": Bits(4, 64, True)})["bits4_group64_symmetric"]["weights"]["strategy"]
    'group'
    """
    groups: dict[str, dict[str, Any]] = {}
    for module, how in widths.items():
        group = "row" if how.group is None else f"group{how.group}"
        name = f"bits{how.bits}_{group}_{'symmetric' if how.symmetric else 'asymmetric'}"
        found = groups.setdefault(name, {"targets": [], "weights": _weights(how)})
        found["targets"].append(module)
    return groups


def _weights(how: Width) -> dict[str, Any]:
    found: dict[str, Any] = {"num_bits": how.bits, "type": "int", "symmetric": how.symmetric}
    if how.group is None:
        return {**found, "strategy": "channel"}
    return {**found, "strategy": "group", "group_size": how.group}
