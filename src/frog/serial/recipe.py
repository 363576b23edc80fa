"""Recipes of fine-tuning runs: YAML in, records out; an error names the line or the override."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from frog.errors import UnknownName, UsageError
from frog.serial.overrides import Overridden
from frog.serial.plain import shown
from frog.serial.recipe_schema import SCHEMA, SHARED_DATA, Data, Document, Selection
from frog.serial.training_fields import check_training
from frog.serial.yaml_errors import explained
from frog.serial.yaml_lines import Lines
from frog.types import Budget
from frog.types.recipes import DataSource, DataSpec, GuardSpec, Recipe, SelectionSpec

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Ends of the names of data files."""

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a recipe may name: tasks with the keys of ``data`` that each takes, rules, guards
    (None: not known here), a check of score expressions, and the fields of ``training`` with
    their types (a function: they cost an import)."""

    tasks: Mapping[str, Sequence[str]]
    rules: Sequence[str]
    guards: Sequence[str]
    score: Callable[[str], object]
    training: Callable[[], Mapping[str, Any]]


def recipe_from_yaml(
    text: str | bytes,
    origin: str,
    *,
    folder: Path,
    known: Known,
    overrides: Sequence[str] = (),
    numbered: bool = True,
) -> Recipe:
    """Parse and validate a recipe; paths in it are relative to ``folder``, errors tell lines where
    they are ``numbered``.

    Raises :class:`~frog.errors.UsageError` with file, line and place of what is wrong:
    ``recipe.yaml:7: selection.budget: a budget must be above 0 ...``.
    """
    lines = Overridden(text, origin, "recipe", overrides, numbered)
    data = lines.data
    if not isinstance(data, dict):
        raise UsageError(
            f"{origin}: must be a mapping that begins with version: 1, got {shown(data)}"
        )
    try:
        checked = Document.model_validate({k: v for k, v in data.items() if v is not None})
    except ValidationError as error:
        raise explained(error, lines, _keys_at) from None
    _check_names(checked, lines, known)
    given = dict(checked.training)
    rate = _learning_rate(checked, given, lines)
    if given:
        given = check_training(given, known.training(), lines)
    return Recipe(
        origin=origin,
        model=_model(checked.model, folder, lines),
        task=checked.task,
        data=_data(checked.data, folder, lines),
        output=str(_resolved(checked.output, folder)),
        selection=_selection(checked.selection, folder, lines),
        mode=checked.mode,
        layers=_given(checked.layers),
        train_also=None if checked.train_also is None else tuple(checked.train_also),
        learning_rate=rate,
        full_learning_rate=checked.full_learning_rate,
        head_first=checked.head_first,
        head_last=checked.head_last,
        keep_change=checked.keep_change,
        noise=None if checked.noise is None else _given(checked.noise),
        guards=_guards(checked.guards, lines, known),
        training=given,
        dtype=checked.dtype,
        compare=checked.compare,
        lines=dict(_places(data, lines)),
    )


def recipe_to_yaml(recipe: Recipe, made_with: Mapping[str, str] | None = None) -> str:
    """The recipe with every setting written out; ``made_with`` are versions, for the record."""
    train_also = None if recipe.train_also is None else list(recipe.train_also)
    plain = {
        "version": 1,
        "model": recipe.model,
        "task": recipe.task,
        "output": recipe.output,
        "dtype": recipe.dtype,
        "data": _plain_data(recipe.data),
        "mode": recipe.mode,
        "selection": _plain(recipe.selection),
        "layers": dict(recipe.layers) or None,
        "train_also": train_also,
        "learning_rate": "auto" if recipe.learning_rate is None else recipe.learning_rate,
        "full_learning_rate": recipe.full_learning_rate,
        "head_first": "auto" if recipe.head_first is None else recipe.head_first,
        "head_last": "auto" if recipe.head_last is None else recipe.head_last,
        "keep_change": "auto" if recipe.keep_change is None else recipe.keep_change,
        "noise": None if recipe.noise is None else dict(recipe.noise),
        "guards": recipe.guards
        if isinstance(recipe.guards, str)
        else [{x.name: dict(x.settings)} if x.settings else x.name for x in recipe.guards],
        "training": dict(recipe.training),
        "compare": recipe.compare,
        "made_with": dict(made_with) if made_with else None,
    }
    return yaml_of({key: value for key, value in plain.items() if value is not None})


def yaml_of(plain: Mapping[str, Any]) -> str:
    """Plain values as YAML, in their order; UsageError for what is none."""
    try:
        return yaml.safe_dump(dict(plain), sort_keys=False, allow_unicode=True, width=100)
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"a recipe must hold plain values only: {reason}") from None


def flat_recipe(text: str) -> dict[str, Any]:
    """The values of a recipe that :func:`recipe_to_yaml` wrote, by dotted keys.

    >>> flat_recipe("selection: {budget: 2%}")
    {'selection.budget': '2%'}
    """
    return dict(_flat(yaml.safe_load(text), ""))


def _flat(value: Any, above: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(part, f"{above}.{key}" if above else str(key))
    else:
        yield above, value


# ------------------------------------------------------------------------------ the parts


def _check_names(checked: Document, lines: Lines, known: Known) -> None:
    """Names that only other rooms know, each by its line."""
    if checked.task not in known.tasks:
        raise UsageError(f"{lines.at('task')}: {UnknownName('task', checked.task, known.tasks)}")
    takes = (*SHARED_DATA, *known.tasks[checked.task])
    for key in checked.data.model_fields_set:
        if key not in takes:
            raise UsageError(
                f"{lines.at('data', key)}: is no key of the task {checked.task}, which takes "
                f"{', '.join(known.tasks[checked.task])}"
            )
    rules = ("auto", *known.rules)
    if checked.selection.rule not in rules:
        place = lines.at("selection", "rule")
        raise UsageError(f"{place}: {UnknownName('rule', checked.selection.rule, rules)}")
    try:
        known.score(checked.selection.score)
    except UsageError as error:
        raise UsageError(f"{lines.at('selection', 'score')}: {error}") from None
    if checked.mode == "select" and checked.layers is not None:
        raise UsageError(f"{lines.at('layers')}: is for mode: layers: set mode, or leave it out")
    if checked.mode == "layers":
        _check_layers(checked, lines)


def _check_layers(checked: Document, lines: Lines) -> None:
    """What has no meaning where whole layers train."""
    for key in ("noise", "guards", "train_also"):
        if getattr(checked, key):
            more = ": name parameters under layers.always" if key == "train_also" else ""
            raise UsageError(f"{lines.at(key)}: is for mode: select: leave it out{more}")
    for key in checked.selection.model_fields_set - {"report", "seed"}:
        raise UsageError(
            f"{lines.at('selection', key)}: is for mode: select; mode: layers takes report and seed"
        )


def _learning_rate(checked: Document, training: dict[str, Any], lines: Lines) -> float | None:
    """The rate of either place; ``training.learning_rate`` is taken out of ``training``."""
    if "learning_rate" not in training:
        return checked.learning_rate
    rate = training.pop("learning_rate")
    place = lines.at("training", "learning_rate")
    if checked.learning_rate is not None:
        raise UsageError(f"{place}: stands at the top as learning_rate too: keep one")
    if rate == "auto":
        return None
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < float("inf"):
        raise UsageError(f"{place}: must be auto or a number above 0, got {shown(rate)}")
    return float(rate)


def _guards(given: Any, lines: Lines, known: Known) -> tuple[GuardSpec, ...] | str:
    if isinstance(given, str):
        return given
    made = []
    for i, guard in enumerate(given):
        for name, settings in guard.items():
            if name not in known.guards:
                place = lines.at("guards", i)
                raise UsageError(f"{place}: {UnknownName('guard', name, known.guards)}")
            made.append(GuardSpec(name=name, settings=settings or {}))
    return tuple(made)


def _model(name: str, folder: Path, lines: Lines) -> str:
    """A path that exists, else a name that reads as one of the hub's."""
    path = _resolved(name, folder)
    if path.exists():
        return str(path)
    if name.startswith((".", "/", "~")) or not _ID.fullmatch(name):
        raise UsageError(f"{lines.at('model')}: no such file or folder: {path}")
    first, slash, _ = name.partition("/")
    if slash and (folder / first).is_dir():  # a mistyped path, not somebody's model
        raise UsageError(f"{lines.at('model')}: no such folder: {path}")
    return name


