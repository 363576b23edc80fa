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

from frog.compression.live import LiveUnit, change, inference, restored
from frog.compression.pruning import IMPORTANCE, Within, count_at, keep_mask
from frog.compression.rounding import Rounding, round_in_place
from frog.errors import UsageError

MEASURED = ("error", "angle")
"""The numbers of a cell."""

Outputs = Callable[[nn.Module, Any], Tensor]


class Level(Protocol):
    """One thing that can be done to a matrix; ``key`` says all that its result depends on."""

    @property
    def key(self) -> str:
        """The name of the level in the log."""
        ...

    def apply(self, name: str, weight_mn: Tensor) -> None:
        """Change the matrix of that name in place."""
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

    def apply(self, name: str, weight_mn: Tensor) -> None:
        """Round every weight."""
        round_in_place(weight_mn, self.rounding)


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

    def apply(self, name: str, weight_mn: Tensor) -> None:
        """Set the least important weights to zero."""
        scores = IMPORTANCE[self.importance](weight_mn, self.norms.get(name))
        pruned = count_at(weight_mn.numel(), self.share)
        mask = keep_mask(weight_mn, scores, pruned=pruned, within=self.within)
        weight_mn.masked_fill_(mask.logical_not_(), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One unit at one level: how far the outputs moved from the model's own.

    ``error`` is ||Y - Y0|| / ||Y0|| over all batches, ``angle`` the mean of 1 - cosine over the
    rows of the outputs; both infinite where an output is not finite.
    """

    unit: str
    level: str
    model: str
    data: str
    error: float
    angle: float


def sweep(
    model: nn.Module,
    units: Iterable[LiveUnit],
    *,
    levels: Sequence[Level],
    batches: Sequence[Any],
    outputs: Outputs,
    log: Path | str,
    on_cell: Callable[[int, int, str, str], None] | None = None,
) -> tuple[Cell, ...]:
    """The distortion of every unit at every level, in this order, each measured once.

    ``on_cell(done, total, unit, level)`` is told of each that was measured, those known counted.

    ``outputs(model, batch)`` gives the tensor that is compared, its rows along the last axis; it
    must give the same for the same model and batch, and another function needs another log. Cells
    that ``log`` has for the same weights and batches are not measured again. Memory: the model,
    its own outputs and a copy of one unit; pruning also holds the scores of one matrix, twice. The
    weights are put back bit for bit, also after an error.
    """
    units, path = tuple(units), Path(log)
    if not batches:
        raise UsageError("a sweep needs one batch or more, got none")
    for word, names in (("units", [x.name for x in units]), ("levels", [x.key for x in levels])):
        if len(set(names)) < len(names):
            raise UsageError(f"{word} must have different names, got {', '.join(names)}")
    weights, data = model_digest(model), digest_of(batches)
    known = {(x.unit, x.level): x for x in read_log(path) if (x.model, x.data) == (weights, data)}
    wanted = [(unit, [x for x in levels if (unit.name, x.key) not in known]) for unit in units]
    total = len(units) * len(levels)
    done = total - sum(len(missing) for _, missing in wanted)
    if done < total:
        with inference(model), _Log(path) as out:
            base = [_checked(outputs(model, batch)).clone() for batch in batches]
            for unit, missing in wanted:
                for level in missing:
                    error, angle = _distortion(model, unit, level, (batches, outputs, base))
                    cell = Cell(unit=unit.name, level=level.key, model=weights, data=data,
                                error=error, angle=angle)  # fmt: skip
                    out.add(cell)
                    known[unit.name, level.key] = cell
                    done += 1
                    if on_cell is not None:
                        on_cell(done, total, unit.name, level.key)
    return tuple(known[unit.name, level.key] for unit in units for level in levels)


def _distortion(
    model: nn.Module,
    unit: LiveUnit,
    level: Level,
    measured: tuple[Sequence[Any], Outputs, Sequence[Tensor]],
) -> tuple[float, float]:
    """Relative error and mean 1 - cosine of the outputs with one unit changed."""
    batches, outputs, base = measured
    moved = whole = turned = 0.0
    rows = 0
    with restored(model, unit.matrices):
        for matrix in unit.matrices:
            change(model, matrix, partial(level.apply, matrix.name))
        for batch, before in zip(batches, base, strict=True):
            after = outputs(model, batch)
            if after.shape != before.shape:
                raise UsageError(
                    f"outputs must keep their shape, got {tuple(after.shape)} after "
                    f"{tuple(before.shape)}: compare what does not depend on the weights' choice"
                )
            now, then = after.double(), before.double()
            moved += float((now - then).square().sum())
            whole += float(then.square().sum())
            angles = _angles(now, then)
            turned += float(angles.sum())
            rows += angles.numel()
    error = math.sqrt(moved / whole) if whole > 0 else (0.0 if moved == 0 else math.inf)
    found = (error, turned / rows)
    return found if all(math.isfinite(x) for x in found) else (math.inf, math.inf)


def _angles(now: Tensor, then: Tensor) -> Tensor:
    """1 - cosine of the rows; of a row of zeros 0 if both are, else 1."""
    now, then = now.reshape(-1, now.shape[-1]), then.reshape(-1, then.shape[-1])
    sizes = now.norm(dim=1) * then.norm(dim=1)
    cosine = (now * then).sum(1) / torch.where(sizes == 0, torch.ones_like(sizes), sizes)
    # rounding errors are no angle: equal rows have none
    return torch.where((now == then).all(1), torch.zeros_like(cosine), 1 - cosine)


def _checked(output: Any) -> Tensor:
    """The output of the model as it is, that all others are held against."""
    if not isinstance(output, Tensor) or output.ndim == 0 or output.numel() == 0:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(
            f"outputs(model, batch) must give a tensor with rows, got {got}: give logits or "
            "embeddings"
        )
    if not bool(torch.isfinite(output).all()):
        raise UsageError("the outputs of the unchanged model must be finite, got NaN or Inf")
    return output


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
