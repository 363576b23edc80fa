"""Layer sampling: what is drawn, what moves, how it leaves the model."""

import copy
import inspect
import io
import itertools
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.utils.checkpoint
from torch import nn

import frog
from frog.errors import UnknownName, UsageError
from frog.tuning.sampling import draw
from tests.tuning.models import batches, bits
from tests.tuning.sampled import BLOCKS, changed, deep, of, train

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def report() -> frog.ModelReport:
    return frog.analyze(deep(), frog.Settings(bootstrap=0, curves=False, min_evals=10))


# -------------------------------------------------------------------------------- draws


@pytest.mark.parametrize("count", [1, 2, 3])
def test_draws_follow_the_probabilities(count: int) -> None:
    """Without replacement, one after another: every set of names has its exact probability."""
    chances = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}
    exact: Counter[tuple[str, ...]] = Counter()
    for order in itertools.permutations(chances, count):
        left, p = 1.0, 1.0
        for name in order:
            p *= chances[name] / left
            left -= chances[name]
        exact[tuple(sorted(order))] += p  # type: ignore[assignment]
    turns = 4000
    seen = Counter(draw(chances, count, seed=5, turn=i) for i in range(turns))
    assert set(seen) <= set(exact)
    names = list(exact)
    found = scipy.stats.chisquare([seen[x] for x in names], [turns * exact[x] for x in names])
    assert found.pvalue > 0.01


def test_draws_of_other_seeds_and_turns_are_independent() -> None:
    chances = dict.fromkeys("abcd", 0.25)
    for a, b in (((0, 0), (1, 0)), ((0, 0), (0, 1))):
        pairs = np.zeros((4, 4))
        for i in range(3000):
            one = draw(chances, 1, seed=a[0], turn=a[1] + 2 * i)[0]
            other = draw(chances, 1, seed=b[0], turn=b[1] + 2 * i)[0]
            pairs["abcd".index(one), "abcd".index(other)] += 1
        assert scipy.stats.chi2_contingency(pairs).pvalue > 0.01


def test_the_schedule_is_a_pure_function(report: frog.ModelReport) -> None:
    one = frog.LayerSampler(deep(), report, by="alpha", every=3, seed=4)
    turns = one.schedule(30)
    assert [(x.start, x.stop) for x in turns] == [(i, i + 3) for i in range(0, 30, 3)]
    assert all(len(set(x.units)) == 2 and set(x.units) <= set(BLOCKS) for x in turns)
    assert one.schedule(8)[-1].stop == 8
    other = frog.LayerSampler(deep(), report, by="alpha", every=3, seed=4)
    train(other.model, other.optimizer(lr=1e-2), range(7))
    assert other.schedule(30) == turns and other.active == turns[2].units
    assert frog.LayerSampler(deep(), report, by="alpha", every=3, seed=5).schedule(30) != turns


def test_quality_changes_the_odds_in_either_direction(report: frog.ModelReport) -> None:
    more, less, even = (
        frog.LayerSampler(deep(), report, by=by) for by in ("alpha", "-alpha", "uniform")
    )
    assert set(even.chances.values()) == {1 / 6}
    assert max(more.chances.values()) > 1.3 * min(more.chances.values()) > 0
    assert more.scores == {k: -v for k, v in less.scores.items()}
    up, down = ([x.chances[k] for k in BLOCKS] for x in (more, less))
    assert np.argsort(up).tolist() == np.argsort(down)[::-1].tolist()
    flat = frog.LayerSampler(deep(), report, by="alpha", temperature=1e6)
    assert list(flat.chances.values()) == pytest.approx([1 / 6] * 6, rel=1e-4)


def test_rankings_are_ways_too(report: frog.ModelReport) -> None:
    ranked = frog.LayerSampler(deep(), report, by="alpha_high")
    assert len(set(ranked.chances.values())) > 1
    with pytest.raises(UnknownName, match="alpha_high"):
        frog.LayerSampler(deep(), report, by="alpha_hihg")


# ------------------------------------------------------------------------- what trains


