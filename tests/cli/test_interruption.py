"""Ctrl-C, SIGTERM and kill: what was finished is kept, what was written is whole, work resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import frog
from tests.cli.runs import environment, files_of

MATRICES = 8
SIDE = 900


@pytest.fixture
def slow_model(tmp_path: Path) -> Path:
    """A model that takes a few seconds."""
    return write_model(tmp_path / "model", SIDE)


def write_model(folder: Path, side: int) -> Path:
    """Square matrices, all of one side."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {
        f"layers.{i}.mlp.up_proj.weight": rng.standard_normal((side, side)).astype(np.float32)
        for i in range(MATRICES)
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def entries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.json"))


def start(model: Path, out: Path, cache: Path, *more: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "frog", "analyze", str(model), "-o", str(out), "--jobs", "2"]
    return subprocess.Popen(
        [*words, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(FROG_CACHE_DIR=str(cache)),
        # a shell that runs the tests in the background has told them to ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def stop_after_first_layer(
    model: Path, out: Path, cache: Path, number: int, *more: str
) -> tuple[int, str]:
    """Send a signal when the cache has its first entry; the exit code and stderr."""
    process = start(model, out, cache, *more)
    until = time.monotonic() + 60
    while not entries(cache) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == ""
    assert "Traceback" not in stderr
    return process.returncode, stderr


def same_but_for_times(found: Path, expected: frog.ModelReport) -> None:
    report = frog.ModelReport.from_json(found)
    timeless = [
        repr(replace(x, layers=tuple(replace(layer, seconds=0.0) for layer in x.layers)))
        for x in (report, expected)
    ]
    assert timeless[0] == timeless[1]


def sound(cache: Path) -> int:
    """How many entries there are; each is whole."""
    for path in entries(cache):
        assert json.loads(path.read_text())["layer"]["name"]
    return len(entries(cache))


def resumes(model: Path, out: Path, cache: Path, kept: int) -> None:
    """The same command finishes, takes what is kept from the cache, and reports as ever."""
    process = start(model, out, cache)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert f"{kept} of {MATRICES} layers were in the cache" in stderr
    assert set(files_of(out)) == {"report.json", "report.html", "layers.csv"}
    as_for_a_page = frog.Settings(flow=True)
    whole = frog.analyze(model, as_for_a_page, run=frog.Run(jobs=1))
    same_but_for_times(out / "report.json", whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_run_keeps_what_it_has_and_resumes(number, slow_model, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    code, stderr = stop_after_first_layer(slow_model, out, cache, number)
    assert code == 130, stderr
    assert f"of {MATRICES} layers are kept in the cache" in stderr
    assert f"Next  frog analyze {slow_model} -o {out} --jobs 2" in stderr
    assert not out.exists()
    kept = sound(cache)
    assert 1 <= kept < MATRICES
    if number == signal.SIGINT:  # the other goes the same way
        resumes(slow_model, out, cache, kept)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'frog[cluster]'")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_run_on_a_cluster_resumes_without_one(number, slow_model, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    code, stderr = stop_after_first_layer(slow_model, out, cache, number, "--cluster")
    if "discovered a bug in Ray" in stderr:
        pytest.skip("Ray aborted the process by a failed check of its own (task_manager.cc)")
    assert code == 130, stderr
    assert f"of {MATRICES} layers are kept in the cache" in stderr
    assert not out.exists()
    resumes(slow_model, out, cache, sound(cache))


@pytest.mark.slow
def test_killed_run_resumes(slow_model, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    code, _ = stop_after_first_layer(slow_model, out, cache, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not out.exists()
    kept = sound(cache)
    assert kept >= 1
    resumes(slow_model, out, cache, kept)


def test_interruption_without_a_cache_says_what_is_lost(tmp_path):
    # so large that much is left to do when the first line of progress comes
    model = write_model(tmp_path / "model", 2 * SIDE)
    process = start(model, tmp_path / "out", tmp_path / "cache", "--no-cache")
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("measured"), first
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "are lost" in stderr
    assert "--no-cache" in stderr
    assert not (tmp_path / "cache").exists()


def test_interruption_while_the_outputs_are_written(model, in_process, tmp_path, monkeypatch):
    """The report is written, the table is not: each is the new one or the earlier one, whole."""

    class Left(Exception):
        pass

    def leave(code: int) -> None:
        raise Left(code)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("earlier report")
    (out / "report.html").write_text("earlier page")
    (out / "layers.csv").write_text("earlier table")
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr("frog.report.frames.write_csv", interrupt)
    with pytest.raises(Left, match="130"):
        in_process("analyze", model, "-o", out)
    assert set(files_of(out)) == {"report.json", "report.html", "layers.csv"}
    assert (out / "layers.csv").read_text() == "earlier table"
    assert frog.ModelReport.from_json(out / "report.json").measured
