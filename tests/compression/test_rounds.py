"""Rounds around the plan so far: what units cost in company, planted and against brute force."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import frog
from benchmarks.measuring import allocator_peak
from frog.allocation.levels import dynamic
from frog.api.sweeping import near, rounds_of
from frog.compression.curves import Bits, Company, Sparsity, read_log, sweep
from frog.compression.live import matrix_units, put_aside, read
from frog.compression.planned import level_of
from frog.compression.rounds import in_rounds
from frog.errors import UsageError
from frog.numerics.rounding import Rounding
from frog.types.level_plans import Pruning, Quantisation
from frog.types.levels import Curve, Unit
from tests.compression.toy import Tower, batches, bits_of, located, run

SHARES = Pruning(shares=(0.0, 0.5))


class Twins(nn.Module):
    """Two equal matrices whose errors add up in one output, and two of their own outputs."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        first = torch.randn(width, width)
        for name, scale in (("one", 1.0), ("two", 1.0), ("third", 1.2), ("fourth", 2.0)):
            layer = nn.Linear(width, width, bias=False)
            layer.weight.data = scale * (first if scale == 1 else torch.randn(width, width))
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x) + self.two(x), self.third(x), self.fourth(x)], -1)


def calibration(**more: Any) -> frog.Calibration:
    return frog.Calibration(batches=batches(count=4), outputs=run, **more)


def true_error(plan: dict[str, float]) -> float:
    """The relative error with these shares pruned, by hand."""
    model, whole = Twins(), Twins()
    for name, share in plan.items():
        weight = model.get_parameter(name).data
        Sparsity(share=share).apply(name, weight)
    with torch.no_grad():
        before, after = (torch.cat([x(b) for b in batches(count=4)]) for x in (whole, model))
    return float((after - before).norm() / before.norm())


def test_rounds_find_what_units_cost_together() -> None:
    """Alone the twins look cheapest; a quarter of all weights is half of two matrices."""
    names = [f"{x}.weight" for x in ("one", "two", "third", "fourth")]
    model = Twins()
    before = bits_of(model)
    plans = {
        rounds: frog.plan_prune(model, 0.25, calibration=calibration(rounds=rounds), how=SHARES)
        for rounds in (0, 1, 3)
    }
    assert all(torch.equal(x, before[name]) for name, x in bits_of(model).items())
    errors = {
        rounds: true_error({x.name: x.level for x in plan.units}) for rounds, plan in plans.items()
    }
    assert [x.level for x in plans[0].units] == [0.5, 0.5, 0.0, 0.0]
    every = [
        true_error(dict(zip(names, shares, strict=True)))
        for shares in product((0.0, 0.5), repeat=4) if sum(shares) == 1.0
    ]  # fmt: skip
    assert errors[3] == errors[1] == min(every) < errors[0]
    assert [x.rounds for x in plans.values()] == [0, 1, 3]
    # what a unit loses alone stands in the plan, whatever the rounds said
    for unit in plans[3].units:
        found = next(x for x in plans[0].units if x.name == unit.name)
        assert unit.damage is not None
        assert found.level != unit.level or unit.damage == found.damage


def test_the_mean_is_over_the_levels_that_all_rounds_have() -> None:
    def curve(costs: dict[float, float], name: str = "w") -> Curve:
        levels = tuple(sorted(costs))
        return Curve(unit=Unit(name=name, params=8), levels=levels,
                     costs=tuple(costs[x] for x in levels),
                     sizes=tuple(int(8 * x) for x in levels))  # fmt: skip

    told: list[int] = []

    def around(plan: int) -> list[Curve]:
        told.append(plan)
        return [curve({3: 9.0, 4: 3.0}), curve({8: 1.0}, "v")]

    alone = [curve({2: 9.0, 3: 5.0, 4: 1.0}), curve({2: 4.0}, "v")]
    made = in_rounds(alone, rounds=2, choose=lambda curves: len(curves[0].levels), around=around)
    assert told == [3, 2], "the second plan is made from the mean"
    assert made[0].levels == (3, 4)
    assert made[0].costs == pytest.approx(((5 + 9 + 9) / 3, (1 + 3 + 3) / 3))
    assert made[1] == alone[1], "nothing in common: as it was alone"
    assert in_rounds(alone, rounds=0, choose=len, around=around) == tuple(alone)


