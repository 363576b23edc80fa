"""torch files (.pt, .pth, .th, .bin, .ckpt): weights only, never code.

A pickle can run anything when it is opened; these are opened with ``weights_only=True``, which
accepts tensors and plain containers and refuses the rest.
"""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from frog.errors import ModelError, UnsupportedFormat
from frog.weights.checkpoint import check_mapped, read_config, read_weight_map
from frog.weights.module import list_mapping
from frog.weights.safetensors_file import AGAIN, first_line
from frog.weights.stored import TensorList

NESTED = ("state_dict", "model_state_dict", "model", "module", "params", "net", "weights", "ema")
"""Keys under which training scripts keep the state dict, the likeliest first."""


def list_torch_file(path: Path) -> TensorList:
    """The tensors of one torch file; :class:`ModelError` where it is damaged or needs code."""
    state, notes = _unwrap(read_torch_file(path), path)
    listed = list_mapping(state, str(path), "torch", read_config(path.parent, path))
    return _noted(listed, notes)


def list_torch_index(index: Path) -> TensorList:
    """The tensors of all shards that a ``pytorch_model.bin.index.json`` names."""
    weight_map = read_weight_map(index)
    state: dict[str, Any] = {}
    found: dict[str, str] = {}
    for shard in sorted(set(weight_map.values())):
        content, _ = _unwrap(read_torch_file(index.parent / shard), index.parent / shard)
        for name, value in content.items():
            if name in found:
                raise ModelError(
                    f"tensor '{name}' is in {found[name]} and in {shard} of {index.parent}; "
                    "expected once: remove the file that does not belong there"
                )
            found[name] = shard
            state[name] = value
    check_mapped(index, weight_map, found)
    return list_mapping(state, str(index), "torch, sharded", read_config(index.parent, index))


def read_torch_file(path: Path) -> Any:
    """Whatever a torch file holds, tensors mapped from disk where its format allows that."""
    try:
        if path.stat().st_size == 0:
            raise ModelError(f"{path}: the file is empty, expected torch weights; {AGAIN}")
        with path.open("rb") as file:
            start = file.read(8)
        if start.startswith(b"version "):
            raise ModelError(f"{path}: a Git LFS pointer, not the weights; run 'git lfs pull'")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols: the outcome is checked
            # Only the zip format can be mapped; files of torch < 1.6 are pickles read whole.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start[:2] == b"PK")
    except pickle.UnpicklingError as error:
        raise _pickle_error(path, str(error)) from None
    except ModelError:
        raise
    except Exception as error:  # what torch raises on damaged files is not a closed list
        if "TorchScript" in str(error):
            raise UnsupportedFormat(
                f"{path} is a TorchScript program, not a checkpoint: load it with torch.jit.load "
                "in Python and pass its state_dict()"
            ) from error
        why = first_line(error)
        raise ModelError(f"{path}: not a whole torch file ({why}); {AGAIN}") from error


def _pickle_error(path: Path, message: str) -> ModelError:
    """Tells a pickle that needs code from one that is damaged or no pickle at all."""
    wanted = _global(message)
    if not wanted:
        return ModelError(f"{path}: not a torch file, or damaged; expected torch weights: {AGAIN}")
    return ModelError(
        f"{path}: refused, it holds more than weights and would run code when opened (it asks for "
        f"{wanted}). Only weights are read. If you trust the file, convert it: load it in Python "
        "with the program that made it, then "
        "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
    )


def _global(message: str) -> str:
    """The class or function that a refused pickle asked for; empty where it asked for none."""
    for mark in ("GLOBAL ", "Unsupported class "):
        _, found, rest = message.partition(mark)
        name = rest.split()[0].strip("`,.") if found and rest.split() else ""
        if "." in name:  # a pickle that was cut off asks for half a name
            return name
    # torch does not know the operation by which newer pickles name what they need.
    return "a Python object" if "nsupported operand 14" in message else ""


def _unwrap(content: Any, path: Path) -> tuple[Mapping[Any, Any], list[str]]:
    """The state dict inside a checkpoint of a training script, and a note of where it was."""
    keys: list[str] = []
    while isinstance(content, Mapping) and not _has_weights(content):
        key = next((k for k in NESTED if isinstance(content.get(k), Mapping)), None)
        if key is None:
            key = next((k for k, v in content.items() if _has_weights(v)), None)
        if key is None:
            break
        keys.append(str(key))
        content = content[key]
    if isinstance(content, torch.Tensor):
        raise ModelError(
            f"{path} holds a single tensor without a name; expected a mapping of names to tensors: "
            "pass {'weight': tensor} in Python"
        )
    if not isinstance(content, Mapping):
        raise ModelError(
            f"{path} holds {type(content).__name__}; expected a mapping of names to tensors "
            "(a state dict): save model.state_dict() instead"
        )
    where = ".".join(keys)
    return content, [f"the tensors were found under '{where}'"] if keys else []


def _has_weights(value: Any) -> bool:
    """Whether a mapping holds tensors; single numbers, such as a loss, stand beside any model."""
    return isinstance(value, Mapping) and any(
        isinstance(v, torch.Tensor) and v.ndim > 0 for v in value.values()
    )


def _noted(listed: TensorList, notes: list[str]) -> TensorList:
    return dataclasses.replace(listed, notes=(*notes, *listed.notes))
