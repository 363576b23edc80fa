"""Rate-distortion curves: what the outputs lose with one unit changed and all others as they were.

Every cell, a unit at a level, is a line of a log. A run that was killed goes on where the log
ends. Source of the curves: Xu et al. 2023, ICCV, "Efficient joint optimization of layer-adaptive
weight pruning"; of their use for bits: Hubara et al. 2020, arXiv:2006.10518.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from frog.compression.distortion import checked_output, distortions, relative
from frog.compression.live import LiveUnit, change, inference, put_aside, restored, write
from frog.compression.pruning import IMPORTANCE, Within, count_at, keep_mask
from frog.errors import UsageError
from frog.numerics.rounding import Rounding, round_in_place
from frog.types import WeightMatrix

MEASURED = ("error", "angle")
"""The numbers of a cell."""

Outputs = Callable[[nn.Module, Any], Tensor]


class Level(Protocol):
    """One thing that can be done to a matrix; ``key`` says all that its result depends on."""

    @property
    def key(self) -> str:
        """The name of the level in the log."""
        ...

    @property
    def value(self) -> float:
        """The level as a number: a bit width or a sparsity."""
        ...

    def apply(self, name: str, weight_mn: Tensor) -> None:
        """Change the matrix of that name in place."""
        ...

    def size(self, params: int) -> int:
        """Size of a matrix of so many weights: bits of codes, or weights that are kept."""
        ...


@dataclass(frozen=True, slots=True)
class Bits:
    """Rounding to nearest."""

    rounding: Rounding

    @property
    def key(self) -> str:
        """Bits, group and form."""
        how = self.rounding
        form = "symmetric" if how.symmetric else "asymmetric"
        return f"bits={how.bits} group={how.group or 'row'} {form}"

    @property
    def value(self) -> float:
        """Bits."""
        return self.rounding.bits

    def apply(self, name: str, weight_mn: Tensor) -> None:
        """Round every weight."""
        round_in_place(weight_mn, self.rounding)

    def size(self, params: int) -> int:
        """Bits of the codes; scales take the same at any width."""
        return params * self.rounding.bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity:
    """A share of the weights set to zero, those of the lowest ``importance``.

    ``norms`` holds those of the inputs by matrix, for ``wanda``.
    """

    share: float
    importance: str = "magnitude"
    within: Within = "matrix"
    norms: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def key(self) -> str:
        """Share, importance, what is compared; a digest of the norms where there are some."""
        named = f"sparsity={float(self.share)!r} {self.importance} within {self.within}"
        return f"{named} norms={digest_of(self.norms)}" if self.norms else named

    @property
    def value(self) -> float:
        """The share that goes."""
        return self.share

    def apply(self, name: str, weight_mn: Tensor) -> None:
        """Set the least important weights to zero."""
        scores = IMPORTANCE[self.importance](weight_mn, self.norms.get(name))
        pruned = count_at(weight_mn.numel(), self.share)
        mask = keep_mask(weight_mn, scores, pruned=pruned, within=self.within)
        weight_mn.masked_fill_(mask.logical_not_(), 0.0)

    def size(self, params: int) -> int:
        """Weights that are kept."""
        return params - count_at(params, self.share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One unit at one level: how far the outputs moved from the model's own.

    ``error`` is ||Y - Y0|| / ||Y0|| over all batches, ``angle`` the mean of 1 - cosine over the
    rows of the outputs; both infinite where an output is not finite. ``around`` is a digest of the
    levels that all other units had, "" where they were as they are.
    """

    unit: str
    level: str
    model: str
    data: str
    error: float
    angle: float
    around: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The file of a sweep; ``on_cell(done, total, unit, level)`` is told of each cell measured.

    Cells that the file had are counted as done.
    """

    path: Path
    on_cell: Callable[[int, int, str, str], None] = lambda done, total, unit, level: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """What all other units have while one is measured: levels by name of matrix.

    ``others`` are matrices that it names beside those of the units: they are not measured.
    """

    levels: Mapping[str, Level]
    others: tuple[WeightMatrix, ...] = ()

    @property
    def digest(self) -> str:
        """Of the levels, "" where there are none."""
        keys = {name: self.levels[name].key for name in sorted(self.levels)}
        return digest_of(keys) if keys else ""


def sweep(
    model: nn.Module,
    units: Iterable[LiveUnit],
    *,
    levels: Sequence[Level],
    batches: Sequence[Any],
    outputs: Outputs,
    log: Path | str | Log,
    around: Company | None = None,
) -> tuple[Cell, ...]:
    """The distortion of every unit at every level, in this order, each measured once.

    ``outputs(model, batch)`` gives the tensor that is compared, its rows along the last axis; it
    must give the same for the same model and batch, and another function needs another log. Cells
    that ``log`` has for the same weights and batches are not measured again. ``around`` is a plan
    that all other units follow meanwhile: what a unit costs in company.
    Memory: the model, its own outputs and a copy of one unit; pruning also holds the scores of one
    matrix, twice. What ``around`` names is kept in a file beside the log meanwhile. The weights are
    put back bit for bit, also after an error.
    """
    told = log if isinstance(log, Log) else Log(path=Path(log))
    units, path = tuple(units), told.path
    if not batches:
        raise UsageError("a sweep needs one batch or more, got none")
    for word, names in (("units", [x.name for x in units]), ("levels", [x.key for x in levels])):
        if len(set(names)) < len(names):
            raise UsageError(f"{word} must have different names, got {', '.join(names)}")
    matrices = [x for unit in units for x in unit.matrices]
    around = around or Company(levels={})
    plan, company = around.levels, around.digest
    places = named([*matrices, *around.others], plan)
    weights, data = model_digest(model), digest_of(batches)
    known = {
        (x.unit, x.level): x
        for x in read_log(path)
        if (x.model, x.data, x.around) == (weights, data, company)
    }
    wanted = [(unit, [x for x in levels if (unit.name, x.key) not in known]) for unit in units]
    total = len(units) * len(levels)
    done = total - sum(len(missing) for _, missing in wanted)
    if done < total:
        with inference(model), _Log(path) as out:
            base = [checked_output(outputs(model, batch)).clone() for batch in batches]
            with put_aside(model, places, path.parent) as own:
                follow(model, places, plan)
                joint = None
                for unit, missing in wanted:
                    for level in missing:
                        theirs = {plan[x.name].key if x.name in plan else "" for x in unit.matrices}
                        if theirs == {level.key}:
                            # the unit is in its place in the plan: one number for all such units
                            joint = joint or _distortion(model, batches, outputs, base)
                            error, angle = joint
                        else:
                            with restored(model, unit.matrices):
                                for matrix in unit.matrices:
                                    if matrix.name in plan:
                                        write(model, matrix, own(matrix.name))
                                    change(model, matrix, partial(level.apply, matrix.name))
                                error, angle = _distortion(model, batches, outputs, base)
                        cell = Cell(unit=unit.name, level=level.key, model=weights, data=data,
                                    error=error, angle=angle, around=company)  # fmt: skip
                        out.add(cell)
                        known[unit.name, level.key] = cell
                        done += 1
                        told.on_cell(done, total, unit.name, level.key)
    return tuple(known[unit.name, level.key] for unit in units for level in levels)


def named(matrices: Iterable[WeightMatrix], plan: Mapping[str, Level]) -> list[WeightMatrix]:
    """The matrices that a plan names, in their own order; UsageError where it names others."""
    found = [x for x in matrices if x.name in plan]
    unknown = sorted(set(plan) - {x.name for x in found})
    if unknown:
        raise UsageError(
            f"a plan must name matrices that it is used on, got {unknown[0]}: make it for this "
            "model"
        )
    return found


def follow(model: nn.Module, matrices: Iterable[WeightMatrix], plan: Mapping[str, Level]) -> None:
    """Change every matrix as the plan says."""
    for matrix in matrices:
        change(model, matrix, partial(plan[matrix.name].apply, matrix.name))


def _distortion(
    model: nn.Module, batches: Sequence[Any], outputs: Outputs, base: Sequence[Tensor]
) -> tuple[float, float]:
    """Relative error and mean 1 - cosine of the outputs of the model as it is now."""
    moved = whole = turned = 0.0
    rows = 0
    for batch, before in zip(batches, base, strict=True):
        each = distortions(outputs(model, batch), before)
        moved += float(each.moved.sum())
        whole += float(each.whole.sum())
        turned += float(each.turned.sum())
        rows += each.rows * len(each.turned)
    error = relative(moved, whole)
    found = (error, turned / rows)
    return found if all(math.isfinite(x) for x in found) else (math.inf, math.inf)


# ---------------------------------------------------------------------------------- the log


class _Log:
    """A file that lines are added to, each on the disk before the next cell is begun."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Log:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("ab+")
        self.file.seek(0)
        # what a killed run left without its end is no line
        whole = self.file.read().rfind(b"\n") + 1
        self.file.truncate(whole)
        return self

    def add(self, cell: Cell) -> None:
        plain = {k: None if v == math.inf else v for k, v in asdict(cell).items()}
        self.file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def __exit__(self, *error: object) -> None:
        self.file.close()


