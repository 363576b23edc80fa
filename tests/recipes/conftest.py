"""What all tests of recipes share: the packages, small models made once, quiet libraries."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")

from tests.recipes.small import reviews, save_bert, write_jsonl


@pytest.fixture(autouse=True)
def _few_steps_for_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``head_first: auto`` takes here: 60 steps in every run would be most of these tests."""
    monkeypatch.setattr("frog.tuning.head.HEAD_STEPS", 6)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small BERT without a head."""
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 32 labelled texts."""
    return write_jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", reviews(32))
