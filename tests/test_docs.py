"""What the documents say is what the package does."""

import re
from pathlib import Path

import pytest

from frog.metrics import METRICS
from frog.serial import report_to_dict
from frog.types import LayerReport, ModelReport, Settings

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
    assert "0.weight (200, 300) ('untrained'" in capsys.readouterr().out
    assert (tmp_path / "report.json").exists()


def test_readme_names_only_commands_and_flags_that_exist() -> None:
    from typer.main import get_command

    from frog.cli.main import app

    verbs = get_command(app).commands
    text = "\n".join(blocks("README.md", ""))
    for verb, rest in re.findall(r"^frog (\w+)([^#\n]*)", text, re.MULTILINE):
        assert verb in verbs, verb
        known = {option for p in verbs[verb].params for option in (*p.opts, *p.secondary_opts)}
        for flag in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
            assert flag in known, f"{verb} {flag}"


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
