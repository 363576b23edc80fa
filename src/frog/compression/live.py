"""Units of a live model: matrices that are read, changed and put back, bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from frog.errors import UsageError
from frog.numerics.views import put, take
from frog.types import MatrixView, WeightMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveUnit:
    """What is decided on together: a matrix, or those of a block.

    ``matrices`` are located in the live model (:func:`frog.weights.names.locate`); ``module`` is
    the name of the module that holds them all, "" where there is none but the model.
    """

    name: str
    matrices: tuple[WeightMatrix, ...]
    module: str = ""


def matrix_units(matrices: Iterable[WeightMatrix]) -> tuple[LiveUnit, ...]:
    """A unit for every matrix that counts (no embeddings, heads, routers)."""
    return tuple(
        LiveUnit(name=x.name, matrices=(x,), module=_module_of([x]))
        for x in matrices
        if x.averaged and x.live is not None
    )


def block_units(matrices: Iterable[WeightMatrix]) -> tuple[LiveUnit, ...]:
    """A unit for every block, named after the module that holds its matrices."""
    blocks: dict[tuple[int, str], list[WeightMatrix]] = {}
    for x in matrices:
        if x.averaged and x.live is not None and x.block is not None:
            stem = x.live.parameter.split(f".{x.block}.")[0]  # encoder and decoder apart
            blocks.setdefault((x.block, stem), []).append(x)
    if not blocks:
        raise UsageError("no matrix of the model is in a numbered block: take matrix_units")
    return tuple(
        LiveUnit(name=_module_of(members) or f"block {block}", matrices=tuple(members),
             module=_module_of(members))
        for (block, _), members in blocks.items()
    )  # fmt: skip


def _module_of(matrices: Iterable[WeightMatrix]) -> str:
    """The longest path that all parameters share."""
    paths = [x.live.parameter.split(".")[:-1] for x in matrices if x.live is not None]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def read(model: nn.Module, matrix: WeightMatrix) -> Tensor:
    """The (m, n) matrix as it is now; a view of the parameter wherever the layout allows it."""
    parameter, view = _home(model, matrix)
    return take(parameter.data, view)


def write(model: nn.Module, matrix: WeightMatrix, values_mn: Tensor) -> None:
    """Put ``values_mn`` in the place of the matrix, in the type of the parameter."""
    parameter, view = _home(model, matrix)
    if not parameter.data.is_contiguous():
        raise UsageError(
            f"{matrix.name} must be contiguous to be changed, got strides "
            f"{parameter.data.stride()}: make it so, or leave it out"
        )
    put(parameter.data, view, values_mn)


def change(model: nn.Module, matrix: WeightMatrix, apply: Callable[[Tensor], None]) -> None:
    """Let ``apply`` change the (m, n) matrix in place, or a copy where the layout needs one."""
    parameter, view = _home(model, matrix)
    found = take(parameter.data, view)
    apply(found)
    if found.untyped_storage().data_ptr() != parameter.data.untyped_storage().data_ptr():
        write(model, matrix, found)


def _home(model: nn.Module, matrix: WeightMatrix) -> tuple[nn.Parameter, MatrixView]:
    if matrix.live is None:
        raise UsageError(f"{matrix.name} is no parameter of the live model: leave it out")
    return model.get_parameter(matrix.live.parameter), matrix.live.view


@contextmanager
def restored(model: nn.Module, matrices: Iterable[WeightMatrix]) -> Iterator[list[Tensor]]:
    """Gives copies of these matrices, and puts them back at the end, whatever happened."""
    matrices = tuple(matrices)
    copies = [read(model, x).clone() for x in matrices]
    try:
        yield copies
    finally:
        for matrix, copy in zip(matrices, copies, strict=True):
            write(model, matrix, copy)


@contextmanager
def put_aside(
    model: nn.Module, matrices: Iterable[WeightMatrix], folder: Path
) -> Iterator[Callable[[str], Tensor]]:
    """As :func:`restored` with the copies in a file without a name in ``folder``, not in memory.

    Gives a function that reads the copy of a matrix by its name. UsageError where the file cannot
    be written; nothing of it stays, also when the process is killed.
    """
    matrices = tuple(matrices)
    if not matrices:
        yield lambda name: torch.empty(0)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        places: dict[str, tuple[int, Tensor]] = {}
        try:
            for matrix in matrices:
                values = read(model, matrix).contiguous()
                places[matrix.name] = file.tell(), values.new_empty(0)
                file.write(values.cpu().view(torch.uint8).numpy().data)
            file.flush()
        except OSError as error:
            raise UsageError(
                f"{folder}: the weights cannot be put aside there ({error.strerror}): make room, "
                "or keep the log elsewhere"
            ) from None
        shapes = {x.name: x.shape for x in matrices}

        def copy(name: str) -> Tensor:
            start, like = places[name]
            m, n = shapes[name]
            file.seek(start)
            data = bytearray(file.read(m * n * like.element_size()))
            return torch.frombuffer(data, dtype=like.dtype).view(m, n).to(like.device)

        try:
            yield copy
        finally:
            for matrix in matrices:
                write(model, matrix, copy(matrix.name))


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No gradients, no dropout; the mode of every module is put back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
