"""The tuner trains what was selected, exactly as a masked dense optimizer would, nothing else."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import frog
from frog.errors import ModelError, UsageError
from frog.tuning import Tuner
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside

pytest.importorskip("transformers")

GRANULARITIES = ("element", "row", "column", "block")


@pytest.fixture(autouse=True)
def _as_large_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small ones here take the way of large ones: a sampled product."""
    monkeypatch.setattr("frog.tuning.gradients.DENSE_BELOW", 0)


def train(model: Any, optimizer: Any, data: list, *, accumulate: int = 1, clip: float = 0.0,
          parameters: Any = None, **context: Any) -> list[float]:  # fmt: skip
    """A plain loop."""
    losses = []
    for number, batch in enumerate(data, start=1):
        loss = model(**batch).loss / accumulate
        loss.backward()
        losses.append(float(loss.detach()) * accumulate)
        if number % accumulate == 0:
            if clip:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            optimizer.zero_grad()
    return losses


def checkpointed(model: Any, how: str) -> None:
    """Recompute activations; the reentrant kind needs an input that wants gradients."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    enable = enable or model.gradient_checkpointing_enable  # its name before transformers 5.20
    enable({"use_reentrant": how == "reentrant"})
    if how == "reentrant":
        model.enable_input_require_grads()


def masked_dense(model: Any, mask: dict, lr: float, steps: list, decay: float, clip: float) -> list:
    """A slow twin: dense AdamW on copies, gradients masked, decay towards the start."""
    named = {k: v for k, v in model.named_parameters()}
    start = {k: v.detach().clone() for k, v in named.items() if k in mask}
    for name, parameter in named.items():
        parameter.requires_grad_(name in mask)
    moment = {k: (torch.zeros_like(v), torch.zeros_like(v)) for k, v in start.items()}
    losses = []
    for t, batch in enumerate(steps, start=1):
        loss = model(**batch).loss
        loss.backward()
        losses.append(float(loss.detach()))
        with torch.no_grad():
            grads = {k: named[k].grad * mask[k] for k in mask}
            size = torch.sqrt(sum((g**2).sum() for g in grads.values()))
            scale = min(1.0, clip / (float(size) + 1e-6)) if clip else 1.0
            for k, gradient in grads.items():
                gradient = gradient * scale
                first, second = moment[k]
                first.mul_(0.9).add_(gradient, alpha=0.1)
                second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                step = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
                change = (named[k] - start[k]) * (1 - lr * decay) - lr * step * mask[k]
                named[k].copy_(start[k] + change)
                named[k].grad = None
    return losses


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("decay", "clip"), [(0.0, 0.0), (0.1, 0.5)])
def test_losses_equal_a_masked_dense_adamw(granularity: str, decay: float, clip: float) -> None:
    model, twin = llama(), llama()
    data = batches(4) * 25
    tuner = Tuner(model, choose(model, granularity=granularity))
    mask = masks(tuner)
    optimizer = tuner.optimizer(lr=3e-3, weight_decay=decay)
    ours = train(model, optimizer, data, clip=clip, parameters=[x.change for x in tuner.compacts])
    theirs = masked_dense(twin, mask, 3e-3, data, decay, clip)
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-5
    assert ours[-1] < ours[0]


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["plain", "accumulate", "autocast", "checkpoint", "reentrant"])
def test_nothing_else_moves_by_a_bit(granularity: str, dtype: torch.dtype, how: str) -> None:
    model = llama(dtype)
    before = bits(model)
    tuner = Tuner(model, choose(model, granularity=granularity))
    mask = masks(tuner)
    model.train()
    if how in ("checkpoint", "reentrant"):
        checkpointed(model, how)
    optimizer = tuner.optimizer(lr=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        train(model, optimizer, batches(6), accumulate=2 if how == "accumulate" else 1)
    assert moved_only_inside(before, model, mask)
    tuner.keep()
    assert moved_only_inside(before, model, mask)


@pytest.mark.parametrize("how", ["accumulate", "checkpoint", "reentrant"])
def test_accumulation_and_checkpointing_change_no_loss(how: str) -> None:
    def run(special: bool) -> list[float]:
        model = llama()
        tuner = Tuner(model, choose(model))
        model.train()
        if special and how != "accumulate":
            checkpointed(model, how)
        accumulate = 2 if special and how == "accumulate" else 1
        data = batches(8)
        if accumulate == 2:
            halves = [{k: v[i : i + 2] for k, v in b.items()} for b in data for i in (0, 2)]
            losses = train(model, tuner.optimizer(lr=1e-2), halves, accumulate=2)
            return [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]
        return train(model, tuner.optimizer(lr=1e-2), data)

    assert run(True) == pytest.approx(run(False), abs=2e-5)


OPTIMIZERS = [
    (torch.optim.AdamW, {"fused": True}),
    (torch.optim.AdamW, {"foreach": True}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.Adagrad, {}),
]


@pytest.mark.parametrize(("cls", "settings"), OPTIMIZERS)
def test_any_optimizer_writes_its_steps(cls: Any, settings: dict) -> None:
    model = llama()
    before = bits(model)
    tuner = Tuner(model, choose(model))
    optimizer = cls([x.change for x in tuner.compacts], lr=1e-2, **settings)
    first = train(model, optimizer, batches(1))
    for compact in tuner.compacts:  # written at the step itself, before any forward pass
        assert torch.equal(compact.weight.view(-1)[compact.index], compact.values())
        assert compact.change.abs().max() > 0
    assert tuner.step == 1 and moved_only_inside(before, model, masks(tuner))
    assert train(model, optimizer, batches(1)) < first


def test_revert_gives_the_bits_back_and_keep_keeps_them() -> None:
    model = llama(torch.bfloat16)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, :4] = -0.0
    before, kinds = bits(model), [type(x) for x in model.modules()]
    wanted = [x.requires_grad for x in model.parameters()]
    tuner = Tuner(model, choose(model, 0.5))
    train(model, tuner.optimizer(lr=1e-2), batches(3))
    tuned = bits(model)
    tuner.revert()
    assert all(torch.equal(before[k], v) for k, v in bits(model).items())
    assert [type(x) for x in model.modules()] == kinds
    assert [x.requires_grad for x in model.parameters()] == wanted
    with Tuner(model, choose(model, 0.5)) as again:
        train(model, again.optimizer(lr=1e-2), batches(3))
    assert all(torch.equal(tuned[k], v) for k, v in bits(model).items())
    assert [type(x) for x in model.modules()] == kinds
    with pytest.raises(ZeroDivisionError), Tuner(model, choose(model)) as third:
        train(model, third.optimizer(lr=1e-2), batches(1))
        raise ZeroDivisionError
    assert all(torch.equal(tuned[k], v) for k, v in bits(model).items())


def test_the_state_dict_is_plain_and_loads_strictly() -> None:
    model, plain = llama(), llama()
    names = list(plain.state_dict())
    tuner = Tuner(model, choose(model))
    optimizer = tuner.optimizer(lr=1e-2)
    train(model, optimizer, batches(3))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    assert list(state) == names
    plain.load_state_dict(state)
    train(model, optimizer, batches(3))
    model.load_state_dict(state)
    for compact in tuner.compacts:
        assert torch.equal(compact.weight.view(-1)[compact.index], compact.values())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_copy_and_a_pickle_are_plain_models() -> None:
    model = llama()
    tuner = Tuner(model, choose(model))
    train(model, tuner.optimizer(lr=1e-2), batches(2))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(x) for x in twin.modules()] == [type(x) for x in llama().modules()]
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in twin.state_dict().items())
        Tuner(twin, choose(twin)).revert()


def test_the_delta_is_the_change_and_undoes_it() -> None:
    model = llama(torch.bfloat16)
    before = copy.deepcopy(model)
    tuner = Tuner(model, choose(model, 0.2))
    train(model, tuner.optimizer(lr=1e-2), batches(3))
    delta = tuner.delta()
    wanted = frog.diff(before, model)
    assert [x.tensor for x in delta.tensors] == [x.tensor for x in wanted.tensors]
    for a, b in zip(delta.tensors, wanted.tensors, strict=True):
        assert (a.index == b.index).all() and (a.xor == b.xor).all()
        assert (a.before, a.after) == (b.before, b.after)
    tuner.keep()
    frog.apply_delta(model, delta, revert=True)
    assert all(torch.equal(v, before.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_is_the_straight_one_bit_for_bit(dtype: torch.dtype, tmp_path: Any) -> None:
    def start() -> tuple[Any, Tuner, Any]:
        model = llama(dtype)
        tuner = Tuner(model, choose(model, 0.3))
        return model, tuner, tuner.optimizer(lr=1e-3)

    model, tuner, optimizer = start()
    data = batches(12)
    train(model, optimizer, data[:6])
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c")
    straight = train(model, optimizer, data[6:])
    model2, tuner2, optimizer2 = start()
    saved = torch.load(tmp_path / "c", weights_only=True)
    model2.load_state_dict(saved["model"])
    optimizer2.load_state_dict(saved["optimizer"])
    assert tuner2.step == 6
    assert train(model2, optimizer2, data[6:]) == straight
    a, b = bits(model), bits(model2)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert tuner.step == tuner2.step == 12


def test_resuming_with_another_selection_is_refused_and_nothing_is_lost() -> None:
    model = llama()
    tuner = Tuner(model, choose(model))
    optimizer = tuner.optimizer(lr=1e-2)
    train(model, optimizer, batches(2))
    saved = copy.deepcopy(optimizer.state_dict())
    other = llama()
    second = Tuner(other, choose(other, seed=1))
    fresh = second.optimizer(lr=1e-2)
    before = bits(other)
    with pytest.raises(UsageError, match="another selection"):
        fresh.load_state_dict(saved)
    with pytest.raises(UsageError, match="another selection"):
        other.load_state_dict(model.state_dict())
    del saved["state"]["frog"]
    with pytest.raises(UsageError, match="without a tuner"):
        fresh.load_state_dict(saved)
    assert all(torch.equal(before[k], v) for k, v in bits(other).items())


def test_the_optimizer_state_is_as_large_as_the_selection() -> None:
    model = llama()
    tuner = Tuner(model, choose(model, 0.02))
    optimizer = tuner.optimizer(lr=1e-2)
    train(model, optimizer, batches(1))
    held = sum(
        v.numel() for k, s in optimizer.state_dict()["state"].items() if k != "frog"
        for v in s.values()
    )  # fmt: skip
    assert held <= 2 * tuner.trainable + len(tuner.compacts)


# ------------------------------------------------------------------------------ refusals


def test_a_selection_for_another_model_or_other_weights_is_refused() -> None:
    model = llama()
    selection = choose(model)
    moved = llama()
    with torch.no_grad():
        moved.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(UsageError, match=r"layers\.1\.mlp\.up_proj.*does not hold the weights"):
        Tuner(moved, selection)
    with pytest.raises(UsageError):
        Tuner(llama(intermediate_size=48), selection)
    with pytest.raises(UsageError):
        Tuner(nn.Linear(4, 4), selection)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"up_proj.*NaN"):
        Tuner(model, choose(model))


def test_one_tuner_at_a_time() -> None:
    model = llama()
    selection = choose(model)
    Tuner(model, selection)
    with pytest.raises(UsageError, match="a tuner already"):
        Tuner(model, selection)


def test_also_trains_densely_and_must_match() -> None:
    model = llama(tie_word_embeddings=False)
    selection = choose(model, include="mlp")
    with pytest.raises(UsageError, match="no parameter for also"):
        Tuner(model, selection, also=["lm_heat"])
    before = bits(model)
    tuner = Tuner(model, selection, also=["lm_head"])
    optimizer = tuner.optimizer(lr=1e-3, also_lr=1e-2)
    train(model, optimizer, batches(2))
    head = model.lm_head.weight
    assert not torch.equal(before["lm_head.weight"], bits(model)["lm_head.weight"])
    assert tuner.trainable == selection.count + head.numel()
    tuner.revert()
    assert all(torch.equal(before[k], v) for k, v in bits(model).items())
