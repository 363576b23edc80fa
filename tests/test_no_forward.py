"""Measuring is reading: no forward pass, no hook, no gradient, no change of a live model."""

from __future__ import annotations

import copy

import pytest
import torch

import frog


class NeverCalled(torch.nn.Module):
    """A model that cannot be run."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(80, 64)
        self.inner = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Conv2d(8, 16, 3))

    def forward(self, *_: object) -> None:
        raise AssertionError("a forward pass was made")


def test_no_forward_pass_is_made_and_nothing_changes() -> None:
    torch.manual_seed(0)
    model = NeverCalled()
    calls: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        module.register_full_backward_hook(lambda *_, name=name: calls.append(name))
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    model.train()

    report = frog.analyze(model, frog.Settings(bootstrap=20))
    listed = frog.inspect(model)
    tuned = {name: 1.01 * value for name, value in before.items()}
    made = frog.compare(tuned, model, settings=frog.Settings(bootstrap=20))
    again = frog.compare(model, model, model, settings=frog.Settings(bootstrap=20))

    assert len(report.measured) == len(listed.matrices) == 3
    assert isinstance(made, frog.Comparison) and isinstance(again, frog.Series)
    assert all(0.0 < layer.drift < 0.02 for layer in made.layers) and len(made.layers) == 3
    assert calls == []
    assert model.training
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state()), "no global randomness either"


def test_a_model_without_data_is_refused_not_run() -> None:
    with torch.device("meta"):
        model = NeverCalled()
    with pytest.raises(frog.ModelError, match="meta device"):
        frog.analyze(model)
