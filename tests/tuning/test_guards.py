"""Each guard: silent on a healthy run, and it tells a planted truth."""

import math

import numpy as np
import pytest
import torch

from frog.errors import UnknownName, UsageError
from frog.metrics import collapse
from frog.numerics import drift, outliers
from frog.numerics.powerlaw import fit_power_law
from frog.tuning import Tuner
from frog.tuning.guards import (
    AUTO,
    GUARDS,
    Health,
    OverTraining,
    Reading,
    ScaleCollapse,
    ShapeOfChange,
    Subspaces,
    Watcher,
    guards_from,
)
from frog.tuning.guards.change import intruders
from frog.tuning.guards.losses import Losses
from frog.tuning.guards.products import (
    Change,
    Weight,
    largest,
    leading,
    random_start,
    start_of,
    triplets,
)
from frog.tuning.guards.rotation import Rotation
from tests.tuning.guarded import GOOD, evaluation, fitted, guarded, kinds, loop, matrix, wide
from tests.tuning.models import batches, choose, llama

EVERY_5 = [
    lambda: Health(),
    lambda: ScaleCollapse(every=5, cost=1.0),
    lambda: OverTraining(every=5, layers=None, cost=1.0),
    lambda: ShapeOfChange(every=5, cost=1.0),
]


# ------------------------------------------------------------------------------ healthy


def test_a_healthy_run_is_silent_and_all_guards_measured() -> None:
    tuner = guarded([make() for make in EVERY_5], **wide())
    loop(tuner, steps=20)
    assert tuner.alarms == () and not tuner.stopped
    seen = {(x.guard, x.kind): x for x in tuner.certificate().worst}
    assert {guard for guard, _ in seen} == set(AUTO)
    assert seen["health", "step"].seen == 20 and seen["scale-collapse", "log_norm"].seen == 4
    assert all(x.used <= 1 for x in seen.values())
    assert 0 < seen["health", "change"].value < 1


# ------------------------------------------------------------------------------- health


def test_a_rate_thirty_times_too_high_is_slowed_before_the_loss_doubles() -> None:
    worst = {}
    for guards in ((), "auto"):
        model = fitted()
        start = evaluation(model)
        tuner = Tuner(model, choose(model, 0.05), guards=guards)
        seen: list[float] = []
        loop(
            tuner, steps=20, lr=30 * GOOD, after=lambda _, x=model, y=seen: y.append(evaluation(x))
        )
        worst[str(guards)] = max(seen) / start
    assert worst["auto"] < 1.1 and worst["()"] > 2
    assert tuner.alarms[0].step == 1 and tuner.alarms[0].action == "restore"


@pytest.mark.parametrize("action", ["slow", "restore", "stop"])
def test_bad_gradients_are_left_out(action: str) -> None:
    tuner = guarded([Health(action=action)])

    def spoil(step: int) -> None:
        if step == 4:
            tuner.compacts[2].change.grad[0] = math.nan

    held = []
    made = loop(tuner, before=spoil, after=lambda _: held.append(tuner.snapshot()))
    name = tuner.compacts[2].name
    assert [(x.step, x.layer, x.kind) for x in tuner.alarms] == [(4, name, "not finite")]
    assert all(torch.equal(held[2][k], held[3][k]) for k in held[2])
    assert tuner.stopped == (action == "stop")
    moments = [x for state in made.state.values() for x in state.values()]
    assert all(bool(torch.isfinite(x).all()) for x in moments)
    if action != "stop":
        assert tuner.alarms[0].action == "skip" and tuner.step == 12


def test_gradients_that_stay_bad_end_in_the_action() -> None:
    tuner = guarded([Health()])

    def spoil(step: int) -> None:
        if step >= 4:
            tuner.compacts[0].change.grad[:] = math.inf

    loop(tuner, steps=40, before=spoil)
    actions = [x.action for x in tuner.alarms]
    assert actions == ["skip", "restore", "skip", "restore", "skip", "stop"]
    assert tuner.stopped and tuner.step == 12
    assert all(bool(torch.isfinite(x.change).all()) for x in tuner.compacts)


