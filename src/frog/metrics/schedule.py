"""The one streaming pass: layers in parallel, biggest first, one BLAS thread each."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TypeVar

from frog.errors import ModelError, UsageError
from frog.metrics.cache import Cache
from frog.metrics.measure import bare_row, measure
from frog.numerics import symmetric
from frog.types import FAILED, Finding, LayerReport, Settings, WeightMatrix

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one matrix gave: its row, its findings, and whether the cache had them."""

    layer: LayerReport
    findings: tuple[Finding, ...]
    fingerprint: str
    cached: bool


def cost(matrix: WeightMatrix) -> float:
    """Floating-point operations of the Gram matrix and its eigenvalues: N r² + 4/3 r³."""
    r, large = min(matrix.shape), max(matrix.shape)
    return large * r**2 + 4 / 3 * r**3


def measure_all(
    matrices: Sequence[WeightMatrix],
    settings: Settings,
    *,
    jobs: int,
    device: str,
    cache: Cache | None,
) -> Iterator[Measured]:
    """Measure matrices and yield each as it is done, in no fixed order.

    Layers run in ``jobs`` threads: reading, BLAS and LAPACK leave the interpreter free. When
    the caller stops early (Ctrl-C), what is queued is dropped and what is finished is in the
    cache.
    """
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1, got {jobs}")
    order = sorted(matrices, key=cost, reverse=True)

    def one(matrix: WeightMatrix) -> Measured:
        return measure_cached(matrix, settings, device=device, cache=cache)

    yield from in_parallel(one, order, jobs)


def in_parallel(
    one: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Iterator[Result]:
    """``one`` of each item in ``jobs`` threads, yielded as they are done, in no fixed order."""
    jobs = min(jobs, len(items))
    if jobs <= 1:  # alone, a layer may use all BLAS threads
        yield from map(one, items)
        return
    with _one_blas_thread() as initialise:
        pool = ThreadPoolExecutor(max_workers=jobs, initializer=initialise)
        try:
            yield from _as_completed(pool, one, items, ahead=2 * jobs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def default_jobs() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure_cached(
    matrix: WeightMatrix, settings: Settings, *, device: str, cache: Cache | None
) -> Measured:
    """Measure one matrix or find it in the cache; one that cannot be read becomes a failed row."""
    try:
        fingerprint = matrix.loader.fingerprint()
        found = cache.get(matrix, settings, fingerprint) if cache is not None else None
        if found is not None:
            layer, findings = found
        else:
            layer, findings = measure(matrix, settings, device=device)
            if cache is not None:
                cache.put(matrix, settings, fingerprint, layer, findings)
    except ModelError as error:
        unread = replace(bare_row(matrix), skipped=FAILED + str(error), averaged=False)
        return Measured(layer=unread, findings=(), fingerprint="", cached=False)
    return Measured(
        layer=layer, findings=findings, fingerprint=fingerprint, cached=found is not None
    )


def _as_completed(
    pool: ThreadPoolExecutor,
    one: Callable[[Item], Result],
    order: Sequence[Item],
    *,
    ahead: int,
) -> Iterator[Result]:
    """Results as they come, with few jobs queued so that an interruption drops the rest."""
    waiting: set[Future[Result]] = set()
    queue = iter(order)
    while True:
        for item in queue:
            waiting.add(pool.submit(one, item))
            if len(waiting) >= ahead:
                break
        if not waiting:
            return
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[Callable[[], None]]:
    """Limit every BLAS to one thread, and give the initialiser that workers need for torch.

    Without it the threads of one layer wait for those of another: 8 to 18 times slower on
    shared cores (benchmarks/results).
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    lock = threading.Lock()
    symmetric.load()

    def initialise() -> None:
        with lock:
            torch.set_num_threads(1)

    with threadpool_limits(limits=1):
        try:
            yield initialise
        finally:
            torch.set_num_threads(before)
