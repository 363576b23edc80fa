"""Selections as files: one safetensors file, indices as tensors, the rest as metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from frog.errors import ReportError
from frog.numerics.units import unit_count, unit_sizes
from frog.serial.plain import get, null, shown
from frog.serial.plan import plan_from_dict, plan_to_dict
from frog.serial.tensors import read_tensors, write_tensors
from frog.types import GRANULARITIES, Chosen, Selection

SELECTION_FORMAT, SELECTION_VERSION = "frog-selection", 1
MAKER = "frog select MODEL -o FILE"


def write_selection(selection: Selection, path: Any) -> None:
    """Write a selection, whole or not at all; indices are int32 wherever they fit."""
    tensors = {
        f"{number}": x.index.astype(np.int32 if x.shape[0] * x.shape[1] < 2**31 else np.int64)
        for number, x in enumerate(selection.chosen)
    }
    write_tensors(tensors, {"frog": json.dumps(null(selection_to_dict(selection)))}, path)


def selection_to_dict(selection: Selection) -> dict[str, Any]:
    """All of a selection but the indices, as plain values."""
    return {
        "format": SELECTION_FORMAT,
        "version": SELECTION_VERSION,
        "path": selection.path,
        "score": selection.score,
        "granularity": selection.granularity,
        "seed": selection.seed,
        "notes": list(selection.notes),
        "plan": plan_to_dict(selection.plan),
        "chosen": [
            {
                "name": x.name,
                "shape": list(x.shape),
                "dtype": x.dtype,
                "granularity": x.granularity,
                "block_size": list(x.block_size),
                "count": x.count,
                "digest": x.digest,
                "facts": dict(x.facts),
            }
            for x in selection.chosen
        ],
    }


def read_selection(path: Any) -> Selection:
    """Read a selection; :class:`~frog.errors.ReportError` names what is wrong with the file."""
    origin = str(path)
    about, tensors = read_tensors(Path(path), SELECTION_FORMAT, SELECTION_VERSION, make=MAKER)
    listed = get(about, "chosen")
    if not isinstance(listed, list):
        raise ReportError(f"{origin}: chosen must be a list, got {shown(listed)}: {_again()}")
    chosen = tuple(_chosen(item, tensors, str(i), origin) for i, item in enumerate(listed))
    try:
        return Selection(
            path=str(about["path"]),
            plan=plan_from_dict(about["plan"], f"{origin}: plan"),
            score=str(about["score"]),
            granularity=_granularity(about["granularity"], origin),
            chosen=chosen,
            seed=int(about["seed"]),
            notes=tuple(str(note) for note in about["notes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{origin}: the header is incomplete ({error!r}): {_again()}") from None


def _chosen(item: Any, tensors: dict[str, np.ndarray], key: str, origin: str) -> Chosen:
    place = f"{origin}: chosen.{key}"
    try:
        index = tensors[key].astype(np.int64)
        made = Chosen(
            name=str(item["name"]),
            shape=(int(item["shape"][0]), int(item["shape"][1])),
            dtype=str(item["dtype"]),
            granularity=_granularity(item["granularity"], origin),
            index=index,
            count=int(item["count"]),
            block_size=(int(item["block_size"][0]), int(item["block_size"][1])),
            digest=str(item["digest"]),
            facts={str(k): float("nan" if v is None else v) for k, v in item["facts"].items()},
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ReportError(f"{place} is damaged ({error!r}): {_again()}") from None
    if min(made.shape) < 1 or min(made.block_size) < 1:
        raise ReportError(f"{place}: shapes must be positive, got {made.shape}: {_again()}")
    units = unit_count(made.shape, made.granularity, made.block_size)
    sound = index.ndim == 1 and (
        not len(index) or (index[0] >= 0 and index[-1] < units and bool((np.diff(index) > 0).all()))
    )
    if not sound:
        raise ReportError(
            f"{place}: indices must be ascending and lie in 0..{units - 1}: {_again()}"
        )
    held = int(unit_sizes(index, made.shape, made.granularity, made.block_size).sum())
    if held != made.count:
        raise ReportError(f"{place}: count must be {held}, got {made.count}: {_again()}")
    return made


def _granularity(value: Any, origin: str) -> str:
    if value not in GRANULARITIES:
        raise ReportError(
            f"{origin}: granularity must be one of {', '.join(GRANULARITIES)}, got {shown(value)}"
        )
    return str(value)


def _again() -> str:
    return f"the file is damaged or was edited; write it again with {MAKER}"
