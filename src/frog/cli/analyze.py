"""``frog analyze``: measure a model and write what was found."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from frog.cli.console import INTERRUPTED, OUT, PARTIAL, Progress, flush, say, suggest
from frog.cli.options import Base, Exclude, Format, Include, Model, parse_shard
from frog.errors import UsageError
from frog.report.words import count
from frog.types import Settings

if TYPE_CHECKING:
    from frog.types import ModelReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where the report goes besides the terminal."""

    folder: Path | None
    json: Path | None
    csv: Path | None
    parquet: Path | None

    @classmethod
    def of(cls, folder: Path | None, json: Path | None, csv: Path | None,
           parquet: Path | None) -> Outputs:  # fmt: skip
        """The named files; a folder gets report.json and layers.csv besides."""
        if folder is not None:
            json, csv = json or folder / "report.json", csv or folder / "layers.csv"
        return cls(folder=folder, json=json, csv=csv, parquet=parquet)

    def check(self) -> None:
        """Refuse an output that cannot be written before hours are spent measuring."""
        if self.folder is not None:
            _check_folder(self.folder)
        paths = [path for path in (self.json, self.csv, self.parquet) if path is not None]
        if len({path.absolute() for path in paths}) < len(paths):
            raise UsageError(f"every output must be a file of its own, got {paths[0]} twice")
        for path in paths:
            if path.is_dir():
                raise UsageError(f"{path}: must be a file, got a folder: give a file name in it")
            if path.parent != self.folder:
                _check_parent(path)
        if self.parquet is not None:
            from frog.report.frames import require_pyarrow

            require_pyarrow()

    def write(self, report: ModelReport) -> list[Path]:
        """Write every file whole, and give their names."""
        from frog.report.frames import write_csv, write_parquet

        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        written: list[Path] = []
        if self.json is not None:
            report.to_json(self.json)
            written.append(self.json)
        if self.csv is not None:
            write_csv(report, self.csv)
            written.append(self.csv)
        if self.parquet is not None:
            write_parquet(report, self.parquet)
            written.append(self.parquet)
        return written


def _check_folder(folder: Path) -> None:
    """The folder is there and can be written to, or can be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{folder}: must be a folder, got a file at {there}: choose another")
    if not os.access(there, os.W_OK):
        raise UsageError(f"{folder}: {there} must be writable: choose another folder")


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: its folder must exist, got {path.parent}: make it")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: its folder must be writable: choose another")


def analyze(  # noqa: PLR0913 - a flag is an argument here
    model: Model,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for report.json and layers.csv.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the layers as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write the layers as Parquet.")] = None,
    base: Base = None,
    include: Include = None,
    exclude: Exclude = None,
    estimator: Annotated[str, typer.Option(help="ks, hill or tpl.")] = "ks",
    precision: Annotated[
        str, typer.Option(help="exact (float64) or fast (float32, guarded).")
    ] = "exact",
    compat: Annotated[
        str | None, typer.Option(help="weightwatcher: its numbers to the digit.")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(help="Resamples for alpha's 95 % interval; 0: none.")
    ] = 200,
    goodness: Annotated[
        int, typer.Option(help="Synthetic samples for alpha's goodness of fit; 0: none.")
    ] = 0,
    min_evals: Annotated[int, typer.Option(help="Fewest eigenvalues that are fitted.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    save_spectra: Annotated[
        bool, typer.Option(help="Keep every singular value in the JSON.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Layers at once; default: all processors.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="i/n: measure the i-th of n parts; frog merge joins them.")
    ] = None,
    cluster: Annotated[bool, typer.Option(help="Spread the layers over a Ray cluster.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: Annotated[bool, typer.Option(help="Reuse and keep measured layers.")] = True,
    all_layers: Annotated[bool, typer.Option("--all", help="Print every layer.")] = False,
    format: Format = "auto",
) -> None:
    """Measure every weight matrix of MODEL: no data, no model class, no forward pass."""
    from frog import api

    outputs = Outputs.of(out, json, csv, parquet)
    outputs.check()
    settings = Settings(
        estimator=estimator,
        precision=precision,
        compat=compat,
        min_evals=min_evals,
        bootstrap=bootstrap,
        goodness=goodness,
        seed=seed,
        save_spectra=save_spectra,
    )
    progress = Progress(quiet=format == "quiet")
    costs: dict[str, float] = {}

    def on_start(to_come: Mapping[str, float]) -> None:
        costs.update(to_come)
        progress.start(list(costs.values()))

    run = api.Run(
        jobs=jobs,
        device=device,
        cache=cache,
        shard=parse_shard(shard),
        cluster=cluster,
        on_start=on_start,
        on_layer=lambda m: progress.step(m.layer.name, costs[m.layer.name], m.cached),
    )
    try:
        report = api.analyze(model, settings, base=base, include=include, exclude=exclude, run=run)
        progress.stop()
        written = outputs.write(report)
    except KeyboardInterrupt:
        _give_up(progress, kept=cache)
    finally:
        progress.stop()
    show(report, format=format, all_layers=all_layers)
    if format != "quiet":
        if progress.cached:
            say(f"{progress.cached} of {progress.total} layers were in the cache")
        for path in written:
            say(f"wrote {path}")
    if report.failed:
        say(f"{count(len(report.failed), 'layer')} could not be measured; everything else was")
    if format != "quiet":
        _next(model, report, outputs)
    if report.failed:
        raise typer.Exit(PARTIAL)


def _give_up(progress: Progress, *, kept: bool) -> NoReturn:
    """Say what an interruption leaves and how to go on; leave at once."""
    progress.stop()
    done = f"interrupted: {progress.done} of {progress.total} layers"
    if not progress.total:
        say("interrupted before the first layer")
    elif kept:
        say(f"{done} are kept in the cache; the same command goes on from there:")
        suggest("frog", *sys.argv[1:])
    else:
        say(f"{done} were measured and are lost: without --no-cache they would be kept")
    flush()
    os._exit(INTERRUPTED)  # layers in flight cannot be stopped, and nobody waits for them


def show(report: ModelReport, *, format: str, all_layers: bool = False) -> None:
    """Print a report on stdout in the format asked for."""
    if format == "json":
        from frog.serial import report_to_json

        OUT.file.write(report_to_json(report))
    elif format != "quiet":
        from frog.report.terminal import TABLE_LAYERS, layer_table, summary_panel

        OUT.print(summary_panel(report))
        if not report.measured:
            return
        OUT.print()
        OUT.print(layer_table(report, limit=None if all_layers else TABLE_LAYERS, width=OUT.width))


def _next(model: str, report: ModelReport, outputs: Outputs) -> None:
    if report.failed or any("matrix?" in layer.role for layer in report.measured):
        suggest("frog", "inspect", model)
    elif outputs.json is None:
        suggest("frog", "analyze", model, "-o", "frog-out")
    else:
        suggest("frog", "list", "metrics")
