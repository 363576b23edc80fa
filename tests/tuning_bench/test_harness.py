"""The harness of the fine-tuning benchmark: cells, records, and runs through the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.dom.minidom import parseString

import numpy as np
import pytest

from benchmarks.tuning import cells, records
from benchmarks.tuning.cells import Cell, bare, catalogue
from benchmarks.tuning.figures import task_figures
from benchmarks.tuning.stages import Wanted, chosen_step, grid, ordered, records_of
from benchmarks.tuning.tables import report

TOYS = "tests.tuning_bench.toys"
ROOT = Path(__file__).parents[2]
CELL = Cell(task="toy", method="full", share=0.01, step=-1.0, seed=0, split="validation")


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.tuning.run", "--stage", "screen", "--catalogue", TOYS,
            "--folder", str(folder), "--steps=0", "--jobs", "1", *more]  # fmt: skip


def environment(nap: float = 0.0) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, "TOY_NAP": str(nap)}


def run(folder: Path, *more: str) -> tuple[int, str]:
    done = subprocess.run(command(folder, *more), cwd=ROOT, env=environment(), text=True,
                          capture_output=True, timeout=60, check=False)  # fmt: skip
    return done.returncode, done.stdout


def test_comments_and_docstrings_do_not_count_but_code_does():
    source = 'def f(x):\n    """Says."""\n    return x + 1\n'
    assert bare(source) == bare('"""New."""\ndef f(x):  # why\n    return (x + 1)\n')
    assert bare(source) != bare(source.replace("1", "2"))


def test_digest_follows_the_code_of_imported_modules(monkeypatch):
    known, plain = catalogue(TOYS), cells.syntax
    before = known.digest(CELL)
    assert known.digest(CELL) == before
    assert known.digest(CELL, 3) != before
    monkeypatch.setattr(
        cells, "syntax", lambda m: plain(m) + ("x" if m == "benchmarks.tuning.task" else "")
    )
    assert known.digest(CELL) != before


def test_keys_are_unique_and_safe():
    several = grid(catalogue(TOYS), Wanted(), methods=("full", "refuses"), seeds=(0, 1))
    keys = {cell.key for cell in several}
    assert len(keys) == len(several) == 2 * 2 * 4
    assert not any(set(key) & set("/ :") for key in keys)


def test_packing_keeps_values():
    rng = np.random.default_rng(0)
    truths, numbers = rng.random(37) > 0.5, rng.standard_normal(37)
    assert np.array_equal(records.unpack(records.pack(truths)), truths)
    assert np.allclose(records.unpack(records.pack(numbers)), numbers, rtol=1e-3, atol=1e-3)
    assert len(records.pack(truths)["data"]) < 10


def made(cell: Cell, new: float = 1.0, status: str = "done") -> records.Record:
    return {**records.ended(cell, status, "", digest="d"), "new": {"quality": new}}


def test_collected_records_are_read_again_and_running_ones_go_first(tmp_path):
    other = Cell(task="toy", method="full", share=0.01, step=0.5, seed=1, split="validation")
    failed = Cell(task="toy", method="full", share=0.01, step=0.5, seed=2, split="validation")
    for cell in (CELL, other):
        records.save(made(cell), tmp_path / "run")
    records.save(made(failed, status="failed"), tmp_path / "run")
    (path,) = records.collect(tmp_path / "run", tmp_path / "packed")
    assert path.name == "toy-validation.jsonl"
    assert len(path.read_text().splitlines()) == 2
    assert records.load(tmp_path / "none", tmp_path / "packed") == {
        c: made(c) for c in (CELL, other)
    }
    records.save(made(CELL, 2.0), tmp_path / "run")
    assert records.load(tmp_path / "run", tmp_path / "packed")[CELL]["new"]["quality"] == 2.0


def test_step_is_chosen_by_the_mean_on_validation_alone():
    there = {}
    for step, seed, split, new in (
        (0.0, 0, "validation", 50), (0.0, 1, "validation", 60), (1.0, 0, "validation", 58),
        (2.0, 0, "test", 99),
    ):  # fmt: skip
        cell = Cell(task="toy", method="full", share=0.01, step=step, seed=seed, split=split)
        there[cell] = made(cell, new)
    assert chosen_step(there, "toy", "full", 0.01) == 1.0
    with pytest.raises(ValueError, match="got none"):
        chosen_step(there, "toy", "head", 0.01)


def test_slow_tasks_come_last():
    several = [Cell(task=t, method="full", share=0.01, step=0, seed=s, split="test")
               for t in ("plays", "signs") for s in (1, 0)]  # fmt: skip
    assert [(c.task, c.seed) for c in ordered(several)] == [
        ("signs", 0), ("signs", 1), ("plays", 0), ("plays", 1)
    ]  # fmt: skip


@pytest.mark.slow
def test_command_line_runs_resumes_and_records_failures(tmp_path):
    code, out = run(tmp_path, "--seeds", "0")
    assert code == 1 and "failed: RuntimeError: broken toy" in out
    there = {c.method: r for c, r in records.load(tmp_path, tmp_path).items()}
    assert {m: r["status"] for m, r in there.items()} == {
        "full": "done", "head": "done", "refuses": "n/a", "breaks": "failed"
    }  # fmt: skip
    each = records.unpack(there["full"]["new"]["each"])
    assert there["full"]["new"]["quality"] == pytest.approx(100 * each.mean())
    assert there["full"]["moved"] > 0 == there["head"]["moved"]
    known = catalogue(TOYS)
    written = report(records.load(tmp_path, tmp_path), known, "screen")
    assert "| full | control | 0.01 | 0 | 1 |" in written
    assert "- refuses: toys are beneath it" in written
    drawn = task_figures(records.load(tmp_path, tmp_path), "toy")
    assert len(drawn) == 3
    assert all(len(parseString(x).getElementsByTagName("circle")) == 2 for x in drawn.values())
    stale = {**there["full"], "digest": "other"}
    records.save(stale, tmp_path)
    code, out = run(tmp_path, "--seeds", "0", "--methods", "full,head,refuses")
    assert code == 0 and "3 cells, 0 to run, 1 stale" in out
    run(tmp_path, "--seeds", "0", "--methods", "full", "--stale")
    again = records.load(tmp_path, tmp_path)[records.cell_of(stale)]
    assert again["digest"] == there["full"]["digest"]


@pytest.mark.slow
def test_stopped_run_goes_on_where_it_was(tmp_path):
    more = ("--methods", "full", "--seeds", "0,1,2,3")
    process = subprocess.Popen(command(tmp_path, *more), cwd=ROOT, env=environment(0.05), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    until = time.monotonic() + 30
    while not list(tmp_path.glob("*.json")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert process.returncode == 130 and "stopped" in out
    kept = len(list(tmp_path.glob("*.json")))
    assert 1 <= kept < 4
    code, out = run(tmp_path, *more)
    assert code == 0 and f"{4 - kept} to run" in out


def test_the_fast_suite_names_who_cannot_take_a_task():
    known = catalogue()

    def record(method: str, split: str, step: float, **more: object) -> tuple[Cell, dict]:
        cell = Cell(task="signs", method=method, share=0.01, step=step, seed=0, split=split)
        return cell, {"status": "done", "new": {"quality": 10.0 + step}, **more}

    refusal = record("pissa", "validation", 0.0, status="n/a", reason="takes linear layers only")
    idea = record("random+distil", "validation", 0.0, status="n/a", reason="is an idea")
    done = [
        record(m, "validation", s) for m in known.methods for s in (-1.0, 0.0)
        if m not in ("pissa", "random+distil")
    ]  # fmt: skip
    there = dict([*done, refusal, idea, record("lora", "test", 0.0)])
    there |= {replace(c, task="photos"): r for c, r in there.items() if c.split == "validation"}
    found = records_of("fast", known, there)
    assert {c.split for c in found} == {"test"}
    assert {(c.method, r["status"]) for c, r in found.items()} == {
        ("lora", "done"),
        ("pissa", "n/a"),
    }
