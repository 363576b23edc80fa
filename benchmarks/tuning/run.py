"""Run the cells of a stage: ``python -m benchmarks.tuning.run --stage screen``.

Cells that are done are skipped, so a run that was stopped goes on where it was. Every cell is
kept as soon as it is done.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from benchmarks.tuning import records
from benchmarks.tuning.cells import Catalogue, Cell, catalogue
from benchmarks.tuning.method import NotApplicable
from benchmarks.tuning.stages import STAGES, Wanted, ordered
from benchmarks.tuning.task import Task
from benchmarks.tuning.train import autocast, train

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_cell(
    known: Catalogue, tasks: dict[str, Any], *, cell: Cell, digest: str, train_steps: int
) -> records.Record:
    """Run one cell; whatever goes wrong becomes its record."""
    try:
        if cell.task not in tasks:
            tasks[cell.task] = known.tasks[cell.task]()
        task, method = tasks[cell.task], known.methods[cell.method]
        rate = cell.rate(task, method)
        outcome = train(task, method, share=cell.share, rate=rate, seed=cell.seed,
                        split=cell.split, steps=train_steps)  # fmt: skip
        record = records.finished(cell, outcome, digest=digest, rate=rate)
        # a task without a new head has no method that tells where it starts
        return record if task.head else {**record, "start": start_of(task, cell.split)}
    except NotApplicable as reason:
        return records.ended(cell, "n/a", str(reason), digest=digest)
    except Exception as error:
        traceback.print_exc()
        last = traceback.format_exception_only(error)[-1].strip()
        return records.ended(cell, "failed", last, digest=digest)


def start_of(task: Task, split: str) -> list[float]:
    """New and old quality before tuning."""
    task.begin(0)
    with torch.no_grad(), autocast(task):
        return [task.new(split).quality, task.old(split).quality]


def work(pipe: Connection, module: str, folder: Path, train_steps: int) -> None:
    """A worker: takes (cell, digest) from the pipe, keeps the record, and sends it back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    known, tasks = catalogue(module), {}
    while True:
        try:
            cell, digest = pipe.recv()
        except EOFError:  # the parent is gone or has no more
            return
        record = run_cell(known, tasks, cell=cell, digest=digest, train_steps=train_steps)
        records.save(record, folder)
        try:
            pipe.send(record)
        except BrokenPipeError:
            return


