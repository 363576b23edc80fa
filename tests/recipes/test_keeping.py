"""Recipes: a new head is fitted first and last, a share of the change is kept at the end."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.optim import AdamW

import frog
from frog.api import Watch, preview, read_recipe
from frog.api.fitting import at_the_end, head_fit
from frog.errors import UsageError
from frog.serial.tuned import read_metrics
from frog.types.recipes import KEEP_CHANGE
from tests.recipes.small import recipe_of, save_bert
from tests.recipes.test_runs import CPU, stop_at, told, weights

WARNINGS = ["ignore::DeprecationWarning", "ignore::FutureWarning"]
pytestmark = [pytest.mark.filterwarnings(x) for x in WARNINGS]


def test_the_head_comes_first_and_a_share_is_kept(bert: Path, rows: Path, tmp_path: Path) -> None:
    """Runs that differ in one key each: the chosen weights' change is scaled, the head is not."""
    stages: list[str] = []
    plain = recipe_of(bert, rows, tmp_path / "all", head_first=60, head_last=0, keep_change=1)
    every = frog.tune(plain, watch=Watch(on_stage=stages.append))
    assert stages.index("fitting the new head") < stages.index("selecting weights")
    assert every.head is not None and every.head.steps == 60 and every.head.rate == 0.01
    assert every.head.names == ("classifier.weight", "classifier.bias")
    assert every.head.last == 0 and "fitting the head once more" not in stages
    assert every.keep_change == 1
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
    assert again["head_first"] == 60 and again["keep_change"] == 0.6 and again["head_last"] == 0


def test_the_head_comes_last_and_moves_nothing_else(bert: Path, rows: Path, tmp_path: Path) -> None:
    """By default: a share is kept, the head fitted once more; all but the head keeps its bits."""
    stages: list[str] = []
    plain = recipe_of(bert, rows, tmp_path / "last", guards="auto", noise=0.01)
    last = frog.tune(plain, watch=Watch(on_stage=stages.append))
    order = ["training", "fitting the head once more", "measuring the task after"]
    assert sorted(order, key=stages.index) == order
    assert last.head is not None and last.head.steps == last.head.last == 6
    assert last.keep_change == KEEP_CHANGE == 0.6 and not last.notes
    metrics = told(tmp_path / "last")
    assert metrics["head"]["last"] == 6 and metrics["keep_change"] == 0.6
    assert read_metrics(tmp_path / "last").head == last.head
    none = frog.tune(plain | {"output": str(tmp_path / "none"), "head_last": 0})
    assert none.keep_change == 0.6 and none.head is not None and none.head.last == 0
    first, second = weights(tmp_path / "last"), weights(tmp_path / "none")
    moved = {name for name, value in first.items() if not torch.equal(value, second[name])}
    assert moved == set(last.head.names)
    assert last.before == none.before and last.after != none.after
    certificates = [
        frog.Certificate.from_json(tmp_path / x / "certificate.json") for x in ("last", "none")
    ]
    assert all(x.untouched for x in certificates)
    assert certificates[0].alarms == certificates[1].alarms
    # what was measured is what was written, and the delta undoes it to the start
    kind = pytest.importorskip("transformers").AutoModelForSequenceClassification
    deltas = [frog.SparseDelta.load(tmp_path / x / "delta.safetensors") for x in ("last", "none")]
    undone = [kind.from_pretrained(tmp_path / x) for x in ("last", "none")]
    for model, delta in zip(undone, deltas, strict=True):
        frog.apply_delta(model, delta, revert=True)
    for (name, a), b in zip(undone[0].state_dict().items(), undone[1].state_dict().values(),
                            strict=True):  # fmt: skip
        assert torch.equal(a, b), name


