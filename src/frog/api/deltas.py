"""Deltas: the difference of two models, applied to a base, undone."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from frog.errors import UsageError
from frog.types import SparseDelta
from frog.weights.delta import diff_tensors
from frog.weights.patch import patch_checkpoint, patch_live
from frog.weights.source import list_tensors


def diff(before: Any, after: Any) -> SparseDelta:
    """What turns ``before`` into ``after``, bit for bit: every changed entry of every tensor.

    Both are paths, hub ids, modules or state dicts that hold the same tensors; one pair of
    tensors is in memory at a time. Raises :class:`~frog.errors.UsageError` where a tensor is only
    on one side or has another shape or dtype.

    >>> import torch
    >>> old, new = {"w": torch.ones(2, 2)}, {"w": torch.tensor([[1.0, 2.0], [1.0, 1.0]])}
    >>> diff(old, new).count
    1
    """
    return diff_tensors(list_tensors(before), list_tensors(after))


def apply_delta(model: Any, delta: SparseDelta, *, out: Any = None, revert: bool = False) -> Any:
    """Apply a delta to its base, or undo it (``revert``), exact to the bit.

    A module or state dict is changed in place and given back; a path (a folder or a safetensors
    file) is left as it is and a changed copy is written to ``out``. A model that is not the base
    is refused before anything is written. Raises :class:`~frog.errors.UsageError`.

    >>> import torch
    >>> old, new = {"w": torch.ones(2)}, {"w": torch.tensor([1.0, 2.0])}
    >>> apply_delta(old, diff(old, new))["w"].tolist()
    [1.0, 2.0]
    """
    if not isinstance(model, str | PathLike):
        if out is not None:
            raise UsageError("out= is for paths: a live model is changed in place")
        patch_live(model, delta, revert=revert)
        return model
    path = Path(model).expanduser()
    if not path.exists():
        raise UsageError(f"{path}: must be a checkpoint folder or file on this machine")
    if out is None:
        raise UsageError("out= must name the folder or file of the result")
    return patch_checkpoint(path, delta, Path(out), revert=revert)
