"""What keeps the old task: a new head is fitted alone, a share of the change is kept."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import frog
from frog.errors import UsageError
from frog.tuning import Tuner
from frog.tuning.sampling import Sampler
from tests.tuning.models import batches, bits, choose, llama, masks

pytest.importorskip("transformers")

DTYPES = (torch.float32, torch.bfloat16)
WRONG = (0, 1.5, -0.1, float("nan"), "0.6", True, None)


def trained(dtype: torch.dtype = torch.float32, **more: Any) -> tuple[Any, Tuner]:
    """A Llama after three steps, its last norm trained whole."""
    model = llama(dtype)
    tuner = Tuner(model, choose(model), also=["model.norm"], **more)
    optimizer = tuner.optimizer(lr=1e-2)
    model.train()
    for batch in batches(3):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tuner


# ---------------------------------------------------------------------- a share is kept


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_of_the_change_is_the_same_bits(dtype: torch.dtype) -> None:
    model, tuner = trained(dtype)
    before, held = bits(model), tuner.snapshot()
    tuner.scale_change(1)
    assert all(torch.equal(v, before[k]) for k, v in bits(model).items())
    assert all(torch.equal(v, held[k]) for k, v in tuner.snapshot().items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_share_of_the_change_rounded_once(dtype: torch.dtype) -> None:
    """Against the formula; the rest keeps its bits."""
    start = dict(llama(dtype).named_parameters())
    model, tuner = trained(dtype)
    change = {x.name: x.change.detach().clone() for x in tuner.compacts}
    mask, before = masks(tuner), {k: v.clone() for k, v in model.state_dict().items()}
    tuner.scale_change(0.6)
    now = model.state_dict()
    for compact in tuner.compacts:
        flat, at = now[compact.name].view(-1), compact.index
        wanted = (start[compact.name].view(-1)[at].float() + 0.6 * change[compact.name]).to(dtype)
        assert torch.equal(flat[at], wanted)
        free = ~mask[compact.name]
        assert torch.equal(now[compact.name][free], start[compact.name][free])
    assert torch.equal(now["model.norm.weight"], before["model.norm.weight"])
    assert not torch.equal(now["model.norm.weight"], start["model.norm.weight"])
    # the delta is that of now: applied to the base it gives these bits, and the model reverts
    delta = tuner.delta()
    base = llama(dtype)
    frog.apply_delta(base, delta)
    assert all(torch.equal(v, now[k]) for k, v in base.state_dict().items())
    tuner.revert()
    first = bits(llama(dtype))
    assert all(torch.equal(v, first[k]) for k, v in bits(model).items())


def test_shares_multiply() -> None:
    (_, one), (_, two) = trained(), trained()
    one.scale_change(0.5)
    one.scale_change(0.25)
    two.scale_change(0.125)
    a, b = one.snapshot(), two.snapshot()
    assert all(torch.equal(v, b[k]) for k, v in a.items()), "powers of two are exact"
    one.scale_change(0.6)
    one.scale_change(0.7)
    two.scale_change(0.42)
    a, b = one.snapshot(), two.snapshot()
    assert all(torch.allclose(v, b[k], rtol=3e-7, atol=0) for k, v in a.items())


def test_a_snapshot_undoes_it_and_the_state_travels() -> None:
    model, tuner = trained(torch.bfloat16, noise=frog.Noise.guided(0.01, schedule="constant"))
    before, held = bits(model), tuner.snapshot()
    tuner.scale_change(0.3)
    state = copy.deepcopy(tuner.state_dict())
    tuner.restore(held)
    assert all(torch.equal(v, before[k]) for k, v in bits(model).items())
    tuner.load_state_dict(state)
    for compact in tuner.compacts:
        assert torch.equal(compact.change.detach(), held[compact.name] * 0.3)


@pytest.mark.parametrize("share", WRONG)
def test_other_shares_are_refused(share: Any) -> None:
    model, tuner = trained()
    before = bits(model)
    with pytest.raises(UsageError, match=r"share must be a number above 0 and at most 1, got"):
        tuner.scale_change(share)
    assert all(torch.equal(v, before[k]) for k, v in bits(model).items())
    tuner.keep()
    with pytest.raises(UsageError, match="left its model"):
        tuner.scale_change(0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_units_that_took_turns_keep_a_share(dtype: torch.dtype) -> None:
    model = llama(dtype, num_hidden_layers=4)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    sampler: Sampler = frog.LayerSampler(
        model, None, by="uniform", active=1, every=1, always=["model.norm"]
    )
    optimizer = sampler.optimizer(lr=1e-2)
    model.train()
    for batch in batches(2):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sampler.scale_change(1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    sampler.scale_change(0.6)
    moved = 0
    for name, now in model.state_dict().items():
        if name == "model.norm.weight":
            assert torch.equal(now, before[name])
            continue
        wide = start[name].float() + 0.6 * (before[name].float() - start[name].float())
        wanted = torch.where(before[name] == start[name], before[name], wide.to(dtype))
        assert torch.equal(now, wanted), name
        moved += int((now != start[name]).sum())
    assert moved
    with pytest.raises(UsageError, match="share must be"):
        sampler.scale_change(0)
    sampler.revert()
    assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items())


# ------------------------------------------------------------------ the head comes first


def planted(dtype: torch.dtype = torch.float32) -> tuple[Any, list[Any]]:
    """Features that hold the label, under a head that does not know it; BatchNorm, dropout."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2)
    ).to(dtype)
    x = torch.randn(256, 8)
    data = [(x[i : i + 32].to(dtype), (x[i : i + 32, 0] > 0).long()) for i in range(0, 256, 32)]
    return model, data


