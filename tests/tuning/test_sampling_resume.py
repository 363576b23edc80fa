"""Layer sampling resumed: exactly, or not at all."""

import io
from typing import Any

import pytest
import torch
import torch.utils.checkpoint

import frog
from frog.errors import UsageError
from tests.tuning.models import bits, choose
from tests.tuning.sampled import changed, deep, train

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def report() -> frog.ModelReport:
    return frog.analyze(deep(), frog.Settings(bootstrap=0, curves=False, min_evals=10))


# ------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stop", [4, 5])
def test_resuming_is_exact(dtype: torch.dtype, stop: int, report: frog.ModelReport) -> None:
    def fresh() -> tuple[Any, Any, Any]:
        model = deep(dtype)
        sampler = frog.LayerSampler(model, report, by="alpha", every=2, seed=1)
        return model, sampler, sampler.optimizer(lr=1e-2)

    straight, _, optimizer = fresh()
    losses = train(straight, optimizer, range(10))
    model, _, optimizer = fresh()
    train(model, optimizer, range(stop))
    sink = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, sink)
    saved = torch.load(io.BytesIO(sink.getvalue()), weights_only=True)
    resumed, sampler, optimizer = fresh()
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert sampler.step == stop and sampler.active == sampler.units_at(stop)
    assert train(resumed, optimizer, range(stop, 10)) == losses[stop:]
    assert not changed(bits(straight), resumed)
    delta = sampler.delta()  # the start is known, though the sampler saw only the end of the run
    sampler.revert()
    assert not changed(bits(deep(dtype)), resumed)
    frog.apply_delta(resumed, delta)
    assert not changed(bits(straight), resumed)


@pytest.mark.parametrize("other", [{"seed": 2}, {"every": 3}, {"active": 1}, {"by": "-alpha"},
                                   {"temperature": 1.0}, {"always": ["norm"]}])  # fmt: skip
def test_resuming_another_run_is_refused(other: dict, report: frog.ModelReport) -> None:
    usual = {"by": "alpha", "every": 2, "seed": 1}
    model = deep()
    optimizer = frog.LayerSampler(model, report, **usual).optimizer(lr=1e-2)
    train(model, optimizer, range(3))
    saved = optimizer.state_dict()
    second = deep()
    sampler = frog.LayerSampler(second, report, **(usual | other))
    fresh = sampler.optimizer(lr=1e-2)
    before = bits(second)
    with pytest.raises(UsageError, match="sampled other layers"):
        fresh.load_state_dict(saved)
    assert sampler.step == 0 and not changed(before, second) and not fresh.state


def test_resuming_with_another_report_is_refused(report: frog.ModelReport) -> None:
    model = deep()
    optimizer = frog.LayerSampler(model, report, by="alpha").optimizer(lr=1e-2)
    train(model, optimizer, range(1))
    later = frog.analyze(deep(), frog.Settings(bootstrap=0, curves=False, estimator="hill"))
    fresh = frog.LayerSampler(deep(), later, by="alpha").optimizer(lr=1e-2)
    with pytest.raises(UsageError, match="sampled other layers"):
        fresh.load_state_dict(optimizer.state_dict())


def test_states_of_tuners_and_samplers_are_not_mixed_up() -> None:
    model, other = deep(), deep()
    sampled = frog.LayerSampler(model, None).optimizer(lr=1e-2)
    tuned = frog.Tuner(other, choose(other)).optimizer(lr=1e-2)
    with pytest.raises(UsageError, match="another selection"):
        tuned.load_state_dict(sampled.state_dict())
    with pytest.raises(UsageError, match="sampled other layers"):
        sampled.load_state_dict(tuned.state_dict())
    with pytest.raises(UsageError, match="without a tuner"):
        sampled.load_state_dict(torch.optim.AdamW(deep().parameters()).state_dict())


def test_a_state_that_comes_too_late_is_refused() -> None:
    """An optimizer of one's own, loaded before it was met, after gradients of other layers."""
    model = deep()
    sampler = frog.LayerSampler(model, None, every=1, seed=1)
    optimizer = sampler.optimizer(lr=1e-2)
    train(model, optimizer, range(3))
    saved = optimizer.state_dict()
    second = deep()
    fresh = frog.LayerSampler(second, None, every=1, seed=1)
    assert fresh.active != sampler.active
    groups = [dict(group) for group in fresh.optimizer(lr=1e-2).param_groups]
    own = torch.optim.AdamW(groups, lr=1e-2)
    own.load_state_dict(saved)
    with pytest.raises(UsageError, match="before gradients are computed"):
        train(second, own, range(1))


def test_parts_travel_with_the_optimizer() -> None:
    class Part:
        value = 0

        def state_dict(self) -> dict:
            return {"value": self.value}

        def load_state_dict(self, state: dict) -> None:
            self.value = state["value"]

    def fresh() -> tuple[Any, Part, Any, list[int]]:
        sampler, part, seen = frog.LayerSampler(deep(), None), Part(), []
        sampler.add("counter", part)
        sampler.on_step(lambda optimizer: seen.append(sampler.step))
        return sampler, part, sampler.optimizer(lr=1e-2), seen

    sampler, part, optimizer, seen = fresh()
    part.value = 7
    train(sampler.model, optimizer, range(2))
    assert seen == [1, 2]
    _, other, fresh_optimizer, _ = fresh()
    fresh_optimizer.load_state_dict(optimizer.state_dict())
    assert other.value == 7
    with pytest.raises(UsageError, match="set it up alike"):
        frog.LayerSampler(deep(), None).optimizer(lr=1e-2).load_state_dict(optimizer.state_dict())
