"""``frog VERB MODEL [flags]``: the verbs, and what each error becomes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from types import FrameType

import typer

from frog.cli import (
    analyze,
    apply,
    compare,
    demo,
    gate,
    inspect,
    listing,
    merge,
    plan,
    recommend,
    report,
    select,
    tune,
    verify,
)
from frog.cli.console import flush, say
from frog.cli.delta import delta
from frog.errors import FrogError
from frog.version import __version__

app = typer.Typer(
    name="frog",
    help="Measure the weights of a neural network without data; tune those that matter.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("analyze")(analyze.analyze)
app.command("compare")(compare.compare)
app.command("recommend")(recommend.recommend)
app.command("gate")(gate.gate)
app.command("report")(report.report)
app.command("plan")(plan.plan)
app.command("select")(select.select)
app.command("apply")(apply.apply)
app.command("verify")(verify.verify)
app.command("tune")(tune.tune)
app.add_typer(delta, name="delta")
app.command("inspect")(inspect.inspect)
app.command("merge")(merge.merge)
app.command("list")(listing.list_names)
app.command("demo")(demo.demo)

NOISY = ("torchao", "torch.utils._pytree")
"""Loggers that warn of kernels for other machines whenever something imports torchao."""


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        typer.echo(f"frog {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; the process ends with the exit code of interface and errors."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a stream that is no text file of the system
            # a name that the terminal's encoding lacks must not end the run
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with contextlib.suppress(ValueError):  # not the main thread: the caller handles signals
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _run()
        sys.stdout.flush()
    except FrogError as error:
        say(f"frog: {error}")
        code = error.exit_code
    except BrokenPipeError:
        # the reader of our output left: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        say(f"frog: {error}: the result could not be written or the model not be read")
        code = FrogError.exit_code
    except MemoryError:
        say("frog: out of memory: --jobs 1 measures one matrix at a time")
        code = FrogError.exit_code
    flush()
    sys.exit(code)


def _run() -> int:
    """The exit code of the command; typer has already turned some errors into one."""
    try:
        app(prog_name="frog")
    except SystemExit as end:
        if _came_from(end, BrokenPipeError):
            raise BrokenPipeError from None
        if _came_from(end, KeyboardInterrupt):
            say("interrupted")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _came_from(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__context__
    return False


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM (a job scheduler's time limit) ends a run as Ctrl-C does: resumable."""
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
