"""A cell: one run of one method on one task, and a digest of the code that decides its outcome."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import frog
from benchmarks.tuning.method import Method
from benchmarks.tuning.task import Task

ALWAYS = ("benchmarks.tuning.train", "benchmarks.tasks")


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """``step`` is the place in the grid of learning rates, in half decades from its middle."""

    task: str
    method: str
    share: float
    step: float
    seed: int
    split: str

    @property
    def key(self) -> str:
        """A name that is safe as that of a file."""
        method = self.method.replace("/", "~")
        return f"{self.task}__{method}__{self.share:g}__{self.step:+g}__{self.seed}__{self.split}"

    def rate(self, task: Task, method: Method) -> float:
        """The learning rate."""
        return float(method.rate(task, self.share) * 10 ** (self.step / 2))


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What can be run."""

    tasks: dict[str, Callable[[], Task]]
    methods: dict[str, Method]

    def digest(self, cell: Cell, train_steps: int = 0) -> str:
        """Hash of all code that a cell's outcome hangs on; comments and docstrings do not count.

        Modules of ``benchmarks`` and tests that these modules import count, too.
        """
        method = self.methods[cell.method]
        modules = {*ALWAYS, self.tasks[cell.task].__module__, whole(method.build).__module__}
        modules |= {type(idea).__module__ for idea in method.ideas}
        text = "".join(f"{name}:{syntax(name)}\n" for name in sorted(with_imports(modules)))
        text += f"{frog.__version__} {train_steps} {method.ideas!r} {arguments(method.build)}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def whole(build: Callable[..., object]) -> Callable[..., object]:
    """The function behind one with some arguments filled in."""
    while isinstance(build, partial):
        build = build.func
    return build


def arguments(build: Callable[..., object]) -> str:
    """What was filled in of a function, functions by their names."""
    if not isinstance(build, partial):
        return ""
    return re.sub(r" at 0x[0-9a-f]+", "", f"{build.args} {build.keywords}")


def catalogue(module: str = "") -> Catalogue:
    """All tasks and methods, or those of a module with ``TASKS`` and ``METHODS``."""
    if module:
        found = import_module(module)
        return Catalogue(tasks=found.TASKS, methods=found.METHODS)
    import_module("benchmarks.tuning.methods")
    from benchmarks.tuning.method import METHODS

    return Catalogue(tasks=import_module("benchmarks.tuning.tasks").TASKS, methods=METHODS)


def with_imports(modules: set[str]) -> set[str]:
    """The modules and all of ``benchmarks`` that they import, directly or not."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += imported(name)
    return found


@cache
def imported(module: str) -> list[str]:
    """Modules of ``benchmarks`` named in the import statements of a module."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file_of(module).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = node.module.startswith("benchmarks")
            names += [x if ours and is_module(x) else node.module for x in inside]
    return [name for name in names if name.startswith("benchmarks.")]


def is_module(name: str) -> bool:
    """Whether a dotted name is a module, not something within one."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def file_of(module: str) -> Path:
    """Source file of a module."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"a digest needs the source of {module}, which is not there")
    return Path(spec.origin)


@cache
def syntax(module: str) -> str:
    """The code of a module without comments, docstrings and formatting."""
    return bare(file_of(module).read_text())


def bare(source: str) -> str:
    """Syntax tree of a source as text, without its docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [x for x in body if not is_text(x)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def is_text(node: ast.AST) -> bool:
    """A string that stands by itself: a docstring, of an attribute as well."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
