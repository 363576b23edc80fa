"""Recipes that ask for gradients, an automatic rate, noise, guards, layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import frog
from frog.api import preview, tuning
from frog.errors import UsageError
from tests.recipes.small import recipe_of
from tests.recipes.test_runs import only_the_chosen_moved, stop_at, told, weights

WARNINGS = ["ignore::DeprecationWarning", "ignore::FutureWarning"]
pytestmark = [pytest.mark.filterwarnings(x) for x in WARNINGS]


def test_gradients_choose_weights(bert: Path, rows: Path, tmp_path: Path) -> None:
    selection = {"budget": "2%", "score": "gradient", "gradient_batches": 2}
    frog.tune(recipe_of(bert, rows, tmp_path / "a", selection=selection))
    chosen = frog.Selection.load(tmp_path / "a" / "selection.safetensors")
    assert chosen.score == "gradient"
    only_the_chosen_moved(weights(bert), tmp_path / "a", "bert.")
    again = preview(recipe_of(bert, rows, tmp_path / "b", selection=selection))
    assert again.selection is not None and again.selection.digest == chosen.digest
    other = preview(recipe_of(bert, rows, tmp_path / "b", selection=selection | {"seed": 5}))
    assert other.selection is not None and other.selection.digest != chosen.digest


def test_the_rate_is_measured_and_told(bert: Path, rows: Path, tmp_path: Path) -> None:
    plain = recipe_of(bert, rows, tmp_path / "out", learning_rate="auto", full_learning_rate=1e-5)
    plan = preview(plain)
    assert "gradient" in plan.rate.reason and "random mask" in plan.rate.reason
    result = frog.tune(plain)
    assert result.rate == plan.rate, "what is previewed is what is run"
    rates = [x["learning_rate"] for x in told(tmp_path / "out")["log"] if "learning_rate" in x]
    assert max(rates) <= plan.rate.value * 1.001


def test_layers_get_rates_of_their_own(bert: Path, rows: Path, tmp_path: Path) -> None:
    selection = {"budget": "2%", "layer_rates": {"kind": "linear", "strength": 0.5}}
    plan = preview(recipe_of(bert, rows, tmp_path / "out", selection=selection)).plan
    assert all(0.5 < x.lr_ratio < 2 for x in plan.layers)


def test_noise_is_made_and_resumed(bert: Path, rows: Path, tmp_path: Path) -> None:
    noise = {"nu": 0.05, "schedule": "linear", "until": 0.8, "draw": "sequence"}
    plain = recipe_of(bert, rows, tmp_path / "cut", noise=noise)
    with pytest.raises(KeyboardInterrupt):
        frog.tune(plain, watch=stop_at(2))
    frog.tune(plain, resume=True)
    frog.tune(plain | {"output": str(tmp_path / "straight")})
    frog.tune(plain | {"output": str(tmp_path / "calm"), "noise": "none"})
    made = [weights(tmp_path / x) for x in ("cut", "straight", "calm")]
    assert all(torch.equal(v, made[1][k]) for k, v in made[0].items())
    assert not all(torch.equal(v, made[2][k]) for k, v in made[0].items())
    with pytest.raises(UsageError, match=r"noise: .*schedule"):
        frog.tune(recipe_of(bert, rows, tmp_path / "x", noise=noise | {"schedule": "sometimes"}))


def test_a_pruned_model_stays_pruned(bert: Path, rows: Path, tmp_path: Path) -> None:
    pruned = tmp_path / "pruned"
    shutil.copytree(bert, pruned)
    start = weights(pruned)
    for name, weight in start.items():
        if ".encoder." in f".{name}" and weight.ndim == 2:
            weight[::2, 1::3] = 0.0
    save_file(start, pruned / "model.safetensors", {"format": "pt"})
    selection = {"budget": "2%", "score": "near-boundary", "keep": "nonzero", "bits": 3,
                 "group": "row"}  # fmt: skip
    noise = {"bits": 3, "group": "row", "draw": "sequence"}
    plain = recipe_of(pruned, rows, tmp_path / "out", selection=selection, noise=noise)
    frog.tune(plain)
    after = weights(tmp_path / "out")
    only_the_chosen_moved(weights(pruned), tmp_path / "out", "bert.")
    names = [
        name for name, weight in start.items() if ".encoder." in f".{name}" and weight.ndim == 2
    ]
    assert names and all(not after[f"bert.{name}"][::2, 1::3].any() for name in names)
    with pytest.raises(UsageError, match=r"selection: .*pruning left"):
        preview(recipe_of(pruned, rows, tmp_path / "x", selection=selection | {"budget": "90%"}))


def test_guards_certify_a_run(bert: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    frog.tune(recipe_of(bert, rows, out, guards=["health", "collapse"]))
    assert json.loads((out / "certificate.json").read_text())["format"]
    frog.tune(recipe_of(bert, rows, tmp_path / "auto", guards="auto"))
    with pytest.raises(UsageError, match=r"guards.*no guard 'helth'.*'health'"):
        frog.tune(recipe_of(bert, rows, tmp_path / "x", guards=["helth"]))
    with pytest.raises(UsageError, match="guards"):
        frog.tune(recipe_of(bert, rows, tmp_path / "x", guards={"health": {"evry": 3}}))
    assert not (tmp_path / "x").exists()


def test_whole_layers_train_by_turns(bert: Path, rows: Path, tmp_path: Path) -> None:
    plain = recipe_of(
        bert, rows, tmp_path / "out", mode="layers", layers={"active": 1, "every": 2},
        learning_rate="auto",
    )  # fmt: skip
    plain.pop("selection")
    every = preview(plain | {"keep_change": 1})
    assert every.rate.value == 1e-4, "full tuning of a small encoder"
    result = frog.tune(plain)
    assert result.changed > 0 and not (tmp_path / "out" / "selection.safetensors").exists()
    frog.apply_delta(
        str(tmp_path / "out"), frog.SparseDelta.load(tmp_path / "out" / "delta.safetensors"),
        revert=True, out=tmp_path / "back",
    )  # fmt: skip
    back, base = weights(tmp_path / "back"), weights(bert)
    assert all(torch.equal(back[f"bert.{k}"], v) for k, v in base.items() if f"bert.{k}" in back)


def test_a_run_that_a_guard_stopped_ends_with_3(
    bert: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever guard asks: the result is written, the reason told, the exit code is 3."""
    from typer.testing import CliRunner

    from frog.cli.main import app

    monkeypatch.setattr(tuning, "_stopped", lambda tuner: "step 2: the loss doubled (health: stop)")
    path = tmp_path / "recipe.yaml"
    import yaml

    path.write_text(yaml.safe_dump(recipe_of(bert, rows, tmp_path / "out")))
    done = CliRunner().invoke(app, ["tune", str(path)])
    assert done.exit_code == 3
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert told(tmp_path / "out")["stopped"].startswith("step 2")


