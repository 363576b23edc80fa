"""Selected on the file, found in the live model, back on the file: entry by entry."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from frog.numerics import views
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors
from tests.weights import tiny_models

ENTRIES = 5

# Fused experts in memory, one by one on disk; stacks on disk too, interleaved; Conv1D;
# fused qkv: concatenated, per head, per group, per key head.
MODELS = [
    "dbrx",
    "codegen",
    "mixtral",
    "gpt_oss",
    "gpt2",
    "phi3",
    "gpt_neox",
    "falcon_40b",
    "qwen3_next",
    "llava",
]


@pytest.mark.parametrize("name", MODELS)
def test_names_round_trip_entry_by_entry(name, tmp_path):
    model = tiny_models.build(name)
    tiny_models.save(model, tmp_path / "before")
    file = locate(catalogue(list_tensors(tmp_path / "before")), model)
    before = load_file(tmp_path / "before" / "model.safetensors")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    random = np.random.default_rng(0)

    changed: dict[str, set[int]] = {}
    for matrix in file.matrices:
        m, n = matrix.shape
        flat = random.choice(m * n, min(ENTRIES, m * n), replace=False)
        rows, columns = np.divmod(flat, n)
        on_disk = views.entries(matrix.view, rows, columns)
        in_memory = views.entries(matrix.live.view, rows, columns)
        live = parameters[matrix.live.parameter].detach().reshape(-1)
        assert torch.equal(before[matrix.tensor].reshape(-1)[on_disk], live[in_memory])
        live[torch.from_numpy(in_memory)] += 1
        changed.setdefault(matrix.tensor, set()).update(on_disk.tolist())

    tiny_models.save(model, tmp_path / "after")
    after = load_file(tmp_path / "after" / "model.safetensors")
    assert set(after) == set(before)
    for tensor, old in before.items():
        moved = torch.nonzero((after[tensor] != old).reshape(-1)).reshape(-1)
        assert set(moved.tolist()) == changed.get(tensor, set()), tensor
        assert torch.equal(after[tensor].reshape(-1)[moved], old.reshape(-1)[moved] + 1)
