"""frog tune through the real command line: bad input, dry run, a run, an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")

import frog
from tests.cli.runs import Done, environment, files_of
from tests.recipes.small import recipe_of, reviews, save_bert, write_jsonl

Run = Callable[..., Done]
WARNINGS = ["ignore::DeprecationWarning", "ignore::FutureWarning"]
pytestmark = [pytest.mark.filterwarnings(x) for x in WARNINGS]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def recipe(tmp_path: Path, bert: Path) -> Callable[..., Path]:
    """``recipe(section=...)`` writes a recipe file; its output is ``out`` beside it."""
    data = write_jsonl(tmp_path / "rows.jsonl", reviews(32))

    def write(**more: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        plain = recipe_of(bert, data, Path("out")) | more
        path.write_text(yaml.safe_dump(plain, sort_keys=False))
        return path

    return write


def test_the_plan_of_a_run_is_shown_and_nothing_written(
    in_process: Run, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(learning_rate="auto")
    before = files_of(tmp_path)
    done = in_process("tune", path, "--dry-run", "--no-cache", "selection.budget=2%")
    assert done.code == 0, done.err
    for text in (
        "text-classification · 24 train, 8 validation", "4 of 4 rows each", "2.00%",
        "whole (classifier.weight, classifier.bias)", "fitted alone for",
        "first and 60 steps last", "60% of the change", "memory of a step", "activations", "total",
    ):  # fmt: skip
        assert text in " ".join(done.out.split()), text
    assert max(len(line) for line in (done.out + done.err).splitlines()) <= 80 + len(str(path))
    assert f"Next  frog tune {path} selection.budget=2%" in done.err
    assert files_of(tmp_path) == before
    told = json.loads(in_process("tune", path, "--dry-run", "--format", "json").out)
    assert told["format"] == "frog-tune-plan" and told["steps"] == 4
    assert told["trainable"] == told["chosen"] + sum(told["whole"].values())
    parts = {k: v for k, v in told["memory"].items() if k not in ("total", "batch")}
    assert told["memory"]["total"] == sum(parts.values())
    assert told["memory"]["gradients"] == 4 * told["trainable"]
    assert told["memory"]["optimizer"] == pytest.approx(8 * told["trainable"], rel=0.01)


def test_a_run_from_the_file_to_the_folder(
    in_process: Run, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe(compare=True)
    done = in_process("tune", path)
    assert done.code == 0, done.err
    flat = " ".join(done.out.split())
    assert "accuracy" in flat and "before after change" in flat
    assert max(len(line) for line in done.out.splitlines()) <= 80
    assert "step 4/4" in done.err and "training" in done.err
    assert "Next  frog gate" in done.err
    out = tmp_path / "out"
    for name in (
        "model.safetensors", "config.json", "tokenizer.json", "delta.safetensors", "README.md",
        "selection.safetensors", "plan.json", "recipe.yaml", "metrics.json", "compare.json",
        "compare.html",
    ):  # fmt: skip
        assert (out / name).is_file(), name
    assert not list(out.glob(".frog-*"))
    kept = files_of(out)
    done = in_process("tune", path)
    assert done.code == 2 and "holds a run already (finished)" in done.err and not done.out
    done = in_process("tune", path, "--resume")
    assert done.code == 2 and "nothing is left to resume" in done.err
    done = in_process("tune", path, "--resume", "--overwrite")
    assert done.code == 2 and "one of --resume and --overwrite" in done.err
    assert files_of(out) == kept
    done = in_process("tune", path, "--overwrite", "--format", "json", "compare=false")
    told = json.loads(done.out)
    assert done.code == 0 and told["steps"] == 4 and told["changed"] > 0
    assert not (out / "compare.html").exists(), "what belongs to the run before goes"
    assert in_process("tune", path, "--overwrite", "--format", "quiet").out == ""


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], int, str]] = {
    "unknown key": ({"selektion": {}}, (), 2, "selektion: no key 'selektion'. Did you mean"),
    "wrong type": ({"selection": {"rank": "x"}}, (), 2, "selection.rank: must be a whole number"),
    "typo": ({}, ("training.max_setps=3",), 2, "Did you mean 'max_steps'?"),
    "budget 0": ({}, ("selection.budget=0",), 2, "a budget must be at least 1 weight"),
    "more than there is": ({}, ("selection.budget=99M",), 2, "99,000,000"),
    "include": ({}, ("selection.include=nothing",), 2, "matches none"),
    "exclude": ({}, ("selection.exclude=nothing",), 2, "'nothing' must match the name"),
    "train_also": ({}, ("train_also=nothing",), 2, "train_also: 'nothing' must match"),
    "missing file": ({}, ("data.train=none.jsonl",), 2, "data.train: no such file"),
    "column": ({}, ("data.label=gold",), 2, "data.label: "),
    "text column": ({}, ("data.text=story",), 2, "no column 'story'"),
    "max_length": ({}, ("data.max_length=999",), 2, "at most the 64 positions"),
    "validation": (
        {},
        ("training.eval_strategy=steps", "data.validation_share=0"),
        2,
        "needs valid",
    ),
    "share": ({}, ("data.validation_share=0.001",), 2, "must leave rows on both sides"),
    "optimizer": ({}, ("training.optim=adafactor", "training.bf16=x"), 2, "training.bf16"),
    "arguments": ({}, ("training.max_steps=-1", "training.logging_steps=0"), 2, "training: "),
    "override": ({}, ("training",), 2, "an override must read key=value"),
    "selection file": (
        {},
        ("selection={selection: rows.jsonl}",),
        2,
        "must be a file that frog wrote",
    ),
    "plan file": ({}, ("selection={plan: rows.jsonl}",), 2, "selection: "),
    "seed of rows": ({}, ("training.seed=-1",), 2, "training.seed: must be at least 0"),
    "steps of the head": ({}, ("head_first=-1",), 2, "head_first: must be at least 0, got -1"),
    "half a step": ({}, ("head_first=1.5",), 2, "head_first: must be a whole number, got 1.5"),
    "word for the head": ({"head_first": "long"}, (), 2, "head_first: must be auto or a number"),
    "steps at the end": ({}, ("head_last=-1",), 2, "head_last: must be at least 0, got -1"),
    "word for the end": ({"head_last": "long"}, (), 2, "head_last: must be auto or a number"),
    "no new head at the end": ({}, ("train_also=[]", "head_last=5"), 2, "head_last: must be 0 or"),
    "nothing kept": ({}, ("keep_change=0",), 2, "keep_change: must be above 0, got 0"),
    "more than all": ({"keep_change": 1.5}, (), 2, "keep_change: must be at most 1, got 1.5"),
    "word for a share": (
        {},
        ("keep_change=most",),
        2,
        "keep_change: must be auto or a number",
    ),
    "share not a number": ({}, ("keep_change=.nan",), 2, "keep_change: must be "),
    "no new head": ({}, ("train_also=[]", "head_first=5"), 2, "head_first: must be 0 or auto"),
    "batch": ({}, ("training.per_device_train_batch_size=0",), 2, "must be at least 1, got 0"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_told_and_nothing_written(
    in_process: Run, recipe: Callable[..., Path], tmp_path: Path, case: str
) -> None:
    more, words, code, told = CASES[case]
    path = recipe(**more)
    before = files_of(tmp_path)
    done = in_process("tune", path, "--no-cache", *words)
    assert done.code == code and told in done.err, done.err
    assert "Traceback" not in done.err and not done.out
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(("rows", "told"), [
    ("", "has no rows"),
    ("not json\n", "line 1 is not JSON"),
    ('{"text": "a", "label": 0}\n[1]\n', "one JSON object a line"),
    ('{"text": null, "label": 0}\n{"text": "b", "label": 1}\n', "row 1 has None"),
    ('{"text": "a", "label": 0.5}\n{"text": "b", "label": 1}\n', "texts or whole numbers"),
    ('{"text": "a", "label": 0}\n{"text": "b", "label": 0}\n', "at least 2 labels, got 0 alone"),
    ('{"text": "a", "label": 0}\n{"text": "b", "label": 9999}\n', "must count from 0"),
])  # fmt: skip
def test_rows_that_cannot_be_trained_on(
    in_process: Run, recipe: Callable[..., Path], tmp_path: Path, rows: str, told: str
) -> None:
    path = recipe(data={"train": "bad.jsonl"})
    (tmp_path / "bad.jsonl").write_text(rows)
    done = in_process("tune", path)
    assert done.code == 2 and told in done.err and ": data" in done.err, done.err
    assert not (tmp_path / "out").exists()


def test_a_label_that_training_rows_lack(
    in_process: Run, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "other.jsonl", [{"text": "a", "label": "neutral"}])
    path = recipe(data={"train": "rows.jsonl", "test": "other.jsonl"})
    done = in_process("tune", path)
    assert done.code == 2 and "data.test: row 1: no label 'neutral'" in done.err


def test_models_that_cannot_be_tuned(
    in_process: Run, recipe: Callable[..., Path], bert: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    bad = tmp_path / "bad"
    shutil.copytree(bert, bad)
    tensors = load_file(bad / "model.safetensors")
    tensors["encoder.layer.1.output.dense.weight"][3, 4] = float("nan")
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    done = in_process("tune", recipe(model="bad"))
    assert done.code == 4, done.err
    assert "recipe.yaml:2: model: bert.encoder.layer.1.output.dense.weight" in done.err
    assert "1 NaN or infinite" in done.err
    (bad / "model.safetensors").unlink()
    done = in_process("tune", recipe(model="bad"))
    assert done.code == 4 and "cannot be loaded" in done.err
    done = in_process("tune", recipe(task="causal-lm", data={"train": "rows.jsonl"}))
    assert done.code == 4 and "not saved as a language model" in done.err
    assert not (tmp_path / "out").exists()


def test_outputs_that_are_not_free(
    in_process: Run, recipe: Callable[..., Path], bert: Path, tmp_path: Path
) -> None:
    before = files_of(bert)
    for words in ((), ("--overwrite",)):
        done = in_process("tune", recipe(output=str(bert)), *words)
        assert done.code == 2 and "is the model that is read" in done.err, done.err
        done = in_process("tune", recipe(output=str(bert.parent)), *words)
        assert done.code == 2 and "holds the model that is read" in done.err, done.err
        done = in_process("tune", recipe(output="."), *words)
        assert done.code == 2 and "holds data.train" in done.err, done.err
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for words in ((), ("--overwrite",), ("--resume",)):
        done = in_process("tune", recipe(output="other"), *words)
        assert done.code == 2 and "holds no run of frog tune" in done.err, done.err
    done = in_process("tune", recipe(output="other/thesis.txt"))
    assert done.code == 2 and "must be a folder, got a file" in done.err
    assert files_of(other) == {"thesis.txt": b"mine"} and files_of(bert) == before


def test_gradient_scores_take_rows(
    in_process: Run, bert: Path, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = recipe()
    base = ("select", bert, "--budget", "2%", "--score", "gradient")
    done = in_process(*base, "--data", tmp_path / "rows.jsonl")
    assert done.code == 2 and "needs --task: one of causal-lm" in done.err, done.err
    done = in_process(*base, "--task", "causal-lm")
    assert done.code == 2 and "--task is for --data" in done.err
    done = in_process(*base, "--data", path, "--task", "causal-lm")
    assert done.code == 2 and "a recipe names its own" in done.err
    done = in_process(*base, "--data", tmp_path / "rows.jsonl", "--task", "txt-classification")
    assert done.code == 2 and "Did you mean 'text-classification'" in done.err
    if not hasattr(frog, "collect_gradients"):
        pytest.skip("collect_gradients is not part of this build")
    for source in (("--data", tmp_path / "rows.jsonl", "--task", "text-classification"),
                   ("--data", path)):  # fmt: skip
        out = tmp_path / "chosen.safetensors"
        done = in_process(*base, *source, "-o", out, "--exclude", "pooler")
        assert done.code == 0, done.err
        assert frog.Selection.load(out).score == "gradient"


def test_tasks_are_listed(in_process: Run) -> None:
    done = in_process("list", "tasks")
    assert done.code == 0
    for name in ("causal-lm", "text-classification", "image-classification", "sentence-embedding"):
        assert name in done.out
    assert max(len(line) for line in done.out.splitlines()) <= 80
    assert "metrics" in json.loads(in_process("list", "tasks", "--format", "json").out)[0]


def test_a_bad_recipe_in_a_process_of_its_own(own_process: Run, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\ntaks: x\n")
    done = own_process("tune", "r.yaml", cwd=tmp_path)
    assert done.code == 2 and done.out == "" and "Traceback" not in done.err
    assert "r.yaml:2: taks: no key 'taks'. Did you mean 'task'?" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    in_process: Run, recipe: Callable[..., Path], tmp_path: Path, number: int
) -> None:
    training = {"max_steps": 60, "per_device_train_batch_size": 4, "use_cpu": True, "seed": 3}
    path = recipe(training=training)
    words = [sys.executable, "-m", "frog", "tune", str(path)]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    said = ""
    until = time.monotonic() + 120
    while "step " not in said and time.monotonic() < until:
        said += process.stderr.readline()
    process.send_signal(number)
    out, rest = process.communicate(timeout=120)
    assert process.returncode == 130, said + rest
    assert out == "" and "Traceback" not in rest
    assert "is kept; go on from there" in rest
    assert f"Next  frog tune {path} --resume" in rest
    assert os.listdir(tmp_path / "out") == ["checkpoints"], "nothing half-written"

    if number == signal.SIGTERM:  # the other goes the same way
        return
    done = in_process("tune", path)
    assert done.code == 2 and "interrupted at step" in done.err
    done = in_process("tune", path, "--resume", "selection.budget=6%")
    assert done.code == 2 and "selection.budget: the run in" in done.err
    assert "had 5% here, the recipe has 6%" in done.err
    done = in_process("tune", path, "--resume")
    assert done.code == 0 and "resumed at" in done.out, done.err
    done = in_process("tune", path, f"output={tmp_path / 'straight'}")
    assert done.code == 0, done.err
    same_weights(tmp_path / "out", tmp_path / "straight")


def same_weights(first: Path, second: Path) -> None:
    """Two runs ended alike: every weight by its bits, and the metrics."""
    from safetensors.torch import load_file

    weights = [load_file(folder / "model.safetensors") for folder in (first, second)]
    assert all((weights[0][k].numpy() == v.numpy()).all() for k, v in weights[1].items())
    told = [json.loads((folder / "metrics.json").read_text()) for folder in (first, second)]
    assert told[0]["after"] == told[1]["after"] and told[0]["before"] == told[1]["before"]


def test_ctrl_c_in_the_middle_of_a_line_is_answered_after_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A buffered writer refuses a second call from a handler that interrupted the first."""
    from frog.cli.tune import Display

    class Busy:
        def __init__(self) -> None:
            self.busy = True

        def flush(self) -> None:
            if self.busy:
                raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    told: list[str] = []
    stream = Busy()
    monkeypatch.setattr("frog.cli.tune.say", told.append)
    display = Display(quiet=True)
    display.stage("training")
    with monkeypatch.context() as patch:
        patch.setattr("frog.cli.tune.sys.stderr", stream)
        display._asked(signal.SIGINT, None)
        assert display.stop and not told
        stream.busy = False
        display.step(1, 10, 0.1)
        display.step(2, 10, 0.2)
        assert told == ["ending after this step, with a checkpoint (again: at once)"]
        with pytest.raises(KeyboardInterrupt):
            display._asked(signal.SIGINT, None)
