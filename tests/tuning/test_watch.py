"""What guards do: actions, their state, their account, the certificate, the callback."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import frog
from frog.errors import ReportError, UsageError
from frog.tuning import Tuner
from frog.tuning.guards import Health, OverTraining, ScaleCollapse, ShapeOfChange, Subspaces
from tests.conftest import shared
from tests.tuning.guarded import GOOD, At, guarded, loop, wide
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside
from tests.tuning.runs import sft_trainer

# ------------------------------------------------------------------------------ actions


def test_slow_multiplies_the_rate_and_schedulers_go_on() -> None:
    tuner = guarded([At(3, action="slow", slow=0.5)])
    made = tuner.optimizer(torch.optim.SGD, lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda t: 1.0 / (1 + t))
    moved = []
    for _ in range(6):
        for compact in tuner.compacts:
            compact.change.grad = torch.ones_like(compact.change)
        before = tuner.compacts[0].change.detach().clone()
        made.step()
        moved.append(float((before - tuner.compacts[0].change.detach())[0]))
        assert made.param_groups[0]["lr"] == pytest.approx(1.0 / len(moved))
        schedule.step()
    expected = [1, 1 / 2, 1 / 3, 0.5 / 4, 0.5 / 5, 0.5 / 6]
    assert moved == pytest.approx(expected, rel=1e-4)


def test_restore_puts_back_weights_head_and_moments() -> None:
    model = llama(tie_word_embeddings=False)
    tuner = Tuner(
        model, choose(model, include="proj"), also=["lm_head"], guards=[At(5, action="restore")]
    )
    start = bits(model)

    def look(step: int) -> None:
        if step == 5:
            assert all(torch.equal(start[k], v) for k, v in bits(model).items())

    made = loop(tuner, steps=5, after=look)
    assert [x.action for x in tuner.alarms] == ["restore"] and not tuner.stopped
    assert not any(x.change in made.state for x in tuner.compacts)
    loop(tuner, steps=3, optimizer=made)
    assert tuner._watch is not None and tuner._watch.factor == pytest.approx(0.1)
    assert not torch.equal(start["lm_head.weight"], bits(model)["lm_head.weight"])


def test_a_run_goes_back_to_its_last_healthy_step() -> None:
    tuner = guarded([At(17, action="restore")])
    held: dict[int, Any] = {}
    loop(tuner, steps=17, after=lambda step: held.update({step: tuner.snapshot()}))
    assert all(torch.equal(held[10][k], held[17][k]) for k in held[10])


def test_one_step_too_large_is_taken_back_alone() -> None:
    tuner = guarded([Health()])
    held: dict[int, Any] = {}

    def leap(step: int) -> None:
        for group in made.param_groups:
            group["lr"] = 5.0 if step == 7 else GOOD

    made = tuner.optimizer(lr=GOOD)
    loop(tuner, steps=8, before=leap, optimizer=made,
         after=lambda step: held.update({step: tuner.snapshot()}))  # fmt: skip
    assert all(torch.equal(held[6][k], held[7][k]) for k in held[6])
    assert not all(torch.equal(held[7][k], held[8][k]) for k in held[6])


def test_stop_ends_the_loop_and_log_does_nothing() -> None:
    stopping, logging = guarded([At(4, action="stop")]), guarded([At(4, action="log")])
    loop(stopping), loop(logging), loop(plain := guarded([]))
    assert stopping.step == 4 and stopping.stopped and logging.step == 12 and not logging.stopped
    a, b = bits(logging.model), bits(plain.model)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_rate_that_was_slowed_too_often_ends_the_run() -> None:
    tuner = guarded([At(2, 4, 6, 8, 10, action="slow")])
    loop(tuner)
    assert [x.action for x in tuner.alarms] == ["slow", "slow", "stop"] and tuner.step == 6


@pytest.mark.parametrize("share", [0.005, 0.05, 1.0])
def test_the_automatic_rate_raises_no_alarm(share: float) -> None:
    """Also at a budget so small that its cap decides, and without a warm-up."""
    model = llama(initializer_range=0.05)
    tuner = Tuner(model, choose(model, share), guards="auto")
    made = tuner.optimizer()
    assert tuner.measured.used is not None and tuner.measured.used.capped == (share == 0.005)
    assert tuner.facts[0].startswith("lr "), "told by the callback before training"
    for batch in batches(30, size=8):
        model(**batch).loss.backward()
        made.step()
        made.zero_grad()
    assert not tuner.alarms


def test_what_stays_beyond_its_limit_is_told_once() -> None:
    tuner = guarded([At(*range(3, 9), 11)])
    loop(tuner)
    assert [x.step for x in tuner.alarms] == [3, 11]


# ------------------------------------------------------- bits, accumulation, other loops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_unselected_moves_with_all_guards_on(dtype: torch.dtype) -> None:
    model = llama(dtype)
    before = bits(model)
    guards = [Health(), ScaleCollapse(every=3, action="restore"),
              Subspaces(every=3, k=2, mode="project", project_every=2),
              ShapeOfChange(every=3), At(9, action="restore")]  # fmt: skip
    tuner = Tuner(model, choose(model, 0.1), guards=guards)
    loop(tuner, steps=14, lr=0.01)
    told = tuner.certificate()
    assert moved_only_inside(before, model, masks(tuner))
    assert told.untouched + tuner.trainable == sum(
        x.numel() for k, x in model.named_parameters() if not k.endswith("_change")
    )
    assert told.touched == () and told.unchecked == 0
    after = bits(model)
    tuner.keep()
    assert tuner.certificate().untouched == told.untouched
    assert all(torch.equal(after[k], v) for k, v in bits(model).items())


def test_a_silent_guard_changes_nothing() -> None:
    plain, watched = guarded([]), guarded(["auto", "subspaces"])
    loop(plain), loop(watched)
    assert watched.alarms == ()
    a, b = bits(plain.model), bits(watched.model)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_touched_weights_are_found() -> None:
    for name in ("model.layers.1.mlp.up_proj.weight", "model.norm.weight"):
        tuner = guarded("auto", share=0.1)
        loop(tuner, steps=3)
        parameter = dict(tuner.model.named_parameters())[name]
        free = torch.ones(parameter.numel(), dtype=torch.bool)
        for compact in tuner.compacts:
            if compact.name == name:
                free[compact.index] = False
        place = int(free.nonzero()[0])
        parameter.data.view(-1)[place] += 1e-3
        told = tuner.certificate()
        assert told.touched == (name,) and not told.sound
        assert f"NOT the bits of before, outside the selection: {name}" in str(told)


def test_accumulated_micro_batches_count_as_one_step() -> None:
    tuner = guarded([health := Health()])
    made = tuner.optimizer(lr=GOOD)
    for number, batch in enumerate(batches(12)):
        tuner.model(**batch).loss.backward()
        if number % 3 == 2:
            made.step()
            made.zero_grad()
    worst = {x.kind: x for x in tuner.certificate().worst}
    assert worst["step"].seen == 4 and len(health._losses["loss"].recent) == 4


def test_several_optimizers_are_all_slowed() -> None:
    model = llama(tie_word_embeddings=False)
    tuner = Tuner(model, choose(model, include="proj"), also=["lm_head"],
                  guards=[At(1, action="slow", slow=0.5)])  # fmt: skip
    first = torch.optim.SGD([x.change for x in tuner.compacts], lr=1.0)
    second = torch.optim.SGD(list(tuner.dense.values()), lr=1.0)
    head = next(iter(tuner.dense.values()))
    moves = []
    for _ in range(2):
        before = head.detach().clone()
        for parameter in [*[x.change for x in tuner.compacts], head]:
            parameter.grad = torch.full_like(parameter, 0.01)
        first.step(), second.step()
        moves.append(float((before - head.detach()).abs().max()))
    # the alarm came after the first one's first step: the second was slowed from then on
    assert moves == pytest.approx([0.005, 0.005], rel=1e-3)
    assert [x.param_groups[0]["lr"] for x in (first, second)] == [1.0, 1.0]


def test_guards_begin_anew_with_another_tuner() -> None:
    """The same objects may watch one run after another, of another model, too."""
    guards = [Health(), OverTraining(every=2, layers=None, cost=1.0), ScaleCollapse(every=2)]
    guards += [ShapeOfChange(every=2)]
    loop(guarded(guards, **wide()), steps=4, lr=1.0)
    new = [Health(), OverTraining(every=2, layers=None, cost=1.0), ScaleCollapse(every=2)]
    second = guarded(guards, share=0.1, **wide())
    fresh = guarded([*new, ShapeOfChange(every=2)], share=0.1, **wide())
    for tuner in (second, fresh):
        loop(tuner, steps=4)
    assert not second.alarms
    for a, b in zip(second.certificate().worst, fresh.certificate().worst, strict=True):
        assert (a.kind, a.layer, a.value) == (b.kind, b.layer, b.value)


def test_copies_and_left_models_have_no_guards() -> None:
    tuner = guarded("auto")
    copied = copy.deepcopy(tuner.model)
    copied(**batches(1)[0])
    assert tuner._watch is not None and tuner._watch.run.losses == []
    tuner.keep()
    tuner.model(**batches(1)[0])
    assert tuner._watch.run.losses == [] and tuner.certificate().steps == 0


# ------------------------------------------------------------------------------- resume


def test_resuming_is_exact_with_everything_that_happened() -> None:
    def make() -> tuple[Tuner, Any]:
        guards = [Health(), ScaleCollapse(every=4, cost=1.0),
                  Subspaces(every=4, k=2, mode="project", project_every=3, cost=1.0),
                  ShapeOfChange(every=4, cost=1.0),
                  At(3, 14, action="restore", slow=0.5)]  # fmt: skip
        model = llama()
        tuner = Tuner(model, choose(model, 0.1), guards=guards)
        return tuner, tuner.optimizer(lr=3e-3)

    straight, first = make()
    rows = batches(20)

    def steps(tuner: Tuner, optimizer: Any, part: list) -> None:
        for batch in part:
            optimizer.zero_grad()
            tuner.model(**batch).loss.backward()
            optimizer.step()

    steps(straight, first, rows[:12])
    state = copy.deepcopy(first.state_dict())
    steps(straight, first, rows[12:])
    resumed, second = make()
    second.load_state_dict(state)
    assert resumed._watch is not None and resumed._watch.factor == 0.5
    steps(resumed, second, rows[12:])
    a, b = bits(straight.model), bits(resumed.model)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert resumed.alarms == straight.alarms and len(resumed.alarms) >= 2
    one, two = straight.certificate(), resumed.certificate()
    assert one.worst == two.worst and one.slow == two.slow == 0.25


def test_resuming_with_other_guards_is_refused() -> None:
    saved = guarded(["health"])
    state = loop(saved, steps=2).state_dict()
    other = guarded(["health", "change"])
    with pytest.raises(UsageError, match="guards health, this one has change, health"):
        other.optimizer(lr=GOOD).load_state_dict(state)
    assert other.step == 0


def test_state_is_plain_enough_for_a_safe_load(tmp_path: Path) -> None:
    tuner = guarded(["auto", "subspaces"])
    torch.save(loop(tuner, steps=3).state_dict(), tmp_path / "o.pt")
    again = guarded(["auto", "subspaces"])
    again.optimizer(lr=GOOD).load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    assert again.step == 3


# ------------------------------------------------------------------ account, certificate


def test_costly_checks_become_rarer() -> None:
    tuner = guarded([ShapeOfChange(every=1, cost=1e-6), ScaleCollapse(every=1, cost=1.0)])
    loop(tuner, steps=12)
    told = tuner.certificate().facts["guards"]
    assert told["change"]["every at the end"] >= 4 and told["change"]["checks"] < 6
    assert told["scale-collapse"]["every at the end"] == 1
    assert told["scale-collapse"]["checks"] == 12


def test_the_certificate_goes_through_json(tmp_path: Path) -> None:
    tuner = guarded(["auto", At(2, 4)])
    loop(tuner)
    told = tuner.certificate()
    told.to_json(tmp_path / "c.json")
    assert frog.Certificate.from_json(tmp_path / "c.json") == told
    assert 0 < told.cost < 1 and not told.sound and told.steps == 12
    strange = replace(told, worst=(replace(told.worst[0], value=math.nan, used=math.inf),))
    strange.to_json(tmp_path / "d.json")
    again = frog.Certificate.from_json(tmp_path / "d.json")
    assert math.isnan(again.worst[0].value)
    text = (tmp_path / "c.json").read_text()
    for bad, word in (
        (text.replace("frog-certificate", "frog-plan"), "frog-certificate"),
        (text.replace('"steps": 12', '"steps": "many"'), "steps"),
        (text[:-40], "not JSON"),
        (text.replace('"kind": "planned"', '"kind": 3'), "worst"),
    ):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(ReportError, match=word):
            frog.Certificate.from_json(tmp_path / "bad.json")
    with pytest.raises(ReportError, match="no such file"):
        frog.Certificate.from_json(tmp_path / "none.json")


def test_the_certificate_as_text_fits_a_terminal() -> None:
    tuner = guarded(["auto", At(*range(1, 40, 2))])
    loop(tuner, steps=30)
    text = str(tuner.certificate())
    assert all(len(line) <= 80 for line in text.splitlines())
    for word in ("30 steps", "15 alarms", "health: step", "and 3 more, in the file",
                 "weights outside the selection have their bits of before"):  # fmt: skip
        assert word in " ".join(text.split()), word


def test_without_guards_there_is_no_certificate() -> None:
    tuner = guarded([])
    assert tuner.alarms == () and tuner.stopped is False
    tuner.report_loss(1.0)
    with pytest.raises(UsageError, match="guards='auto'"):
        tuner.certificate()


# ------------------------------------------------------------------------------ Trainer

WARNINGS = ["ignore:.*pin_memory.*:UserWarning", "ignore:.*lr_scheduler.step.*:UserWarning",
            "ignore::DeprecationWarning", "ignore::FutureWarning"]  # fmt: skip


def _trainer(tuner: Tuner, folder: Path, reporters: list, lr: float = GOOD, **changed: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 8, "per_device_train_batch_size": 2,
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
        "logging_steps": 2, "seed": 3, "dataloader_pin_memory": False,
    }  # fmt: skip
    rows = [{"input_ids": x, "labels": x} for x in batches(1, size=16)[0]["input_ids"]]
    return transformers.Trainer(
        model=tuner.model, args=transformers.TrainingArguments(**(settings | changed)),
        train_dataset=rows, eval_dataset=rows[:4], callbacks=[*reporters, tuner.callback()],
        optimizers=(tuner.optimizer(lr=lr), None),
    )  # fmt: skip


def _reporter() -> Any:
    transformers = pytest.importorskip("transformers")

    class Reporter(transformers.TrainerCallback):
        """Stands where those of TensorBoard and W&B do: before the user's own."""

        def __init__(self) -> None:
            self.lines: list[dict] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            self.lines.append(dict(logs))

    return Reporter()