def _data(checked: Data, folder: Path, lines: Lines) -> DataSpec:
    given = _given(checked)
    for split in ("train", "validation", "test", "old"):
        if given.get(split) is not None:
            given[split] = _source(getattr(checked, split), folder, lines, split)
    if checked.validation is not None and checked.validation_share:
        place = lines.at("data", "validation_share")
        raise UsageError(f"{place}: must not stand beside data.validation: keep one")
    return DataSpec(**_tuples(given))


def _source(source: Any, folder: Path, lines: Lines, split: str) -> DataSource:
    place = lines.at("data", split)
    if source.id is not None:
        return DataSource(id=source.id, config=source.config, split=source.split or split)
    name = source.file
    path = _resolved(name, folder)
    if path.is_dir():
        raise UsageError(f"{place}: must be a file ({', '.join(ENDINGS)}), got a folder: {path}")
    if path.exists() or name.lower().endswith(ENDINGS):
        if not path.exists():
            raise UsageError(f"{place}: no such file: {path}")
        if not name.lower().endswith(ENDINGS):
            raise UsageError(f"{place}: must end in one of {', '.join(ENDINGS)}, got '{name}'")
        if source.split or source.config:
            raise UsageError(f"{place}: split and config are for a data set's id, got a file")
        return DataSource(path=str(path))
    if not _ID.fullmatch(name):
        raise UsageError(f"{place}: must be a file or the id of a data set, got '{name}'")
    return DataSource(id=name, config=source.config, split=source.split or split)


