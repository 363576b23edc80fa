"""What the documents say is what the package does."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from frog.metrics import METRICS
from frog.serial import comparison_to_dict, report_to_dict, series_to_dict
from frog.serial.policy import DEFAULT_POLICY, policy_from_yaml
from frog.types import KINDS, LayerReport, ModelReport, Policy, Settings, Strategy
from tests.report.comparisons import change, comparison, tuning_run

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    """Fenced code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code = blocks("README.md", "python")
    assert code
    for block in code:
        exec(compile(block, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "0.weight (200, 300) ('untrained'" in said
    assert "scale collapse in 2.weight" in " ".join(said.split()) and "False\n" in said
    assert "328 of 32768 weights changed\n" in said
    assert (tmp_path / "report.json").exists()


def test_readme_names_only_commands_and_flags_that_exist() -> None:
    from typer.main import get_command

    from frog.cli.main import app

    verbs = get_command(app).commands
    text = "\n".join(blocks("README.md", ""))
    for verb, rest in re.findall(r"^frog (\w+)([^#\n]*)", text, re.MULTILINE):
        assert verb in verbs, verb
        command = verbs[verb]
        if hasattr(command, "commands"):  # a verb of verbs: frog delta diff
            command = command.commands[rest.split()[0]]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        for flag in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
            assert flag in known, f"{verb} {flag}"


def test_a_delta_can_be_applied_by_hand_as_the_page_says(tmp_path: Path) -> None:
    import numpy as np
    import torch

    import frog

    base = {"a": torch.zeros(3, 4), "b": torch.ones(5)}
    tuned = {"a": base["a"].clone(), "b": base["b"].clone()}
    tuned["a"][1, 2], tuned["b"][4] = 7.0, -0.0
    frog.diff(base, tuned).save(tmp_path / "delta.safetensors")
    space: dict = {}
    exec(blocks("docs/deltas.md", "python")[-1], space)
    state = {name: value.numpy().copy() for name, value in base.items()}
    space["apply"](state, tmp_path / "delta.safetensors")
    assert all(np.array_equal(state[k], v.numpy()) for k, v in tuned.items())
    assert np.signbit(state["b"][4])


def test_compressed_checkpoints_are_written_and_loaded_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("transformers", "torchao", "compressed_tensors"):
        pytest.importorskip(package, reason="needs frog[compress]")
    from frog.compression.checkpoints import FORMATS

    monkeypatch.chdir(tmp_path)
    page = "docs/compressed-checkpoints.md"
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {})
    said = capsys.readouterr().out
    assert "torch.Size([1, 9, 99])" in said and "quant_stage:" in said and '"sym": true' in said
    assert all(f"`{name}`" in (ROOT / page).read_text() for name in FORMATS)


def test_scores_and_rules_are_all_described() -> None:
    from frog.allocation.rules import RULES
    from frog.selection.scores import SCORES

    for page, names in (("docs/selecting-weights.md", SCORES), ("docs/budgets.md", RULES)):
        listed = re.findall(r"^\| `([\w-]+)` \|", (ROOT / page).read_text(), re.MULTILINE)
        assert listed == list(names), page


def test_metrics_page_is_up_to_date() -> None:
    text = (ROOT / "docs/reference/metrics.md").read_text()
    for name, metric in METRICS.items():
        assert (
            f"| `{name}` | {metric.symbol.replace('|', chr(92) + '|')} | {metric.meaning} |" in text
        )
    listed = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert listed == list(METRICS), "run python tools/make_reference.py"


def test_report_page_names_every_key() -> None:
    text = (ROOT / "docs/reference/report-file.md").read_text()
    layer = LayerReport(
        name="w", kind="linear", role="q", block=0, shape=(2, 2), dtype="float32", params=4
    )
    report = ModelReport(
        path="", digest="", format="", frog_version="", settings=Settings(), layers=(layer,)
    )
    whole = report_to_dict(report)
    for key in (*whole, *whole["layers"][0], *whole["settings"]):
        assert f"`{key}`" in text, key
    compared = comparison_to_dict(comparison(change("w", 0)))
    series = series_to_dict(tuning_run())
    strategy = Strategy.__dataclass_fields__
    for key in (*compared, *compared["before"], *compared["layers"][0], *series, *strategy):
        assert f"`{key}`" in text, key


def policies() -> list[str]:
    return [text for text in blocks("docs/reference/policy.md", "yaml") if "version: 1" in text]


def read(text: str) -> Policy:
    from frog.metrics.summary import summarise

    return policy_from_yaml(text, "policy.md", metrics=list(METRICS), summary=list(summarise(())))


def test_policies_in_the_documents_are_policies() -> None:
    example, default = policies()
    assert default == DEFAULT_POLICY
    assert read(example).limits
    assert len(read(example).exemptions) == 1


def test_policy_page_names_every_key_and_kind() -> None:
    from frog.serial import policy

    text = (ROOT / "docs/reference/policy.md").read_text()
    sections = (policy._Policy, policy._LayerRange, policy._LayerChange, policy._Finding)
    for section in sections:
        for key in section.model_fields:
            assert f"`{key}`" in text, key
    for setting in set(Settings.__dataclass_fields__) - set(policy.FIXED_SETTINGS):
        assert f"`{setting}`" in text, setting
    for kind in KINDS:
        assert f"  {kind}: " in DEFAULT_POLICY, kind
    for name in (*policy.CHANGES_ONLY, *policy.SUMMARY_ONLY):
        assert f"`{name}`" in text, name


def test_the_workflow_in_the_documents_is_yaml_and_names_flags_that_exist() -> None:
    import yaml
    from typer.main import get_command

    from frog.cli.main import app

    (text,) = (t for t in blocks("docs/reference/policy.md", "yaml") if "runs-on" in t)
    steps = yaml.safe_load(text)["jobs"]["gate"]["steps"]
    (command,) = (step["run"] for step in steps if step.get("run", "").startswith("frog "))
    verb = get_command(app).commands[command.split()[1]]
    known = {option for p in verb.params for option in p.opts}
    assert set(re.findall(r"--[a-z-]+", command)) <= known


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md"])
def test_the_recipes_in_the_documents_are_recipes(page: str, tmp_path: Path) -> None:
    from frog.serial.recipe import Known, recipe_from_yaml

    (text,) = blocks(page, "yaml")
    (tmp_path / "models" / "MiniLM").mkdir(parents=True)
    for name in ("train.jsonl", "earlier.csv", "train.csv", "test.csv"):
        (tmp_path / name).touch()
    known = Known(
        tasks={"text-classification": ("text", "label", "labels", "max_length")},
        rules=["uniform"],
        guards=[],
        score=lambda text: None,
        training=lambda: {
            "num_train_epochs": float,
            "per_device_train_batch_size": int,
            "lr_scheduler_type": str,
            "report_to": str,
        },
    )
    recipe = recipe_from_yaml(text, page, folder=tmp_path, known=known)
    assert recipe.noise is None
    budget, limit = ("3%", {}) if page == "README.md" else ("1%", {"train": 5000, "test": 500})
    assert recipe.selection.budget == budget and (recipe.data.limit or {}) == limit


def test_recipes_page_names_every_key_and_task() -> None:
    from frog.serial import recipe_schema as schema

    text = (ROOT / "docs/recipes.md").read_text()
    for section in schema.SCHEMA.values():
        for key in section.model_fields:
            assert re.search(rf"\b{key}\b", text), key
    pytest.importorskip("datasets")
    from frog.recipes import TASKS

    listed = re.findall(r"^\| `([\w-]+)` \| (.*?) \|", text, re.MULTILINE)
    assert {name for name, _ in listed} >= set(TASKS)
    for name, keys in listed:
        if name in list(TASKS):
            assert set(re.findall(r"`(\w+)`", keys)) == set(TASKS[name].keys), name


def test_links_lead_to_files_that_exist() -> None:
    """Claims rest on files of results: a link to none is a claim without evidence."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        text = page.read_text()
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"
        for named in re.findall(r"benchmarks/results/[\w./-]+\.md", text):
            assert (ROOT / named).exists(), f"{page}: {named}"


MEANS = {"0.671": (0.681, 0.662), "0.539": (0.506, 0.572), "0.529": (0.499, 0.559)}
"""Means over two seeds, of which the results give each."""


def quoted(page: Path) -> Iterator[tuple[str, str]]:
    """Decimal numbers beside a link to results, in its paragraph or the table it leads to."""
    parts = re.split(r"\n\s*\n|\n(?=- )", page.read_text())  # paragraphs, items of lists
    for part, following in itertools.pairwise([*parts, ""]):
        text = part + following if following.startswith("|") else part
        files = set(re.findall(r"benchmarks/results/([\w./-]+\.md)", part))
        results = "\n".join((ROOT / "benchmarks/results" / x).read_text() for x in files)
        plain = re.sub(r"\]\([^)]*\)|`[^`]*`", "", text)
        if files:
            for number in re.findall(r"(?<![\w.])\d[\d,]*\.\d+(?![\w.]*\d)", plain):
                yield number.replace(",", ""), results


def stands_in(value: float, decimals: int, text: str) -> bool:
    """Whether a number of the text, as it is or in percent, rounds to a value."""
    found = {float(x.replace(",", "")) for x in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)}
    half = 0.5000001 * 10.0**-decimals
    return any(abs(x * scale - value) <= half for x in found for scale in (1, 100))


def test_numbers_beside_links_to_results_stand_there() -> None:
    count = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for number, results in quoted(page):
            count += 1
            decimals = len(number.partition(".")[2])
            if number in MEANS and not stands_in(float(number), decimals, results):
                values = MEANS[number]
                assert all(stands_in(x, 3, results) for x in values), f"{page}: {number}"
                assert abs(sum(values) / 2 - float(number)) <= 0.5000001 * 10.0**-decimals
            else:
                assert stands_in(float(number), decimals, results), f"{page}: {number}"
    assert count > 60
    assert not stands_in(0.68, 2, "0.69 and 6.8") and stands_in(68.1, 1, "0.681")


def test_ways_to_draw_layers_are_all_described() -> None:
    from frog.allocation.odds import WAYS

    text = (ROOT / "docs/layer-sampling.md").read_text()
    table = text[text.index("| `by` |") :].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)) >= set(WAYS)


def test_guards_are_all_described() -> None:
    from frog.tuning.guards import GUARDS

    text = (ROOT / "docs/guards.md").read_text()
    listed = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(GUARDS)
