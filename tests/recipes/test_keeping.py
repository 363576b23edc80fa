"""Recipes: a new head is fitted first, a share of the change is kept at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import frog
from frog.api import Watch, preview
from frog.errors import UsageError
from frog.types.recipes import KEEP_CHANGE
from tests.recipes.small import recipe_of, save_bert
from tests.recipes.test_runs import CPU, stop_at, told, weights

WARNINGS = ["ignore::DeprecationWarning", "ignore::FutureWarning"]
pytestmark = [pytest.mark.filterwarnings(x) for x in WARNINGS]


def test_the_head_comes_first_and_a_share_is_kept(bert: Path, rows: Path, tmp_path: Path) -> None:
    """Runs that differ in one key each: the chosen weights' change is scaled, the head is not."""
    stages: list[str] = []
    plain = recipe_of(bert, rows, tmp_path / "all", head_first=60)
    every = frog.tune(plain, watch=Watch(on_stage=stages.append))
    assert stages.index("fitting the new head") < stages.index("selecting weights")
    assert every.head is not None and every.head.steps == 60 and every.head.rate == 0.01
    assert every.head.names == ("classifier.weight", "classifier.bias")
    assert every.keep_change == KEEP_CHANGE
    some = frog.tune(plain | {"output": str(tmp_path / "some"), "keep_change": 0.6})
    assert told(tmp_path / "some")["keep_change"] == 0.6
    base, full, scaled = weights(bert), weights(tmp_path / "all"), weights(tmp_path / "some")
    chosen = frog.Selection.load(tmp_path / "some" / "selection.safetensors")
    moved = 0
    for one in chosen.chosen:
        old = base[one.name.removeprefix("bert.")].view(-1)
        change = (full[one.name].view(-1) - old)[one.index]
        kept = (scaled[one.name].view(-1) - old)[one.index]
        assert torch.allclose(kept, 0.6 * change, atol=1e-7)
        moved += int((kept != 0).sum())
    assert moved > 0.9 * chosen.count
    for name in every.head.names:
        assert torch.equal(full[name], scaled[name])
    assert some.changed <= every.changed and some.before == every.before
    # what was measured is what was written; the delta undoes the chosen weights to the base
    kind = pytest.importorskip("transformers").AutoModelForSequenceClassification
    model = kind.from_pretrained(tmp_path / "some")
    delta = frog.SparseDelta.load(tmp_path / "some" / "delta.safetensors")
    frog.apply_delta(model, delta, revert=True)
    assert all(torch.equal(v, base[k]) for k, v in model.bert.state_dict().items())
    started = model.classifier.weight.detach().clone()
    none = frog.tune(plain | {"output": str(tmp_path / "none"), "head_first": 0})
    assert none.head is None and none.before == every.before, "before is before all training"
    model = kind.from_pretrained(tmp_path / "none")
    delta = frog.SparseDelta.load(tmp_path / "none" / "delta.safetensors")
    frog.apply_delta(model, delta, revert=True)
    drawn = model.classifier.weight.detach()
    assert torch.equal(started, drawn), "the delta starts from the base: the head as it was drawn"
    # what was written runs again as it was
    again = yaml.safe_load((tmp_path / "some" / "recipe.yaml").read_text())
    assert again["head_first"] == 60 and again["keep_change"] == 0.6


def test_a_run_that_goes_on_ends_alike(bert: Path, rows: Path, tmp_path: Path) -> None:
    """The head is taken from the run, not fitted again, and the change is scaled once."""
    training = {"max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 1,
                "save_strategy": "steps"}  # fmt: skip
    plain = recipe_of(bert, rows, tmp_path / "cut", training=training | CPU, keep_change=0.5,
                      learning_rate="auto")  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        frog.tune(plain, watch=stop_at(2))
    held = tmp_path / "cut" / "checkpoints" / "head.pt"
    stages: list[str] = []
    for change, what in (({"head_first": 3}, "head_first"), ({"keep_change": 1}, "keep_change")):
        with pytest.raises(UsageError, match=what):
            frog.tune(plain | change, resume=True)
    good = held.read_bytes()
    held.write_bytes(good[:100])
    with pytest.raises(UsageError, match=r"head\.pt must hold the head .* --overwrite"):
        frog.tune(plain, resume=True)
    held.write_bytes(good)
    result = frog.tune(plain, resume=True, watch=Watch(on_stage=stages.append))
    assert result.resumed_at == 2 and "fitting the new head" not in stages
    straight = frog.tune(plain | {"output": str(tmp_path / "straight")})
    assert result.rate == straight.rate and result.after == straight.after
    first, second = weights(tmp_path / "cut"), weights(tmp_path / "straight")
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    deltas = [
        frog.SparseDelta.load(tmp_path / x / "delta.safetensors") for x in ("cut", "straight")
    ]
    for a, b in zip(deltas[0].tensors, deltas[1].tensors, strict=True):
        assert a.tensor == b.tensor and a.before == b.before and np.array_equal(a.xor, b.xor)


