"""The demo ends as the run in it ends; what it tells to do next can be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from frog.cli import demo


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The demo without its work: what tuning ends with is set here."""
    end: dict[str, Any] = {"code": 0}

    def tuned(recipe: Path, *, overwrite: bool) -> None:
        if end["code"]:
            raise typer.Exit(end["code"])

    monkeypatch.setattr(demo, "embedded_model", lambda: Path("model"))
    monkeypatch.setattr(demo, "analyze", lambda *_, **__: None)
    monkeypatch.setattr("frog.api.write_demo", lambda *_, **__: Path("recipe.yaml"))
    monkeypatch.setattr(demo, "tune", tuned)
    monkeypatch.setattr(demo, "plan_levels", lambda *_: None)

    def verified(*_: Path) -> None:
        if end.get("verdict"):
            raise typer.Exit(end["verdict"])

    monkeypatch.setattr(demo, "verify", verified)
    return end


def test_an_interrupted_demo_ends_interrupted(
    staged: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staged["code"] = 130
    with pytest.raises(typer.Exit) as ended:
        demo.demo(out=tmp_path, steps=1)
    assert ended.value.exit_code == 130
    assert "compare.html" not in capsys.readouterr().err, "there is no such page"


@pytest.mark.parametrize("code", [0, 3])
def test_the_last_line_is_a_whole_command(
    code: int, staged: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged["code"] = staged["verdict"] = code  # what is refused is a result, too
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(demo, "suggest", lambda *words: told.append(words))
    demo.demo(out=tmp_path, steps=1)
    assert told[-1][:3] == ("frog", "delta", "revert") and "-o" in told[-1]
