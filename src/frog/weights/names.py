"""Disk <-> live: one name for a matrix, whether it was found in a file or in a model.

transformers renames, splits and fuses tensors on load and reverts that on save. The canonical
name is the one on disk, so a live model is *traced*: its conversion is run backwards on tensors
without data (device "meta"), and the strides of what comes out say where each tensor of the
file lies in the parameters. A plain module has its own names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from frog.numerics import views
from frog.types import Catalogue, LiveParameter, MatrixView
from frog.weights import tracing
from frog.weights.module import BESIDE, stored_torch
from frog.weights.stored import StoredTensor, TensorList
from frog.weights.tracing import Piece, Trace, Traces

WRAPPERS = ("module", "_orig_mod")
"""Attributes under which data-parallel training and torch.compile keep the model."""


def to_disk(listed: TensorList, model: torch.nn.Module) -> TensorList:
    """The tensors of a live model under the names and in the shapes of its saved file.

    ``listed`` comes from :func:`frog.weights.module.list_module`. Nothing is copied until a
    tensor is read. A model that transformers does not convert comes back as it is.
    """
    inner, _ = _unwrap(model)
    if not _is_transformers(inner):
        return listed
    listed = _kept_names(listed, inner)
    by_name = {tensor.name: tensor for tensor in listed.tensors}
    try:
        traces = tracing.trace({name: x.shape for name, x in by_name.items()}, inner)
    except Exception as error:  # whatever a conversion of another library may raise
        note = f"names are the live model's: its conversion could not be reverted ({error})"
        return dataclasses.replace(listed, notes=(*listed.notes, note))
    place = {name: number for number, name in enumerate(by_name)}
    tensors = [
        _as_stored(name, trace.pieces, by_name)
        if trace.pieces and len({by_name[x].dtype for x in trace.sources}) == 1
        else _converted(name, trace, by_name, inner)
        for name, trace in traces.items()
    ]
    first = {
        name: min((place[x] for x in trace.sources), default=len(place))
        for name, trace in traces.items()
    }
    tensors.sort(key=lambda tensor: first[tensor.name])  # stable: the order of registration
    return dataclasses.replace(listed, tensors=tuple(tensors))


def locate(catalogue: Catalogue, model: torch.nn.Module) -> Catalogue:
    """The catalogue with the live parameter and view of every matrix that the model has.

    The catalogue may come from a file, from another class of the same model (with or without a
    head), or from ``model`` itself. ``live`` stays None for a matrix that the model does not
    have, has in another shape, or spreads over several parameters.
    """
    inner, prefix = _unwrap(model)
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in inner.named_parameters(remove_duplicate=False)
        if not hasattr(parameter, BESIDE)  # some conversions take name_change for name
    }
    traces = tracing.as_they_are(shapes)
    if _is_transformers(inner):
        with contextlib.suppress(Exception):  # as in to_disk: then the names are the live ones
            traces |= tracing.trace(shapes, inner)
    find = _Finder(traces)
    matrices = []
    for matrix in catalogue.matrices:
        live = None
        if matrix.view is not None:
            for name in (matrix.tensor, *matrix.aliases):
                live = live or _live(find(name), matrix.view)
        if live is not None:
            live = dataclasses.replace(live, parameter=prefix + live.parameter)
        matrices.append(dataclasses.replace(matrix, live=live))
    return dataclasses.replace(catalogue, matrices=tuple(matrices))


# --------------------------------------------------------------------- names and values


def _kept_names(listed: TensorList, model: Any) -> TensorList:
    """Of tied names, that one first which the file keeps."""
    ties = getattr(model, "all_tied_weights_keys", None) or getattr(
        model, "_tied_weights_keys", None
    )
    dropped = set(ties or ())
    tensors = []
    for tensor in listed.tensors:
        names = (tensor.name, *tensor.aliases)
        kept = [name for name in names if name not in dropped] or [max(names)]
        others = tuple(name for name in names if name != kept[0])
        tensors.append(dataclasses.replace(tensor, name=kept[0], aliases=others))
    return dataclasses.replace(listed, tensors=tuple(tensors))


def _as_stored(
    name: str, pieces: tuple[Piece, ...], by_name: Mapping[str, StoredTensor]
) -> StoredTensor:
    """The tensor of the file that lies so in the live tensors."""
    lives = [by_name[piece.parameter] for piece in pieces]
    first = lives[0]
    if len(pieces) == 1 and pieces[0].whole:
        return dataclasses.replace(first, name=name)
    axis = pieces[0].axis
    shape = list(pieces[0].shape)
    shape[axis] = sum(piece.shape[axis] for piece in pieces)

    def codes() -> np.ndarray:
        parts = [_strided_codes(x.codes(), p) for x, p in zip(lives, pieces, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)

    return StoredTensor(
        name=name,
        shape=tuple(shape),
        dtype=first.dtype,
        codes=codes,
        decode=first.decode,
        owner=first.owner,
        unsupported=next((x.unsupported for x in lives if x.unsupported), None),
    )


def _strided_codes(codes: np.ndarray, piece: Piece) -> np.ndarray:
    """The stretch of a parameter's codes that a piece describes; no copy."""
    flat = codes.reshape(-1)[piece.offset :]
    steps = tuple(stride * codes.itemsize for stride in piece.strides)
    return np.lib.stride_tricks.as_strided(flat, piece.shape, steps, writeable=False)


