"""What a run spent adds up over an interruption; what is not known stays unknown."""

import math
from pathlib import Path

import numpy as np
import torch

from frog.recipes.output import RunState, begin, read_run
from frog.recipes.rows import digest_of
from frog.recipes.spent import Meter, Spent
from frog.types.recipes import DataSource, DataSpec, Recipe


def test_a_meter_counts_on_and_keeps_the_higher_peak() -> None:
    earlier = Spent(seconds=100.0, cpu_seconds=50.0, memory=1e15)
    found = Meter(torch.device("cpu"), earlier).read()
    assert 100.0 <= found.seconds < 200.0 and 50.0 <= found.cpu_seconds < 150.0
    assert found.memory == 1e15
    assert math.isnan(Meter(torch.device("cpu"), Spent(cpu_seconds=math.nan)).read().cpu_seconds)


def test_a_peak_is_of_its_own_run() -> None:
    """What was held before the meter began is not in it."""
    large = np.ones(80_000_000, np.uint8)
    del large
    before = Meter(torch.device("cpu")).read().memory
    meter = Meter(torch.device("cpu"))
    large = np.ones(80_000_000, np.uint8)
    del large
    after = meter.read().memory
    assert math.isnan(after) or after - before > 40_000_000


def test_the_state_of_a_run_keeps_what_was_spent(tmp_path: Path) -> None:
    recipe = Recipe(origin="r", model="m", task="t", output=str(tmp_path / "out"),
                    data=DataSpec(train=DataSource(path="x")))  # fmt: skip
    output = begin(recipe)
    for memory, cpu in ((5e6, 2.0), (math.nan, math.nan)):
        RunState(status="interrupted", recipe="r", before={}, seconds=3.0, cpu_seconds=cpu,
                 memory=memory).write(output)  # fmt: skip
        found = read_run(output)
        assert found is not None and found.seconds == 3.0
        assert np.array_equal([found.memory, found.cpu_seconds], [memory, cpu], equal_nan=True)


def test_a_digest_tells_rows_apart_and_nothing_else() -> None:
    rows = [{"ids": [1, 2], "label": 0}, {"ids": [3], "label": 1}]
    assert digest_of(rows) == digest_of([{"label": 0, "ids": [1, 2]}, rows[1]])
    for other in (rows[:1], rows[::-1], [rows[0], {"ids": [3], "label": 0}],
                  [rows[0], {"ids": [3], "gold": 1}], []):  # fmt: skip
        assert digest_of(other) != digest_of(rows)
    assert digest_of([{"ids": torch.tensor([1, 2])}]) == digest_of([{"ids": [1, 2]}])
