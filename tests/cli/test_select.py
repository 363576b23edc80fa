"""frog plan, select, list and delta through the real command line, with every bad input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import frog
from tests.cli.runs import Done
from tests.test_serial_delta import CASES, damaged, stored, version_1

Run = Callable[..., Done]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of two matrices."""
    torch.manual_seed(0)
    tensors = {}
    for block in range(2):
        tensors[f"model.layers.{block}.mlp.up_proj.weight"] = torch.randn(96, 64)
        tensors[f"model.layers.{block}.mlp.down_proj.weight"] = torch.randn(64, 96)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def report(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.json"
    frog.analyze(str(model), frog.Settings(bootstrap=0)).to_json(path)
    return path


def test_from_plan_to_selection(in_process: Run, model: Path, report: Path, tmp_path: Path) -> None:
    plan, chosen = tmp_path / "plan.json", tmp_path / "s.safetensors"
    done = in_process("plan", "tune", model, "--report", report, "--budget", "2%", "-o", plan)
    assert done.code == 0, done.err
    assert "492 of 24.6 k weights" in done.out and "select" in done.err
    assert max(len(line) for line in done.out.splitlines()) <= 80
    done = in_process("select", model, "--plan", plan, "--score", "magnitude^-1",
               "-o", chosen)  # fmt: skip
    assert done.code == 0, done.err
    made = frog.Selection.load(chosen)
    assert made.count == 492 and made.score == "magnitude^-1"
    assert made.plan == frog.Plan.from_json(plan)
    done = in_process("select", model, "--plan", plan, "--format", "json")
    assert json.loads(done.out)["format"] == "frog-selection"


def test_a_budget_alone_is_enough(in_process: Run, model: Path) -> None:
    done = in_process(
        "select", model, "--budget", "300", "--granularity", "row", "--include", "up_proj"
    )
    assert done.code == 0, done.err
    assert "256 weights in 2 matrices" in done.out and "not chosen" in done.out


@pytest.mark.parametrize("export", ["axolotl", "rank-pattern"])
def test_exports_of_a_plan(
    in_process: Run, model: Path, report: Path, tmp_path: Path, export: str
) -> None:
    out = tmp_path / "out"
    done = in_process("select", model, "--report", report, "--budget", "8%", "--export", export,
               "-o", out)  # fmt: skip
    assert done.code == 0, done.err
    assert ("unfrozen_parameters" in out.read_text()) == (export == "axolotl")


@pytest.mark.parametrize(("flags", "told"), [
    (["--budget", "0"], "above 0"),
    (["--budget", "101%"], "at most 100 %"),
    (["--budget", "-1%"], "must read like"),
    (["--budget", "lots"], "must read like"),
    (["--budget", "99M"], "24,576"),
    (["--rule", "alhpa"], "Did you mean 'alpha'"),
    (["--role", "q"], "role in this model"),
    (["--include", "attention"], "matches none"),
    (["--include", "("], "regular expression"),
    (["--exclude", "."], "no matrix is left"),
    (["--knob", "power"], "name=number"),
    (["--rule", "alpha", "--knob", "pwoer=1"], "power"),
    (["--floor", "0.5", "--cap", "0.1"], "floor"),
    (["--floor", "0.5"], "sum of the floors"),
    (["--report", "nothing.json"], "no such file"),
])  # fmt: skip
def test_bad_plans_are_told(
    in_process: Run, model: Path, report: Path, flags: list[str], told: str
) -> None:
    known = [] if "--report" in flags else ["--report", report]
    done = in_process("plan", "tune", model, *known, *flags)
    assert done.code == 2 and told in done.err, done.err
    assert not done.out


@pytest.mark.parametrize(("flags", "told"), [
    ([], "neither"),
    (["--budget", "1%", "--score", "relevanec"], "Did you mean 'relevance'"),
    (["--budget", "1%", "--score", "relevance +"], "must read like"),
    (["--budget", "1%", "--score", "gradient"], "needs gradients"),
    (["--budget", "1%", "--granularity", "cell"], "element, row, column, block"),
    (["--budget", "1%", "--rank", "900", "--score", "lowrank"], ""),
    (["--budget", "1%", "--export", "gguf"], "axolotl"),
    (["--plan", "nothing.json"], "no such file"),
    (["--budget", "1%", "--keep", "zeros"], "all, nonzero"),
    (["--budget", "1%", "--bits", "9"], "1..8"),
    (["--budget", "1%", "--group", "-1"], "1 or more"),
])  # fmt: skip
def test_bad_selections_are_told(
    in_process: Run, model: Path, report: Path, flags: list[str], told: str
) -> None:
    known = ["--report", report] if "--plan" not in flags else []
    done = in_process("select", model, *known, *flags)
    if not told:  # a rank beyond the matrix takes all of it
        assert done.code == 0, done.err
        return
    assert done.code == 2 and told in done.err, done.err


def test_a_pruned_model_trains_what_is_left_of_it(
    in_process: Run, model: Path, tmp_path: Path
) -> None:
    tensors = load_file(model)
    for weight in tensors.values():
        weight[:, ::2] = 0.0
    pruned, out = tmp_path / "pruned.safetensors", tmp_path / "s.safetensors"
    save_file(tensors, pruned)
    flags = ["--keep", "nonzero", "--score", "near-boundary", "--bits", "3", "--group", "0"]
    done = in_process("select", pruned, "--budget", "10%", *flags, "-o", out)
    assert done.code == 0 and "pruned weights were kept out" in done.out, done.err
    chosen = frog.Selection.load(out)
    assert chosen.keep == "nonzero" and chosen.count == 2458
    assert all((x.index % x.shape[1] % 2 == 1).all() for x in chosen.chosen)
    for rule in ("uniform", "global"):
        done = in_process("select", pruned, "--budget", "60%", "--rule", rule, *flags)
        assert done.code == 2 and "pruning left" in done.err and "50.0%" in done.err, done.err
    assert in_process("select", pruned, "--budget", "60%").code == 0


def test_a_plan_of_another_model_and_edited_plans(
    in_process: Run, model: Path, report: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    in_process("plan", "tune", model, "--report", report, "-o", plan)
    other = tmp_path / "other.safetensors"
    save_file({"model.layers.0.mlp.up_proj.weight": torch.randn(96, 65)}, other)
    done = in_process("select", other, "--plan", plan)
    assert done.code == 2 and "make a plan from this model" in done.err
    text = json.loads(plan.read_text())
    text["layers"][0]["count"] = 10**9
    plan.write_text(json.dumps(text))
    done = in_process("select", model, "--plan", plan)
    assert done.code == 2 and "whole number in 0..6144" in done.err
    plan.write_text("{")
    done = in_process("select", model, "--plan", plan)
    assert done.code == 2 and "not JSON" in done.err


def test_weights_that_are_not_finite_are_an_unreadable_model(
    in_process: Run, model: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    in_process("plan", "tune", model, "-o", plan)
    from safetensors.torch import load_file

    tensors = load_file(model)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    bad = tmp_path / "bad.safetensors"
    save_file(tensors, bad)
    done = in_process("select", bad, "--plan", plan, "-o", str(tmp_path / "s.safetensors"))
    assert done.code == 4 and "layers.1.mlp.up_proj" in done.err
    assert not (tmp_path / "s.safetensors").exists()


@pytest.mark.parametrize("kind", ["scores", "rules", "granularities", "ways"])
def test_lists(in_process: Run, kind: str) -> None:
    done = in_process("list", kind)
    assert done.code == 0 and "(default)" in done.out
    assert json.loads(in_process("list", kind, "--format", "json").out)[0]["meaning"]


# -------------------------------------------------------------------------------- delta


def test_delta_diff_apply_revert(in_process: Run, model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(model)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] += 1
    tuned, delta = tmp_path / "tuned.safetensors", tmp_path / "d.safetensors"
    save_file(tensors, tuned)
    done = in_process("delta", "diff", model, tuned, "-o", delta)
    assert done.code == 0 and "1 changed in 1 tensor" in done.out, done.err
    again, back = tmp_path / "again.safetensors", tmp_path / "back.safetensors"
    assert in_process("delta", "apply", model, delta, "-o", again).code == 0
    assert in_process("delta", "revert", again, delta, "-o", back).code == 0
    assert load_file(again).keys() == load_file(tuned).keys()
    assert frog.diff(str(again), tuned).count == frog.diff(str(back), model).count == 0
    shown = json.loads(in_process("delta", "diff", model, tuned, "--format", "json").out)
    assert shown["count"] == 1

    for words, told in (
        (["apply", tuned, delta, "-o", str(tmp_path / "x")], "applied already"),
        (["apply", model, delta, "-o", again], "must not exist"),
        (["apply", model, tuned, "-o", str(tmp_path / "x")], "frog-delta"),
        (["apply", model, "none.safetensors", "-o", str(tmp_path / "x")], "no such file"),
        (["revert", model, delta, "-o", str(tmp_path / "x")], "reverted already"),
        (["export", delta, "--base", model, "--to", "gguf", "-o", "x"], "shira"),
    ):
        done = in_process("delta", *words)
        assert done.code == 2 and told in done.err, (words, done.err)
    assert not (tmp_path / "x").exists()


def test_a_delta_of_version_1_is_carried_out(in_process: Run, model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(model)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] += 1
    tuned = tmp_path / "tuned.safetensors"
    save_file(tensors, tuned)
    delta = stored(tmp_path / "old.safetensors", *version_1(frog.diff(str(model), str(tuned))))
    for words in (
        ("apply", model, delta, "-o", tmp_path / "again.safetensors"),
        ("revert", tuned, delta, "-o", tmp_path / "back.safetensors"),
        ("export", delta, "--base", model, "--to", "merged", "-o", tmp_path / "m.safetensors"),
        ("export", delta, "--base", model, "--to", "shira", "-o", tmp_path / "adapter"),
        ("export", delta, "--base", model, "--to", "card", "-o", tmp_path / "card.md"),
    ):
        done = in_process("delta", *words)
        assert done.code == 0, (words, done.err)
    for name, wanted in (("again", tuned), ("m", tuned), ("back", model)):
        assert frog.diff(str(tmp_path / f"{name}.safetensors"), str(wanted)).count == 0


@pytest.mark.parametrize(("version", "kind"), CASES)
def test_a_damaged_delta_is_refused(
    in_process: Run, model: Path, tmp_path: Path, version: int, kind: str
) -> None:
    file, out = tmp_path / "d.safetensors", tmp_path / "x"
    told = damaged(file, kind, version)
    for words in (
        ("apply", model, file), ("revert", model, file),
        ("export", file, "--base", model, "--to", "card"),
    ):  # fmt: skip
        done = in_process("delta", *words, "-o", out)
        said = "".join(done.err.split())
        assert done.code == 2 and "".join(told.split()) in said, (words, done.err)
    assert not out.exists()