NEW = ("head.weight", "head.bias")


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_auto_in_every_combination(
    bert: Path, rows: Path, tmp_path: Path, new: bool, whole: bool
) -> None:
    """Against the table of docs/recipes.md, in other words."""
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(4, 4), "head": torch.nn.Linear(4, 2)})
    prepared: Any = SimpleNamespace(model=model, new=NEW if new else (), loss=None)
    trained = {"head.weight": model["head"].weight, "head.bias": model["head"].bias}
    trainer = SimpleNamespace(model=model, whole=trained if whole else {})
    for first, last, keep in product(("auto", 0, 3), ("auto", 0, 4), ("auto", 1, 0.5)):
        recipe = read_recipe(
            recipe_of(bert, rows, tmp_path, head_first=first, head_last=last, keep_change=keep)
        )
        if (not new and (first == 3 or last == 4)) or (new and not whole and last == 4):
            with pytest.raises(UsageError, match=r"head_(first|last): must be 0 or auto where"):
                at_the_end(head_fit(recipe, prepared, AdamW), recipe, prepared, trainer)
            continue
        head, kept = at_the_end(head_fit(recipe, prepared, AdamW), recipe, prepared, trainer)
        fitted = {"auto": 6, 0: 0, 3: 3}[first] if new else 0
        auto = None if not new else 0.6 if fitted and whole else 1.0
        share = auto if keep == "auto" else keep
        again = (fitted if share and share < 1 and whole else 0) if last == "auto" else last
        assert kept == share, (first, last, keep)
        if fitted or again:
            assert head is not None and (head.steps, head.last) == (fitted, again)
            assert head.names == NEW
        else:
            assert head is None


def test_the_rate_is_divided_by_what_is_kept(bert: Path, rows: Path, tmp_path: Path) -> None:
    """The automatic one alone, and that of the chosen weights alone; also of whole layers."""
    for more in ({}, {"mode": "layers", "layers": {"active": 1}}):
        plain = recipe_of(bert, rows, tmp_path / "o", full_learning_rate=1e-6, **more)
        plain = plain | {"learning_rate": "auto"}
        if more:
            plain.pop("selection")
        every, some = preview(plain | {"keep_change": 1}), preview(plain)
        assert (every.keep_change, some.keep_change) == (1, 0.6)
        assert some.rate.value == pytest.approx(every.rate.value / 0.6)
        first = some.rate.reason.splitlines()[0]
        assert first.endswith(" / 0.6 (share of the change that is kept)")
        assert "kept" not in every.rate.reason and every.head is not None and some.head is not None
        assert some.head.rate == every.head.rate and (every.head.last, some.head.last) == (0, 6)
    number = preview(recipe_of(bert, rows, tmp_path / "o"))
    assert number.rate.value == 0.01 and number.keep_change == 0.6


def test_a_head_that_is_fitted_last_alone(bert: Path, rows: Path, tmp_path: Path) -> None:
    plain = recipe_of(bert, rows, tmp_path / "o", head_first=0, head_last=4)
    with pytest.raises(KeyboardInterrupt):
        frog.tune(plain, watch=stop_at(2))
    result = frog.tune(plain, resume=True)
    assert result.head is not None and (result.head.steps, result.head.last) == (0, 4)
    assert result.keep_change == 1 and result.resumed_at == 2


@pytest.mark.parametrize("strategy", ["no", "steps", "best"])
def test_a_run_that_ends_in_the_last_stage_goes_on_alike(
    bert: Path, rows: Path, tmp_path: Path, strategy: str
) -> None:
    """The change is scaled and the head fitted last once, whatever was done before the end."""
    training = {"max_steps": 4, "per_device_train_batch_size": 4, "save_strategy": strategy,
                "save_steps": 2, **CPU}  # fmt: skip
    if strategy == "best":  # here that of the last step has the larger loss
        training |= {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 2,
                     "load_best_model_at_end": True, "metric_for_best_model": "loss",
                     "greater_is_better": True}  # fmt: skip
    plain = recipe_of(bert, rows, tmp_path / "cut", training=training)
    for stage, resume in (
        ("fitting the head once more", False),
        ("measuring the task after", True),
    ):

        def end(text: str, at: str = stage) -> None:
            if text == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            frog.tune(plain, watch=Watch(on_stage=end), resume=resume)
    result = frog.tune(plain, resume=True)
    assert result.resumed_at == (0 if strategy == "no" else 4)
    straight = frog.tune(plain | {"output": str(tmp_path / "straight")})
    assert result.after == straight.after and result.head == straight.head
    first, second = weights(tmp_path / "cut"), weights(tmp_path / "straight")
    assert all(torch.equal(v, second[k]) for k, v in first.items())