def test_a_round_against_sweeps_by_hand(tmp_path: Path) -> None:
    """Bits, three rounds, put together from sweeps and the allocator."""
    model, how, budget = Tower(), Quantisation(widths=(2, 3, 4, 6), group=None), 3.4
    units = matrix_units(located(model))
    levels = [level_of(how, x) for x in how.levels]
    given = {"batches": batches(count=4), "outputs": run, "log": tmp_path / "log"}
    total = sum(x.params for unit in units for x in unit.matrices)

    def curves(around: dict[str, float] | None) -> list[Curve]:
        plan = Company(levels={k: level_of(how, x) for k, x in (around or {}).items()})
        cells = {(x.unit, x.level): x.error**2
                 for x in sweep(model, units, levels=levels, around=plan, **given)}  # fmt: skip
        return [
            Curve(unit=Unit(name=u.name, params=u.matrices[0].params),
                  levels=tuple(map(float, how.levels)),
                  costs=tuple(cells[u.name, x.key] for x in levels),
                  sizes=tuple(x.size(u.matrices[0].params) for x in levels))
            for u in units
        ]  # fmt: skip

    seen = [curves(None)]
    for _ in range(3):
        mean = [
            Curve(unit=same[0].unit, levels=same[0].levels, sizes=same[0].sizes,
                  costs=tuple(sum(x) / len(x) for x in zip(*(c.costs for c in same), strict=True)))
            for same in zip(*seen, strict=True)
        ]  # fmt: skip
        chosen = dynamic(mean, budget=int(budget * total)).levels
        plan = dict(zip((x.name for x in units), chosen, strict=True))
        seen.append(curves(plan))
    plan = frog.plan_bits(model, budget, calibration=calibration(rounds=2), how=how)
    assert {x.name: float(x.level) for x in plan.units} == {k: float(x) for k, x in chosen_of(
        seen[:3], units, int(budget * total)).items()}  # fmt: skip


def chosen_of(seen: list[list[Curve]], units: Any, budget: int) -> dict[str, float]:
    """The choice by the mean of these rounds."""
    mean = [
        Curve(unit=same[0].unit, levels=same[0].levels, sizes=same[0].sizes,
              costs=tuple(sum(x) / len(x) for x in zip(*(c.costs for c in same), strict=True)))
        for same in zip(*seen, strict=True)
    ]  # fmt: skip
    return dict(zip((x.name for x in units), dynamic(mean, budget=budget).levels, strict=True))


