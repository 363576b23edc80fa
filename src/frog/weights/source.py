"""The one door: whatever a user names becomes a :class:`TensorList`.

A path is read from disk and never touches the network; a name that is no path but looks like
one of the hub's is fetched (or found in its cache); modules and mappings are listed as they are.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from frog.errors import ModelError, UsageError
from frog.weights import checkpoint
from frog.weights.stored import TensorList

ACCEPTED = (
    "a model folder, a .safetensors file, a *.index.json, an adapter folder, a .pt/.pth/.bin/"
    ".ckpt file, a hub id (org/name or org/name@revision), a torch.nn.Module, or a mapping of "
    "names to tensors"
)
TORCH_ENDINGS = (".pt", ".pth", ".th", ".bin", ".ckpt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?", re.ASCII)
_FILE_ENDINGS = (*TORCH_ENDINGS, ".safetensors", ".json", ".gguf", ".h5", ".msgpack", ".onnx")


def list_tensors(model: Any, *, base: Any = None) -> TensorList:
    """All tensors of a model, unread.

    ``base`` is the model that an adapter was trained on: the result is then the base with the
    adapter's products added. Raises :class:`ModelError` for what cannot be read.
    """
    listed = _list(model)
    if base is None:
        return listed
    if not listed.adapters:
        raise UsageError(f"base= is for adapters, but {listed.path} is none: leave base= out")
    from frog.weights import adapter

    return adapter.add_adapter(_list(base), listed)


def is_hub_id(name: str) -> bool:
    """Whether a string that is no existing path reads as ``name`` or ``org/name[@revision]``."""
    if not _HUB_ID.fullmatch(name) or name.endswith(_FILE_ENDINGS):
        return False
    # "models/llama" in a place with a folder "models" is a mistyped path, not somebody's model.
    first, slash, _ = name.partition("/")
    return not (slash and Path(first).is_dir())


def _list(model: Any) -> TensorList:
    if isinstance(model, str | PathLike):
        return _list_named(str(model))
    torch = sys.modules.get("torch")  # who passes a module has imported torch
    if torch is not None and isinstance(model, torch.nn.Module):
        from frog.weights import module, names

        return names.to_disk(module.list_module(model), model)
    if isinstance(model, Mapping):
        from frog.weights import module

        return module.list_state_dict(model)
    raise ModelError(f"a model must be {ACCEPTED}; got {type(model).__name__}")


def _list_named(name: str) -> TensorList:
    """A string: an existing path first, then a hub id, else an error with the nearest name."""
    path = Path(name)
    try:
        path = path.expanduser()
        exists = bool(name) and "\0" not in name and path.exists()
    except (OSError, RuntimeError):  # a name too long, a home of nobody, a folder locked to us
        exists = False
    if exists:
        return _list_path(path)
    if is_hub_id(name):
        from frog.weights import hub

        return _list_path(hub.fetch(name), shown=name)
    raise ModelError(f"no such file or folder: '{name}'{_nearest(path)} A model is {ACCEPTED}")


def _list_path(path: Path, shown: str | None = None) -> TensorList:
    """An existing file or folder, by kind; ``shown`` replaces the path in the result."""
    if path.is_dir():
        try:
            listed = _list_folder(path)
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error}): check its permissions") from error
    elif not path.is_file():  # a pipe would wait for a writer, for ever
        raise ModelError(f"{path} must be a file or a folder, got a device, pipe or socket")
    elif path.name.endswith(checkpoint.INDEX):
        listed = _list_index(path)
    elif path.suffix == ".safetensors":
        listed = checkpoint.list_safetensors(path)
    elif path.suffix in TORCH_ENDINGS:
        from frog.weights import torch_file

        listed = torch_file.list_torch_file(path)
    else:
        checkpoint.refuse_other(path)
        if path.suffix == ".json":
            raise ModelError(
                f"{path} holds no weights: a saved report can be read by frog report, frog compare "
                f"and frog gate. A model is {ACCEPTED}"
            )
        raise ModelError(f"{path} is not a file that FROG reads. A model is {ACCEPTED}")
    if shown is None:
        return listed
    return dataclasses.replace(listed, path=shown)


def _list_folder(path: Path) -> TensorList:
    if (path / "adapter_config.json").is_file():
        from frog.weights import adapter

        return adapter.list_adapter(path)
    return checkpoint.list_folder(path)


def _list_index(path: Path) -> TensorList:
    if path.name.endswith(".bin" + checkpoint.INDEX):
        from frog.weights import torch_file

        return torch_file.list_torch_index(path)
    return checkpoint.list_index(path)


def _nearest(path: Path) -> str:
    """The most similar name beside a missing path, as a hint, or nothing."""
    try:
        beside = [x.name for x in path.parent.iterdir()]
    except (OSError, ValueError):
        return f" (nor is there a folder '{path.parent}')"
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f". Did you mean '{path.parent / close[0]}'?" if close else "."
