"""What of a checkpoint a format can store: weights of linear layers that nothing else shares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frog.compression.curves import Bits
from frog.errors import ModelError, UnknownName, UnsupportedFormat, UsageError
from frog.numerics.rounding import Rounding
from frog.serial.config_groups import module_of

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TYPES = {"F16": 2, "BF16": 2, "F32": 4}
"""Types of weights that both formats know, and bytes of an entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A matrix to store: the file that has it, its module, shape, bytes, and how it is rounded."""

    name: str
    module: str
    file: str
    shape: tuple[int, int]
    size: int
    rounding: Rounding


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the safetensors files that transformers would load; ModelError without any."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder}: must be a folder of a transformers model, got none with a config.json: "
            "write one with save_pretrained"
        )
    if (folder / SINGLE).is_file():
        return (SINGLE,)
    if not (folder / INDEX).is_file():
        raise UnsupportedFormat(
            f"{folder}: must hold {SINGLE} or {INDEX}: convert the checkpoint with save_pretrained"
        )
    try:
        found = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        beside = all(Path(name).name == name for name in found)
    except (ValueError, KeyError, AttributeError, TypeError):
        found, beside = [], False
    if not found or not beside:
        raise ModelError(
            f"{folder / INDEX}: must map tensors to files beside it: download it again"
        )
    for name in found:
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name}: named in {INDEX}, but absent: download it again")
    return tuple(found)


def targets(folder: Path, levels: Mapping[str, Bits]) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """The matrices to store, and the linear modules that stay as they are.

    Raises :class:`~frog.errors.UsageError` for levels that cannot be stored, and says why;
    :class:`~frog.errors.ModelError` for a folder that transformers cannot load.
    """
    if not levels:
        raise UsageError("levels must name one matrix or more, got none")
    for name, level in levels.items():
        if not isinstance(level, Bits):
            raise UsageError(
                f"{name}: a format of quantised checkpoints stores bits, got "
                f"{type(level).__name__}: write pruned weights as a plain checkpoint"
            )
    held = _held(folder, weight_files(folder))
    kinds, tied = _modules(folder)
    found = []
    for name, level in levels.items():
        module = module_of(name)
        if name not in held:
            raise UnknownName("matrix on disk", name, held)
        if kinds.get(module) != "Linear":
            raise UsageError(f"{name} {_why(kinds.get(module))}")
        if len(tied[name]) > 1:
            other = next(x for x in tied[name] if x != name)
            raise UsageError(
                f"{name} is shared with {other}: rounding one would round or part the other; "
                "leave it out of the levels"
            )
        file, kind, shape = held[name]
        if kind not in TYPES:
            raise UsageError(
                f"{name} must be float32, float16 or bfloat16, got {kind}: convert the model first"
            )
        if len(shape) != 2:
            raise ModelError(
                f"{name} must have two axes as the weight of a Linear layer, got {shape}: the "
                "files are not those of config.json's architecture"
            )
        m, n = shape
        found.append(
            Target(
                name=name, module=module, file=file, shape=(m, n), size=TYPES[kind] * m * n,
                rounding=_even(name, n, level.rounding),
            )
        )  # fmt: skip
    named = {x.module for x in found}
    kept = tuple(x for x, kind in kinds.items() if kind == "Linear" and x not in named)
    return tuple(found), kept


def _why(kind: str | None) -> str:
    """Why a weight of that class of module, None for no module, cannot be stored."""
    if kind is None:
        return (
            "belongs to no module of the model of config.json's architecture: load that model and "
            "write it with save_pretrained, so that names on disk are those of the modules"
        )
    return f"is the weight of a {kind}: the formats store Linear layers only; leave it out"


def _even(name: str, n: int, how: Rounding) -> Rounding:
    """Groups of a row must be equal in both formats; one group is the row."""
    if how.group is None or how.group >= n:
        return replace(how, group=None)
    if n % how.group:
        fit = ", ".join(str(x) for x in range(2, n) if n % x == 0)
        raise UsageError(
            f"{name} has rows of {n} inputs, which groups of {how.group} do not divide: take one "
            f"of {fit or 'no groups'}, or None for the whole row"
        )
    return how


def _held(folder: Path, files: tuple[str, ...]) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """Name -> file, type and shape of every tensor on disk."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - no mapping
                    view = opened.get_slice(name)
                    found[name] = (file, view.get_dtype(), tuple(view.get_shape()))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{folder / file}: cannot be read ({error}): download it again"
            ) from None
    return found


def _modules(folder: Path) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Class by module with a weight, and the names that share each weight; holds no weights."""
    model = _empty_model(folder)
    kinds = {
        name: "Linear" if type(module) is nn.Linear else type(module).__name__
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    }
    shared: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(parameter), []).append(name)
    return kinds, {name: tuple(names) for names in shared.values() for name in names}


def _empty_model(folder: Path) -> Any:
    """The model of config.json's architecture, on no device."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        if getattr(config, "quantization_config", None) is not None:
            raise UsageError(f"{folder}: is quantised already: give the model it was made from")
        named = (getattr(config, "architectures", None) or [None])[0]
        kind = getattr(transformers, named or "", None)
        with torch.device("meta"):
            model = kind(config) if kind else transformers.AutoModel.from_config(config)
        model.tie_weights()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError) as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{folder}: transformers cannot make a model of its config.json: {words}"
        ) from error
    return model
