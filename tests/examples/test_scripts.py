"""The scripts in examples/ run as a user runs them and end with what they claim."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}


def run(name: str, folder: Path, code: int = 0) -> str:
    """What the script prints, started in a folder that it leaves as it was."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS[name])],
        cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(folder),
             "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout


def losses(said: str) -> tuple[float, float]:
    found = re.search(r"^loss (\S+) -> ([\d.]+)", said, re.MULTILINE)
    assert found is not None, said
    return float(found[1]), float(found[2])


def test_every_script_has_a_test() -> None:
    assert set(SCRIPTS) == {
        "gate_a_checkpoint", "keep_the_old_task", "tune_in_trainer", "tune_plain_loop",
        "tune_with_sft",
    }  # fmt: skip


def test_plain_loop_learns_and_is_undone(tmp_path: Path) -> None:
    said = run("tune_plain_loop", tmp_path)
    first, last = losses(said)
    assert last < 0.7 * first
    assert "461 of 4608 weights changed" in said and "undone bit for bit: True" in said


def test_the_old_task_is_traded_for_the_new(tmp_path: Path) -> None:
    said = run("keep_the_old_task", tmp_path)
    found = re.findall(r": old ([\d.]+), new ([\d.]+)", said)
    (old, new), (kept, learnt) = ((float(a), float(b)) for a, b in found)
    assert kept > old + 0.03 and learnt > 0.9 * new


def test_gate_fails_for_the_collapsed_layer_alone(tmp_path: Path) -> None:
    said = run("gate_a_checkpoint", tmp_path, code=3)
    assert "a small change passes: True" in said
    assert "findings.scale-collapse  2.weight" in said


@pytest.mark.slow
def test_trainer_learns_and_certifies(tmp_path: Path) -> None:
    if find_spec("transformers") is None or find_spec("accelerate") is None:
        pytest.skip("needs transformers and accelerate: pip install '.[tune]'")
    said = run("tune_in_trainer", tmp_path)
    first, last = losses(said)
    assert last < 0.1 * first
    assert "have their bits of before" in said


@pytest.mark.slow
def test_sft_leaves_an_adapter_that_peft_loads(tmp_path: Path) -> None:
    for package in ("trl", "peft", "datasets"):
        if find_spec(package) is None:
            pytest.skip(f"needs {package}")
    said = run("tune_with_sft", tmp_path)
    first, last = losses(said)
    assert last < 0.95 * first
    assert "peft gives the same: True" in said
