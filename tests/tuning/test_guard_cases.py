"""Guards where little is there, where something is broken, and over several processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import frog
from frog.tuning import Tuner
from frog.tuning.guards import Health
from tests.tuning.guarded import At, loop
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside
from tests.tuning.runs import two_processes

pytest.importorskip("transformers")

EVERYTHING = ["auto", "subspaces"]


def plant(tuner: Tuner, *steps: int, dense: bool = False) -> Any:
    """A gradient with one NaN at these steps."""

    def before(step: int) -> None:
        if step in steps:
            trains = tuner.dense.values() if dense else [x.change for x in tuner.compacts]
            gradient = next(x.grad for x in trains if x.grad is not None)
            gradient.view(-1)[0] = float("nan")

    return before


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("action", ["log", "slow", "restore", "stop"])
def test_a_planted_nan_under_every_action(action: str, dense: bool) -> None:
    model = llama(tie_word_embeddings=False)
    tuner = Tuner(model, choose(model, include="proj"), also=["lm_head"],
                  guards=[Health(action=action)])  # fmt: skip
    before = bits(model)
    mask = masks(tuner) | {k: torch.ones_like(v, dtype=torch.bool) for k, v in tuner.dense.items()}
    optimizer = loop(tuner, steps=8, before=plant(tuner, 4, dense=dense))
    assert tuner.alarms[0].kind == "not finite" and tuner.alarms[0].step == 4
    finite = all(bool(x.isfinite().all()) for x in model.state_dict().values())
    assert moved_only_inside(before, model, mask)
    if action == "log":
        assert tuner.step == 8 and not finite and not tuner.stopped
        return
    assert finite
    state = [x for v in optimizer.state.values() if isinstance(v, dict) for x in v.values()]
    assert state and all(bool(x.isfinite().all()) for x in state if isinstance(x, torch.Tensor))
    assert tuner.step == (4 if action == "stop" else 8) and tuner.stopped is (action == "stop")
    assert [x.action for x in tuner.alarms] == ["stop" if action == "stop" else "skip"]
    assert tuner._watch is not None and tuner._watch.factor == 1.0


@pytest.mark.parametrize(("action", "stays"), [("slow", False), ("restore", True)])
def test_three_nans_in_a_row_are_no_accident(action: str, stays: bool) -> None:
    model = llama()
    tuner = Tuner(model, choose(model), guards=[Health(action=action)])
    start, held = bits(model), {}
    optimizer = loop(tuner, steps=5, before=plant(tuner, 3, 4, 5),
                     after=lambda step: held.update({step: bits(model)}))  # fmt: skip
    assert [(x.step, x.action) for x in tuner.alarms] == [(3, "skip"), (5, action)]
    assert tuner._watch is not None and tuner._watch.factor == pytest.approx(0.1)
    back = all(torch.equal(v, start[k]) for k, v in held[5].items())
    assert back is stays and not all(torch.equal(v, start[k]) for k, v in held[4].items())
    known = [x.change in optimizer.state for x in tuner.compacts]
    assert not any(known) if stays else all(known)


def test_a_nan_reaches_no_other_optimizer_either() -> None:
    model = llama(tie_word_embeddings=False)
    tuner = Tuner(model, choose(model, include="proj"), also=["lm_head"], guards=["health"])
    first = torch.optim.AdamW([x.change for x in tuner.compacts], lr=1e-3)
    second = torch.optim.AdamW(list(tuner.dense.values()), lr=1e-3)
    model(**batches(1)[0]).loss.backward()
    plant(tuner, 1, dense=True)(1)
    was = model.lm_head.weight.detach().clone()
    first.step(), second.step()
    assert torch.equal(was, model.lm_head.weight) and not second.state
    assert [x.action for x in tuner.alarms] == ["skip"]


def test_overflows_that_a_grad_scaler_looks_for_are_no_alarm() -> None:
    """A fused optimizer gets the scaled gradients: infinite until the scale has come down."""
    model = llama()
    tuner = Tuner(model, choose(model), guards=["health"])
    optimizer = tuner.optimizer(lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38, backoff_factor=0.6, growth_interval=999)
    moved = []
    for batch in batches(7):
        optimizer.zero_grad()
        scaler.scale(model(**batch).loss).backward()
        before = tuner.compacts[0].change.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        moved.append(not torch.equal(before, tuner.compacts[0].change))
    assert moved[0] is False and moved[-1] is True and moved.count(False) >= 3
    assert tuner.alarms == () and tuner._watch is not None and tuner._watch.factor == 1.0


def test_after_a_restore_moments_are_those_of_a_fresh_optimizer() -> None:
    """Back at the start with a slower rate, the next step is the first step of a new run."""
    model = llama()
    tuner = Tuner(model, choose(model), guards=[At(4, action="restore", slow=0.5)])
    loop(tuner, steps=4, optimizer=(made := tuner.optimizer(lr=1e-2)))
    loop(tuner, rows=batches(6)[4:], optimizer=made)
    twin = llama()
    fresh = Tuner(twin, choose(twin))
    loop(fresh, rows=batches(6)[4:], optimizer=fresh.optimizer(lr=5e-3))
    a, b = bits(model), bits(twin)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_guards_with_a_head_that_trains_whole() -> None:
    model = llama(tie_word_embeddings=False)
    tuner = Tuner(model, choose(model, include="proj"), also=["lm_head", "norm"],
                  guards=[*EVERYTHING, At(5, action="restore")])  # fmt: skip
    before = bits(model)
    held: list[bool] = []
    loop(tuner, steps=8, after=lambda step: held.append(
        all(torch.equal(v, before[k]) for k, v in bits(model).items())))  # fmt: skip
    assert held == [step == 5 for step in range(1, 9)]
    told = tuner.certificate()
    assert told.touched == () and told.trainable == tuner.trainable
    assert told.untouched + tuner.trainable == sum(v.numel() for v in model.state_dict().values())


@pytest.mark.parametrize("shape", [(64, 64), (64, 1), (1, 64), (2, 3)])
def test_guards_of_a_single_layer(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(*shape))
    before = bits(model)
    tuner = Tuner(model, choose(model, 0.2), guards=EVERYTHING)
    optimizer, x = tuner.optimizer(lr="auto"), torch.randn(8, shape[0])
    for _ in range(101):  # every guard has checked once, at the latest
        loss = model(x).square().mean()
        loss.backward()
        tuner.report_loss(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
        if tuner.stopped:
            break
    told = tuner.certificate()
    assert told.touched == () and moved_only_inside(before, model, masks(tuner))
    assert tuner.stopped or all(x["checks"] >= 1 for x in told.facts["guards"].values())
    assert "steps" in str(told)


def test_guards_where_every_matrix_has_a_role_of_its_own() -> None:
    """No group to compare a scale with: nothing is raised, and every guard still checks."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU(),
                          nn.Linear(16, 8))  # fmt: skip
    tuner = Tuner(model, choose(model, 0.1), guards="auto")
    optimizer, x = tuner.optimizer(lr=1e-3), torch.randn(8, 32)
    for _ in range(101):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert tuner.alarms == () and tuner.certificate().touched == ()


