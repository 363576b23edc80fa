"""`frog compare` at the command line: models and reports mixed, and what does not fit."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from safetensors.numpy import load_file, save_file

from tests.cli.runs import Done, environment, files_of, weight
from tests.cli.test_bad_input import ADVICE, damaged, refused

CHEAP = ("--bootstrap", "0")
"""No intervals: these tests look at the way the result takes."""


def copy_of(model: Path, name: str, **changes: np.ndarray | None) -> Path:
    """The model with some tensors replaced, added, or left out (None)."""
    folder = model.parent / name
    folder.mkdir()
    tensors = load_file(model / "model.safetensors")
    for tensor, array in changes.items():
        full = f"model.layers.0.{tensor.replace('__', '.')}.weight"
        tensors.pop(full, None)
        if array is not None:
            tensors[full] = array
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture
def tuned(model: Path) -> Path:
    """The model with one matrix changed a little."""
    old = load_file(model / "model.safetensors")["model.layers.0.attn.q_proj.weight"]
    return copy_of(model, "tuned", attn__q_proj=old + 0.1 * weight(64, 64, seed=9))


@pytest.fixture
def report(model: Path, in_process) -> Path:
    """The model's saved report."""
    path = model.parent / "base.json"
    assert in_process("analyze", model, *CHEAP, "--json", path).code == 0
    return path


# ------------------------------------------------------------------------- what comes out


def test_two_models(model, tuned, in_process, tmp_path):
    page, table, data = tmp_path / "c.html", tmp_path / "c.csv", tmp_path / "c.json"
    words = ("--html", page, "--csv", table, "--json", data)
    done = in_process("compare", model, tuned, *CHEAP, *words)
    assert done.code == 0, done
    found = json.loads(data.read_text())
    assert found["format"] == "frog-compare"
    first_line = " ".join(done.out.split("\n\n")[0].split())
    assert first_line == found["verdict"], "the sentence comes first"
    assert "4 layers compared · 3 identical" in done.out
    assert "3 identical layers" in done.out
    assert max(map(cell_len, done.out.splitlines())) <= 80
    changed = [layer for layer in found["layers"] if not layer["identical"]]
    assert [layer["name"] for layer in changed] == ["model.layers.0.attn.q_proj.weight"]
    old = load_file(model / "model.safetensors")["model.layers.0.attn.q_proj.weight"]
    new = load_file(tuned / "model.safetensors")["model.layers.0.attn.q_proj.weight"]
    assert changed[0]["drift"] == pytest.approx(
        np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-5
    )
    assert page.read_text().startswith("<!DOCTYPE html>")
    with table.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    for path in (page, table, data):
        assert f"wrote {path}" in done.err
    assert done.err.splitlines()[-1] == f"Next  frog gate {tuned} --baseline {model}"


def test_json_on_stdout_is_pure_and_the_talk_is_on_stderr(model, tuned, own_process):
    done = own_process("compare", model, tuned, *CHEAP, "--format", "json")
    assert done.code == 0
    assert json.loads(done.out)["format"] == "frog-compare"
    assert "measured" in done.err
    again = f"Next  frog compare {model} {tuned} --bootstrap 0 --format json --html compare.html"
    assert again in done.err, "with all flags: others would measure something else"


