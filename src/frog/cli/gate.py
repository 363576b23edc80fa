"""``frog gate``: does a model keep to a policy? For CI: exit code 3 where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frog.cli.console import OUT, PARTIAL, Progress, suggest
from frog.cli.options import Base, Device, Format, Jobs, UseCache
from frog.cli.outputs import Outputs
from frog.cli.running import resumable, run_of, tell_cached
from frog.errors import UnknownName

FAILED_GATE = 3
FAIL_ON = ("warning", "error")


def _fail_on(value: str | None) -> str | None:
    if value is not None and value not in FAIL_ON:
        raise UnknownName("severity", value, FAIL_ON)
    return value


def gate(  # noqa: PLR0913 - a flag is an argument here
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model, or a report that frog analyze --json wrote."
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Model or report that the model must not fall behind.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Rules as YAML; see docs/reference/policy.md.")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(help="warning or error; default: what the policy says.", callback=_fail_on),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write every breach as JSON.")] = None,
    base: Base = None,
    jobs: Jobs = None,
    device: Device = "auto",
    cache: UseCache = True,
    format: Format = "auto",
) -> None:
    """Check MODEL against a policy, and against a baseline: exit code 3 where it fails."""
    from frog import api

    outputs = Outputs(json=json)
    outputs.check()
    outputs.keep(model, baseline, policy)
    progress = Progress(quiet=format == "quiet")
    run = run_of(progress, jobs=jobs, device=device, cache=cache)
    with resumable(progress, kept=cache):
        result = api.gate(
            model, baseline=baseline, policy=policy, fail_on=fail_on, base=base, run=run
        )
        progress.stop()
        if json is not None:
            result.to_json(json)
    if format == "json":
        OUT.file.write(result.to_json())
    elif format != "quiet":
        from frog.report.gate import gate_lines

        for line in gate_lines(result):
            OUT.print(line, soft_wrap=True)
    if format != "quiet":
        tell_cached(progress)
        outputs.tell()
        if not result.passed and baseline is not None:
            suggest("frog", "compare", baseline, model, *(("--base", base) if base else ()))
        elif not result.passed and not model.endswith(".json"):
            suggest("frog", "analyze", model, "-o", "frog-out")
    if not result.passed:
        raise typer.Exit(FAILED_GATE)
    if result.unmeasured:
        raise typer.Exit(PARTIAL)
