"""Numbers and names as people read them."""

from __future__ import annotations

import math
import re

PLURALS = {"matrix": "matrices"}


def number(value: float | None, digits: int = 2) -> str:
    """A fixed-point number; a dash where there is none.

    >>> number(3.14159), number(float("nan")), number(None)
    ('3.14', '–', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}"


def count(n: int, thing: str) -> str:
    """How many of a thing.

    >>> count(1, "matrix"), count(3, "matrix"), count(0, "layer")
    ('1 matrix', '3 matrices', '0 layers')
    """
    return f"{n} {thing if n == 1 else PLURALS.get(thing, thing + 's')}"


def middle(text: str, width: int) -> str:
    """A text cut in its middle to at most ``width`` characters.

    >>> middle("encoder.layer.0.attention.self.query", 20)
    'encoder.l…self.query'
    """
    if len(text) <= width:
        return text
    tail = width // 2
    return f"{text[: width - tail - 1]}…{text[-tail:]}"


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts block 2 before block 10.

    >>> sorted(["h.10.w", "h.2.w"], key=natural)
    ['h.2.w', 'h.10.w']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
