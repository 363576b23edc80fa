"""In the user's own Trainer, SFTTrainer and plain loop, on real small models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frog
from frog.errors import UsageError
from frog.tuning import Tuner
from tests.conftest import shared
from tests.tuning.models import bits, choose, llama, masks, moved_only_inside
from tests.tuning.real import stories
from tests.tuning.runs import WARNINGS, Rows, arguments, sft_trainer, trainer

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")

pytestmark = [pytest.mark.filterwarnings(x) for x in WARNINGS]


@pytest.mark.parametrize("special", [
    {}, {"gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}, {"bf16": True},
    {"max_grad_norm": 0.05},
])  # fmt: skip
def test_nothing_else_moves_under_trainer(tmp_path: Path, special: dict) -> None:
    model = llama()
    before = bits(model)
    tuner = Tuner(model, choose(model))
    mask = masks(tuner)
    run = trainer(model, tuner, tmp_path, **special)
    run.train()
    assert tuner.step == 8
    assert moved_only_inside(before, model, mask)
    norms = [x["grad_norm"] for x in run.state.log_history if "grad_norm" in x]
    assert all(np.isfinite(norms)) and min(norms) > 0


def test_clipping_sees_exactly_the_changes(tmp_path: Path) -> None:
    model = llama()
    tuner = Tuner(model, choose(model))
    run = trainer(model, tuner, tmp_path, max_steps=1)
    seen: list[float] = []

    class Spy(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            grads = [x.change.grad for x in tuner.compacts]
            seen.append(float(torch.sqrt(sum((g**2).sum() for g in grads))))

    run.args.max_grad_norm = 1e9
    run.add_callback(Spy())
    run.train()
    assert run.state.log_history[0]["grad_norm"] == pytest.approx(seen[0], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resuming_from_a_checkpoint_is_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    def run(folder: Path, **changed: Any) -> tuple[Any, Any]:
        model = llama(dtype)
        tuner = Tuner(model, choose(model, 0.3))
        return model, trainer(model, tuner, folder, 1e-3, save_strategy="steps", save_steps=4,
                              **changed)  # fmt: skip

    straight, first = run(tmp_path / "a")
    first.train()
    resumed, second = run(tmp_path / "b")
    second.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    a, b = bits(straight), bits(resumed)
    assert all(torch.equal(a[k], b[k]) for k in a)
    losses = [[x["loss"] for x in t.state.log_history if "loss" in x] for t in (first, second)]
    assert losses[0][4:] == losses[1][4:]
    loaded = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "a" / "checkpoint-8", dtype=dtype
    )
    trained = straight.cpu().state_dict()
    assert all(torch.equal(v, trained[k]) for k, v in loaded.state_dict().items())


def test_resuming_with_another_selection_is_refused(tmp_path: Path) -> None:
    model = llama()
    tuner = Tuner(model, choose(model))
    trainer(model, tuner, tmp_path, save_strategy="steps", save_steps=4).train()
    other = llama()
    before = bits(other)
    second = trainer(other, Tuner(other, choose(other, seed=1)), tmp_path)
    with pytest.raises(UsageError, match="another selection"):
        second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert all(torch.equal(before[k], v) for k, v in bits(other).items())


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    model = llama()
    tuner = Tuner(model, choose(model, 0.3))
    run = transformers.Trainer(
        model=model,
        args=arguments(
            tmp_path,
            save_strategy="steps",
            eval_strategy="steps",
            save_steps=2,
            eval_steps=2,
            load_best_model_at_end=True,
        ),
        train_dataset=Rows(16),
        eval_dataset=Rows(4),
        optimizers=(tuner.optimizer(lr=0.5), None),  # so large that the first is the best
    )
    run.train()
    best = transformers.LlamaForCausalLM.from_pretrained(run.state.best_model_checkpoint)
    assert all(torch.equal(v, best.state_dict()[k]) for k, v in model.cpu().state_dict().items())
    for compact in tuner.compacts:
        assert torch.equal(compact.weight.view(-1)[compact.index], compact.values())


@pytest.mark.slow
def test_in_the_sft_trainer(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    model = llama(vocab_size=300)
    before = bits(model)
    tuner = Tuner(model, choose(model))
    mask = masks(tuner)
    run = sft_trainer(model, tuner.optimizer(lr=1e-2), tmp_path)
    run.train()
    assert tuner.step == 4 and moved_only_inside(before, model, mask)
    model.save_pretrained(tmp_path / "out")
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


# ---------------------------------------------------------------------- real small models


@pytest.mark.slow
def test_a_real_language_model(tmp_path: Path) -> None:
    """stories260k on tinyshakespeare's bytes: the loss falls, the rest keeps its bits."""
    text = next(iter(sorted(shared("data/tinyshakespeare").glob("*.txt"))), None)
    if text is None:
        pytest.skip("needs a .txt in shared/data/tinyshakespeare")
    model = stories()
    ids = torch.tensor([3 + b for b in text.read_bytes()[: 64 * 129]]).view(-1, 129)[:, :128]
    rows = [{"input_ids": x, "labels": x} for x in ids]
    report = frog.analyze(model, frog.Settings(bootstrap=0, curves=False, min_evals=10))
    plan = frog.allocate(report, 0.02)
    before = bits(model)
    tuner = Tuner(model, frog.select(model, plan))
    mask = masks(tuner)
    run = transformers.Trainer(
        model=model,
        args=arguments(tmp_path, max_steps=40, per_device_train_batch_size=8),
        train_dataset=rows,
        optimizers=(tuner.optimizer(lr=1e-2), None),
    )
    run.train()
    losses = [x["loss"] for x in run.state.log_history if "loss" in x]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])
    assert moved_only_inside(before, model, mask)
    delta = tuner.delta()
    delta.save(tmp_path / "d.safetensors")
    model.save_pretrained(tmp_path / "out")
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(loaded(ids[:2]).logits, model.eval()(ids[:2]).logits)
    frog.apply_delta(loaded, frog.SparseDelta.load(tmp_path / "d.safetensors"), revert=True)
    assert all(torch.equal(before[k], v) for k, v in bits(loaded).items())


