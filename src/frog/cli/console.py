"""stdout carries the result, stderr the talk."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from frog.report.words import printable

INTERRUPTED = 130
PARTIAL = 5


class Result(Console):
    """stdout: when its reader leaves, the command ends (``frog analyze MODEL | head``)."""

    def on_broken_pipe(self) -> None:
        """Let :func:`frog.cli.main.main` decide; Rich would end the process with code 1."""
        self.quiet = True
        raise BrokenPipeError


class Talk(Console):
    """stderr: nobody needs to listen, the work goes on."""

    def on_broken_pipe(self) -> None:
        """Fall silent."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


OUT = Result(highlight=False)
TALK = Talk(stderr=True, highlight=False)


def say(text: str) -> None:
    """A line of talk on stderr, without control characters that a file's names may hold."""
    TALK.print(Text(printable(text)), soft_wrap=True)


def suggest(*words: str) -> None:
    """The next useful command, ready to paste."""
    say(f"Next  {shlex.join(words)}")


class Progress:
    """A bar with time left on a terminal, a line per step otherwise.

    Time left goes by the cost of what is left, not by the count: layers differ a thousandfold.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.total = self.done = self.cached = self.measured = self.models = 0
        self.cost_total = self.cost_done = 0.0
        self.started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        self._last_line = 0.0

    def start(self, costs: Sequence[float]) -> None:
        """The costs of the matrices to come; a second model's come on top."""
        if not self.total:
            self.started = self._last_line = time.monotonic()
        self.models += 1
        self.total += len(costs)
        self.cost_total += sum(costs)
        if self._bar is not None:
            self._bar.update(self._task, total=self.cost_total)
            return
        if self.quiet or not TALK.is_terminal:
            return
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("measuring"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[layers]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[left]}"),
            console=TALK,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=self.cost_total, layers="", left="")

    def step(self, name: str, cost: float, *, cached: bool, measured: bool = True) -> None:
        """One matrix is done: measured, or its weights compared with those before."""
        self.done += 1
        self.cached += cached
        self.measured += measured
        self.cost_done += cost
        layers = f"{self.done}/{self.total}"
        left = self._left()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.cost_done, layers=layers, left=left)
        elif not self.quiet and self._due():
            what = "measured" if measured else "compared"
            say(f"{what} {layers} {name}{' (cached)' if cached else ''} {left}".rstrip())

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _left(self) -> str:
        elapsed = time.monotonic() - self.started
        if not self.cost_done or elapsed < 1.0 or self.done == self.total:
            return ""
        seconds = elapsed * (self.cost_total - self.cost_done) / self.cost_done
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"{seconds:.0f} s left"

    def _due(self) -> bool:
        """A line per step where steps are slow, at most two a second where they are fast."""
        now = time.monotonic()
        if self.done == self.total or now - self._last_line >= 0.5:
            self._last_line = now
            return True
        return False


def flush() -> None:
    """Make sure that everything said is out."""
    sys.stdout.flush()
    sys.stderr.flush()
