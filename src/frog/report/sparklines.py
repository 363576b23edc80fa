"""Rows of small bars: a metric over depth in one line of a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from frog.report.words import number
from frog.types import LayerReport

BARS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-:=+*#"
GAP = " "


def sparkline(values: Sequence[float], *, bars: str = BARS) -> str:
    """A bar a value, from the smallest number to the largest; a gap where there is none.

    ``bars`` goes from low to high. All-equal numbers give bars of the middle height.

    >>> sparkline([1, 2, 3, float("nan"), 8]), sparkline([1, 8], bars=PLAIN)
    ('▁▂▃ █', '_#')
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return GAP * len(values)
    low, span = min(known), max(known) - min(known)
    top = len(bars) - 1

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return GAP
        share = (value - low) / span if span > 0 else 0.5
        return bars[min(top, int(share * len(bars)))]

    return "".join(bar(value) for value in values)


def by_block(layers: Sequence[LayerReport], metric: str) -> tuple[list[int], list[float]]:
    """Blocks from the first to the last, and the median of a metric in each over the averaged
    layers: NaN for a block that has none.

    >>> layer = LayerReport(name="h.2.w", kind="linear", role="q", block=2, shape=(2, 2),
    ...                     dtype="float32", params=4, values={"alpha": 3.0})
    >>> by_block([layer], "alpha")
    ([2], [3.0])
    """
    found: dict[int, list[float]] = {}
    for layer in layers:
        value = layer.values.get(metric, math.nan)
        if layer.block is not None and layer.averaged:
            found.setdefault(layer.block, [])
            if math.isfinite(value):
                found[layer.block].append(value)
    if not found or not any(found.values()):
        return [], []
    first, last = min(found), max(found)
    if last - first > 100 * len(found):  # numbers like these count no blocks
        return [], []
    blocks = list(range(first, last + 1))
    return blocks, [median(found[b]) if found.get(b) else math.nan for b in blocks]


def folded(values: Sequence[float], width: int) -> tuple[list[float], int]:
    """At most ``width`` numbers, each the median of so many neighbours.

    >>> folded([1.0, 3.0, 5.0, float("nan")], 2)
    ([2.0, 5.0], 2)
    """
    each = max(1, -(-len(values) // max(width, 1)))
    groups = (values[i : i + each] for i in range(0, len(values), each))
    known = ([x for x in group if math.isfinite(x)] for group in groups)
    return [median(group) if group else math.nan for group in known], each


@dataclass(frozen=True, slots=True)
class DepthLine:
    """A metric over the blocks as bars, as many as the terminal has room for, and its range.

    A terminal whose encoding has no block characters gets ASCII.
    """

    symbol: str
    blocks: Sequence[int]
    values: Sequence[float]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        yield from self._lines(options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        del console
        longest = max((text.cell_len for text in self._lines(options)), default=0)
        return Measurement(min(longest, options.max_width), min(longest, options.max_width))

    def _lines(self, options: ConsoleOptions) -> Iterator[Text]:
        bars = bars_for(options.encoding)
        values, each = folded(self.values, options.max_width)
        known = [value for value in self.values if math.isfinite(value)]
        words = f"{self.symbol} by block, {self.blocks[0]} to {self.blocks[-1]}"
        if each > 1:
            words += f", {each} a bar"
        words += f": median {number(min(known))} to {number(max(known))}"
        line = Text(sparkline(values, bars=bars))
        if line.cell_len + 2 + len(words) <= options.max_width:
            yield Text.assemble(line, "  ", (words, "dim"))
        else:
            yield line
            yield Text(words, style="dim")


def depth_line(layers: Sequence[LayerReport], metric: str, symbol: str) -> DepthLine | None:
    """The line of a metric over depth; None for fewer than three blocks with a number."""
    blocks, values = by_block(layers, metric)
    if sum(math.isfinite(value) for value in values) < 3:
        return None
    return DepthLine(symbol=symbol, blocks=blocks, values=values)


def bars_for(encoding: str) -> str:
    """Block characters, or ASCII where a terminal's encoding has none.

    >>> bars_for("utf-8"), bars_for("ascii")
    ('▁▂▃▄▅▆▇█', '_.-:=+*#')
    """
    try:
        BARS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return BARS
