"""frog compare over outputs of frog tune: one row a strategy, made by the real command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")

import frog
from tests.cli.runs import Done, files_of
from tests.recipes.small import recipe_of, reviews, save_bert, write_jsonl

Run = Callable[..., Done]
WARNINGS = ["ignore::DeprecationWarning", "ignore::FutureWarning"]
pytestmark = [pytest.mark.filterwarnings(x) for x in WARNINGS]
CHEAP = ("--bootstrap", "0", "--include", "query", "--jobs", "1")
SHARED = ("base", "few", "many")
DATA = {"train": "rows.jsonl", "test": "test.jsonl", "old": "old.jsonl"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a recipe, and two runs of it: ``few`` and ``many`` weights."""
    folder = tmp_path_factory.mktemp("strategies")
    save_bert(folder / "base", kind="BertForSequenceClassification", num_labels=2)
    for name, count in (("rows", 32), ("test", 16), ("old", 12)):
        write_jsonl(folder / f"{name}.jsonl", reviews(count))
    plain = recipe_of(Path("base"), Path("rows.jsonl"), Path("few"), data=DATA)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plain))
    frog.tune(folder / "recipe.yaml")
    frog.tune(folder / "recipe.yaml", overrides=["output=many", "selection.budget=50%"])
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the two runs that a test may damage; the base is where the runs say."""
    for name in SHARED[1:]:
        shutil.copytree(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edited(folder: Path, **changes: Any) -> None:
    """The run's file with other values; None takes a key out."""
    path = folder / "metrics.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


def test_a_run_keeps_what_the_table_needs(made: Path) -> None:
    told = json.loads((made / "few" / "metrics.json").read_text())
    assert told["rows"] == {"test": 16, "old": 12} and len(set(told["digests"].values())) == 2
    assert told["model"] == str(made / "base") and told["device"] == "cpu" and told["higher"]
    assert told["delta_bytes"] == (made / "few" / "delta.safetensors").stat().st_size
    assert told["cpu_seconds"] > 0 and told["seconds"] > 0
    other = json.loads((made / "many" / "metrics.json").read_text())
    assert other["digests"] == told["digests"], "the same rows are the same rows"
    memory = told["memory"]
    assert memory is None or memory > 4 * told["params"], "at least the weights were there"


def test_runs_become_a_table_beside_the_base_they_name(
    in_process: Run, runs: Path, made: Path
) -> None:
    done = in_process("compare", "few", "many", *CHEAP, "--json", "s.json", "--html", "s.html")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    for word in ("strategy", "accuracy", "gain", "old", "trains", "memory", "time", "|Δα|"):
        assert word in done.out, word
    found = json.loads(Path("s.json").read_text())
    assert found["labels"] == ["base", "few", "many"]
    few, many = found["strategies"]
    told = json.loads((runs / "few" / "metrics.json").read_text())
    for side in ("before", "after"):
        assert few[f"quality_{side}"] == told[side]["test"]["accuracy"]
        assert few[f"old_{side}"] == told[side]["old"]["accuracy"]
    for name in ("trainable", "changed", "params", "seconds", "cpu_seconds", "delta_bytes"):
        assert few[name] == told[name], name
    assert few["learning_rate"] == 0.01 and few["split"] == "test" and few["rows"] == 16
    assert few["trainable"] < many["trainable"] and few["drift"] < many["drift"]
    assert few["overlap"] > many["overlap"] and few["kind"] == "run"
    assert few["drift"] == found["comparisons"][0]["summary"]["drift_total"]
    page = Path("s.html").read_text()
    assert 'id="strategies"' in page and ">few</th>" in page
    again = in_process("report", "s.json")
    assert again.out == done.out, "a saved table is shown as it was"
    named = in_process("compare", made / "base", "few", "many", *CHEAP)
    assert named.out == done.out, "the base may be named first"
    shown = in_process("compare", "few", "many", *CHEAP, "--format", "json")
    assert json.loads(shown.out)["format"] == "frog-series"


def test_python_gives_the_same_values(runs: Path, made: Path) -> None:
    found = frog.compare_runs(runs / "few", runs / "many", include="query",
                              settings=frog.Settings(bootstrap=0))  # fmt: skip
    assert [x.label for x in found.strategies] == ["few", "many"]
    first = found.strategies[0]
    assert isinstance(first, frog.Strategy) and not first.missing
    text = found.to_json(runs / "s.json")
    assert frog.Series.from_json(runs / "s.json").to_json() == text
    assert "few" in str(found) and "gain" in found._repr_html_()
    found.to_html(runs / "s.html")
    from frog.report.frames import member_rows

    rows = member_rows(found)
    assert rows[1]["quality_after"] == first.quality_after and "trainable" not in rows[0]


