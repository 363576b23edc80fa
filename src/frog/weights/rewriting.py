"""Matrices of a checkpoint changed in a copy: same names, types and files, all else as it was."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from frog.errors import FrogError, ModelError, UnsupportedFormat, UsageError
from frog.numerics.views import put, take
from frog.types import WeightMatrix
from frog.weights import hub
from frog.weights.source import is_hub_id

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of weights that can be changed in place."""


def stored_at(model: str) -> Path:
    """The folder or file of a checkpoint; that of a hub id is in the hub's cache.

    Raises :class:`~frog.errors.ModelError` where there is none.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path.parent if path.name.endswith(".index.json") else path
    if is_hub_id(model):
        return hub.fetch(model)
    raise ModelError(f"no such file or folder: '{model}': name the checkpoint as it is now")


def rewrite(
    path: Path,
    matrices: Mapping[str, WeightMatrix],
    change: Callable[[str, Tensor], None],
    out: Path,
) -> Path:
    """Write a copy of a safetensors file or folder to ``out`` with these matrices changed.

    ``change(name, weight_mn)`` changes a matrix in place, in its own type. One tensor is in
    memory at a time. ``out`` must not exist; the copy is made under another name and renamed when
    it is whole. Raises :class:`~frog.errors.UsageError` for ``out`` and
    :class:`~frog.errors.UnsupportedFormat` for weights in other files or types.
    """
    if out.exists():
        raise UsageError(f"{out}: must not exist yet: choose another, or remove it first")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: its folder must exist, got {out.parent}: make it first")
    if path.is_dir() and path.resolve() in out.absolute().parents:
        raise UsageError(f"{out}: must lie outside the model {path}: choose another folder")
    by_tensor: dict[str, list[WeightMatrix]] = {}
    for matrix in matrices.values():
        for name in (matrix.tensor, *matrix.aliases):
            by_tensor.setdefault(name, []).append(matrix)
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}.", dir=out.absolute().parent
        ) as inside:
            copy = Path(inside) / out.name
            done = {
                name
                for file in _copied(path, copy)
                for name in _change_file(file, by_tensor, change)
            }
            for matrix in matrices.values():
                if not done & {matrix.tensor, *matrix.aliases}:
                    raise UnsupportedFormat(
                        f"{path}: {matrix.tensor} is not in a safetensors file: convert the "
                        "checkpoint with save_pretrained first"
                    )
            copy.rename(out)
    except OSError as error:
        raise FrogError(
            f"{out}: could not be written ({error.strerror or error}); nothing was left behind"
        ) from None
    return out


def _copied(path: Path, copy: Path) -> Iterator[Path]:
    """Copy a checkpoint; its safetensors files, each when it is there."""
    if path.is_file():
        shutil.copyfile(path, copy)
        yield copy
        return
    shutil.copytree(path, copy, symlinks=False)
    yield from sorted(copy.glob("*.safetensors"))


def _change_file(
    path: Path,
    by_tensor: Mapping[str, list[WeightMatrix]],
    change: Callable[[str, Tensor], None],
) -> Iterator[str]:
    """Change the matrices in one file in place; the names of its tensors that had some."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name not in by_tensor:
            continue
        if entry["dtype"] not in TYPES:
            raise UnsupportedFormat(
                f"{path}: {name} must be of {', '.join(TYPES)}, got {entry['dtype']}: it is "
                "compressed already; start from the model in its full type"
            )
        start, stop = entry["data_offsets"]
        if start == stop:
            continue
        kept = np.memmap(path, np.uint8, mode="r+", offset=8 + length + start,
                         shape=(stop - start,))  # fmt: skip
        # a copy: a file may place a tensor at an odd byte
        tensor = torch.from_numpy(np.array(kept)).view(TYPES[entry["dtype"]]).view(entry["shape"])
        for matrix in by_tensor[name]:
            assert matrix.view is not None
            weight = take(tensor, matrix.view)
            change(matrix.name, weight)
            put(tensor, matrix.view, weight)
        kept[:] = tensor.reshape(-1).view(torch.uint8).numpy()
        kept.flush()
        yield name
