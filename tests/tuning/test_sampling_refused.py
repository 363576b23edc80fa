"""What layer sampling refuses, with the reason."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import frog
from frog.errors import ModelError, UsageError
from tests.tuning.models import bits, choose
from tests.tuning.sampled import changed, deep, train

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def report() -> frog.ModelReport:
    return frog.analyze(deep(), frog.Settings(bootstrap=0, curves=False, min_evals=10))


# ------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(("settings", "said"), [
    ({"active": 0}, "active must be a whole number from 1"),
    ({"active": 6}, "less than the 6 blocks"),
    ({"every": 2.5}, "every must be a whole number"),
    ({"every": True}, "every must be a whole number"),
    ({"seed": -1}, "seed must be a whole number from 0"),
    ({"by": "alpha"}, "needs a report"),
    ({"by": "beauty"}, "no way to draw layers 'beauty'"),
    ({"temperature": 0.0}, "temperature must be"),
    ({"unit": "row"}, "unit must be one of"),
    ({"always": ["no_such"]}, "no parameter for always= 'no_such'"),
    ({"always": ["("]}, "regular expressions"),
])  # fmt: skip
def test_bad_settings_are_refused(settings: dict, said: str) -> None:
    model = deep()
    before = [x.requires_grad for x in model.parameters()]
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        frog.LayerSampler(model, None, **settings)
    assert [x.requires_grad for x in model.parameters()] == before
    frog.Tuner(model, choose(model)).revert()  # nothing of it is left


def test_bad_models_and_reports_are_refused(report: frog.ModelReport) -> None:
    with pytest.raises(UsageError, match="must be a ModelReport"):
        frog.LayerSampler(deep(), "report.json")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="none of the matrices"):
        frog.LayerSampler(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), report, active=1)
    with pytest.raises(UsageError, match="as in the report"):
        frog.LayerSampler(deep(hidden_size=64), report)
    other = deep()
    with torch.no_grad():
        other.model.layers[3].mlp.up_proj.weight[0, 0] += 1
    with pytest.raises(UsageError, match="does not hold the weights that were measured"):
        frog.LayerSampler(other, report)
    frog.LayerSampler(deep(torch.bfloat16), report)  # loaded in another dtype than measured
    with pytest.raises(UsageError, match="two blocks or more"):
        frog.LayerSampler(deep(num_hidden_layers=1), None, unit="block")
    broken = deep()
    with torch.no_grad():
        broken.model.layers[3].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        frog.LayerSampler(broken, None)
    whole = nn.Linear(8, 8)
    with pytest.raises(UsageError, match="two modules or more"):
        frog.LayerSampler(whole, None)


def test_one_tuner_or_sampler_at_a_time() -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None)
    for make in (lambda: frog.LayerSampler(model, None), lambda: frog.Tuner(model, choose(model))):
        with pytest.raises(UsageError, match="has a tuner already"):
            make()
    sampler.revert()
    frog.Tuner(model, choose(model))
    with pytest.raises(UsageError, match="has a tuner already"):
        frog.LayerSampler(model, None)


def test_sharded_parameters_are_refused() -> None:
    model = deep()
    model.model.norm.weight.ds_id = 1
    with pytest.raises(UsageError, match="ZeRO-3"):
        frog.LayerSampler(model, None)


def test_an_optimizer_that_lacks_what_will_be_drawn_is_refused() -> None:
    model = deep()
    frog.LayerSampler(model, None)
    before = bits(model)
    partial = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=1e-2)
    with pytest.raises(UsageError, match="one optimizer must hold all"):
        train(model, partial, range(1))
    assert not changed(before, model)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_a_step_without_gradients_for_the_active_layers_is_refused() -> None:
    """Re-entrant checkpointing cuts them off where the input of the layers wants no gradient."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(3))
            self.classifier = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=True)
            return self.classifier(x)

    model = Net()
    sampler = frog.LayerSampler(model, None, active=1)
    assert set(sampler.division.always) == {"classifier.weight", "classifier.bias"}
    optimizer = sampler.optimizer(lr=1e-2)
    before = bits(model)
    model(torch.ones(3, 8)).sum().backward()
    with pytest.raises(UsageError, match="no gradient reached the active layers"):
        optimizer.step()
    assert not changed(before, model)


def test_a_parameter_that_was_replaced_is_told_of() -> None:
    model = deep()
    optimizer = frog.LayerSampler(model, None).optimizer(lr=1e-2)
    train(model, optimizer, range(1))
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    with pytest.raises(UsageError, match="must stay the parameter it was"):
        train(model, optimizer, range(1))


def test_loading_another_model_is_refused() -> None:
    model = deep(tie_word_embeddings=False)
    sampler = frog.LayerSampler(model, None, always=["lm_head"])
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["model.embed_tokens.weight"] += 1
    before = bits(model)
    with pytest.raises(UsageError, match="never trains it"):
        model.load_state_dict(state)
    with pytest.raises(UsageError, match="assign"):
        model.load_state_dict(model.state_dict(), assign=True)
    assert not changed(before, model)
    sampler.revert()
    model.load_state_dict(state)


def test_casting_while_it_trains_is_refused() -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None)
    model.to(torch.bfloat16)
    with pytest.raises(UsageError, match=r"must stay torch\.float32"):
        sampler.delta()
