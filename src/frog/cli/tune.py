"""``frog tune RECIPE.yaml``: fine-tune with the Trainer of transformers."""

from __future__ import annotations

import contextlib
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frog.cli.console import INTERRUPTED, OUT, TALK, Progress, say, suggest
from frog.cli.options import AllLayers, Format, Jobs, UseCache

if TYPE_CHECKING:
    from frog.api import Watch
    from frog.types.recipes import TunePlan, TuneResult

STOPPED = 3
MARGIN = " " * 8
TOLD = ("delta.safetensors", "metrics.json", "certificate.json", "compare.html")
"""Files of a result that are told by name."""

EVERY = 2.0
"""Seconds between two lines of progress where there is no terminal."""


def tune(  # noqa: PLR0913 - a flag is an argument here
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE ...]", help="Such as training.num_train_epochs=1."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan, rate, memory and steps; writes nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the output.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where the output holds a run.")
    ] = False,
    jobs: Jobs = None,
    cache: UseCache = True,
    everything: AllLayers = False,
    format: Format = "auto",
) -> None:
    """Fine-tune the chosen weights of a model, as a recipe says."""
    from frog import api

    words = overrides or []
    made = api.read_recipe(recipe, words)
    display = Display(quiet=format == "quiet")
    watch = display.watch(jobs=jobs, cache=cache)
    if dry_run:
        with display:
            plan = api.preview(made, watch=watch)
        _show_plan(plan, format, everything=everything)
        if format != "quiet":
            suggest("frog", "tune", str(recipe), *words)
        return
    if resume and not api.checkpoint_step(made) and format != "quiet":
        say("there is no checkpoint to go on from: this run starts anew")
    result = None
    with contextlib.suppress(KeyboardInterrupt), display, display.signals():
        result = api.tune(made, resume=resume, overwrite=overwrite, watch=watch)
    if result is None:
        _tell_interrupted(made, recipe, words)
        raise typer.Exit(INTERRUPTED)
    _show_result(result, format)
    if result.stopped:
        say(f"frog: a guard stopped the run: {result.stopped}")
        raise typer.Exit(STOPPED)


def _show_plan(plan: TunePlan, format: str, *, everything: bool) -> None:
    if format == "json":
        import json

        OUT.file.write(json.dumps(_plain_plan(plan), indent=2) + "\n")
    elif format != "quiet":
        from frog.report.tuning import preview_view

        OUT.print(preview_view(plan, everything=everything))


def _plain_plan(plan: TunePlan) -> dict[str, Any]:
    from frog.serial.plain import null

    facts = {
        "task": plan.recipe.task, "rows": dict(plan.rows), "steps": plan.steps,
        "epochs": plan.epochs, "batch": plan.batch, "trainable": plan.trainable,
        "chosen": plan.chosen, "whole": dict(plan.whole), "params": plan.params,
        "learning_rate": asdict(plan.rate),
        "head": None if plan.head is None else asdict(plan.head),
        "keep_change": plan.keep_change,
        "memory": {**asdict(plan.memory), "total": plan.memory.total},
        "layers": [
            {"name": x.name, "count": x.count, "params": x.params} for x in plan.plan.layers
        ],
        "notes": list(plan.notes),
    }  # fmt: skip
    return {"format": "frog-tune-plan", "version": 1, **null(facts)}


def _show_result(result: TuneResult, format: str) -> None:
    if format == "json":
        from frog.serial.plain import null, text_of

        plain = {"format": "frog-tune", "version": 1, **null(asdict(result))}
        OUT.file.write(text_of(plain))
    elif format != "quiet":
        from frog.report.tuning import result_view

        OUT.print(result_view(result))
    if format != "quiet":
        shown = _shortest(result.output)
        told = [name for name in TOLD if name in result.files]
        say(f"wrote {shown}: {', '.join(told)} and {len(result.files) - len(told)} more")
        suggest("frog", "gate", shown, "--baseline", _shortest(result.model))


def _shortest(path: str) -> str:
    """A path relative to the working directory, where that is shorter."""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path


def _tell_interrupted(made: Any, recipe: Path, words: list[str]) -> None:
    """What an interruption left, and how to go on."""
    from frog import api

    step = api.checkpoint_step(made)
    if step is None:
        say("interrupted before the training began: nothing is written")
        return
    if step:
        say(f"interrupted: the checkpoint of step {step:,} is kept; go on from there:")
    else:
        say("interrupted before the first checkpoint; start again:")
    suggest("frog", "tune", str(recipe), *words, "--resume")