def test_weights_that_become_nan_are_put_back() -> None:
    tuner = guarded([Health()])

    def spoil(step: int) -> None:  # as a broken optimizer would
        if step == 3:
            for group in made.param_groups:
                group["lr"] = math.nan
        if step == 4:
            for group in made.param_groups:
                group["lr"] = GOOD

    made = tuner.optimizer(lr=GOOD)
    loop(tuner, before=spoil, optimizer=made)
    assert {x.kind for x in tuner.alarms} == {"step", "change"}
    assert {x.action for x in tuner.alarms} == {"restore"}
    assert all(bool(torch.isfinite(x.change).all()) for x in tuner.compacts)
    assert evaluation(tuner.model) < 4.5


def test_rising_losses_are_told_whoever_reports_them() -> None:
    for kind, key in (("training", "loss"), ("evaluation", "evaluation loss")):
        tuner = guarded([Health(action="log")])
        for value in [3.0, 2.5, 2.1, *[2.0, 2.01] * 15]:
            tuner.report_loss(value, kind)
        assert tuner.alarms == ()
        for value in [3.2] * 5:
            tuner.report_loss(value, kind)
        assert {(x.kind, x.before) for x in tuner.alarms} == {(key, 1.0)}
        assert tuner.alarms[0].now == pytest.approx(1.6)
    with pytest.raises(UsageError, match="training or evaluation"):
        tuner.report_loss(1.0, "test")


def test_the_models_own_loss_is_seen_in_a_plain_loop() -> None:
    tuner = guarded([Health(action="stop", step=1e9, change=1e9, moved=1e9, gradient=1e9)])
    reached: list[int] = []

    def spoil(step: int) -> None:
        if step == 16:  # a damage that no size tells of
            tuner.model.lm_head.weight.data.mul_(30.0)

    loop(tuner, steps=40, after=spoil)
    assert tuner.stopped and tuner.alarms[-1].kind == "loss" and 17 < tuner.step <= 21, reached


def test_noise_of_a_series_is_no_rise() -> None:
    draw = np.random.default_rng(0)
    alarms = 0
    for _ in range(50):
        losses = Losses(5)
        for value in 0.5 + 0.2 * draw.standard_normal(300):
            held = losses.add(max(float(value), 0.01))
            if held is not None and held[0] > 1.5 * held[1] and held[2] > 1:
                alarms += 1
                break
    assert alarms <= 1


def test_a_growing_gradient_is_told() -> None:
    tuner = guarded([Health(action="log", gradient=5.0)])

    def grow(step: int) -> None:
        for compact in tuner.compacts:
            compact.change.grad *= 10.0 if step > 7 else 1.0

    loop(tuner, before=grow)
    assert ("health", "gradient") in kinds(tuner)


# ----------------------------------------------------------------------- scale collapse


def test_limits_are_those_of_the_comparison() -> None:
    assert outliers.CHANGE_LIMIT is collapse.CHANGE_LIMIT and ScaleCollapse().z == collapse.Z_LIMIT


@pytest.mark.parametrize(("factor", "part"), [(0.1, "weight"), (5.0, "weight"), (40.0, "chosen")])
def test_a_collapse_in_mid_training_is_seen_within_an_interval(factor: float, part: str) -> None:
    tuner = guarded([ScaleCollapse(every=10, cost=1.0)], share=0.05)
    hurt = matrix(tuner, "layers.1.mlp.down_proj")

    def plant(step: int) -> None:
        if step != 13:
            return
        if part == "weight":
            hurt.compact.weight.data.mul_(factor)
        else:
            hurt.set_change(hurt.base() * (factor - 1.0))

    loop(tuner, steps=30, after=plant)
    assert {x.layer for x in tuner.alarms} == {hurt.name}
    assert {x.step for x in tuner.alarms} == {20}
    told = {x.kind: x.now for x in tuner.alarms}
    live = float(hurt.weight().square().sum()), float(torch.linalg.matrix_norm(hurt.weight(), 2))
    if part == "weight" and factor > 1:
        assert told["log_norm"] == pytest.approx(2 * math.log10(factor), abs=0.1)
    assert all(math.isfinite(x) for x in live)


