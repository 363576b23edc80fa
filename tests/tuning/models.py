"""Small models and selections for the tests of tuning."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from benchmarks.random_choice import random_choice
from frog.types import Selection


def llama(dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A Llama of two layers with tied embeddings."""
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
        "tie_word_embeddings": True, "attention_dropout": 0.0,
    }  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | config)))
    return model.to(dtype)


def batches(count: int, *, size: int = 4, length: int = 12, vocabulary: int = 64) -> list[Any]:
    """Token batches, the same every time."""
    draw = torch.Generator().manual_seed(7)
    made = []
    for _ in range(count):
        ids = torch.randint(0, vocabulary, (size, length), generator=draw)
        made.append({"input_ids": ids, "labels": ids.clone()})
    return made


def choose(
    model: nn.Module,
    share: float = 0.05,
    granularity: str = "element",
    *,
    include: str = "",
    seed: int = 0,
    block: tuple[int, int] = (4, 4),
) -> Selection:
    """A random selection of any matrices of a model, measured or not."""
    return random_choice(
        model, share, granularity, lambda x: bool(re.search(include, x)), seed=seed, block=block
    )


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every tensor of the state dict, as bytes, on the processor."""
    return {
        name: value.detach().cpu().clone().contiguous().view(torch.uint8)
        for name, value in model.state_dict().items()
        if value.ndim
    }


def masks(tuner: Any) -> dict[str, torch.Tensor]:
    """The chosen entries of each tuned parameter, as a mask of its shape."""
    made = {}
    for compact in tuner.compacts:
        mask = torch.zeros(compact.weight.numel(), dtype=torch.bool)
        mask[compact.index.cpu()] = True
        made[compact.name] = mask.view(compact.weight.shape)
    return made


def moved_only_inside(
    before: dict[str, torch.Tensor], model: nn.Module, mask: dict[str, torch.Tensor]
) -> bool:
    """Whether every bit outside the masks is what it was, and something inside moved."""
    moved = False
    for name, value in model.state_dict().items():
        if not value.ndim:
            continue
        width = value.element_size()
        now = value.detach().cpu().contiguous().view(torch.uint8).view(-1, width)
        changed = (now != before[name].view(-1, width)).any(1)
        inside = mask.get(name)
        if inside is None and any(
            torch.equal(value, v)
            for k, v in model.state_dict().items()
            if k in mask and v.data_ptr() == value.data_ptr()
        ):
            continue  # fmt: skip
        outside = changed if inside is None else changed & ~inside.view(-1)
        if outside.any():
            return False
        moved |= bool(changed.any())
    return moved