@pytest.mark.parametrize("tie", ["tensor", "block"])
def test_pins_and_ties_hold_in_rounds(tie: str) -> None:
    model = Tower()
    given = {"targets": frog.Targets(tie=tie, pins={"blocks.1": 0.2})}
    plan = frog.plan_prune(model, 0.4, calibration=calibration(), **given)
    assert plan.rounds == 3 and plan.size == round(0.6 * plan.params)
    assert all(
        x.pinned and x.level == pytest.approx(0.2, abs=0.01)
        for x in plan.units if "blocks.1" in x.name
    )  # fmt: skip
    # a pin that leaves more to the others than levels about the budget can take
    far = {"targets": frog.Targets(pins={r"blocks\.[01]": 0.0})}
    assert frog.plan_prune(model, 0.29, calibration=calibration(), **far).units[-1].level > 0.6


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    """Stopped in the second round: the first plan and the same cells, each once."""
    whole = tmp_path / "whole.jsonl"
    plan = frog.plan_prune(Tower(), 0.4, calibration=calibration(log=whole))
    calls = 0

    def stop(done: int, total: int, unit: str, level: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 70:
            raise KeyboardInterrupt

    log = tmp_path / "log.jsonl"
    model = Tower()
    before = bits_of(model)
    with pytest.raises(KeyboardInterrupt):
        frog.plan_prune(model, 0.4, calibration=calibration(log=log, on_cell=stop))
    assert all(torch.equal(x, before[name]) for name, x in bits_of(model).items())
    assert len(read_log(log)) == 70 and len({x.around for x in read_log(log)}) == 2
    again = frog.plan_prune(model, 0.4, calibration=calibration(log=log))
    assert again == plan
    assert log.read_bytes() == whole.read_bytes(), "the same cells in the same order, none twice"
    assert list(tmp_path.iterdir()) == [whole, log] or set(tmp_path.iterdir()) == {whole, log}


def test_how_many_rounds_and_which_levels() -> None:
    pattern = Pruning(pattern=(2, 4))
    assert [rounds_of(x, calibration()) for x in (Pruning(), pattern, Quantisation())] == [3, 0, 0]
    assert rounds_of(Quantisation(), calibration(rounds=2)) == 2
    assert near(Quantisation(), 4) == (2, 3, 4, 5, 6)
    assert near(Pruning(), 0.4) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert near(Pruning(shares=(0.0, 0.8)), 0.4) == (0.0, 0.8), "none about it: all"
    assert near(Quantisation(widths=(5, 6, 8)), 5) == (5, 6, 8), "two about it: all"
    for wrong in (-1, 1.5, True, "2"):
        with pytest.raises(UsageError, match="rounds must be a whole number from 0"):
            calibration(rounds=wrong)


def test_rounds_are_for_rules_by_curves() -> None:
    with pytest.raises(UsageError, match=r"rounds are for rules by curves .* got 'uniform'"):
        frog.plan_prune(Twins(), 0.25, rule="uniform", calibration=calibration(rounds=1))
    frog.plan_prune(Twins(), 0.25, rule="uniform", calibration=calibration(rounds=0))


def test_outputs_that_overflow_in_company_say_what_to_do() -> None:
    def breaks(model: nn.Module, batch: Tensor) -> Tensor:
        changed = sum(bool((x.weight == 0).any()) for x in model.children())
        return model(batch) / float(changed < 2)

    rows = frog.Calibration(batches=batches(count=4), outputs=breaks)
    how = Pruning(shares=(0.25, 0.5))
    with pytest.raises(UsageError, match="fewer rounds"):
        frog.plan_prune(Twins(), 0.25, calibration=rows, how=how)
    frog.plan_prune(Twins(), 0.25, calibration=replace(rows, rounds=0), how=how)


# ------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_put_aside_on_disk_and_back_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = Tower().to(dtype)
    with torch.no_grad():
        model.blocks[0].up.weight[0, :2] = torch.tensor([-0.0, float("nan")])
    matrices, before = located(model), {k: v.view(torch.uint8) for k, v in bits_of(model).items()}
    with pytest.raises(KeyboardInterrupt), put_aside(model, matrices, tmp_path / "new") as own:
        for matrix in matrices:
            now = read(model, matrix)
            assert torch.equal(own(matrix.name).view(torch.uint8), now.view(torch.uint8))
            now.zero_()
        raise KeyboardInterrupt
    after = {k: v.view(torch.uint8) for k, v in bits_of(model).items()}
    assert all(torch.equal(x, before[name]) for name, x in after.items())
    assert not any((tmp_path / "new").iterdir())


def test_where_it_cannot_be_put_aside_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def tell(self) -> int:
            return 0

        def flush(self) -> None: ...

        def write(self, _: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    model = Tower()
    before = bits_of(model)
    with pytest.raises(UsageError, match=r"No space left on device\): make room"):
        frog.plan_prune(model, 0.4, calibration=calibration(log=tmp_path / "log"))
    assert all(torch.equal(x, before[name]) for name, x in bits_of(model).items())


def test_a_sweep_around_a_plan_takes_no_second_model(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(256, 256) for _ in range(16))).eval()
    units = matrix_units(located(model))
    plan = {x.name: Bits(Rounding(bits=4)) for x in units}
    with allocator_peak() as peak:
        sweep(model, units, levels=[Bits(Rounding(bits=3))], batches=[torch.randn(8, 256)],
              outputs=run, log=tmp_path / "log", around=Company(levels=plan))  # fmt: skip
    one = 256 * 256 * 4 / 2**20
    assert peak() < 8 * one, "of 16 matrices"