@pytest.mark.parametrize(("factor", "seen"), [(3.0, False), (30.0, True), (0.2, True)])
def test_a_small_matrix_may_grow_up_to_the_others(factor: float, seen: bool) -> None:
    """A pooler that was never trained has to grow; it is no collapse until it stands out."""
    model = llama()
    small = model.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        small.mul_(0.1)
    tuner = Tuner(model, choose(model, 0.05), guards=[ScaleCollapse(every=10, cost=1.0)])
    loop(tuner, lr=1e-5, after=lambda step: small.data.mul_(factor if step == 5 else 1.0))
    assert {x.layer.endswith("layers.1.mlp.down_proj.weight") for x in tuner.alarms} == (
        {True} if seen else set()
    )


def test_power_iterations_follow_the_largest_singular_value() -> None:
    tuner = guarded([guard := ScaleCollapse(every=1, cost=1.0)], share=0.3)
    start = {k: v.copy() for k, v in guard._start.items()}
    exact_start = {x.name: _exact(x) for x in tuner.matrices}
    loop(tuner, steps=6, lr=0.05)
    for x in tuner.matrices:
        found = guard._now(x)
        np.testing.assert_allclose(start[x.name], exact_start[x.name], atol=0.02)
        np.testing.assert_allclose(found, _exact(x), atol=0.05)
        assert found[0] == pytest.approx(_exact(x)[0], abs=1e-5)


def _exact(x: object) -> list[float]:
    values = torch.linalg.svdvals(x.weight().double())  # type: ignore[attr-defined]
    return [math.log10(float(values.square().sum())), math.log10(float(values[0]) ** 2)]


# ------------------------------------------------------------------------ over-training


def test_alpha_below_two_is_told_with_its_estimator() -> None:
    tuner = guarded([OverTraining(every=5, layers=None, cost=1.0)], share=1.0, **wide())
    hurt = matrix(tuner, "layers.1.self_attn.q_proj")
    size = min(hurt.shape)
    steep = torch.arange(1, size + 1, dtype=torch.float32) ** -4.0

    def plant(step: int) -> None:
        if step == 3:
            u, values, v = torch.linalg.svd(hurt.weight(), full_matrices=False)
            new = u @ torch.diag(steep * values[0]) @ v
            rows, columns = hurt.entries()
            hurt.set_change(new[rows, columns] - hurt.base())

    loop(tuner, steps=5, lr=1e-5, after=plant)
    assert {x.layer for x in tuner.alarms} == {hurt.name}
    told = {x.kind for x in tuner.alarms}
    assert {"alpha (ks)", "effective rank"} <= told
    values = torch.linalg.eigvalsh(hurt.weight().double() @ hurt.weight().double().T).numpy()
    now = {x.kind: x.now for x in tuner.alarms}
    exact = fit_power_law(values.clip(min=0), shape=hurt.shape)
    assert now["alpha (ks)"] == pytest.approx(exact.alpha, rel=1e-6) and exact.alpha < 2


def test_an_alpha_that_leaves_its_start_is_told() -> None:
    tuner = guarded([guard := OverTraining(every=5, layers=None, cost=1.0)], share=1.0, **wide())
    hurt = matrix(tuner, "layers.0.self_attn.o_proj")
    u, values, v = torch.linalg.svd(hurt.weight(), full_matrices=False)
    flat = values[0] * torch.linspace(1.1, 1.0, len(values))
    rows, columns = hurt.entries()
    hurt.set_change((u @ torch.diag(flat) @ v)[rows, columns] - hurt.base())
    readings = {x.kind: x for x in guard._of(hurt)}
    hill = readings["alpha (hill) moved"]
    assert hill.beyond and hill.before < hill.limit < hill.value


def test_layers_take_turns_and_small_ones_are_left_out() -> None:
    tuner = guarded([guard := OverTraining(every=1, layers=3, cost=1.0)], **wide())
    able = [x for x in tuner.matrices if min(x.shape) >= 50]
    assert 0 < len(able) < len(tuner.matrices)
    assert guard._able == {x.name for x in able} and not guard._start, "measured in its turn"
    before = {x.name: x.weight().clone() for x in able}
    seen: list[str] = []
    original = guard._of
    guard._of = lambda x: seen.append(x.name) or original(x)  # type: ignore[method-assign]
    loop(tuner, steps=len(able))
    assert seen == [able[i % len(able)].name for i in range(3 * len(able))]
    assert set(guard._start) == guard._able
    for x in able:
        assert torch.equal(start_of(x).values, before[x.name]), "the start, bit for bit"
        assert not torch.equal(x.weight(), before[x.name])


