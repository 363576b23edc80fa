"""frog plan tune --layer-rates."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import frog
from tests.cli.runs import Done

Run = Callable[..., Done]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks of one matrix, of unlike spectra."""
    torch.manual_seed(0)
    tensors = {}
    for block in range(4):
        weight = torch.randn(96, 64) * torch.rand(64) ** (2 * block)
        tensors[f"model.layers.{block}.mlp.up_proj.weight"] = weight
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("kind", ["sigmoid", "linear"])
def test_ratios_are_in_the_plan_and_shown(
    in_process: Run, model: Path, tmp_path: Path, kind: str
) -> None:
    plan = tmp_path / "plan.json"
    done = in_process("plan", "tune", model, "--layer-rates", kind, "-o", plan)
    assert done.code == 0, done.err
    assert "x rate" in done.out and "learning-rate ratios by alpha" in done.out
    assert max(len(line) for line in done.out.splitlines()) <= 80
    made = frog.Plan.from_json(plan)
    assert len({x.lr_ratio for x in made.layers}) == 4
    assert {f"{x.lr_ratio:.2f}" for x in made.layers} <= set(done.out.split())


def test_off_by_default_and_an_unknown_kind_is_refused(in_process: Run, model: Path) -> None:
    done = in_process("plan", "tune", model, "--format", "json")
    assert {x["lr_ratio"] for x in json.loads(done.out)["layers"]} == {1.0}
    done = in_process("plan", "tune", model, "--layer-rates", "sigmod")
    assert done.code == 2 and "Did you mean 'sigmoid'" in done.err
