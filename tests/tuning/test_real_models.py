"""Real small models: the losses of a masked dense AdamW, images in a plain loop, SFTTrainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import frog
from frog.tuning import Tuner
from tests.conftest import shared
from tests.tuning.models import bits, choose, masks, moved_only_inside
from tests.tuning.real import (
    classifier,
    plays,
    sentence_batches,
    stories,
    story_batches,
    story_tokenizer,
)

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

STEPS = 100


# ------------------------------------------------------------- a masked dense AdamW


def dense_twin(model: Any, mask: dict[str, torch.Tensor], **settings: Any) -> tuple[Any, Callable]:
    """A dense AdamW on the whole change of every parameter, with masked gradients.

    Gives the parameters that are clipped, and a step.
    """
    named = {k: v for k, v in model.named_parameters() if k in mask}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in mask)
    start = {k: v.detach().clone() for k, v in named.items()}
    changes = {k: nn.Parameter(torch.zeros_like(v)) for k, v in start.items()}
    optimizer = torch.optim.AdamW(changes.values(), **settings)

    def step(clip: float) -> float:
        for name, change in changes.items():
            change.grad = named[name].grad * mask[name]
            named[name].grad = None
        norm = nn.utils.clip_grad_norm_(changes.values(), clip)
        optimizer.step()
        with torch.no_grad():
            for name, change in changes.items():
                named[name].copy_(start[name] + change)
        return float(norm)

    return changes, step


def compare(
    make: Callable[[], Any], data: list, granularity: str, include: str, clip: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses and gradient norms of the tuner and of its dense twin, two batches a step."""
    settings: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.1}
    ours, theirs = make().train(), make().train()
    before = bits(ours)
    tuner = Tuner(ours, choose(ours, 0.05, granularity, include=include, block=(4, 4)))
    mask = masks(tuner)
    optimizer = tuner.optimizer(**settings)
    _, step = dense_twin(theirs, mask, **settings)
    losses, norms = [], []
    for number, batch in enumerate(data, start=1):
        pair = []
        for model in (ours, theirs):
            loss = model(**batch).loss
            (loss / 2).backward()
            pair.append(float(loss.detach()))
        losses.append(pair)
        if number % 2 == 0:
            changes = [x.change for x in tuner.compacts]
            ours_norm = float(nn.utils.clip_grad_norm_(changes, clip))
            optimizer.step()
            optimizer.zero_grad()
            norms.append((ours_norm, step(clip)))
    assert tuner.step == STEPS
    assert moved_only_inside(before, ours, mask)
    for compact in tuner.compacts:
        twin = dict(theirs.named_parameters())[compact.name]
        assert torch.allclose(compact.weight, twin, atol=1e-4)
    found = np.array(losses)
    return found[:, 0], found[:, 1], np.array(norms)


def judge(ours: np.ndarray, theirs: np.ndarray, norms: np.ndarray, clip: float) -> None:
    assert np.abs(ours - theirs).max() < 1e-5
    assert np.abs(norms[:, 0] / norms[:, 1] - 1).max() < 1e-3
    assert (norms > clip).mean() > 0.1  # it did clip
    assert ours[-20:].mean() < ours[:20].mean() - 0.1  # and it did train


@pytest.mark.parametrize("granularity", ["element", "row", "column", "block"])
def test_a_real_llama_has_the_losses_of_a_masked_dense_adamw(granularity: str) -> None:
    clip = 1.0
    data = story_batches(2 * STEPS, size=2, length=32)
    judge(*compare(stories, data, granularity, "proj|embed", clip), clip)


def test_a_real_encoder_has_the_losses_of_a_masked_dense_adamw(minilm: Path) -> None:
    clip = 0.8
    data = sentence_batches(minilm, STEPS // 2, size=2) * 4  # four epochs of 100 sentences
    made = compare(lambda: classifier(minilm), data, "element", r"layer\.[25]\.", clip)
    judge(*made, clip)


# ------------------------------------------------------------------ images, a plain loop


def test_a_real_image_network_in_a_plain_loop(tmp_path: Path) -> None:
    """ResNet20 of CIFAR-10 learns hand signs; the file loads into the plain network."""
    shared("data/sign-digits/sign_digits_32x32.npz")
    weights = shared("data/resnet-cifar10/resnet20-12fca82f.th")
    from benchmarks.tasks import ResNet, SignTask

    torch.manual_seed(0)
    task = SignTask()
    model = task.model
    report = frog.analyze(str(weights), frog.Settings(bootstrap=0, curves=False, min_evals=8))
    plan = frog.allocate(report, 0.1, include=r"layer")
    before, untuned = bits(model), task.accuracy()
    tuner = Tuner(model, frog.select(str(weights), plan, score="magnitude"), also=["linear"])
    mask = masks(tuner) | {k: torch.ones_like(v, dtype=torch.bool) for k, v in tuner.dense.items()}
    optimizer = tuner.optimizer(lr=5e-3, also_lr=1e-2)
    model.train()
    losses = []
    for _, (x, y) in zip(range(80), task.batches(32, seed=0), strict=False):
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert untuned < 0.2 and task.accuracy() > 0.7
    assert moved_only_inside(before, model, mask)  # the BatchNorm statistics are in there, too
    torch.save(model.state_dict(), tmp_path / "tuned.pt")
    delta = tuner.delta()
    tuner.keep()
    plain = ResNet().eval()
    plain.load_state_dict(torch.load(tmp_path / "tuned.pt", weights_only=True), strict=True)
    with torch.no_grad():
        assert torch.equal(plain(task.x_test[:64]), model.eval()(task.x_test[:64]))
    frog.apply_delta(plain, delta, revert=True)
    assert all(torch.equal(before[k], v) for k, v in bits(plain).items())


# --------------------------------------------------------------------------- SFTTrainer


def chats(count: int) -> list[dict]:
    """One speaks, another answers."""
    said = [x for _, x in plays(3 * count) if x and len(x) < 160]
    return [
        {"messages": [{"role": "user", "content": said[i]},
                      {"role": "assistant", "content": said[i + 1]}]}
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_a_real_llama_in_the_sft_trainer(kind: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    import datasets

    rows = chats(96) if kind == "chat" else [{"text": said} for _, said in plays(96)]
    model = stories()
    before = bits(model)
    report = frog.analyze(model, frog.Settings(bootstrap=0, curves=False, min_evals=10))
    tuner = Tuner(model, frog.select(model, frog.allocate(report, 0.05)))
    mask = masks(tuner)
    settings = {
        "output_dir": str(tmp_path), "max_steps": 40, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2, "report_to": [], "use_cpu": True, "bf16": False,
        "save_strategy": "no", "logging_steps": 1, "gradient_checkpointing": False,
        "max_length": 96, "disable_tqdm": True, "dataloader_pin_memory": False,
        "lr_scheduler_type": "constant",
        "assistant_only_loss": kind == "chat", "seed": 0,
    }  # fmt: skip
    run = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**settings),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=story_tokenizer(),
        optimizers=(tuner.optimizer(lr=5e-3), None),
    )
    run.train()
    losses = [x["loss"] for x in run.state.log_history if "loss" in x]
    assert len(losses) == tuner.step == 40
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])
    assert moved_only_inside(before, model, mask)
    run.save_model(str(tmp_path / "out"))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("Speak, citizen!", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
    tuner.revert()
    assert all(torch.equal(before[k], v) for k, v in bits(model).items())
