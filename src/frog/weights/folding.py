"""What a packed group becomes: one tensor that is unpacked on request, or a refusal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from frog.errors import ModelError
from frog.weights.stored import StoredTensor, as_is

Names = Mapping[str, StoredTensor]
Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackedTensor(StoredTensor):
    """A packed stack (experts on axis 0): ``member(i)`` unpacks one without the others."""

    member: Callable[[int], np.ndarray] = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True)
class Folded:
    """What a packed tensor stands for, and the names that went into it."""

    tensor: StoredTensor
    used: tuple[str, ...]
    format: str


def fold(
    tensor: StoredTensor,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    used: tuple[str, ...],
    format: str,
    unpack: Callable[[Any], np.ndarray],
) -> Folded:
    """The unpacked tensor; a stack (3-D) can also be unpacked member by member."""

    def guarded(part: int | slice) -> np.ndarray:
        try:
            with np.errstate(all="ignore"):  # NaN and Inf are counted by who measures
                return unpack(part)
        except (IndexError, ValueError) as error:
            raise ModelError(
                f"{name}: its packed data ({format}) contradict each other ({error}); "
                "download or save the model again"
            ) from error

    fields: dict[str, Any] = {
        "name": name,
        "shape": shape,
        "dtype": dtype,
        "codes": lambda: guarded(slice(None)),
        "decode": as_is,
        "aliases": tensor.aliases,
        "owner": tensor.owner,
        "unpacked": True,
    }
    if len(shape) == 3:
        return Folded(StackedTensor(**fields, member=lambda i: guarded(i)[0]), used, format)
    return Folded(StoredTensor(**fields), used, format)


def refuse(tensor: StoredTensor, used: tuple[str, ...], format: str, why: str) -> Folded:
    """The codes as they are, marked as not measurable."""
    reason = f"packed as {format}: {why}"
    return Folded(dataclasses.replace(tensor, unsupported=reason), used, format)


def floats(tensor: StoredTensor) -> np.ndarray:
    return np.asarray(tensor.decode(tensor.codes()), np.float32)
