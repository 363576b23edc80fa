"""Deltas in the terminal and as plain values."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from frog.report.words import count, middle, printable
from frog.types import SparseDelta

SHOWN = 20
NAME = 44


def delta_table(delta: SparseDelta) -> RenderableType:
    """How many entries of which tensor changed."""
    head = Text.assemble(
        (printable(delta.path), "bold"),
        f"\n{delta.count:,} changed in {count(len(delta.tensors), 'tensor')}",
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tensor", no_wrap=True)
    for title in ("dtype", "changed", "share"):
        table.add_column(title, justify="right")
    for part in delta.tensors[:SHOWN]:
        share = len(part.index) / max(1, math.prod(part.shape))
        name = middle(printable(part.tensor), NAME)
        table.add_row(Text(name), part.dtype, f"{len(part.index):,}", f"{share:.3%}")
    more = len(delta.tensors) - SHOWN
    rest = [Text(f"... {more} more: --format json", style="dim")] if more > 0 else []
    return Group(head, "", table, *rest) if delta.tensors else Group(head)


def delta_dict(delta: SparseDelta) -> dict[str, Any]:
    """What a delta holds, without the entries."""
    return {
        "path": delta.path,
        "count": delta.count,
        "facts": dict(delta.facts),
        "tensors": [
            {
                "tensor": part.tensor,
                "shape": list(part.shape),
                "dtype": part.dtype,
                "changed": len(part.index),
            }
            for part in delta.tensors
        ],
    }
