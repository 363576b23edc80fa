"""The command line in a process of its own, and in this one where start-up would be too slow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.runs import Done, environment, weight


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``run(*words) -> Done`` by calling main() here."""
    from frog.cli import main

    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["frog", *map(str, words)])
        code: object = 0
        try:
            main.main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert isinstance(code, int)
        return Done(code, out, err)

    return run


@pytest.fixture
def own_process() -> Callable[..., Done]:
    """``run(*words) -> Done`` by ``python -m frog``."""

    def run(*words: object, cwd: Path | None = None, **more: str) -> Done:
        command = [sys.executable, "-m", "frog", *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, env=environment(**more), check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a small sound model: four matrices, a bias, a norm."""
    folder = tmp_path / "model"
    folder.mkdir()
    names = ["attn.q_proj", "attn.k_proj", "mlp.up_proj", "mlp.down_proj"]
    shapes = [(64, 64), (64, 64), (160, 64), (64, 160)]
    tensors = {
        f"model.layers.0.{name}.weight": weight(*shape, seed=i)
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
    }
    tensors["model.layers.0.attn.q_proj.bias"] = np.zeros(64, np.float32)
    tensors["model.norm.weight"] = np.ones(64, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder
