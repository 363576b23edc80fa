"""Plans of compression as JSON: to be read, edited, diffed and shared."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from frog.errors import ReportError, UsageError
from frog.serial.judgement import judgement_from_dict, judgement_to_json
from frog.serial.plain import check_header, null, parse_file, shown, text_of
from frog.serial.plan import PLAN_FORMAT, PLAN_VERSION
from frog.types.level_plans import (
    LEVEL_ACTIONS,
    LevelPlan,
    LevelRule,
    PlannedMatrix,
    PlannedUnit,
    Pruning,
    Quantisation,
)

MAKER = "frog plan bits|prune MODEL -o FILE"
DAMAGED = (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError, UsageError)


def level_plan_to_dict(plan: LevelPlan) -> dict[str, Any]:
    """A plan as plain values.

    Of a plan of bits the levels are read back, of one that prunes the weights that each matrix
    keeps; what follows from them is written for the reader.
    """
    return {
        "format": PLAN_FORMAT,
        "version": PLAN_VERSION,
        "purpose": plan.action,
        "path": plan.path,
        "digest": plan.digest,
        "rule": asdict(plan.rule),
        "budget": plan.budget,
        "reached": plan.reached,
        "size": plan.size,
        "params": plan.params,
        "how": asdict(plan.how),
        "tie": plan.tie,
        "calibration": plan.calibration,
        "data": plan.data,
        "rounds": plan.rounds,
        "notes": list(plan.notes),
        "units": [_unit_to_dict(x) for x in plan.units],
        "left_out": dict(plan.left_out),
        "verification": None
        if plan.verification is None
        else json.loads(judgement_to_json(plan.verification)),
    }


def level_plan_to_json(plan: LevelPlan) -> str:
    """A plan as JSON text."""
    return text_of(null(level_plan_to_dict(plan)))


def read_level_plan(path: Any) -> LevelPlan:
    """Read a plan file; :class:`~frog.errors.ReportError` names the place that is wrong."""
    return level_plan_from_dict(parse_file(path, "a plan file", make=MAKER), str(path))


def level_plan_from_dict(data: Any, origin: str) -> LevelPlan:
    """A plan from plain values; levels or kept weights may have been edited."""
    check_header(data, PLAN_FORMAT, PLAN_VERSION, origin, make=MAKER)
    action = data.get("purpose")
    if action == "tune":
        raise ReportError(
            f"{origin}: must be a plan of compression ({MAKER}), got one of what is tuned: "
            "frog select MODEL --plan carries that out"
        )
    if action not in LEVEL_ACTIONS:
        raise ReportError(f"{origin}: purpose must be 'bits' or 'prune', got {shown(action)}")
    if not isinstance(data.get("units"), list) or not data["units"]:
        raise ReportError(
            f"{origin}: units must be a list, not empty, got {shown(data.get('units'))}"
        )
    try:
        how = _how(action, data["how"])
        rule = data["rule"]
        made = LevelPlan(
            action=action,
            path=_text(data["path"]),
            digest=_text(data["digest"]),
            rule=LevelRule(
                allocator=_text(rule["allocator"]),
                score=_text(rule["score"]),
                knobs={str(k): _number(v) for k, v in rule["knobs"].items()},
            ),
            budget=_number(data["budget"]),
            how=how,
            units=tuple(_unit(x, f"{origin}: units.{i}", how) for i, x in enumerate(data["units"])),
            tie=_text(data["tie"]),
            left_out={str(k): str(v) for k, v in data["left_out"].items()},
            calibration=_text(data["calibration"]),
            data=_text(data["data"]),
            rounds=_whole(data.get("rounds", 0)),  # plans of before have none
            verification=None
            if data["verification"] is None
            else judgement_from_dict(data["verification"], f"{origin}: verification"),
            notes=tuple(str(x) for x in data["notes"]),
        )
    except ReportError:
        raise
    except DAMAGED as error:
        word = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ReportError(f"{origin}: {word}: mend the line or run {MAKER}") from None
    names = [x.name for x in made.matrices]
    twice = next((x for x in names if names.count(x) > 1), None) if _repeats(names) else None
    if twice is not None:
        raise ReportError(f"{origin}: {twice} stands there twice: keep one")
    return made


def _unit_to_dict(unit: PlannedUnit) -> dict[str, Any]:
    return {
        "name": unit.name, "level": unit.level, "params": unit.params, "size": unit.size,
        "damage": unit.damage, "score": unit.score, "pinned": unit.pinned,
        "matrices": [{**asdict(x), "shape": list(x.shape)} for x in unit.matrices],
    }  # fmt: skip


def _how(action: str, item: Any) -> Quantisation | Pruning:
    if action == "bits":
        return Quantisation(
            widths=tuple(_whole(x) for x in item["widths"]),
            group=None if item["group"] is None else _whole(item["group"]),
            symmetric=_truth(item["symmetric"]),
        )
    pattern = item["pattern"]
    return Pruning(
        shares=tuple(_number(x) for x in item["shares"]),
        importance=_text(item["importance"]),
        within=item["within"],
        pattern=None if pattern is None else (_whole(pattern[0]), _whole(pattern[1])),
    )


def _unit(item: Any, place: str, how: Quantisation | Pruning) -> PlannedUnit:
    try:
        level = _number(item["level"])
        matrices = tuple(
            PlannedMatrix(
                name=_text(x["name"]),
                role=_text(x["role"]),
                block=None if x["block"] is None else _whole(x["block"]),
                shape=(_whole(x["shape"][0]), _whole(x["shape"][1])),
                size=_whole(x["size"]),
            )
            for x in item["matrices"]
        )
        name, pinned = _text(item["name"]), _truth(item["pinned"])
        damage, score = (None if item[x] is None else _number(item[x]) for x in ("damage", "score"))
    except DAMAGED as error:
        raise ReportError(f"{place} is damaged ({error!r}): run {MAKER} again") from None
    if not matrices or any(min(x.shape) < 1 for x in matrices):
        raise ReportError(f"{place}: matrices must be a list of matrices that have weights")
    if isinstance(how, Quantisation):
        if level not in range(1, 9):
            raise ReportError(f"{place}: level must be bits, 1 to 8, got {shown(item['level'])}")
        level = int(level)
        matrices = tuple(
            PlannedMatrix(
                name=x.name, role=x.role, block=x.block, shape=x.shape, size=x.params * level
            )
            for x in matrices
        )
    else:
        for x in matrices:
            if not 0 <= x.size <= x.params:
                raise ReportError(
                    f"{place}: the size of {x.name} must be its weights that are kept, "
                    f"0..{x.params}, got {x.size}"
                )
        level = 1 - sum(x.size for x in matrices) / sum(x.params for x in matrices)
    return PlannedUnit(name=name, matrices=matrices, level=level, damage=damage, score=score,
                       pinned=pinned)  # fmt: skip


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} must be text")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{shown(value)} must be true or false")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{shown(value)} must be a whole number of 0 or more")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{shown(value)} must be a number")
    return value
