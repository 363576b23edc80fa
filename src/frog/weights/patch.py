"""A delta carried out: on a live model in place, or on a checkpoint into a new folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from frog.errors import FrogError, UnsupportedFormat, UsageError
from frog.types import SparseDelta, TensorDelta
from frog.weights.delta import apply_bits, check_base
from frog.weights.source import list_tensors
from frog.weights.stored import TensorList


def patch_live(model: Any, delta: SparseDelta, *, revert: bool = False) -> None:
    """Apply or revert a delta on a module or a state dict, in place, all of it or nothing.

    Raises :class:`~frog.errors.UsageError` where the model is not the base (for ``revert``: not
    the tuned state), or keeps a tensor in pieces that only saving joins.
    """
    listed = list_tensors(model)
    check_base(delta, listed, revert=revert)
    targets = [(_writable(listed, part), part) for part in delta.tensors]
    for bits, part in targets:
        apply_bits(bits, part)


def patch_checkpoint(path: Path, delta: SparseDelta, out: Path, *, revert: bool = False) -> Path:
    """Write a patched copy of a safetensors file or folder; all else in it stays as it is.

    ``out`` must not exist. The copy is made under another name and renamed when it is whole.
    """
    if out.exists():
        raise UsageError(f"{out}: must not exist yet: choose another, or remove it first")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: its folder must exist, got {out.parent}: make it first")
    listed = list_tensors(str(path))
    check_base(delta, listed, revert=revert)
    parts = {name: part for part in delta.tensors for name in _names(listed, part)}
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as inside:
            copy = Path(inside) / out.name
            if path.is_dir():
                shutil.copytree(path, copy, symlinks=False)
                files = sorted(copy.glob("*.safetensors"))
            else:
                shutil.copyfile(path, copy)
                files = [copy]
            done = {name for file in files for name in _patch_file(file, parts)}
            missing = [
                part.tensor for part in delta.tensors if not set(_names(listed, part)) & done
            ]
            if missing:
                raise UnsupportedFormat(
                    f"{path}: {missing[0]} is not in a safetensors file: convert the checkpoint "
                    "with save_pretrained first"
                )
            copy.rename(out)
    except OSError as error:
        raise FrogError(
            f"{out}: could not be written ({error.strerror or error}); nothing was left behind"
        ) from None
    return out


def _names(listed: TensorList, part: TensorDelta) -> tuple[str, ...]:
    """All names under which a file may hold the tensor."""
    for tensor in listed.tensors:
        names = (tensor.name, *tensor.aliases)
        if part.tensor in names:
            return names
    return (part.tensor,)


def _patch_file(path: Path, parts: Mapping[str, TensorDelta]) -> list[str]:
    """Change the bits in one safetensors file in place; the names that it had."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    done = []
    for name, entry in header.items():
        part = parts.get(name)
        if part is None:
            continue
        start, stop = entry["data_offsets"]
        words = part.xor.dtype
        if len(part.index):
            bits = np.memmap(
                path, words, mode="r+", offset=8 + length + start,
                shape=((stop - start) // words.itemsize,),
            )  # fmt: skip
            apply_bits(bits, part)
            bits.flush()
        done.append(name)
    return done


def _writable(listed: TensorList, part: TensorDelta) -> np.ndarray:
    """The bits of a live tensor, flat, in its own memory."""
    tensor = next(x for x in listed.tensors if part.tensor in (x.name, *x.aliases))
    codes = tensor.codes()
    if not (codes.flags.writeable and codes.flags.c_contiguous):
        raise UsageError(
            f"{part.tensor} does not lie in one piece in the live model: save the model and apply "
            "the delta to its folder"
        )
    return codes.reshape(-1).view(part.xor.dtype)
