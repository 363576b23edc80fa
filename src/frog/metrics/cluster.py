"""The same pass over the machines of a Ray cluster: every node opens the model itself.

What travels is names and results: a handle holds a mapped file, which means nothing elsewhere.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from frog.errors import FrogError, MissingPackage, ModelError, UsageError
from frog.metrics.cache import Cache
from frog.metrics.schedule import Measured, cost, measure_cached
from frog.types import Settings, WeightMatrix

Listing = Callable[..., Mapping[str, WeightMatrix]]
"""Opens a model: a function of a module, so that every node knows it by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a node opens the model: ``listing(*arguments)``, once in each of its processes.

    ``run`` is different for every measurement: the files may have changed in between.
    """

    listing: Listing
    arguments: tuple[Any, ...]
    run: str


def measure_on_cluster(
    matrices: Sequence[WeightMatrix],
    settings: Settings,
    *,
    listing: Listing,
    arguments: tuple[Any, ...],
    jobs: int | None = None,
    cache: Cache | None = None,
) -> Iterator[Measured]:
    """Measure matrices on all nodes and yield each as it is done, in no fixed order.

    ``listing(*arguments)`` gives the matrices of the model by name on any node; ``jobs`` limits
    the layers in flight (default: twice the processors). Each node reads and fills ``cache`` in
    the same folder of its own disk. Uses the cluster of ``RAY_ADDRESS`` or one that runs here,
    else starts one for the call. When the caller stops early, what is in flight is cancelled.

    Raises :class:`~frog.errors.MissingPackage` without Ray, and
    :class:`~frog.errors.ModelError` when a node finds another model than the caller, or none.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs must be at least 1, got {jobs}")
    ray = _ray()
    opening = Opening(listing=listing, arguments=arguments, run=uuid.uuid4().hex)
    started = not ray.is_initialized()
    if started:
        _start(ray)
    flying: list[Any] = []
    try:
        task = ray.remote(num_cpus=1)(_measure_there)
        limit = jobs or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        queue = iter(sorted(matrices, key=cost, reverse=True))
        while True:
            for matrix in queue:
                expected = (matrix.name, matrix.shape, matrix.dtype)
                flying.append(task.remote(opening, expected, settings, cache))
                if len(flying) >= limit:
                    break
            if not flying:
                return
            done, flying = ray.wait(flying, num_returns=1)
            yield _result(ray, done[0])
    finally:
        if started:
            ray.shutdown()  # ends its workers, and what they are at
        else:
            # not by force: Ray 2.60 aborts the whole process when a task ends at that moment
            for reference in flying:
                ray.cancel(reference)


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingPackage("ray", "cluster") from None
    return ray


def _start(ray: Any) -> None:
    """Join or start a cluster, silently; Ray's answer to SIGTERM would end us without a word."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
    if threading.current_thread() is threading.main_thread() and before is not None:
        signal.signal(signal.SIGTERM, before)


def _result(ray: Any, reference: Any) -> Measured:
    """The value of a task; what went wrong there is raised here."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FrogError):
            raise error.cause from None
        raise


def _measure_there(
    opening: Opening, expected: tuple[str, tuple[int, int], str], settings: Settings,
    cache: Cache | None,
) -> Measured:  # fmt: skip
    """Runs on a node: find the matrix in the model as this node sees it, and measure it."""
    import torch
    from threadpoolctl import threadpool_limits

    here = f"node {socket.gethostname()}"
    try:
        matrix = _listed(opening).get(expected[0])
    except FrogError as error:
        # only the text: not every error of ours survives pickling
        raise ModelError(f"{here}: {error}; every node must see the model") from None
    found = None if matrix is None else (matrix.name, matrix.shape, matrix.dtype)
    if matrix is None or found != expected:
        raise ModelError(
            f"{here}: the model must hold {expected}, got {found}: copy the same one to all nodes"
        )
    torch.set_num_threads(1)
    with threadpool_limits(limits=1):
        return measure_cached(matrix, settings, device="cpu", cache=cache)


@lru_cache(maxsize=1)
def _listed(opening: Opening) -> Mapping[str, WeightMatrix]:
    return opening.listing(*opening.arguments)