def test_a_run_that_a_guard_ended_goes_on_alike(
    bert: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frog.tuning.guards.guarded import Guarded

    monkeypatch.setattr(Guarded, "stopped", property(lambda tuner: tuner.step >= 2))

    def end(text: str) -> None:
        if text == "measuring the task after":
            raise KeyboardInterrupt

    plain = recipe_of(bert, rows, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        frog.tune(plain, watch=Watch(on_stage=end))
    result = frog.tune(plain, resume=True)
    straight = frog.tune(plain | {"output": str(tmp_path / "straight")})
    assert result.resumed_at == result.steps == straight.steps == 2
    first, second = weights(tmp_path / "cut"), weights(tmp_path / "straight")
    assert all(torch.equal(v, second[k]) for k, v in first.items())


def test_a_run_that_went_astray_is_written(
    bert: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frog.tuning import fit_head

    calls: list[int] = []

    def astray(*given: Any, steps: int, **more: Any) -> Any:
        calls.append(steps)
        if len(calls) == 2:
            raise UsageError("the loss of batch 1 must be finite, got nan")
        return fit_head(*given, steps=steps, **more)

    monkeypatch.setattr("frog.tuning.fit_head", astray)
    result = frog.tune(recipe_of(bert, rows, tmp_path / "o"))
    assert calls == [6, 6] and result.head is not None and result.head.last == 0
    assert result.notes[-1] == (
        "the head was not fitted once more at the end: the loss of batch 1 must be finite, got nan"
    )


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
    for change, what in (({"head_first": 3}, "head_first"), ({"keep_change": 1}, "keep_change"),
                         ({"head_last": 2}, "head_last")):  # fmt: skip
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
    plan = preview(recipe_of(bert, rows, tmp_path / "o", head_first=7, keep_change=0.5))
    assert plan.head is not None and plan.head.steps == plan.head.last == 7
    assert plan.keep_change == 0.5
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
    plan = preview(recipe_of(model, rows, tmp_path / "o"))
    assert plan.head is None and plan.keep_change is None
    with pytest.raises(UsageError, match=r"head_last: must be 0 or auto where no new parameters"):
        preview(recipe_of(model, rows, tmp_path / "o", head_last=5))
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
                      learning_rate=1e-3, keep_change=1)  # fmt: skip
    plain.pop("selection")
    frog.tune(plain)
    some = frog.tune(plain | {"output": str(tmp_path / "some"), "keep_change": "auto"})
    assert some.keep_change == 0.6 and some.head is not None and some.head.last == 6
    base, full, scaled = weights(bert), weights(tmp_path / "all"), weights(tmp_path / "some")
    name = "bert.encoder.layer.{}.output.dense.weight"
    moved = 0
    for layer in (0, 1):
        old = base[name.format(layer).removeprefix("bert.")]
        change = full[name.format(layer)] - old
        assert torch.allclose(scaled[name.format(layer)] - old, 0.6 * change, atol=1e-7)
        moved += int((change != 0).sum())
    assert moved
    # a head that does not train all the time
    plain |= {"layers": {"active": 1, "always": ["LayerNorm"]}, "keep_change": "auto"}
    plan = preview(plain)
    assert plan.head is not None and (plan.keep_change, plan.head.last) == (1, 0)
    with pytest.raises(UsageError, match=r"head_last: must be 0 or auto .* layers\.always"):
        preview(plain | {"head_last": 2})


@pytest.mark.slow
def test_the_best_checkpoint_is_scaled(bert: Path, rows: Path, tmp_path: Path) -> None:
    training = {
        "max_steps": 6, "per_device_train_batch_size": 4, "eval_strategy": "steps",
        "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "optim": "sgd",
        "load_best_model_at_end": True, "metric_for_best_model": "loss",
    }  # fmt: skip
    plain = recipe_of(bert, rows, tmp_path / "all", learning_rate=30.0, training=training | CPU,
                      keep_change=1)  # fmt: skip
    frog.tune(plain)
    frog.tune(plain | {"output": str(tmp_path / "some"), "keep_change": 0.5})
    base, full, scaled = weights(bert), weights(tmp_path / "all"), weights(tmp_path / "some")
    chosen = frog.Selection.load(tmp_path / "some" / "selection.safetensors")
    for one in chosen.chosen:
        old = base[one.name.removeprefix("bert.")].view(-1)[one.index]
        change, kept = (x[one.name].view(-1)[one.index] - old for x in (full, scaled))
        assert torch.allclose(kept, 0.5 * change, rtol=1e-5, atol=1e-6)
