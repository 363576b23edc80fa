"""Runs of training: loops, the trainers of transformers and trl, two processes that meet."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from tests.tuning.models import batches

GPU = torch.cuda.is_available()

WARNINGS = [
    "ignore:.*pin_memory.*:UserWarning",
    "ignore:.*lr_scheduler.step.*:UserWarning",
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
]
"""What transformers and trl say that does not matter here."""


def advance(model: Any, optimizer: Any, data: list, every: int = 1, first: int = 0) -> list[float]:
    """The losses of a plain loop with a step every so many batches."""
    losses = []
    for number, batch in enumerate(data, start=first + 1):
        loss = model(**batch).loss
        loss.backward()
        losses.append(float(loss.detach()))
        if number % every == 0:
            optimizer.step()
            optimizer.zero_grad()
    return losses


class Rows(torch.utils.data.Dataset):
    """Single examples of token ids."""

    def __init__(self, count: int) -> None:
        batch = batches(1, size=count)[0]
        self.rows = [{"input_ids": x, "labels": x} for x in batch["input_ids"]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict:
        return self.rows[place]


def arguments(folder: Path, **changed: Any) -> Any:
    """Arguments of a short run that tells nobody, on a GPU where there is one."""
    import transformers

    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 8, "per_device_train_batch_size": 2,
        "report_to": [], "disable_tqdm": True, "use_cpu": not GPU, "save_strategy": "no",
        "logging_steps": 1, "seed": 3, "dataloader_pin_memory": False,
    }  # fmt: skip
    return transformers.TrainingArguments(**(settings | changed))


def trainer(model: Any, tuner: Any, folder: Path, lr: float = 1e-2, **changed: Any) -> Any:
    """A Trainer of sixteen rows."""
    import transformers

    return transformers.Trainer(
        model=model,
        args=arguments(folder, **changed),
        train_dataset=Rows(16),
        optimizers=(tuner.optimizer(lr=lr), None),
    )


def sft_trainer(
    model: Any, optimizer: Any, folder: Path, callbacks: Any = None, **changed: Any
) -> Any:
    """trl's SFTTrainer of four steps on rows of a vocabulary of 300."""
    import datasets
    import trl

    rows = batches(1, size=16, vocabulary=300)[0]["input_ids"].tolist()
    settings: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": 4, "per_device_train_batch_size": 2,
        "report_to": [], "use_cpu": not GPU, "bf16": False, "save_strategy": "no",
        "gradient_checkpointing": False, "dataset_kwargs": {"skip_prepare_dataset": True},
    }  # fmt: skip
    return trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**(settings | changed)),
        train_dataset=datasets.Dataset.from_dict({"input_ids": rows, "labels": rows}),
        processing_class=byte_tokenizer(),
        optimizers=(optimizer, None),
        callbacks=callbacks,
    )


def byte_tokenizer() -> Any:
    """A tokenizer of bytes, made here."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


FAREWELL = """
import os, sys
dist.barrier()
dist.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # gloo's threads may outlive the group: the interpreter's end would abort on them
"""


def two_processes(code: str, folder: Path, *more: str) -> list[str]:
    """Run ``code`` with rank, folder and ``more`` as its words; what each of the two printed.

    ``code`` imports ``torch.distributed as dist`` and begins the group, which is ended here.
    """
    here = os.environ | {"PYTHONPATH": os.pathsep.join(x for x in sys.path if x)}
    words = [sys.executable, "-c", textwrap.dedent(code) + FAREWELL]
    printed, runs = [], []
    with ExitStack() as ended:
        for rank in (0, 1):
            run = subprocess.Popen([*words, str(rank), str(folder), *more], env=here, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
            runs.append(ended.enter_context(run))
            ended.callback(run.kill)  # where the other one failed, this one waits for it in vain
        for run in runs:
            out, said = run.communicate(timeout=120)
            assert run.returncode == 0, said
            printed.append(out.strip())
    return printed
