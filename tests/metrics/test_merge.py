"""Parts measured apart and joined are the whole; what does not fit together is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import frog
from frog.errors import ReportError
from tests.cli.runs import weight

MATRICES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five matrices of different size, one random, one with NaN; and a bias."""
    made = tmp_path_factory.mktemp("model")
    tensors = {f"layers.{i}.mlp.up_proj.weight": weight(64 + 8 * i, 60, i) for i in range(MATRICES)}
    noise = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    tensors["layers.1.mlp.up_proj.weight"] = noise
    tensors["layers.3.mlp.up_proj.weight"][0, 0] = np.nan
    tensors["layers.0.mlp.up_proj.bias"] = np.zeros(64, np.float32)
    save_file(tensors, made / "model.safetensors")
    return made


def parts_of(folder: Path, count: int, **settings: object) -> list[frog.ModelReport]:
    chosen = frog.Settings(**settings)
    return [
        frog.analyze(folder, chosen, run=frog.Run(shard=(i, count), jobs=1))
        for i in range(1, count + 1)
    ]


def timeless(report: frog.ModelReport) -> str:
    return repr(replace(report, layers=tuple(replace(x, seconds=0.0) for x in report.layers)))


@pytest.mark.parametrize("settings", [{}, {"compat": "weightwatcher"}], ids=["default", "compat"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_make_the_whole(count: int, settings: dict, folder: Path, tmp_path: Path) -> None:
    """Seven parts of five matrices: two are empty, and still needed."""
    whole = frog.analyze(folder, frog.Settings(**settings), run=frog.Run(jobs=1))
    parts = parts_of(folder, count, **settings)
    measured = [layer.name for part in parts for layer in part.measured]
    assert len(measured) == len(set(measured)) == MATRICES, "each matrix in one part"
    assert timeless(frog.merge_reports(parts)) == timeless(whole)
    files = []
    for i, part in enumerate(reversed(parts)):  # in any order, and through files
        part.to_json(tmp_path / f"{i}.json")
        files.append(frog.ModelReport.from_json(tmp_path / f"{i}.json"))
    again = frog.merge_reports(files)
    assert timeless(again) == timeless(whole)
    assert again.digest == whole.digest
    assert again.summary.keys() == whole.summary.keys()
    assert again.findings == whole.findings


def test_parts_take_alike(folder: Path) -> None:
    """The division is by cost: no part has all of the large matrices."""
    first, second = parts_of(folder, 2)
    assert abs(len(first.measured) - len(second.measured)) <= 1


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    one, two, three = parts_of(folder, 3)
    cases = {
        "got none": [],
        "parts 1 to 3, each once, got 1, 2": [one, two],
        "each once, got 1, 2, 2, 3": [one, two, two, three],
        "each once, got 1, 1, 2": [one, one, two],
        "a whole one": [one, two, frog.analyze(folder)],
        "one of 3: measure all": [one, two, replace(three, shard=(3, 4))],
        "got settings": [one, two, parts_of(folder, 3, estimator="hill")[2]],
        "got path": [one, two, replace(three, path="elsewhere")],
        "got frog_version": [one, two, replace(three, frog_version="0.0.1")],
        "must be in one part": [one, two, replace(two, shard=(3, 3))],
    }
    for words, parts in cases.items():
        with pytest.raises(ReportError) as caught:
            frog.merge_reports(parts)
        assert words in str(caught.value), (words, str(caught.value))


def test_a_part_that_lost_layers_is_refused(folder: Path) -> None:
    one, two = parts_of(folder, 2)
    lost = [layer for layer in two.layers if layer.skipped is not None or layer.position == 4]
    with pytest.raises(ReportError, match="is in no part"):
        frog.merge_reports([one, replace(two, layers=tuple(lost))])


def test_a_part_of_an_absurd_number_ends_at_once(folder: Path) -> None:
    (one,) = parts_of(folder, 1)
    with pytest.raises(ReportError, match="each once"):
        frog.merge_reports([replace(one, shard=(1, 10**18))])


def test_a_part_of_which_nothing_can_be_read_is_still_a_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frog.errors import ModelError
    from frog.metrics import schedule

    def unreadable(*_: object, **__: object) -> None:
        raise ModelError("model.safetensors changed since it was listed")

    one = frog.analyze(folder, run=frog.Run(shard=(1, 2), jobs=1))
    monkeypatch.setattr(schedule, "measure", unreadable)
    two = frog.analyze(folder, run=frog.Run(shard=(2, 2), jobs=1))
    assert two.failed
    assert not two.measured
    merged = frog.merge_reports([one, two])
    assert len(merged.measured) == len(one.measured)
    assert {layer.name for layer in merged.failed} >= {layer.name for layer in two.failed}
    with pytest.raises(ModelError, match="no tensor could be read"):
        frog.analyze(folder, run=frog.Run(jobs=1))