def test_other_models_and_deltas_stand_beside_runs(in_process: Run, runs: Path, made: Path) -> None:
    """Of a plain checkpoint the weights alone speak; a delta is its base with it applied."""
    (runs / "plain").mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(runs / "many" / name, runs / "plain" / name)
    shutil.copy(runs / "few" / "delta.safetensors", runs / "change.safetensors")
    words = (made / "base", "few", "plain", "change.safetensors")
    done = in_process("compare", *words, *CHEAP, "--json", "s.json")
    assert done.code == 0, done.err
    run, plain, delta = json.loads(Path("s.json").read_text())["strategies"]
    assert (run["kind"], plain["kind"], delta["kind"]) == ("run", "model", "delta")
    assert plain["memory"] is None and plain["missing"]["memory"] == "no output of frog tune"
    assert plain["drift"] > 0 and "drift" not in plain["missing"]
    assert delta["drift"] == run["drift"] and delta["alpha_shift"] == run["alpha_shift"]
    assert delta["changed"] == run["changed"] and delta["trainable"] is None
    assert delta["path"] == "change.safetensors"
    assert "– plain: no output of frog tune" in done.out


def test_other_rows_are_not_compared(in_process: Run, runs: Path) -> None:
    digests = json.loads((runs / "many" / "metrics.json").read_text())["digests"]
    edited(runs / "many", digests={**digests, "test": "0" * 32})
    done = in_process("compare", "few", "many", *CHEAP, "--json", "s.json")
    assert done.code == 5, "the rest is compared"
    many = json.loads(Path("s.json").read_text())["strategies"][1]
    assert many["quality_after"] is None and many["unlike"] == ["quality_before", "quality_after"]
    assert many["missing"]["quality_after"] == "measured on other test rows than those of few"
    assert many["old_after"] is not None
    flat = " ".join(done.out.split())
    assert "quality of many: measured on other test rows than those of few" in flat
    assert "quality of many measured on other rows; everything else was compared" in done.err


def test_rows_that_truly_differ_have_other_digests(made: Path, tmp_path: Path) -> None:
    write_jsonl(made / "other.jsonl", reviews(18)[2:])
    words = [f"output={tmp_path / 'other'}", "data.test=other.jsonl", "training.max_steps=1"]
    told = frog.tune(made / "recipe.yaml", overrides=words)
    first = json.loads((made / "few" / "metrics.json").read_text())
    assert told.rows["test"] == first["rows"]["test"]
    assert told.digests["test"] != first["digests"]["test"]
    assert told.digests["old"] == first["digests"]["old"]