# --------------------------------------------------------------------------- subspaces


def test_turned_directions_are_told() -> None:
    tuner = guarded([Subspaces(every=5, layers=None, cost=1.0, k=2)], share=1.0)
    hurt = matrix(tuner, "layers.0.mlp.up_proj")

    def plant(step: int) -> None:
        if step == 3:
            u, values, v = torch.linalg.svd(hurt.weight(), full_matrices=False)
            new = 3 * values[0] * torch.outer(u[:, 9], v[9])
            rows, columns = hurt.entries()
            hurt.set_change(new[rows, columns])

    loop(tuner, steps=5, lr=1e-6, after=plant)
    assert [x.layer for x in tuner.alarms] == [hurt.name]
    assert tuner.alarms[0].now == pytest.approx(0.5, abs=0.05)  # one of two directions is new


def test_protected_directions_stay_while_the_task_is_learned() -> None:
    settings = {"every": 10, "layers": None, "cost": 1.0}
    rows = batches(8)[4:]  # not those that the model knows
    made: dict[str, tuple] = {}
    for mode in ("watch", "project"):
        model = fitted()
        tuner = Tuner(model, choose(model, 0.1), guards=[guard := Subspaces(mode=mode, **settings)])
        start = evaluation(model, rows)
        loop(tuner, steps=40, lr=2e-3, rows=rows * 10)
        worst = min(guard._overlap(x) for x in tuner.matrices)
        learned = start - evaluation(model, rows)
        made[mode] = worst, learned, len(tuner.alarms), guard.projections
    assert made["watch"][0] < 0.95 and made["watch"][2] > 3 and made["watch"][3] == 0
    assert made["project"][0] >= 0.99 and made["project"][2] == 0 and made["project"][3] > 10
    assert made["project"][1] > 0.5 * made["watch"][1] > 0.2


def test_the_turn_to_first_order_is_the_turn_of_small_changes() -> None:
    tuner = guarded([], share=0.5)
    x = matrix(tuner, "up_proj")
    values, u, v = triplets(Weight(x), min(x.shape))
    rotation = Rotation(values, u, v, 3)
    small = 1e-4 * torch.randn(x.count, generator=torch.Generator().manual_seed(0))
    x.set_change(small)
    new_u, _, new_v = torch.linalg.svd(x.weight().double(), full_matrices=False)
    exact = sum(
        1 - float((old.double()[:, :3].T @ new[:, :3]).square().sum()) / 3
        for old, new in ((u, new_u), (v, new_v.T))
    )
    assert rotation.of(Change(x)) == pytest.approx(exact, rel=0.05)


def test_a_pulled_change_is_the_nearest_that_turns_so_little() -> None:
    tuner = guarded([], share=0.3)
    x = matrix(tuner, "up_proj")
    rotation = Rotation(*triplets(Weight(x), 8), 2)
    change = Change(x).with_values(
        torch.randn(x.count, generator=torch.Generator().manual_seed(1)) * 0.05
    )
    bound = 0.1 * rotation.of(change)
    found = rotation.pulled(change, bound)
    assert rotation.of(change.with_values(found)) <= bound
    scaled = change.values * math.sqrt(bound / rotation.of(change))
    far = torch.linalg.vector_norm
    assert far(found - change.values) < 0.6 * far(scaled - change.values)


# ------------------------------------------------------------------- shape of the change


