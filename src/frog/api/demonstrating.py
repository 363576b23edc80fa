"""The demo's task: files and a recipe that `frog tune` runs as any other."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from frog.demo import documented_functions, neighbours, split_by_package
from frog.serial.whole_file import write_whole

TESTED = 300
"""Pairs of each test: a percent is three of them."""

APART = 0.2
"""Share of the library's packages whose functions are for the test alone."""

PLANNED_ON, JUDGED_ON = "planned-on.txt", "judged-on.txt"
SENTENCES = 64
"""Docstrings that bit widths are chosen on, and as many of other packages that judge them."""

RECIPE = """\
# frog tune {name}: find the function that a docstring belongs to
version: 1
model: {model}
task: sentence-embedding
data:
  train: data/train.jsonl       # functions of Python's own library, by what they say and do
  test: data/test.jsonl         # functions of other packages
  old: data/old.jsonl           # sentences that follow each other: what may be forgotten
  pair: [docstring, function]
  max_length: 96
selection:
  budget: 1%                    # of the encoder's matrices; all other weights keep their bits
learning_rate: auto
guards: auto
training:
  max_steps: {steps}
  per_device_train_batch_size: 24
output: tuned
"""


def write_demo(model: str, folder: Path, *, steps: int = 60) -> Path:
    """Write data and recipe of the demo to ``folder``; the path of the recipe.

    The task: given the first paragraph of a docstring, find its function among others by code
    alone. The functions are those of the Python that runs this; nothing is downloaded.
    """
    train, test = split_by_package(documented_functions(), APART)
    _write(folder / "data" / "train.jsonl", ((x.says, x.code) for x in train))
    few = sorted(test, key=lambda x: (x.says, x.module))[:: max(1, len(test) // TESTED)][:TESTED]
    _write(folder / "data" / "test.jsonl", ((x.says, x.code) for x in few))
    _write(folder / "data" / "old.jsonl", neighbours(TESTED))
    for name, functions in ((PLANNED_ON, train), (JUDGED_ON, test)):
        sentences = sorted(x.says for x in functions)[:: max(1, len(functions) // SENTENCES)]
        write_whole("".join(f"{x}\n" for x in sentences).encode(), folder / "data" / name)
    recipe = folder / "recipe.yaml"
    text = RECIPE.format(name=recipe.name, model=json.dumps(str(model)), steps=steps)
    write_whole(text.encode(), recipe)
    return recipe


def _write(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"docstring": says, "function": code}) for says, code in pairs)
    write_whole("".join(f"{line}\n" for line in lines).encode(), path)
