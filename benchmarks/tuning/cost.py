"""What a step costs: ``python -m benchmarks.tuning.cost``, fresh processes, methods by turns.

CPU time of a training step and peak memory of the process up to the end of training (selection and
measurement of the weights included, evaluation not), and the file of the delta.

Time is measured twice: as it is, and with an allocator that gives nothing back to the system. As it
is a step pays for 200 to 2,000 page faults, by what happens to lie at the end of the heap, which
moves the time of the same step by up to a tenth from process to process, for every method.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks import measuring
from benchmarks.tuning import records
from benchmarks.tuning.cells import Cell, catalogue
from benchmarks.tuning.method import NotApplicable
from benchmarks.tuning.run import THREADS, listed
from benchmarks.tuning.stages import FINAL, SHARE, share_for
from benchmarks.tuning.task import Score
from benchmarks.tuning.train import train

STEPS = 24
KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
"""Settings of glibc: freed memory stays with the process."""

HOW = f"""\
CPU time of a step: median of {STEPS} steps of a process that keeps the memory it was given (glibc:
no trimming, no mapping), and as it is: there a step pays for page faults, whose number hangs on
what lies at the end of the heap, not on the method. Peak: resident memory of the process as it is
until training ends, libraries and data included; added: of that beyond what was held before the
model was copied. Medians [smallest, largest] of the processes."""


def held(key: str) -> int:
    """A figure of this process's memory in KiB."""
    return int(re.findall(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def measured(task_name: str, method_name: str, steps: int) -> dict[str, Any]:
    """One short run in this process; its scores are not computed."""
    torch.set_num_threads(1)
    known = catalogue()
    task, method = known.tasks[task_name](), known.methods[method_name]
    share = share_for(known, method_name, SHARE)
    cell = Cell(task=task_name, method=method_name, share=share, step=-1.0, seed=0,
                split="validation")  # fmt: skip
    peak: list[int] = []

    def unjudged(_: str) -> Score:
        peak.append(held("VmHWM"))
        return Score(quality=0.0, loss=0.0, each=torch.zeros(1).numpy())

    vars(task).update(new=unjudged, old=unjudged)
    base = held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    try:
        found = train(task, method, share=share, rate=cell.rate(task, method), seed=0,
                      split="validation", steps=steps)  # fmt: skip
    except NotApplicable as reason:
        return {"task": task_name, "method": method_name, "reason": str(reason)}
    return {
        "task": task_name, "method": method_name, "step_seconds": found.step_seconds,
        "peak_mib": peak[0] / 1024, "added_mib": (peak[0] - base) / 1024,
        "trainable": found.trainable, "delta_bytes": found.delta_bytes,
    }  # fmt: skip


def in_a_process(task: str, method: str, steps: int, settings: dict[str, str]) -> dict[str, Any]:
    """:func:`measured` in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.tuning.cost", "--one", task, method,
             "--steps", str(steps)]  # fmt: skip
    environment = os.environ | dict.fromkeys(THREADS, "1") | settings
    done = subprocess.run(words, env=environment, text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def both(task: str, method: str, steps: int) -> dict[str, Any]:
    """A process as it is, and the time of a step of one that keeps its memory."""
    run = in_a_process(task, method, steps, {})
    if "reason" not in run:
        kept = in_a_process(task, method, steps, KEEPING)
        run["kept_step_seconds"] = kept["step_seconds"]
    return run


def spread(runs: Sequence[dict[str, Any]], key: str, factor: float = 1.0) -> str:
    """Median and extremes of a figure."""
    return measuring.told([factor * r[key] for r in runs], 1)


def table(runs: Sequence[dict[str, Any]], default: str, command: str) -> str:
    """Medians and extremes by task and method, and the ratios to LoRA."""
    lines = [
        "# What a step costs", "", f"{date.today().isoformat()}, `{command}`", "",
        f"Machine: `{json.dumps(measuring.machine())}`", "",
        HOW, "",
        "| task | method | trained | step, ms | step as it is, ms | peak, MiB | added, MiB "
        "| bytes a weight | step / LoRA | as it is / LoRA | peak / LoRA |", "|" + " --- |" * 11,
    ]  # fmt: skip
    ratio_of = ("kept_step_seconds", "step_seconds", "peak_mib")
    for task in dict.fromkeys(r["task"] for r in runs):
        done = [r for r in runs if r["task"] == task and "reason" not in r]
        middle = {
            m: {k: statistics.median(r[k] for r in done if r["method"] == m)
                for k in (*ratio_of, "trainable", "delta_bytes")}
            for m in dict.fromkeys(r["method"] for r in done)
        }  # fmt: skip
        lora = middle.get("lora")
        for method, x in middle.items():
            mine = [r for r in done if r["method"] == method]
            ratios = [f"{x[k] / lora[k]:.2f}" for k in ratio_of] if lora else ["-"] * len(ratio_of)
            size = x["delta_bytes"] / x["trainable"] if x["trainable"] else 0.0
            name = f"**{method}**" if method == default else method
            lines.append(
                f"| {task} | {name} | {x['trainable']:,.0f} | "
                f"{spread(mine, 'kept_step_seconds', 1e3)} | "
                f"{spread(mine, 'step_seconds', 1e3)} | "
                f"{spread(mine, 'peak_mib')} | {spread(mine, 'added_mib')} | {size:.2f} | "
                + " | ".join(ratios) + " |"
            )  # fmt: skip
        lines += [f"| {task} | {r['method']} | n/a: {r['reason']} |" + " |" * 8
                  for r in {r["method"]: r for r in runs
                            if r["task"] == task and "reason" in r}.values()]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all pairs of task and method, and write ``cost.md`` and ``cost.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning.cost", description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("TASK", "METHOD"), help="in this process")
    parser.add_argument("--tasks", type=listed(str))
    parser.add_argument("--methods", type=listed(str))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=Path, default=records.PACKED)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(measured(given.one[0], given.one[1], given.steps)))
        return 0
    default = json.loads(FINAL.read_text())["default"] if FINAL.exists() else ""
    methods = given.methods or list(dict.fromkeys([default, "lora", "full"]))
    runs: list[dict[str, Any]] = []
    for _ in range(given.rounds):
        for task in given.tasks or catalogue().tasks:
            for method in methods:
                runs.append(both(task, method, given.steps))
    command = "python -m benchmarks.tuning.cost " + " ".join(arguments or sys.argv[1:])
    records.write(given.folder / "cost.md", table(runs, default, command.strip()))
    records.write(given.folder / "cost.json", json.dumps(runs, indent=1) + "\n")
    print(given.folder / "cost.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
