"""Data frames, CSV and Parquet: WeightWatcher's columns, exact numbers, -1 in compat mode only."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import frog
from frog.errors import MissingPackage
from frog.report.frames import rows, write_csv, write_parquet
from tests.cli.runs import weight
from tests.conftest import shared

WEIGHTWATCHER = """
    layer_id name D M N Q alpha alpha_weighted entropy has_esd lambda_max layer_type log_alpha_norm
    log_norm log_spectral_norm longname matrix_rank norm num_evals num_pl_spikes rank_loss rf sigma
    spectral_norm stable_rank status sv_max sv_min warning weak_rank_loss xmax xmin
"""
COLUMNS = WEIGHTWATCHER.split()
FAILED_FIT = ("alpha", "D", "sigma", "xmin", "xmax", "num_pl_spikes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound matrix, one without a tail, one with NaN, one with a very heavy tail."""
    made = tmp_path_factory.mktemp("model")
    nan = weight(64, 60, 2)
    nan[0, 0] = np.nan
    steep = np.diag((1.0 + np.arange(80)) ** -3.0).astype(np.float32)
    tensors = {"a.sound": weight(64, 60), "b.flat": np.zeros((64, 60), np.float32), "c.nan": nan,
               "d.steep": steep}  # fmt: skip
    named = {f"layers.{name}.weight": array for name, array in tensors.items()}
    save_file(named, made / "model.safetensors")
    return made


@pytest.fixture(scope="module")
def plain(folder: Path) -> frog.ModelReport:
    return frog.analyze(folder)


@pytest.fixture(scope="module")
def compat(folder: Path) -> frog.ModelReport:
    return frog.analyze(folder, frog.Settings(compat="weightwatcher"))


def test_the_list_of_columns_is_that_of_weightwatcher() -> None:
    with shared("reference/minilm_ww077.csv").open() as file:
        assert set(next(csv.reader(file))) == set(COLUMNS)
    assert len(COLUMNS) == 32


def test_compat_frame_has_every_column_of_weightwatcher(compat: frog.ModelReport) -> None:
    frame = compat.to_pandas()
    assert set(COLUMNS) <= set(frame.columns)
    sound = frame[frame["name"] == "sound"].iloc[0]
    assert all(sound[column] == sound[column] for column in COLUMNS), "no NaN in a sound layer"
    assert sound["longname"] == "layers.a.sound"
    assert sound["layer_type"] == "dense"
    assert (sound["status"], sound["has_esd"]) == ("success", True)


def test_minilm_words_are_those_of_weightwatcher(minilm: Path) -> None:
    with shared("reference/minilm_ww077.csv").open() as file:
        expected = {row["longname"]: row for row in csv.DictReader(file)}
    frame = frog.analyze(minilm, frog.Settings(compat="weightwatcher")).to_pandas()
    assert set(frame["longname"]) == set(expected)
    for row in frame.to_dict("records"):
        for column in ("name", "layer_type", "status", "warning"):
            assert row[column] == expected[row["longname"]][column], (row["longname"], column)
        assert str(row["has_esd"]) == expected[row["longname"]]["has_esd"]


def test_failed_fits_are_minus_one_in_compat_only(
    plain: frog.ModelReport, compat: frog.ModelReport
) -> None:
    for report, expected in ((plain, math.nan), (compat, -1.0)):
        by_name = {row["name"]: row for row in rows(report)}
        flat = by_name["flat"]
        assert flat["status"] == "failed"
        assert flat["fit_status"] == "degenerate"
        for column in FAILED_FIT:
            assert repr(flat[column]) == repr(expected), column
        assert flat["norm"] == 0.0
        assert not any(value == -1.0 for value in by_name["sound"].values())
        assert by_name["nan"]["status"] == "failed"


def test_warnings_are_weightwatchers_words(
    plain: frog.ModelReport, compat: frog.ModelReport
) -> None:
    found = {row["name"]: row["warning"] for row in rows(plain)}
    assert (found["sound"], found["flat"], found["steep"]) == ("", "", "over-trained")
    found = {row["name"]: row["warning"] for row in rows(compat)}
    assert found["flat"] == "over-trained", "alpha is -1 there: WeightWatcher's quirk"
    torch.manual_seed(0)
    noise = frog.analyze(torch.nn.Linear(60, 64, bias=False))
    assert rows(noise)[0]["warning"] in ("", "under-trained")


def test_csv_gives_every_number_back_to_the_last_bit(
    plain: frog.ModelReport, tmp_path: Path
) -> None:
    write_csv(plain, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    expected = rows(plain)
    assert len(read) == len(expected) == 4
    assert list(read[0]) == list(expected[0])
    for got, row in zip(read, expected, strict=True):
        for column, value in row.items():
            if isinstance(value, float):
                assert got[column] == "" if math.isnan(value) else float(got[column]) == value
            else:
                assert got[column] == ("" if value is None else str(value)), column


def test_csv_in_compat_mode_reads_back_as_weightwatcher_would_write_it(
    compat: frog.ModelReport, tmp_path: Path
) -> None:
    import pandas

    write_csv(compat, tmp_path / "t.csv")
    frame = pandas.read_csv(tmp_path / "t.csv", keep_default_na=False)
    assert list(frame[frame["name"] == "flat"]["alpha"]) in ([-1.0], ["-1.0"])


def test_parquet_keeps_numbers_types_and_origin(plain: frog.ModelReport, tmp_path: Path) -> None:
    import pyarrow.parquet

    write_parquet(plain, tmp_path / "t.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    metadata = table.schema.metadata
    assert metadata[b"frog.path"].decode() == plain.path
    assert metadata[b"frog.digest"].decode() == plain.digest
    assert metadata[b"frog.version"].decode() == plain.frog_version
    assert b'"estimator": "ks"' in metadata[b"frog.settings"]
    for got, row in zip(table.to_pylist(), rows(plain), strict=True):
        assert set(row) <= set(got)
        for column, value in got.items():  # a column that a row lacks is null
            assert repr(value) == repr(row.get(column)), column


def test_a_report_without_layers_has_empty_tables(tmp_path: Path) -> None:
    report = frog.analyze(torch.nn.LayerNorm(4))
    assert len(report.to_pandas()) == 0
    write_csv(report, tmp_path / "t.csv")
    write_parquet(report, tmp_path / "t.parquet")


def test_names_that_are_not_unicode_can_be_written(tmp_path: Path) -> None:
    report = frog.analyze({"layer\ud800.weight": torch.randn(60, 60)})
    write_csv(report, tmp_path / "t.csv")
    write_parquet(report, tmp_path / "t.parquet")
    assert "layer\\ud800" in (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_without_the_extra_the_install_line_is_given(
    package: str, plain: frog.ModelReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.setattr("frog.report.frames.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pip install 'frog\[table\]'"):
        if package == "pandas":
            plain.to_pandas()
        else:
            write_parquet(plain, tmp_path / "t.parquet")
