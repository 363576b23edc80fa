"""Gradients of a live model: those of a plain backward pass, and nothing else changes."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import frog
from frog.errors import UsageError
from frog.numerics.views import take
from frog.tuning.passes import backward, undisturbed
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors
from tests.tuning.models import batches, bits, choose, llama
from tests.tuning.test_modules import MODELS, Images
from tests.tuning.test_tuner import checkpointed

transformers = pytest.importorskip("transformers")


def twin(model: Any, data: list) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and mean square by plain backward passes that keep every dense gradient."""
    model.eval()
    listed = locate(catalogue(list_tensors(model)), model).matrices
    named = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, list[np.ndarray]] = {x.name: [] for x in listed}
    for batch in data:
        model.zero_grad()
        model(**batch).loss.backward()
        for matrix in listed:
            assert matrix.live is not None
            gradient = named[matrix.live.parameter].grad
            found[matrix.name].append(take(gradient, matrix.live.view).numpy().copy())
    model.zero_grad()
    return {k: (np.mean(v, 0), np.mean(np.square(v), 0)) for k, v in found.items()}


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_matrix_has_the_gradient_of_a_plain_pass(name: str) -> None:
    model = MODELS[name]()
    expected = twin(model, batches(3))
    found = frog.collect_gradients(model, batches(3))
    assert set(found) == {x.name for x in frog.inspect(model).matrices}
    assert not found.left_out and len(found.losses) == 3
    for key, (mean, square) in expected.items():
        scale = np.abs(mean).max()
        np.testing.assert_allclose(found[key].mean, mean, rtol=1e-4, atol=1e-6 * scale)
        np.testing.assert_allclose(found[key].square, square, rtol=1e-4, atol=1e-6 * scale**2)


def test_the_model_is_left_as_it_was() -> None:
    class Noisy(Images):
        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
            self.norm.num_batches_tracked += 1  # what some modules do in any mode
            random.random(), np.random.random(), torch.rand(1)
            return super().forward(input_ids, labels)

    model = Noisy().train()
    model.flat.eval()
    model.grouped.weight.requires_grad_(False)
    model(**batches(1)[0]).loss.backward()
    gradients = {k: v.grad for k, v in model.named_parameters()}
    copies = {k: v.clone() for k, v in gradients.items() if v is not None}
    before, modes = bits(model), [x.training for x in model.modules()]
    tracked = model.norm.num_batches_tracked.clone()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    drawn = torch.rand(1), random.random(), np.random.random()
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    found = frog.collect_gradients(model, batches(2))
    assert (torch.rand(1), random.random(), np.random.random()) == drawn
    assert [x.training for x in model.modules()] == modes
    assert torch.equal(model.norm.num_batches_tracked, tracked)
    assert all(torch.equal(before[k], v) for k, v in bits(model).items())
    for key, parameter in model.named_parameters():
        assert parameter.grad is gradients[key], key
        assert parameter.grad is None or torch.equal(parameter.grad, copies[key])
        assert parameter.requires_grad == (key != "grouped.weight")
        assert not parameter._post_accumulate_grad_hooks, key
    assert "grouped.weight" in found  # frozen weights have a gradient, too


def test_dropout_is_off_and_a_failing_loss_changes_nothing() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 4)).train()
    data = [torch.ones(2, 4)] * 3
    found = frog.collect_gradients(model, data, loss=lambda m, x: m(x).sum())
    assert (found["1.weight"].mean == 2).all() and (found["1.weight"].square == 4).all()

    def broken(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        m(x).sum().backward()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        frog.collect_gradients(model, data, loss=broken)
    assert model.training and model[1].weight.grad is None
    assert not model[1].weight._post_accumulate_grad_hooks


def test_no_more_than_one_dense_gradient_lives() -> None:
    model = llama()
    named = {k: v for k, v in model.named_parameters() if v.ndim == 2}
    seen: list[int] = []

    def look(gradient: torch.Tensor) -> None:
        seen.append(sum(x.grad is not None for x in model.parameters()))

    backward(model, batches(2), None, dict.fromkeys(named.values(), look))
    assert seen == [0] * (2 * len(named))


def test_under_a_tuner_the_gradients_are_those_of_the_plain_model_of_now() -> None:
    for name in ("gpt2: Conv1D, fused qkv", "mixtral: fused experts", "convolutions"):
        model, plain = MODELS[name](), MODELS[name]()
        tuner = frog.Tuner(model, choose(model, 0.3))
        for compact in tuner.compacts:
            compact.set(0.01 * torch.ones_like(compact.change))
        plain.load_state_dict(model.state_dict())
        model.train()
        model(**batches(1)[0]).loss.backward()
        before = {x.name: x.change.grad.clone() for x in tuner.compacts}
        counted = tuner.micro_step
        found = frog.collect_gradients(model, batches(2))
        expected = frog.collect_gradients(plain, batches(2))
        assert set(found) == set(expected)
        for key in found:
            np.testing.assert_array_equal(found[key].mean, expected[key].mean)
        assert tuner.micro_step == counted
        assert all(torch.equal(x.change.grad, before[x.name]) for x in tuner.compacts)
        assert all(not x.weight.requires_grad and x.weight.grad is None for x in tuner.compacts)
        model(**batches(1)[0]).loss.backward()  # the taps work again
        assert not torch.equal(tuner.compacts[0].change.grad, before[tuner.compacts[0].name])
        tuner.revert()


@pytest.mark.parametrize(
    "score", ["gradient", "fisher", "relevance-gradient", "gradient * relevance^-1"]
)
def test_scores_that_need_gradients_select_on_a_live_model(score: str) -> None:
    model = llama()
    report = frog.analyze(model, frog.Settings(bootstrap=0, curves=False, min_evals=8))
    plan = frog.allocate(report, 0.05)
    names = [x.name for x in plan.layers]
    gradients = frog.collect_gradients(model, batches(3), names=names)
    assert list(gradients) == names
    chosen = frog.select(model, plan, score=score, choice=frog.Choice(gradients=gradients))
    assert chosen.count == plan.total
    if score in ("gradient", "fisher"):
        for x in chosen.chosen:
            g = gradients[x.name]
            value = np.abs(g.mean).ravel() if score == "gradient" else g.square.ravel()
            outside = np.delete(value, x.index)
            assert value[x.index].min() >= outside.max()
    tuner = frog.Tuner(model, chosen)
    rate = tuner.rate(batches(2))
    assert rate.share is not None and rate.chance is not None
    if "relevance" not in score:
        assert rate.share > 2 * rate.chance


def test_names_of_a_base_model_find_the_matrices_of_one_with_a_head() -> None:
    config = transformers.BertConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=64, max_position_embeddings=32,
    )  # fmt: skip
    base = transformers.BertModel(config)
    model = transformers.BertForSequenceClassification(config)
    model.bert.load_state_dict(base.state_dict())
    names = [x.name for x in frog.inspect(base).matrices if "encoder" in x.name]
    data = [x | {"labels": torch.tensor([0, 1, 0, 1])} for x in batches(2)]
    found = frog.collect_gradients(model, data, names=names)
    assert list(found) == names and np.abs(found[names[0]].mean).max() > 0