def test_the_plan_says_both(bert: Path, rows: Path, tmp_path: Path) -> None:
    plan = preview(recipe_of(bert, rows, tmp_path / "o", head_first=7, keep_change=0.6))
    assert plan.head is not None and plan.head.steps == 7 and plan.recipe.keep_change == 0.6
    assert preview(recipe_of(bert, rows, tmp_path / "o", head_first=0)).head is None


def test_a_head_that_cannot_be_fitted_is_told_by_its_key(
    bert: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise UsageError("the loss of batch 1 must be finite, got nan")

    monkeypatch.setattr("frog.tuning.fit_head", refused)
    with pytest.raises(UsageError, match=r"^the recipe: head_first: the loss of batch 1"):
        frog.tune(recipe_of(bert, rows, tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_a_model_that_has_its_head(rows: Path, tmp_path: Path) -> None:
    model = save_bert(tmp_path / "model", kind="BertForSequenceClassification",
                      id2label={0: "0", 1: "1"})  # fmt: skip
    assert preview(recipe_of(model, rows, tmp_path / "o")).head is None
    for more in ({}, {"train_also": ["classifier"]}):
        with pytest.raises(UsageError, match=r"head_first: must be 0 or auto where no new param"):
            preview(recipe_of(model, rows, tmp_path / "o", head_first=5, **more))


def test_the_rate_is_in_the_units_of_adamw(bert: Path, rows: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str, float]] = [
        ({"learning_rate": 0.01}, "adamw_torch", 0.01),
        ({"learning_rate": 3.0}, "sgd", 0.03),
        ({"learning_rate": "auto"}, "adamw_torch", 1e-3),
        ({"learning_rate": "auto", "full_learning_rate": 2e-5}, "adamw_torch", 2e-4),
        ({"learning_rate": "auto", "full_learning_rate": 1e-3}, "sgd", 1e-4),
    ]
    for more, optim, rate in cases:
        training = {"max_steps": 2, "optim": optim, **CPU}
        plan = preview(recipe_of(bert, rows, tmp_path / "o", training=training, **more))
        assert plan.head is not None and plan.head.rate == pytest.approx(rate), more


def test_whole_layers_keep_a_share(bert: Path, rows: Path, tmp_path: Path) -> None:
    plain = recipe_of(bert, rows, tmp_path / "all", mode="layers", layers={"active": 1},
                      learning_rate=1e-3)  # fmt: skip
    plain.pop("selection")
    frog.tune(plain)
    frog.tune(plain | {"output": str(tmp_path / "some"), "keep_change": 0.6})
    base, full, scaled = weights(bert), weights(tmp_path / "all"), weights(tmp_path / "some")
    name = "bert.encoder.layer.{}.output.dense.weight"
    moved = 0
    for layer in (0, 1):
        old = base[name.format(layer).removeprefix("bert.")]
        change = full[name.format(layer)] - old
        assert torch.allclose(scaled[name.format(layer)] - old, 0.6 * change, atol=1e-7)
        moved += int((change != 0).sum())
    assert moved


@pytest.mark.slow
def test_the_best_checkpoint_is_scaled(bert: Path, rows: Path, tmp_path: Path) -> None:
    training = {
        "max_steps": 6, "per_device_train_batch_size": 4, "eval_strategy": "steps",
        "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "optim": "sgd",
        "load_best_model_at_end": True, "metric_for_best_model": "loss",
    }  # fmt: skip
    plain = recipe_of(bert, rows, tmp_path / "all", learning_rate=30.0, training=training | CPU)
    frog.tune(plain)
    frog.tune(plain | {"output": str(tmp_path / "some"), "keep_change": 0.5})
    base, full, scaled = weights(bert), weights(tmp_path / "all"), weights(tmp_path / "some")
    chosen = frog.Selection.load(tmp_path / "some" / "selection.safetensors")
    for one in chosen.chosen:
        old = base[one.name.removeprefix("bert.")].view(-1)[one.index]
        change, kept = (x[one.name].view(-1)[one.index] - old for x in (full, scaled))
        assert torch.allclose(kept, 0.5 * change, rtol=1e-5, atol=1e-6)
