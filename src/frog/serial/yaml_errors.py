"""What pydantic found wrong in a YAML file, as one sentence that names the line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from frog.errors import UnknownName, UsageError
from frog.serial.plain import shown
from frog.serial.yaml_lines import Lines

MESSAGES = {
    "extra_forbidden": "is no key here",
    "missing": "is required",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "finite_number": "must be a finite number",
    "too_short": "must name at least one",
}


def explained(
    error: ValidationError,
    lines: Lines,
    keys_at: Callable[[tuple[Any, ...]], list[str]],
    *,
    above: tuple[str, ...] = (),
) -> UsageError:
    """The first thing that is wrong, by the line of the file, as an error of ours.

    ``keys_at`` gives the keys that may stand at a place, ``above`` is where the validated part
    lies in the file: ``recipe.yaml:7: data.limit: must be a whole number, got 'all'``.
    """
    # a misspelt key is told before the key that it leaves missing
    found = min(error.errors(), key=lambda e: (e["type"] == "missing", lines.of(*above, *e["loc"])))
    loc = (*above, *(part for part in found["loc"] if part != "[key]"))
    place = lines.at(*loc)
    if found["type"] == "extra_forbidden":
        return UsageError(f"{place}: {UnknownName('key', str(loc[-1]), keys_at(loc[:-1]))}")
    if found["type"] == "missing":
        return UsageError(f"{place}: is required")
    if loc == ("version",):
        return UsageError(
            f"{place}: must be 1, got {shown(found['input'])}: "
            f"a {lines.kind} for a later frog needs pip install --upgrade frog"
        )
    text = MESSAGES.get(found["type"]) or found["msg"]
    if found["type"] == "too_short" and (least := found.get("ctx", {}).get("min_length", 1)) > 1:
        text = f"must name at least {least}"
    text = text.removeprefix("Value error, ").replace("Input should be", "must be")
    text = text.replace("greater than or equal to", "at least").replace("greater than", "above")
    text = text.replace("less than or equal to", "at most").replace("less than", "below")
    given = found["input"]
    if found["type"] == "value_error" and isinstance(given, dict):
        return UsageError(f"{place}: {text}")  # what was given is many values: the text names them
    return UsageError(f"{place}: {text}, got {shown(given)}")
