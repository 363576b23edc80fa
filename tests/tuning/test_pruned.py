"""A pruned model is tuned where it is not pruned, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import frog
from frog.compression.pruning import keep_mask, n_of_m_mask
from frog.errors import UsageError
from frog.numerics.rounding import Rounding, squared_error
from frog.numerics.scored import Dense
from frog.numerics.units import unit_count, unit_entries
from frog.selection.choose import Units, choose, settle
from frog.selection.guard import NEVER, without_pruned
from frog.selection.keep import kept_in_units
from frog.selection.scores import SCORES
from frog.tuning import Tuner
from frog.types import GRANULARITIES, Gradient, Selection
from tests.tuning.models import bits, masks, moved_only_inside

SHARE = 0.1


def pruned_model(seed: int = 0) -> Any:
    """Half of the weights zero: anywhere, 2 of 4, in whole rows and columns; -0.0 among them."""
    torch.manual_seed(seed)
    model: Any = nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 28), nn.Tanh(),
                          nn.Linear(28, 32))  # fmt: skip
    with torch.no_grad():
        for number, mask in masks_of(model).items():
            weight = model.get_submodule(number).weight
            weight.mul_(mask)
    return model


def masks_of(model: Any) -> dict[str, Tensor]:
    first, second, third = (model[i].weight.detach() for i in (0, 2, 4))
    rows = torch.ones(third.shape, dtype=torch.bool)
    rows[:8] = False
    rows[:, 20:] = False
    return {
        "0": keep_mask(first, first.abs(), pruned=first.numel() // 2),
        "2": n_of_m_mask(second, second.abs()),
        "4": rows,
    }


def batch(seed: int = 1) -> Tensor:
    return torch.randn(16, 24, generator=torch.Generator().manual_seed(seed))


def chosen(model: Any, score: str, granularity: str, **more: Any) -> Selection:
    plan = frog.allocate(
        frog.analyze(model, frog.Settings(bootstrap=0, curves=False)),
        more.pop("share", SHARE),
        rule=more.pop("rule", "auto"),
    )
    gradients = {}
    for layer in plan.layers:
        draw = np.random.default_rng(len(layer.name) + layer.params)
        mean = draw.standard_normal(layer.shape).astype(np.float32)
        gradients[layer.name] = Gradient(mean=mean, square=mean**2 + np.float32(0.1))
    choice = frog.Choice(gradients=gradients, block_size=(4, 4), **{"keep": "nonzero", **more})
    return frog.select(model, plan, score=score, granularity=granularity, choice=choice)


def entries_of(selection: Selection) -> dict[str, np.ndarray]:
    """A mask (m, n) of what is chosen, by matrix."""
    made = {}
    for x in selection.chosen:
        mask = np.zeros(x.shape, dtype=bool)
        mask[unit_entries(x.index, x.shape, x.granularity, x.block_size)] = True
        made[x.name] = mask
    return made


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("score", [*SCORES, "near-boundary * relevance^-1"])
def test_no_pruned_weight_is_chosen_or_moved(score: str, granularity: str) -> None:
    """Under noise, decay and guards; bit for bit."""
    model = pruned_model()
    selection = chosen(model, score, granularity)
    for name, mask in entries_of(selection).items():
        weight = model.get_parameter(f"{name.removesuffix('.weight')}.weight")
        assert not (weight.detach().numpy()[mask] == 0).any()
    assert selection.keep == "nonzero"
    unit = {"element": 1, "row": 40, "column": 40, "block": 16}[granularity]
    assert selection.plan.total - unit < selection.count <= selection.plan.total
    before = bits(model)
    noise = frog.Noise.rounding(3) if granularity in ("row", "block") else frog.Noise.guided(
        0.1, schedule="constant"
    )  # fmt: skip
    tuner = Tuner(model, selection, noise=noise, guards="auto")
    assert tuner.noise is not None and len(tuner.noise.layers) == len(selection.chosen)
    optimizer = tuner.optimizer(lr=1e-2, weight_decay=0.1)
    model.train()
    for step in range(3):
        model(batch(step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    inside = masks(tuner)
    tuner.keep()
    assert moved_only_inside(before, model, inside)
    for name, mask in masks_of(pruned_model()).items():
        assert not model.get_submodule(name).weight.detach()[~mask].any()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("rule", ["uniform", "global"])
def test_masks_choose_as_the_zeros_do(granularity: str, rule: str) -> None:
    model = pruned_model()
    given = {f"{name}.weight": mask for name, mask in masks_of(model).items()}
    names = [x.name for x in frog.inspect(model).matrices]
    given = {name: given.get(name, given.get(f"{name}.weight")) for name in names}
    by_mask = chosen(model, "magnitude", granularity, rule=rule, keep=given)
    by_zeros = chosen(model, "magnitude", granularity, rule=rule)
    assert by_mask.digest == by_zeros.digest and by_mask.keep == "mask"
    assert by_zeros.count <= by_zeros.plan.total


def test_of_whole_units_the_pruned_weights_stay_behind_and_a_dense_unit_stays_one() -> None:
    selection = chosen(pruned_model(), "magnitude", "row")
    kinds = {x.name: x.granularity for x in selection.chosen}
    assert set(kinds.values()) == {"element"}  # no row of the three is whole
    dense: Any = nn.Sequential(nn.Linear(24, 40))
    with torch.no_grad():
        dense[0].weight[3, 5] = 0.0
        dense[0].weight[7] *= 9
    few = chosen(dense, "magnitude", "row", share=24 / 960)
    assert few.chosen[0].granularity == "row" and few.chosen[0].index.tolist() == [7]


@pytest.mark.parametrize("granularity", ["row", "column", "block"])
def test_units_are_compared_by_the_mean_of_what_is_left(granularity: str) -> None:
    """Against a slow twin: means over kept weights, as many units as fit."""
    draw = np.random.default_rng(0)
    mask = draw.random((13, 10)) < 0.5
    values = draw.random((13, 10), dtype=np.float32)
    units = Units(granularity=granularity, size=(4, 3) if granularity == "block" else (1, 1))
    sizes = kept_in_units(mask, units)
    scores = without_pruned(Dense(values), mask)
    means, held = [], []
    for unit in range(unit_count(mask.shape, granularity, units.size)):
        at = unit_entries(np.array([unit]), mask.shape, granularity, units.size)
        kept = values[at][mask[at]]
        held.append(len(kept))
        means.append(kept.astype(np.float64).mean() if len(kept) else NEVER)
    assert sizes.tolist() == held
    for budget in (0, 7, 20, 40, 130):
        expected, left = [], budget
        for unit in sorted(range(len(means)), key=lambda u: -means[u]):
            if means[unit] == NEVER or held[unit] > left:
                break
            expected.append(unit)
            left -= held[unit]
        assert choose(scores, budget, units, sizes).tolist() == sorted(expected)
        bound = {"a": int(mask.sum())}
        assert settle({"a": scores}, budget, {"a": 0}, bound, units, {"a": sizes}) == {
            "a": budget - left
        }


# ------------------------------------------------------------------------------ refused


@pytest.mark.parametrize("rule", ["uniform", "global"])
def test_a_budget_beyond_what_is_kept_is_refused_with_the_figures(rule: str) -> None:
    model = pruned_model()
    with pytest.raises(UsageError, match=r"trains [\d,]+ weights of .* left [\d,]+ of [\d,]+"):
        chosen(model, "random", "element", rule=rule, share=0.6)
    assert chosen(model, "random", "element", rule="global", share=0.45).count > 0


def test_all_that_is_kept_may_train() -> None:
    model: Any = nn.Sequential(nn.Linear(16, 8))
    with torch.no_grad():
        model[0].weight[:, ::2] = 0.0
    selection = chosen(model, "random", "element", share=64)
    assert selection.count == 64
    assert np.array_equal(entries_of(selection).popitem()[1], model[0].weight.detach().numpy() != 0)


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("zeros", "must be 'nonzero'"),
        (3, "must be 'nonzero'"),
        ({}, "a mask for every matrix"),
        ({"0.weight": np.ones((8, 16))}, "must be bool"),
        ({"0.weight": np.ones((16, 8), dtype=bool)}, "must be bool"),
        ({"0.weight": np.zeros((8, 16), dtype=bool)}, "not zero"),
    ],
)
def test_bad_masks_are_refused(keep: Any, words: str) -> None:
    model: Any = nn.Sequential(nn.Linear(16, 8))
    with pytest.raises(UsageError, match=words):
        chosen(model, "random", "element", keep=keep)


def test_the_file_of_a_selection_says_what_is_kept(tmp_path: Path) -> None:
    selection = chosen(pruned_model(), "random", "row")
    selection.save(tmp_path / "s.safetensors")
    again = Selection.load(tmp_path / "s.safetensors")
    assert again.keep == "nonzero" and again.digest == selection.digest
    assert any("pruned" in note for note in again.notes)


# -------------------------------------------------------------------------------- noise


def noise_of(tuner: Tuner, layer: str, calls: int, inputs: int) -> Tensor:
    """Noise of a linear layer for the unit vectors: (calls, inputs, outputs), s_ji times normal."""
    module: Any = tuner.model.get_submodule(layer)
    made = []
    x = torch.eye(inputs)[:, None].requires_grad_()
    still = torch.nn.functional.linear(x, module.weight, module.bias)
    module.train()
    for _ in range(calls):
        made.append((module(x) - still)[:, 0].detach())
    return torch.stack(made)


@pytest.mark.parametrize("draw", ["token", "sequence"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_pruned_and_chosen_weights_get_no_noise(granularity: str, draw: str) -> None:
    model = pruned_model()
    with torch.no_grad():  # rather more than half, and rather less
        model[2].weight[:20] = torch.randn(20, 40)
    selection = chosen(model, "random", granularity)
    tuner = Tuner(model, selection, noise=frog.Noise.guided(0.2, schedule="constant", draw=draw))
    for name, inputs in (("0", 24), ("2", 40), ("4", 28)):
        weight = model.get_submodule(name).weight.detach()
        mask = masks(tuner).get(f"{name}.weight", torch.zeros(weight.shape, dtype=torch.bool))
        silent = mask | (weight == 0)
        if tuner.noise is None or name not in tuner.noise.layers:
            continue
        noise = noise_of(tuner, name, 60, inputs).transpose(1, 2)
        assert (noise[:, silent].abs() < 1e-6).all()
        loud = noise[:, ~silent].square().mean(0).sqrt()
        assert (loud > 1e-4).all()


@pytest.mark.parametrize("draw", ["token", "sequence"])
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize(("width", "group"), [(2, 64), (3, 32), (4, 64), (4, None), (8, 64)])
def test_noise_of_bits_has_the_size_of_the_rounding_error(
    width: int, group: int | None, pruned: bool, draw: str
) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(192, 64))
    with torch.no_grad():
        model[0].weight.normal_(std=0.02)
        model[0].weight[::4] *= 5
        if pruned:
            model[0].weight.mul_(torch.rand(64, 192) < 0.5)
    weight = model[0].weight.detach().clone()
    lost, _ = squared_error(weight, Rounding(bits=width, group=group))
    kept = int((weight != 0).sum())
    selection = chosen(model, "random", "element", share=0.01, keep="nonzero" if pruned else None)
    noise = frog.Noise.rounding(width, group=group, draw=draw)
    tuner = Tuner(model, selection, noise=noise)
    made = noise_of(tuner, "0", 40, 192)
    loud = (weight.T != 0) & ~masks(tuner)["0.weight"].T
    measured = float(made[:, loud].square().mean().sqrt())
    assert measured == pytest.approx((lost / kept) ** 0.5, rel=0.03)
    if not pruned and width > 2 and group:  # a smooth density: step / sqrt(12)
        steps = weight.reshape(64, -1, group).abs().amax(2) / (2 ** (width - 1) - 0.5)
        assert measured == pytest.approx(float(steps.square().mean() / 12) ** 0.5, rel=0.05)


def test_noise_of_bits_leaves_out_what_rounding_does_not_change() -> None:
    model: Any = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))
    with torch.no_grad():  # +1 and -1 lie on the two levels of one bit
        model[0].weight.copy_(torch.where(torch.rand(8, 16) < 0.5, 1.0, -1.0))
    tuner = Tuner(
        model, chosen(model, "random", "element", keep=None), noise=frog.Noise.rounding(1)
    )
    assert tuner.noise is not None and tuner.noise.layers == ("1",)
    assert list(tuner.noise.left_out.values()) == ["rounding does not change it"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 0}, "1..8"), ({"bits": 9}, "1..8"), ({"bits": True}, "1..8"),
        ({"bits": 4, "group": 0}, "1 or more"), ({"bits": 4, "nu": 1.5}, "0..1"),
    ],
)  # fmt: skip
def test_bad_noise_of_bits_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        frog.Noise.rounding(**settings)


def test_noise_of_bits_takes_no_guide() -> None:
    with pytest.raises(UsageError, match="guide"):
        frog.Noise(bits=4, guide="even")


def test_a_run_with_noise_of_other_bits_is_not_resumed() -> None:
    model = pruned_model()
    selection = chosen(model, "random", "element")
    tuner = Tuner(model, selection, noise=frog.Noise.rounding(4))
    assert tuner.noise is not None
    state = tuner.noise.state_dict()
    tuner.revert()
    for other in (frog.Noise.rounding(3), frog.Noise.guided(1.0, schedule="constant",
                                                            guide="rounding")):  # fmt: skip
        now = Tuner(model, selection, noise=other)
        with pytest.raises(UsageError, match="bits"):
            now.noise.load_state_dict(state)
        now.revert()
