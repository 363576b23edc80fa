"""Disk <-> live beyond the common case: wrappers, other heads, conversions of every kind."""

import numpy as np
import pytest
import torch
from transformers.core_model_loading import (
    Chunk,
    PermuteForRope,
    WeightConverter,
    WeightRenaming,
)

import frog
from frog.numerics import views
from frog.weights import tracing
from frog.weights.catalogue import catalogue
from frog.weights.module import list_module
from frog.weights.names import locate, to_disk
from frog.weights.source import list_tensors
from tests.tuning.models import choose, llama
from tests.weights import tiny_models


def assert_located(listed, model, expected=None):
    """All (or the expected number of) matrices have a live view with the same values."""
    found = [matrix for matrix in locate(listed, model).matrices if matrix.live is not None]
    assert len(found) == (len(listed.matrices) if expected is None else expected)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for matrix in found:
        taken = views.take(parameters[matrix.live.parameter].detach(), matrix.live.view)
        assert np.array_equal(taken.numpy(), matrix.loader.load()), matrix.name


def test_a_plain_module_keeps_its_names():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Conv2d(2, 3, 3))
    listed = list_module(model)
    assert to_disk(listed, model) is listed
    assert_located(catalogue(listed), model)


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod"])
def test_wrapped_models_are_found(wrapper):
    """Data-parallel training and torch.compile keep the model under these names."""
    model = tiny_models.build("mixtral")
    listed = catalogue(list_tensors(model))
    holder = torch.nn.Module()
    setattr(holder, wrapper, model)
    assert_located(listed, holder)
    assert {m.name for m in catalogue(list_tensors(holder)).matrices} == {
        m.name for m in listed.matrices
    }


def test_what_a_tuner_adds_is_not_asked_of_a_conversion(monkeypatch):
    """Some conversions of transformers take ``name_change`` for ``name``."""
    model = llama()
    listed = catalogue(list_tensors(model))
    asked, trace = [], tracing.trace

    def recorded(shapes, model):
        asked.extend(shapes)
        return trace(shapes, model)

    monkeypatch.setattr(tracing, "trace", recorded)
    with frog.Tuner(model, choose(model)):
        assert_located(listed, model)
    assert asked and not [name for name in asked if name.endswith("_change")]


def test_a_file_without_a_head_is_found_in_a_model_with_one(tmp_path):
    whole = tiny_models.build("bert")
    tiny_models.save(whole.bert, tmp_path)
    file = catalogue(list_tensors(tmp_path))
    assert file.matrices[0].tensor.startswith("embeddings.")
    assert_located(file, whole)
    assert_located(catalogue(list_tensors(whole)), whole.bert, expected=len(file.matrices))


def test_joined_on_disk(tmp_path):
    """q, k and v are apart in memory and one tensor on disk."""
    model = tiny_models.build("llama")
    targets = [f"self_attn.{x}_proj.weight" for x in "qkv"]
    model.config.num_key_value_heads = 4
    model = type(model)(model.config)
    model._weight_conversions = [
        WeightConverter("self_attn.in_proj_weight", targets, [Chunk(dim=0)])
    ]
    tiny_models.save(model, tmp_path)
    file, live = catalogue(list_tensors(tmp_path)), catalogue(list_tensors(model))
    assert "model.layers.0.self_attn.in_proj_weight[k]" in {m.name for m in file.matrices}
    prints = {matrix.name: matrix.loader.fingerprint() for matrix in live.matrices}
    assert prints == {matrix.name: matrix.loader.fingerprint() for matrix in file.matrices}
    assert_located(file, model)


def test_renamed_and_permuted_on_disk(tmp_path):
    """A permutation of rows cannot be traced by strides: values are right, no live view."""
    model = tiny_models.build("llama")
    model._weight_conversions = [
        WeightConverter("self_attn.wq.weight", "self_attn.q_proj.weight", [PermuteForRope()]),
        WeightRenaming("mlp.w2", "mlp.down_proj"),
    ]
    tiny_models.save(model, tmp_path)
    file, live = catalogue(list_tensors(tmp_path)), catalogue(list_tensors(model))
    values = {matrix.name: matrix.loader.load() for matrix in live.matrices}
    assert "model.layers.0.self_attn.wq.weight" in values
    for matrix in file.matrices:
        assert np.array_equal(values[matrix.name], matrix.loader.load()), matrix.name
    assert_located(file, model, expected=len(file.matrices) - 2)


def test_an_unrelated_model_has_nothing():
    listed = catalogue(list_tensors(tiny_models.build("llama")))
    assert_located(listed, torch.nn.Sequential(torch.nn.Linear(3, 2)), expected=0)
