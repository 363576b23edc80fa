"""frog recommend through the real command line, with every bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import frog
from tests.cli.runs import Done, files_of, weight

Run = Callable[..., Done]
NOISE = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of two matrices, one of them pure noise."""
    tensors = {}
    for block in range(2):
        tensors[f"model.layers.{block}.mlp.up_proj.weight"] = weight(96, 64, seed=block)
        tensors[f"model.layers.{block}.mlp.down_proj.weight"] = weight(64, 96, seed=9 + block)
    noise = np.random.default_rng(0).standard_normal((96, 64))
    tensors[NOISE] = noise.astype(np.float32)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def report(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.json"
    frog.analyze(str(planted)).to_json(path)
    return path


def test_from_a_model_to_a_plan_that_select_takes(
    own_process: Run, planted: Path, tmp_path: Path
) -> None:
    plan, told = tmp_path / "plan.json", tmp_path / "told.json"
    done = own_process("recommend", planted, "-o", plan, "--json", told, "--steps", "100",
                       "--tokens", "2000")  # fmt: skip
    assert done.code == 0, done.err
    assert max(len(line) for line in done.out.splitlines()) <= 80
    for words in ("Budget  5.43%", "decides", "your choice  1 layer", "tune evenly  3 layers",
                  "after 100 steps", "tune harder", "· prune: prune "):  # fmt: skip
        assert words in done.out, words
    assert "select" in done.err and f"wrote {plan}" in done.err
    found = frog.Recommendation.from_json(told)
    assert found.plan == frog.Plan.from_json(plan)
    assert found.actions[0].layer == NOISE
    chosen = tmp_path / "s.safetensors"
    done = own_process("select", planted, "--plan", plan, "-o", chosen)
    assert done.code == 0, done.err
    assert frog.Selection.load(chosen).count == found.amount.count == 1000


def test_a_saved_report_is_enough_and_formats_hold(in_process: Run, report: Path) -> None:
    plain = in_process("recommend", report, "--format", "json")
    assert plain.code == 0, plain.err
    data = json.loads(plain.out)
    assert data["format"] == "frog-recommendation" and len(data["actions"]) == 4
    quiet = in_process("recommend", report, "--format", "quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    every = in_process("recommend", report, "--all", "--over-parameterised", "prune")
    assert "2,880 removed" not in every.out  # told of options only: here the choice is made
    assert "prune  1 layer" in every.out and "as chosen" in " ".join(every.out.split())


@pytest.mark.parametrize(("flags", "told"), [
    (["--over-parameterised", "prnue"], "Did you mean 'prune'"),
    (["--full-rate", "0"], "full_rate must be"),
    (["--full-rate", "nan"], "full_rate must be"),
    (["--steps", "0"], "steps must be"),
    (["--tokens", "-5"], "tokens must be"),
    (["--examples", "1e3"], "a valid integer"),
    (["--classes", "1"], "classes must be"),
    (["--include", "attention"], "matches none"),
    (["--include", "("], "regular expression"),
    (["--role", "q"], "role in this model"),
    (["--format", "xml"], "must be one of"),
    (["--json", "nowhere/at/all.json"], "its folder must exist"),
    (["--exclude", "."], "no matrix is left to train"),
])  # fmt: skip
def test_wrong_use_ends_with_2(in_process: Run, report: Path, flags: list[str], told: str) -> None:
    done = in_process("recommend", report, *flags)
    assert done.code == 2, done.err
    assert told in " ".join(done.err.replace("│", " ").split()) and "Traceback" not in done.err


def test_nothing_that_is_read_is_written_over(
    in_process: Run, report: Path, planted: Path, tmp_path: Path
) -> None:
    before = files_of(report.parent) | files_of(planted.parent)
    for flags in (["--json", report], ["-o", report], ["-o", planted]):
        assert in_process("recommend", report, *flags).code == 2
    both = tmp_path / "x.json"
    done = in_process("recommend", report, "-o", both, "--json", both)
    assert done.code == 2 and not both.exists()
    assert files_of(report.parent) | files_of(planted.parent) == before


def test_what_cannot_be_read_ends_with_4(in_process: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10")
    done = in_process("recommend", broken)
    assert done.code == 4 and "broken.safetensors" in done.err and "Traceback" not in done.err
    assert in_process("recommend", tmp_path / "none").code == 4


def test_a_bad_report_names_itself(in_process: Run, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    for text in ("{", '{"format": "frog-plan", "version": 1}'):
        file.write_text(text)
        done = in_process("recommend", file)
        assert done.code in (2, 4) and "r.json" in done.err
    assert in_process("recommend", tmp_path / "none.json").code in (2, 4)


def test_a_plan_needs_something_to_tune(in_process: Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(1).standard_normal((96, 96)).astype(np.float32)
    save_file({"a.weight": noise}, tmp_path / "m.safetensors")
    done = in_process("recommend", tmp_path / "m.safetensors", "-o", tmp_path / "plan.json")
    assert done.code == 2 and "waits for your choice" in done.err
    assert not (tmp_path / "plan.json").exists()
    done = in_process("recommend", tmp_path / "m.safetensors", "-o", tmp_path / "plan.json",
                      "--over-parameterised", "tune")  # fmt: skip
    assert done.code == 0 and (tmp_path / "plan.json").exists()


def test_a_model_with_a_broken_layer_is_answered(in_process: Run, tmp_path: Path) -> None:
    tensors = {f"h.{i}.mlp.up_proj.weight": weight(96, 64, seed=i) for i in range(3)}
    tensors["h.1.mlp.up_proj.weight"][2, 2] = np.inf
    save_file(tensors, tmp_path / "m.safetensors")
    done = in_process("recommend", tmp_path / "m.safetensors")
    assert done.code == 5, done.err
    assert "mend" in done.out and "1 NaN or Inf" in done.out.replace("\n", " ")