def test_runs_of_two_bases_are_refused(in_process: Run, runs: Path, made: Path) -> None:
    """By the bits: a base of other values is another one, whatever its path."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(made / "base", runs / "base2")
    tensors = load_file(runs / "base2" / "model.safetensors")
    tensors["bert.encoder.layer.0.output.dense.weight"] += 1.0
    save_file(tensors, runs / "base2" / "model.safetensors", metadata={"format": "pt"})
    before = files_of(runs)
    done = in_process("compare", "base2", "few", "many", *CHEAP, "--json", "s.json")
    assert done.code == 2 and "must come from one base" in done.err, done.err
    assert "few was tuned from" in done.err and not done.out
    other = frog.tune(made / "recipe.yaml", overrides=["model=" + str(runs / "base2"),
                      "output=" + str(runs / "third"), "training.max_steps=3"])  # fmt: skip
    done = in_process("compare", "few", other.output, *CHEAP)
    assert done.code == 2 and "third was tuned from" in done.err, done.err
    shutil.rmtree(other.output)
    assert files_of(runs) == before


def test_a_base_that_moved_is_known_by_its_bits(in_process: Run, runs: Path, made: Path) -> None:
    shutil.copytree(made / "base", runs / "elsewhere")
    for name in SHARED[1:]:
        edited(runs / name, model=str(runs / "gone"))
    done = in_process("compare", "few", "many", *CHEAP)
    assert done.code == 2 and "is not at hand" in done.err and "BASE RUN RUN" in done.err
    done = in_process("compare", "elsewhere", "few", "many", *CHEAP)
    assert done.code == 0, done.err
    edited(runs / "few", model=None)
    done = in_process("compare", "few", "many", *CHEAP)
    assert done.code == 2 and "does not say which model it came from" in done.err


DAMAGE: dict[str, tuple[Any, str]] = {
    "cut off": ('{"format": "frog-metrics", "version"', "not JSON"),
    "empty": ("", "not JSON"),
    "another file": ('{"format": "something"}', '"format": "frog-metrics"'),
    "a later version": ({"version": 99}, "a later frog wrote it"),
    "a word for a number": ({"trainable": "many"}, "trainable"),
    "a negative count": ({"trainable": -3}, "trainable must be at least 0"),
    "negative time": ({"seconds": -1.0}, "seconds must be at least 0"),
    "no metrics": ({"after": None}, "after"),
    "metrics of another shape": ({"after": {"test": 3}}, "after"),
    "no rate": ({"rate": None}, "rate"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_of_a_run_is_told(in_process: Run, runs: Path, kind: str) -> None:
    change, told = DAMAGE[kind]
    if isinstance(change, str):
        (runs / "few" / "metrics.json").write_text(change)
    else:
        edited(runs / "few", **change)
    before = files_of(runs)
    done = in_process("compare", "few", "many", *CHEAP, "--json", "s.json")
    assert done.code == 2 and told in done.err, done.err
    assert "few/metrics.json" in done.err and "Traceback" not in done.err and not done.out
    assert files_of(runs) == before


def test_figures_that_an_older_run_lacks_are_null(in_process: Run, runs: Path) -> None:
    edited(runs / "few", cpu_seconds=None, memory=None, digests=None, rows=None)
    done = in_process("compare", "few", "many", *CHEAP, "--json", "s.json")
    assert done.code == 5, done.err
    few, many = json.loads(Path("s.json").read_text())["strategies"]
    assert few["cpu_seconds"] is None and few["missing"]["cpu_seconds"] == "not recorded"
    assert few["quality_after"] is not None and many["quality_after"] is None
    assert "is not recorded" in many["missing"]["quality_after"]


def test_the_commands_of_the_page_run(in_process: Run, made: Path, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    page = Path(__file__).parents[2] / "docs" / "comparing-strategies.md"
    block = page.read_text().split("```\n")[1]
    plain = yaml.safe_load((made / "recipe.yaml").read_text()) | {"model": str(made / "base")}
    plain["data"] = {split: str(made / name) for split, name in DATA.items()}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain))
    monkeypatch.chdir(tmp_path)
    commands = [line.partition("#")[0].split()[1:] for line in block.splitlines()]
    assert [words[0] for words in commands] == ["tune", "tune", "compare"]
    said = ""
    for words in commands:
        done = in_process(*words, *(CHEAP if words[0] == "compare" else ()))
        assert done.code == 0, done.err
        said = done.out
    assert "strategy" in said and (tmp_path / "strategies.html").exists()


def test_one_run_is_before_and_after(in_process: Run, runs: Path, made: Path) -> None:
    done = in_process("compare", made / "base", "few", *CHEAP, "--format", "json")
    assert done.code == 0 and json.loads(done.out)["format"] == "frog-compare"
    done = in_process("compare", "few")
    assert done.code == 2 and "at least two models" in done.err
    with pytest.raises(frog.UsageError, match="from two on, got 1"):
        frog.compare_runs(made / "base", runs / "few")
    with pytest.raises(frog.UsageError, match="got none"):
        frog.compare_runs(made / "base", made / "base", made / "base")
    with pytest.raises(frog.UsageError, match="from two on, got 0"):
        frog.compare_runs()


def test_a_run_that_has_not_finished(in_process: Run, runs: Path, made: Path) -> None:
    state = runs / "many" / "checkpoints" / "run.json"
    assert json.loads(state.read_text())["status"] == "finished"
    (runs / "many" / "metrics.json").unlink()
    done = in_process("compare", made / "base", "few", "many", *CHEAP)
    assert done.code == 2 and "many: must be a run that has finished" in done.err, done.err
    assert "--resume" in done.err


def test_a_tuned_model_may_be_the_base_of_others(made: Path, runs: Path, in_process: Run) -> None:
    frog.tune(made / "recipe.yaml", overrides=[f"model={runs / 'few'}",
              f"output={runs / 'second'}", "training.max_steps=1"])  # fmt: skip
    done = in_process("compare", "few", "second", made / "base", *CHEAP, "--json", "s.json")
    assert done.code == 0, done.err
    found = json.loads(Path("s.json").read_text())
    assert found["labels"] == ["few", "second", "base"] and len(found["strategies"]) == 2