@pytest.mark.filterwarnings(*WARNINGS)
@pytest.mark.parametrize("special", [{}, {"gradient_accumulation_steps": 2}])
def test_metrics_reach_every_reporter_through_the_trainers_log(
    tmp_path: Path, special: dict
) -> None:
    tuner = guarded([Health(), ScaleCollapse(every=4, cost=1.0)])
    planned: list[int] = []
    tuner.plan_steps = planned.append  # type: ignore[attr-defined]
    reporter = _reporter()
    run = _trainer(tuner, tmp_path, [reporter], eval_strategy="steps", eval_steps=4, **special)
    run.train()
    assert planned == [8]
    train = [x for x in reporter.lines if "loss" in x]
    assert len(train) == 4 and all("frog/health/step" in x for x in train)
    assert [("frog/scale-collapse/log_norm" in x) for x in train] == [False, True, False, True]
    history = [x for x in run.state.log_history if "frog/health/step" in x]
    assert [x["frog/health/step"] for x in history][:4] == [x["frog/health/step"] for x in train]
    assert not any(k.startswith("frog/") for x in reporter.lines if "eval_loss" in x for k in x)
    assert "log" not in run.__dict__ and tuner.step == 8
    kinds = {x.kind for x in tuner.certificate().worst}
    assert {"evaluation loss", "loss"} <= kinds


