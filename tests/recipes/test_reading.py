"""Recipes as files: what is allowed is read, what is not is refused with its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from frog.api import read_recipe
from frog.errors import UsageError
from frog.types.recipes import GuardSpec, Recipe

GOOD = """\
version: 1
model: base
task: text-classification
data:
  train: rows.jsonl
  validation: {file: rows.jsonl}
  text: [premise, hypothesis]
  label: gold
  limit: 20
output: ../out
selection:
  budget: 2%
  rule: alpha
  knobs: {power: -1}
  score: gradient * relevance^-1
  granularity: column
  exclude: pooler
train_also: classifier
learning_rate: auto
full_learning_rate: 2e-5
training:
  num_train_epochs: 2
  save_strategy: no
  lr_scheduler_type: cosine
  weight_decay: 0.01
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "recipes"
    (made / "base").mkdir(parents=True)
    (made / "rows.jsonl").write_text('{"text": "a", "label": 0}\n')
    return made


def read(folder: Path, text: str, overrides: Sequence[str] = ()) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path, overrides)


def test_everything_stands_where_it_belongs(folder: Path) -> None:
    recipe = read(folder, GOOD)
    assert recipe.model == str(folder / "base"), "relative to the recipe"
    assert recipe.output == str(folder.parent / "out")
    assert recipe.data.train.path == str(folder / "rows.jsonl") == recipe.data.validation.path
    assert recipe.data.text == ("premise", "hypothesis") and recipe.data.label == "gold"
    assert recipe.data.limit == dict.fromkeys(("train", "validation", "test", "old"), 20)
    assert recipe.selection.budget == "2%" and recipe.selection.knobs == {"power": -1.0}
    assert recipe.train_also == ("classifier",) and recipe.learning_rate is None
    assert recipe.full_learning_rate == 2e-5
    # YAML 1.1 reads `no` as false: the field takes the word
    assert recipe.training["save_strategy"] == "no"
    assert recipe.where("selection", "budget").endswith("recipe.yaml:12: selection.budget")


def test_what_is_written_reads_back_the_same(folder: Path) -> None:
    recipe = read(folder, GOOD)
    path = folder.parent / "again.yaml"
    recipe.to_yaml(path)
    again = read_recipe(path)
    assert replace(again, origin=recipe.origin) == recipe


def test_a_mapping_is_a_recipe_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    monkeypatch.chdir(folder)
    recipe = read_recipe(yaml.safe_load(GOOD))
    assert recipe == replace(read(folder, GOOD), origin="the recipe")
    assert read_recipe(recipe) is recipe
    with pytest.raises(UsageError, match="use dataclasses"):
        read_recipe(recipe, ["seed=1"])
    with pytest.raises(UsageError, match="plain values only"):
        read_recipe({"version": object()})


def test_short_and_long_forms(folder: Path) -> None:
    short = read(folder, GOOD + "noise: 0.01\n", ["guards=none"])
    assert short.noise == {"nu": 0.01} and short.guards == ()
    long = read(folder, GOOD + "noise: {nu: 0.01, schedule: linear, until: 0.5, draw: token}\n")
    assert long.noise == {"nu": 0.01, "schedule": "linear", "until": 0.5, "draw": "token"}
    assert read(folder, GOOD + "noise: none\n").noise is None
    bits = read(folder, GOOD + "noise: {bits: 4, group: row}\n")
    assert bits.noise == {"bits": 4, "group": "row"}
    assert read(folder, GOOD + "guards: auto\n").guards == "auto"
    listed = read(folder, GOOD + "guards: [health, {collapse: {every: 5}}]\n")
    assert listed.guards == (
        GuardSpec(name="health"),
        GuardSpec(name="collapse", settings={"every": 5}),
    )
    head, _, tail = GOOD.partition("selection:")
    whole = head + "training:" + tail.partition("training:")[2] + "mode: layers\n"
    layers = read(folder, whole + "layers: {active: 3, every: 10}\n")
    assert layers.mode == "layers" and layers.layers == {"active": 3, "every": 10}
    hub = read(folder, GOOD, ["data.train={id: org/rows@v2, split: 'train[:9]'}", "model=a/b@main"])
    assert (hub.data.train.id, hub.data.train.split) == ("org/rows@v2", "train[:9]")
    assert hub.model == "a/b@main"


