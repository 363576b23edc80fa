"""stdout carries the result, stderr the talk; outputs are whole or absent; pipes may close."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from safetensors.numpy import save_file

from frog.errors import MissingPackage
from tests.cli.runs import environment, files_of, weight

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and file limits")


def test_json_on_stdout_parses_while_the_talk_is_on_stderr(model, own_process):
    done = own_process("analyze", model, "--format", "json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["format"] == "frog-report"
    assert len(report["layers"]) == 6
    assert "measured 4/4" in done.err
    assert "Next  frog analyze" in done.err


@pytest.mark.parametrize("verb", ["analyze", "inspect", "list"])
def test_quiet_prints_nothing(verb, model, in_process):
    done = in_process(verb, "metrics" if verb == "list" else model, "--format", "quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


@pytest.mark.parametrize("verb", ["inspect", "list"])
def test_json_of_the_other_verbs_parses(verb, model, in_process):
    done = in_process(verb, "metrics" if verb == "list" else model, "--format", "json")
    assert done.code == 0
    found = json.loads(done.out)
    if verb == "inspect":
        assert (found["format"], found["version"]) == ("frog-listing", 1)
        assert len(found["matrices"]) == 4
        assert {x["name"] for x in found["skipped"]} == {
            "model.layers.0.attn.q_proj.bias",
            "model.norm.weight",
        }
        assert all(x["reason"] for x in found["skipped"])
        total = sum(x["params"] for x in (*found["matrices"], *found["skipped"]))
        assert total == found["params"]
    else:
        assert {"alpha", "stable_rank"} <= {x["name"] for x in found}


def test_human_output_has_a_row_a_layer_and_the_next_command(model, in_process):
    done = in_process("analyze", model, "--format", "human", "--all")
    assert done.code == 0
    for name in ("attn.q_proj", "attn.k_proj", "mlp.up_proj", "mlp.down_proj"):
        assert name in done.out
    again = f"Next  frog analyze {model} --format human --all -o frog-out"
    assert done.err.splitlines()[-1] == again
    assert max(map(cell_len, done.out.splitlines())) <= 80


def test_names_with_brackets_are_not_markup(tmp_path, in_process):
    folder = tmp_path / "m[red]"
    folder.mkdir()
    random = np.random.default_rng(0).standard_normal((64, 192)).astype(np.float32)
    save_file({"h.0.attn.c_attn.weight": random}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_embd": 64, "n_head": 4}')
    done = in_process("analyze", folder)
    assert "m[red]" in done.out.replace("\n", "")
    assert "c_attn.weight[q]" in done.out, "in the findings"
    assert "c_attn[q]" in done.out, "in the table"


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path, in_process):
    name = "layers.0.\x1b[2J\x07evil.weight"
    save_file({name: weight(64, 64)}, tmp_path / "m.safetensors")
    for verb in ("analyze", "inspect"):
        done = in_process(verb, tmp_path / "m.safetensors")
        assert done.code == 0
        assert "\x1b" not in done.out + done.err
        assert "\x07" not in done.out + done.err
        assert "evil" in done.out


@pytest.mark.slow
def test_ascii_terminal(model, own_process):
    done = own_process("analyze", model, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.code == 0
    assert "Traceback" not in done.err
    assert "\\u03b1" in done.out


@pytest.mark.slow
def test_no_color_is_honoured(model):
    """Rich colours a terminal only; FORCE_COLOR makes one of a pipe."""
    words = [sys.executable, "-m", "frog", "inspect", str(model)]
    forced = environment(FORCE_COLOR="1", TERM="xterm-256color")
    forced.pop("NO_COLOR")
    with_colour = subprocess.run(words, capture_output=True, env=forced, check=True)
    without = subprocess.run(
        words, capture_output=True, env={**forced, "NO_COLOR": "1"}, check=True
    )
    assert b"\x1b[" in with_colour.stdout
    coloured = {b"\x1b[3%d" % i for i in range(8)} | {b"\x1b[9%d" % i for i in range(8)}
    assert not any(code in without.stdout + without.stderr for code in coloured)


def test_a_reader_that_leaves_is_no_error(model):
    """``frog inspect MODEL | head -c 1``, as JSON (written by us) and as a table (by Rich)."""
    for words in (["inspect", str(model), "--format", "json"], ["inspect", str(model)]):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", "frog", *words],
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            check=False,
        )
        os.close(write)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "Broken" not in done.stderr


def test_a_reader_of_the_talk_that_leaves_does_not_end_the_work(model, tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "frog", "analyze", str(model), "--json", tmp_path / "r.json"],
        stdout=subprocess.PIPE,
        stderr=write,
        env=environment(),
        text=True,
        check=False,
    )
    os.close(write)
    assert done.returncode == 0
    assert json.loads((tmp_path / "r.json").read_text())["format"] == "frog-report"
    assert "attn.q_proj" in done.stdout


@ON_LINUX
def test_full_disk_behind_stdout(model):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "frog", "list", "metrics"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------- outputs


def test_outputs_are_made_and_named(model, in_process, tmp_path):
    out = tmp_path / "new" / "folder"
    done = in_process("analyze", model, "-o", out, "--parquet", tmp_path / "t.parquet")
    assert done.code == 0
    assert set(files_of(out)) == {"report.json", "report.html", "layers.csv"}
    for path in (
        out / "report.json",
        out / "layers.csv",
        out / "report.html",
        tmp_path / "t.parquet",
    ):
        assert f"wrote {path}" in done.err


BAD_OUTPUTS = {
    "folder absent": (["--json", "absent/r.json"], ("absent", "must exist", "make it")),
    "is a folder": (["--csv", "folder"], ("must be a file", "got a folder")),
    "folder is a file": (["-o", "file"], ("must be a folder", "got a file")),
    "below a file": (["-o", "file/deeper"], ("must be a folder", "got a file")),
    "beside a file": (["--json", "file/r.json"], ("must exist",)),
    "report is a folder": (["-o", "taken"], ("report.json", "must be a file", "got a folder")),
    "page is a folder": (["-o", "paged"], ("report.html", "must be a file", "got a folder")),
    "page absent": (["--html", "absent/p.html"], ("absent", "must exist", "make it")),
    "page and report": (["--html", "r", "--json", "r"], ("a file of its own", "r")),
    "twice the same": (["--json", "r", "--csv", "r"], ("a file of its own", "r")),
    "unwritable": (["-o", "/proc/frog"], ("/proc",)),
}


@pytest.mark.parametrize("kind", BAD_OUTPUTS)
def test_bad_outputs_are_refused_before_measuring(kind, model, in_process, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / "report.json").mkdir(parents=True)
    (tmp_path / "paged" / "report.html").mkdir(parents=True)
    if kind == "unwritable":
        monkeypatch.setattr("os.access", lambda *_: False)
    before = files_of(tmp_path)
    words, expected = BAD_OUTPUTS[kind]
    done = in_process("analyze", model, *words)
    assert done.code == 2, done
    assert "measured" not in done.err
    assert done.out == ""
    for word in expected:
        assert word in done.err
    assert files_of(tmp_path) == before


def test_parquet_without_pyarrow_is_refused_before_measuring(model, in_process, monkeypatch):
    monkeypatch.setattr("frog.report.frames.find_spec", lambda _: None)
    done = in_process("analyze", model, "--parquet", model / "t.parquet")
    assert done.code == MissingPackage.exit_code == 2
    assert "pip install 'frog[table]'" in done.err
    assert "measured" not in done.err


@pytest.mark.slow
@ON_LINUX
@pytest.mark.parametrize("verb", ["analyze", "report", "gate"])
def test_full_disk_leaves_the_earlier_file(verb, model, tmp_path, in_process):
    """The limit on the size of files stands for the disk: writes beyond it fail half-way."""
    saved, path = tmp_path / "saved.json", tmp_path / "r"
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: 1\nlimits: {{alpha: [{'{max: 1}, ' * 30}]}}\n")
    if verb != "analyze":
        assert in_process("analyze", model, "--json", saved).code == 0
    path.write_text("the earlier file")
    words = {
        "analyze": [model, "--json", path],
        "report": [saved, "--html", path],
        "gate": [saved, "--policy", policy, "--json", path],
    }[verb]
    done = subprocess.run(
        [sys.executable, "-m", "frog", verb, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(FROG_CACHE_DIR=str(tmp_path / "other")),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert str(path) in done.stderr
    assert "earlier file is untouched" in done.stderr
    assert path.read_text() == "the earlier file"
    assert sorted(x.name for x in tmp_path.iterdir() if x.name.startswith((".r", "r"))) == ["r"]


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_interruption_while_writing_leaves_the_earlier_file(failing, tmp_path, monkeypatch):
    from frog.serial.whole_file import write_whole

    path = tmp_path / "r.json"
    path.write_bytes(b"earlier")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if failing == "fsync":
        monkeypatch.setattr("os.fsync", interrupt)
    elif failing == "replace":
        monkeypatch.setattr("pathlib.Path.replace", interrupt)
    data: Any = b"new" if failing != "write" else object()
    with pytest.raises((KeyboardInterrupt, TypeError)):
        write_whole(data, path)
    assert files_of(tmp_path) == {"r.json": b"earlier"}


def test_outputs_replace_earlier_ones_with_the_usual_permissions(model, in_process, tmp_path):
    path = tmp_path / "r.json"
    path.write_text("earlier")
    assert in_process("analyze", model, "--json", path).code == 0
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert json.loads(path.read_text())["format"] == "frog-report"


# ------------------------------------------------------------------- flags of diagnosis


def settings_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["settings"]


def test_the_flow_is_measured_where_a_page_is_written(model, in_process, tmp_path):
    report, page = tmp_path / "r.json", tmp_path / "p.html"
    cases = [((), False), (("--html", page), True), (("--html", page, "--no-flow"), False)]
    for words, expected in [*cases, (("--flow",), True), (("--shard", "1/1"), False)]:
        assert in_process("analyze", model, "--json", report, *words).code == 0
        assert settings_of(report)["flow"] is expected, words
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_window_and_randomize_reach_the_settings(model, in_process, tmp_path):
    report = tmp_path / "r.json"
    words = ("--window", "farms", "--estimator", "hill", "--randomize", "1", "--bootstrap", "0")
    assert in_process("analyze", model, *words, "--json", report).code == 0
    found = settings_of(report)
    assert (found["window"], found["randomize"]) == ("farms", 1)


def test_shards_merge_into_a_page(model, in_process, tmp_path):
    parts = [tmp_path / f"{i}.json" for i in (1, 2)]
    for i, path in enumerate(parts, start=1):
        assert in_process("analyze", model, "--shard", f"{i}/2", "--json", path).code == 0
    page = tmp_path / "page.html"
    done = in_process("merge", *parts, "--html", page)
    assert done.code == 0, done
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert in_process("merge", *parts, "--json", parts[0]).code == 2, "a part is not overwritten"


@pytest.mark.parametrize(
    ("verb", "target"), [("compare", "frog.api.compare"), ("gate", "frog.api.gate")]
)
def test_interruption_of_the_other_verbs(verb, target, model, in_process, tmp_path, monkeypatch):
    """Ctrl-C ends them as it ends analyze: nothing on stdout, nothing written."""

    class Left(Exception):
        pass

    def leave(code: int) -> None:
        raise Left(code)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(target, interrupt)
    models = [model, model] if verb == "compare" else [model]
    with pytest.raises(Left, match="130"):
        in_process(verb, *models, "--json", tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_rankings_are_listed_with_their_sources(in_process):
    done = in_process("list", "rankings")
    assert done.code == 0 and "entropy (default)" in done.out and "control" in done.out
    assert "shown to hold" in done.err
    assert all(cell_len(line.rstrip()) <= 80 for line in done.out.splitlines())
    facts = json.loads(in_process("list", "rankings", "--format", "json").out)
    assert [fact["name"] for fact in facts if fact["default"]] == ["entropy"]
    assert all(fact["source"] and fact["meaning"] for fact in facts)


def test_the_next_command_keeps_the_flags(model, in_process):
    done = in_process("analyze", model, "--estimator", "hill", "--bootstrap", "0")
    assert f"frog analyze {model} --estimator hill --bootstrap 0 -o frog-out" in done.err


@pytest.mark.parametrize("verb", ["analyze", "compare", "gate", "report", "merge"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_files_of_a_model_are_never_written_over(verb, name, model, in_process, tmp_path):
    """The model is a folder: that its own weights are read does not show in the command."""
    (model / "config.json").write_text("{}")
    saved = tmp_path / "r.json"
    shard = ("--shard", "1/1") if verb == "merge" else ()
    assert in_process("analyze", model, "--bootstrap", "0", "--json", saved, *shard).code == 0
    before = files_of(model)
    words = {"compare": (model, model), "report": (saved,), "merge": (saved,)}.get(verb, (model,))
    flag = "--csv" if verb == "report" else "--json"
    done = in_process(verb, *words, flag, model / name)
    assert done.code == 2 and "must not be a file of a model" in done.err, done
    assert files_of(model) == before
