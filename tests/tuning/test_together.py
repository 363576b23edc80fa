"""All features of tuning in one run: guards, noise, rates by layer and the automatic one."""

import copy
import io
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import frog
from frog.errors import UsageError
from frog.tuning import Tuner
from frog.types import Chosen
from tests.tuning.guarded import At
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside
from tests.tuning.test_tuner import checkpointed

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

GRANULARITIES = ("element", "row", "column", "block")
HOW = {
    "reentrant": torch.bfloat16,
    "non-reentrant": torch.float32,
    "autocast": torch.float32,
    "compile": torch.float32,
}
"""How a run goes, and the dtype of its base."""

STEPS = 6
SLOWED = 2
"""The step at which a guard slows the run: before the checkpoint, in the middle."""


def attach(granularity: str, dtype: torch.dtype = torch.float32, **more: Any) -> Tuner:
    """A tuner with everything on, which a guard slows, with another rate for each block."""
    model = llama(dtype)
    selection = choose(model, 0.1, granularity)
    layers = [replace(x, lr_ratio=0.5 if x.block == 0 else 1.5) for x in selection.plan.layers]
    settings: dict[str, Any] = {
        "plan": replace(selection.plan, layers=tuple(layers)),
        "noise": frog.Noise.guided(0.05, draw="sequence" if granularity == "row" else "token"),
        "guards": ["auto", "subspaces", At(SLOWED, action="slow", slow=0.5)],
    }
    return Tuner(model, selection, **(settings | more))


def train(tuner: Tuner, optimizer: Any, data: list, how: str) -> list[float]:
    """Two micro-batches a step, clipped; what is clipped is what the optimizer holds."""
    model = tuner.model
    run: Any = torch.compile(model, backend="aot_eager") if how == "compile" else model
    losses = []
    model.train()
    for number, batch in enumerate(data, start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            loss = run(**batch).loss
        (loss / 2).backward()
        losses.append(float(loss.detach()))
        if number % 2:
            continue
        held = {id(x): x for group in optimizer.param_groups for x in group["params"]}
        clipped = {id(x): x for x in model.parameters() if x.grad is not None}
        assert clipped.keys() == held.keys()
        assert sum(x.numel() for x in held.values()) == tuner.trainable
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        after = torch.stack([x.grad.norm() for x in held.values()]).norm()  # pyright: ignore
        assert 0.05 < float(norm) < float("inf") and float(after) == pytest.approx(0.05, rel=1e-3)
        optimizer.step()
        model.zero_grad()
        assert all(x.grad is None for x in held.values())
    return losses


def start(granularity: str, how: str) -> tuple[Tuner, Any]:
    tuner = attach(granularity, HOW[how])
    if how in ("reentrant", "non-reentrant"):
        checkpointed(tuner.model, how)
    tuner.plan_steps(STEPS)
    return tuner, tuner.optimizer(lr="auto")


FAST = {("element", "reentrant"), ("row", "non-reentrant"), ("column", "autocast"),
        ("block", "reentrant")}  # fmt: skip
PAIRS = [
    pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow)
    for pair in itertools.product(GRANULARITIES, HOW)
    if pair not in {("element", "compile"), ("column", "compile")}  # a quarter of a minute each
]


@pytest.mark.parametrize(("granularity", "how"), PAIRS)
def test_everything_at_once(granularity: str, how: str, tmp_path: Path) -> None:
    """Bits outside, resume, revert, keep, reload and certificate are all exact."""
    torch._dynamo.reset()
    data = batches(2 * STEPS)
    tuner, optimizer = start(granularity, how)
    assert len({group["lr"] for group in optimizer.param_groups}) == 2
    before, mask = bits(llama(HOW[how])), masks(tuner)
    losses = train(tuner, optimizer, data[:STEPS], how)
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    losses += train(tuner, optimizer, data[STEPS:], how)
    assert tuner.step == STEPS and len(set(losses)) == 2 * STEPS
    assert moved_only_inside(before, tuner.model, mask)
    told = tuner.certificate()
    assert told.touched == () and told.unchecked == 0 and told.slow <= 0.5
    assert told.untouched + tuner.trainable == sum(x.numel() for x in llama().parameters())

    torch._dynamo.reset()
    again, second = start(granularity, how)
    saved.seek(0)
    second.load_state_dict(torch.load(saved, weights_only=True))
    assert again.step == STEPS // 2 and again._watch is not None and again._watch.factor <= 0.5
    assert losses[STEPS:] == train(again, second, data[STEPS:], how)
    assert equal(tuner.model, bits(again.model))
    assert again.alarms == tuner.alarms and len(tuner.alarms) >= 1
    assert again.certificate().worst == told.worst

    delta = tuner.delta()
    after = bits(tuner.model)
    again.revert()
    assert equal(again.model, before)
    tuner.keep()
    assert equal(tuner.model, after)
    tuner.model.save_pretrained(tmp_path)
    loaded = type(tuner.model).from_pretrained(tmp_path, dtype=HOW[how])
    assert equal(loaded, after)
    plain = llama(HOW[how])  # of which the cast has rounded the rotary table, too
    plain.load_state_dict(loaded.state_dict())
    with torch.no_grad():
        ours, theirs = (x.eval()(**data[0]).logits for x in (tuner.model, plain))
    assert torch.equal(ours, theirs)
    frog.apply_delta(loaded, delta, revert=True)
    assert equal(loaded, before)