class Loose(nn.Module):
    """One layer that the loss uses, one that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x).square().mean()


def test_matrices_that_the_loss_does_not_use_are_told() -> None:
    found = frog.collect_gradients(Loose(), [torch.ones(2, 3)])
    assert list(found) == ["used.weight"] and "does not use it" in found.left_out["unused.weight"]
    with pytest.raises(UsageError, match=r"unused\.weight must get a gradient"):
        frog.collect_gradients(Loose(), [torch.ones(2, 3)], names=["unused.weight", "used.weight"])
    report = frog.analyze(Loose(), frog.Settings(bootstrap=0, curves=False))
    plan = frog.allocate(report, 3)
    with pytest.raises(UsageError, match=r"got none for unused\.weight"):
        frog.select(Loose(), plan, score="gradient", choice=frog.Choice(gradients=found))


@pytest.mark.parametrize(("data", "loss", "told"), [
    ([], None, "at least one batch"),
    ({"x": torch.ones(2, 3)}, None, "put it in a list"),
    (torch.ones(2, 3), None, "put it in a list"),
    ([torch.ones(2, 3), torch.full((2, 3), torch.nan)], None, "loss of batch 2 must be finite"),
    ([torch.ones(2, 3)], lambda m, x: m.used(x), "one number"),
    ([torch.ones(2, 3)], lambda m, x: m(x).detach(), "has no gradient"),
    ([torch.ones(2, 3)], lambda m, x: 3.0, "tensor of one number"),
    ([torch.ones(2, 3)], lambda m, x: (m(x) - m(x).detach()).sqrt(), "gradient of used.weight"),
    ([(torch.ones(2, 3),)], None, None),
    ([{"x": torch.ones(2, 3)}], None, None),
])  # fmt: skip
def test_what_is_wrong_is_said(data: Any, loss: Any, told: str | None) -> None:
    if told is None:
        assert frog.collect_gradients(Loose(), data, loss=loss)
        return
    with pytest.raises(UsageError, match=told):
        frog.collect_gradients(Loose(), data, loss=loss)


def test_an_output_without_a_loss_and_an_unknown_name_are_refused() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(UsageError, match=r"must hold a loss of one number, got shape \(2, 3\)"):
        frog.collect_gradients(layer, [torch.ones(2, 3)])
    with pytest.raises(UsageError, match=r"got 'wieght': it has weight"):
        frog.collect_gradients(layer, [torch.ones(2, 3)], names=["wieght"])


def test_a_gradient_that_comes_in_parts_is_refused() -> None:
    model = llama().train()
    checkpointed(model, "reentrant")
    found = frog.collect_gradients(model, batches(1))  # eval mode: no checkpointing
    assert found.losses

    def twice(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        m(x).backward()
        return m(x)

    layer = Loose()
    with pytest.raises(UsageError, match="in one piece"):
        frog.collect_gradients(layer, [torch.ones(2, 3)], loss=twice)
    assert layer.used.weight.grad is None


def test_sparse_gradients_of_embeddings_and_bfloat16() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4, sparse=True)
            self.out = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.out(self.table(ids).bfloat16()).float().square().sum()

    found = frog.collect_gradients(Words(), [torch.tensor([1, 3]), torch.tensor([3, 3])])
    rows = np.abs(found["table.weight"].mean).sum(1) > 0
    assert rows.tolist() == [i in (1, 3) for i in range(9)]
    assert found["out.weight"].square.dtype == np.float32


def test_recurrent_layers_keep_their_training_mode_meanwhile() -> None:
    model = nn.ModuleDict({"a": nn.LSTM(3, 3), "b": nn.Linear(3, 3)}).eval()
    with undisturbed(model, []):
        assert model["a"].training and not model["b"].training
    assert not model["a"].training
