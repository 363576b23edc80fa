"""``frog VERB MODEL [flags]``: the verbs, and what each error becomes."""

from __future__ import annotations

import os
import sys

import typer

from frog.cli import analyze, demo, inspect, listing, merge
from frog.cli.console import flush, say
from frog.errors import FrogError
from frog.version import __version__

app = typer.Typer(
    name="frog",
    help="Measure the weights of a neural network without data.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("analyze")(analyze.analyze)
app.command("inspect")(inspect.inspect)
app.command("merge")(merge.merge)
app.command("list")(listing.list_names)
app.command("demo")(demo.demo)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        typer.echo(f"frog {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; the process ends with the exit code of interface and errors."""
    try:
        app()
    except FrogError as error:
        say(f"frog: {error}")
        flush()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # the reader of our output left: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
