"""The tuner on a CUDA device: gradients, bits and losses there, as on the processor."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import frog
from frog.numerics.units import unit_count, unit_entries
from frog.tuning import Tuner
from frog.tuning.gradients import STRATEGIES, choose_strategy, compact_gradient, keep, pattern_of
from frog.tuning.owner import PLACE
from frog.types import GRANULARITIES
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside
from tests.tuning.runs import trainer
from tests.tuning.test_together import attach

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SHAPE, BLOCK = (48, 80), (4, 8)
CPU = torch.device("cpu")
OF = {"rows": "row", "columns": "column", "blocks": "block"}


def on_gpu(batch: dict) -> dict:
    return {k: v.cuda() for k, v in batch.items()}


def train(model: Any, optimizer: Any, data: list) -> list[float]:
    losses = []
    for batch in data:
        loss = model(**on_gpu(batch)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("strategy", [x for x in STRATEGIES if x != "sampled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strategies_equal_the_dense_gradient(strategy: str, dtype: torch.dtype) -> None:
    granularity = OF.get(strategy, "element")
    size = BLOCK if granularity == "block" else (1, 1)
    units = np.arange(0, unit_count(SHAPE, granularity, size), 7)
    rows, columns = unit_entries(units, SHAPE, granularity, size)
    made = pattern_of(SHAPE, strategy, lambda: (rows, columns), units, size, "cuda")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 100, SHAPE[1], generator=draw).to("cuda", dtype)
    dy = torch.randn(3, 100, SHAPE[0], generator=draw).to("cuda", dtype)
    found = compact_gradient(keep(x, made), dy, made)
    exact = dy.double().flatten(0, 1).T @ x.double().flatten(0, 1)
    expected = exact[rows, columns].float()
    assert found.dtype == torch.float32 and found.is_cuda
    precision = 1e-3 if dtype == torch.float32 else 0.3
    assert torch.allclose(found, expected, atol=precision, rtol=precision / 10)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_strategy_of_a_granularity_runs_there(granularity: str) -> None:
    strategy = choose_strategy(granularity, SHAPE, BLOCK, 40, "cuda")
    assert strategy != "sampled"


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_nothing_else_moves_by_a_bit(granularity: str, dtype: torch.dtype, autocast: bool) -> None:
    model = llama(dtype).cuda()
    before = bits(model)
    tuner = Tuner(model, choose(model, granularity=granularity))
    mask = masks(tuner)
    optimizer = tuner.optimizer(lr=1e-2)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        losses = train(model, optimizer, batches(2) * 5)
    assert losses[-1] < losses[0]
    assert moved_only_inside(before, model, mask)
    tuner.revert()
    assert all(torch.equal(before[k], v) for k, v in bits(model).items())


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_losses_are_those_of_the_processor(granularity: str) -> None:
    data = batches(4) * 10
    model = llama()
    selection = choose(model, granularity=granularity)
    twin = copy.deepcopy(model).cuda()
    there = Tuner(twin, selection)
    found = train(twin, there.optimizer(lr=1e-3), data)
    here = Tuner(model, selection)
    optimizer = here.optimizer(lr=1e-3)
    for batch, loss in zip(data, found, strict=True):
        made = model(**batch).loss
        made.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert float(made.detach()) == pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("settings", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_every_kind_of_adamw_is_written(settings: dict) -> None:
    model = llama().cuda()
    tuner = Tuner(model, choose(model))
    train(model, tuner.optimizer(lr=1e-2, **settings), batches(2))
    for compact in tuner.compacts:
        assert compact.change.abs().max() > 0
        assert torch.equal(compact.weight.view(-1)[compact.index], compact.values())


def test_a_grad_scaler_and_a_move_between_devices() -> None:
    """Made on the processor, trained on the GPU in float16 with a scaler, and brought back."""
    model = llama()
    before = bits(model)
    tuner = Tuner(model, choose(model))
    mask = masks(tuner)
    model.cuda()
    tuner.write()
    optimizer = tuner.optimizer(lr=1e-2)
    scaler = torch.amp.GradScaler("cuda", init_scale=256.0)
    for batch in batches(2) * 5:
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(**on_gpu(batch)).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([x.change for x in tuner.compacts], 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert tuner.step == 10
    model.cpu()
    tuner.keep()
    assert moved_only_inside(before, model, mask)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_all_parts_follow_a_move(granularity: str) -> None:
    """Made on the processor with noise and guards, trained on the GPU, and undone."""
    tuner = attach(granularity)
    before, mask = bits(tuner.model), masks(tuner)
    model = tuner.model.train().cuda()
    tuner.plan_steps(6)
    optimizer = tuner.optimizer(lr=1e-3)
    losses = train(model, optimizer, batches(6))
    assert all(np.isfinite(losses)) and tuner.step == 6
    assert moved_only_inside(before, model, mask)
    assert tuner.rate(batches(2), loss=lambda m, x: m(**on_gpu(x)).loss).lr > 0
    tuner.fit_change(batches(2), loss=lambda m, x: m(**on_gpu(x)).loss)
    assert moved_only_inside(before, model, mask)
    model.cpu()
    assert tuner.delta().count > 0
    tuner.revert()
    assert all(torch.equal(before[k], v) for k, v in bits(model).items())


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_trainer_takes_the_model_to_the_gpu(granularity: str, tmp_path: Path) -> None:
    """The tuner is made before the Trainer, as the README shows it."""
    model = llama()
    before = bits(model)
    tuner = Tuner(model, choose(model, granularity=granularity), noise=frog.Noise.guided(0.05))
    mask = masks(tuner)
    made = trainer(model, tuner, tmp_path, use_cpu=False, max_steps=4)
    made.add_callback(tuner.callback())
    made.train()
    assert tuner.step == 4 and next(model.parameters()).is_cuda
    model.cpu()
    tuner.keep()
    assert moved_only_inside(before, model, mask)


def test_the_strategy_is_chosen_anew_after_a_move() -> None:
    model = llama()
    tuner = Tuner(model, choose(model, 0.01))
    model(**batches(1)[0]).loss.backward()
    kinds = {p.pattern.strategy for x in tuner._owners for p in owner_of(x).pieces(CPU)}
    assert kinds == {"pairs"}
    model.cuda()
    model.zero_grad()
    model(**on_gpu(batches(1)[0])).loss.backward()
    there = [p for x in tuner._owners for p in owner_of(x).pieces(next(x.parameters()).device)]
    assert {p.pattern.strategy for p in there} == {"gather"}


def owner_of(module: nn.Module) -> Any:
    return module.__dict__[PLACE]


def test_memory_is_that_of_the_selection() -> None:
    """Beside the model: a small part of what full training takes."""

    def peak(full: bool) -> int:
        torch.manual_seed(0)
        before = torch.cuda.memory_allocated()
        model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(4))).cuda()
        tuner = None if full else Tuner(model, choose(model, 0.01))
        optimizer = tuner.optimizer(lr=1e-4) if tuner else torch.optim.AdamW(model.parameters())
        x = torch.randn(64, 2048, device="cuda", requires_grad=True)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        weights = sum(p.numel() * 4 for n, p in model.named_parameters() if "change" not in n)
        return torch.cuda.max_memory_allocated() - before - weights

    torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")  # BLAS takes its room
    assert peak(full=False) < 0.25 * peak(full=True)  # one dense gradient at a time