@pytest.mark.parametrize("fused", [False, True])
def test_only_active_units_move(fused: bool) -> None:
    model = deep()
    names = dict(model.named_parameters())
    sampler = frog.LayerSampler(model, None, active=2, every=2, seed=1)
    always = {x for x in names if not of(BLOCKS, [x])}
    assert set(sampler.division.always) == always == {"model.embed_tokens.weight",
                                                      "model.norm.weight"}  # fmt: skip
    optimizer = sampler.optimizer(lr=1e-2, weight_decay=0.5, fused=fused)
    touched: set[str] = set()
    for turn in sampler.schedule(8):
        assert sampler.active == turn.units
        wanting = {k for k, v in model.named_parameters() if v.requires_grad}
        assert wanting == always | of(turn.units, names)
        assert sampler.trainable == sum(names[k].numel() for k in wanting)
        before = bits(model)
        # set_to_none=False leaves gradients of 0, by which decay would reach a frozen weight
        train(model, optimizer, range(turn.start, turn.stop), set_to_none=False)
        moved = changed(before, model) - {"lm_head.weight"}
        assert moved == always | of(turn.units, names)
        touched |= moved
    assert sampler.step == 8
    assert of(touched, names) != set(names)  # and some were never drawn


def test_it_equals_full_training_of_the_same_weights() -> None:
    """A turn of layer sampling is AdamW on those layers: the same losses as by hand."""
    model, plain = deep(), deep()
    sampler = frog.LayerSampler(model, None, active=2, every=50, seed=1)
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(dict(model.named_parameters())[name].requires_grad)
    ones = [x for x in plain.parameters() if x.requires_grad]
    by_hand = torch.optim.AdamW([
        {"params": [x for x in ones if x.ndim > 1]},
        {"params": [x for x in ones if x.ndim < 2], "weight_decay": 0.0},
    ], lr=1e-2)  # fmt: skip
    losses = train(model, sampler.optimizer(lr=1e-2), range(30))
    assert losses == train(plain, by_hand, range(30))
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in model.state_dict().items())


def test_cold_state_is_dropped_and_starts_anew() -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None, active=1, every=3, seed=0)
    optimizer = sampler.optimizer(lr=1e-3)
    last: tuple[str, ...] = ()
    for turn in sampler.schedule(30):
        train(model, optimizer, [turn.start])
        unit = {u.name: u for u in sampler.units}[turn.units[0]]
        stayed = turn.units == last
        for parameter in unit.parameters.values():
            assert int(optimizer.state[parameter]["step"]) == (4 if stayed and last else 1)
        if stayed:
            return  # the first that was drawn twice running kept its state
        held = {id(x) for x in optimizer.state}
        assert held == {id(x) for x in sampler.division.always.values()} | {
            id(x) for x in unit.parameters.values()
        }
        train(model, optimizer, range(turn.start + 1, turn.stop))
        last = turn.units
    pytest.fail("no unit was drawn twice running: choose another seed")


def test_the_optimizer_state_is_that_of_the_active_weights() -> None:
    """Moments in memory and bytes on disk follow the number of active weights."""

    def run(active: int) -> tuple[int, int, int]:
        model = deep(hidden_size=64, intermediate_size=256, tie_word_embeddings=True)
        sampler = frog.LayerSampler(model, None, active=active, every=2, always=["norm.weight"])
        optimizer = sampler.optimizer(lr=1e-3)
        train(model, optimizer, range(3))
        held = [x for one in optimizer.state.values() for x in one.values() if x.ndim]
        sink = io.BytesIO()
        torch.save(optimizer.state_dict(), sink)
        return sampler.trainable, sum(x.numel() for x in held), sink.tell()

    for active in (1, 2, 4):
        trainable, moments, size = run(active)
        assert moments == 2 * trainable
        assert 8 * trainable < size < 8 * trainable + 60_000


def test_no_gradients_of_frozen_units_exist() -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None, active=1, every=1, seed=3)
    optimizer = sampler.optimizer(lr=1e-2)
    for number in range(4):
        model(**batches(1)[0]).loss.backward()
        with_gradient = {k for k, v in model.named_parameters() if v.grad is not None}
        assert with_gradient == set(sampler.division.always) | of(sampler.active, with_gradient)
        optimizer.step()
        frozen = [v for k, v in model.named_parameters() if of(BLOCKS, [k])
                  and not of(sampler.active, [k])]  # fmt: skip
        assert all(x.grad is None and not x.requires_grad for x in frozen), number