def equal(model: nn.Module, held: dict[str, torch.Tensor]) -> bool:
    now = bits(model)
    return now.keys() == held.keys() and all(torch.equal(held[k], v) for k, v in now.items())


# ---------------------------------------------------------------------------- in Trainer


@pytest.mark.slow
@pytest.mark.parametrize(("granularity", "special"), [
    ("element", {"gradient_checkpointing": True, "bf16": True}),
    ("row", {"gradient_checkpointing": True,
             "gradient_checkpointing_kwargs": {"use_reentrant": True}}),
    ("column", {"torch_compile": True, "torch_compile_backend": "aot_eager"}),
    ("block", {"lr_scheduler_type": "cosine", "warmup_steps": 2}),
])  # fmt: skip
def test_resuming_a_trainer_with_everything_is_exact(
    granularity: str, special: dict, tmp_path: Path
) -> None:
    from tests.tuning.runs import trainer

    runs = []
    for number in range(2):
        torch._dynamo.reset()
        tuner = attach(granularity)
        before, mask = bits(llama()), masks(tuner)
        run = trainer(tuner.model, tuner, tmp_path / str(number), "auto", max_steps=6,
                      gradient_accumulation_steps=2, max_grad_norm=0.5, save_strategy="steps",
                      save_steps=3, **special)  # fmt: skip
        run.add_callback(tuner.callback())
        run.train(resume_from_checkpoint=str(tmp_path / "0" / "checkpoint-3") if number else None)
        assert tuner.step == 6 and moved_only_inside(before, tuner.model, mask)
        lines = [x for x in run.state.log_history if "loss" in x]
        assert all(x["frog/slow"] <= 0.5 for x in lines[SLOWED:])
        runs.append((bits(tuner.model), [x["loss"] for x in lines], tuner))
    (straight, losses, first), (_, others, second) = runs
    assert equal(second.model, straight) and losses == others
    assert first.alarms == second.alarms
    loaded = type(first.model).from_pretrained(tmp_path / "0" / "checkpoint-6")
    assert equal(loaded, straight)


# ------------------------------------------------- whose learning rate it is, and when


def test_slowing_under_accelerate_leaves_the_schedule_alone() -> None:
    """The wrapped optimizer steps at lr_t x factor; lr_t is what schedule and files see."""
    accelerate = pytest.importorskip("accelerate")
    tuner = attach("element", noise=None, guards=[At(2, action="slow", slow=0.5)])
    saved: list[float] = []
    tuner.on_step(lambda x: saved.append(x.state_dict()["param_groups"][0]["lr"]))
    made = torch.optim.SGD([x.change for x in tuner.compacts], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda t: 1.0 / (1 + t))
    wrapped, following = accelerate.Accelerator(cpu=True).prepare(made, schedule)
    moved = []
    for step in range(4):
        for compact in tuner.compacts:
            compact.change.grad = torch.ones_like(compact.change)
        before = tuner.compacts[0].change.detach().clone()
        wrapped.step()
        assert not wrapped.step_was_skipped
        moved.append(float((before - tuner.compacts[0].change.detach())[0]))
        following.step()
        assert following.get_last_lr() == pytest.approx([1.0 / (step + 2)])
        wrapped.zero_grad()
    assert moved == pytest.approx([1, 1 / 2, 0.5 / 3, 0.5 / 4], rel=1e-4)
    assert saved == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


def test_gradients_from_before_are_not_clipped() -> None:
    model = llama()
    model(**batches(1)[0]).loss.backward()
    tuner = Tuner(model, choose(model), also=["norm"])
    held = {id(x) for x in tuner.dense.values()}
    assert all(x.grad is None for x in model.parameters() if id(x) not in held)


# ----------------------------------------------------- loading: all is checked, then taken


