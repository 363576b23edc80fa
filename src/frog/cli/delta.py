"""``frog delta``: what changed between two models, entry by entry; applied, undone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frog.cli.console import OUT, say, suggest
from frog.cli.options import Format

delta = typer.Typer(
    help="Sparse deltas: make, apply, undo, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DeltaFile = Annotated[Path, typer.Argument(metavar="DELTA", help="A file of frog delta diff.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Must not exist yet.")]


@delta.command("diff")
def diff(
    before: Annotated[str, typer.Argument(metavar="BASE")],
    after: Annotated[str, typer.Argument(metavar="TUNED")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The delta.")] = None,
    format: Format = "auto",
) -> None:
    """Every changed entry between two models of the same tensors."""
    from frog import api
    from frog.report.deltas import delta_dict, delta_table

    made = api.diff(before, after)
    if out is not None:
        made.save(out)
    if format == "json":
        import json

        OUT.file.write(json.dumps(delta_dict(made), indent=2) + "\n")
    elif format != "quiet":
        OUT.print(delta_table(made))
    if format != "quiet" and out is not None:
        say(f"wrote {out} ({out.stat().st_size:,} bytes)")
        suggest("frog", "delta", "apply", before, str(out), "-o", "tuned")


@delta.command("apply")
def apply(
    base: Annotated[str, typer.Argument(metavar="BASE")],
    file: DeltaFile,
    out: Out,
    format: Format = "auto",
) -> None:
    """Write a copy of BASE with the delta applied, exact to the bit."""
    _carry_out(base, file, out, format, revert=False)


@delta.command("revert")
def revert(
    tuned: Annotated[str, typer.Argument(metavar="TUNED")],
    file: DeltaFile,
    out: Out,
    format: Format = "auto",
) -> None:
    """Write a copy of TUNED with the delta undone, exact to the bit."""
    _carry_out(tuned, file, out, format, revert=True)


@delta.command("export")
def export(
    file: DeltaFile,
    base: Annotated[str, typer.Option(help="The model that the delta was made for.")],
    out: Out,
    to: Annotated[str, typer.Option(help="shira, merged or card.")] = "shira",
    format: Format = "auto",
) -> None:
    """Write a delta as an adapter for peft, a merged checkpoint or a model card section."""
    from frog import api
    from frog.types import SparseDelta

    told = api.export_delta(SparseDelta.load(file), base, to, out)
    if format != "quiet":
        for line in told:
            OUT.print(line, soft_wrap=True)
        say(f"wrote {out}")


def _carry_out(model: str, file: Path, out: Path, format: str, *, revert: bool) -> None:
    from frog import api
    from frog.types import SparseDelta

    made = SparseDelta.load(file)
    api.apply_delta(model, made, out=out, revert=revert)
    if format != "quiet":
        done = "undone" if revert else "applied"
        OUT.print(f"{made.count:,} entries of {len(made.tensors)} tensors {done}: {out}",
                  soft_wrap=True)  # fmt: skip
        if not revert:
            suggest("frog", "compare", model, str(out))
