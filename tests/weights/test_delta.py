"""Deltas: exact to the bit in every dtype, both ways, and only on their own base."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from frog.api import apply_delta, diff
from frog.errors import UsageError
from frog.types import SparseDelta

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn]


def random_bits(dtype: torch.dtype, count: int, seed: int) -> torch.Tensor:
    """Every bit pattern may come, NaN payloads and -0.0 too."""
    width = torch.empty(0, dtype=dtype).element_size()
    raw = np.random.default_rng(seed).integers(0, 256, count * width, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_apply_and_revert_are_exact(dtype: torch.dtype, seed: int, share: float) -> None:
    base = {"w": random_bits(dtype, 60, seed).view(6, 10), "b": random_bits(dtype, 7, seed + 1)}
    other = random_bits(dtype, 60, seed + 2).view(6, 10)
    mask = torch.from_numpy(np.random.default_rng(seed).random((6, 10)) < share)
    tuned = {"w": torch.where(mask, other, base["w"]), "b": base["b"].clone()}
    delta = diff(base, tuned)
    live = {name: value.clone() for name, value in base.items()}
    apply_delta(live, delta)
    assert all(same_bits(live[name], tuned[name]) for name in base)
    apply_delta(live, delta, revert=True)
    assert all(same_bits(live[name], base[name]) for name in base)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """One model in two shards, and its tuned state in one file."""
    torch.manual_seed(0)
    base = {"a.weight": torch.randn(8, 4), "b.weight": torch.randn(3, 5).bfloat16()}
    tuned = {name: value.clone() for name, value in base.items()}
    tuned["a.weight"][2, 3] += 1
    tuned["b.weight"][0, :2] = 7
    first, second = tmp_path / "base", tmp_path / "tuned"
    first.mkdir()
    second.mkdir()
    for i, (name, value) in enumerate(base.items(), start=1):
        save_file({name: value}, first / f"model-0000{i}-of-00002.safetensors", {"format": "pt"})
    files = {name: f"model-0000{i}-of-00002.safetensors" for i, name in enumerate(base, start=1)}
    import json

    (first / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": files})
    )
    (first / "config.json").write_text("{}")
    save_file(tuned, second / "model.safetensors")
    return first, second


def test_a_delta_fits_every_sharding_of_its_base(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = folders
    delta = diff(str(first), str(second))
    assert delta.count == 3 and {x.dtype for x in delta.tensors} == {"float32", "bfloat16"}
    delta.save(tmp_path / "d.safetensors")
    read = SparseDelta.load(tmp_path / "d.safetensors")
    out = apply_delta(str(first), read, out=tmp_path / "out")
    assert sorted(x.name for x in out.iterdir()) == sorted(x.name for x in first.iterdir())
    made = {k: v for file in out.glob("*.safetensors") for k, v in load_file(file).items()}
    wanted = load_file(second / "model.safetensors")
    assert all(same_bits(made[name], wanted[name]) for name in wanted)
    apply_delta(str(second), read, out=tmp_path / "back", revert=True)
    assert diff(str(first), str(tmp_path / "back")).count == 0


def test_another_base_is_refused_and_nothing_is_written(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = folders
    delta = diff(str(first), str(second))
    with pytest.raises(UsageError, match="applied already"):
        apply_delta(str(second), delta, out=tmp_path / "x")
    with pytest.raises(UsageError, match="reverted already"):
        apply_delta(str(first), delta, out=tmp_path / "x", revert=True)
    foreign = {"a.weight": torch.zeros(8, 4), "b.weight": torch.zeros(3, 5).bfloat16()}
    before = {name: value.clone() for name, value in foreign.items()}
    with pytest.raises(UsageError, match="does not hold the bits"):
        apply_delta(foreign, delta)
    assert all(torch.equal(foreign[name], before[name]) for name in before)
    with pytest.raises(UsageError, match="got none"):
        apply_delta({"c": torch.zeros(2)}, delta)
    assert not (tmp_path / "x").exists()
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match="must not exist"):
        apply_delta(str(first), delta, out=tmp_path / "x")


def test_models_of_unequal_tensors_have_no_delta() -> None:
    with pytest.raises(UsageError, match="without a partner"):
        diff({"a": torch.zeros(2)}, {"b": torch.zeros(2)})
    with pytest.raises(UsageError, match="one dtype"):
        diff({"a": torch.zeros(2)}, {"a": torch.zeros(2).half()})


def test_bit_patterns_of_another_width_are_refused_and_nothing_is_written() -> None:
    base = {"w": torch.zeros(6)}
    delta = diff(base, {"w": torch.ones(6)})
    (part,) = delta.tensors
    narrow = replace(part, xor=part.xor.astype(np.uint16))
    with pytest.raises(UsageError, match="bit patterns of uint32 in the delta, got uint16"):
        apply_delta(base, replace(delta, tensors=(narrow,)))
    assert not base["w"].any()


def test_a_live_module_is_changed_in_place() -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(6, 4).bfloat16()
    tuned = {name: value.clone() for name, value in module.state_dict().items()}
    tuned["weight"][1, 2] = 3.0
    start = {name: value.clone() for name, value in module.state_dict().items()}
    delta = diff(start, tuned)
    apply_delta(module, delta)
    assert same_bits(module.weight.detach(), tuned["weight"])
    apply_delta(module, delta, revert=True)
    assert same_bits(module.weight.detach(), start["weight"])
