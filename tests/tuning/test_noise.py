"""Noise has the distribution that noise in the weights would give, and touches nothing else."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import frog
from frog.errors import UnknownName, UsageError
from frog.tuning import Tuner
from frog.tuning.noise.guide import guide_of
from frog.tuning.noise.layers import AddNoise, Numbers
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside
from tests.tuning.noisy import (
    KINDS,
    NU,
    Case,
    attach,
    case,
    covariance,
    deviations,
    drawn,
    spread,
)

pytest.importorskip("transformers")

GRANULARITIES = ("element", "row", "column", "block")
DRAWS = ("token", "sequence")
COUNT = 1500


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of the tests in several slabs and chunks, as large ones are."""
    monkeypatch.setattr("frog.tuning.noise.layers.SLAB", 14)
    monkeypatch.setattr("frog.tuning.noise.layers.TOKENS", 4)


# --------------------------------------------------------------------------- distribution


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(x, marks=[] if x in ("linear", "embedding") else pytest.mark.slow)
        for x in KINDS
    ],
)
@pytest.mark.usefixtures("small_pieces")
def test_mean_variance_and_covariance_are_those_of_noise_in_the_weight(
    kind: str, granularity: str, draw: str
) -> None:
    """Every entry of the covariance of all outputs within 5.5 standard errors of the formula's."""
    made = case(kind)
    tuner = attach(made, granularity, draw=draw)
    s = deviations(tuner, made)
    wanted = covariance(made, s, draw)
    noise = drawn(made, COUNT).double()
    scale = wanted.diagonal().sqrt()
    assert (noise[:, scale == 0].abs().max() < 1e-6) if (scale == 0).any() else True
    noise, wanted = noise[:, scale > 0], wanted[scale > 0][:, scale > 0]
    size = wanted.diagonal()
    assert ((noise.mean(0).square() * COUNT / size).sqrt() < 5.5).all()
    found = noise.T @ noise / COUNT
    error = ((torch.outer(size, size) + wanted.square()) / COUNT).sqrt()
    assert ((found - wanted).abs() < 5.5 * error).all()
    assert (found.diagonal() / size).mean() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_chosen_entries_carry_none_and_all_others_do(
    kind: str, granularity: str, draw: str, share: float
) -> None:
    """An input of one feature shows the noise of single entries: exactly 0 where chosen."""
    made = case(kind)
    made.x = torch.eye(6)[None]
    tuner = attach(made, granularity, share, draw=draw)
    loud = drawn(made, 8).view(8, 6, -1).abs().amax(0) > 0  # (inputs, outputs)
    s = deviations(tuner, made)
    assert torch.equal(loud, (s if kind == "conv1d" else s.T) > 0)
    assert loud.any() and not loud.all()


@pytest.mark.parametrize("draw", DRAWS)
def test_all_columns_chosen_but_one_leave_the_noise_of_that_one(draw: str) -> None:
    model = nn.Sequential(nn.Linear(8, 16, bias=False))
    selection = choose(model, 7 / 8, "column")
    (alone,) = set(range(8)) - set(selection.chosen[0].index.tolist())
    Tuner(model, selection, noise=frog.Noise.guided(NU, schedule="constant", draw=draw))
    model.train()
    x = torch.ones(1, 4, 8)
    x[..., alone] = 0
    assert torch.equal(model(x), nn.functional.linear(x, model[0].weight))
    x[..., alone] = 1
    assert (model(x) != nn.functional.linear(x, model[0].weight)).all()


