"""Layer sampling in the user's own Trainer and SFTTrainer, over two processes, on real weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frog
from frog.errors import UsageError
from tests.conftest import shared
from tests.tuning.models import batches, bits, llama
from tests.tuning.real import stories
from tests.tuning.runs import WARNINGS, Rows, arguments, sft_trainer, two_processes
from tests.tuning.test_sampling import BLOCKS, changed, deep, of

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("datasets")
pytestmark = [pytest.mark.filterwarnings(x) for x in WARNINGS]


def trainer(sampler: Any, folder: Path, lr: float = 1e-3, **changed: Any) -> Any:
    return transformers.Trainer(
        model=sampler.model,
        args=arguments(folder, **changed),
        train_dataset=Rows(16),
        optimizers=(sampler.optimizer(lr=lr), None),
        callbacks=[sampler.callback()],
    )


@pytest.mark.parametrize("special", [
    {}, {"gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}, {"bf16": True},
    {"max_grad_norm": 0.05, "lr_scheduler_type": "cosine", "warmup_steps": 2},
])  # fmt: skip
def test_only_what_was_drawn_moves_under_trainer(tmp_path: Path, special: dict) -> None:
    model = deep()
    before = bits(model)
    sampler = frog.LayerSampler(model, None, active=1, every=3, seed=1)
    run = trainer(sampler, tmp_path, **special)
    run.train()
    assert sampler.step == 8
    drawn = {x for turn in sampler.schedule(8) for x in turn.units}
    assert 1 < len(drawn) < 6
    assert of(BLOCKS, changed(before, model)) == of(drawn, before)
    logged = [x for x in run.state.log_history if "grad_norm" in x]
    assert all(np.isfinite(x["grad_norm"]) and x["grad_norm"] > 0 for x in logged)
    turns = [BLOCKS.index(sampler.units_at(step)[0]) for step in range(8)]
    assert [x["sampling/unit_0"] for x in logged] == turns


def test_clipping_sees_exactly_what_trains(tmp_path: Path) -> None:
    sampler = frog.LayerSampler(deep(), None, active=1, every=1, seed=1)
    run = trainer(sampler, tmp_path, max_steps=3, max_grad_norm=1e9)
    seen: list[float] = []

    class Spy(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            active = {u.name: u for u in sampler.units}[sampler.active[0]]
            ones = [*sampler.division.always.values(), *active.parameters.values()]
            seen.append(float(torch.sqrt(sum((x.grad**2).sum() for x in ones))))

    run.add_callback(Spy())
    run.train()
    norms = [x["grad_norm"] for x in run.state.log_history if "grad_norm" in x]
    assert norms == pytest.approx(seen, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resuming_from_a_checkpoint_is_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    def run(folder: Path) -> tuple[Any, Any, Any]:
        model = deep(dtype)
        sampler = frog.LayerSampler(model, None, active=2, every=2, seed=1)
        return model, sampler, trainer(sampler, folder, save_strategy="steps", save_steps=5)

    straight, _, first = run(tmp_path / "a")
    first.train()
    resumed, sampler, second = run(tmp_path / "b")
    second.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-5"))
    assert not changed(bits(straight), resumed)
    losses = [[x["loss"] for x in t.state.log_history if "loss" in x] for t in (first, second)]
    assert losses[0][5:] == losses[1][5:]
    loaded = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "a" / "checkpoint-8", dtype=dtype
    )
    assert not changed(bits(straight), loaded)
    size = (tmp_path / "a" / "checkpoint-5" / "optimizer.pt").stat().st_size
    assert size < 2 * 4 * sampler.trainable + 60_000
    sampler.revert()
    assert not changed(bits(deep(dtype)), resumed)


def test_resuming_another_sampling_is_refused(tmp_path: Path) -> None:
    trainer(frog.LayerSampler(deep(), None), tmp_path, save_strategy="steps", save_steps=4).train()
    model = deep()
    other = frog.LayerSampler(model, None, seed=1)
    with pytest.raises(UsageError, match="sampled other layers"):
        trainer(other, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    other.revert()  # nothing is lost: the weights of the checkpoint go with it
    assert not changed(bits(deep()), model)


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None, active=1, every=2)
    settings = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2,
                "eval_steps": 2, "load_best_model_at_end": True}  # fmt: skip
    run = transformers.Trainer(
        model=model, args=arguments(tmp_path, **settings), train_dataset=Rows(16),
        eval_dataset=Rows(4), optimizers=(sampler.optimizer(lr=0.5), None),
    )  # fmt: skip
    run.train()
    best = transformers.LlamaForCausalLM.from_pretrained(run.state.best_model_checkpoint)
    assert not changed(bits(best), model)
    sampler.revert()
    assert not changed(bits(deep()), model)


@pytest.mark.parametrize("callback", [True, False])
def test_the_optimizer_of_the_trainer_is_refused(tmp_path: Path, callback: bool) -> None:
    model = deep()
    sampler = frog.LayerSampler(model, None)
    run = transformers.Trainer(
        model=model, args=arguments(tmp_path), train_dataset=Rows(16),
        callbacks=[sampler.callback()] if callback else None,
    )  # fmt: skip
    with pytest.raises(UsageError, match="optimizers="):
        run.train()
    sampler.revert()
    assert not changed(bits(deep()), model)


@pytest.mark.slow
def test_in_the_sft_trainer(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    model = deep(vocab_size=300)
    before = bits(model)
    sampler = frog.LayerSampler(model, None, active=1, every=2)
    run = sft_trainer(model, sampler.optimizer(lr=1e-2), tmp_path, callbacks=[sampler.callback()])
    run.train()
    drawn = {x for turn in sampler.schedule(4) for x in turn.units}
    assert sampler.step == 4
    assert of(BLOCKS, changed(before, model)) == of(drawn, before)


WORKER = """
    import sys
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    import frog
    from frog.errors import UsageError
    from tests.tuning.models import batches, llama

    rank, world, folder, how = int(sys.argv[1]), 2, *sys.argv[2:]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank,
                            world_size=world)
    data = batches(12)

    def made(seed=1):
        model = llama(num_hidden_layers=6).train()
        sampler = frog.LayerSampler(model, None, active=2, every=2, seed=seed)
        return model, sampler, sampler.optimizer(torch.optim.SGD, lr=0.5)

    def loss(model, number):
        share = {k: v[rank * 2 : rank * 2 + 2] for k, v in data[number].items()}
        return model(**share).loss

    def refused(model, optimizer, said):
        try:
            loss(model, 0).backward()
            optimizer.step()
        except UsageError as error:
            assert said in str(error), error
        else:
            sys.exit(f"was not refused: {said}")

    if how == "refused":
        parallel = DistributedDataParallel(llama(num_hidden_layers=6))
        late = frog.LayerSampler(parallel.module, None)
        refused(parallel, late.optimizer(lr=1e-2), "before DistributedDataParallel")
        model, _, optimizer = made(seed=rank)
        refused(DistributedDataParallel(model), optimizer, "different layers")
        model, _, optimizer = made()
        refused(model, optimizer, "not seen to run")
    else:
        model, sampler, optimizer = made()
        parallel = DistributedDataParallel(model)
        reduced = sum(x.numel() for n, x in model.named_parameters()
                      if x.requires_grad and n not in parallel.parameters_to_ignore)
        assert reduced == sum(x.numel() for x in sampler.division.always.values())
        for step in range(6):
            with parallel.no_sync():  # accumulated, averaged with the second
                loss(parallel, 2 * step).backward()
            loss(parallel, 2 * step + 1).backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.save(model.state_dict(), f"{folder}/{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    two_processes(WORKER, tmp_path, "right")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    model = llama(num_hidden_layers=6)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    sampler = frog.LayerSampler(model, None, active=2, every=2, seed=1)
    optimizer = sampler.optimizer(torch.optim.SGD, lr=0.5)
    model.train()
    data = batches(12)
    for step in range(6):
        for number in (2 * step, 2 * step + 1):
            model(**data[number]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in model.state_dict().items():
        moved = float((value - start[name]).abs().max())
        assert float((first[name] - value).abs().max()) <= 1e-4 * moved + 2e-7, name


@pytest.mark.slow
def test_processes_that_would_drift_apart_are_refused(tmp_path: Path) -> None:
    """DDP made too early, draws that differ, no DDP at all: told by each process."""
    two_processes(WORKER, tmp_path, "refused")


@pytest.mark.slow
def test_a_real_language_model(tmp_path: Path) -> None:
    """stories260k on tinyshakespeare's bytes, layers drawn by alpha: the loss falls."""
    text = next(iter(sorted(shared("data/tinyshakespeare").glob("*.txt"))), None)
    if text is None:
        pytest.skip("needs a .txt in shared/data/tinyshakespeare")
    model = stories()
    before = bits(model)
    report = frog.analyze(model, frog.Settings(bootstrap=0, curves=False, min_evals=10))
    sampler = frog.LayerSampler(model, report, active=2, every=8, by="alpha")
    ids = torch.tensor([3 + b for b in text.read_bytes()[: 64 * 129]]).view(-1, 129)[:, :128]
    run = transformers.Trainer(
        model=model, args=arguments(tmp_path, max_steps=24, per_device_train_batch_size=8),
        train_dataset=[{"input_ids": x, "labels": x} for x in ids],
        optimizers=(sampler.optimizer(lr=1e-3), None),
    )  # fmt: skip
    run.train()
    losses = [x["loss"] for x in run.state.log_history if "loss" in x]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:3])
    drawn = {x for turn in sampler.schedule(24) for x in turn.units}
    units = [x.name for x in sampler.units]
    assert of(units, changed(before, model)) == of(drawn, before)
    sampler.delta().save(tmp_path / "d.safetensors")
    model.save_pretrained(tmp_path / "out")
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(loaded(ids[:2]).logits, model.eval()(ids[:2]).logits)
    frog.apply_delta(loaded, frog.SparseDelta.load(tmp_path / "d.safetensors"), revert=True)
    assert not changed(before, loaded)


@pytest.mark.slow
def test_a_real_encoder_with_a_new_head(minilm: Path, tmp_path: Path) -> None:
    """MiniLM measured on its file, sampled live with a head that always trains."""
    torch.manual_seed(0)
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(minilm, num_labels=2, hidden_dropout_prob=0.0)
    before = bits(model)
    report = frog.analyze(str(minilm), frog.Settings(bootstrap=0, curves=False))
    sampler = frog.LayerSampler(model, report, active=2, every=2, by="evenness",
                                always=["classifier", "pooler"])  # fmt: skip
    assert [x.name for x in sampler.units] == [f"bert.encoder.layer.{i}" for i in range(6)]
    assert len(set(sampler.chances.values())) == 6
    optimizer = sampler.optimizer(lr=1e-4, also_lr=1e-2)
    ids = torch.tensor([[101, 7592, 102], [101, 2088, 102]])
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids, labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert not any("embeddings" in name for name in changed(before, model))
    model.save_pretrained(tmp_path / "out")
    loaded = kind.from_pretrained(tmp_path / "out")
    assert not changed(bits(model), loaded)
    sampler.revert()
    assert not changed(before, model)
