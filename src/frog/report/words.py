"""Numbers and names as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

PLURALS = {"matrix": "matrices"}


def number(value: float | None, digits: int = 2) -> str:
    """A fixed-point number; a dash where there is none.

    >>> number(3.14159), number(float("nan")), number(None)
    ('3.14', '–', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}"


def brief(value: float, digits: int = 4) -> str:
    """A number to so many significant digits, with the signs that print has.

    >>> brief(-0.123456), brief(float("-inf")), brief(31.0)
    ('−0.1235', '−∞', '31')
    """
    return f"{value:.{digits}g}".replace("-", "−").replace("inf", "∞")


def percent(share: float) -> str:
    """A share in percent; one that would be written as 0.0 is no zero.

    >>> percent(0.1234), percent(0.00002), percent(0.0)
    ('12.3 %', 'under 0.1 %', '0.0 %')
    """
    return "under 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


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


def quantity(n: int) -> str:
    """A large number in three digits and a unit.

    >>> quantity(22_713_728), quantity(999), quantity(1_500)
    ('22.7 M', '999', '1.5 k')
    """
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def times(shape: Sequence[int]) -> str:
    """A shape.

    >>> times((384, 1536)), times(())
    ('384×1536', 'scalar')
    """
    return "×".join(str(size) for size in shape) or "scalar"


def printable(text: str) -> str:
    """A text in which control characters are spelt out: a checkpoint's names may hold any.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def short_name(name: str, block: int | None) -> str:
    """A name from its block on, for tables where the block has a column of its own.

    >>> short_name("encoder.layer.3.attention.self.key.weight", 3)
    'attention.self.key'
    >>> short_name("layer1.2.conv1.weight", 2)  # blocks counted over stages: the stage is told
    'layer1.2.conv1'
    """
    name = name.removesuffix(".weight").replace(".weight[", "[")
    if block is not None:
        stage, found, rest = f".{name}".partition(f".{block}.")
        name = rest if found and not any(c.isdigit() for c in stage) else name
    return printable(name)


def reason_parts(reason: str) -> tuple[str, str]:
    """What a place in a ranking goes by, and the layer's own facts; a list has the place itself.

    >>> reason_parts("place 2 of 9 by largest alpha: up of block 3; alpha 4.12")
    ('largest alpha', 'up of block 3; alpha 4.12')
    >>> reason_parts("last, without a score by largest alpha: up")
    ('', 'last, without a score by largest alpha: up')
    """
    found = re.match(r"place \d+ of \d+ by (.+?): ", reason)
    return (found[1], reason[found.end() :]) if found else ("", reason)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts block 2 before block 10.

    >>> sorted(["h.10.w", "h.2.w"], key=natural)
    ['h.2.w', 'h.10.w']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
