"""Values that stand in YAML files of more than one kind, for pydantic: patterns, words, lists."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"must be a regular expression ({error})") from None
    return text


def as_list(value: Any) -> Any:
    """One word may stand where a list of words is meant."""
    return [value] if isinstance(value, str) else value


Regex = Annotated[str, AfterValidator(_pattern)]
