"""What a model holds, in the terminal and as plain values: ``frog inspect``."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from frog.report.words import count, middle, natural, printable, quantity, short_name, times
from frog.types import Catalogue, SkippedTensor, WeightMatrix
from frog.version import __version__

LISTING_FORMAT = "frog-listing"
LISTING_VERSION = 1
MIN_NAME = 12
MIN_FATE = 10
GAP = 2


def listing_dict(listed: Catalogue) -> dict[str, Any]:
    """Every matrix and every skipped tensor as plain values, in the order on disk."""
    return {
        "format": LISTING_FORMAT,
        "version": LISTING_VERSION,
        "frog_version": __version__,
        "source": {"path": listed.path, "format": listed.format},
        "params": listed.params,
        "notes": list(listed.notes),
        "matrices": [_matrix_dict(matrix) for matrix in listed.matrices],
        "skipped": [asdict(tensor) for tensor in listed.skipped],
    }


def listing_table(listed: Catalogue, *, width: int = 80) -> RenderableType:
    """A line a matrix or skipped tensor, in natural order; then why tensors are skipped."""
    measured = sum(matrix.params for matrix in listed.matrices)
    head = Text.assemble(
        (printable(listed.path), "bold"),
        f" · {listed.format} · {quantity(listed.params)} parameters · "
        f"{count(len(listed.matrices), 'matrix')} of {quantity(measured)} will be measured",
    )
    lines: list[RenderableType] = [head]
    notes = (*listed.notes, *_warnings(listed))
    lines += [Text(printable(f"note: {note}"), style="dim") for note in notes]
    reasons = [reason for reason, _ in Counter(x.reason for x in listed.skipped).most_common()]
    lines += ["", _table(listed, reasons, width)]
    if any(not matrix.averaged for matrix in listed.matrices):
        lines += ["", Text("apart: measured, and left out of the means of the model")]
    if reasons:
        lines += ["", _legend(listed, reasons)]
    return Group(*lines)


def _warnings(listed: Catalogue) -> list[str]:
    """What is doubtful about matrices, each remark once, with how many it concerns."""
    tally = Counter(matrix.warning for matrix in listed.matrices if matrix.warning)
    return [f"{warning} ({count(n, 'matrix')})" for warning, n in tally.items()]


def _table(listed: Catalogue, reasons: list[str], width: int) -> Table:
    parts = sorted((*listed.matrices, *listed.skipped), key=lambda part: natural(part.name))
    rows = [_cells(part, reasons) for part in parts]
    titles = ("", "tensor", "role", "shape", "dtype", "measured")
    widths = [max(len(text) for text in column) for column in zip(titles, *rows, strict=True)]
    room = width - widths[0] - sum(widths[2:5]) - GAP * (len(titles) - 1)
    widths[5] = min(widths[5], max(MIN_FATE, room - widths[1]))
    widths[1] = max(MIN_NAME, min(widths[1], room - widths[5]))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for i, title in enumerate(titles):
        table.add_column(title, justify="right" if i in (0, 3) else "left", no_wrap=True)
    for part, row in zip(parts, rows, strict=True):
        row[1], row[5] = middle(row[1], widths[1]), middle(row[5], widths[5])
        skipped = isinstance(part, SkippedTensor)
        table.add_row(*(Text(cell, style="dim" if skipped else "") for cell in row))
    return table


def _cells(part: WeightMatrix | SkippedTensor, reasons: list[str]) -> list[str]:
    """Block, name, role, shape, type, and what becomes of it."""
    block = "" if part.block is None else str(part.block)
    if isinstance(part, SkippedTensor):
        fate = f"no ({reasons.index(part.reason) + 1})"
    else:
        fate = "yes" if part.averaged else "apart"
    fate += "".join(printable(f" = {alias}") for alias in part.aliases)
    return [
        block,
        short_name(part.name, part.block),
        part.role,
        times(part.shape),
        part.dtype,
        fate,
    ]


def _legend(listed: Catalogue, reasons: list[str]) -> Table:
    """The numbered reasons, with how many tensors and parameters each leaves out."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    table.add_column("no", justify="right")
    table.add_column("tensors", justify="right")
    table.add_column("parameters", justify="right")
    table.add_column("not measured, because")
    for number, reason in enumerate(reasons, start=1):
        left_out = [tensor for tensor in listed.skipped if tensor.reason == reason]
        params = quantity(sum(tensor.params for tensor in left_out))
        table.add_row(f"({number})", str(len(left_out)), params, Text(printable(reason)))
    return table


def _matrix_dict(matrix: WeightMatrix) -> dict[str, Any]:
    return {
        "name": matrix.name,
        "tensor": matrix.tensor,
        "aliases": list(matrix.aliases),
        "kind": matrix.kind,
        "role": matrix.role,
        "block": matrix.block,
        "shape": list(matrix.shape),
        "dtype": matrix.dtype,
        "params": matrix.params,
        "elements": math.prod(matrix.shape),
        "averaged": matrix.averaged,
        "rule": matrix.rule,
        "warning": matrix.warning,
        "view": None if matrix.view is None else asdict(matrix.view),
        "live": None if matrix.live is None else asdict(matrix.live),
    }
