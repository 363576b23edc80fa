"""Measure one safetensors file with one tool in a process of its own: time and memory.

    python benchmarks/memory_probe.py frog FILE --jobs 2 --precision exact
    python benchmarks/memory_probe.py weightwatcher FILE

Prints one line of JSON. Memory is what the process holds of its own (RssAnon of
/proc/self/status, every 20 ms); pages of the mapped file are not its own and are dropped by the
system when it needs them. The baseline is taken after all imports.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

from contenders import frog_on, weightwatcher_on

INTERVAL = 0.02


class Sampler(threading.Thread):
    """Largest RssAnon and VmRSS seen while it runs, in KiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = {"RssAnon": 0, "VmRSS": 0}
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(INTERVAL):
            self.sample()

    def sample(self) -> dict[str, int]:
        text = Path("/proc/self/status").read_text()
        now = {key: int(re.findall(rf"{key}:\s+(\d+)", text)[0]) for key in self.peak}
        self.peak = {key: max(now[key], self.peak[key]) for key in now}
        return now


def open_as_module(path: Path) -> Any:
    """The matrices of a file as linear layers in their stored type, on mapped pages."""
    import safetensors.torch
    import torch

    model = torch.nn.Module()
    for name, tensor in safetensors.torch.load_file(path).items():
        layer = torch.nn.Linear(1, 1, bias=False)
        layer.weight = torch.nn.Parameter(tensor, requires_grad=False)
        layer.out_features, layer.in_features = tensor.shape
        model.add_module(name.removesuffix(".weight").replace(".", "_"), layer)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=("frog", "weightwatcher"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--precision", default="exact")
    arguments = parser.parse_args()
    if arguments.tool == "frog":
        run = frog_on(arguments.file, precision=arguments.precision, jobs=arguments.jobs)
        import scipy.linalg  # noqa: F401  loaded lazily by FROG: an import is no use of memory
        import torch  # noqa: F401

        from frog.metrics import measure  # noqa: F401
    else:
        run = weightwatcher_on(open_as_module(arguments.file))
    sampler = Sampler()
    before = sampler.sample()
    sampler.start()
    cpu, wall = time.process_time(), time.perf_counter()
    found = run()
    spent = time.process_time() - cpu, time.perf_counter() - wall
    sampler.over.set()
    sampler.join()
    print(json.dumps({
        "cpu": spent[0],
        "wall": spent[1],
        "layers": len(found.measured if arguments.tool == "frog" else found),
        "baseline_mib": before["RssAnon"] / 1024,
        "anonymous_mib": (sampler.peak["RssAnon"] - before["RssAnon"]) / 1024,
        "resident_mib": sampler.peak["VmRSS"] / 1024,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