def test_accumulation_counts_optimizer_steps() -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None, every=2, seed=1)
    optimizer = sampler.optimizer(lr=1e-2)
    model.train()
    for number in range(8):
        model(**batches(8)[number]).loss.backward()
        assert sampler.micro_step == number % 2 + 1
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
    assert sampler.step == 4 and sampler.active == sampler.schedule(6)[2].units


def test_schedulers_see_groups_that_stay_the_same() -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None, every=1)
    optimizer = sampler.optimizer(lr=1.0, also_lr=0.5, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    assert [(x["lr"], x["weight_decay"]) for x in optimizer.param_groups] == [
        (1.0, 0.1), (1.0, 0.0), (0.5, 0.1), (0.5, 0.0)]  # fmt: skip
    sizes = [len(x["params"]) for x in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= 1e-6
    train(model, optimizer, range(3))
    schedule.step()
    assert [x["lr"] for x in optimizer.param_groups] == [0.5, 0.5, 0.25, 0.25]
    assert [len(x["params"]) for x in optimizer.param_groups] == sizes


def test_always_is_what_was_asked_for() -> None:
    model = deep(tie_word_embeddings=False)
    sampler = frog.LayerSampler(model, None, always=["norm", "lm_head"], every=1)
    always = set(sampler.division.always)
    assert "lm_head.weight" in always and "model.embed_tokens.weight" not in always
    assert "model.layers.0.input_layernorm.weight" in always
    assert not any("norm" in name for unit in sampler.units for name in unit.parameters)
    before = bits(model)
    train(model, sampler.optimizer(lr=1e-2), range(3))
    assert "model.embed_tokens.weight" not in changed(before, model)
    none = frog.LayerSampler(deep(), None, always=())
    assert not none.division.always and len(none.units) == 6


def test_a_model_without_blocks_trains_module_by_module() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 4),
    )  # fmt: skip
    sampler = frog.LayerSampler(model, None, active=1, every=1, seed=2)
    assert sampler.division.kind == "module"
    assert [x.name for x in sampler.units] == ["0", "3", "6", "7"]
    assert set(sampler.division.always) == {"1.weight", "1.bias"}
    optimizer = sampler.optimizer(torch.optim.SGD, lr=0.1)
    before = bits(model)
    model.train()
    for turn in sampler.schedule(3):
        start = bits(model)
        model(torch.randn(4, 3, 6, 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        moved = changed(start, model)
        assert moved - {"1.weight", "1.bias"} == of(turn.units, before)  # no running statistics


def test_encoder_and_decoder_blocks_are_different_units() -> None:
    import transformers

    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
                                   vocab_size=50)  # fmt: skip
    sampler = frog.LayerSampler(transformers.T5ForConditionalGeneration(config), None)
    assert [x.name for x in sampler.units] == [
        "encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]  # fmt: skip


# ----------------------------------------------------------------------------- leaving


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_revert_is_exact_and_a_delta_turns_the_base_into_it(dtype: torch.dtype) -> None:
    model = deep(dtype)
    before = bits(model)
    sampler = frog.LayerSampler(model, None, every=2, seed=1)
    optimizer = sampler.optimizer(lr=1e-2)
    train(model, optimizer, range(5))
    after = bits(model)
    delta = sampler.delta()
    assert {x.tensor for x in delta.tensors} == changed(before, model) - {"lm_head.weight"}
    assert delta.facts["steps"] == 5
    sampler.revert()
    assert not changed(before, model)
    assert not sampler.attached and all(x.requires_grad for x in model.parameters())
    frog.apply_delta(model, delta)
    assert not changed(after, model)
    frog.apply_delta(model, delta, revert=True)
    assert not changed(before, model)
    train(model, optimizer, range(2))  # the optimizer is a plain one again
    with pytest.raises(UsageError, match="left its model"):
        sampler.keep()


def test_keep_leaves_the_plain_model(tmp_path: Any) -> None:
    import transformers

    model = deep()
    with frog.LayerSampler(model, None, every=2) as sampler:
        train(model, sampler.optimizer(lr=1e-2), range(5))
        after = bits(model)
    assert not sampler.attached and not changed(after, model)
    assert all(x.requires_grad for x in model.parameters())
    assert not hasattr(model, "_ddp_params_and_buffers_to_ignore")
    model.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert not changed(after, loaded)
    with pytest.raises(RuntimeError), frog.LayerSampler(model, None) as sampler:
        train(model, sampler.optimizer(lr=1e-2), range(2))
        raise RuntimeError
    assert not changed(after, model)


def test_what_was_frozen_before_is_so_again() -> None:
    model = deep()
    model.model.norm.weight.requires_grad_(False)
    sampler = frog.LayerSampler(model, None, always=["embed"])
    sampler.revert()
    assert [k for k, v in model.named_parameters() if not v.requires_grad] == ["model.norm.weight"]


def test_copies_are_held_of_touched_units_only() -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None, active=1, every=2, seed=0)
    assert sampler.held_bytes == 4 * sampler.trainable
    train(model, sampler.optimizer(lr=1e-2), range(3))
    touched = {x for turn in sampler.schedule(4) for x in turn.units}
    count = sum(x.numel() for x in sampler.division.always.values())
    count += sum(u.count for u in sampler.units if u.name in touched)
    assert sampler.held_bytes == 4 * count


def test_a_snapshot_can_be_put_back_over_turns() -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None, active=1, every=1, seed=0)
    optimizer = sampler.optimizer(lr=1e-2)
    train(model, optimizer, range(2))
    then, kept = bits(model), sampler.snapshot()
    train(model, optimizer, range(2, 6))
    assert len(changed(then, model)) > 10
    sampler.restore(kept)
    assert not changed(then, model)


