"""Sweeps: what they measure, that nothing is repeated, that every bit comes back."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from frog.compression.curves import (
    Bits,
    Company,
    Sparsity,
    digest_of,
    model_digest,
    read_log,
    sweep,
)
from frog.compression.damage import damage_curves, mean_curves, plan_of
from frog.compression.inputs import input_norms
from frog.compression.live import (
    block_units,
    change,
    inference,
    matrix_units,
    read,
    restored,
    write,
)
from frog.errors import UsageError
from frog.numerics.rounding import Rounding, rounded_values
from frog.numerics.views import grouped, third, transposed
from frog.types import LiveParameter
from frog.types.levels import Allocation
from tests.compression.toy import Tower, batches, bits_of, located, run

LEVELS = (
    Bits(Rounding(bits=2)),
    Bits(Rounding(bits=4, group=8, symmetric=False)),
    Sparsity(share=0.5),
    Sparsity(share=0.5, within="row"),
)


class Counted:
    """Outputs that count their calls, and fail at one if asked to."""

    def __init__(self, fail_at: int = -1) -> None:
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, model: nn.Module, batch: Tensor) -> Tensor:
        if self.calls == self.fail_at:
            raise RuntimeError("the light went out")
        self.calls += 1
        return model(batch)


def test_a_cell_is_the_distortion_of_one_unit_alone(tmp_path: Path) -> None:
    model, data = Tower(), batches()
    units, before = matrix_units(located(model)), bits_of(model)
    cells = sweep(model, units, levels=LEVELS, batches=data, outputs=run, log=tmp_path / "a.jsonl")
    assert [(x.unit, x.level) for x in cells] == [(u.name, k.key) for u in units for k in LEVELS]
    assert model.training and model.dropout.training
    assert all(torch.equal(x, before[name]) for name, x in bits_of(model).items())
    # by hand, on another copy of the model: the third matrix at two bits
    other = Tower()
    with inference(other):
        then = torch.cat([other(x) for x in data]).double()
        weight = other.blocks[1].up.weight
        weight.copy_(rounded_values(weight.data, Rounding(bits=2)))
        now = torch.cat([other(x) for x in data]).double()
    cell = next(x for x in cells if (x.unit, x.level) == (units[2].name, LEVELS[0].key))
    assert units[2].name == "blocks.1.up.weight"
    assert cell.error == pytest.approx(float((now - then).norm() / then.norm()), rel=1e-9)
    angle = 1 - torch.cosine_similarity(now, then, dim=1).mean()
    assert cell.angle == pytest.approx(float(angle), rel=1e-6)
    assert all(x.error > 0 and x.angle > 0 for x in cells)


def test_a_cell_around_a_plan_is_that_unit_in_its_company(tmp_path: Path) -> None:
    model, data, log = Tower(), batches(), tmp_path / "log"
    units, before, calls = matrix_units(located(model)), bits_of(model), Counted()
    plan = {x.name: LEVELS[1] for x in units[:4]}
    given = {"levels": LEVELS[:2], "batches": data, "log": log, "around": Company(levels=plan)}
    cells = sweep(model, units, outputs=calls, **given)
    assert all(torch.equal(x, before[name]) for name, x in bits_of(model).items())
    # 2 batches: as it is, 6 units at the first level, 2 at the second, one time all in their place
    assert calls.calls == 2 * (1 + 6 + 2 + 1)
    assert len({x.around for x in cells}) == 1 and cells[0].around
    joint = {x.error for x in cells if x.level == LEVELS[1].key and x.unit in plan}
    assert len(joint) == 1
    other = Tower()
    with inference(other):
        then = torch.cat([other(x) for x in data]).double()
        for unit in units[:4]:
            level = LEVELS[0] if unit is units[2] else LEVELS[1]
            change(other, unit.matrices[0], lambda w, x=level: x.apply("", w))
        now = torch.cat([other(x) for x in data]).double()
    cell = next(x for x in cells if (x.unit, x.level) == (units[2].name, LEVELS[0].key))
    assert cell.error == pytest.approx(float((now - then).norm() / then.norm()), rel=1e-9)
    # cells alone are others, and both are known again
    alone = sweep(model, units, outputs=run, **{**given, "around": None})
    assert {x.around for x in alone} == {""} and len(read_log(log)) == 2 * len(cells)
    assert sweep(model, units, outputs=Counted(fail_at=0), **given) == cells
    with pytest.raises(UsageError, match=r"got 9\.weight"):
        sweep(
            model,
            units,
            outputs=run,
            **{**given, "around": Company(levels={"9.weight": LEVELS[0]})},
        )


def test_curves_hold_squares_and_a_choice_becomes_a_plan(tmp_path: Path) -> None:
    model = Tower()
    units, levels = block_units(located(model)), LEVELS[::2]
    cells = sweep(model, units, levels=levels[:1], batches=batches(), outputs=run,
                  log=tmp_path / "log")  # fmt: skip
    curves = damage_curves(units, levels[:1], cells, ties={units[1].name: "a"})
    assert [x.costs for x in curves] == [(x.error**2,) for x in cells]
    assert [x.sizes for x in curves] == [(2 * 2 * 16 * 32,)] * 3
    assert [x.unit.tie for x in curves] == [None, "a", None]
    twice = tuple(replace(x, costs=(3 * x.costs[0],)) for x in curves)
    mean = mean_curves(curves, twice)
    assert [x.costs[0] for x in mean] == pytest.approx([2 * x.costs[0] for x in curves])
    assert [x.unit for x in mean] == [x.unit for x in curves]
    with pytest.raises(UsageError, match=r"same levels of blocks\.0"):
        mean_curves(curves, [replace(x, levels=(3.0,)) for x in curves])
    endless = [replace(x, error=math.inf) for x in cells[:1]]
    with pytest.raises(UsageError, match=r"blocks\.0 has no finite cell"):
        damage_curves(units, levels, endless)
    chosen = Allocation(levels=(2.0, 2.0, 0.5), sizes=(1, 1, 1))
    plan = plan_of(units, levels, chosen)
    assert list(plan) == [x.name for unit in units for x in unit.matrices]
    assert plan["blocks.1.down.weight"] is levels[0] and plan["blocks.2.up.weight"] is levels[1]


def test_outputs_may_come_in_one_buffer(tmp_path: Path) -> None:
    model, data, buffer = Tower(), batches(), torch.empty(5, 16)
    units = matrix_units(located(model))[:1]
    cells = [
        sweep(model, units, levels=LEVELS, batches=data, outputs=outputs, log=tmp_path / name)
        for name, outputs in (
            ("fresh", run),
            ("same", lambda model, batch: buffer.copy_(model(batch))),
        )
    ]
    assert cells[0] == cells[1]


def test_what_changes_nothing_has_no_distortion(tmp_path: Path) -> None:
    model = Tower(identity=1)
    units = [x for x in block_units(located(model)) if x.module == "blocks.1"]
    levels = (*LEVELS, Sparsity(share=0.0))
    cells = sweep(model, units, levels=levels, batches=batches(), outputs=run, log=tmp_path / "a")
    assert {(x.error, x.angle) for x in cells} == {(0.0, 0.0)}


def test_a_finished_sweep_runs_nothing_and_a_wider_one_only_what_is_new(tmp_path: Path) -> None:
    model, data, log = Tower(), batches(count=3), tmp_path / "new" / "log.jsonl"
    units = matrix_units(located(model))
    first = sweep(model, units[:2], levels=LEVELS, batches=data, outputs=run, log=log)
    again = Counted()
    assert first == sweep(model, units[:2], levels=LEVELS, batches=data, outputs=again, log=log)
    assert again.calls == 0
    wider = sweep(model, units[:3], levels=LEVELS, batches=data, outputs=again, log=log)
    assert wider[: len(first)] == first and again.calls == 3 * (1 + len(LEVELS))
    # other weights or other data are other cells
    count = len(read_log(log))
    sweep(model, units[:1], levels=LEVELS[:1], batches=batches(seed=9), outputs=run, log=log)
    with torch.no_grad():
        read(model, units[5].matrices[0])[0, 0] += 1
    sweep(model, units[:1], levels=LEVELS[:1], batches=data, outputs=run, log=log)
    assert len(read_log(log)) == count + 2


def test_an_error_puts_the_weights_back_and_keeps_what_is_done(tmp_path: Path) -> None:
    model, data, log = Tower(), batches(count=1), tmp_path / "log"
    units, before = block_units(located(model)), bits_of(model)
    with pytest.raises(RuntimeError, match="light"):
        sweep(model, units, levels=LEVELS, batches=data, outputs=Counted(fail_at=7), log=log)
    assert all(torch.equal(x, before[name]) for name, x in bits_of(model).items())
    assert model.training
    assert len(read_log(log)) == 6
    rest = Counted()
    sweep(model, units, levels=LEVELS, batches=data, outputs=rest, log=log)
    assert rest.calls == 1 + 3 * len(LEVELS) - 6


CHILD = """
import sys
from pathlib import Path
from tests.compression.test_curves import LEVELS
from frog.types.levels import Allocation
from tests.compression.toy import Tower, batches, located
from frog.compression.curves import sweep
from frog.compression.live import matrix_units
import time

