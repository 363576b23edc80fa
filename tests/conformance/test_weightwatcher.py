"""Compat mode against the stored tables of WeightWatcher 0.7.7."""

import csv
from pathlib import Path

import numpy as np
import pytest

import frog
from tests.conftest import shared

CLOSE = ("alpha", "xmin", "D", "log_norm", "log_spectral_norm", "stable_rank", "log_alpha_norm")
ALSO = ("alpha_weighted", "sigma", "norm", "lambda_max", "spectral_norm", "sv_max", "xmax",
        "N", "M", "Q", "rf", "num_evals", "num_pl_spikes")  # fmt: skip
SMALL_VALUES = {"sv_min": 1e-7, "entropy": 1e-7, "matrix_rank": 0.0, "rank_loss": 0.0,
                "weak_rank_loss": 0.0}  # fmt: skip


def reference(name: str) -> list[dict[str, str]]:
    with shared(f"reference/{name}").open() as file:
        return list(csv.DictReader(file))


def compat(model: Path, precision: str = "exact") -> dict[str, frog.LayerReport]:
    settings = frog.Settings(compat="weightwatcher", precision=precision)
    report = frog.analyze(model, settings)
    return {x.name.removesuffix(".weight").removeprefix("module."): x for x in report.measured}


def assert_equal(found: dict, rows: list[dict[str, str]], columns: dict[str, float]) -> None:
    assert len(rows) == len(found)
    for row in rows:
        values = found[row["longname"]].values
        for column, tolerance in columns.items():
            expected = float(row[column])
            assert values[column] == pytest.approx(expected, rel=tolerance, abs=1e-12), (
                row["longname"],
                column,
            )


def test_minilm_exact(minilm: Path) -> None:
    rows = reference("minilm_ww077.csv")
    assert len(rows) == 39
    columns = {**dict.fromkeys((*CLOSE, *ALSO), 1e-9), **SMALL_VALUES}
    assert_equal(compat(minilm), rows, columns)


def test_minilm_fast(minilm: Path) -> None:
    found = compat(minilm, precision="fast")
    assert_equal(found, reference("minilm_ww077.csv"), dict.fromkeys(CLOSE, 1e-3))


def test_resnet20_exact(resnet20: Path) -> None:
    columns = {**dict.fromkeys((*CLOSE, *ALSO), 1e-9), **SMALL_VALUES}
    assert_equal(compat(resnet20), reference("resnet20_ww077.csv"), columns)


def test_minilm_summary(minilm: Path) -> None:
    summary = frog.analyze(minilm, frog.Settings(compat="weightwatcher")).summary
    assert summary["alpha"] == pytest.approx(4.117094457966125, rel=1e-9)
    assert summary["alpha_weighted"] == pytest.approx(5.064799796709486, rel=1e-9)
    assert summary["log_norm"] == pytest.approx(2.930734507678576, rel=1e-9)


def test_fused_tensors_are_one_matrix_as_in_weightwatcher() -> None:
    rng = np.random.default_rng(0)
    state = {
        "transformer.h.0.attn.c_attn.weight": rng.standard_normal((64, 192)),
        "transformer.wpe.weight": rng.standard_normal((100, 64)),
        "blocks.0.mlp.experts.gate_up_proj": rng.standard_normal((2, 64, 128)),
    }
    whole = frog.analyze(state, frog.Settings(compat="weightwatcher"))
    assert {x.name: x.shape for x in whole.measured} == {
        "transformer.h.0.attn.c_attn.weight": (64, 192),
        "transformer.wpe.weight": (100, 64),
    }
    truth = np.linalg.svd(state["transformer.h.0.attn.c_attn.weight"], compute_uv=False)
    fused = next(x for x in whole.measured if "c_attn" in x.name)
    assert fused.values["sv_min"] == pytest.approx(truth[-1], rel=1e-9)
    split = frog.analyze(state, frog.Settings(bootstrap=0))
    assert "transformer.h.0.attn.c_attn.weight[k]" in {x.name for x in split.measured}
    assert sum(x.params for x in whole.layers) == sum(x.params for x in split.layers)
