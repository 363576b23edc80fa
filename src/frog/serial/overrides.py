"""Settings from the command line laid over a YAML file: ``training.seed=3``."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from frog.errors import UsageError
from frog.serial.plain import shown
from frog.serial.yaml_lines import Lines

_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")


class Overridden(Lines):
    """A YAML file with values replaced: an error in one of these names the override.

    ``overrides`` are words such as ``selection.budget=2%``; the value is read as YAML. Without
    ``numbered`` no lines are told: the text is no file of the user's. Raises
    :class:`~frog.errors.UsageError` for a word that is none, and where the key would lie below a
    value that is no mapping.
    """

    def __init__(self, text: str | bytes, origin: str, kind: str, overrides: Sequence[str],
                 numbered: bool = True) -> None:  # fmt: skip
        super().__init__(text, origin, kind)
        self.numbered = numbered
        self.words: dict[tuple[str, ...], str] = {}
        self.data = copy.deepcopy(self.data)
        for word in overrides:
            key, value = _parsed(word)
            self._put(key, value, word)
            self.words[key] = word

    def of(self, *loc: Any) -> int:
        """The line of a place; 0 for one that an override gave."""
        return 0 if self._word(loc) else super().of(*loc)

    def at(self, *loc: Any) -> str:
        """A place in words: ``override training.seed=x: training.seed``."""
        word = self._word(loc)
        if not word and self.numbered:
            return super().at(*loc)
        path = "".join(f"[{x + 1}]" if isinstance(x, int) else f".{x}" for x in loc)
        begin = f"override {word}" if word else self.origin
        return f"{begin}: {path.removeprefix('.')}"

    def _word(self, loc: Sequence[Any]) -> str:
        texts = tuple(str(x) for x in loc)
        return next((w for key, w in self.words.items() if texts[: len(key)] == key), "")

    def _put(self, key: tuple[str, ...], value: Any, word: str) -> None:
        if self.data is None:
            self.data = {}
        at = self.data
        for i, part in enumerate(key):
            if not isinstance(at, dict):
                place = ".".join(key[:i])
                raise UsageError(
                    f"override {word}: {place or 'the file'} must be a mapping to take "
                    f"'{part}', it is {shown(at)}"
                )
            if i == len(key) - 1:
                at[part] = value
            elif at.get(part) is None:
                at[part] = {}
            at = at[part]


def _parsed(word: str) -> tuple[tuple[str, ...], Any]:
    key, equals, text = word.partition("=")
    if not equals or not _KEY.fullmatch(key.strip()):
        raise UsageError(
            f"an override must read key=value, such as training.num_train_epochs=1, got {word!r}"
        )
    return tuple(key.strip().split(".")), Lines(text, f"override {word}", "value").data
