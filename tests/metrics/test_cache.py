"""Measured layers on disk: addressed by content, whole or absent, never trusted when damaged."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file, save_file

import frog
from frog.metrics.cache import Cache
from frog.metrics.measure import measure
from tests.cli.runs import weight
from tests.matrices import handle

NAMES = [f"layers.{i}.mlp.up_proj.weight" for i in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    save_file({name: weight(64, 60, i) for i, name in enumerate(NAMES)}, made / "model.safetensors")
    return made


def hits(model: object, cache: Path, settings: frog.Settings | None = None) -> dict[str, bool]:
    """Which layers the cache had."""
    found: dict[str, bool] = {}
    run = frog.Run(
        cache=cache, jobs=2, on_layer=lambda m: found.__setitem__(m.layer.name, m.cached)
    )
    frog.analyze(model, settings, run=run)
    return dict(sorted(found.items()))


def test_second_run_measures_nothing_and_says_the_same(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert not any(hits(folder, cache).values())
    assert all(hits(folder, cache).values())
    cold = frog.analyze(folder, run=frog.Run(cache=cache))
    assert repr(cold) == repr(frog.analyze(folder, run=frog.Run(cache=cache)))
    fresh = frog.analyze(folder)
    for mine, other in zip(cold.layers, fresh.layers, strict=True):
        assert repr(replace(mine, seconds=0.0)) == repr(replace(other, seconds=0.0))
    assert cold.findings == fresh.findings


def test_one_changed_tensor_is_measured_again_alone(folder: Path, tmp_path: Path) -> None:
    hits(folder, tmp_path / "cache")
    tensors = load_file(folder / "model.safetensors")
    tensors[NAMES[2]][5, 5] += 1e-3
    save_file(tensors, folder / "model.safetensors")
    assert hits(folder, tmp_path / "cache") == {name: name != NAMES[2] for name in NAMES}


def test_same_content_elsewhere_hits(folder: Path, tmp_path: Path) -> None:
    hits(folder, tmp_path / "cache")
    moved = folder.rename(tmp_path / "moved")
    assert all(hits(moved, tmp_path / "cache").values())
    arrays = load_file(moved / "model.safetensors")
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    assert all(hits(state, tmp_path / "cache").values()), "a live model with the same bytes"


OTHER_SETTINGS = {
    "estimator": "hill",
    "precision": "fast",
    "compat": "weightwatcher",
    "min_evals": 40,
    "bootstrap": 0,
    "goodness": 20,
    "seed": 1,
    "curves": False,
    "save_spectra": True,
    "window": "farms",
    "randomize": 1,
    "farms": frog.Farms(side=32),
}
OF_THE_MODEL = {"flow": True, "flow_rank": 8}
"""No number of a single layer depends on these."""


def test_every_setting_is_in_one_of_the_lists() -> None:
    assert {x.name for x in fields(frog.Settings)} == {*OTHER_SETTINGS, *OF_THE_MODEL}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_any_other_setting_measures_all_again(name: str, folder: Path, tmp_path: Path) -> None:
    hits(folder, tmp_path / "cache")
    other = frog.Settings(**{name: OTHER_SETTINGS[name]})
    assert not any(hits(folder, tmp_path / "cache", other).values())
    assert all(hits(folder, tmp_path / "cache").values()), "the earlier entries are still there"


@pytest.mark.parametrize("name", OF_THE_MODEL)
def test_settings_of_the_model_measure_no_layer_again(
    name: str, folder: Path, tmp_path: Path
) -> None:
    hits(folder, tmp_path / "cache")
    other = frog.Settings(**{name: OF_THE_MODEL[name]})
    assert all(hits(folder, tmp_path / "cache", other).values())


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"layer": {}, "findings": []}', b"[" * 5000,
     b'{"layer": null, "findings": null}', "half", "swapped name"],
    ids=range(10),
)  # fmt: skip
def test_a_damaged_entry_is_measured_again(damage: bytes | str, tmp_path: Path) -> None:
    model = {NAMES[0]: torch.from_numpy(weight(64, 60))}
    cache = tmp_path / "cache"
    hits(model, cache)
    (entry,) = cache.rglob("*.json")
    whole = entry.read_bytes()
    if damage == "half":
        entry.write_bytes(whole[: len(whole) // 2])
    elif damage == "swapped name":
        data = json.loads(whole)
        data["layer"]["name"] = "another"
        entry.write_text(json.dumps(data))
    else:
        assert isinstance(damage, bytes)
        entry.write_bytes(damage)
    assert hits(model, cache) == {NAMES[0]: False}
    assert entry.read_bytes() != damage
    assert hits(model, cache) == {NAMES[0]: True}, "repaired"


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    matrix, settings = handle(weight(64, 60)), frog.Settings()
    layer, findings = measure(matrix, settings)
    cache = Cache(tmp_path / "file" / "cache")
    cache.put(matrix, settings, "00", layer, findings)
    assert cache.get(matrix, settings, "00") is None


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_nothing(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, settings = handle(weight(64, 60)), frog.Settings()
    layer, findings = measure(matrix, settings)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("json.dump", fail)
    try:
        Cache(tmp_path).put(matrix, settings, "00", layer, findings)
    except KeyboardInterrupt:
        assert error is KeyboardInterrupt
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_name_and_place_are_part_of_the_address(tmp_path: Path) -> None:
    """The same bytes under another role have other verdicts: not the same entry."""
    array, settings = weight(64, 60), frog.Settings()
    matrix = handle(array)
    layer, findings = measure(matrix, settings)
    cache = Cache(tmp_path)
    cache.put(matrix, settings, "00", layer, findings)
    assert cache.get(matrix, settings, "00") is not None
    assert cache.get(matrix, settings, "01") is None
    for facts in ({"name": "v"}, {"kind": "embedding"}, {"role": "q"}, {"averaged": False}):
        assert cache.get(handle(array, **facts), settings, "00") is None, facts


def test_default_folder_is_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROG_CACHE_DIR", str(tmp_path / "named"))
    assert Cache.default().folder == tmp_path / "named"
    monkeypatch.delenv("FROG_CACHE_DIR")
    assert Cache.default().folder.name == "layers"
    assert "frog" in Cache.default().folder.parts
