"""Recommendations to plain dictionaries and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from frog.errors import ReportError, UsageError
from frog.serial.plain import (
    check_header,
    each,
    get,
    nan,
    null,
    numbers,
    parse_file,
    shown,
    text_of,
    validated,
)
from frog.serial.plan import plan_from_dict, plan_to_dict
from frog.types import ACTIONS, POLICIES, Plan, Recommendation, Workload

RECOMMENDATION_FORMAT, RECOMMENDATION_VERSION = "frog-recommendation", 1
MAKER = "frog recommend MODEL --json FILE"


def recommendation_to_json(found: Recommendation) -> str:
    """A recommendation as JSON text."""
    plain = {k: v for k, v in asdict(found).items() if k != "plan"}
    plan = None if found.plan is None else plan_to_dict(found.plan)
    header = {"format": RECOMMENDATION_FORMAT, "version": RECOMMENDATION_VERSION}
    return text_of(null({**header, **plain, "plan": plan}))


def read_recommendation(path: Any) -> Recommendation:
    """Read a file of :func:`recommendation_to_json`; ReportError names what is wrong with it."""
    return recommendation_from_dict(
        parse_file(path, "a recommendation file", make=MAKER), str(path)
    )


def recommendation_from_dict(data: Any, origin: str) -> Recommendation:
    """Validate a dictionary as :func:`recommendation_to_json` writes it."""
    check_header(data, RECOMMENDATION_FORMAT, RECOMMENDATION_VERSION, origin, make=MAKER)
    _refuse_giants(data, origin)
    plan = data.get("plan")
    flat = {
        **{k: v for k, v in data.items() if k not in ("format", "version", "plan")},
        "workload": _workload(data.get("workload"), origin),
        "actions": each(data.get("actions"), lambda x: _action(x, origin)),
        "amount": _amount(data.get("amount")),
        "extent": _extent(data.get("extent")),
        "plan": None if plan is None else _plan(plan, origin),
    }
    found: Recommendation = validated(Recommendation, flat, origin, make=MAKER)
    for number, action in enumerate(found.actions):
        unknown = [x.kind for x in (action, *action.options) if x.kind not in ACTIONS]
        if unknown:
            raise ReportError(
                f"{origin}: actions.{number}: kind must be one of {', '.join(ACTIONS)}, "
                f"got {shown(unknown[0])}: {_again()}"
            )
    if found.policy not in POLICIES:
        raise ReportError(
            f"{origin}: policy must be one of {', '.join(POLICIES)}, got {shown(found.policy)}: "
            f"{_again()}"
        )
    return found


def _refuse_giants(data: Any, origin: str) -> None:
    """No whole number beyond 64 bits: none is meant, and float64 cannot hold it."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ReportError(
                f"{origin}: whole numbers must have at most 64 bits, got {shown(value)}: {_again()}"
            )


def _plan(data: Any, origin: str) -> Plan:
    return plan_from_dict(data, f"{origin}: plan")


def _workload(data: Any, origin: str) -> Any:
    """A work load, whose numbers keep to their own bounds."""
    if not isinstance(data, dict):
        return data
    try:
        return Workload(**data)
    except (TypeError, UsageError) as error:
        raise ReportError(f"{origin}: workload: {error}: {_again()}") from None


def _action(data: Any, origin: str, *, option: bool = False) -> Any:
    if not isinstance(data, dict):
        return data
    options = data.get("options", [])
    if option and options:
        raise ReportError(f"{origin}: an option must have no options of its own: {_again()}")
    return {
        **nan({k: v for k, v in data.items() if k not in ("options", "effect")}),
        "effect": nan(data.get("effect")),
        "options": each(options, lambda x: _action(x, origin, option=True)),
    }


def _amount(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return {
        **nan({k: v for k, v in data.items() if k != "bounds"}),
        "bounds": each(data.get("bounds", []), nan),
    }


def _extent(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    alpha = data.get("alpha", {})
    return {
        **nan({k: v for k, v in data.items() if k not in ("stops", "alpha")}),
        "stops": each(get(data, "stops"), nan),
        "alpha": {k: numbers(v) for k, v in alpha.items()} if isinstance(alpha, dict) else alpha,
    }


def _again() -> str:
    return f"the file is damaged or was edited; write it again with {MAKER}"