def read_log(path: Path | str) -> tuple[Cell, ...]:
    """The cells of a log, none where there is no file; a last line without its end is left out."""
    path = Path(path)
    if not path.exists():
        return ()
    cells = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            plain = json.loads(line)
            numbers = {k: math.inf if plain[k] is None else float(plain[k]) for k in MEASURED}
            cells.append(
                Cell(
                    unit=plain["unit"],
                    level=plain["level"],
                    model=plain["model"],
                    data=plain["data"],
                    error=numbers["error"],
                    angle=numbers["angle"],
                    around=str(plain.get("around", "")),
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}:{number} must be a cell of a sweep, got {line[:60]!r}: delete that line, "
                "it will be measured again"
            ) from error
    return tuple(cells)


# ------------------------------------------------------------------------------- digests


def model_digest(model: nn.Module) -> str:
    """Of names, types, shapes and bits of all parameters and buffers."""
    return digest_of({**dict(model.named_parameters()), **dict(model.named_buffers())})


def digest_of(data: Any) -> str:
    """Of nested mappings and sequences of tensors, arrays, numbers and text, 16 bytes in hex."""
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, data)
    return digest.hexdigest()


def _feed(digest: Any, data: Any) -> None:
    if isinstance(data, np.ndarray) and data.dtype != object:
        data = torch.from_numpy(np.ascontiguousarray(data))
    if isinstance(data, Tensor):
        digest.update(f"tensor {data.dtype} {tuple(data.shape)};".encode())
        flat = data.detach().reshape(-1).contiguous()
        if flat.numel():
            digest.update(flat.view(torch.uint8).cpu().numpy())
    elif isinstance(data, Mapping):
        digest.update(f"mapping {len(data)};".encode())
        for key, value in data.items():
            _feed(digest, key)
            _feed(digest, value)
    elif isinstance(data, (list, tuple)):
        digest.update(f"sequence {len(data)};".encode())
        for value in data:
            _feed(digest, value)
    elif data is None or isinstance(data, (bool, int, float, str, bytes)):
        text = repr(data).encode("utf-8", "backslashreplace")
        digest.update(f"{type(data).__name__} {len(text)};".encode() + text)
    else:
        raise UsageError(
            "batches must be made of tensors, arrays, numbers, text, mappings and lists, got "
            f"{type(data).__name__}: make them so, for a log to know them again"
        )
