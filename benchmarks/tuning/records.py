"""What came of the cells: a file a cell while running, packed into one file a task and split."""

from __future__ import annotations

import base64
import json
import math
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tuning.cells import Cell
from benchmarks.tuning.task import Score
from benchmarks.tuning.train import Outcome

WORK = Path(__file__).parents[1] / ".work" / "tuning"
PACKED = Path(__file__).parents[1] / "results" / "tuning"
Record = dict[str, Any]


def pack(each: np.ndarray) -> Record:
    """One value an example as text: truths as bits, numbers as float16."""
    each = np.asarray(each)
    truths = each.dtype == bool or bool(np.isin(each, (0, 1)).all())
    raw = np.packbits(each.astype(bool)) if truths else each.astype("<f2")
    kind = "bits" if truths else "float16"
    return {"kind": kind, "count": each.size, "data": base64.b64encode(raw.tobytes()).decode()}


def unpack(packed: Record) -> np.ndarray:
    """The values again, as float64; those packed as float16 have 3 digits."""
    raw = base64.b64decode(packed["data"])
    if packed["kind"] == "bits":
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=packed["count"])
        return bits.astype(np.float64)
    return np.frombuffer(raw, "<f2").astype(np.float64)


def finite(value: float) -> float | None:
    """A number that JSON has, None for the others."""
    return float(value) if math.isfinite(value) else None


def side(score: Score) -> Record:
    """A score as a record."""
    return {
        "quality": finite(score.quality), "loss": finite(score.loss), "each": pack(score.each)
    }  # fmt: skip


def finished(cell: Cell, outcome: Outcome, *, digest: str, rate: float) -> Record:
    """Record of a run that came to its end; its status is ``diverged`` where the loss was lost."""
    sound = all(math.isfinite(x) for x in
                (outcome.train_loss, outcome.new.quality, outcome.old.quality))  # fmt: skip
    return {
        **asdict(cell), "digest": digest, "rate": rate, "status": "done" if sound else "diverged",
        "new": side(outcome.new), "old": side(outcome.old), "trainable": outcome.trainable,
        "delta_bytes": outcome.delta_bytes, "step_seconds": outcome.step_seconds,
        "seconds": outcome.seconds, "moved": finite(outcome.moved), "facts": outcome.facts,
    }  # fmt: skip


def ended(cell: Cell, status: str, reason: str, *, digest: str) -> Record:
    """Record of a cell without outcome: ``n/a`` or ``failed``, and why."""
    return {**asdict(cell), "digest": digest, "status": status, "reason": reason}


def cell_of(record: Record) -> Cell:
    """The cell of a record."""
    return Cell(**{field.name: record[field.name] for field in fields(Cell)})


def write(path: Path, text: str) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


def line(record: Record) -> str:
    """A record as one line; what JSON does not know becomes text."""
    return json.dumps(record, sort_keys=True, default=str)


def save(record: Record, folder: Path = WORK) -> None:
    """Keep the record of a cell."""
    write(folder / f"{cell_of(record).key}.json", line(record) + "\n")


def load(folder: Path = WORK, packed: Path = PACKED) -> dict[Cell, Record]:
    """All records; that of the running folder goes before a packed one of the same cell."""
    lines = [x for path in sorted(packed.glob("*.jsonl")) for x in path.read_text().splitlines()]
    lines += [path.read_text() for path in sorted(folder.glob("*.json"))]
    return {cell_of(record): record for record in map(json.loads, lines)}


def collect(folder: Path = WORK, packed: Path = PACKED) -> list[Path]:
    """Pack all records but failed ones into a sorted file a task and split; gives the files."""
    groups: dict[str, list[Record]] = {}
    for cell, record in sorted(load(folder, packed).items()):
        if record["status"] != "failed":
            groups.setdefault(f"{cell.task}-{cell.split}.jsonl", []).append(record)
    for name, records in groups.items():
        write(packed / name, "".join(line(record) + "\n" for record in records))
    return [packed / name for name in groups]


if __name__ == "__main__":
    for written in collect():
        print(written)
