"""Scores of units against what they must be on known models."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import frog
from frog.compression.live import block_units, inference, matrix_units, read
from frog.compression.scores import UNIT_SCORES, Evidence, score_named
from frog.errors import UnknownName, UsageError
from frog.numerics.rounding import Rounding, rounding_error
from tests.compression.toy import Tower, batches, bits_of, located, run


def square_loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def evidence_of(model: nn.Module, *, blocks: bool = False, **more: object) -> Evidence:
    units = (block_units if blocks else matrix_units)(located(model))
    return Evidence(model=model, units=units, **more)  # type: ignore[arg-type]


def test_every_score_says_what_it_needs_and_which_way_it_points() -> None:
    told = {name: (x.needs, x.direction) for name, x in UNIT_SCORES.items()}
    assert told == {
        "rounding-error": ("weights", "high"),
        "zd": ("weights", "low"),
        "alpha": ("weights", "low"),
        "over-parameterised": ("weights", "low"),
        "lim": ("forward", "high"),
        "zeroth-order": ("loss", "high"),
    }
    assert all(x.meaning and x.source for x in UNIT_SCORES.values())
    with pytest.raises(UnknownName, match="rounding-error"):
        score_named("rounding-eror")


def test_a_minus_turns_the_direction_round() -> None:
    evidence = evidence_of(Tower(), blocks=True)
    plain, turned = score_named("zd"), score_named("-zd")
    assert plain(evidence) == turned(evidence)
    for name, value in plain(evidence).items():
        assert plain.importance(evidence)[name] == -value
        assert turned.importance(evidence)[name] == value


def test_units_are_matrices_or_blocks() -> None:
    matrices = located(Tower(depth=2))
    assert [x.name for x in matrix_units(matrices)] == [
        f"blocks.{block}.{part}.weight" for block in range(2) for part in ("up", "down")
    ]
    blocks = block_units(matrices)
    assert [(x.name, x.module, len(x.matrices)) for x in blocks] == [
        ("blocks.0", "blocks.0", 2),
        ("blocks.1", "blocks.1", 2),
    ]


def test_rounding_error_is_that_of_the_matrix() -> None:
    model = Tower()
    found = UNIT_SCORES["rounding-error"](evidence_of(model, rounding=Rounding(bits=3)))
    for matrix in located(model):
        weight = read(model, matrix)
        assert found[matrix.name] == pytest.approx(rounding_error(weight, Rounding(bits=3)))
    block = UNIT_SCORES["rounding-error"](evidence_of(model, blocks=True))["blocks.0"]
    parts = [rounding_error(read(model, x), Rounding(bits=4)) for x in located(model)[:2]]
    assert min(parts) <= block <= max(parts)


def test_zd_of_a_gaussian_block_is_the_tail_of_the_normal_distribution() -> None:
    model = Tower(256, depth=1)
    with torch.no_grad():
        draw = torch.Generator().manual_seed(0)
        for x in located(model):
            weight = read(model, x)
            weight.copy_(0.3 + 0.02 * torch.randn(weight.shape, generator=draw))
    found = UNIT_SCORES["zd"](evidence_of(model, blocks=True))["blocks.0"]
    assert found == pytest.approx(0.1587, abs=0.005)
    with torch.no_grad():
        for x in located(model):
            read(model, x).fill_(0.1)
    assert UNIT_SCORES["zd"](evidence_of(model, blocks=True))["blocks.0"] == 0.0


def test_lim_of_an_identity_block_is_minus_one_and_the_least() -> None:
    model = Tower(depth=3, identity=1)
    evidence = evidence_of(model, blocks=True, batches=batches(), outputs=run)
    found = UNIT_SCORES["lim"](evidence)
    assert found["blocks.1"] == pytest.approx(-1.0, abs=1e-12)
    # by hand: the first block on the batches themselves
    data = torch.cat(batches()).double()
    with inference(model):
        after = model.blocks[0](torch.cat(batches())).double()
    cosine = (data * after).sum(1) / data.norm(dim=1) / after.norm(dim=1)
    assert found["blocks.0"] == pytest.approx(-float(cosine.mean()), abs=1e-9)
    assert min(found, key=lambda name: found[name]) == "blocks.1"
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_lim_refuses_what_changes_its_shape() -> None:
    evidence = evidence_of(Tower(), batches=batches(), outputs=run)
    with pytest.raises(UsageError, match="units of blocks"):
        UNIT_SCORES["lim"](evidence)
    with pytest.raises(UsageError, match="batches and outputs"):
        UNIT_SCORES["lim"](evidence_of(Tower(), blocks=True))


def test_zeroth_order_ranks_as_the_gradients_do_and_leaves_every_bit() -> None:
    model = Tower(8, depth=3)
    with torch.no_grad():
        # up by c and down by 1/c computes the same, and sets their gradients c^2 apart
        for block, c in zip(model.blocks, (1.4, 2.2, 3.4), strict=True):
            block.up.weight.mul_(c)
            block.up.bias.mul_(c)
            block.down.weight.div_(c)
    data, before = batches(8), bits_of(model)
    evidence = evidence_of(model, batches=data, loss=square_loss, draws=200)
    found = UNIT_SCORES["zeroth-order"](evidence)
    assert all(torch.equal(x, before[name]) for name, x in bits_of(model).items())
    assert model.training
    model.eval()  # as the score measures
    exact = {}
    for matrix in located(model):
        norms = []
        for batch in data:
            model.zero_grad()
            square_loss(model, batch).backward()
            gradient = model.get_parameter(matrix.live.parameter).grad  # type: ignore[union-attr]
            norms.append(float(gradient.norm()))  # type: ignore[union-attr]
        exact[matrix.name] = math.sqrt(2 / math.pi) * sum(norms) / len(norms)
    assert sorted(found, key=found.__getitem__) == sorted(exact, key=exact.__getitem__)
    for name, value in found.items():
        assert value == pytest.approx(exact[name], rel=0.2)


def test_zeroth_order_is_seeded_and_puts_back_after_an_error() -> None:
    model = Tower(8, depth=1)
    evidence = evidence_of(model, batches=batches(8), loss=square_loss, blocks=True)
    score = UNIT_SCORES["zeroth-order"]
    first = score(evidence)
    assert score(evidence) == first != score(replace(evidence, seed=1))
    single = score(evidence_of(model, batches=batches(8), loss=square_loss))
    assert first["blocks.0"] == pytest.approx(sum(single.values()))
    before, calls = bits_of(model), []

    def fails(model: nn.Module, batch: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no loss today")
        return square_loss(model, batch)

    with pytest.raises(RuntimeError, match="today"):
        score(replace(evidence, loss=fails))
    assert all(torch.equal(x, before[name]) for name, x in bits_of(model).items())
    with pytest.raises(UsageError, match="loss"):
        score(replace(evidence, loss=None))


def test_scores_of_a_report_are_means_over_the_unit() -> None:
    model = Tower(64, depth=2)
    report = frog.analyze(model)
    values = {x.name: x.values for x in report.measured}
    blocks = evidence_of(model, blocks=True, report=report)
    for name, metric in (("alpha", "alpha"), ("over-parameterised", "randomness")):
        single = UNIT_SCORES[name](evidence_of(model, report=report))
        assert single == {x: values[x][metric] for x in values}
        pair = [single[f"blocks.0.{x}.weight"] for x in ("up", "down")]
        assert all(math.isfinite(x) for x in pair)
        assert UNIT_SCORES[name](blocks)["blocks.0"] == pytest.approx(sum(pair) / 2)
    with pytest.raises(UsageError, match=r"frog\.analyze"):
        UNIT_SCORES["alpha"](evidence_of(model))
    with pytest.raises(UsageError, match=r"no blocks\.1"):
        UNIT_SCORES["alpha"](evidence_of(model, report=frog.analyze(Tower(64, depth=1))))
