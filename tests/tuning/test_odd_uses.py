"""Uses of a tuned model beside the plain one: two passes before a step, device maps, no data."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import frog
from frog.errors import ModelError
from frog.tuning import Tuner
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside
from tests.tuning.runs import advance

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("granularity", ["element", "row", "column", "block"])
def test_two_passes_before_one_step_add_up(
    granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pair of sentences goes through one encoder."""
    monkeypatch.setattr("frog.tuning.gradients.DENSE_BELOW", 0)
    model, twin = llama(), llama()
    first, second = batches(2)
    tuner = Tuner(model, choose(model, granularity=granularity))
    for x in (model.train(), twin.train()):
        (x(**first).loss + 2 * x(**second).loss).backward()
    assert tuner.micro_step == 2
    dense = dict(twin.named_parameters())
    for compact in tuner.compacts:
        expected = dense[compact.name].grad.view(-1)[compact.index]
        assert torch.allclose(compact.change.grad, expected, atol=1e-6), compact.name


def test_a_pass_without_gradients_between_forward_and_backward() -> None:
    """As a reference model's pass, or an evaluation inside a step."""
    losses = []
    for between in (False, True):
        model = llama()
        tuner = Tuner(model, choose(model))
        optimizer = tuner.optimizer(lr=1e-2)
        model.train()
        for batch in batches(3) * 2:
            loss = model(**batch).loss
            if between:
                with torch.no_grad():
                    model(**batches(1)[0])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert losses[:6] == losses[6:]


def test_a_model_with_a_device_map(tmp_path: Path) -> None:
    """Accelerate's hooks replace forward; the tuned layers are called through them."""
    llama().save_pretrained(tmp_path / "m")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "m", device_map={"": "cpu"})
    before = bits(model)
    tuner = Tuner(model, choose(model))
    mask = masks(tuner)
    optimizer = tuner.optimizer(lr=1e-2)
    losses = advance(model, optimizer, batches(1) * 5)
    assert losses[-1] < losses[0]
    assert moved_only_inside(before, model, mask)


@pytest.mark.parametrize("digest", [True, False])
def test_a_weight_without_data_is_refused(digest: bool) -> None:
    """Offloaded, or never loaded."""
    model = llama()
    selection = choose(model)
    if not digest:
        selection = replace(
            selection, chosen=tuple(replace(x, digest="") for x in selection.chosen)
        )
    layer = model.model.layers[1].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.to("meta"), requires_grad=False)
    with pytest.raises(ModelError, match=r"up_proj.*meta device and has no data"):
        Tuner(model, selection)
    assert [type(x) for x in model.modules()] == [type(x) for x in llama().modules()]


def test_a_base_of_negative_zeros_and_subnormal_numbers_keeps_its_bits() -> None:
    """0 added to -0.0 is 0.0, and a processor may flush subnormal numbers."""
    model = nn.Linear(16, 16, bias=False)
    with torch.no_grad():
        model.weight[0] = -0.0
        model.weight[1] = 1e-40
    before = model.weight.detach().clone().view(torch.int32)
    flushed = torch.set_flush_denormal(True)
    try:
        tuner = Tuner(model, choose(model, 1.0))
        tuner.write()
        assert torch.equal(model.weight.detach().view(torch.int32), before)
        optimizer = tuner.optimizer(torch.optim.SGD, lr=1.0)
        model(torch.ones(1, 16)).sum().backward()
        optimizer.step()
        tuner.revert()
    finally:
        if flushed:
            torch.set_flush_denormal(False)
    assert torch.equal(model.weight.detach().view(torch.int32), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_casts_what_it_casts_without_a_tuner(dtype: torch.dtype) -> None:
    """float64 stays float64, all else is computed in 16 bits, and the bits are the same."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 32)).to(dtype)
    x = torch.randn(5, 32, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(x)
    chosen = frog.select(model, frog.allocate(frog.analyze(model), 0.1), score="random")
    with frog.Tuner(model, chosen) as tuner, torch.autocast("cpu", torch.bfloat16):
        y = model(x)
        y.float().square().mean().backward()
        assert y.dtype == plain.dtype and torch.equal(y, plain)
        assert all(x.change.grad is not None for x in tuner.compacts)
