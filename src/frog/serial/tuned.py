"""``metrics.json``, what a run of frog tune measured: written, found again, read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frog.errors import ReportError, UsageError
from frog.serial.plain import (
    check_header,
    get,
    nan,
    null,
    number,
    parse_file,
    shown,
    text_of,
    validated,
)
from frog.types.recipes import TuneResult

METRICS_FORMAT = "frog-metrics"
METRICS_VERSION = 1
NAME = "metrics.json"
STATE = Path("checkpoints") / "run.json"
"""Where a run keeps what it needs to go on."""

MAKE = "frog tune"
KEPT = (
    "model", "mode", "task", "metric", "higher", "before", "after", "rows", "digests", "trainable",
    "changed", "params", "steps", "seconds", "cpu_seconds", "memory", "device", "delta_bytes",
    "rate", "head", "keep_change", "resumed_at", "stopped", "alarms", "notes",
)  # fmt: skip
NUMBERS = ("seconds", "cpu_seconds", "memory")
COUNTS = ("trainable", "changed", "params", "steps", "delta_bytes")


def metrics_to_json(result: TuneResult, log: Sequence[Mapping[str, Any]]) -> str:
    """The file's text: the result of a run, and what the Trainer logged."""
    plain = asdict(result)
    kept = {name: plain[name] for name in KEPT}
    head = {"format": METRICS_FORMAT, "version": METRICS_VERSION}
    return text_of({**head, **null(kept), "log": null(list(log))})


def is_run(path: Any) -> bool:
    """Whether a folder is the output of frog tune, finished or not.

    Other tools write a ``metrics.json`` too: ours says what it is, or has our state beside it.
    """
    if not isinstance(path, str | Path):
        return False
    try:
        folder = Path(path).expanduser()
        if _format(folder / STATE) == "frog-run":
            return True
        file = folder / NAME
        # a pipe would wait for a writer, for ever
        return file.is_file() and METRICS_FORMAT in file.read_text(errors="replace")[:200]
    except (OSError, ValueError, RuntimeError):  # no such folder, a name that is none
        return False


def read_metrics(path: Any) -> TuneResult:
    """What a run measured, from its folder.

    Raises :class:`~frog.errors.UsageError` for a run that has not finished, and
    :class:`~frog.errors.ReportError` for a damaged file.
    """
    folder = Path(path).expanduser()
    origin = folder / NAME
    if not origin.exists() and (folder / STATE).exists():
        raise UsageError(
            f"{folder}: must be a run that has finished, got one without {NAME}: "
            "frog tune RECIPE --resume goes on with it"
        )
    data = parse_file(origin, "the metrics of a run of frog tune", make=MAKE)
    check_header(data, METRICS_FORMAT, METRICS_VERSION, str(origin), make=MAKE)
    flat = {name: data[name] for name in KEPT if name in data}
    flat |= {name: number(flat[name]) for name in NUMBERS if name in flat}
    for name in ("before", "after"):
        splits = get(data, name)
        if isinstance(splits, dict):
            flat[name] = {split: nan(metrics) for split, metrics in splits.items()}
    made = validated(TuneResult, {"output": str(folder), "model": "", **flat}, str(origin),
                     make=MAKE)  # fmt: skip
    for name in (*NUMBERS, *COUNTS):
        if getattr(made, name) < 0:
            raise ReportError(
                f"{origin}: {name} must be at least 0, got {shown(getattr(made, name))}: "
                f"the file is damaged or was edited; write it again with {MAKE}"
            )
    return made


def _format(path: Path) -> Any:
    try:
        return get(json.loads(path.read_text()), "format") if path.is_file() else None
    except ValueError:
        return None
