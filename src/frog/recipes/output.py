"""The folder of a run: who may write there, what a run that was cut off left, files in one go."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frog.errors import UsageError
from frog.recipes.training import CHECKPOINTS, last_checkpoint
from frog.serial.plain import null, number, text_of
from frog.serial.recipe import flat_recipe, recipe_to_yaml
from frog.serial.whole_file import write_whole
from frog.types.recipes import Recipe

FORMAT = "frog-run"
VERSION = 1
FREE_ON_RESUME = ("made_with", "output", "compare")
"""Keys that may differ when a run goes on, beside ``training`` without its seeds."""

SEEDS = ("seed", "data_seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What is known of a run in its folder: ``running``, ``interrupted``, ``stopped``,
    ``finished``."""

    status: str
    recipe: str
    selection: str = ""
    before: Mapping[str, Any] | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: float = math.nan
    files: tuple[str, ...] = ()

    def write(self, output: Path) -> None:
        """Write to the folder, whole."""
        plain = {
            "format": FORMAT, "version": VERSION, "status": self.status, "recipe": self.recipe,
            "selection": self.selection, "before": self.before, "seconds": self.seconds,
            "cpu_seconds": null(self.cpu_seconds), "memory": null(self.memory),
            "files": list(self.files),
        }  # fmt: skip
        write_whole(text_of(plain).encode(), output / CHECKPOINTS / "run.json")

    def with_status(self, status: str, output: Path, **changed: Any) -> RunState:
        """The same run in another state, written."""
        made = replace(self, status=status, **changed)
        made.write(output)
        return made


def read_run(output: Path) -> RunState | None:
    """The run in a folder; None where there is none that can be read."""
    try:
        data = json.loads((output / CHECKPOINTS / "run.json").read_text())
        if data["format"] != FORMAT or data["version"] > VERSION:
            return None
        return RunState(
            status=data["status"], recipe=data["recipe"], selection=data["selection"],
            before=data["before"], seconds=data["seconds"], files=tuple(data["files"]),
            cpu_seconds=number(data.get("cpu_seconds")), memory=number(data.get("memory")),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_output(recipe: Recipe, *, resume: bool, overwrite: bool) -> RunState | None:
    """The run that is to go on, None for a new one; UsageError where the folder is not free.

    A folder that is not empty must hold a run of this recipe to be resumed, or any run of frog's
    to be overwritten; nothing is changed here.
    """
    output, place = Path(recipe.output), recipe.where("output")
    if resume and overwrite:
        raise UsageError("one of --resume and --overwrite may be given, got both")
    _keep_inputs(recipe, output, place)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        _can_be_made(output, place)
        return None
    if not output.is_dir():
        raise UsageError(f"{place}: must be a folder, got a file: {output}")
    if not os.access(output, os.W_OK):
        raise UsageError(f"{place}: {output} must be writable: choose another folder")
    run = read_run(output)
    if run is None:
        raise UsageError(
            f"{place}: {output} is not empty and holds no run of frog tune: choose another folder"
        )
    if overwrite:
        return None
    step = _step(output)
    if not resume:
        at = f" at step {step}" if step and run.status != "finished" else ""
        goes_on = "" if run.status == "finished" else "--resume goes on with it, "
        raise UsageError(
            f"{place}: {output} holds a run already ({run.status}{at}): {goes_on}--overwrite "
            "starts anew"
        )
    if run.status == "finished":
        raise UsageError(
            f"{place}: the run in {output} has finished: nothing is left to resume; --overwrite "
            "starts anew"
        )
    _same_recipe(run, recipe)
    return run


def begin(recipe: Recipe) -> Path:
    """Make the folder of a new run; what an earlier run left for resuming goes."""
    output = Path(recipe.output)
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
    (output / CHECKPOINTS).mkdir(parents=True)
    return output


@contextmanager
def staged(output: Path, earlier: tuple[str, ...]) -> Iterator[Path]:
    """A folder to write results to; they are moved into ``output`` when all are whole.

    ``earlier`` are files of the run before in the same folder: those that are not written again
    are taken away, so that no weights of another model stay.
    """
    folder = Path(tempfile.mkdtemp(prefix=".frog-", dir=output))
    try:
        yield folder
        new = {x.name for x in folder.iterdir()}
        for name in earlier:
            if name.partition("/")[0] not in new:
                _remove(output / name.partition("/")[0])
        for path in sorted(folder.iterdir()):
            target = output / path.name
            if path.is_dir():
                _remove(target)
            os.replace(path, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def state_of(recipe: Recipe) -> str:
    """The recipe as a run keeps it, to be compared when it goes on."""
    return recipe_to_yaml(recipe)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _keep_inputs(recipe: Recipe, output: Path, place: str) -> None:
    model = Path(recipe.model)
    if model.exists() and (model.resolve() == output or output in model.resolve().parents):
        where = "is" if model.resolve() == output else "holds"
        raise UsageError(f"{place}: {output} {where} the model that is read: choose another folder")
    for split, source in recipe.data.splits.items():
        if source.path and output in Path(source.path).resolve().parents:
            raise UsageError(
                f"{place}: {output} holds data.{split}, which is read: choose another folder"
            )


def _can_be_made(output: Path, place: str) -> None:
    there = next(path for path in (output, *output.parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{place}: {there} must be a folder, got a file: choose another")
    if not os.access(there, os.W_OK):
        raise UsageError(f"{place}: {there} must be writable: choose another folder")
    try:  # root is told that everything is writable: file systems have their own opinion
        os.rmdir(tempfile.mkdtemp(prefix=".frog-", dir=there))
    except OSError as error:
        raise UsageError(
            f"{place}: {there} must be writable, got '{error.strerror}': choose another folder"
        ) from None


def _step(output: Path) -> int:
    found = last_checkpoint(output)
    return int(found.name.rpartition("-")[2]) if found else 0


def _same_recipe(run: RunState, recipe: Recipe) -> None:
    """UsageError that names the first key in which the recipe differs from that of the run."""
    old, new = flat_recipe(run.recipe), flat_recipe(state_of(recipe))
    for key in {**old, **new}:
        section, _, rest = key.partition(".")
        if section in FREE_ON_RESUME or (section == "training" and rest not in SEEDS):
            continue
        if old.get(key) != new.get(key):
            raise UsageError(
                f"{recipe.where(*key.split('.'))}: the run in {recipe.output} had "
                f"{old.get(key, 'nothing')} here, the recipe has {new.get(key, 'nothing')}: resume "
                "with the recipe it was started with, or start anew with --overwrite"
            )