def _converted(
    name: str, trace: Trace, by_name: Mapping[str, StoredTensor], model: Any
) -> StoredTensor:
    """A tensor whose values only the conversion itself can give, each time it is read.

    Rare: rotary permutations of a few vision towers. Such a matrix has no live view.
    """
    from transformers.core_model_loading import revert_weight_conversion

    def codes() -> np.ndarray:
        state = model.state_dict()
        live = {source: state[source] for source in trace.sources}
        return stored_torch(name, revert_weight_conversion(model, live)[name]).codes()

    first = by_name[trace.sources[0]]
    return dataclasses.replace(first, name=name, shape=trace.shape, codes=codes, aliases=())


# -------------------------------------------------------------------------- live places


class _Finder:
    """Finds the trace of a tensor by its name on disk, with or without the prefix of a base."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._tails: dict[str, list[str]] = {}
        for name in traces:
            for tail in _tails(name):
                self._tails.setdefault(tail, []).append(name)

    def __call__(self, name: str) -> tuple[Piece, ...]:
        if name in self._traces:
            return self._traces[name].pieces
        longer = self._tails.get(name, [])
        if len(longer) == 1:
            return self._traces[longer[0]].pieces
        shorter = [tail for tail in _tails(name) if tail in self._traces and "." in tail]
        return self._traces[shorter[0]].pieces if shorter and not longer else ()


def _tails(name: str) -> Iterator[str]:
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _live(pieces: tuple[Piece, ...], view: MatrixView) -> LiveParameter | None:
    """The parameter and view of a matrix that ``view`` picks from the tensor of these pieces."""
    if len(pieces) == 1 and pieces[0].whole and pieces[0].shape == view.tensor_shape:
        return LiveParameter(parameter=pieces[0].parameter, view=view)
    for piece in pieces:
        found = _compose(view, piece)
        if found is not None:
            return LiveParameter(parameter=piece.parameter, view=found)
    return None


def _compose(view: MatrixView, piece: Piece) -> MatrixView | None:
    """The view of the parameter that equals ``view`` of the file's tensor, or None.

    Every axis of a matrix lies within one axis of its tensor; there it takes the stride that the
    piece has.
    """
    shape = view.tensor_shape
    if len(shape) != len(piece.shape):
        return None
    if any(x != y for i, (x, y) in enumerate(zip(shape, piece.shape, strict=True))
           if i != piece.axis):  # fmt: skip
        return None
    dense = tracing.dense_strides(shape)
    start, rows, columns = views.strided(view)
    place = [start // stride % size for stride, size in zip(dense, shape, strict=True)]
    reach = list(place)
    moved: list[list[tuple[int, int]]] = []
    for group in (rows, columns):
        moved.append([])
        for length, step in group:
            axis = next(i for i, stride in enumerate(dense) if step >= stride and shape[i] > 1)
            reach[axis] += (length - 1) * (step // dense[axis])
            if reach[axis] >= shape[axis]:
                return None
            moved[-1].append((length, step // dense[axis] * piece.strides[axis]))
    place[piece.axis] -= piece.start
    reach[piece.axis] -= piece.start
    if place[piece.axis] < 0 or reach[piece.axis] >= piece.shape[piece.axis]:
        return None
    offset = piece.offset + sum(x * y for x, y in zip(place, piece.strides, strict=True))
    return views.from_strided(piece.parameter_shape, offset, moved[0], moved[1])


def _unwrap(model: torch.nn.Module) -> tuple[torch.nn.Module, str]:
    """The model inside data-parallel and compiled wrappers, and the prefix of its names."""
    prefix = ""
    while True:
        children = dict(model.named_children())
        word = next((x for x in WRAPPERS if list(children) == [x]), None)
        if word is None:
            return model, prefix
        model, prefix = children[word], f"{prefix}{word}."


def _is_transformers(model: torch.nn.Module) -> bool:
    """Whether the model is one of transformers' own; imports nothing."""
    library = sys.modules.get("transformers.modeling_utils")
    return library is not None and isinstance(model, library.PreTrainedModel)