def test_what_a_guard_says_is_the_reason_of_the_stop() -> None:
    alarms = ("step 3: too small", "step 9: too large (health: stop)")
    stopped = SimpleNamespace(stopped=True, alarms=alarms)
    assert tuning._stopped(stopped) == "step 9: too large (health: stop)"
    assert tuning._stopped(SimpleNamespace(stopped=True, alarms=())) == "a guard asked for it"
    assert tuning._stopped(SimpleNamespace(stopped=False, alarms=alarms)) == ""
    assert tuning._stopped(None) == "", "whole layers have no guards"


def test_mistakes_that_other_libraries_would_tell_late(
    bert: Path, rows: Path, tmp_path: Path
) -> None:
    """Each is told as a mistake of use, with what to do, and nothing is written."""
    plain = {"max_steps": 2, "use_cpu": True}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"training": plain | {"max_steps": 0}}, r"max_steps: must be at least 1, or -1 .* got 0"),
        ({"training": plain | {"report_to": "nowhere"}}, r"report_to: .*set report_to: none"),
        (
            {"guards": {"health": {"evry": 5}}},
            r"no setting of the guard health 'evry'. Did .*every",
        ),
        ({"noise": "lots"}, r"noise: must be none, a number or a mapping .* got 'lots'"),
    ]
    for change, told_so in wrong:
        with pytest.raises(UsageError, match=told_so):
            frog.tune(recipe_of(bert, rows, tmp_path / "out", **change))
    one = recipe_of(bert, rows, tmp_path / "out")
    one["data"] |= {"labels": ["good"]}
    with pytest.raises(UsageError, match="labels: must name at least 2"):
        frog.tune(one)
    assert not (tmp_path / "out").exists()


def test_a_place_where_nothing_can_be_made_is_told_at_once(bert: Path, rows: Path) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc, which takes no folders even from root")
    with pytest.raises(UsageError, match="/proc must be writable"):
        frog.tune(recipe_of(bert, rows, Path("/proc/nothing")))


def test_the_base_of_a_new_head_is_explained(bert: Path, rows: Path, tmp_path: Path) -> None:
    frog.tune(recipe_of(bert, rows, tmp_path / "out"))
    delta = frog.SparseDelta.load(tmp_path / "out" / "delta.safetensors")
    with pytest.raises(UsageError, match=r"with the new head .* frog delta revert"):
        frog.export_delta(delta, bert, "merged", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
