"""Selections as files: one safetensors file, indices as tensors, the rest as metadata."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from frog.errors import ReportError
from frog.numerics.units import unit_count, unit_sizes
from frog.serial.plain import get, null, shown
from frog.serial.plan import plan_from_dict, plan_to_dict
from frog.serial.tensors import read_tensors, write_tensors
from frog.types import GRANULARITIES, Chosen, Selection
from frog.types.selections import KEPT

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
        "keep": selection.keep,
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
        made = Selection(
            path=str(about["path"]),
            plan=plan_from_dict(about["plan"], f"{origin}: plan"),
            score=str(about["score"]),
            granularity=_granularity(about["granularity"], origin),
            chosen=chosen,
            seed=_whole(about["seed"], -(2**63)),
            notes=tuple(str(note) for note in about["notes"]),
            keep=_kept(about.get("keep", "all"), origin),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{origin}: the header is incomplete ({error!r}): {_again()}") from None
    _check_together(made, tensors, origin)
    return made


def _check_together(made: Selection, tensors: dict[str, np.ndarray], origin: str) -> None:
    """Every matrix once, as the plan has it, and no indices that belong to none."""
    planned = {x.name: x.shape for x in made.plan.layers}
    seen: set[str] = set()
    for number, x in enumerate(made.chosen):
        place = f"{origin}: chosen.{number}"
        if x.name in seen:
            raise ReportError(f"{place}: {x.name} stands there twice: {_again()}")
        seen.add(x.name)
        if planned.get(x.name) != x.shape:
            got = planned.get(x.name, "none")
            raise ReportError(
                f"{place}: {x.name} of {x.shape} must be in the plan of the file, got {got} there: "
                f"{_again()}"
            )
        parts = made.keep != "all" and x.granularity == "element"  # of units with pruned weights
        if x.granularity != made.granularity and not parts:
            raise ReportError(
                f"{place}: granularity must be {made.granularity}, got {x.granularity}: {_again()}"
            )
    if len(tensors) != len(made.chosen):
        raise ReportError(
            f"{origin}: must hold a tensor for each of {len(made.chosen)} matrices, "
            f"got {len(tensors)}: {_again()}"
        )


def _chosen(item: Any, tensors: dict[str, np.ndarray], key: str, origin: str) -> Chosen:
    place = f"{origin}: chosen.{key}"
    try:
        found = tensors[key]
        if found.dtype not in (np.int32, np.int64):
            raise TypeError(f"indices must be int32 or int64, got {found.dtype}")
        index = found.astype(np.int64)
        made = Chosen(
            name=str(item["name"]),
            shape=_pair(item["shape"]),
            dtype=str(item["dtype"]),
            granularity=_granularity(item["granularity"], origin),
            index=index,
            count=_whole(item["count"]),
            block_size=_pair(item["block_size"]),
            digest=str(item["digest"]),
            facts={str(k): _fact(v) for k, v in item["facts"].items()},
        )
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise ReportError(f"{place} is damaged ({error!r}): {_again()}") from None
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


def _pair(value: Any) -> tuple[int, int]:
    """Two whole numbers from 1."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"must be two whole numbers, got {shown(value)}")
    return _whole(value[0], 1), _whole(value[1], 1)


def _whole(value: Any, least: int = 0) -> int:
    """A whole number of at most 64 bits; neither 1.0 nor true is one."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise ValueError(f"must be a whole number from {least}, got {shown(value)}")
    return value


def _fact(value: Any) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"a fact must be a number, got {shown(value)}")
    return float(value)


def _granularity(value: Any, origin: str) -> str:
    if not isinstance(value, str) or value not in GRANULARITIES:
        raise ReportError(
            f"{origin}: granularity must be one of {', '.join(GRANULARITIES)}, got {shown(value)}"
        )
    return str(value)


def _kept(value: Any, origin: str) -> str:
    if not isinstance(value, str) or value not in KEPT:
        raise ReportError(f"{origin}: keep must be one of {', '.join(KEPT)}, got {shown(value)}")
    return value


def _again() -> str:
    return f"the file is damaged or was edited; write it again with {MAKER}"