def test_quiet_prints_nothing(model, tuned, in_process):
    done = in_process("compare", model, tuned, *CHEAP, "--format", "quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_a_report_against_a_model_tells_what_needs_weights(report, tuned, in_process):
    done = in_process("compare", report, tuned, "--format", "json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert (found["before"]["weights"], found["after"]["weights"]) == (False, True)
    assert found["after"]["settings"]["bootstrap"] == 0, "the settings of the report hold"
    changed = next(layer for layer in found["layers"] if not layer["identical"])
    assert changed["drift"] is None
    assert changed["missing"]["drift"] == "needs weights"
    shown = in_process("compare", report, tuned)
    assert "(a saved report: no weights)" in " ".join(shown.out.split())


def test_two_reports_need_no_model(model, tuned, report, in_process, tmp_path):
    other = tmp_path / "tuned.json"
    assert in_process("analyze", tuned, *CHEAP, "--json", other).code == 0
    for folder in (model, tuned):
        (folder / "model.safetensors").unlink()
    done = in_process("compare", report, other)
    assert done.code == 0, done
    assert "measured" not in done.err
    assert "3 identical" in done.out


def test_more_than_two_become_a_series(model, tuned, in_process, tmp_path):
    data, page = tmp_path / "s.json", tmp_path / "s.html"
    words = ("--json", data, "--html", page)
    done = in_process("compare", model, tuned, model, *CHEAP, *words)
    assert done.code == 0, done
    found = json.loads(data.read_text())
    assert found["format"] == "frog-series"
    assert len(found["reports"]) == 3
    assert len(found["comparisons"]) == 2
    assert "tuned" in done.out
    assert max(map(cell_len, done.out.splitlines())) <= 80
    again = in_process("report", data)
    assert again.out == done.out, "a saved series is shown as it was"


def test_only_some_layers(model, tuned, in_process):
    words = ("--include", "attn", "--exclude", "k_proj", "--format", "json")
    done = in_process("compare", model, tuned, *CHEAP, *words)
    assert [x["name"] for x in json.loads(done.out)["layers"]] == [
        "model.layers.0.attn.q_proj.weight"
    ]


def test_only_some_layers_of_reports(model, report, tuned, in_process):
    """Means and counts are those of the layers that are left, as for models."""
    words = ("--include", "attn", "--format", "json")
    saved = json.loads(in_process("compare", report, report, *words).out)
    live = json.loads(in_process("compare", model, model, *words, *CHEAP).out)
    assert len(saved["layers"]) == 2
    assert saved["summary"]["alpha_before"] == live["summary"]["alpha_before"]
    assert saved["summary"]["layers_fitted_before"] == 2


def test_the_cache_is_used_unless_told_otherwise(model, tuned, in_process, tmp_path):
    assert in_process("compare", model, tuned, *CHEAP, "--no-cache").code == 0
    assert not (tmp_path / "frog-cache").exists()
    assert in_process("compare", model, tuned, *CHEAP).code == 0
    done = in_process("compare", model, tuned, *CHEAP)
    assert "8 of 8 layers were in the cache" in done.err


# ---------------------------------------------------------- what has no partner: 5


def test_unmatched_tensors_are_listed_and_the_rest_is_compared(model, in_process, tmp_path):
    """A matrix that is gone, one that is new, and one of another shape."""
    changes = {"attn__k_proj": None, "attn__new": weight(64, 64), "mlp__up_proj": weight(96, 64)}
    other = copy_of(model, "other", **changes)
    done = in_process("compare", model, other, *CHEAP, "--json", tmp_path / "c.json")
    assert done.code == 5, done
    assert "without a partner; everything else was compared" in done.err
    found = json.loads((tmp_path / "c.json").read_text())
    assert len(found["layers"]) == 2
    assert "model.layers.0.attn.k_proj.weight" in found["only_before"]
    assert "model.layers.0.attn.new.weight" in found["only_after"]
    assert "96" in json.dumps([found["only_before"], found["only_after"]]), "both shapes are told"
    assert "only before: " in done.out


def test_a_broken_layer_is_told_and_the_rest_is_compared(model, in_process):
    bad = weight(64, 64)
    bad[0, 0] = np.nan
    other = copy_of(model, "other", attn__k_proj=bad)
    done = in_process("compare", model, other, *CHEAP)
    assert done.code == 5, done
    assert "1 layer with NaN or Inf; everything else was compared" in done.err
    assert "nonfinite" in done.out


def test_models_without_anything_in_common(model, in_process, tmp_path):
    folder = tmp_path / "else"
    folder.mkdir()
    save_file({"h.0.w.weight": weight(64, 64)}, folder / "model.safetensors")
    done = in_process("compare", model, folder, *CHEAP)
    assert done.code == 5, done
    assert "5 tensors without a partner" in done.err
    assert "Nothing to compare" in done.out


# --------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", ADVICE)
@pytest.mark.parametrize("place", [0, 1])
def test_a_model_that_cannot_be_read(kind, place, model, tuned, in_process, monkeypatch):
    monkeypatch.chdir(model.parent)
    models = [tuned, damaged(kind, model)]
    before = files_of(model.parent)
    words = ("--json", "c.json", "--html", "c.html")
    done = in_process("compare", *(models[place], models[1 - place]), *CHEAP, *words)
    refused(done, 4, *ADVICE[kind])
    left = {k: v for k, v in files_of(model.parent).items() if not k.startswith("frog-cache")}
    assert left == before


def bad_words(kind: str, model: Path, report: Path, tmp_path: Path) -> tuple[list, tuple[str, ...]]:
    """A command that is wrong in one way, and what the message says."""
    bad = tmp_path / "bad.json"
    bad.write_text('{"format": "something"}')
    cases: dict[str, tuple[list, tuple[str, ...]]] = {
        "one model": ([model], ("at least two", str(model))),
        "none": ([], ("A B [C ...]",)),
        "absent report": ([tmp_path / "absent.json", model], ("absent.json", "no such file")),
        "other JSON": ([model, bad], ("bad.json", "frog-report", "something")),
        "estimator": ([model, model, "--estimator", "kss"], ("Did you mean 'ks'",)),
        "regex": ([model, model, "--include", "("], ("--include", "regular expression")),
        "regex of nothing": ([model, model, "--include", "no_such"], ("no_such", "attn.k_proj")),
        "regex of a report": ([report, report, "--include", "("], ("--include", "regular")),
        "no layer of a report": ([report, report, "--include", "no_such"], ("no_such", "q_proj")),
        "nothing to measure": ([report, report, "--bootstrap", "0"], ("--bootstrap", "reports")),
        "base of no adapter": ([model, model, "--base", model], ("adapter",)),
        "base of a report": ([report, report, "--base", model], ("adapter",)),
        "other settings": (
            [report, model, "--estimator", "hill"],
            ("estimator", "'ks'", "'hill'", "measure"),
        ),
        "output is input": (
            [report, model, "--json", report],
            ("must not be a file that is read",),
        ),
        "output absent": ([model, model, "--html", "absent/c.html"], ("must exist", "make it")),
        "format": ([model, model, "--format", "xml"], ("auto, human, json, quiet",)),
        "jobs": ([model, model, "--jobs", "0"], ("at least 1",)),
        "flag": ([model, model, "--shard"], ("--shard",)),
    }
    return cases[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "one model", "none", "absent report", "other JSON", "estimator", "regex",
        "regex of nothing", "regex of a report", "no layer of a report", "nothing to measure",
        "base of no adapter", "base of a report", "other settings", "output is input",
        "output absent", "format", "jobs", "flag",
    ],
)  # fmt: skip
def test_wrong_use(kind, model, report, in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, expected = bad_words(kind, model, report, tmp_path)
    before = report.read_bytes()
    refused(in_process("compare", *words), 2, *expected)
    assert report.read_bytes() == before


def test_reports_of_different_settings(model, report, in_process, tmp_path):
    hill = tmp_path / "hill.json"
    assert in_process("analyze", model, *CHEAP, "--estimator", "hill", "--json", hill).code == 0
    refused(in_process("compare", report, hill), 2, "estimator", "'hill'", "'ks'")


def test_a_comparison_is_no_model(model, tuned, in_process, tmp_path):
    path = tmp_path / "c.json"
    assert in_process("compare", model, tuned, *CHEAP, "--json", path).code == 0
    refused(in_process("compare", path, tuned), 2, "c.json", "frog-report", "'frog-compare'")


def test_a_part_of_a_report_is_refused(model, tuned, in_process, tmp_path):
    part = tmp_path / "part.json"
    assert in_process("analyze", model, *CHEAP, "--shard", "1/2", "--json", part).code == 0
    refused(in_process("compare", part, tuned), 2, "part 1 of 2", "frog merge")


# ----------------------------------------------------------------------- interruption


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    """As for analyze: 130, nothing on stdout, and the command to go on with."""
    models = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        tensors = {f"layers.{i}.w.weight": weight(900, 900, seed=i) for i in range(6)}
        save_file(tensors, folder / "model.safetensors")
        models.append(str(folder))
    cache = tmp_path / "cache"
    out = tmp_path / "c.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "frog", "compare", *models, "--json", str(out), "--jobs", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(FROG_CACHE_DIR=str(cache)),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while not list(cache.rglob("*.json")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    done = Done(process.returncode, stdout, stderr)
    refused(done, 130, "interrupted", "are kept in the cache")
    assert f"Next  frog compare {' '.join(models)} --json {out} --jobs 1" in stderr
    assert not out.exists()


def test_flow_and_traps_can_be_asked_for(model, tuned, in_process, tmp_path):
    done = in_process(
        "compare", model, tuned, *CHEAP, "--flow", "--randomize", "1", "--json", tmp_path / "c.json"
    )
    assert done.code == 0, done.err
    settings = json.loads((tmp_path / "c.json").read_text())["before"]["settings"]
    assert (settings["flow"], settings["randomize"]) == (True, 1)
    assert "frog compare" in done.err and "--flow" in done.err, "the next command keeps the flags"


def test_a_flag_beside_a_report_leaves_its_other_settings(model, tuned, in_process, tmp_path):
    saved = tmp_path / "hill.json"
    words = ("--estimator", "hill", *CHEAP)
    assert in_process("analyze", model, *words, "--json", saved).code == 0
    done = in_process("compare", saved, tuned, "--randomize", "1")
    assert done.code == 0, done.err
    assert "different" in done.out, "the note tells of the setting that differs"
