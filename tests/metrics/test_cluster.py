"""Layers spread by Ray: the same numbers in the same order as here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import frog
from frog.api import matrices_of
from frog.errors import MissingPackage, ModelError, UsageError
from tests.cli.runs import SRC, environment, weight

NO_RAY = "needs Ray: pip install 'frog[cluster]'"
# Ray's own: a tip about CUDA variables, sockets and processes that it leaves to the collector
pytestmark = [
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six matrices, one with NaN."""
    made = tmp_path_factory.mktemp("model")
    tensors = {f"layers.{i}.mlp.up_proj.weight": weight(96, 64 + 8 * i, i) for i in range(6)}
    tensors["layers.2.mlp.up_proj.weight"][0, 0] = np.nan
    save_file(tensors, made / "model.safetensors")
    return made


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A Ray of two processors on this machine, whose workers see this checkout."""
    ray = pytest.importorskip("ray", reason=NO_RAY)
    path = environment()["PYTHONPATH"]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"env_vars": {"PYTHONPATH": f"{path}:{SRC.parent}"}},
    )
    yield ray
    ray.shutdown()


def without_times(report: frog.ModelReport) -> str:
    layers = tuple(replace(layer, seconds=0.0) for layer in report.layers)
    return repr(replace(report, layers=layers))


@pytest.mark.slow
def test_numbers_and_order_are_those_of_this_process(folder: Path, cluster: object) -> None:
    here = frog.analyze(folder, run=frog.Run(jobs=1))
    seen: list[str] = []
    run = frog.Run(cluster=True, on_layer=lambda measured: seen.append(measured.layer.name))
    there = frog.analyze(folder, run=run)
    assert without_times(there) == without_times(here)
    assert sorted(seen) == sorted(layer.name for layer in here.measured)
    assert [layer.fit_status for layer in there.layers].count("nonfinite") == 1


@pytest.mark.slow
def test_cache_patterns_and_shards_work_there_too(
    folder: Path, cluster: object, tmp_path: Path
) -> None:
    cached: list[bool] = []
    run = frog.Run(
        cluster=True,
        cache=tmp_path,
        jobs=2,
        on_layer=lambda measured: cached.append(measured.cached),
    )
    first = frog.analyze(folder, include=r"layers\.[0-3]", run=run)
    again = frog.analyze(folder, include=r"layers\.[0-3]", run=run)
    assert cached == [False] * 4 + [True] * 4
    assert without_times(first) == without_times(again)
    parts = [frog.analyze(folder, run=replace(run, shard=(i, 2))) for i in (1, 2)]
    whole = frog.analyze(folder, run=frog.Run(jobs=1))
    assert without_times(frog.merge_reports(parts)) == without_times(whole)


@pytest.mark.slow
def test_a_node_that_sees_another_model_says_so(folder: Path, cluster: object) -> None:
    from frog.metrics.cluster import measure_on_cluster

    matrices = list(matrices_of(str(folder), None, False).values())

    def stream(*arguments: object) -> list:
        return list(
            measure_on_cluster(
                matrices, frog.Settings(), listing=matrices_of, arguments=arguments, jobs=2
            )
        )

    with pytest.raises(ModelError, match="every node must see the model"):
        stream(str(folder / "absent"), None, False)
    alone = folder / "alone.safetensors"
    save_file({"other.weight": weight(8, 8)}, alone)
    try:
        with pytest.raises(ModelError, match="copy the same one to all nodes"):
            stream(str(alone), None, False)
    finally:
        alone.unlink()


@pytest.mark.slow
def test_stopping_early_cancels(folder: Path, cluster: object) -> None:
    from frog.metrics.cluster import measure_on_cluster

    matrices = list(matrices_of(str(folder), None, False).values())
    stream = measure_on_cluster(
        matrices, frog.Settings(), listing=matrices_of, arguments=(str(folder), None, False)
    )
    next(stream)
    stream.close()
    assert list(stream) == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason=NO_RAY)
def test_command_line_starts_and_stops_a_cluster_of_its_own(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "frog", "analyze", str(folder), "--cluster"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "r.json"), "--no-cache"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert "measured 6/6" in done.stderr
    there = frog.ModelReport.from_json(tmp_path / "r.json")
    assert without_times(there) == without_times(frog.analyze(folder, run=frog.Run(jobs=1)))


def test_live_models_are_refused() -> None:
    run = frog.Run(cluster=True)
    with pytest.raises(UsageError, match=r"got Linear: save it first"):
        frog.analyze(torch.nn.Linear(64, 64), run=run)
    with pytest.raises(UsageError, match=r"got dict: save it first"):
        frog.analyze({"w": torch.zeros(4, 4)}, run=run)


def test_bad_device_and_jobs_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="auto or cpu"):
        frog.analyze(folder, run=frog.Run(cluster=True, device="cuda"))
    with pytest.raises(UsageError, match="at least 1"):
        frog.analyze(folder, run=frog.Run(cluster=True, jobs=0))


def test_without_ray_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackage, match=r"frog\[cluster\]"):
        frog.analyze(folder, run=frog.Run(cluster=True))
