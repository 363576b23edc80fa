"""Tasks by name, and what each makes ready for the Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import nn

from frog.registry import Registry
from frog.types.recipes import Recipe


@dataclass(kw_only=True, eq=False)
class Prepared:
    """A model and its data, ready for the Trainer.

    ``splits`` are data sets of rows that ``collate`` makes a batch of; ``model(**batch).loss`` is
    the loss, or ``loss(model, batch)`` where the task has its own. ``new`` are parameters that the
    checkpoint did not hold, ``head`` those that the task's head consists of; ``unused`` is a
    regular expression over matrices that the loss does not reach. ``metrics`` takes the Trainer's
    predictions and labels, ``reduce`` what an evaluation keeps of a batch's logits. ``files`` are
    written beside the saved model; ``metric`` is what the task goes by, better when ``higher``.
    """

    model: Any
    processor: Any
    splits: Mapping[str, Any]
    collate: Callable[[Sequence[Any]], dict[str, Any]]
    metrics: Callable[[Any], dict[str, float]]
    reduce: Callable[[Any, Any], Any] | None = None
    loss: Callable[[nn.Module, dict[str, Any]], torch.Tensor] | None = None
    predict: Callable[[nn.Module, dict[str, Any]], tuple[Any, Any, Any]] | None = None
    new: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    unused: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    metric: str
    higher: bool = True
    notes: tuple[str, ...] = ()

    def batches(self, split: str, size: int, number: int, seed: int = 0) -> list[dict[str, Any]]:
        """Up to ``number`` batches of ``size`` rows, drawn without replacement by ``seed``, on the
        model's device."""
        draw = torch.Generator().manual_seed(seed)
        return list(islice(self._pass(split, size, draw), number))

    def shuffled(self, split: str, size: int, seed: int) -> Iterator[dict[str, Any]]:
        """Batches of ``size`` rows without end, every pass in an order of its own, one at a time
        on the model's device."""
        draw = torch.Generator().manual_seed(seed)
        while True:
            yield from self._pass(split, size, draw)

    def _pass(self, split: str, size: int, draw: torch.Generator) -> Iterator[dict[str, Any]]:
        rows = self.splits[split]
        order = torch.randperm(len(rows), generator=draw).tolist()
        device = next(self.model.parameters()).device
        for start in range(0, len(order), size):
            batch = self.collate([rows[i] for i in order[start : start + size]])
            yield {name: value.to(device) for name, value in batch.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One kind of fine-tuning; ``keys`` are those of a recipe's ``data`` that it takes."""

    name: str
    keys: tuple[str, ...]
    metrics: tuple[str, ...]
    defaults: Mapping[str, Any]
    function: Callable[[Recipe], Prepared]

    def __call__(self, recipe: Recipe) -> Prepared:
        """Read the data, load the model."""
        return self.function(recipe)

    @property
    def meaning(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


TASKS: Registry[Task] = Registry("task")

Function = Callable[[Recipe], Prepared]


def task(
    name: str,
    *,
    keys: Sequence[str],
    metrics: Sequence[str],
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[Function], Function]:
    """Register a function ``(recipe) -> Prepared`` and give it back unchanged.

    ``metrics`` are the names of what it measures; ``defaults`` are fields of TrainingArguments
    where the recipe says nothing.
    """

    def register(function: Function) -> Function:
        made = Task(
            name=name,
            keys=tuple(keys),
            metrics=tuple(metrics),
            defaults=dict(defaults or {}),
            function=function,
        )
        TASKS.add(name, made)
        return function

    return register
