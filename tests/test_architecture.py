"""Rooms share nouns and arithmetic, nothing else; a new file outside the table fails."""

import ast
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "frog"
FLOOR = {"types", "registry", "errors", "serial", "version"}
ROOMS = {
    "weights", "metrics", "report", "allocation", "selection", "tuning", "exports", "demo",
    "recipes", "compression",
}  # fmt: skip
ALLOWED = {
    "errors": set(),
    "version": set(),
    "registry": {"errors"},
    "types": {"errors", "serial", "report"},  # rendering and saving, lazily: the one exception
    "serial": {"errors", "types", "numerics"},
    "numerics": FLOOR - {"serial"},
    **{room: FLOOR | {"numerics"} for room in ROOMS},
    "tuning": FLOOR | {"numerics", "weights"},  # live models, and what names their matrices
    "api": FLOOR | {"numerics"} | ROOMS,
    "cli": FLOOR | {"api", "report"},
    "__init__": FLOOR | {"api", "tuning"},
    "__main__": {"cli"},
}
GUESTS = {  # a third-party package and the only units that may import it
    "safetensors": {"weights", "serial", "exports", "compression"},
    "xxhash": {"weights"},
    "huggingface_hub": {"weights"},
    # in tuning: the callback alone, see below
    "transformers": {"weights", "recipes", "tuning", "compression"},
    "torchao": {"compression"},
    "compressed_tensors": {"compression"},
    "datasets": {"recipes"},
    "PIL": {"recipes"},
    "threadpoolctl": {"metrics"},
    "platformdirs": {"metrics"},
    "ray": {"metrics"},
    "pydantic": {"serial"},
    "yaml": {"serial", "exports"},
    "plotly": {"report"},
    "jinja2": {"report"},
    "pandas": {"report"},
    "pyarrow": {"report", "recipes"},
    "rich": {"report", "cli"},
    "typer": {"cli"},
}
FORBIDDEN_WORDS = ("utils", "util", "helpers", "helper", "common", "misc", "base")
MAX_LINES = 420


def unit(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file names, as an absolute dotted name, and whether inside a function."""
    package = ("frog", *path.relative_to(SRC).parts[:-1])
    tree = ast.parse(path.read_text())
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*start, *([node.module] if node.module else [])))
            yield from ((f"{stem}.{alias.name}", node in inside) for alias in node.names)


def violations() -> Iterator[str]:
    for path in sorted(SRC.rglob("*.py")):
        here, shown = unit(path), path.relative_to(SRC)
        if here not in ALLOWED:
            yield f"{shown}: '{here}' is no room; add it to ALLOWED on purpose"
            continue
        for name, lazy in imports(path):
            top, _, rest = name.partition(".")
            there = rest.split(".")[0]
            if top == "frog" and there not in ALLOWED[here] | {here, "__version__"}:
                yield f"{shown}: {here} must not import frog.{there}"
            if here == "types" and there in ("serial", "report") and not lazy:
                yield f"{shown}: rendering is imported lazily"
            if here not in GUESTS.get(top, {here}):
                yield f"{shown}: {top} belongs in {sorted(GUESTS[top])}"


def test_rooms_import_only_what_the_table_allows() -> None:
    assert not list(violations())


def test_in_tuning_only_the_callback_knows_transformers() -> None:
    for path in (SRC / "tuning").rglob("*.py"):
        if any(name.startswith("transformers") for name, _ in imports(path)):
            assert path == SRC / "tuning" / "trainer.py", path


def test_no_file_is_a_dumping_ground() -> None:
    for path in SRC.rglob("*.py"):
        assert path.stem not in FORBIDDEN_WORDS, path
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_LINES, f"{path} has {lines} lines: split it by subject"


def test_every_table_row_is_a_unit() -> None:
    units = {unit(path) for path in SRC.rglob("*.py")}
    assert set(ALLOWED) == units