def loss_of(model: Any, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_head_learns_and_nothing_else_moves(dtype: torch.dtype) -> None:
    model, data = planted(dtype)
    model.train()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before, random = bits(model), torch.random.get_rng_state()
    losses = frog.fit_head(model, data, head=["^4"], lr=0.05, loss=loss_of)
    assert len(losses) == 60 and losses[-1] < 0.5 * losses[0]
    moved = {k for k, v in bits(model).items() if not torch.equal(v, before[k])}
    assert moved == {"4.weight", "4.bias"}
    assert torch.equal(random, torch.random.get_rng_state())
    assert model.training and not model[0].weight.requires_grad and model[2].training
    assert bool((model[4].weight.grad == 1).all()) and model[4].bias.grad is None


def test_it_equals_a_plain_loop() -> None:
    """A slow twin: AdamW on the head of the model in eval mode, the rate falling to zero."""
    (model, data), (twin, _) = planted(), planted()
    losses = frog.fit_head(
        model, data, head=["4.weight", "4.bias"], steps=20, lr=0.02, loss=loss_of
    )
    twin.eval()
    optimizer = torch.optim.AdamW(twin[4].parameters(), lr=0.02, weight_decay=0.0)
    for step in range(20):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (20 - step) / 20
        loss = loss_of(twin, data[step % len(data)])
        assert loss.item() == losses[step]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model[4].weight, twin[4].weight) and torch.equal(model[4].bias, twin[4].bias)


def test_small_steps_do_not_vanish_in_bfloat16() -> None:
    """300 steps of 1e-4 move a weight of 1 by up to 0.015, of which each alone rounds to none."""
    model = nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(model.weight)
    data = [torch.ones(2, 4, dtype=torch.bfloat16)]
    frog.fit_head(model, data, head=["w"], steps=300, lr=1e-4, loss=lambda m, x: m(x).sum())
    assert torch.allclose(model.weight.float(), torch.tensor(0.985), atol=0.004)