@pytest.mark.filterwarnings(*WARNINGS)
def test_a_guard_ends_the_trainers_run(tmp_path: Path) -> None:
    tuner = guarded([At(3, action="stop")])
    run = _trainer(tuner, tmp_path, [])
    run.train()
    assert run.state.global_step == tuner.step == 3


@pytest.mark.filterwarnings(*WARNINGS)
def test_an_unknown_caller_still_gets_the_metrics() -> None:
    tuner = guarded([Health()])
    callback = tuner.callback()

    history = [{"loss": 1.0, "step": 3}]
    state = SimpleNamespace(max_steps=4, is_world_process_zero=True, log_history=history)
    callback.on_train_begin(None, state, None)
    loop(tuner, steps=3)
    logs = {"loss": 1.0}
    callback.on_log(None, state, None, logs=logs)
    assert "frog/health/step" in logs and "frog/health/step" in history[-1]


@pytest.mark.slow
@pytest.mark.filterwarnings(*WARNINGS)
def test_in_the_sft_trainer(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    tuner = guarded("auto", vocab_size=300)
    reporter = _reporter()
    run = sft_trainer(
        tuner.model, tuner.optimizer(lr=GOOD), tmp_path,
        callbacks=[reporter, tuner.callback()], logging_steps=2,
    )  # fmt: skip
    run.train()
    lines = [x for x in reporter.lines if "loss" in x]
    assert len(lines) == 2
    for line in lines:  # trl's own means stay in the same line
        assert {"frog/health/step", "frog/health/change", "mean_token_accuracy"} <= set(line)
    assert tuner.alarms == ()


@pytest.mark.slow
@pytest.mark.filterwarnings(*WARNINGS)
def test_resuming_a_trainer_with_guards_is_exact(tmp_path: Path) -> None:
    def run(folder: Path) -> tuple[Tuner, Any]:
        tuner = guarded(["auto", At(3, 6, action="slow")])
        return tuner, _trainer(tuner, folder, [], save_strategy="steps", save_steps=4)

    first, straight = run(tmp_path / "a")
    straight.train()
    second, resumed = run(tmp_path / "b")
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    a, b = bits(first.model), bits(second.model)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert first.alarms == second.alarms and first.certificate().worst == second.certificate().worst


# ------------------------------------------------------------------------- real models


@pytest.mark.slow
def test_a_real_model_at_thirty_times_the_rate_is_slowed_in_time() -> None:
    """ResNet20 on hand signs: without guards the loss doubles in one step, with them never."""
    shared("data/resnet-cifar10/resnet20-12fca82f.th")
    shared("data/sign-digits/sign_digits_32x32.npz")
    from benchmarks.guarded_runs import run

    free = run("resnet20", 0.45, steps=4, evaluate=1)
    start = free.evaluations[0]
    assert max(free.evaluations.values()) > 2 * start
    watched = run("resnet20", 0.45, steps=25, evaluate=1, guards="auto")
    assert watched.tuner.alarms[0].step == 1
    assert max(watched.evaluations.values()) < 1.05 * start
    assert watched.evaluations[25] < 0.3 * start


@pytest.mark.slow
def test_guards_take_less_than_three_percent_on_minilm(minilm: Path) -> None:
    """A hundred steps' worth: every step's checks, and one of all the rarer ones."""
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=2)
    tuner = Tuner(model, choose(model, 0.01, include="encoder"), also=["classifier"],
                  guards="auto")  # fmt: skip
    watch = tuner._watch
    assert watch is not None
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (16, 48), generator=draw)
    made = tuner.optimizer(lr=1e-2)
    for _ in range(4):
        made.zero_grad()
        model(input_ids=ids, labels=torch.zeros(16, dtype=torch.long)).loss.backward()
        made.step()
    steps = (watch.account.seconds["run"] - watch.account.seconds["guards"]) / 4
    every_step = watch.account.seconds["guards"] / 4
    once = 0.0
    for guard in watch.guards:
        if guard.every > 1:
            with watch.account.of("all", torch.device("cpu")):
                assert list(guard.check(watch.run))
    once = watch.account.by_guard["all"]
    assert every_step + once / 100 < 0.03 * steps
