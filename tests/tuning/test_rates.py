"""The automatic learning rate: its share is the twin's, its arithmetic is the formula's."""

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import frog
from frog.errors import UsageError
from frog.tuning.rates import CAP, measure
from frog.tuning.rates.defaults import FULL, family_of, full_rate, kind_of
from frog.types import Allotment
from tests.tuning.models import batches, choose, llama, masks
from tests.tuning.runs import advance
from tests.tuning.test_modules import MODELS, Images, gpt2, mixtral

transformers = pytest.importorskip("transformers")
GRANULARITIES = ("element", "row", "column", "block")


def twin(model: Any, mask: dict[str, torch.Tensor], data: list) -> dict[str, np.ndarray]:
    """L1 and squared L2 of the gradient: whole, inside the mask, expected for a random one."""
    model.eval()
    sums = {key: np.zeros(2) for key in ("whole", "inside", "chance")}
    for batch in data:
        model.zero_grad()
        model(**batch).loss.backward()
        for name, parameter in model.named_parameters():
            if name in mask:
                g = parameter.grad.double()
                norms = np.array([float(g.abs().sum()), float((g**2).sum())])
                held = g[mask[name]]
                sums["whole"] += norms
                sums["inside"] += [float(held.abs().sum()), float((held**2).sum())]
    model.zero_grad()
    return sums


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_share_is_that_of_dense_gradients(name: str, granularity: str) -> None:
    model, plain = MODELS[name](), MODELS[name]()
    tuner = frog.Tuner(model, choose(model, 0.2, granularity))
    expected = twin(plain, masks(tuner), batches(2))
    found = measure(tuner, batches(2), None)
    np.testing.assert_allclose(found.whole, expected["whole"], rtol=1e-4)
    np.testing.assert_allclose(found.inside, expected["inside"], rtol=1e-4)
    assert found.batches == 2
    assert tuner.rate(batches(2)).share == pytest.approx(found.inside[0] / found.whole[0], 1e-6)


def test_chance_is_the_mean_of_random_masks_of_these_counts() -> None:
    shares, chance = [], []
    for seed in range(20):
        model = gpt2()
        chosen = choose(model, 0.02, include=r"h\.0", seed=seed)
        tuner = frog.Tuner(model, chosen)
        found = measure(tuner, batches(1), None)
        shares.append(found.inside[0] / found.whole[0])
        chance.append(found.chance[0] / found.whole[0])
    assert np.ptp(chance) < 1e-6
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - chance[0]) < 4 * error


def test_matrices_of_the_plan_without_a_choice_count_as_targets() -> None:
    def untouched(half: bool) -> Any:
        model = llama()
        chosen = choose(model, 0.1, include="q_proj")
        others = [
            Allotment(
                name=x.name, role=x.role, block=x.block, shape=x.shape, params=x.params, count=0
            )
            for x in frog.inspect(model).matrices if "k_proj" in x.name
        ]  # fmt: skip
        layers = (*chosen.plan.layers, *(others if half else ()))
        plan = replace(chosen.plan, layers=layers)
        return frog.Tuner(model, replace(chosen, plan=plan)).rate(batches(1))

    whole, half = untouched(False), untouched(True)
    assert whole.budget == pytest.approx(0.1, rel=0.02)
    assert half.budget == pytest.approx(whole.budget * 2 / 3)  # k has half as many heads
    assert half.share < whole.share and half.chance < whole.chance


def test_the_rate_is_full_over_share_and_capped() -> None:
    model = llama()
    tuner = frog.Tuner(model, choose(model, 0.5))
    given = tuner.rate(full=1e-5)
    assert given.lr == pytest.approx(1e-5 / given.budget) and not given.capped
    assert given.share is None and given.budget == pytest.approx(0.5, rel=0.01)
    measured = tuner.rate(batches(1), full=1e-5)
    assert measured.lr == pytest.approx(1e-5 / measured.share)
    weights = [x.weight() for x in tuner.matrices]
    pooled = sum(
        x.count * float((w**2).mean()) for x, w in zip(tuner.matrices, weights, strict=True)
    )
    rms = (pooled / sum(x.count for x in tuner.matrices)) ** 0.5
    capped = tuner.rate(full=1.0)
    assert capped.capped and capped.lr == pytest.approx(CAP * rms, rel=1e-5)
    assert "capped from" in capped.reason and "given" in capped.reason
    assert str(measured) == measured.reason
    first, second = measured.reason.split("\n")
    assert f"{measured.share:.3%}" in second and f"{measured.chance:.3%}" in second
    assert "lr " in first and "AdamW" in first


