"""Layers in parallel: biggest first, each once, one that fails alone, no work after stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import frog
from frog.errors import ModelError, UsageError
from frog.metrics import schedule
from frog.metrics.schedule import Measured, cost, measure_all
from frog.types import LayerReport, Settings, WeightMatrix
from tests.cli.runs import weight
from tests.matrices import ArrayLoader, handle


def handles(count: int) -> list[WeightMatrix]:
    return [handle(weight(60 + i, 60, i), f"layers.{i}.weight") for i in range(count)]


def run(matrices: list[WeightMatrix], jobs: int) -> list[Measured]:
    return list(measure_all(matrices, Settings(), jobs=jobs, device="cpu", cache=None))


@pytest.mark.parametrize("jobs", [1, 2, 5, 64])
def test_each_matrix_once_whatever_the_number_of_jobs(jobs: int) -> None:
    matrices = handles(7)
    found = {m.layer.name: m for m in run(matrices, jobs)}
    assert len(found) == 7
    expected = {m.layer.name: m for m in run(matrices, 1)}
    for name, measured in found.items():
        assert repr(measured.layer.values) == repr(expected[name].layer.values)
        assert measured.findings == expected[name].findings


def test_no_matrices_no_work() -> None:
    assert run([], 2) == []


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_out_of_range(jobs: int) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        run(handles(1), jobs)


def test_biggest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[float] = []

    def note(matrix: WeightMatrix, settings: Settings, **_: object) -> tuple[LayerReport, tuple]:
        started.append(cost(matrix))
        return schedule.bare_row(matrix), ()

    monkeypatch.setattr(schedule, "measure", note)
    run(handles(6), 1)
    assert started == sorted(started, reverse=True)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_layer_that_cannot_be_read_fails_alone(jobs: int) -> None:
    class Gone:
        def load(self) -> np.ndarray:
            raise ModelError("model.safetensors changed since it was listed")

        blocks = fingerprint = load

    good = handles(3)
    bad = handle(weight(60, 60), "gone.weight", loader=Gone())
    found = {m.layer.name: m.layer for m in run([*good, bad], jobs)}
    assert found["gone.weight"].failed
    assert "changed since it was listed" in (found["gone.weight"].skipped or "")
    assert not found["gone.weight"].averaged
    assert sum(layer.failed for layer in found.values()) == 1


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_fault_of_ours_ends_the_run(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(schedule, "measure", fail)
    with pytest.raises(ZeroDivisionError, match="ours"):
        run(handles(4), jobs)


def test_what_is_queued_is_dropped_when_the_caller_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, started = threading.Lock(), []

    def slowly(matrix: WeightMatrix, settings: Settings, **_: object) -> tuple[LayerReport, tuple]:
        with lock:
            started.append(matrix.name)
        time.sleep(0.02)
        return schedule.bare_row(matrix), ()

    monkeypatch.setattr(schedule, "measure", slowly)
    stream = measure_all(handles(40), Settings(), jobs=2, device="cpu", cache=None)
    next(stream)
    stream.close()
    so_far = len(started)
    time.sleep(0.1)
    assert len(started) <= so_far + 2, "what was in flight ends, nothing begins"
    assert len(started) < 12


def test_threads_of_torch_are_given_back() -> None:
    before = torch.get_num_threads()
    run(handles(4), 2)
    assert torch.get_num_threads() == before
    stream = measure_all(handles(8), Settings(), jobs=2, device="cpu", cache=None)
    next(stream)
    stream.close()
    assert torch.get_num_threads() == before


def test_callbacks_see_all_costs_then_each_layer() -> None:
    seen: list[object] = []
    model = {f"layers.{i}.weight": torch.from_numpy(weight(60, 60, i)) for i in range(3)}
    frog.analyze(
        model,
        run=frog.Run(
            jobs=2,
            on_start=lambda costs: seen.append(dict(costs)),
            on_layer=lambda measured: seen.append(measured.layer.name),
        ),
    )
    assert isinstance(seen[0], dict)
    assert set(seen[0]) == set(model) == set(seen[1:])
    assert all(cost > 0 for cost in seen[0].values())


def test_two_probes_measure_at_the_same_time() -> None:
    """A lock that all probes share would run the layers one after the other."""
    together = threading.Barrier(2, timeout=20)

    class Meeting(ArrayLoader):
        def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
            together.wait()
            yield from super().blocks(axis, size)

    rng = np.random.default_rng(0)
    matrices = []
    for name in ("a", "b"):
        array = rng.standard_normal((70, 60))
        matrices.append(replace(handle(array, name), loader=Meeting(array)))
    settings = Settings(bootstrap=0)
    done = list(measure_all(matrices, settings, jobs=2, device="cpu", cache=None))
    assert sorted(measured.layer.name for measured in done) == ["a", "b"]
