"""Rows of a recipe: files and data sets in, splits out; what is missing is told by its line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frog.errors import MissingPackage, UnknownName, UsageError
from frog.types.recipes import DataSource, Recipe


def need(package: str, distribution: str = "") -> Any:
    """A module of the extra ``tune``; MissingPackage where it is not installed."""
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != package.partition(".")[0]:
            raise
        raise MissingPackage(distribution or package, "tune") from None


def load_splits(recipe: Recipe, columns: dict[str, str]) -> dict[str, Any]:
    """The splits of a recipe as ``datasets.Dataset``, with the limits applied.

    ``columns`` maps keys of ``data`` to the columns that every split must have. Rows are drawn by
    the seed where a limit or a validation share asks for some. Raises
    :class:`~frog.errors.UsageError` for a file that cannot be read, has no rows or lacks a column.
    """
    need("datasets")
    seed = int(recipe.training.get("data_seed") or recipe.training.get("seed", 0))
    splits = {}
    for split, source in recipe.data.splits.items():
        rows = _read(source, recipe, split)
        if not len(rows):
            raise UsageError(f"{recipe.where('data', split)}: {source} has no rows")
        for key, column in columns.items():
            _must_have(rows, column, recipe, key, source)
        splits[split] = rows
    spec = recipe.data
    if spec.validation_share and "validation" not in splits:
        rows = splits["train"]
        held = round(spec.validation_share * len(rows))
        if not 0 < held < len(rows):
            place = recipe.where("data", "validation_share")
            raise UsageError(
                f"{place}: must leave rows on both sides, {spec.validation_share:g} of "
                f"{len(rows)} rows is {held}"
            )
        parts = rows.train_test_split(test_size=held, seed=seed)
        splits = {"train": parts["train"], "validation": parts["test"], **_without_train(splits)}
    for split, most in spec.limit.items():
        if split in splits and len(splits[split]) > most:
            splits[split] = splits[split].shuffle(seed=seed).select(range(most))
    return splits


def texts(rows: Any, column: str, recipe: Recipe, split: str) -> list[str]:
    """A column of texts; UsageError with the number of a row that holds none."""
    found = list(rows[column])
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise UsageError(
                f"{recipe.where('data', split)}: column '{column}' must hold texts, row "
                f"{number + 1} has {text!r}"
            )
    return found


def _without_train(splits: dict[str, Any]) -> dict[str, Any]:
    return {name: rows for name, rows in splits.items() if name != "train"}


def _must_have(rows: Any, column: str, recipe: Recipe, key: str, source: DataSource) -> None:
    if column not in rows.column_names:
        unknown = UnknownName("column", column, rows.column_names)
        raise UsageError(f"{recipe.where('data', key)}: {source}: {unknown}")


def _read(source: DataSource, recipe: Recipe, split: str) -> Any:
    import datasets

    place = recipe.where("data", split)
    if not source.path:
        return _from_hub(source, place)
    try:
        table = read_table(Path(source.path), recipe.data.header)
    except (ValueError, OSError, UnicodeDecodeError) as error:  # ArrowInvalid is a ValueError
        reason = str(error).splitlines()[0]
        raise UsageError(f"{place}: {source.path} cannot be read: {reason}") from None
    return datasets.Dataset(table)


def read_table(path: Path, header: Sequence[str] = ()) -> Any:
    """A whole file as an Arrow table, by the end of its name; ValueError for what is none."""
    import pyarrow
    from pyarrow import csv, parquet

    ending = path.suffix.lower()
    if path.stat().st_size == 0:
        return pyarrow.table({})
    if ending == ".parquet":
        return parquet.read_table(path)
    if ending in (".csv", ".tsv"):
        options = csv.ParseOptions(
            delimiter="\t" if ending == ".tsv" else ",",
            quote_char=False if ending == ".tsv" else '"',
            newlines_in_values=ending == ".csv",
        )
        names = list(header) or None
        return csv.read_csv(
            path, parse_options=options, read_options=csv.ReadOptions(column_names=names)
        )
    with path.open(encoding="utf-8") as file:
        begin = file.read(1)
        file.seek(0)
        rows = json.load(file) if begin == "[" else list(_lines(file))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("must hold one JSON object a line, or a list of objects")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pyarrow.table({name: [row.get(name) for row in rows] for name in names})


def _lines(file: Any) -> Any:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON ({error.msg})") from None


def _from_hub(source: DataSource, place: str) -> Any:
    """A split of a data set of the hub, fetched or from the cache."""
    import datasets

    name, _, revision = source.id.partition("@")
    try:
        return datasets.load_dataset(
            name, source.config, split=source.split, revision=revision or None
        )
    except Exception as error:  # the errors of builders, of the network and of the cache
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"{place}: the data set '{source.id}' cannot be read: {reason}") from None


def digest_of(rows: Any) -> str:
    """Which rows these are, as they are measured: after tokens, lengths and limits.

    >>> digest_of([{"ids": [1, 2]}]) == digest_of([{"ids": [1, 2]}])
    True
    >>> digest_of([{"ids": [1, 2]}]) == digest_of([{"ids": [2, 1]}])
    False
    """
    seal = hashlib.blake2b(digest_size=16)
    for place in range(len(rows)):
        for name, value in sorted(rows[place].items()):
            seal.update(f"{name}: ".encode())
            seal.update(value.tobytes() if hasattr(value, "tobytes") else _plain(value))
        seal.update(b"\n")
    return seal.hexdigest()


def _plain(value: Any) -> bytes:
    made = value.tolist() if hasattr(value, "tolist") else value
    return repr(made).encode("utf-8", "backslashreplace")