class Workers:
    """Persistent worker processes, each with the cell that it is at."""

    def __init__(self, count: int, *, module: str, folder: Path, train_steps: int) -> None:
        os.environ.update(dict.fromkeys(THREADS, "1"))
        self.arguments = module, folder, train_steps
        self.busy: dict[Connection, tuple[Any, Cell | None, str]] = {}
        for _ in range(count):
            self.start()

    def start(self) -> None:
        """One more worker."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, *self.arguments), daemon=True)
        process.start()
        theirs.close()
        self.busy[ours] = process, None, ""

    def run(
        self, cells: Sequence[tuple[Cell, str]], tell: Callable[[records.Record], None],
        until: float,
    ) -> None:  # fmt: skip
        """Run the cells in their order; no new one begins after ``until``."""
        waiting = list(reversed(cells))
        while True:
            for pipe, (process, cell, _) in list(self.busy.items()):
                if cell is None and waiting and time.monotonic() < until:
                    item = waiting.pop()
                    self.busy[pipe] = process, *item
                    pipe.send(item)
            going = [pipe for pipe, (_, cell, _) in self.busy.items() if cell is not None]
            if not going:
                return
            for pipe in wait(going):
                assert isinstance(pipe, Connection)
                process, cell, digest = self.busy[pipe]
                try:
                    record = pipe.recv()
                    self.busy[pipe] = process, None, ""
                except (EOFError, ConnectionResetError):
                    assert cell is not None
                    process.join()
                    record = records.ended(
                        cell, "failed", f"its process ended with {process.exitcode}", digest=digest
                    )
                    records.save(record, self.arguments[1])
                    del self.busy[pipe]
                    self.start()
                tell(record)

    def close(self) -> None:
        """End the workers, in the middle of their cells where they are at some."""
        for pipe, (process, _, _) in self.busy.items():
            process.terminate()
            pipe.close()
        for process, _, _ in self.busy.values():
            process.join()


def described(record: records.Record) -> str:
    """A finished cell in one line."""
    head = f"{record['task']} {record['method']} {record['share']:g} k={record['step']:g} "
    head += f"seed {record['seed']}: "
    if "new" not in record:
        return head + f"{record['status']}: {record['reason']}"
    new, old = (record[x]["quality"] for x in ("new", "old"))
    numbers = " ".join(f"{n} {'-' if q is None else f'{q:.2f}'}"
                       for n, q in (("new", new), ("old", old)))  # fmt: skip
    lost = " diverged" if record["status"] == "diverged" else ""
    return head + f"{numbers}, {record['seconds']:.1f} s{lost}"


def listed(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Values between commas."""
    return lambda text: [kind(x) for x in text.split(",") if x]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning.run", description=__doc__)
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("--tasks", type=listed(str))
    parser.add_argument("--methods", type=listed(str))
    parser.add_argument("--seeds", type=listed(int))
    parser.add_argument("--steps", type=listed(float), help="half decades, as --steps=-1,0,1")
    parser.add_argument("--share", type=float)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit-minutes", type=float, default=float("inf"))
    parser.add_argument("--stale", action="store_true", help="run again what other code gave")
    parser.add_argument("--train-steps", type=int, default=0, help="fewer steps, for a try-out")
    parser.add_argument("--catalogue", default="", help="module with TASKS and METHODS")
    parser.add_argument("--folder", type=Path, help="where records are kept while running")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage; 1 where a cell failed, 130 where it was stopped."""
    given = parse(arguments)
    tried = given.stage == "smoke" or given.train_steps > 0
    train_steps = given.train_steps or (3 if tried else 0)
    # a try-out must not be taken for a result
    folder = given.folder or records.WORK.with_name("tuning-smoke" if tried else "tuning")
    known = catalogue(given.catalogue)
    for name, some, all_ in (("task", given.tasks, known.tasks),
                             ("method", given.methods, known.methods)):  # fmt: skip
        if unknown := set(some or ()) - set(all_):
            print(f"no {name} named {', '.join(sorted(unknown))}: there are {', '.join(all_)}")
            return 2
    own = given.folder is not None or tried
    there = records.load(folder, folder if own else records.PACKED)
    wanted = Wanted(tasks=given.tasks, methods=given.methods, seeds=given.seeds,
                    steps=given.steps, share=given.share)  # fmt: skip
    cells = ordered(STAGES[given.stage](known, wanted, there))
    todo, stale = [], 0
    for cell in cells:
        digest, record = known.digest(cell, train_steps), there.get(cell)
        if record is not None and record["status"] != "failed" and record["digest"] != digest:
            stale += 1
            if not given.stale:
                continue
        elif record is not None and record["status"] != "failed":
            continue
        todo.append((cell, digest))
    hint = " (--stale runs them again)" if stale and not given.stale else ""
    print(f"{len(cells)} cells, {len(todo)} to run, {stale} stale{hint}", flush=True)
    return run_all(todo, given, folder=folder, train_steps=train_steps) if todo else 0


def run_all(
    todo: list[tuple[Cell, str]], given: argparse.Namespace, *, folder: Path, train_steps: int
) -> int:
    """Run cells in worker processes and tell of each."""
    started, finished, failed = time.monotonic(), 0, 0

    def tell(record: records.Record) -> None:
        nonlocal finished, failed
        finished += 1
        failed += record["status"] == "failed"
        left = (time.monotonic() - started) / finished * (len(todo) - finished) / 60
        print(f"{described(record)} ({finished}/{len(todo)}, {left:.1f} min left)", flush=True)

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    workers = Workers(min(given.jobs, len(todo)), module=given.catalogue, folder=folder,
                      train_steps=train_steps)  # fmt: skip
    try:
        workers.run(todo, tell, started + 60 * given.limit_minutes)
    except KeyboardInterrupt:
        print(f"stopped: {finished} of {len(todo)} done; the same command goes on", flush=True)
        return 130
    finally:
        workers.close()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