# ------------------------------------------------------------------- several processes

WORKER = """
    import sys
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    import frog
    from frog.tuning import Tuner
    from tests.tuning.guarded import At
    from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside

    rank, folder, how = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = llama()
    before = bits(model)
    only = (3, 5) if rank == 1 else ()
    guards = {
        "slow": ["auto", At(*only, action="slow", slow=0.5)],
        "restore": ["auto", At(*only, action="restore", slow=0.5)],
        "stop": ["auto", At(*only, action="stop")],
        "loss": ["auto"],
        "silent": ["health"],
    }[how]
    tuner = Tuner(model, choose(model), guards=guards,
                  noise=frog.Noise.guided(0.05, schedule="constant"))
    parallel = DistributedDataParallel(model)
    optimizer = tuner.optimizer(lr="auto")
    parallel.train()
    for step, batch in enumerate(batches(8)):
        share = {k: v[rank * 2 : rank * 2 + 2] for k, v in batch.items()}
        output = parallel(**share)
        if how == "silent" and rank == 1:
            tuner._watch.run.losses.clear()  # a process that heard no loss
        output.loss.backward()
        if how == "loss" and rank == 1:  # the other one is told nothing
            tuner.report_loss(9.0 if step == 3 else 1.0, "evaluation")
        optimizer.step()
        optimizer.zero_grad()
        if tuner.stopped:
            break
    assert moved_only_inside(before, model, masks(tuner))
    told = tuner.certificate()
    assert told.touched == ()
    torch.save({
        "model": model.state_dict(), "factor": tuner._watch.factor, "step": tuner.step,
        "alarms": [(x.step, x.kind, x.action) for x in tuner.alarms],
        "snapshot": tuner._watch.snapshot_step, "optimizer": optimizer.state_dict()["state"],
    }, f"{folder}/{rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "factor", "steps"), [
    ("slow", 0.25, 8), ("restore", 0.25, 8), ("stop", 1.0, 3), ("loss", 0.1, 8), ("silent", 1.0, 8),
])  # fmt: skip
def test_an_alarm_in_one_process_is_acted_on_in_all(
    how: str, factor: float, steps: int, tmp_path: Path
) -> None:
    two_processes(WORKER, tmp_path, how)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(v, second["model"][k]) for k, v in first["model"].items())
    for key in ("factor", "step", "snapshot"):
        assert first[key] == second[key], key
    assert first["factor"] == pytest.approx(factor) and first["step"] == steps
    acted = [[(step, action) for step, _, action in x["alarms"]] for x in (first, second)]
    assert acted[0] == acted[1]
    others = {"slow": 2, "restore": 2, "stop": 1, "loss": 1, "silent": 0}[how]
    assert [k for _, k, _ in first["alarms"]].count("in another process") == others


def test_what_waits_for_the_next_step_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """In several processes a reported loss counts with the next step: also across a checkpoint."""
    monkeypatch.setattr("frog.tuning.guards.watch.several", lambda: True)
    tuner = Tuner(model := llama(), choose(model), guards=["health"])
    made = loop(tuner, steps=3)
    for value in (1.0, 1.0, 9.0):
        tuner.report_loss(value, "evaluation")
    other = Tuner(model := llama(), choose(model), guards=["health"])
    fresh = other.optimizer(lr=1e-3)
    fresh.load_state_dict(made.state_dict())
    assert tuner.alarms == other.alarms == ()
    for x, optimizer in ((tuner, made), (other, fresh)):
        loop(x, rows=batches(4)[3:], optimizer=optimizer)
    assert tuner.alarms == other.alarms and tuner.alarms[0].kind == "evaluation loss"
    assert equal_bits_of(tuner.model, other.model)


def equal_bits_of(a: nn.Module, b: nn.Module) -> bool:
    first, second = bits(a), bits(b)
    return all(torch.equal(v, second[k]) for k, v in first.items())


def test_a_sampler_tells_every_reporter(tmp_path: Path) -> None:
    """What TensorBoard and W&B get: lines of training hold the units, those of evaluation not."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from tests.tuning.runs import Rows, arguments

    lines: list[dict] = []

    class Reporter(transformers.TrainerCallback):
        """Stands where those of TensorBoard and W&B do: before the user's own."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            lines.append(dict(logs))

    model = llama(num_hidden_layers=3)
    sampler = frog.LayerSampler(model, None, active=1, every=2, seed=1)
    reporter = Reporter()
    run = transformers.Trainer(
        model=model, train_dataset=Rows(16), eval_dataset=Rows(4),
        args=arguments(tmp_path, eval_strategy="steps", eval_steps=4),
        optimizers=(sampler.optimizer(lr=1e-3), None), callbacks=[reporter, sampler.callback()],
    )  # fmt: skip
    told: list[dict] = []
    inner = run.log
    run.log = lambda logs, *rest: (told.append(logs), inner(logs, *rest))[1]
    mine = run.log
    run.train()
    assert run.log is mine  # the user's own log is back
    names = [x.name for x in sampler.units]
    turns = [names.index(sampler.units_at(step)[0]) for step in range(8)]
    assert [x["sampling/unit_0"] for x in lines if "loss" in x] == turns
    assert not any("sampling/unit_0" in x for x in lines if "eval_loss" in x)
    assert len(told) == len(lines)