# -------------------------------------------------------------------------- other things


def test_copies_of_the_model_are_not_sampled() -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None, every=1)
    optimizer = sampler.optimizer(lr=1e-2)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not twin._ddp_params_and_buffers_to_ignore  # or DDP would not train it whole
        twin.requires_grad_(True)
        own = torch.optim.AdamW(twin.parameters(), lr=1e-2)
        train(twin, own, range(2))
        assert sampler.step == 0
    train(model, optimizer, range(1))
    assert sampler.step == 1


def test_it_says_what_it_does(report: frog.ModelReport) -> None:
    sampler = frog.LayerSampler(deep(), report, by="alpha")
    assert "2 of 6 blocks train at a time" in repr(sampler)
    sampler.keep()
    assert repr(sampler).endswith("left)")


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_checkpointed_activations(reentrant: bool) -> None:
    model = deep()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    sampler = frog.LayerSampler(model, None, every=2, seed=1)
    losses = train(model, sampler.optimizer(lr=1e-2), range(5))
    plain = deep()
    sampler = frog.LayerSampler(plain, None, every=2, seed=1)
    assert losses == pytest.approx(train(plain, sampler.optimizer(lr=1e-2), range(5)), rel=1e-6)


def test_autocast_trains_the_same_layers() -> None:
    model = deep()
    before = bits(model)
    sampler = frog.LayerSampler(model, None, every=1, seed=1)
    optimizer = sampler.optimizer(lr=1e-2)
    model.train()
    for batch in batches(3):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    touched = {x for turn in sampler.schedule(3) for x in turn.units}
    assert of(BLOCKS, changed(before, model)) == of(touched, before)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [8, 1])
def test_compiled_models_train_the_same(limit: int) -> None:
    """Each set of layers is compiled; beyond torch's limit it goes on without."""

    def run(compiled: bool) -> Any:
        model = deep(num_hidden_layers=3)
        sampler = frog.LayerSampler(model, None, active=1, every=1, seed=0)
        assert len({turn.units for turn in sampler.schedule(4)}) == 3
        optimizer = sampler.optimizer(lr=1e-2)
        model.train()
        called = torch.compile(model, backend="eager") if compiled else model
        for batch in batches(4):
            called(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model

    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=limit):
        assert not changed(bits(run(False)), run(True))
    torch._dynamo.reset()


def test_the_page_describes_every_way_to_draw() -> None:
    from frog.allocation.odds import WAYS

    text = (Path(__file__).parents[2] / "docs/layer-sampling.md").read_text()
    table = text.split("| `by` |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == list(WAYS)
    settings = set(inspect.signature(frog.LayerSampler).parameters) - {"model", "report"}
    table = text.split("| setting |")[1].split("\n\n")[0]
    for name, default in re.findall(r"^\| `(\w+)=(.*?)` \|", table, re.MULTILINE):
        settings.remove(name)
        given = inspect.signature(frog.LayerSampler).parameters[name].default
        assert repr(given).replace("'", '"') == default, name
    assert not settings
