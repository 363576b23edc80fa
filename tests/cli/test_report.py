"""`frog report`: any saved file shown again, as a page, as a table; what is none is refused."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from rich.cells import cell_len

from frog.serial import comparison_to_json, series_to_json
from tests.cli.runs import files_of
from tests.cli.test_bad_input import refused
from tests.report.comparisons import change, comparison, finding, tuning_run


@pytest.fixture
def saved(model, in_process, tmp_path: Path) -> dict[str, Path]:
    """A file of each kind."""
    files = {kind: tmp_path / f"{kind}.json" for kind in ("report", "comparison", "series")}
    assert in_process("analyze", model, "--json", files["report"]).code == 0
    found = comparison(change("h.0.q.weight", 0), findings=(finding("drift", "h.0.q.weight"),))
    files["comparison"].write_text(comparison_to_json(found))
    files["series"].write_text(series_to_json(tuning_run()))
    return files


SHOWN = {
    "report": ("matrices", "attn.q_proj"),
    "comparison": ("Mildly changed", "h.0.q.weight", "q"),
    "series": ("Alpha falls at every step.", "checkpoint-300"),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_every_kind_is_shown_again(kind, saved, in_process):
    done = in_process("report", saved[kind])
    assert done.code == 0, done
    for words in SHOWN[kind]:
        assert words in done.out
    assert max(map(cell_len, done.out.splitlines())) <= 80
    assert f"--html {saved[kind].with_suffix('.html')}" in done.err.splitlines()[-1]


@pytest.mark.parametrize("kind", SHOWN)
def test_every_kind_becomes_a_page_and_a_table(kind, saved, in_process, tmp_path):
    page, table = tmp_path / "page.html", tmp_path / "t.csv"
    done = in_process("report", saved[kind], "--html", page, "--csv", table)
    assert done.code == 0, done
    assert page.read_text().startswith("<!DOCTYPE html>")
    with table.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == {"report": 4, "comparison": 1, "series": 4}[kind]
    assert f"wrote {page}" in done.err
    assert "Next" not in done.err, "nothing is left to suggest"


@pytest.mark.parametrize("kind", SHOWN)
def test_json_on_stdout_is_the_file(kind, saved, in_process):
    done = in_process("report", saved[kind], "--format", "json")
    assert done.code == 0
    assert done.out == saved[kind].read_text()
    assert json.loads(done.out)
    quiet = in_process("report", saved[kind], "--format", "quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


BAD = {
    "absent": (None, ("absent.json", "no such file", "--json FILE")),
    "no JSON": (b'{"format": "frog-report"', ("not JSON", "frog compare")),
    "no text": (b"\xff\x00\x80", ("not JSON",)),
    "other make": (b'{"format": "frog-listing"}', ("frog-report, frog-compare", "frog-listing")),
    "a list": (b"[1]", ("frog-report, frog-compare", "list")),
    "later": (b'{"format": "frog-compare", "version": 9}', ("at most 1", "upgrade")),
    "damaged": (b'{"format": "frog-series", "version": 1}', ("reports", "must be a list")),
    "config of a model": (b'{"model_type": "bert"}', ("frog-report", "None")),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_none_of_ours_is_refused_and_nothing_is_written(kind, in_process, tmp_path):
    content, words = BAD[kind]
    path = tmp_path / f"{kind}.json"
    if content is not None:
        path.write_bytes(content)
    before = files_of(tmp_path)
    refused(in_process("report", path, "--html", tmp_path / "page.html"), 2, str(path), *words)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--html", "absent/page.html"], ("must exist", "make it")),
        (["--html", "."], ("must be a file", "got a folder")),
        (["--html", "same", "--csv", "same"], ("a file of its own",)),
        (["--html", "report.json"], ("report.json", "must not be a file that is read")),
        (["--csv", "./report.json"], ("must not be a file that is read",)),
        (["--parquet", "x"], ("--parquet",)),
    ],
)
def test_bad_outputs_are_refused_and_the_report_is_kept(
    words, expected, saved, in_process, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = files_of(tmp_path)
    refused(in_process("report", "report.json", *words), 2, *expected)
    assert files_of(tmp_path) == before


def test_a_folder_that_must_not_be_written_to(saved, in_process, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    done = in_process("report", saved["report"], "--html", tmp_path / "page.html")
    refused(done, 2, "page.html", "must be writable")


def test_a_folder_is_no_report(in_process, tmp_path):
    refused(in_process("report", tmp_path), 2, str(tmp_path), "cannot be read")