class Display:
    """Stages, steps with time left, and the answer to Ctrl-C."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.began = time.monotonic()
        self.training_since = 0.0
        self.loss = ""
        self.stop = False
        self._untold = False
        self._first: tuple[int, float] | None = None
        self._last_line = 0.0
        self._bar: Any = None
        self._task: Any = None
        self._measuring = Progress(quiet=quiet)

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bars()

    def watch(self, *, jobs: int | None, cache: bool) -> Watch:
        """What the run tells this display."""
        from frog import api

        costs: dict[str, float] = {}

        def start(to_come: Any) -> None:
            costs.update(to_come)
            self._measuring.start(list(to_come.values()))

        def layer(done: Any) -> None:
            self._measuring.step(
                done.layer.name,
                costs.get(done.layer.name, 0.0),
                cached=done.cached,
                measured=bool(done.fingerprint) or done.layer.skipped is not None,
            )

        return api.Watch(
            on_stage=self.stage,
            on_step=self.step,
            on_log=self.log,
            on_plan=self.plan,
            asked_to_stop=lambda: self.stop,
            run=api.Run(jobs=jobs, cache=cache or None, on_start=start, on_layer=layer),
        )

    def stage(self, text: str) -> None:
        """A stage begins."""
        self._end_bars()
        self.training_since = time.monotonic() if text == "training" else 0.0
        if not self.quiet:
            minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
            say(f"{minutes:3d}:{seconds:02d}  {text}")

    def plan(self, setup: Any) -> None:
        """What is about to be trained, before the first step."""
        from frog.report.tuning import rate_text, trains

        if not self.quiet:
            whole = setup.whole
            self._tell(trains(setup.trainer.trainable, setup.params, whole))
            rate = rate_text(setup.rate)
            self._tell(rate if rate.startswith("lr ") else f"rate {rate}")

    def log(self, values: dict[str, Any]) -> None:
        """A loss, to be shown with the steps."""
        loss = values.get("loss")
        if isinstance(loss, int | float):
            self.loss = f"loss {loss:.4g}"

    def step(self, done: int, total: int, epoch: float) -> None:
        """An optimizer step is done."""
        now = time.monotonic()
        if self._first is None:
            self._first = (done - 1, self.training_since or now)
        left = self._left(done, total, now)
        if self._untold:
            self._answer()
        if self.quiet:
            return
        if TALK.is_terminal:
            self._show(done, total, f"{self.loss}  {left}")
        elif done == total or now - self._last_line >= EVERY:
            self._last_line = now
            say(f"{MARGIN}step {done}/{total}  epoch {epoch:.2f}  {self.loss}  {left}".rstrip())

    def _tell(self, text: str) -> None:
        """Talk beside the stages, within the width of the terminal."""
        width = max(40, TALK.width - len(MARGIN))
        for line in text.splitlines():
            for part in textwrap.wrap(line, width, break_on_hyphens=False):
                say(f"{MARGIN}{part}")

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the training after the step, with a checkpoint; twice: at once."""
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, self._asked)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _asked(self, number: int, frame: Any) -> None:
        del number, frame
        if not self.training_since or self.stop:
            raise KeyboardInterrupt
        self.stop = True
        try:
            self._answer()
        except RuntimeError:  # in the middle of a line, which no other may enter: told after it
            self._untold = True

    def _answer(self) -> None:
        self._untold = False
        self._end_bars()
        say("ending after this step, with a checkpoint (again: at once)")

    def _left(self, done: int, total: int, now: float) -> str:
        assert self._first is not None
        first, since = self._first
        if done <= first or done == total:
            return ""
        seconds = (now - since) / (done - first) * (total - done)
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"

    def _show(self, done: int, total: int, text: str) -> None:
        if self._bar is None:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn(" " * 6),
                progress.BarColumn(bar_width=20),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("{task.fields[text]}"),
                console=TALK,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=total, text="")
        self._bar.update(self._task, completed=done, text=text)

    def _end_bars(self) -> None:
        self._measuring.stop()
        self._measuring = Progress(quiet=self.quiet)
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        sys.stderr.flush()