def test_an_outlying_input_on_a_chosen_entry_leaves_the_noise_of_the_others() -> None:
    """The chosen entry is taken off in float64: 1e8 against 100 would drown in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 400, bias=False))
    selection = choose(model, 0.2)
    rows, columns = np.divmod(selection.chosen[0].index, 100)
    tuner = Tuner(model, selection, noise=frog.Noise.guided(NU, schedule="constant", guide="even"))
    x = torch.ones(1, 1, 100)
    x[..., 7] = 1e5
    chosen = torch.from_numpy(rows[columns == 7])
    free = 99 - torch.from_numpy(np.bincount(rows, minlength=400))[chosen] + 1
    noise = drawn(Case(model, "0", x, lambda x, w: x @ w.T), 200)[:, chosen]
    rms = float(model[0].weight.detach().square().mean().sqrt())
    ratio = noise.double().square().mean(0) / ((NU * rms) ** 2 * free)
    # what is left of y + noise - y in float32 is the precision of y itself, some 1e4
    assert ratio.mean() == pytest.approx(1, abs=0.05)
    assert tuner.noise is not None


def test_draws_of_two_sequences_differ_and_tokens_of_one_do_not() -> None:
    model = nn.Sequential(nn.Linear(6, 5, bias=False))
    Tuner(model, choose(model), noise=frog.Noise.guided(NU, schedule="constant", draw="sequence"))
    model.train()
    x = torch.randn(1, 1, 6).expand(2, 3, 6)
    y = model(x).detach()
    assert torch.allclose(y[:, :1].expand_as(y), y, atol=1e-6)
    assert not torch.allclose(y[0], y[1], atol=1e-3)
    layered = nn.Sequential(nn.Embedding(9, 4))
    Tuner(layered, choose(layered), noise=frog.Noise.guided(draw="sequence", schedule="constant"))
    layered.train()
    y = layered(torch.tensor([[4, 1, 4], [4, 2, 2]])).detach()
    assert torch.equal(y[0, 0], y[0, 2]) and torch.equal(y[1, 1], y[1, 2])
    assert not torch.equal(y[0, 0], y[1, 0])


def test_fused_matrices_have_their_own_strength_and_the_rest_has_none() -> None:
    made = case("conv1d")
    with torch.no_grad():
        made.model.attn.c_attn.weight[:, 6:12] *= 100  # pyright: ignore
    names = [x.name for x in frog.inspect(made.model).matrices]
    assert sum("c_attn" in x for x in names) == 3, names
    selection = choose(made.model, 0.2, include=r"c_attn.*\[(q|k)\]")
    Tuner(made.model, selection, noise=frog.Noise.guided(NU, schedule="constant"))
    size = drawn(made, 300).view(300, -1, 18).square().mean((0, 1)).sqrt()
    assert (size[12:] == 0).all() and (size[:12] > 0).all()
    assert 30 < size[6:12].mean() / size[:6].mean() < 300


# ------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("pieces", ["one", "several"])
@pytest.mark.parametrize("kind", [x for x in KINDS if x != "embedding"])
def test_the_gradient_of_the_input_is_exact(
    kind: str, granularity: str, draw: str, pieces: str, request: pytest.FixtureRequest
) -> None:
    """Against finite differences of the noise with its random numbers held, in float64."""
    if pieces == "several":
        request.getfixturevalue("small_pieces")
    made = case(kind)
    tuner = attach(made, granularity, draw=draw)
    layer = made.model.get_submodule(made.layer).__dict__["_frog"].output.layer
    x = made.x.double().requires_grad_()
    y = torch.zeros_like(made.plain(x.detach(), tuner.compacts[0].weight.detach().double()))
    assert torch.autograd.gradcheck(lambda x: AddNoise.apply(y, x, layer, 1.0, 11), (x,))


@pytest.mark.parametrize("draw", DRAWS)
def test_the_gradient_is_that_of_noise_in_the_weight_on_average(draw: str) -> None:
    """E sum y^2 = sum (x W)^2 + sum_j s_ij^2 x_j^2: its gradient is the mean of the gradients."""
    made = case("linear")
    tuner = attach(made, "element", draw=draw)
    layer = made.model[0]  # pyright: ignore
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    s = deviations(tuner, made)
    layer.train()
    x = made.x.clone().requires_grad_()
    seen = []
    for _ in range(1200):
        seen.append(torch.autograd.grad(layer(x).square().sum(), x)[0].double())
    wide = made.x.double()
    exact = 2 * (wide @ weight.T + bias) @ weight + 2 * wide * s.square().sum(0)
    found = torch.stack(seen)
    error = found.std(0) / len(seen) ** 0.5
    assert ((found.mean(0) - exact).abs() < 4.5 * error).all()
    without = 2 * (wide @ weight.T + bias) @ weight
    assert ((without - exact).abs() > 10 * error).any(), "the test could not see the noise's part"


def test_the_gradient_of_the_changes_sees_the_noisy_output() -> None:
    model = nn.Sequential(nn.Linear(6, 5, bias=False))
    tuner = Tuner(model, choose(model), noise=frog.Noise.guided(NU, schedule="constant"))
    model.train()
    x = torch.randn(4, 6)
    y = model(x)
    y.square().sum().backward()
    dense = (2 * y.detach()).T @ x
    change = tuner.compacts[0].change
    assert change.grad is not None
    assert torch.allclose(change.grad, dense.reshape(-1)[tuner.compacts[0].index], atol=1e-5)


# ---------------------------------------------------------------------- guide and schedule


def test_the_guide_has_rms_one_and_spares_relevant_weights() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((30, 20)).astype(np.float32)
    w[3] *= 5
    w[:, 4] *= 5
    for guide in ("relevance", "even", "rounding"):
        a, b = guide_of(guide, w)
        product = np.outer(a, b).astype(np.float64)
        assert np.sqrt(np.mean(product**2)) == pytest.approx(1, abs=1e-6)
    a, b = guide_of("relevance", w)
    assert np.allclose(np.outer(a, b), spread(w.astype(np.float64), "relevance"), atol=1e-4)
    assert a.argmin() == 3 and b.argmin() == 4
    a, b = guide_of("rounding", w)
    assert np.allclose(a / a[0], np.abs(w).max(1) / np.abs(w[0]).max(), rtol=1e-5)
    a, b = guide_of(lambda w: (np.abs(w).sum(1), np.zeros(20)), w)
    assert (b == 1).all() and a.argmax() == 3
    assert np.isfinite(np.outer(*guide_of("relevance", np.ones((3, 4), np.float32)))).all()


@pytest.mark.parametrize("made", [(np.ones(3), np.ones(4)), (np.full(5, np.nan), np.ones(4)),
                                  (-np.ones(5), np.ones(4))])  # fmt: skip
def test_a_guide_that_gives_no_two_sides_is_refused(made: Any) -> None:
    with pytest.raises(UsageError, match="one finite number, not negative"):
        guide_of(lambda w: made, np.ones((5, 4), np.float32))


def test_schedules() -> None:
    assert frog.Noise.guided(0.1, schedule="constant").level(10**6, None) == 0.1
    for schedule, middle in (("linear", 0.05), ("cosine", 0.05)):
        noise = frog.Noise.guided(0.1, schedule=schedule, until=0.5)
        levels = [noise.level(step, 200) for step in range(200)]
        assert levels[0] == 0.1 and levels[50] == pytest.approx(middle)
        assert levels == sorted(levels, reverse=True) and set(levels[100:]) == {0.0}
        assert levels[99] > 0
    quarter = frog.Noise.guided(0.1, until=1.0).level(50, 200)
    assert quarter == pytest.approx(0.05 * (1 + 2**-0.5))
    assert frog.Noise.guided(0.1).level(69, 100) > 0 == frog.Noise.guided(0.1).level(70, 100)


def test_a_decaying_schedule_must_know_its_end() -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    tuner = Tuner(model, choose(model), noise=frog.Noise.guided(0.1))
    model.train()
    x = torch.randn(2, 6)
    with pytest.raises(UsageError, match=r"plan_steps.*steps=total.*constant"):
        model(x)
    with torch.no_grad():
        model(x)  # no training: no noise, no schedule
    for bad in (0, -1, 2.5, True):
        with pytest.raises(UsageError, match="1 or more"):
            tuner.plan_steps(bad)  # pyright: ignore
    tuner.plan_steps(10)
    assert tuner.noise.level == 0.1
    model(x)
    tuner.step = 7
    assert tuner.noise.level == 0 and torch.equal(model(x), model(x))
    other = nn.Sequential(nn.Linear(6, 5))
    tuner = Tuner(other, choose(other), noise=frog.Noise.guided(0.1, steps=20))
    tuner.plan_steps(10)  # what the setting says goes before
    tuner.step = 7
    assert tuner.noise.level > 0


@pytest.mark.parametrize(("knobs", "error", "said"), [
    ({"nu": -0.1}, UsageError, "0..1"),
    ({"nu": float("nan")}, UsageError, "0..1"),
    ({"schedule": "cosinus"}, UnknownName, "cosine"),
    ({"draw": "tokens"}, UnknownName, "token"),
    ({"guide": "relevence"}, UnknownName, "relevance"),
    ({"until": 0.0}, UsageError, "share of the run"),
    ({"until": 0.5, "schedule": "constant"}, UsageError, "no end"),
    ({"steps": 0}, UsageError, "1 or more"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(knobs: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        frog.Noise(**knobs)


def test_what_is_no_noise_is_refused_and_leaves_the_model() -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    with pytest.raises(UsageError, match=r"frog\.Noise"):
        Tuner(model, choose(model), noise=0.1)  # pyright: ignore
    assert [x.requires_grad for x in model.parameters()] == [True, True]
    Tuner(model, choose(model)).revert()


# --------------------------------------------------------------------- when, and nothing else


def test_off_without_training_and_without_gradients() -> None:
    model = llama()
    tuner = Tuner(model, choose(model), noise=frog.Noise.guided(NU, schedule="constant"))
    batch = batches(1)[0]
    model.eval()
    still = model(**batch).loss
    assert torch.equal(still, model(**batch).loss)
    model.train()
    with torch.no_grad():
        assert torch.equal(still, model(**batch).loss)
    loud = model(**batch).loss
    assert not torch.equal(still, loud) and not torch.equal(loud, model(**batch).loss)
    tuner.keep()
    assert torch.equal(still, model(**batch).loss)


def losses(model: Any, tuner: Tuner, data: list, **context: Any) -> list[float]:
    """A plain loop of training."""
    optimizer = tuner.optimizer(lr=1e-2)
    model.train()
    seen = []
    for batch in data:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(context.get("autocast"))):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(float(loss.detach()))
    return seen


def test_noise_of_strength_zero_is_no_noise() -> None:
    seen = []
    for noise in (None, frog.Noise.guided(0.0), frog.Noise.guided(0.1, steps=1, until=1e-9)):
        model = llama()
        tuner = Tuner(model, choose(model), noise=noise)
        if noise is not None and noise.nu:
            tuner.step = 1
        seen.append(losses(model, tuner, batches(4)))
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_weights_outside_the_selection_keep_their_bits(
    draw: str, dtype: torch.dtype, autocast: bool
) -> None:
    model = llama(dtype)
    before, names = bits(model), list(model.state_dict())
    noise = frog.Noise.guided(0.1, draw=draw, steps=8)
    tuner = Tuner(model, choose(model), noise=noise)
    mask = masks(tuner)
    seen = losses(model, tuner, batches(1) * 8, autocast=autocast)
    assert np.isfinite(seen).all() and seen[-1] < seen[0]
    assert moved_only_inside(before, model, mask)
    assert list(model.state_dict()) == names
    tuner.revert()
    assert all(torch.equal(before[k], v) for k, v in bits(model).items())


def test_noise_is_computed_in_float32_and_added_in_the_dtype_of_the_output() -> None:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(64, 32, bias=False))
    rounded = made[0].weight.detach().bfloat16()
    outputs = []
    for dtype in (torch.float32, torch.bfloat16):
        model = nn.Sequential(nn.Linear(64, 32, bias=False)).to(dtype)
        model[0].weight.data.copy_(rounded)
        Tuner(model, choose(model), noise=frog.Noise.guided(NU, schedule="constant"))
        x = torch.randn(8, 64, generator=torch.Generator().manual_seed(1)).bfloat16().to(dtype)
        model.train()
        noisy = model(x).detach()
        model.eval()
        outputs.append((noisy, noisy - model(x).detach()))
    (_, wide), (half, narrow) = outputs
    assert half.dtype == torch.bfloat16
    assert (wide - narrow).abs().max() < 2 * 2**-8 * half.abs().max()
    assert wide.std() > 0.05


# ----------------------------------------------------------------------------- left out


class Mixed(nn.Module):
    """A linear layer, one whose weight others use, and a module of its own kind."""

    def __init__(self) -> None:
        super().__init__()

        class Twisted(nn.Linear):
            def forward(self, input: Tensor) -> Tensor:
                return super().forward(input.flip(-1))

        self.plain = nn.Linear(8, 8)
        self.twisted = Twisted(8, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.empty = nn.Linear(8, 8)
        nn.init.zeros_(self.empty.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twisted(self.plain(x))
        x = x + self.empty(x)
        return self.attention(x, x, x)[0]


def test_layers_that_cannot_carry_noise_are_named_with_the_reason() -> None:
    model = Mixed()
    tuner = Tuner(model, choose(model, 0.2), noise=frog.Noise.guided(NU, schedule="constant"))
    assert tuner.noise.layers == ("plain",)
    out = tuner.noise.left_out
    assert "way of its own" in out["twisted.weight"]
    assert "without being called" in out["attention.out_proj.weight"]
    assert "all weights are zero" in out["empty.weight"]
    assert any("attention.in_proj" in x for x in out)
    assert f"{len(out)} matrices left out" in repr(tuner.noise)
    model.train()
    assert not torch.equal(model(torch.ones(2, 1, 8)), model(torch.ones(2, 1, 8)))


def test_a_selection_of_which_no_layer_can_carry_noise_is_refused() -> None:
    model = Mixed()
    selection = choose(model, 0.2, include="twisted")
    with pytest.raises(UsageError, match=r"none of the selection.*way of its own"):
        Tuner(model, selection, noise=frog.Noise.guided(NU))
    Tuner(model, selection).revert()


def test_fused_experts_are_left_out() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=64, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    tuner = Tuner(model, choose(model), noise=frog.Noise.guided(NU, schedule="constant"))
    assert any("experts" in x for x in tuner.noise.left_out)
    assert any("self_attn.q_proj" in x for x in tuner.noise.layers)
    losses(model, tuner, batches(2))


def test_tied_layers_both_carry_noise() -> None:
    model = llama()
    tuner = Tuner(model, choose(model), noise=frog.Noise.guided(NU, schedule="constant"))
    assert {"model.embed_tokens", "lm_head"} <= set(tuner.noise.layers)
    assert len(tuner.noise.layers) == 2 + 7 * 2 and not tuner.noise.left_out


def test_one_image_and_one_vector_are_sequences_of_their_own() -> None:
    for draw in DRAWS:
        made = case("convolution")
        attach(made, "element", draw=draw)
        made.model.train()
        assert made.model(made.x[0]).shape == made.model(made.x).shape[1:]
        flat = case("linear")
        attach(flat, "element", draw=draw)
        flat.model.train()
        assert flat.model(flat.x[0, 0]).shape == (5,)
        assert flat.model(flat.x[:0]).shape == (0, 3, 5)


def test_the_page_runs_as_written() -> None:
    from tests.test_docs import blocks

    (code,) = blocks("docs/noise.md", "python")
    space: dict = {}
    exec(compile(code, "docs/noise.md", "exec"), space)
    tuner = space["tuner"]
    assert tuner.step == 3 and tuner.noise.layers == ("0", "2")


def test_numbers_depend_on_the_key_alone() -> None:
    like = torch.empty(0)
    first = Numbers(5, like).normal(4)
    torch.manual_seed(9)
    assert torch.equal(first, Numbers(5, like).normal(4))
    assert not torch.equal(first, Numbers(6, like).normal(4))
    assert set(Numbers(5, like).signs(50).tolist()) == {-1.0, 1.0}
