"""What a training spent, as it was measured: time, processor time, memory."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"
"""What makes Linux begin the peak of a process anew (proc(5), since Linux 4.0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds, seconds of this process on all cores, peak bytes (NaN where none can be told)."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: float = math.nan


class Meter:
    """Counts from where it is made, on top of what an interrupted run had spent.

    The peak is what torch had allocated on a GPU, else what the process had resident: its model,
    data and libraries are in it.

    >>> meter = Meter(torch.device("cpu"))
    >>> meter.read().seconds >= 0
    True
    """

    def __init__(self, device: torch.device, earlier: Spent | None = None) -> None:
        self.device = device
        self.earlier = earlier or Spent()
        self._known = _begin_peak(device)
        self._since = time.monotonic(), time.process_time()

    def read(self) -> Spent:
        """What was spent until now."""
        peaks = [_peak(self.device) if self._known else math.nan, self.earlier.memory]
        known = [x for x in peaks if not math.isnan(x)]
        return Spent(
            seconds=self.earlier.seconds + time.monotonic() - self._since[0],
            cpu_seconds=self.earlier.cpu_seconds + time.process_time() - self._since[1],
            memory=max(known, default=math.nan),
        )


def name_of(device: torch.device) -> str:
    """A device in words: ``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _begin_peak(device: torch.device) -> bool:
    """Forget the peak so far; False where the system cannot: an older peak is not this run's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    with contextlib.suppress(OSError):
        CLEAR.write_text(CLEAR_PEAK)
        return True
    return False


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, ValueError, IndexError):
        return 1024.0 * int(STATUS.read_text().partition("VmHWM:")[2].split()[0])
    return math.nan