folder, pause = Path(sys.argv[1]), float(sys.argv[2])
model = Tower()

def outputs(model, batch):
    with (folder / "calls").open("a") as file:
        file.write("x")
    time.sleep(pause)
    return model(batch)

sweep(model, matrix_units(located(model)), levels=LEVELS, batches=batches(count=1),
      outputs=outputs, log=folder / "log")
"""


def test_a_killed_sweep_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    log, calls = tmp_path / "log", tmp_path / "calls"
    root = Path(__file__).parents[2]
    places = os.pathsep.join([str(root / "src"), str(root)])
    settings = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), "0.1"], env=settings, cwd=root
    )
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") >= 5):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done, made = log.read_bytes(), len(calls.read_text())
    cells = 6 * len(LEVELS)
    assert 5 <= len(read_log(log)) < cells
    assert made - 1 - len(read_log(log)) in (0, 1)  # one for the model itself, one at work
    # as if it had died in the middle of a line
    log.write_bytes(done + b'{"unit": "blocks.2.up.wei')
    before = len(read_log(log))
    model, rest = Tower(), Counted()
    found = sweep(model, matrix_units(located(model)), levels=LEVELS, batches=batches(count=1),
                  outputs=rest, log=log)  # fmt: skip
    assert rest.calls == 1 + cells - before
    assert log.read_bytes().startswith(done)
    lines = [json.loads(x) for x in log.read_text().splitlines()]
    assert len(lines) == len({(x["unit"], x["level"]) for x in lines}) == cells
    fresh = sweep(Tower(), matrix_units(located(model)), levels=LEVELS, batches=batches(count=1),
                  outputs=run, log=tmp_path / "fresh")  # fmt: skip
    assert found == fresh


def test_weights_come_back_bit_for_bit_in_every_type_and_layout(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 8)).to(dtype)
        data = [x.to(dtype) for x in batches()]
        with torch.no_grad():
            model[1].weight[0, 0] = -0.0
        before = bits_of(model)
        units = matrix_units(located(model))
        sweep(model, units, levels=LEVELS, batches=data, outputs=run, log=tmp_path / "log")
        for name, x in bits_of(model).items():
            assert torch.equal(x.view(torch.uint8), before[name].view(torch.uint8)), name


def test_parts_of_a_parameter_in_another_layout_are_read_and_written_in_place() -> None:
    model = nn.Sequential(nn.Linear(16, 24))  # as if (in, out) = (24, 16), three parts of 8 inputs
    (matrix,) = located(model)
    view = transposed(third((24, 16), 1))
    matrix = replace(matrix, live=LiveParameter(parameter="0.weight", view=view), shape=(16, 8))
    before = model[0].weight.detach().clone()
    values = torch.arange(128.0).view(16, 8)
    with restored(model, [matrix]):
        write(model, matrix, values)
        assert torch.equal(read(model, matrix), values)
        assert torch.equal(model[0].weight.data[8:16], values.T)
        assert torch.equal(model[0].weight.data[:8], before[:8])
        assert torch.equal(model[0].weight.data[16:], before[16:])
    assert torch.equal(model[0].weight.data, before)


def test_rows_of_heads_that_lie_apart_are_changed_in_place() -> None:
    model = nn.Sequential(nn.Linear(4, 12))  # two heads of q, k and v, two rows each
    (matrix,) = located(model)
    live = LiveParameter(parameter="0.weight", view=grouped((12, 4), 2, 2, 4))
    matrix = replace(matrix, live=live, shape=(4, 4))
    before = model[0].weight.detach().clone()

    def double(weight_mn: Tensor) -> None:
        weight_mn.mul_(2)

    change(model, matrix, double)
    factor = torch.tensor([1, 1, 2, 2, 1, 1] * 2)[:, None]
    assert torch.equal(model[0].weight.data, before * factor)


def test_a_fused_stored_as_in_out_matrix_is_rounded_along_its_inputs(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    sizes = GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=50, n_positions=16,
                       bos_token_id=0, eos_token_id=0)  # fmt: skip
    model = GPT2Model(sizes).eval()
    data = [torch.arange(8)[None]]
    unit = next(x for x in matrix_units(located(model)) if x.name.endswith("c_attn.weight[k]"))
    how, before, seen = Rounding(bits=2, group=8), bits_of(model), []

    def outputs(model: nn.Module, batch: Tensor) -> Tensor:
        seen.append(model.get_parameter("h.0.attn.c_attn.weight").detach().clone())
        return model(batch).last_hidden_state

    cells = sweep(model, [unit], levels=[Bits(how)], batches=data, outputs=outputs,
                  log=tmp_path / "log")  # fmt: skip
    then, now = seen
    assert torch.equal(now[:, 32:64], rounded_values(then[:, 32:64].T.contiguous(), how).T)
    assert torch.equal(now[:, :32], then[:, :32]) and torch.equal(now[:, 64:], then[:, 64:])
    assert cells[0].error > 0
    assert all(torch.equal(x, before[name]) for name, x in bits_of(model).items())


def test_blocks_of_an_encoder_and_a_decoder_are_apart() -> None:
    pair = nn.ModuleDict({"encoder": Tower(depth=2), "decoder": Tower(depth=2)})
    units = block_units(located(pair))
    assert [x.module for x in units] == [
        f"{half}.blocks.{number}" for half in ("encoder", "decoder") for number in range(2)
    ]
    assert all(len(x.matrices) == 2 and x.name == x.module for x in units)
    with pytest.raises(UsageError, match="take matrix_units"):
        block_units(located(nn.Sequential(nn.Linear(4, 4))))


def test_wanda_needs_its_norms_and_its_level_is_named_after_them(tmp_path: Path) -> None:
    model, data = Tower(), batches()
    units = matrix_units(located(model))
    matrices = [x.matrices[0] for x in units]
    norms = input_norms(model, matrices, batches=data, outputs=run)
    level = Sparsity(share=0.5, importance="wanda", within="row", norms=norms)
    other = Sparsity(share=0.5, importance="wanda", within="row",
                     norms={name: x + 1 for name, x in norms.items()})  # fmt: skip
    assert level.key != other.key
    cells = sweep(model, units, levels=[level, LEVELS[3]], batches=data, outputs=run,
                  log=tmp_path / "log")  # fmt: skip
    wanda, plain = (sum(x.error for x in cells if x.level == k.key) for k in (level, LEVELS[3]))
    assert wanda < plain
    with pytest.raises(UsageError, match="needs the norms"):
        sweep(model, units, levels=[Sparsity(share=0.5, importance="wanda")], batches=data,
              outputs=run, log=tmp_path / "log")  # fmt: skip


def test_outputs_that_are_not_finite_are_endless_distortion(tmp_path: Path) -> None:
    model, log = Tower(), tmp_path / "log"
    before = model.blocks[0].up.weight.detach().clone()

    def breaks(model: nn.Module, batch: Tensor) -> Tensor:
        same = torch.equal(model.get_parameter("blocks.0.up.weight"), before)
        return model(batch) / float(same)

    units = matrix_units(located(model))[:2]
    cells = sweep(model, units, levels=LEVELS[:1], batches=batches(), outputs=breaks, log=log)
    assert (cells[0].error, cells[0].angle) == (math.inf, math.inf)
    assert math.isfinite(cells[1].error)
    assert read_log(log) == cells


def test_mistakes_are_told(tmp_path: Path) -> None:
    model, log = Tower(), tmp_path / "log"
    units = matrix_units(located(model))
    with pytest.raises(UsageError, match="one batch or more"):
        sweep(model, units, levels=LEVELS, batches=[], outputs=run, log=log)
    with pytest.raises(UsageError, match="different names"):
        sweep(model, (*units, units[0]), levels=LEVELS, batches=batches(), outputs=run, log=log)
    with pytest.raises(UsageError, match="tensor with rows"):
        sweep(model, units, levels=LEVELS, batches=batches(), outputs=lambda m, b: m(b).sum(),
              log=log)  # fmt: skip
    with pytest.raises(UsageError, match="numbers, text"):
        digest_of([object()])
    log.write_text("{}\n")
    with pytest.raises(UsageError, match=":1 must be a cell"):
        read_log(log)


def test_digests_tell_models_and_data_apart() -> None:
    model = Tower()
    first = model_digest(model)
    assert first == model_digest(Tower()) != model_digest(Tower(seed=1))
    model.register_buffer("counter", torch.tensor(3))
    assert model_digest(model) != first
    x = torch.arange(6)
    different = [x, x.int(), x.view(2, 3), x.tolist(), [x], {"x": x}, x.numpy()[::-1], None, "x"]
    assert len({digest_of(value) for value in different}) == len(different)
    assert digest_of(x.view(2, 3).T) == digest_of(x.view(2, 3).T.contiguous())
