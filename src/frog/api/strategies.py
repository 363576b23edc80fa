"""Compare ways to fine-tune one model: runs of frog tune, deltas, and other tuned models."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from frog.api.comparing import compare, unlike
from frog.api.deltas import apply_delta
from frog.api.measuring import Run
from frog.errors import ModelError, UsageError
from frog.metrics.strategies import (
    Tried,
    strategies_of,
    strategy_notes,
    verdict_of_strategies,
)
from frog.serial.delta import is_delta
from frog.serial.tuned import is_run, read_metrics
from frog.types import ModelReport, Series, Settings, SparseDelta
from frog.types.recipes import TuneResult
from frog.weights.delta import unlike_base
from frog.weights.source import list_tensors
from frog.weights.stored import TensorList


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """One strategy as it was given: what is measured, and what is known of its making."""

    given: Any
    kind: str
    run: TuneResult | None = None
    delta: SparseDelta | None = None


def compare_runs(*models: Any, base: Any = None, settings: Settings | None = None,
                 include: str | None = None, exclude: str | None = None,
                 run: Run | None = None) -> Series:  # fmt: skip
    """Compare ways to fine-tune one model: a table with a row for each.

    Each of ``models`` is the output folder of ``frog tune``, a delta (:func:`~frog.diff`), or any
    model as for :func:`~frog.compare`; of the latter only the weights speak. ``base`` is the model
    that all came from; without it the first of ``models`` where that is no run, else the one that
    the runs name. The result is a :class:`~frog.types.Series` against the base whose
    ``strategies`` hold quality, forgetting, trainable weights, memory, time and spectral change;
    ``settings``, ``include``, ``exclude`` and ``run`` are those of :func:`~frog.compare`.

    Quality that was measured by another task or metric, or on other rows, than that of the first
    run is NaN with the reason: it is not comparable. Raises :class:`~frog.errors.UsageError` for
    fewer than two strategies, without any run or delta among them, for a run that has not finished
    and for one of another base; :class:`~frog.errors.ReportError` for a damaged file of a run.
    """
    base, models = _with_base(models, base)
    if len(models) < 2:
        raise UsageError(
            f"strategies are compared from two on, got {len(models)}: give outputs of frog tune, "
            "deltas or tuned models"
        )
    made = [_made(x) for x in models]
    if all(x.kind == "model" for x in made):
        raise UsageError(
            "strategies need an output of frog tune or a delta among them, got none: "
            "frog.compare is for models alone"
        )
    if base is None:
        base = _named_base(made)
    _check_base(base, made)
    with _applied(base, made) as at_hand:
        found = compare(base, *at_hand, settings=settings, include=include, exclude=exclude,
                        run=run)  # fmt: skip
    assert isinstance(found, Series)
    return _with_strategies(found, made)


def are_strategies(models: Sequence[Any], *, base: Any = None) -> bool:
    """Whether models are ways to fine-tune one: two or more, runs or deltas among them.

    One run beside its base is before and after, and a run beside one other model too.
    """
    base, strategies = _with_base(tuple(models), base)
    special = sum(is_run(x) or is_delta(x) for x in strategies)
    return len(strategies) >= 2 and special >= (1 if base is not None else 2)


def _with_base(models: tuple[Any, ...], base: Any) -> tuple[Any, tuple[Any, ...]]:
    """The base as given, or the first model: no run, or a run that another one started from."""
    if not models:
        return base, models
    first = models[0]
    if base is not None:
        return base, models[1:] if _same_path(first, base) else models
    if is_delta(first) or (is_run(first) and not _started_from(first, models[1:])):
        return None, models
    return first, models[1:]


def _started_from(first: Any, others: Sequence[Any]) -> bool:
    for other in others:
        with contextlib.suppress(UsageError):
            if is_run(other) and _same_path(read_metrics(other).model, first):
                return True
    return False


def _made(given: Any) -> _Made:
    if is_run(given):
        return _Made(given=given, kind="run", run=read_metrics(given))
    if is_delta(given):
        return _Made(given=given, kind="delta", delta=SparseDelta.load(given))
    return _Made(given=given, kind="model")


def _named_base(made: Sequence[_Made]) -> str:
    """The model that the first run or delta names, where it is at hand."""
    first = next(x for x in made if x.kind != "model")
    named = first.run.model if first.run else first.delta.path if first.delta else ""
    told = f"name the model that {first.given} came from first: frog compare BASE RUN RUN"
    if not named:
        raise UsageError(f"{first.given} does not say which model it came from: {told}")
    try:
        list_tensors(named)
    except ModelError as error:
        raise UsageError(f"the base of {first.given} is not at hand ({error}): {told}") from None
    return named


def _check_base(base: Any, made: Sequence[_Made]) -> None:
    """UsageError unless every run and delta began with the bits of the base, where they tell."""
    if isinstance(base, ModelReport) or Path(str(base)).suffix == ".json":
        return  # a report has no bits
    tensors: TensorList | None = None
    known: dict[str, str] = {}
    for one in made:
        delta = one.delta
        if one.run is not None:
            file = Path(one.given).expanduser() / "delta.safetensors"
            delta = SparseDelta.load(file) if file.exists() else None
        named = one.run.model if one.run else one.delta.path if one.delta else ""
        if delta is None:
            continue
        if tensors is None:
            tensors = list_tensors(base)
        checked, name = unlike_base(delta, tensors, known)
        if name or (not checked and named and not _same_path(named, base)):
            told = (
                f"{name} is not the tensor it began with"
                if name
                else "the paths differ, and no tensor tells"
            )
            raise UsageError(
                f"strategies must come from one base: {one.given} was tuned from {named}, not from "
                f"{tensors.path} ({told}): compare those of one base"
            )


@contextlib.contextmanager
def _applied(base: Any, made: Sequence[_Made]) -> Iterator[list[Any]]:
    """What is measured of each: a delta becomes a copy of the base with it, for the while."""
    with tempfile.TemporaryDirectory(prefix="frog-", ignore_cleanup_errors=True) as folder:
        found = []
        for place, one in enumerate(made):
            if one.delta is None:
                found.append(one.given)
                continue
            name = Path(one.given).stem
            (Path(folder) / str(place)).mkdir()
            suffix = Path(base).suffix if Path(base).expanduser().is_file() else ""
            out = Path(folder) / str(place) / f"{name}{suffix}"
            found.append(str(apply_delta(base, one.delta, out=out)))
        yield found


def _with_strategies(series: Series, made: Sequence[_Made]) -> Series:
    comparisons = list(series.comparisons)
    reports = list(series.reports)
    labels = list(series.labels)
    tried = []
    for place, one in enumerate(made):
        comparison = comparisons[place]
        if one.delta is not None:  # the copy is gone: the file is what was given
            path = str(one.given)
            labels[place + 1] = Path(path).name
            after = replace(comparison.after, path=path)
            comparison = comparisons[place] = replace(comparison, after=after)
            reports[place + 1] = replace(reports[place + 1], path=path)
        tried.append((one, comparison))
    labels = list(unlike(labels))
    rows = strategies_of([
        Tried(label=label, path=comparison.after.path, kind=one.kind, run=one.run,
              comparison=comparison, known=_known(one))
        for label, (one, comparison) in zip(labels[1:], tried, strict=True)
    ])  # fmt: skip
    return replace(
        series,
        labels=tuple(labels),
        reports=tuple(reports),
        comparisons=tuple(comparisons),
        strategies=rows,
        verdict=verdict_of_strategies(labels[0], rows, comparisons),
        notes=(*strategy_notes(rows), *series.notes),
    )


def _known(one: _Made) -> dict[str, Any]:
    """What a delta tells of its own making."""
    if one.delta is None:
        return {}
    size = Path(one.given).expanduser().stat().st_size
    return {"changed": float(one.delta.count), "delta_bytes": float(size)}


def _same_path(one: Any, other: Any) -> bool:
    if str(one) == str(other):
        return True
    try:
        return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
    except (OSError, TypeError, RuntimeError):
        return False
