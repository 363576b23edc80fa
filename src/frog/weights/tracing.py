"""Where every tensor of a saved file lies in the parameters of the live model.

The conversion that transformers applies on save is run on tensors without data (device "meta"):
the storage and the strides of what comes out say where it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of the file, or a stretch of it, as it lies in one parameter of the model.

    ``start`` is its first place along ``axis`` of the file's tensor; offset and strides count
    elements of the flat parameter.
    """

    parameter: str
    parameter_shape: tuple[int, ...]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    axis: int = 0
    start: int = 0

    @property
    def whole(self) -> bool:
        """Whether it is the parameter as it is."""
        return self.offset == 0 and self.shape == self.parameter_shape and _dense(self)


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a tensor of the file comes from: its pieces, or (rearranged more) only its sources."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    sources: tuple[str, ...]


Traces = dict[str, Trace]
"""Name on disk -> where it comes from."""


def trace(shapes: Mapping[str, tuple[int, ...]], model: Any) -> Traces:
    """Run the model's conversion backwards on tensors without data."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 keeps the names of the file
        return as_they_are(shapes)
    made = {
        name: torch.empty(shape, device="meta").as_subclass(_Traced)
        for name, shape in shapes.items()
    }
    known = {_storage(tensor): name for name, tensor in made.items()}
    reverted = revert_weight_conversion(model, dict(made))
    return {
        name: Trace(
            shape=tuple(x.shape),
            pieces=_pieces(x, known, shapes),
            sources=tuple(dict.fromkeys(_sources(x, known))),
        )
        for name, x in reverted.items()
    }


def as_they_are(shapes: Mapping[str, tuple[int, ...]]) -> Traces:
    """The traces of a model that is saved under its own names."""
    return {
        name: Trace(shape=shape, pieces=(_entire(name, shape),), sources=(name,))
        for name, shape in shapes.items()
    }


class _Traced(torch.Tensor):
    """A tensor without data that remembers, by its storage, which parameter it is part of.

    ``parts`` and ``axis`` are set where it was joined from several; ``sources`` are the tensors
    that it was computed from, where an operation gave it memory of its own.
    """

    parts: list[torch.Tensor]
    axis: int
    sources: list[torch.Tensor]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _SAME:  # copies keep the values: the strides must survive them
            return args[0]
        result: Any = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, _Traced):
            result.sources = _tensors((args, tuple(kwargs.values())))
            if name in ("cat", "concat", "concatenate", "stack"):
                dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
                parts = list(args[0] if args else kwargs["tensors"])
                result.parts = [part.unsqueeze(dim) for part in parts] if name == "stack" else parts
                result.axis = dim % result.dim()
        return result


_SAME = frozenset(("contiguous", "clone", "detach", "cpu", "to", "cuda"))
"""Names of the operations that only copy."""


def _tensors(value: Any) -> list[torch.Tensor]:
    """All tensors among the arguments of an operation."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _sources(tensor: torch.Tensor, known: dict[int, str]) -> Iterator[str]:
    """The parameters that a traced tensor was made of."""
    parameter = known.get(_storage(tensor))
    if parameter is not None:
        yield parameter
        return
    for source in getattr(tensor, "sources", ()):
        yield from _sources(source, known)


def _pieces(
    tensor: torch.Tensor, known: dict[int, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Piece, ...]:
    """Where a traced tensor lies; () where that was lost."""
    parameter = known.get(_storage(tensor))
    if parameter is not None:
        return (
            Piece(
                parameter=parameter,
                parameter_shape=shapes[parameter],
                offset=int(tensor.storage_offset()),
                shape=tuple(tensor.shape),
                strides=tuple(tensor.stride()),
            ),
        )
    parts, axis = getattr(tensor, "parts", ()), getattr(tensor, "axis", 0)
    pieces: list[Piece] = []
    start = 0
    for part in parts:
        inner = _pieces(part, known, shapes)
        if not inner or (len(inner) > 1 and inner[0].axis != axis):
            return ()
        pieces += [replace(x, axis=axis, start=start + x.start) for x in inner]
        start += part.shape[axis]
    return tuple(pieces)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _entire(name: str, shape: tuple[int, ...]) -> Piece:
    return Piece(
        parameter=name,
        parameter_shape=shape,
        offset=0,
        shape=shape,
        strides=dense_strides(shape),
    )


def _dense(piece: Piece) -> bool:
    return all(
        size == 1 or stride == dense
        for size, stride, dense in zip(
            piece.shape, piece.strides, dense_strides(piece.shape), strict=True
        )
    )


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of an array in C order."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return tuple(strides)