def test_no_steps_and_the_automatic_rate() -> None:
    model, data = planted()
    before = bits(model)
    assert frog.fit_head(model, data, head=["^4"], steps=0, loss=loss_of) == ()
    assert all(torch.equal(v, before[k]) for k, v in bits(model).items())
    assert np.mean(frog.fit_head(model, data, head=["^4"], loss=loss_of)[-8:]) < 0.7


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"steps": -1}, "steps must be a whole number from 0, got -1"),
        ({"steps": 2.0}, "steps must be a whole number"),
        ({"lr": 0}, "lr must be a number above 0 or 'auto', got 0"),
        ({"lr": "fast"}, "lr must be a number above 0 or 'auto', got 'fast'"),
        ({"head": []}, "head= must name at least one parameter"),
        ({"head": ["classifier"]}, "no parameter for head= 'classifier'"),
        ({"head": ["("]}, "regular expressions"),
        ({"batches": []}, "batches must hold at least one batch"),
        ({"batches": "used up"}, "an iterator that is used up"),
        ({"batches": torch.ones(2, 8)}, "got one Tensor"),
        ({"loss": lambda m, b: m(b[0]).sum() * float("nan")}, "must be finite"),
        ({"loss": lambda m, b: m[0](b[0]).sum()}, "has no gradient"),
        ({"loss": lambda m, b: m(b[0])}, "one number"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_undone(more: dict[str, Any], told: str) -> None:
    model, data = planted()
    before = bits(model)
    given: dict[str, Any] = {"head": ["^4"], "loss": loss_of, "batches": data} | more
    if isinstance(given["batches"], str):
        given["batches"] = iter(data)
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        frog.fit_head(model, given.pop("batches"), **given)
    assert all(torch.equal(v, before[k]) for k, v in bits(model).items())


# ------------------------------------------------------------- the head once more, at the end


def deep_equal(a: Any, b: Any) -> bool:
    """States, with tensors in them; NaN is NaN."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(deep_equal(x, b[k]) for k, x in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(deep_equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tuned_model_changes_in_its_head_alone(dtype: torch.dtype) -> None:
    """Chosen weights, exact changes, counters, noise and guards are as if nothing had been; the
    head becomes what it becomes in the plain model of the same weights."""
    model, tuner = trained(dtype, noise=frog.Noise.guided(0.01, schedule="constant"),
                           guards=["health"])  # fmt: skip
    optimizer = tuner.optimizer(lr=1e-2)
    model(**batches(1)[0]).loss.backward()  # in the middle of a step
    tuner.scale_change(0.6)
    plain = copy.deepcopy(model)
    grads = [None if x.grad is None else x.grad.clone() for x in model.parameters()]
    before, state = bits(model), copy.deepcopy(tuner.state_dict())
    moments, random = copy.deepcopy(optimizer.state_dict()), torch.random.get_rng_state()
    losses = frog.fit_head(model, batches(3), head=["^model.norm"], steps=4, lr=0.01)
    moved = {k for k, v in bits(model).items() if not torch.equal(v, before[k])}
    assert moved == {"model.norm.weight"} and len(losses) == 4
    assert torch.equal(random, torch.random.get_rng_state()) and model.training
    assert deep_equal(tuner.state_dict(), state) and deep_equal(optimizer.state_dict(), moments)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert losses == frog.fit_head(plain, batches(3), head=["^model.norm"], steps=4, lr=0.01)
    assert torch.equal(plain.model.norm.weight, model.model.norm.weight)
    # it trains on, and the delta tells of the head of now
    optimizer.step()
    delta, base = tuner.delta(), llama(dtype)
    frog.apply_delta(base, delta)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in base.state_dict().items())
    assert tuner.certificate().untouched
    tuner.revert()
    first = bits(llama(dtype))
    assert all(torch.equal(v, first[k]) for k, v in bits(model).items())


def test_a_sampled_model_changes_in_what_always_trains() -> None:
    model = llama(num_hidden_layers=4)
    start = bits(model)
    sampler: Sampler = frog.LayerSampler(model, None, by="uniform", active=1, always=["model.norm"])
    state = copy.deepcopy(sampler.state_dict())
    frog.fit_head(model, batches(2), head=["^model.norm"], steps=2)
    moved = {k for k, v in bits(model).items() if not torch.equal(v, start[k])}
    assert moved == {"model.norm.weight"} and deep_equal(sampler.state_dict(), state)
    for name in (f"^model.layers.{sampler.active[0][-1]}", "^lm_head|^model.embed"):
        with pytest.raises(UsageError, match=r"must train whole \(also=\) to be fitted alone"):
            frog.fit_head(model, batches(2), head=[name])
    sampler.revert()
    assert all(torch.equal(v, start[k]) for k, v in bits(model).items())


def test_other_parameters_of_a_tuned_model_are_refused() -> None:
    """What the tuner chose weights of or freezes, also beside what may be fitted."""
    model, tuner = trained()
    before = bits(model)
    chosen, frozen = tuner.compacts[0].name, "model.layers.0.input_layernorm.weight"
    for name in (chosen, frozen, "weight_change"):
        with pytest.raises(UsageError, match=r"must train whole .* fit the head before the Tuner"):
            frog.fit_head(model, batches(2), head=["model.norm", name])
    assert all(torch.equal(v, before[k]) for k, v in bits(model).items())
    tuner.keep()
    frog.fit_head(model, batches(2), head=["model.norm", frozen], steps=2)


@pytest.mark.parametrize("wrong", [0, 1.5, "0.6", True])
def test_the_rate_of_a_share(wrong: Any) -> None:
    """Divided by what is kept, after the cap; that of whole parameters is not."""
    model = llama()
    tuner = Tuner(model, choose(model), also=["model.norm"])
    for full in (1e-5, 10.0):
        plain, more = tuner.rate(full=full), tuner.rate(full=full, kept=0.6)
        assert more.lr == plain.lr / 0.6 and more.also == plain.also and more.cap == plain.cap
        assert more.capped == plain.capped == (full == 10.0)
        assert more.reason.splitlines()[0].endswith(" / 0.6 (share of the change that is kept)")
        assert "kept" not in plain.reason
        tuner.optimizer()
        tuner.rate(full=full, kept=0.6)
        groups = tuner.optimizer().param_groups
        assert groups[0]["lr"] == more.lr and groups[-1]["lr"] == more.also
    with pytest.raises(UsageError, match="kept must be a number above 0 and at most 1"):
        tuner.rate(kept=wrong)
    tuner.revert()
    sampler: Sampler = frog.LayerSampler(model, None, by="uniform", active=1)
    found = sampler.rate(full=3e-5, kept=0.5)
    assert found.lr == 6e-5 and found.also == 3e-5
    assert str(found) == (
        "lr 6e-05 for AdamW: 3e-05, that of full tuning (given) / 0.5 (share of the change that "
        "is kept)"
    )


# ------------------------------------------------------------------- as the loss asks for


def distance(tuner: Tuner, share: float) -> Any:
    """A loss that is least where this share of the change is kept."""
    ends = {x.name: x.values().float() for x in tuner.compacts}
    bases = {x.name: x.base.float() for x in tuner.compacts}
    goals = {k: bases[k] + share * (ends[k] - bases[k]) for k in ends}

    def loss(model: nn.Module, batch: int) -> torch.Tensor:
        named = dict(model.named_parameters())
        return sum(
            (named[x.name].view(-1)[x.index].float() - goals[x.name]).square().sum()
            for x in tuner.compacts
        ) * torch.tensor(1.0 + batch)

    return loss


@pytest.mark.parametrize("share", (0.1, 0.3, 0.7, 1.0))
def test_the_planted_share_is_found_and_kept(share: float) -> None:
    (model, one), (_, two) = trained(), trained()
    before, modes = bits(model), [x.training for x in model.modules()]
    assert one.fit_change([0, 1], loss=distance(one, share)) == share
    two.scale_change(share)
    a, b = one.snapshot(), two.snapshot()
    assert all(torch.allclose(v, b[k], rtol=3e-7, atol=0) for k, v in a.items())
    assert [x.training for x in model.modules()] == modes
    if share == 1:
        assert all(torch.equal(v, before[k]) for k, v in bits(model).items())


def test_it_goes_down_only_as_long_as_the_loss_falls() -> None:
    _, tuner = trained()
    asked = []
    inner = distance(tuner, 0.8)

    def loss(model: nn.Module, batch: int) -> torch.Tensor:
        asked.append(batch)
        return inner(model, batch)

    assert tuner.fit_change(iter([0, 1, 2]), loss=loss) == 0.8
    assert asked == [0, 1, 2] * 4, "1, 0.9, 0.8 and 0.7"


def test_the_loss_of_the_model_where_none_is_told_and_of_real_batches() -> None:
    """Held against every tenth by hand."""
    model, tuner = trained()
    held, data, losses = tuner.snapshot(), batches(2), {}
    model.eval()
    for tenths in range(1, 11):
        tuner.restore(held)
        tuner.scale_change(tenths / 10)
        with torch.no_grad():
            losses[tenths / 10] = sum(float(model(**batch).loss) for batch in data)
    tuner.restore(held)
    found = tuner.fit_change(data)
    assert found == 1.0 or losses[found] < losses[round(found + 0.1, 1)]
    assert found == 0.1 or losses[found] <= losses[round(found - 0.1, 1)]


def test_where_the_whole_change_has_no_finite_loss_less_is_kept() -> None:
    _, tuner = trained()
    inner, calls = distance(tuner, 0.5), []

    def loss(model: nn.Module, batch: int) -> torch.Tensor:
        calls.append(batch)
        return inner(model, batch) if len(calls) > 3 else torch.tensor(float("nan"))

    assert tuner.fit_change([0], loss=loss) == 0.5


def test_nothing_moves_where_the_search_fails() -> None:
    model, tuner = trained()
    before = bits(model)

    def broken(model: nn.Module, batch: Any) -> torch.Tensor:
        raise KeyboardInterrupt("asked to stop")

    cases: list[tuple[Any, Any, type[BaseException], str]] = [
        ([], None, UsageError, "at least one batch"),
        (batches(1)[0], None, UsageError, "several batches"),
        ([0], lambda m, b: torch.tensor(float("nan")), UsageError, "with none"),
        ([0], lambda m, b: torch.ones(2), UsageError, "one number, got"),
        ([0], lambda m, b: 3.0, UsageError, "one number, got float"),
        ([0], broken, KeyboardInterrupt, "asked"),
    ]
    for data, loss, error, words in cases:
        with pytest.raises(error, match=words):
            tuner.fit_change(data, loss=loss)
        assert all(torch.equal(v, before[k]) for k, v in bits(model).items()), words
    tuner.keep()
    with pytest.raises(UsageError, match="left its model"):
        tuner.fit_change([0])
