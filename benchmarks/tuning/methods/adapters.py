"""Adapters of PEFT, put into the encoder in place and merged into plain weights at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from benchmarks.tuning.method import Attached, Method, NotApplicable, add
from benchmarks.tuning.task import Task

Config = Callable[..., Any]
"""(rank, modules, seed) -> a configuration of PEFT."""


def sides(task: Task) -> list[tuple[int, int]]:
    """(out, fan-in) of each target matrix, a convolution's kernel flattened."""
    return [(w.shape[0], w[0].numel()) for w in task.target_weights().values()]


def lora_count(out: int, fan_in: int) -> int:
    """Parameters per rank of B (out, r) and A (r, fan-in); SHiRA counts its weights alike."""
    return out + fan_in


def block_count(out: int, fan_in: int) -> int:
    """Parameters per rank of MiSS: one matrix (r, out), shared by all blocks of the input."""
    del fan_in
    return out


def nearest_rank(wanted: float, per_rank: int, largest: int) -> int:
    """The rank in 1..largest whose count of parameters is nearest to ``wanted``."""
    return max(1, min(largest, round(wanted / per_rank)))


def largest_rank(task: Task, name: str) -> int:
    """The largest rank that every target matrix takes."""
    if name == "shira":
        # r (out + fan-in) positions are drawn without repeats out of out x fan-in.
        return min(o * i // (o + i) for o, i in sides(task))
    if name == "miss":
        return min(i for _, i in sides(task))
    return min(min(o, i) for o, i in sides(task))


def check_layers(task: Task, name: str, *, conv: bool) -> None:
    """Refuse targets that PEFT's adapter does not take."""
    for target in task.targets:
        module = task.encoder.get_submodule(target)
        if isinstance(module, nn.Linear):
            continue
        if not conv or not isinstance(module, nn.Conv2d):
            raise NotApplicable(f"{name} takes no {type(module).__name__}, as {target} is")
        if module.groups > 1:
            raise NotApplicable(f"PEFT merges no grouped convolution, as {target} is")


def unwrap(encoder: nn.Module, targets: tuple[str, ...]) -> None:
    """Merge the adapters and put the plain modules back at their names."""
    with torch.no_grad():
        for target in targets:
            wrapped = encoder.get_submodule(target)
            assert isinstance(wrapped, BaseTunerLayer)
            wrapped.merge()
            base = wrapped.get_base_layer()
            parent, _, leaf = target.rpartition(".")
            setattr(encoder.get_submodule(parent), leaf, base)
    if hasattr(encoder, "peft_config"):
        del encoder.peft_config


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter of PEFT: how it is configured, counted and stored.

    ``count`` gives its parameters per rank of a matrix (out, fan-in), ``stored`` how many
    numbers have to be stored for each of them; ``conv`` where it takes convolutions.
    """

    name: str
    config: Config
    count: Callable[[int, int], int] = lora_count
    conv: bool = False
    stored: int = 1


def attach(kind: Adapter, task: Task, share: float, rate: float, seed: int) -> Attached:
    """Put an adapter of the same rank beside every target matrix."""
    check_layers(task, kind.name, conv=kind.conv)
    wanted = share * task.target_count()
    largest = largest_rank(task, kind.name)
    if largest < 1:
        raise NotApplicable(
            f"a target matrix of {task.name} is too small for {kind.name} of rank 1"
        )
    rank = nearest_rank(wanted, sum(kind.count(o, i) for o, i in sides(task)), largest)
    # One regular expression: a list would also match names that end in a target's name.
    modules = "|".join(re.escape(target) for target in task.targets)
    encoder, targets = task.encoder, task.targets
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(kind.config(rank, f"({modules})", seed), encoder)
    encoder.eval()
    trained = [p for p in encoder.parameters() if p.requires_grad]
    total = sum(p.numel() for p in trained)
    return Attached(
        groups=[{"params": trained, "lr": rate}],
        trainable=total,
        delta_bytes=4 * total * kind.stored,
        finish=partial(unwrap, encoder, targets),
        facts={"rank": rank, "wanted": round(wanted), "over_budget": total / wanted},
    )


def _lora(rank: int, modules: str, seed: int) -> Any:
    del seed
    return peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules)


def _rslora(rank: int, modules: str, seed: int) -> Any:
    del seed
    return peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, use_rslora=True)


def _pissa(rank: int, modules: str, seed: int) -> Any:
    del seed
    # alpha = r as in the paper: the factors are the matrix's own singular vectors, unscaled.
    return peft.LoraConfig(
        r=rank, lora_alpha=rank, target_modules=modules, init_lora_weights="pissa"
    )


def _miss(rank: int, modules: str, seed: int) -> Any:
    del seed
    return peft.MissConfig(r=rank, target_modules=modules)


def _shira(rank: int, modules: str, seed: int) -> Any:
    return peft.ShiraConfig(
        r=rank, target_modules=modules, mask_type="random", random_seed=seed, init_weights=True
    )


def _add(kind: Adapter, words: str, source: str, rate: Callable[[Task, float], float]) -> None:
    add(Method(
        name=kind.name, family="peer", words=words, source=f"{source}; PEFT",
        build=partial(attach, kind), rate=rate,
    ))  # fmt: skip


_add(
    Adapter(name="lora", config=_lora, conv=True),
    "A low-rank matrix is added to each target; alpha = 2r",
    "LoRA, Hu et al. 2021, arXiv:2106.09685",
    lambda task, share: 30 * task.full_rate,
)
_add(
    Adapter(name="rslora", config=_rslora, conv=True),
    "LoRA scaled by alpha / sqrt(r); alpha = 2r",
    "rsLoRA, Kalajdzievski 2023, arXiv:2312.03732",
    lambda task, share: 20 * task.full_rate,
)
_add(
    # The start is taken out of the base matrix, so that the change is A'B' - AB: two of them.
    Adapter(name="pissa", config=_pissa, stored=2),
    "LoRA that starts from the largest singular vectors",
    "PiSSA, Meng et al. 2024, arXiv:2404.02948",
    lambda task, share: 10 * task.full_rate,
)
_add(
    Adapter(name="miss", config=_miss, count=block_count),
    "One small matrix, shared by all blocks of a matrix's inputs",
    "MiSS, Kang and Yin 2024, arXiv:2409.15371",
    lambda task, share: 3 * task.full_rate,
)
_add(
    # Beside each value stands its position. A mask's rate, as in masks.py.
    Adapter(name="shira", config=_shira, stored=2),
    "Random single weights of each matrix train, as in a mask",
    "SHiRA, Bhardwaj et al. 2024, arXiv:2406.13175",
    lambda task, share: task.full_rate / share,
)
