"""YAML as plain values, with the line of every place in it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from frog.errors import UsageError


class _Loader(yaml.SafeLoader):
    """YAML's plain types only; 1e-3 is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Lines:
    """A YAML file as plain values, and the line of each place in it."""

    def __init__(self, text: str | bytes, origin: str, kind: str = "policy") -> None:
        self.text = text
        self.origin = origin
        self.kind = kind
        try:
            loader = _Loader(text)
            try:
                self.root = loader.get_single_node()
                self._check(self.root)
                self.data = loader.construct_document(self.root) if self.root else None
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{origin}:{mark.line + 1}" if mark else origin
            raise UsageError(f"{place}: must be YAML: {error.problem or error.context}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{origin}: must be YAML, as UTF-8 text: {reason}") from None
        except (RecursionError, ValueError) as error:  # values such as dates are made on reading
            reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
            raise UsageError(
                f"{origin}: must be a {kind} in YAML, cannot be read: {reason}"
            ) from None

    def of(self, *loc: Any) -> int:
        """The line of a place, or of what it would stand in; from 1."""
        return self._walk(loc)[0]

    def at(self, *loc: Any) -> str:
        """A place in words: ``policy.yaml:7: limits.alpha.max``."""
        line, path = self._walk(loc)
        return f"{self.origin}:{line}: {path}" if path else f"{self.origin}:{line}"

    def _walk(self, loc: tuple[Any, ...]) -> tuple[int, str]:
        node, line, path = self.root, 1, ""
        for i, part in enumerate(loc):
            if isinstance(node, yaml.MappingNode):
                pair = next((p for p in node.value if p[0].value == str(part)), None)
                if pair is not None:
                    line, node = pair[0].start_mark.line + 1, pair[1]
                elif part == 0 and isinstance(part, int):
                    continue  # a single rule stands where a list of them may
                elif i < len(loc) - 1:
                    break
                path += f".{part}" if path else str(part)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    break
                node = node.value[part]
                line, path = node.start_mark.line + 1, f"{path}[{part + 1}]"
            else:
                break  # given in short
        return line, path

    def _check(self, node: Any) -> None:
        """Refuse a key that stands twice (YAML would keep the last) and references."""
        seen: set[int] = set()
        waiting = [node] if node is not None else []
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                place = f"{self.origin}:{node.start_mark.line + 1}"
                raise UsageError(f"{place}: a {self.kind} has no references (&, *): write it out")
            seen.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                waiting += node.value
            elif isinstance(node, yaml.MappingNode):
                keys: set[str] = set()
                for key, value in node.value:
                    word = str(key.value)
                    if word in keys:
                        place = f"{self.origin}:{key.start_mark.line + 1}"
                        raise UsageError(f"{place}: {word}: stands twice: keep one")
                    keys.add(word)
                    waiting += [key, value]
