"""The same noise wherever the same call comes again: recomputed, resumed; and no other call's."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import frog
from frog.errors import UsageError
from frog.tuning import Tuner
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside
from tests.tuning.runs import advance, trainer, two_processes

transformers = pytest.importorskip("transformers")

DRAWS = ("token", "sequence")
LOUD = {"nu": 0.3, "schedule": "constant"}


class Deep(nn.Module):
    """Layers in checkpointed segments; one of them is used in every segment, and twice in one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

    def segment(self, function: Callable, x: Tensor) -> Tensor:
        if self.how == "plain":
            return function(x)
        return checkpoint(function, x, use_reentrant=self.how == "reentrant")

    def first(self, x: Tensor) -> Tensor:
        return torch.tanh(self.b(torch.tanh(self.a(x))))

    def second(self, x: Tensor) -> Tensor:
        return x + self.a(torch.tanh(self.c(torch.tanh(self.a(x))))).sin()

    def nested(self, x: Tensor) -> Tensor:
        return self.second(self.segment(self.first, torch.tanh(self.a(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.segment(self.second, self.segment(self.first, x))
        return self.segment(self.nested, torch.tanh(self.b(x))).square().mean()


def both_then_forward_order(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    losses = [model(x), model(y)]
    losses[0].backward(), losses[1].backward()
    return losses


def both_then_backward_order(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    losses = [model(x), model(y)]
    losses[1].backward(), losses[0].backward()
    return losses


def both_in_one_loss(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    losses = [model(x), model(y)]
    (losses[0] + losses[1] * 2).backward()
    return losses


def the_same_batch_twice(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    losses = [model(x), model(x)]
    losses[0].backward(), losses[1].square().backward()
    return losses


def accumulated(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    losses = []
    for batch in (x, y, x):
        losses.append(model(batch))
        losses[-1].backward()
    return losses


def backward_twice(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    losses = [model(x)]
    losses[0].backward(retain_graph=True)
    model(y)  # another pass on the way
    losses[0].backward()
    return losses


SCENES = (
    both_then_forward_order,
    both_then_backward_order,
    both_in_one_loss,
    the_same_batch_twice,
    accumulated,
    backward_twice,
)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("how", ["other", "reentrant"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch, when nested
def test_recomputation_draws_the_noise_of_its_own_call(
    how: str, scene: Callable, draw: str
) -> None:
    """Losses to the bit, gradients to rounding (the order of sums may differ)."""

    def run(how: str) -> tuple[list[float], list[Tensor]]:
        model = Deep(how)
        noise = frog.Noise.guided(**LOUD, draw=draw)
        tuner = Tuner(model, choose(model, 0.3), noise=noise)
        model.train()
        rng = torch.Generator().manual_seed(1)
        x, y = (torch.randn(4, 3, 8, generator=rng).requires_grad_() for _ in range(2))
        torch.manual_seed(len(how))  # the global numbers have no say
        state = torch.get_rng_state()
        losses = scene(model, x, y)
        assert torch.equal(state, torch.get_rng_state())
        grads = [x.grad, *(c.change.grad for c in tuner.compacts)]
        return [float(v.detach()) for v in losses], [g for g in grads if g is not None]

    losses, grads = run("plain")
    again, found = run(how)
    assert losses == again and len(set(losses)) == len(losses)
    assert len(grads) == len(found) == 4
    for a, b in zip(grads, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(a.abs().max()))


def test_gradients_would_tell_noise_of_another_call() -> None:
    """The comparison above would be empty if the noise of a call made no difference."""
    grads = []
    for seed in (0, 1):
        model = Deep("plain")
        tuner = Tuner(model, choose(model, 0.3), noise=frog.Noise.guided(**LOUD, seed=seed))
        model.train()
        model(torch.ones(4, 3, 8)).backward()
        grads.append(tuner.compacts[0].change.grad)
    assert (grads[0] - grads[1]).abs().max() > 0.05 * grads[0].abs().max()


def test_segments_of_a_sequence_of_layers() -> None:
    def run(segments: int) -> tuple[float, list[Tensor | None]]:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
        tuner = Tuner(model, choose(model, 0.3), noise=frog.Noise.guided(**LOUD))
        model.train()
        x = torch.ones(2, 8, requires_grad=True)
        y = checkpoint_sequential(model, segments, x, use_reentrant=True) if segments else model(x)
        y.square().sum().backward()
        return float(y.detach().sum()), [c.change.grad for c in tuner.compacts]

    loss, grads = run(0)
    for segments in (1, 2, 4):
        again, found = run(segments)
        assert loss == again
        assert all(torch.allclose(a, b) for a, b in zip(grads, found, strict=True))  # pyright: ignore


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("how", ["other", "reentrant"])
def test_checkpointing_of_transformers_changes_no_loss_and_no_weight(how: str, draw: str) -> None:
    def run(special: bool) -> tuple[list[float], dict]:
        model = llama()
        before = bits(model)
        tuner = Tuner(model, choose(model), noise=frog.Noise.guided(0.1, steps=8, draw=draw))
        mask = masks(tuner)
        model.train()
        if special:
            enable = getattr(model, "activation_checkpointing_enable", None)
            (enable or model.gradient_checkpointing_enable)({"use_reentrant": how == "reentrant"})
            if how == "reentrant":
                model.enable_input_require_grads()
        optimizer = tuner.optimizer(lr=1e-2)
        losses = []
        for number, batch in enumerate(batches(8), start=1):
            loss = model(**batch).loss
            loss.backward()
            losses.append(float(loss.detach()))
            if number % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
        assert moved_only_inside(before, model, mask)
        return losses, bits(model)

    (losses, weights), (again, found) = run(False), run(True)
    assert losses == again
    assert all(torch.equal(weights[k], v) for k, v in found.items())


class Own(torch.autograd.Function):
    """Recomputation of someone else's make."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module, change: Tensor, seen: list) -> Tensor:
        ctx.layer, ctx.seen = layer, seen
        ctx.save_for_backward(x)
        with torch.enable_grad():
            seen.append(layer(x).detach())
        return seen[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        with torch.enable_grad():
            ctx.seen.append(ctx.layer(ctx.saved_tensors[0]).detach())
        return None, None, torch.zeros_like(ctx.layer.weight_change), None


def test_other_recomputation_repeats_the_only_call_and_is_refused_after_several() -> None:
    model = Deep("plain")
    Tuner(model, choose(model, 0.3), noise=frog.Noise.guided(**LOUD))
    model.train()
    x, change = torch.ones(2, 8), model.b.weight_change
    seen: list[Tensor] = []
    Own.apply(x, model.b, change, seen).sum().backward()
    assert torch.equal(*seen)
    with pytest.raises(UsageError, match=r"b is recomputed .* does not show which"):
        Own.apply(x, model.b, change, seen).sum().backward()
    assert not torch.equal(seen[0], seen[2])


# ------------------------------------------------------------------------- every call its own


def test_calls_layers_steps_and_ranks_have_numbers_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Deep("plain")
    tuner = Tuner(model, choose(model, 0.3), noise=frog.Noise.guided(**LOUD))
    model.train()
    x, seen = torch.ones(1, 8), []
    for layer in (model.a, model.b, model.a):  # no forward pass of the model: calls count alone
        seen.append(layer(x) - nn.functional.linear(x, layer._parameters["weight"], layer.bias))
    tuner.step = 1
    seen.append(model.a(x) - nn.functional.linear(x, model.a._parameters["weight"], model.a.bias))
    assert len({tuple(v.detach().flatten().tolist()) for v in seen}) == 4
    key = tuner.noise.key("a", (3, 1))
    assert key == tuner.noise.key("a", (3, 1)) < 2**63
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    assert tuner.noise.key("a", (3, 1)) != key


# -------------------------------------------------------------------------------- resuming


def start(dtype: torch.dtype = torch.float32, **knobs: Any) -> tuple[Any, Tuner, Any]:
    model = llama(dtype)
    noise = frog.Noise.guided(0.1, **knobs)
    tuner = Tuner(model, choose(model, 0.3), noise=noise)
    model.train()
    return model, tuner, tuner.optimizer(lr=1e-3)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_has_the_noise_of_the_straight_one(
    dtype: torch.dtype, draw: str, tmp_path: Path
) -> None:
    model, tuner, optimizer = start(dtype, draw=draw)
    tuner.plan_steps(10)
    data = batches(10)
    advance(model, optimizer, data[:4])
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c")
    straight = advance(model, optimizer, data[4:])
    again, second, fresh = start(dtype, draw=draw)  # its steps come with the state
    saved = torch.load(tmp_path / "c", weights_only=True)
    again.load_state_dict(saved["model"])
    fresh.load_state_dict(saved["optimizer"])
    torch.manual_seed(99)
    assert advance(again, fresh, data[4:]) == straight
    assert second.noise.level == tuner.noise.level == 0
    a, b = bits(model), bits(again)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_resuming_within_a_step_goes_on_with_its_next_call() -> None:
    model, tuner, optimizer = start(schedule="constant")
    data = batches(4)
    advance(model, optimizer, data[:3], every=2)
    saved, grads = copy.deepcopy(optimizer.state_dict()), [c.change.grad for c in tuner.compacts]
    weights = copy.deepcopy(model.state_dict())
    straight = advance(model, optimizer, data[3:], every=2, first=3)
    again, second, fresh = start(schedule="constant")
    again.load_state_dict(weights)
    fresh.load_state_dict(saved)
    for compact, grad in zip(second.compacts, grads, strict=True):
        compact.change.grad = None if grad is None else grad.clone()
    assert advance(again, fresh, data[3:], every=2, first=3) == straight


def test_resuming_with_other_noise_is_refused_and_nothing_changes() -> None:
    model, _, optimizer = start(schedule="constant")
    advance(model, optimizer, batches(1))
    saved = copy.deepcopy(optimizer.state_dict())
    for knobs in ({"seed": 1}, {"draw": "sequence"}, {"guide": "even"}):
        other, tuner, fresh = start(schedule="constant", **knobs)
        before = bits(other)
        with pytest.raises(UsageError, match=r"had other noise.*nothing was changed"):
            fresh.load_state_dict(copy.deepcopy(saved))
        assert tuner.step == 0
        assert all(torch.equal(before[k], v) for k, v in bits(other).items())
    other = llama()
    fresh = Tuner(other, choose(other, 0.3)).optimizer(lr=1e-3)
    with pytest.raises(UsageError, match="set it up alike"):
        fresh.load_state_dict(saved)


# -------------------------------------------------------------- Trainer, compiled, parallel


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_under_trainer_with_everything_at_once(tmp_path: Path) -> None:
    """bf16, accumulation, checkpointing: only chosen entries move; a resumed run is the same."""
    special = {
        "gradient_accumulation_steps": 2, "gradient_checkpointing": True, "bf16": True,
        "save_strategy": "steps", "save_steps": 4,
    }  # fmt: skip
    runs = []
    for number in range(2):
        model = llama()
        before = bits(model)
        tuner = Tuner(model, choose(model, 0.3), noise=frog.Noise.guided(0.1))
        tuner.plan_steps(8)
        run = trainer(model, tuner, tmp_path / str(number), **special)
        saved = str(tmp_path / "0" / "checkpoint-4") if number else None
        run.train(resume_from_checkpoint=saved)
        assert tuner.step == 8 and moved_only_inside(before, model, masks(tuner))
        runs.append((bits(model), [x["loss"] for x in run.state.log_history if "loss" in x]))
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(v, runs[1][0][k]) for k, v in runs[0][0].items())


@pytest.mark.slow
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # too
def test_compiled_models_have_the_same_noise(draw: str) -> None:
    losses = []
    for compiled in (False, True):
        model = llama()
        before = bits(model)
        noise = frog.Noise.guided(0.1, steps=12, draw=draw)
        tuner = Tuner(model, choose(model), noise=noise)
        mask = masks(tuner)
        model.train()
        run: Any = torch.compile(model, backend="aot_eager") if compiled else model
        losses.append(advance(run, tuner.optimizer(lr=1e-2), batches(4) * 3, every=2))
        assert moved_only_inside(before, model, mask)
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    assert len(set(losses[0])) == 12


WORKER = """
    import sys
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    import frog
    from frog.tuning import Tuner
    from tests.tuning.models import batches, choose, llama

    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = llama()
    tuner = Tuner(model, choose(model), noise=frog.Noise.guided(0.1, schedule="constant"))
    parallel = DistributedDataParallel(model)
    optimizer = tuner.optimizer(lr=1e-2)
    parallel.train()
    losses = []
    for batch in batches(3):  # the same rows in both: only the noise can differ
        loss = parallel(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    torch.save({"losses": losses, "model": model.state_dict()}, f"{folder}/{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_draw_different_noise_and_keep_one_model(tmp_path: Path) -> None:
    two_processes(WORKER, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(abs(a - b) > 1e-5 for a, b in zip(first["losses"], second["losses"], strict=True))
    assert all(torch.equal(v, second["model"][k]) for k, v in first["model"].items())
