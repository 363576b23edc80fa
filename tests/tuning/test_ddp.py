"""Data-parallel training: two processes, one model, only the changes are reduced."""

from pathlib import Path

import pytest
import torch

from frog.errors import UsageError
from frog.tuning import Tuner
from tests.tuning.models import batches, choose, llama
from tests.tuning.runs import two_processes

pytest.importorskip("transformers")

WORKER = """
    import os, sys
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    from frog.tuning import Tuner
    from tests.tuning.models import batches, choose, llama

    rank, world, folder = int(sys.argv[1]), 2, sys.argv[2]
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
    model = llama()
    tuner = Tuner(model, choose(model))
    parallel = DistributedDataParallel(model)
    reduced = sum(x.numel() for x in parallel.module.parameters() if x.requires_grad)
    assert reduced == tuner.trainable, (reduced, tuner.trainable)
    optimizer = tuner.optimizer(lr=1e-2)
    parallel.train()
    for batch in batches(5):
        share = {k: v[rank * 2 : rank * 2 + 2] for k, v in batch.items()}
        parallel(**share).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    two_processes(WORKER, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    model = llama()
    tuner = Tuner(model, choose(model))
    optimizer = tuner.optimizer(lr=1e-2)
    model.train()
    for batch in batches(5):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in model.state_dict().items():
        assert torch.allclose(first[name], value, atol=2e-4), name


@pytest.mark.parametrize("mark", ["ds_id", "full_tensor"])
def test_sharded_parameters_are_refused(mark: str) -> None:
    model = llama()
    selection = choose(model)
    setattr(model.model.norm.weight, mark, 1)
    with pytest.raises(UsageError, match="spread over processes"):
        Tuner(model, selection)


def test_batches_differ() -> None:
    """The comparison above would be empty if both processes saw the same rows."""
    ids = batches(1)[0]["input_ids"]
    assert not torch.equal(ids[:2], ids[2:])
