"""The laws of every control and peer: what it counts, what it moves, and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import benchmarks.tuning.methods  # noqa: F401
from benchmarks.tuning.method import METHODS, NotApplicable, freeze
from benchmarks.tuning.methods.adapters import nearest_rank
from benchmarks.tuning.methods.layers import best_that_fit, layer_of, signal_to_noise
from benchmarks.tuning.methods.masks import principal, top_share
from benchmarks.tuning.train import train
from tests.tuning_bench.encoders import (
    RATE,
    SHARE,
    STEPS,
    TOYS,
    Toy,
    conv_toy,
    dense_toy,
    state,
)

PEERS = sorted(name for name, made in METHODS.items() if made.family != "frog")
ADAPTERS = ["lora", "miss", "pissa", "rslora", "shira"]
MASKS = ["lift", "super-tuning-bottom", "super-tuning-top"]


CONV_REFUSED = {"miss", "pissa", "shira"}
CASES = [
    (kind, method) for kind in TOYS for method in PEERS
    if not (kind == "conv" and method in CONV_REFUSED)
]  # fmt: skip


def started(kind: str, method: str) -> tuple[Toy, Any]:
    """A toy with a method attached, nothing trained."""
    task = TOYS[kind]()
    task.begin(1)
    freeze(task.model)
    return task, METHODS[method].build(task, SHARE, RATE, 1)


@pytest.mark.parametrize("method", sorted(CONV_REFUSED))
def test_what_takes_no_convolution_says_so(method: str) -> None:
    with pytest.raises(NotApplicable, match="Conv2d"):
        train(conv_toy(), METHODS[method], share=SHARE, rate=RATE, seed=1, split="test")


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_it_learns_and_leaves_the_rest(kind: str, method: str) -> None:
    task = TOYS[kind]()
    task.begin(1)
    before, first = state(task.model), task.new("test").loss
    out = train(task, METHODS[method], share=SHARE, rate=RATE, seed=1, split="test")
    after = state(task.model)
    assert after.keys() == before.keys()
    assert out.new.loss < first
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    allowed = {f"encoder.{k}" for k in task.target_weights()}
    if method in ("bitfit", "norms"):
        norms = ("encoder.norm.", "encoder.1.", "encoder.4.")
        allowed = {
            k for k in before if k.startswith(norms) and k.endswith(("weight", "bias"))
        } if method == "norms" else {k for k in before if k.endswith("bias")}  # fmt: skip
        assert out.moved == 0.0
    elif method == "head":
        allowed = set()
    else:
        assert out.moved > 0.0
    heads = set(task.head)
    assert heads <= moved
    assert moved - heads <= allowed
    if method in ("full", "norms"):
        assert moved - heads == allowed
    assert out.delta_bytes >= 4 * out.trainable


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_the_count_is_what_trains(kind: str, method: str) -> None:
    task, attached = started(kind, method)
    loss = task.loss(task.inputs)
    if method == "head":
        assert (attached.trainable, attached.groups) == (0, [])
        return
    loss.backward()
    attached.before_step(1, STEPS)
    listed = [p for group in attached.groups for p in group["params"]]
    trained = [p for p in task.encoder.parameters() if p.requires_grad]
    assert {id(p) for p in trained} <= {id(p) for p in listed}
    assert all(group["lr"] == RATE for group in attached.groups)
    if method in MASKS:
        count = sum(int((p.grad != 0).sum()) for p in trained)
        assert attached.trainable * 0.8 <= count <= attached.trainable  # GELU's zeros, ReLU's
        assert attached.trainable == pytest.approx(SHARE * task.target_count(), abs=3)
    else:
        assert attached.trainable == sum(p.numel() for p in trained)
    if method != "lisa":
        assert len(listed) == len(trained)


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("method", MASKS)
def test_unselected_weights_stay_bit_by_bit(kind: str, method: str) -> None:
    task = TOYS[kind]()
    task.begin(1)
    before = {k: v.detach().clone() for k, v in task.target_weights().items()}
    out = train(task, METHODS[method], share=SHARE, rate=RATE, seed=1, split="test")
    bits = {k: v.detach().view(torch.int32) for k, v in task.target_weights().items()}
    changed = {k: bits[k] != before[k].view(torch.int32) for k in before}
    for name, mask in changed.items():
        magnitude = (principal(before[name]) if method == "lift" else before[name]).abs()
        wanted = top_share(-magnitude if "bottom" in method else magnitude, SHARE)
        assert not (mask & ~wanted).any()
        assert mask.sum() >= 0.8 * wanted.sum()
    assert sum(int(mask.sum()) for mask in changed.values()) <= out.trainable
    assert out.delta_bytes == 8 * out.trainable


@pytest.mark.parametrize(("kind", "method"), [case for case in CASES if case[1] in ADAPTERS])
def test_adapters_leave_plain_modules_that_say_the_same(kind: str, method: str) -> None:
    plain = TOYS[kind]()
    plain.begin(1)
    kinds = {name: type(m) for name, m in plain.model.named_modules()}
    task, attached = started(kind, method)
    with torch.no_grad():
        # Attaching changes nothing of what the model says.
        torch.testing.assert_close(
            task.outputs(task.inputs), plain.outputs(task.inputs), atol=1e-5, rtol=1e-5
        )
    optimizer = torch.optim.AdamW(attached.groups, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        task.loss(task.inputs).backward()
        optimizer.step()
    with torch.no_grad():
        before = task.outputs(task.inputs)
        attached.finish()
        after = task.outputs(task.inputs)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    assert (before - plain.outputs(task.inputs)).abs().max() > 1e-3
    assert {name: type(m) for name, m in task.model.named_modules()} == kinds
    assert not hasattr(task.encoder, "peft_config")
    assert all(isinstance(w, nn.Parameter) for w in task.target_weights().values())
    wanted = SHARE * task.target_count()
    assert attached.facts["over_budget"] == pytest.approx(attached.trainable / wanted)


def test_adapters_draw_from_their_seed_and_leave_the_global_one() -> None:
    drawn = []
    for _ in range(2):
        _, attached = started("dense", "lora")
        drawn.append([p.detach().clone() for p in attached.groups[0]["params"]])
        assert torch.get_rng_state().equal(rng_after_begin())
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def rng_after_begin() -> Tensor:
    task = dense_toy()
    task.begin(1)
    return torch.get_rng_state()


def test_lift_looks_at_a_low_rank() -> None:
    torch.manual_seed(0)
    assert torch.linalg.matrix_rank(principal(torch.randn(100, 80))) == 16
    assert torch.linalg.matrix_rank(principal(torch.randn(16, 3, 3, 3)).flatten(1)) == 4
    low = torch.outer(torch.randn(40), torch.randn(30))
    torch.testing.assert_close(principal(low), low)


def test_rank_is_the_nearest_one() -> None:
    assert nearest_rank(100, 30, 9) == 3
    assert nearest_rank(1, 30, 9) == 1
    assert nearest_rank(10_000, 30, 9) == 9


def test_lisa_draws_one_layer_a_period_and_forgets_its_state() -> None:
    task, attached = started("dense", "lisa")
    assert attached.optimizer is not None
    optimizer = attached.optimizer(attached.groups, weight_decay=0.0)
    total = 24
    for step in range(1, total + 1):
        optimizer.zero_grad(set_to_none=True)
        task.loss(task.inputs).backward()
        open_now = {k for k, w in task.target_weights().items() if w.requires_grad}
        assert {layer_of(k) for k in open_now} == set(attached.facts["draws"][-1])
        optimizer.step()
        assert len(optimizer.state) == len(open_now)
        attached.after_step(step, total)
    assert len(attached.facts["draws"]) == 8
    assert len({tuple(draw) for draw in attached.facts["draws"]}) > 1
    sizes = {layer_of(k): w.numel() for k, w in task.target_weights().items()}
    drawn = {name for draw in attached.facts["draws"] for name in draw}
    assert attached.trainable == max(sizes[name] for name in drawn)
    assert attached.delta_bytes == 4 * sum(sizes[name] for name in drawn)


def test_lisa_draws_what_fits() -> None:
    task = dense_toy()
    task.begin(1)
    freeze(task.model)
    attached = METHODS["lisa"].build(task, 1.0, RATE, 1)
    assert attached.trainable == task.target_count()


def test_a_layer_ends_at_the_first_number() -> None:
    assert layer_of("encoder.layer.3.attention.self.query.weight") == "encoder.layer.3"
    assert layer_of("layer1.0.conv1.weight") == "layer1.0"
    assert layer_of("conv1.weight") == "conv1"


def test_signal_to_noise_by_hand() -> None:
    # Quartiles 1 and 3: sigma 2 / 1.349, edge twice that (square) = 2.965; 10 + 3 over 3.5.
    values = torch.tensor([10.0, 3.0, 2.0, 1.0, 0.5])
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0))).Q
    assert signal_to_noise(turn @ values.diag()) == pytest.approx(13 / 3.5 / 10, rel=1e-4)
    # Equal values have no noise: it counts as 1.
    assert signal_to_noise(torch.eye(4)) == pytest.approx(4.0)


def test_spectrum_takes_the_best_first() -> None:
    task = dense_toy()
    task.begin(1)
    weights = task.target_weights()
    with torch.no_grad():
        weights["blocks.0.weight"].copy_(torch.eye(24, 32) / 10)
    freeze(task.model)
    largest = weights["blocks.0.weight"].numel() / task.target_count()
    attached = METHODS["spectrum"].build(task, largest * 1.01, RATE, 1)
    assert attached.facts["chosen"] == ["blocks.0.weight"]
    assert attached.facts["over_budget"] <= 1


def test_spectrum_skips_what_does_not_fit() -> None:
    sizes = {"a": 50, "b": 10, "c": 20, "d": 10}
    assert best_that_fit(["a", "c", "d", "b"], sizes, 30) == ["c", "d"]
    assert best_that_fit(["a", "c", "d", "b"], sizes, 5) == ["d"]
    task, attached = started("dense", "spectrum")
    assert attached.facts["over_budget"] > 1  # no whole matrix in a tenth here
    assert attached.trainable == min(w.numel() for w in task.target_weights().values())


def test_head_and_parameters_that_are_not_there_are_refused() -> None:
    task = conv_toy()
    task.head = ()
    task.begin(1)
    with pytest.raises(NotApplicable, match="head"):
        METHODS["head"].build(task, SHARE, RATE, 1)
    bare = Toy(nn.Linear(20, 5, bias=False), ("",), torch.randn(12, 20))
    bare.begin(1)
    for name, word in (("norms", "norm"), ("bitfit", "bias")):
        with pytest.raises(NotApplicable, match=word):
            METHODS[name].build(bare, SHARE, RATE, 1)
