"""The ``training`` section of a recipe against the fields of transformers' TrainingArguments."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from frog.errors import UnknownName, UsageError
from frog.serial.plain import shown
from frog.serial.yaml_lines import Lines

ELSEWHERE = {
    "output_dir": "the folder stands at the top as output",
    "resume_from_checkpoint": "run frog tune with --resume",
    "fsdp": "sharded parameters cannot be tuned sparsely",
    "fsdp_config": "sharded parameters cannot be tuned sparsely",
    "deepspeed": "sharded parameters cannot be tuned sparsely",
    "parallelism_config": "sharded parameters cannot be tuned sparsely",
    "optim_target_modules": "what trains is chosen by selection",
    "remove_unused_columns": "the task keeps what its batches need",
    "label_names": "the task knows its labels",
    "disable_tqdm": "frog tune shows its own progress: --format quiet for none",
}
"""Fields that have no place in a recipe, and what to do instead."""


LEAST = {
    "seed": 0,
    "data_seed": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "save_total_limit": 1,
    "dataloader_num_workers": 0,
}
"""Smallest values of fields that transformers takes as they are and fails on later."""


def check_training(given: dict[str, Any], known: Mapping[str, Any], lines: Lines) -> dict[str, Any]:
    """The values of ``training``, each of its field's type; ``known`` maps fields to types.

    An error names the line, the nearest field or the allowed values. YAML reads ``no`` as false:
    where a field takes the word, it is the word again.
    """
    return {name: _checked(name, value, known, lines) for name, value in given.items()}


def _checked(name: str, value: Any, known: Mapping[str, Any], lines: Lines) -> Any:
    place = lines.at("training", name)
    if name in ELSEWHERE:
        raise UsageError(f"{place}: cannot be set here: {ELSEWHERE[name]}")
    if name not in known:
        raise UsageError(f"{place}: {_nearest(name, known)}")
    kind = known[name]
    words = _words(kind)
    if words:
        value = "no" if value is False and "no" in words else value
        if value is None and type(None) in typing.get_args(kind):
            return value
        if value not in words:
            told = f"must be one of {', '.join(words)}, got {shown(value)}"
            told = str(UnknownName(name, value, words)) if isinstance(value, str) else told
            raise UsageError(f"{place}: {told}")
        return value
    try:
        checked = TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        raise UsageError(f"{place}: must be {_in_words(kind)}, got {shown(value)}") from None
    if isinstance(checked, float) and not math.isfinite(checked):
        raise UsageError(f"{place}: must be finite, got {checked}")
    if name == "max_steps" and (checked == 0 or checked < -1):
        raise UsageError(
            f"{place}: must be at least 1, or -1 to go by num_train_epochs, got {shown(value)}"
        )
    if name in LEAST and checked is not None and checked < LEAST[name]:
        raise UsageError(f"{place}: must be at least {LEAST[name]}, got {shown(value)}")
    return checked


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    """Some hundred fields are not listed: the nearest name is enough."""
    told = str(UnknownName("field of TrainingArguments", name, known))
    return told.partition(" Known:")[0]


def _words(kind: Any) -> list[str]:
    """The values of the enumeration that a type is or contains."""
    parts = (kind, *typing.get_args(kind))
    enums = [x for x in parts if isinstance(x, type) and issubclass(x, Enum)]
    return [str(member.value) for member in enums[0]] if enums else []


def _in_words(kind: Any) -> str:
    """A type as people say it.

    >>> _in_words(int | None), _in_words(list[str] | str)
    ('a whole number or null', 'a list or a text')
    """
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text",
             type(None): "null", dict: "a mapping", list: "a list"}  # fmt: skip
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_in_words(x) for x in typing.get_args(kind)))
    if origin is typing.Literal:
        return " or ".join(shown(x) for x in typing.get_args(kind))
    return names.get(origin or kind, str(kind))
