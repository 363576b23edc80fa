"""The results of ``bench_analyze.py`` as a table on the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TITLES = {
    "minilm": "(a) All of MiniLM",
    "layers": "(b, c) Single layers",
    "fit": "(d) The power-law fit alone",
    "block": "(e) One block of the shape of Llama-3-8B, from a file",
    "embedding": "(e) An embedding of 128256 x 4096, from a file",
    "cold": "(f) The command line, from nothing",
}
HEADS = ("case", "tool", "CPU s", "wall s", "CPU ratio", "wall ratio", "target")
EXPLAIN = """\
Times are medians (smallest to largest) over interleaved rounds; ratios are WeightWatcher's median
over FROG's, so more is better. CPU time is of all threads together. Both tools give their default
columns; FROG gives the standard error and the stability band of alpha besides, with bootstrap,
curves and cache off. *exact* is float64 throughout, *fast* is float32 with a guard.
Imports are excluded except in (f). *of limit* is CPU time over (N M² + 4/3 M³) floating-point
operations at the float32 matrix-product rate of one core: a float64 method cannot get below 2.
Memory is anonymous memory above what the process held after its imports.

The load average stands under each table: well above one a core, wall times measure the neighbours.
*One thread* compares the methods; *default threads* is what a user gets: BLAS on all cores for
WeightWatcher, layers side by side for FROG. In that mode BLAS threads that wait for each other
spin, which counts as CPU time, for FROG too where it follows WeightWatcher in the same process."""


def as_text(found: Mapping[str, Any]) -> str:
    """Aligned columns."""
    lines = [HEADS, *(_cells(row) for row in found["rows"])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_markdown(data: Mapping[str, Any]) -> str:
    """The whole file: machine, what was met and what was not, a table per section."""
    facts = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    parts = [
        "# `frog analyze` against WeightWatcher 0.7.7",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}; "
        f"Python {facts['python']}, {versions}.",
        EXPLAIN,
        _verdicts(data["sections"]),
    ]
    for name, title in TITLES.items():
        if name in data["sections"]:
            parts.append(_section(title, data["sections"][name]))
    return "\n\n".join(parts) + "\n"


def _section(title: str, found: Mapping[str, Any]) -> str:
    lines = [
        f"## {title}",
        "",
        f"{found['date']}, `{found['command']}`, {found['took']} s; load average "
        f"{found['load_before']} before, {found['load_after']} after.",
    ]
    if "peak_gflops" in found:
        rates = ", ".join(f"{k} {v:.0f} GF/s" for k, v in found["peak_gflops"].items())
        lines += ["", f"Matrix product on one core: {rates}."]
    lines += ["", "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in found["rows"]]
    lines += ["", *(f"- {note}" for note in found.get("notes", ()))]
    return "\n".join(lines).rstrip()


def _verdicts(sections: Mapping[str, Any]) -> str:
    """Every target, met or missed: CPU time decides, wall time is told beside."""
    met, missed, slower = [], [], []
    for found in sections.values():
        for row in found["rows"]:
            for text, good in _targets(row):
                (met if good else missed).append(text)
            if min(row.get("cpu_ratio", 9.0), row.get("wall_ratio", 9.0)) < 1.0:
                slower.append(f"{row['case']}, {row['tool']}")
    lines = ["## Targets", "", f"{len(met)} met, {len(missed)} missed (CPU time decides)."]
    lines += ["", *(f"- **missed**: {text}" for text in missed), *(f"- met: {x}" for x in met)]
    losing = "; ".join(slower) if slower else "in no row of these tables"
    return "\n".join([*lines, "", f"Where FROG is slower than WeightWatcher: {losing}."])


def _targets(row: Mapping[str, Any]) -> list[tuple[str, bool]]:
    where = f"{row['case']}, {row['tool']}"
    found = []
    if row.get("target") and "cpu_ratio" in row:
        ratio = row["cpu_ratio"]
        text = f"{where}: {ratio:.2f}x, target {row['target']:g}x (wall {row['wall_ratio']:.1f}x)"
        found.append((text, ratio >= row["target"]))
    if row.get("limit_target"):
        text = f"{where}: {row['of_limit']:.2f} of the float32 limit, target {row['limit_target']}"
        found.append((text, row["of_limit"] <= row["limit_target"]))
    if row.get("memory_target_mib"):
        used, limit = row["memory"]["anonymous_mib"], row["memory_target_mib"]
        found.append((f"{where}: {used:.0f} MiB, target {limit} MiB", used < limit))
    return found


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if row.get("target"):
        notes.append(f"{row['target']:g}x")
    if row.get("of_limit"):
        notes.append(f"{row['of_limit']:.2f} of limit")
    if row.get("memory"):
        notes.append(f"{row['memory']['anonymous_mib']:.0f} MiB")
    return (
        row["case"],
        row["tool"],
        _times(row.get("cpu")),
        _times(row.get("wall")),
        f"{row['cpu_ratio']:.2f}" if "cpu_ratio" in row else "",
        f"{row['wall_ratio']:.2f}" if "wall_ratio" in row else "",
        "; ".join(notes),
    )


def _times(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    if found["min"] == found["max"]:
        return f"{found['median']:.3g}"
    return f"{found['median']:.3g} ({found['min']:.3g}-{found['max']:.3g})"
