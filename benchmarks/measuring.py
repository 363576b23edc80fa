"""How the benchmarks measure and keep results: interleaved runs, the machine, one file a machine.

On shared cores a wall time says as much about the neighbours as about the code. So contenders
take turns (A B A B ...), CPU time of the process is recorded beside wall time, and a result is a
median with its extremes, never a best.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import io
import itertools
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "frog", "weightwatcher", "powerlaw", "torch", "numpy", "scipy", "transformers", "peft",
)  # fmt: skip


def interleaved(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Run every contender once per round, and give medians and extremes of CPU and wall time.

    A first round is thrown away where there are three or more: it pays for lazy imports.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds + (rounds >= 3)):
        for name, run in contenders.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            if number or rounds < 3:
                taken[name].append(spent)
    return {
        name: {
            "cpu": spread([cpu for cpu, _ in runs]),
            "wall": spread([wall for _, wall in runs]),
            "rounds": len(runs),
        }
        for name, runs in taken.items()
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def told(values: list[float], digits: int = 2) -> str:
    """Median [smallest, largest], with so many decimals."""
    middle, least, most = (f"{x:.{digits}f}" for x in spread(values).values())
    return f"{middle} [{least}, {most}]"


@contextlib.contextmanager
def blas_threads(count: int | None) -> Iterator[None]:
    """Hold every BLAS and torch at ``count`` threads; None leaves them as they are."""
    import torch
    from threadpoolctl import threadpool_limits

    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(limits=count):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def allocator_peak() -> Iterator[Callable[[], float]]:
    """Watch what torch allocates; the call gives the peak in MiB above the start, afterwards."""
    import torch

    gc.collect()
    profiler = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    )

    def peak() -> float:
        assert profiler.profiler is not None
        events = profiler.profiler.kineto_results.events()
        sizes = [(x.start_ns(), x.nbytes()) for x in events if x.name() == "[memory]"]
        running = itertools.accumulate(size for _, size in sorted(sizes, key=lambda x: x[0]))
        return max(running, default=0) / 2**20

    with profiler:
        yield peak


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Send what a contender prints to nowhere: terminals differ in speed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def gemm_peak(dtype: str, size: int = 2048) -> float:
    """Largest rate of one core in a matrix product, in GF/s: the better of numpy and torch."""
    import numpy as np
    import torch

    a = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
    b, out = a.T.copy(), np.empty_like(a)
    products = (
        lambda: np.matmul(a, b, out=out),
        lambda: torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=torch.from_numpy(out)),
    )
    fastest = float("inf")
    with blas_threads(1):
        for _ in range(6):
            for product in products:
                before = time.process_time()
                product()
                fastest = min(fastest, time.process_time() - before)
    return 2 * size**3 / fastest / 1e9


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system and versions; nothing that names the place."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    """The processor as the system names it, with its instruction set where the name is vague."""
    text = Path("/proc/cpuinfo").read_text()
    field = {key.strip(): value.strip() for key, _, value in
             (line.partition(":") for line in text.splitlines())}  # fmt: skip
    name = re.sub(r"\((R|TM)\)", "", field.get("model name", platform.machine()))
    widest = [x for x in ("avx2", "avx512f", "amx_tile") if x in field.get("flags", "").split()]
    family = f"family {field.get('cpu family')}, model {field.get('model')}"
    return f"{name} ({family}{', ' + widest[-1] if widest else ''})"


def version_of(package: str) -> str:
    """Version of an installed package, or 'absent'."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def command() -> str:
    """The command line, without the folders of this machine."""
    return " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]])


def heading(title: str, how: str = "", *, note: str = "", about: str | None = None) -> str:
    """The head of a page of results: title, machine, versions, month, command.

    ``how`` tells of threads and load, ``note`` follows the command; ``about`` is the docstring of a
    benchmark, of which the part below its commands follows.
    """
    facts = machine()
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items() if v != "absent")
    computer = ", ".join(x for x in (facts["cpu"], f"{facts['cores']} cores", how) if x)
    lines = [
        f"# {title}", "", f"{computer}; {versions}; {date.today():%B %Y}.", "",
        f"Made by `PYTHONPATH=src:. {command()}`{note}.", "",
    ]  # fmt: skip
    if about is not None:
        lines += [about.split("\n\n", 2)[2].strip(), ""]
    return "\n".join(lines)


def load_average() -> float:
    """Load over the last minute: well above 1 a core means that wall times are of no use."""
    return round(os.getloadavg()[0], 1)


class Store:
    """The results of one benchmark on one machine: a section that is run again replaces itself."""

    def __init__(self, benchmark: str, folder: Path = RESULTS, hardware: str | None = None) -> None:
        facts = machine()
        name = re.sub(r"\(.*", "", facts["cpu"]).lower()
        slug = hardware or re.sub(r"[^a-z0-9]+", "-", f"{name} {facts['cores']} cores").strip("-")
        self.path = folder / f"{benchmark}_{slug}_{date.today():%Y-%m}.json"
        self.data: dict[str, Any] = {"machine": facts, "sections": self._stored()}

    def _stored(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())["sections"] if self.path.exists() else {}

    def keep(self, section: str, found: Mapping[str, Any]) -> None:
        """Put one section in its place and write the file."""
        self.data["sections"] = self._stored()  # another run may have written meanwhile
        self.data["sections"][section] = {"date": f"{date.today()}", "command": command(), **found}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1, ensure_ascii=False) + "\n")