@pytest.mark.slow
def test_a_real_encoder_with_a_new_head(minilm: Path, tmp_path: Path) -> None:
    """MiniLM with a classification head: selected on the file, tuned live, exported to peft."""
    peft = pytest.importorskip("peft")
    kind = transformers.AutoModelForSequenceClassification
    torch.manual_seed(0)
    model = kind.from_pretrained(minilm, num_labels=2, hidden_dropout_prob=0.0)
    model.save_pretrained(tmp_path / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    words = {0: ["dreadful", "boring", "awful"], 1: ["wonderful", "moving", "superb"]}
    texts = [
        f"a {w} film, {x}" for x in ("truly", "indeed", "again") for k in words for w in words[k]
    ]
    labels = [k for _ in range(3) for k in words for _ in words[k]]
    coded = tokenizer(list(texts), padding=True)
    rows = [
        {k: torch.tensor(v[i]) for k, v in coded.items()} | {"labels": torch.tensor(labels[i])}
        for i in range(len(texts))
    ]
    report = frog.analyze(str(minilm), frog.Settings(bootstrap=0, curves=False))
    plan = frog.allocate(report, 0.01, exclude="pooler")
    selection = frog.select(str(minilm), plan, score="magnitude")
    before = bits(model)
    tuner = Tuner(model, selection, also=["classifier", r"pooler\.dense"])
    mask = masks(tuner) | {k: torch.ones_like(v, dtype=torch.bool) for k, v in tuner.dense.items()}
    run = transformers.Trainer(
        model=model,
        args=arguments(tmp_path, max_steps=12, per_device_train_batch_size=6),
        train_dataset=rows,
        optimizers=(tuner.optimizer(lr=5e-3, also_lr=1e-3), None),
    )
    run.train()
    losses = [x["loss"] for x in run.state.log_history if "loss" in x]
    assert losses[-1] < 0.5 * losses[0]
    assert moved_only_inside(before, model, mask)
    model.save_pretrained(tmp_path / "out")
    loaded = kind.from_pretrained(tmp_path / "out").eval()
    inputs = tokenizer("a superb film", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model.eval()(**inputs).logits)
    only = frog.SparseDelta(
        path="base",
        tensors=tuple(x for x in tuner.delta().tensors if x.tensor.startswith("bert.encoder")),
    )
    assert only.count > 0.9 * selection.count
    told = frog.api.export_delta(only, str(tmp_path / "base"), "shira", tmp_path / "adapter")
    assert "bit for bit" in told[-1]
    base = kind.from_pretrained(tmp_path / "base")
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    for x in only.tensors:
        assert torch.equal(adapted.state_dict()[x.tensor], model.state_dict()[x.tensor])
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] > 0
