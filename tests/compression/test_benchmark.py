"""The benchmark of compression on a toy: it runs, resumes, and its tables say what was measured."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import compression_runs as runs
from benchmarks.bench_compression import best_of, numbers, over_splits, table
from frog.compression.task_metrics import accuracy
from tests.compression.toy import Tower, batches, bits_of, run


def toy() -> runs.Subject:
    return runs.Subject(
        name="toy",
        model=Tower(32).eval(),
        wanted=lambda name: "blocks" in name,
        outputs=run,
        loss=lambda model, batch: model(batch).square().mean(),
        metrics=(accuracy(lambda batch: batch.argmax(-1)),),
        made=lambda seed: batches(32, seed=seed),
        judged=lambda seed: batches(32, count=4, seed=100 + seed),
        plain=lambda batches: batches,
        kinds=("bits", "wanda"),
    )


def test_all_plans_are_judged_and_nothing_is_run_twice(tmp_path: Path) -> None:
    subject = toy()
    before = bits_of(subject.model)
    kept = {split: runs.run(subject, split, folder=tmp_path, kind=kind)
            for split, kind in ((0, ""), (1, "bits"))}  # fmt: skip
    assert all(torch.equal(x, before[name]) for name, x in bits_of(subject.model).items())
    cells = (tmp_path / "toy.cells.jsonl").read_bytes()
    assert kept[1] == json.loads(json.dumps(runs.run(toy(), 1, folder=tmp_path, kind="bits")))
    assert (tmp_path / "toy.cells.jsonl").read_bytes() == cells
    cases = kept[0]["cases"]
    assert list(cases) == ["3 bits", "4 bits", "40% wanda", "50% wanda"]
    for name, case in cases.items():
        plans = case["plans"]
        target = float(name[0]) if "bits" in name else 1 - float(name[:2]) / 100
        for plan in set(plans) - {"unchanged"}:
            # none larger than the uniform plan but the random ones, by as little as levels allow
            slack = 0.5 if plan.startswith("random") else 0.01
            assert plans[plan]["size"] <= target + slack, (name, plan)
        assert plans["uniform"]["against"]["error"] == [0.0, 0.0, 0.0, "no different"]
        assert plans["unchanged"]["error"] == 0.0
        assert {"measured alone", "alpha", "-alpha", "zd", "lim", "random 1"} <= set(plans)
    rows = list(table(kept, "4 bits"))
    assert len(rows) == 3 + len(cases["4 bits"]["plans"])
    assert any(x.startswith("| 4 bits | measured around uniform |") for x in best_of(kept))
    assert "cases" in json.loads(numbers({"toy": kept}, (0.0, 0.0)))["subjects"]["toy"]["0"]


def test_intervals_over_splits() -> None:
    assert over_splits([0.1, 0.1]) == "+10.0% [+10.0%, +10.0%]"
    assert over_splits([0.0, 0.1, 0.2]) == "+10.0% [-14.8%, +34.8%]"
    assert over_splits([0.1, math.inf]) == "–"


def test_an_encoder_resumed_from_a_block_gives_the_same() -> None:
    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Module()
            self.encoder.layer = Tower(8).eval().blocks
            self.ran = 0

        def forward(self, ids: Tensor) -> Tensor:
            states = torch.nn.functional.one_hot(ids, 8).float()
            for block in self.encoder.layer:
                states = block(states)
            self.ran += 1
            return states

    model = Encoder()
    resumed = runs.Resumed(model, lambda model, batch: model(batch["input_ids"]))
    batch = {"input_ids": torch.arange(6).view(2, 3), "scores": torch.zeros(1)}
    with torch.no_grad():
        first = resumed(model, batch)
        assert torch.equal(first, resumed(model, batch)) and model.ran == 1
        for block, runs_so_far in ((2, 1), (1, 1), (0, 2)):
            weight = model.encoder.layer[block].up.weight
            weight.mul_(1.5)
            assert torch.equal(resumed(model, batch), model(batch["input_ids"]))
            assert model.ran == runs_so_far + 3 - block
