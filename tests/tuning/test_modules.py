"""Every kind of layer trains its chosen entries as a masked dense gradient would."""

from typing import Any

import pytest
import torch
from torch import nn

from frog.errors import UsageError
from frog.tuning import Tuner
from tests.tuning.models import batches, bits, choose, llama, masks, moved_only_inside
from tests.tuning.runs import advance

transformers = pytest.importorskip("transformers")


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=32, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def mixtral() -> Any:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config)


class Images(nn.Module):
    """Convolutions of every kind, with BatchNorm and ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, stride=2, groups=2)
        self.flat = nn.Conv1d(8, 12, 3)
        self.solid = nn.Conv3d(1, 4, 2)
        self.head = nn.Linear(12, 10)
        self.act = nn.ReLU(inplace=True)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
        x = input_ids.float()[:, :1, None, None].repeat(1, 3, 10, 10) / 64
        x = x + torch.linspace(0, 1, 10)[:, None] * torch.linspace(-1, 1, 10)
        x = self.act(self.norm(self.first(x)))
        x = self.act(self.grouped(x)).flatten(2)
        x = self.act(self.flat(x))
        y = self.solid(x[:, None, :, :, None].repeat(1, 1, 1, 1, 2)).mean()
        x = self.act(self.head(x.mean(2))) * (1 + y)
        return transformers.modeling_outputs.ModelOutput(
            loss=nn.functional.cross_entropy(x, labels[:, 0] % 10)
        )


MODELS = {
    "llama, tied embeddings": llama,
    "gpt2: Conv1D, fused qkv": gpt2,
    "mixtral: fused experts": mixtral,
    "convolutions": Images,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("granularity", ["element", "row", "column", "block"])
def test_gradients_are_those_of_a_masked_dense_model(name: str, granularity: str) -> None:
    model, twin = MODELS[name](), MODELS[name]()
    batch = batches(1)[0]
    tuner = Tuner(model, choose(model, 0.2, granularity))
    model.train(), twin.train()
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model(**batch).loss.backward()
    twin(**batch).loss.backward()
    dense = dict(twin.named_parameters())
    assert len({id(x.change) for x in tuner.compacts}) == len(tuner.compacts)
    for compact in tuner.compacts:
        expected = dense[compact.name].grad.reshape(-1)[compact.index]
        assert compact.change.grad is not None, compact.name
        assert torch.allclose(compact.change.grad, expected, rtol=1e-3, atol=1e-6), compact.name


@pytest.mark.parametrize("name", MODELS)
def test_only_the_chosen_entries_move(name: str) -> None:
    model = MODELS[name]()
    before = bits(model)
    tuner = Tuner(model, choose(model, 0.1))
    mask = masks(tuner)
    optimizer = tuner.optimizer(lr=1e-2)
    model.train()
    for batch in batches(4):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert moved_only_inside(before, model, mask)
    tuner.revert()
    assert all(torch.equal(before[k], v) for k, v in bits(model).items())


def test_statistics_of_batchnorm_stay_unless_asked() -> None:
    batch = batches(1)[0]
    for release in (False, True):
        model = Images()
        before = model.norm.running_mean.clone()
        tuner = Tuner(model, choose(model), frozen_statistics=not release)
        model.train()
        model(**batch)
        assert model.norm.training == release
        assert torch.equal(before, model.norm.running_mean) != release
        tuner.revert()
        model.train()
        assert model.norm.training


def test_no_gradients_no_cost_and_the_right_weights() -> None:
    model = llama()
    tuner = Tuner(model, choose(model, 0.3))
    with torch.no_grad():
        for compact in tuner.compacts:
            compact.change += 0.01
    tuner.write()  # what no optimizer did
    ids = batches(1)[0]["input_ids"]
    model.eval()
    with torch.no_grad():
        logits = model(ids).logits
    tokens = model.generate(ids[:1, :4], max_new_tokens=3, do_sample=False, pad_token_id=0)
    tuner.keep()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, logits)
    again = model.generate(ids[:1, :4], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert torch.equal(again, tokens)


def test_a_module_used_twice_adds_its_gradients() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.relu(self.layer(x)))

    model, twin = Twice(), Twice()
    x = torch.randn(3, 8)
    tuner = Tuner(model, choose(model, 0.5))
    model(x).sum().backward()
    twin(x).sum().backward()
    compact = tuner.compacts[0]
    assert twin.layer.weight.grad is not None and compact.change.grad is not None
    expected = twin.layer.weight.grad.reshape(-1)[compact.index]
    assert torch.allclose(compact.change.grad, expected, atol=1e-6)


def test_a_model_cast_while_tuned_is_refused() -> None:
    model = llama()
    tuner = Tuner(model, choose(model))
    model.half()
    with pytest.raises(UsageError, match="cast the model before"):
        tuner.write()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's
def test_compiled_models_train_the_same() -> None:
    losses = []
    for compiled in (False, True):
        model = llama()
        before = bits(model)
        tuner = Tuner(model, choose(model))
        mask = masks(tuner)
        optimizer = tuner.optimizer(lr=1e-2)
        run = torch.compile(model, backend="aot_eager") if compiled else model
        losses.append(advance(run, optimizer, batches(4) * 3))
        assert moved_only_inside(before, model, mask)
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    assert losses[0][-1] < losses[0][0]
