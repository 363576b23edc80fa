"""Plans as JSON: to be read, edited, diffed and shared."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from frog.errors import ReportError, UsageError
from frog.serial.plain import check_header, get, null, parse_file, shown, text_of
from frog.types import Allotment, Budget, Plan
from frog.types.level_plans import LEVEL_ACTIONS

PLAN_FORMAT, PLAN_VERSION = "frog-plan", 1
MAKER = "frog plan tune MODEL -o FILE"


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """A plan as plain values; a layer's share is written for the reader and not read back."""
    return {
        "format": PLAN_FORMAT,
        "version": PLAN_VERSION,
        "purpose": "tune",
        "path": plan.path,
        "digest": plan.digest,
        "rule": plan.rule,
        "knobs": dict(plan.knobs),
        "budget": asdict(plan.budget),
        "total": plan.total,
        "by_score": plan.by_score,
        "notes": list(plan.notes),
        "layers": [
            {**asdict(layer), "shape": list(layer.shape), "share": round(layer.share, 6)}
            for layer in plan.layers
        ],
        "left_out": dict(plan.left_out),
    }


def plan_to_json(plan: Plan) -> str:
    """A plan as JSON text."""
    return text_of(null(plan_to_dict(plan)))


def read_plan(path: Any) -> Plan:
    """Read a plan file; :class:`~frog.errors.ReportError` names the place that is wrong."""
    return plan_from_dict(parse_file(path, "a plan file", make=MAKER), str(path))


def plan_from_dict(data: Any, origin: str) -> Plan:
    """A plan from plain values. Counts may have been edited: the total is what they add up to."""
    check_header(data, PLAN_FORMAT, PLAN_VERSION, origin, make=MAKER)
    if data.get("purpose") in LEVEL_ACTIONS:
        raise ReportError(
            f"{origin}: must be a plan of what is tuned ({MAKER}), got one of compression: "
            "frog apply carries that out; a layer is pruned or tuned, as you say, never both by "
            "one plan"
        )
    if data.get("purpose") != "tune":
        raise ReportError(
            f"{origin}: purpose must be 'tune', got {shown(data.get('purpose'))}: "
            f"this verb carries out plans of {MAKER}"
        )
    layers, seen = [], set()
    if not isinstance(data.get("layers"), list):
        raise ReportError(f"{origin}: layers must be a list, got {shown(data.get('layers'))}")
    for number, item in enumerate(data["layers"]):
        layer = _layer(item, f"{origin}: layers.{number}")
        if layer.name in seen:
            raise ReportError(f"{origin}: layers.{number}: {layer.name} stands there twice")
        seen.add(layer.name)
        layers.append(layer)
    budget = data.get("budget")
    try:
        return Plan(
            path=str(data["path"]),
            digest=str(data["digest"]),
            rule=str(data["rule"]),
            budget=Budget(
                share=_maybe(get(budget, "share"), float),
                count=_maybe(get(budget, "count"), int),
                floor=float(get(budget, "floor") or 0.0),
                cap=float(1.0 if get(budget, "cap") is None else get(budget, "cap")),
            ),
            layers=tuple(layers),
            knobs={
                str(k): v if isinstance(v, str) else float(v)
                for k, v in dict(data.get("knobs") or {}).items()
            },
            left_out={str(k): str(v) for k, v in dict(data.get("left_out") or {}).items()},
            by_score=bool(data.get("by_score", False)),
            notes=tuple(str(note) for note in data.get("notes") or ()),
        )
    except (KeyError, TypeError, ValueError, OverflowError, UsageError) as error:
        word = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ReportError(f"{origin}: {word}: mend the line or run {MAKER}") from None


def _layer(item: Any, place: str) -> Allotment:
    try:
        shape = (int(item["shape"][0]), int(item["shape"][1]))
        count, params = item["count"], int(item["params"])
        block = item.get("block")
        made = Allotment(
            name=str(item["name"]),
            role=str(item.get("role", "")),
            block=None if block is None else int(block),
            shape=shape,
            params=params,
            count=count,
            lr_ratio=float(item.get("lr_ratio", 1.0)),
            reason=str(item.get("reason", "")),
        )
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise ReportError(f"{place} is damaged ({error!r}): run {MAKER} again") from None
    whole = isinstance(count, int) and not isinstance(count, bool)
    if not whole or not 0 <= count <= params or params != shape[0] * shape[1]:
        raise ReportError(
            f"{place}: the count of {made.name} must be a whole number in 0..{params}, "
            f"got {shown(count)}"
        )
    if not 0 < made.lr_ratio < float("inf"):
        raise ReportError(f"{place}: lr_ratio must be above 0, got {made.lr_ratio}")
    return made


def _maybe(value: Any, kind: type) -> Any:
    return None if value is None else kind(value)