def test_a_refused_part_leaves_all_other_parts_as_they_were() -> None:
    """The noise fits, the guards do not: not even the noise may have gone on."""
    saved = attach("element", guards=["health"])
    saved.plan_steps(STEPS)
    optimizer = saved.optimizer(lr=1e-3)
    train(saved, optimizer, batches(4), "")
    state = optimizer.state_dict()
    other = attach("element", guards=["health", "change"])
    fresh = other.optimizer(lr=1e-3)
    held, was = copy.deepcopy(other.state_dict()), bits(other.model)
    with pytest.raises(UsageError, match=r"guards health, .*nothing was changed"):
        fresh.load_state_dict(state)
    now = other.state_dict()
    assert now["parts"]["noise"] == held["parts"]["noise"] and now["step"] == 0
    assert equal(other.model, was) and not fresh.state_dict()["state"].keys() - {"frog"}


@pytest.mark.parametrize("also", [(), ("model.norm",)])
def test_another_set_of_dense_parameters_is_refused_before_anything_loads(also: tuple) -> None:
    saved = attach("element", also=("model.norm", "input_layernorm"))
    saved.plan_steps(STEPS)
    optimizer = saved.optimizer(lr=1e-3)
    train(saved, optimizer, batches(2), "")
    other = attach("element", also=also)
    fresh, was = other.optimizer(lr=1e-3), bits(other.model)
    with pytest.raises(UsageError, match=r"groups of .*also=.*nothing was changed"):
        fresh.load_state_dict(optimizer.state_dict())
    assert other.step == 0 and equal(other.model, was)
    assert all(not x.change.any() for x in other.compacts)


def test_parts_without_a_check_load_after_those_that_refuse() -> None:
    class Part:
        loaded = False

        def state_dict(self) -> dict:
            return {}

        def load_state_dict(self, state: dict) -> None:
            self.loaded = True

    saved = Tuner(model := llama(), choose(model), guards=["health"])
    saved.add("mine", Part())
    state = saved.state_dict()
    other = Tuner(model := llama(), choose(model), guards=["change"])
    other.add("mine", part := Part())
    with pytest.raises(UsageError, match="guards health"):
        other.load_state_dict(state)
    assert not part.loaded


# -------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("kind", ["codes", "packed", "fp8"])
def test_quantised_weights_are_named_as_such(kind: str) -> None:
    model = llama()
    selection = choose(model, include="up_proj")
    layer: Any = model.model.layers[0].mlp.up_proj
    weight = layer.weight.detach()
    made = {
        "codes": torch.zeros(weight.shape, dtype=torch.uint8),
        "packed": torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8),
        "fp8": weight.to(torch.float8_e4m3fn),
    }[kind]
    layer.weight = nn.Parameter(made, requires_grad=False)
    required = [x.requires_grad for x in model.parameters()]
    with pytest.raises(UsageError, match=r"up_proj.*quantised.*unquantised"):
        Tuner(model, selection)
    assert required == [x.requires_grad for x in model.parameters()]


def test_gptq_and_its_kin_are_named_by_their_packed_tensors() -> None:
    class QuantLinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("qweight", torch.zeros(4, 32, dtype=torch.int32))

    model = llama()
    selection = choose(model, include="up_proj")
    model.model.layers[0].mlp.up_proj = QuantLinear()
    with pytest.raises(UsageError, match=r"quantised \(QuantLinear\)"):
        Tuner(model, selection)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn])
def test_quantised_layers_are_not_sampled(dtype: torch.dtype) -> None:
    model = llama()
    layer: Any = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
    with pytest.raises(UsageError, match=r"up_proj.weight must be .*unquantised"):
        frog.LayerSampler(model, None, active=1)
    assert all(x.requires_grad for x in model.parameters() if x is not layer.weight)


def test_an_unknown_guard_leaves_the_model_free() -> None:
    model = llama()
    model.model.norm.weight.requires_grad_(False)
    selection = choose(model)
    required = [x.requires_grad for x in model.parameters()]
    kinds = [type(x) for x in model.modules()]
    hooks = len(model._forward_pre_hooks), len(model._forward_hooks)
    for guards in (["helth"], [At(1), At(2)], [object()]):
        with pytest.raises((UsageError, frog.errors.UnknownName)):
            Tuner(model, selection, guards=guards)  # type: ignore[arg-type]
        assert required == [x.requires_grad for x in model.parameters()]
        assert kinds == [type(x) for x in model.modules()]
        assert hooks == (len(model._forward_pre_hooks), len(model._forward_hooks))
    Tuner(model, selection).revert()


def test_an_empty_choice_is_no_trouble_for_guards_and_noise() -> None:
    """A matrix of the selection may hold no entry at all."""
    model = llama()
    selection = choose(model, include="proj")
    first, *rest = selection.chosen
    none: Chosen = replace(first, index=first.index[:0], count=0)
    tuner = Tuner(model, replace(selection, chosen=(none, *rest)), guards="auto",
                  noise=frog.Noise.guided(0.05))  # fmt: skip
    tuner.plan_steps(3)
    optimizer = tuner.optimizer(lr="auto")
    for batch in batches(3):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert tuner.step == 3 and tuner.certificate().touched == ()