def test_overrides_are_laid_over_the_file(folder: Path) -> None:
    words = [
        "selection.budget=5M", "training.num_train_epochs=1", "training.learning_rate=1e-4",
        "data.limit.train=7", "data.limit.test=3", "training.lr_scheduler_kwargs={a: 1}",
    ]  # fmt: skip
    recipe = read(
        folder, GOOD.replace("  limit: 20\n", "").replace("rate: auto", "rate: null"), words
    )
    assert recipe.selection.budget == "5M" and recipe.training["num_train_epochs"] == 1.0
    assert recipe.learning_rate == 1e-4 and "learning_rate" not in recipe.training
    assert recipe.data.limit == {"train": 7, "test": 3}
    assert recipe.training["lr_scheduler_kwargs"] == {"a": 1}


BAD: dict[str, Any] = {
    "unknown key": (
        ("  budget: 2%", "  budgt: 2%"),
        "recipe.yaml:12: selection.budgt: no key 'budgt'. Did you mean 'budget'?",
    ),
    "unknown section": (("train_also:", "train_alos:"), "18: train_alos: no key 'train_alos'. Did"),
    "wrong type": (("limit: 20", "limit: {train: many}"), "9: data.limit.train: must be a whole n"),
    "zero limit": (("limit: 20", "limit: 0"), "9: data.limit: must be at least 1, got 0"),
    "unknown task": (("text-class", "txt-class"), "3: task: no task 'txt-classification'. Did you"),
    "another task's key": (
        ("  label: gold", "  image: x"),
        "8: data.image: is no key of the task text-classification, which takes text, label",
    ),
    "TrainingArguments typo": (
        ("weight_decay", "weigth_decay"),
        "25: training.weigth_decay: no field of TrainingArguments 'weigth_decay'. Did you mean "
        "'weight_decay'?",
    ),
    "TrainingArguments type": (
        ("num_train_epochs: 2", "num_train_epochs: two"),
        "22: training.num_train_epochs: must be a number, got 'two'",
    ),
    "TrainingArguments word": (
        ("_type: cosine", "_type: cosin"),
        "24: training.lr_scheduler_type: no lr_scheduler_type 'cosin'. Did you mean 'cosine'?",
    ),
    "not here": (("weight_decay: 0.01", "output_dir: x"), "25: training.output_dir: cannot be set"),
    "sharded": (
        ("weight_decay: 0.01", "fsdp: full"),
        "25: training.fsdp: cannot be set here: shar",
    ),
    "budget 0": (("budget: 2%", "budget: 0"), "12: selection.budget: a budget must be at least 1"),
    "budget 0 %": (("budget: 2%", "budget: 0%"), "12: selection.budget: a budget must be above 0"),
    "budget over all": (
        ("budget: 2%", "budget: 101%"),
        "12: selection.budget: a budget must be ab",
    ),
    "bad regex": (("pooler", "'('"), "17: selection.exclude: must be a regular expression"),
    "unknown rule": (
        ("rule: alpha", "rule: alhpa"),
        "13: selection.rule: no rule 'alhpa'. Did you",
    ),
    "unknown score": (
        ("relevance^-1", "relevanec"),
        "15: selection.score: no score 'relevanec'. Did you mean 'relevance'?",
    ),
    "granularity": (("column", "cell"), "16: selection.granularity: must be 'element', 'row'"),
    "missing data file": (("train: rows", "train: raws"), "5: data.train: no such file: "),
    "not a data file": (("train: rows.jsonl", "train: base"), "5: data.train: must be a file"),
    "missing model": (("model: base", "model: ./bse"), "2: model: no such file or folder: "),
    "missing plan": (("  budget: 2%", "  plan: p.json"), "12: selection.plan: no such file: "),
    "twice": (("output: ../out", "output: a\noutput: b"), "11: output: stands twice: keep one"),
    "reference": (("gold", "&a gold"), ""),
    "no mapping": ((GOOD, "- 1"), "recipe.yaml: must be a mapping that begins with version: 1"),
    "empty": ((GOOD, ""), "recipe.yaml: must be a mapping"),
    "no YAML": (("budget: 2%", "budget: [2"), "must be YAML"),
    "no version": (("version: 1\n", ""), "recipe.yaml:1: version: is required"),
    "later version": (
        ("version: 1", "version: 2"),
        "1: version: must be 1, got 2: a recipe for a l",
    ),
    "rate": (("rate: auto", "rate: fast"), "19: learning_rate: must be auto or a number above 0"),
    "negative rate": (("rate: auto", "rate: -1"), "19: learning_rate: must be above 0, got -1"),
    "noise": (("train_also: classifier", "noise: {draw: x}"), "18: noise: must have nu or bits"),
    "noise of bits": (
        ("train_also: classifier", "noise: {bits: 9}"),
        "18: noise.bits: must be at most 8",
    ),
    "a group without bits": (
        ("train_also: classifier", "noise: {nu: 0.1, group: 8}"),
        "18: noise: group is for bits",
    ),
    "a guide for bits": (
        ("train_also: classifier", "noise: {bits: 4, guide: even}"),
        "18: noise: guide is for nu alone",
    ),
    "keep": (("exclude: pooler", "keep: zeros"), "17: selection.keep: must be 'all' or 'nonzero'"),
    "bits": (("exclude: pooler", "bits: 0"), "17: selection.bits: must be at least 1"),
    "group": (("exclude: pooler", "group: 0"), "17: selection.group"),
    "guards": (
        ("train_also: classifier", "guards: 3"),
        "18: guards: must be auto, none, or a list",
    ),
    "layers without mode": (
        ("train_also: classifier", "layers: {active: 2}"),
        "18: layers: is for",
    ),
    "layers with a selection": (("training:", "mode: layers\ntraining:"), "18: train_also: is for"),
    "layers with a budget": (
        ("train_also: classifier", "mode: layers"),
        "is for mode: select; mode: layers takes report and seed",
    ),
    "two validations": (
        ("  limit: 20", "  validation_share: 0.1"),
        "9: data.validation_share: mus",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_told_with_its_line(folder: Path, case: str) -> None:
    (old, new), told = BAD[case]
    assert old in GOOD
    text = GOOD.replace(old, new)
    if not told:
        text, told = text.replace("exclude: pooler", "exclude: *a"), "8: a recipe has no references"
    with pytest.raises(UsageError) as error:
        read(folder, text)
    assert f"{folder}/recipe.yaml" in str(error.value) and told in str(error.value), error.value
    assert error.value.exit_code == 2


@pytest.mark.parametrize(("word", "told"), [
    ("training.seed", "an override must read key=value"),
    ("=3", "an override must read key=value"),
    ("training.seed=x", "override training.seed=x: training.seed: must be a whole number, got 'x'"),
    ("training.sede=3", "override training.sede=3: training.sede: no field of TrainingArguments"),
    ("selection.budget=0", "override selection.budget=0: selection.budget: a budget must be at"),
    ("selection.bugdet=1%", "override selection.bugdet=1%: selection.bugdet: no key 'bugdet'. Did"),
    ("data.train.split=x", "data.train must be a mapping to take 'split', it is 'rows.jsonl'"),
    ("data.train=none.csv", "override data.train=none.csv: data.train: no such file"),
    ("data.limit=[1", "override data.limit=[1:1: must be YAML"),
    ("data.score_range=[5, 0]", "score_range"),
    ("training.learning_rate=0", "must be auto or a number above 0, got 0"),
    ("task=causal-lm", "is no key of the task causal-lm"),
    ("data.train={file: a, id: b}", "must have either file or id"),
])  # fmt: skip
def test_a_wrong_override_is_named(folder: Path, word: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        read(folder, GOOD, [word])
    assert told in str(error.value), error.value


def test_files_that_settle_more_than_one_thing(folder: Path) -> None:
    (folder / "p.json").write_text("{}")
    text = GOOD.replace("  budget: 2%", "  budget: 2%\n  plan: p.json")
    with pytest.raises(UsageError, match=r"12: selection.budget: is settled by selection.plan"):
        read(folder, text)
    both = GOOD.replace("training:", "training:\n  learning_rate: 1e-3").replace(
        "rate: auto", "rate: 0.1"
    )
    with pytest.raises(UsageError, match="stands at the top as learning_rate too"):
        read(folder, both)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_recipe(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="must be a readable file"):
        read_recipe(tmp_path)