def _selection(checked: Selection, folder: Path, lines: Lines) -> SelectionSpec:
    given = _given(checked)
    for key in ("plan", "selection", "report"):
        if given.get(key):
            path = _resolved(given[key], folder)
            if not path.is_file():
                raise UsageError(f"{lines.at('selection', key)}: no such file: {path}")
            given[key] = str(path)
    made = [key for key in ("plan", "selection") if given.get(key)]
    settles = {"plan": "budget rule knobs floor cap include exclude roles report layer_rates"}
    settles["selection"] = settles["plan"] + (
        " plan score granularity block_size rank protect protect_strength gradient_batches seed"
        " keep bits group"
    )
    for key in made:
        for other in settles[key].split():
            if other in checked.model_fields_set and getattr(checked, other) is not None:
                place = lines.at("selection", other)
                raise UsageError(f"{place}: is settled by selection.{key}: keep one")
    if not made:
        try:
            Budget.trainable(checked.budget, floor=checked.floor, cap=checked.cap)
        except UsageError as error:
            raise UsageError(f"{lines.at('selection', 'budget')}: {error}") from None
    return SelectionSpec(**_tuples(given))


# ---------------------------------------------------------------------------- small things


def _resolved(name: str, folder: Path) -> Path:
    return (folder / Path(name).expanduser()).resolve()


def _given(model: BaseModel | None) -> dict[str, Any]:
    """The fields that the file gives."""
    if model is None:
        return {}
    names = [k for k in type(model).model_fields if k in model.model_fields_set]
    set_here = {k: getattr(model, k) for k in names}
    plain = {k: _given(v) if isinstance(v, BaseModel) else v for k, v in set_here.items()}
    return {k: v for k, v in plain.items() if v is not None}


def _tuples(given: dict[str, Any]) -> dict[str, Any]:
    """Lists as tuples, as records hold them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def _places(data: dict[str, Any], lines: Lines, above: tuple[str, ...] = ()) -> Any:
    for key, value in data.items():
        loc = (*above, str(key))
        yield ".".join(loc), lines.at(*loc)
        if isinstance(value, dict) and len(loc) < 3:
            yield from _places(value, lines, loc)


def _keys_at(loc: tuple[Any, ...]) -> list[str]:
    names = [str(part) for part in loc if not isinstance(part, int)]
    return list(SCHEMA[".".join(names)].model_fields)


def _plain(value: Any) -> Any:
    """Records as plain values, without what is not set."""
    if is_dataclass(value):
        named = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return {k: v for k, v in named.items() if v not in (None, "", {}, [])}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(x) for x in value] if isinstance(value, tuple | list) else value


def _plain_data(spec: DataSpec) -> dict[str, Any]:
    """Data as a recipe says it: keys that differ from their defaults, so that every task reads
    what it takes."""
    plain: dict[str, Any] = {}
    for f in fields(spec):
        value = getattr(spec, f.name)
        if isinstance(value, DataSource):
            plain[f.name] = value.path or _plain(value)
        elif value != _default(f):
            plain[f.name] = _plain(value)
    return plain


def _default(f: Any) -> Any:
    missing = f.default_factory.__class__.__name__ == "_MISSING_TYPE"
    return f.default if missing else f.default_factory()
