"""Functions of the Python standard library, each with the sentence that documents it.

A task that is on every machine and that no sentence encoder was trained on by name: find the
function that a docstring belongs to. The sources are parsed, never imported or run.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages")
"""Folders of the library that hold no library, or what was installed beside it."""

WORDS = (5, 60)
"""Fewest and most words of a docstring's first paragraph: shorter ones name no function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Documented:
    """A function: where it is, what its docstring begins with, and its code without it."""

    module: str
    name: str
    says: str
    code: str


def documented_functions(library: Path | None = None) -> list[Documented]:
    """All functions with a docstring, in the order of their files; no text occurs twice.

    ``library`` is the folder of the standard library, by default that of this Python.

    >>> import json
    >>> some = documented_functions(Path(json.__file__).parent)
    >>> sorted({x.module for x in some}), any(x.name == "loads" for x in some)
    (['__init__', 'decoder', 'encoder'], True)
    """
    root = library or Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if any(part in LEFT_OUT for part in place.parts[:-1]):
            continue
        for function in _functions(path, ".".join(place.with_suffix("").parts)):
            if function.says not in seen:
                seen.add(function.says)
                found.append(function)
    return found


def split_by_package(
    functions: Sequence[Documented], share: float, seed: int = 0
) -> tuple[list[Documented], list[Documented]]:
    """Two lists with no package in common; the second gets about ``share`` of the packages.

    Docstrings of one package resemble each other: split one by one, the test would be learned.
    """
    packages = sorted({x.module.split(".")[0] for x in functions})
    random.Random(seed).shuffle(packages)
    apart = set(packages[: round(share * len(packages))])
    rest = [x for x in functions if x.module.split(".")[0] not in apart]
    return rest, [x for x in functions if x.module.split(".")[0] in apart]


def _functions(path: Path, module: str) -> Iterator[Documented]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # a file for another Python, or not for reading
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        says = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        body = node.body[1:]
        if body and WORDS[0] <= len(says.split()) <= WORDS[1]:
            arguments = ", ".join(x.arg for x in node.args.args)
            code = "\n".join([f"{node.name}({arguments})", *map(ast.unparse, body)])
            yield Documented(module=module, name=node.name, says=says, code=code)