def test_a_change_of_one_direction_is_told_and_its_intruder() -> None:
    tuner = guarded([ShapeOfChange(every=5, cost=1.0, intruders=0)], share=1.0, **wide())
    hurt = matrix(tuner, "layers.1.mlp.gate_proj")
    draw = torch.Generator().manual_seed(0)
    u, v = (
        torch.nn.functional.normalize(torch.randn(s, generator=draw), dim=0) for s in hurt.shape
    )

    def plant(step: int) -> None:
        if step == 3:
            size = 4 * torch.linalg.matrix_norm(hurt.weight(), 2)
            rows, columns = hurt.entries()
            hurt.set_change((size * torch.outer(u, v))[rows, columns])

    loop(tuner, steps=5, lr=1e-6, after=plant)
    assert kinds(tuner) == {("change", "spectral share"), ("change", "intruders")}
    assert {x.layer for x in tuner.alarms} == {hurt.name}
    share = next(x for x in tuner.alarms if x.kind == "spectral share")
    assert share.now == pytest.approx(1.0, abs=1e-3)


def test_shares_and_intruders_are_those_of_the_exact_arithmetic() -> None:
    tuner = guarded([], share=0.2, **wide())
    loop(tuner, steps=8, lr=0.02)
    for x in tuner.matrices[:6]:
        now = x.weight().double().numpy()
        old = now.copy()
        old[x.entries()] = x.base().double().numpy()
        exact = drift.change(_slabs(old), _slabs(now), x.shape, k=3)
        change = Change(x)
        top, _ = largest(change, random_start(x.shape, 2, torch.device("cpu"), 0), 60)
        assert top / change.norm() == pytest.approx(exact.spectral_share, rel=1e-3)
        assert intruders(x) == exact.intruders


def _slabs(matrix: np.ndarray) -> drift.Slabs:
    return lambda axis, size: iter([matrix])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_dense_matrices(dtype: torch.dtype) -> None:
    model = llama(dtype)
    tuner = Tuner(model, choose(model, 0.3))
    x = matrix(tuner, "up_proj")
    x.set_change(torch.randn(x.count) * 0.1)
    weight, change = Weight(x), Change(x)
    dense = torch.zeros(x.shape).index_put((change.rows, change.columns), change.values)
    a, b = torch.randn(x.shape[1], 2), torch.randn(x.shape[0], 2)
    full = x.weight().float()
    for one, other in (
        (weight.times(a), full @ a), (weight.turned(b), full.T @ b),
        (change.times(a), dense @ a), (change.turned(b), dense.T @ b),
    ):  # fmt: skip
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert float(weight.squared_norm()) == pytest.approx(float(full.double().square().sum()))
    values, u, v = leading(weight, random_start(x.shape, 8, torch.device("cpu"), 0), 60)
    exact = torch.linalg.svdvals(full)
    torch.testing.assert_close(values[:4], exact[:4], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close((u.T @ full @ v).diagonal(), values, rtol=1e-3, atol=1e-3)


# -------------------------------------------------------------------- names, own guards


def test_names_objects_and_auto() -> None:
    assert [x.name for x in guards_from("auto")] == list(AUTO)
    mixed = guards_from(["auto", Health(action="stop"), "subspaces"])
    assert [x.name for x in mixed] == ["scale-collapse", "over-training", "change", "health",
                                       "subspaces"]  # fmt: skip
    assert mixed[3].action == "stop"
    assert guards_from(["collapse"])[0].name == "scale-collapse"
    assert all(kind().every <= 100 for kind in GUARDS.values())
    with pytest.raises(UnknownName, match="no guard 'healt'"):
        guards_from(["healt"])
    with pytest.raises(UsageError, match="once"):
        guards_from(["health", Health()])
    with pytest.raises(UsageError, match="name or a Guard"):
        guards_from([3])


@pytest.mark.parametrize(("wrong", "word"), [
    ({"every": 0}, "every"), ({"action": "shout"}, "action"), ({"slow": 1.5}, "slow"),
    ({"cost": 0.0}, "cost"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Health(**wrong)
    with pytest.raises(UsageError, match="mode"):
        Subspaces(mode="hold")


def test_a_guard_of_ones_own() -> None:
    class Ends(Watcher):
        name = "ends"
        action = "stop"

        def check(self, run: object) -> list[Reading]:
            step = run.step  # type: ignore[attr-defined]
            return [Reading(layer="", kind="steps", before=0, value=step, limit=6, words="steps:")]

    tuner = guarded([Ends(every=2)])
    loop(tuner)
    assert tuner.stopped and tuner.step == 8 and tuner.alarms[0].kind == "steps"