def test_optimizer_uses_the_measured_rate_else_the_budget() -> None:
    model = llama()
    tuner = frog.Tuner(model, choose(model, 0.1), also=["norm"])
    plain = tuner.rate()
    optimizer = tuner.optimizer()
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [g["lr"] for g in optimizer.param_groups] == [plain.lr, plain.also]
    assert tuner.measured.used == plain
    measured = tuner.rate(batches(2), full=3e-4)
    optimizer = tuner.optimizer(weight_decay=0.1)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([measured.lr, 3e-3])
    assert optimizer.defaults["weight_decay"] == 0.1 and measured.lr != plain.lr
    optimizer = tuner.optimizer(also_lr=7.0)
    assert optimizer.param_groups[-1]["lr"] == 7.0
    optimizer = tuner.optimizer(lr=0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.5]
    assert tuner.measured.used is None
    with pytest.raises(UsageError, match="a number or 'auto', got 'best'"):
        tuner.optimizer(lr="best")
    tuner.revert()
    with pytest.raises(UsageError, match="has left its model"):
        tuner.rate()


def test_sgd_goes_by_the_squared_gradient() -> None:
    model = llama()
    tuner = frog.Tuner(model, choose(model, 0.2))
    expected = twin(llama(), masks(tuner), batches(2))
    adam = tuner.rate(batches(2), full=1e-9)
    sgd = tuner.rate(batches(2), full=1e-9, cls=torch.optim.SGD)
    assert sgd.norm == "squared L2" and adam.norm == "L1"
    assert sgd.lr == pytest.approx(1e-9 * expected["whole"][1] / expected["inside"][1], rel=1e-4)
    made = tuner.optimizer(torch.optim.SGD)
    assert made.param_groups[0]["lr"] == sgd.lr  # what was measured serves any optimizer
    entries = 2 * sum(x.count for x in tuner.matrices)
    step = sgd.cap * (expected["inside"][1] / entries) ** 0.5
    assert step == pytest.approx(adam.cap, rel=1e-4)  # a step of RMS(g) lr
    blind = frog.Tuner(llama(), choose(llama(), 0.2)).rate(cls=torch.optim.SGD)
    assert blind.cap == float("inf") and "no cap" in blind.reason


def test_optimizers_by_name() -> None:
    def named(name: str) -> Any:
        return type(name, (torch.optim.Optimizer,), {})

    assert family_of(torch.optim.NAdam, told=False) == ("adam", "NAdam")
    assert family_of(functools.partial(torch.optim.SGD, momentum=0.9), False)[0] == "sgd"
    assert family_of(named("Lion8bit"), told=False)[0] == "lion"
    assert family_of(named("Muon"), told=True)[0] == "adam"
    with pytest.raises(UsageError, match=r"got Muon: give lr as a number"):
        family_of(named("Muon"), told=False)
    with pytest.raises(UsageError, match="finds its own rate"):
        family_of(named("Prodigy"), told=True)
    model = nn.Linear(4, 4)
    rates = [full_rate(model, family)[0] for family in ("adam", "lion", "sgd")]
    assert rates[1] < rates[0] < rates[2]


