"""Figures of a stage as plain SVG: ``python -m benchmarks.tuning.figures --stage screen``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from benchmarks.tuning import records
from benchmarks.tuning.cells import Cell, catalogue
from benchmarks.tuning.curves import Point, front
from benchmarks.tuning.stages import STAGES, records_of

WIDTH, HEIGHT, LEFT, BOTTOM, RIGHT, TOP = 900, 440, 70, 50, 330, 40
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")
"""Told apart by colour-blind readers, too (Okabe and Ito), and readable on light and dark."""
STYLE = (
    "<style>svg{color:#222;background:#fff;font:12px sans-serif}text{fill:currentColor}"
    "@media(prefers-color-scheme:dark){svg{color:#ddd;background:#111}}</style>"
)


def scale(values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """Factor and offset that map the values, with a margin, between two places."""
    least, most = min(values), max(values)
    margin = 0.05 * (most - least) or 0.5
    factor = (high - low) / (most - least + 2 * margin)
    return factor, low - factor * (least - margin)


def ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers between two values."""
    rough = (high - low) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda x: abs(x - rough / power))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [step * n for n in range(first, last + 1)]


def drawing(
    curves: Mapping[str, Sequence[Point]], *, title: str, x: str, y: str, lines: bool
) -> str:
    """An SVG of named groups of points, joined along their front where ``lines``."""
    xs, ys = zip(*(point for points in curves.values() for point in points), strict=True)
    fx, ox = scale(xs, LEFT, WIDTH - RIGHT)
    fy, oy = scale(ys, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">{STYLE}',
        f'<text x="{LEFT}" y="22" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" '
        'stroke="currentColor"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(x)}</text>",
        f'<text transform="translate(16 {HEIGHT / 2})rotate(-90)" text-anchor="middle">'
        f"{escape(y)}</text>",
    ]
    for value in ticks(min(xs), max(xs)):
        parts.append(f'<text x="{fx * value + ox:.1f}" y="{HEIGHT - BOTTOM + 16}" '
                     f'text-anchor="middle">{value:.4g}</text>')  # fmt: skip
    for value in ticks(min(ys), max(ys)):
        parts.append(f'<text x="{LEFT - 6}" y="{fy * value + oy + 4:.1f}" '
                     f'text-anchor="end">{value:.4g}</text>')  # fmt: skip
    for number, (name, points) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        dash = f' stroke-dasharray="{4 * (number // len(COLOURS))} 3"'
        dash = dash if number >= len(COLOURS) else ""
        placed = [(fx * a + ox, fy * b + oy) for a, b in points]
        if lines:
            path = "L".join(f"{fx * a + ox:.1f} {fy * b + oy:.1f}" for a, b in front(points))
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}"{dash}/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{colour}">'
                  f"<title>{escape(name)}</title></circle>" for a, b in placed]  # fmt: skip
        height = TOP + 15 * number
        left = WIDTH - RIGHT + 15
        parts.append(f'<path d="M{left} {height}h18" stroke="{colour}" stroke-width="3"{dash}/>'
                     f'<text x="{left + 24}" y="{height + 4}">{escape(name)}</text>')  # fmt: skip
    return "".join(parts) + "</svg>\n"


def task_figures(there: Mapping[Cell, records.Record], task: str) -> dict[str, str]:
    """Figures of one task by name: old, step time and stored bytes against new quality."""
    grouped: dict[tuple[str, float, float], list[records.Record]] = {}
    for c, r in sorted(there.items()):
        if c.task == task and r["status"] == "done":
            grouped.setdefault((c.method, c.share, c.step), []).append(r)
    shares = {share for _, share, _ in grouped}
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for (method, share, _), runs in grouped.items():
        name = method if len(shares) == 1 else f"{method} {share:g}"
        values = [
            (r["new"]["quality"], r["old"]["quality"], 1e3 * r["step_seconds"],
             r["delta_bytes"] / 1024) for r in runs
        ]  # fmt: skip
        new, old, step, size = np.mean(values, axis=0)
        curves.setdefault(name, []).append((float(new), float(old), float(step), float(size)))
    if not curves:
        return {}
    new, old = "quality on the new task, points", "quality on the old task, points"
    best = {name: [max(points)] for name, points in curves.items()}
    fronts = {n: [(p[0], p[1]) for p in points] for n, points in curves.items()}
    times = {n: [(p[2], p[0]) for p in points] for n, points in best.items()}
    sizes = {n: [(p[3], p[0]) for p in points] for n, points in best.items()}
    return {
        f"{task}-old": drawing(fronts, title=task, x=new, y=old, lines=True),
        f"{task}-time": drawing(times, title=task, x="CPU ms a step", y=new, lines=False),
        f"{task}-bytes": drawing(sizes, title=task, x="KiB to store", y=new, lines=False),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the figures of a stage beside its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("--catalogue", default="", help="module with TASKS and METHODS")
    parser.add_argument("--folder", type=Path, help="where the records and the figures are")
    parser.add_argument("--methods", default="", help="only these, between commas")
    given = parser.parse_args(arguments)
    packed = given.folder or records.PACKED
    there = records.load(given.folder or records.WORK, packed)
    found = records_of(given.stage, catalogue(given.catalogue), there)
    only = [x for x in given.methods.split(",") if x]
    found = {c: r for c, r in found.items() if not only or c.method in only}
    for task in dict.fromkeys(c.task for c in found):
        for name, text in task_figures(found, task).items():
            path = packed / f"{given.stage}-{name}.svg"
            records.write(path, text)
            print(path)
    return 0 if found else 2


if __name__ == "__main__":
    sys.exit(main())