SMALL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
KINDS = {
    "encoder": lambda t: t.BertForSequenceClassification(t.BertConfig(**SMALL, vocab_size=32)),
    "decoder": lambda t: llama(),
    "encoder-decoder": lambda t: t.T5ForConditionalGeneration(
        t.T5Config(d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8, vocab_size=32)
    ),
    "vision transformer": lambda t: t.ViTForImageClassification(
        t.ViTConfig(**SMALL, image_size=32, patch_size=8)
    ),
    "conv net": lambda t: Images(),
    "audio": lambda t: t.ASTForAudioClassification(
        t.ASTConfig(**SMALL, num_mel_bins=16, max_length=32)
    ),
    "other": lambda t: nn.Sequential(nn.Linear(4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_model(kind: str) -> None:
    model = KINDS[kind](transformers)
    assert kind_of(model) == kind
    wrapped = nn.ModuleDict({"backbone": model, "head": nn.Linear(4, 2)})
    assert kind_of(wrapped) == kind
    rate, why = full_rate(model, "adam")
    assert rate == FULL[kind][0][1] and kind in why


def test_larger_models_have_no_larger_rates() -> None:
    for sizes in FULL.values():
        limits, rates = zip(*sizes, strict=True)
        assert list(limits) == sorted(limits) and limits[-1] == float("inf")
        assert list(rates) == sorted(rates, reverse=True)


def test_measuring_changes_nothing_of_the_training() -> None:
    def run(measuring: bool) -> list[float]:
        torch.manual_seed(0)
        model = llama()
        tuner = frog.Tuner(model, choose(model, 0.2))
        optimizer = tuner.optimizer(lr=1e-2)
        model.train()
        losses = []
        for step, batch in enumerate(batches(6)):
            loss = model(**batch).loss
            loss.backward()
            if measuring and step % 2:
                tuner.rate(batches(2))  # between backward and step, too
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        assert tuner.step == 6
        return losses

    assert run(True) == run(False)


def test_a_mask_without_gradient_and_a_bad_rate_are_refused() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x).sum() + 0.0 * self.b(x).sum()

    model = Dead()
    tuner = frog.Tuner(model, choose(model, 0.2, include=r"^b\."))
    with pytest.raises(UsageError, match="must get some gradient"):
        tuner.rate([torch.ones(2, 8)])
    with pytest.raises(UsageError, match="above 0"):
        tuner.rate(full=0.0)


def test_zero_weights_have_no_cap() -> None:
    layer = nn.Linear(16, 16, bias=False)
    nn.init.zeros_(layer.weight)
    rate = frog.Tuner(layer, choose(layer, 0.1)).rate(full=1e-3)
    assert rate.lr == pytest.approx(1e-3 / rate.budget) and "all zero" in rate.reason


def test_ratios_multiply_and_a_conflict_names_the_mean() -> None:
    model = gpt2()
    chosen = choose(model, 0.1, include=r"c_attn|c_fc")
    ratio = {"q": 0.5, "k": 1.0, "v": 2.0}
    layers = tuple(
        replace(x, lr_ratio=ratio.get(x.name[-2:-1], 1.25) if "c_attn" in x.name else 1.25)
        for x in chosen.plan.layers
    )
    tuner = frog.Tuner(model, chosen, plan=replace(chosen.plan, layers=layers))
    with pytest.raises(UsageError, match=r"got 0\.5, 1, 2: .*\[q\].* to 1 \(their mean\)"):
        tuner.optimizer()
    tuner.revert()
    layers = tuple(replace(x, lr_ratio=1.25 if "c_fc" in x.name else 0.75) for x in layers)
    tuner = frog.Tuner(model, chosen, plan=replace(chosen.plan, layers=layers))
    auto = tuner.rate()
    rates = sorted(g["lr"] for g in tuner.optimizer().param_groups)
    assert rates == pytest.approx([0.75 * auto.lr, 1.25 * auto.lr])


def test_experts_fused_in_memory_only() -> None:
    model = mixtral()
    report = frog.analyze(model, frog.Settings(bootstrap=0, curves=False, min_evals=8))
    plan = frog.layer_rates(frog.allocate(report, 0.1), report, strength=1.0)
    tuner = frog.Tuner(model, frog.select(model, plan))
    assert len({g["lr"] for g in tuner.optimizer().param_groups}) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_with_the_automatic_rate_learns(dtype: torch.dtype) -> None:
    model = llama(dtype)
    tuner = frog.Tuner(model, choose(model, 0.05))
    tuner.rate(batches(2))
    optimizer = tuner.optimizer()
    losses = advance(model, optimizer, batches(1) * 30)
    assert losses[-1] < losses[0] - 0.15  # of ln 64 = 4.16 at the start


@pytest.mark.parametrize("page", ["learning-rate", "selecting-weights"])
def test_the_code_of_the_pages_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text()
    (code,) = (x for x in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "gradients" in x)
    space: dict[str, Any] = {"model": llama(hidden_size=64), "batches": batches(8), "frog": frog}
    exec(compile(code, page, "exec"), space)
    if page == "learning-rate":
        assert "L1 gradient share of the mask" in capsys.readouterr().out
        assert space["optimizer"].param_groups[0]["lr"] == space["tuner"].measured.used.lr
    assert space["chosen"].count == space["plan"].total
