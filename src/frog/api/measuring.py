"""Inspect and analyse: a model becomes a listing, a listing a report."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from frog.api.flowing import check_flow, with_flow
from frog.errors import ModelError, UnknownName, UsageError
from frog.metrics.cache import Cache
from frog.metrics.measure import skipped_row
from frog.metrics.schedule import Measured, cost, default_jobs, measure_all
from frog.metrics.whole import complete, digest_of
from frog.types import (
    Catalogue,
    ModelReport,
    Settings,
    SkippedTensor,
    WeightMatrix,
)
from frog.version import __version__
from frog.weights.catalogue import catalogue
from frog.weights.source import list_tensors

ESTIMATORS = ("ks", "hill", "tpl")
WINDOWS = ("full", "farms")
PRECISIONS = ("exact", "fast")
COMPATS = ("weightwatcher",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a measurement is carried out: nothing here changes a number.

    ``jobs`` layers at once (default: every processor), ``device`` ``auto``, ``cpu`` or ``cuda``,
    ``cache`` a folder of measured layers, True for the user's, None for none; ``shard`` (i, n)
    for the i-th of n parts; ``cluster`` spreads the layers with Ray. ``on_start`` is called with
    the matrices to come and their cost in operations, ``on_layer`` with each as it is done.
    """

    jobs: int | None = None
    device: str = "auto"
    cache: Path | str | bool | None = None
    shard: tuple[int, int] | None = None
    cluster: bool = False
    on_start: Callable[[Mapping[str, float]], None] | None = None
    on_layer: Callable[[Measured], None] | None = None


def inspect(model: Any, *, base: Any = None, include: str | None = None,
            exclude: str | None = None) -> Catalogue:  # fmt: skip
    """List every tensor of a model: what will be measured, what not, and why; no numerics.

    ``model`` is a path, a hub id, an ``nn.Module`` or a state dict; ``base`` is the base model of
    an adapter; ``include`` and ``exclude`` are regular expressions over names.
    """
    return restrict(catalogue(list_tensors(model, base=base)), include, exclude)


def analyze(model: Any, settings: Settings | None = None, *, base: Any = None,
            include: str | None = None, exclude: str | None = None,
            run: Run | None = None) -> ModelReport:  # fmt: skip
    """Measure every weight matrix of a model: no data, no model class, no forward pass.

    Arguments as for :func:`inspect`; ``settings`` is what the numbers depend on, ``run`` how the
    work is done. Raises :class:`~frog.errors.ModelError` when the model cannot be read and
    :class:`~frog.errors.UsageError` for a setting out of range.

    >>> import torch
    >>> report = analyze(torch.nn.Linear(64, 256, bias=False))
    >>> report.layers[0].name, report.layers[0].shape
    ('weight', (256, 64))
    """
    settings, run = settings or Settings(), run or Run()
    check(settings)
    check_flow(settings, run.shard)
    compat = settings.compat == "weightwatcher"
    tensors = list_tensors(model, base=base)
    listed = restrict(catalogue(tensors, as_weightwatcher=compat), include, exclude)
    report = measure_listed(listed, settings, run, opened=(model, base))
    return with_flow(report, tensors, listed) if settings.flow else report


def measure_listed(listed: Catalogue, settings: Settings, run: Run, *,
                   opened: tuple[Any, Any]) -> ModelReport:  # fmt: skip
    """Measure what a catalogue lists; ``opened`` is the model and the base that it came from."""
    model, base = opened
    matrices = list(listed.matrices)
    if run.shard is not None:
        matrices = _shard(matrices, run.shard)
    stream = _stream(matrices, settings, run, model, base)
    if run.on_start is not None:
        run.on_start({matrix.name: cost(matrix) for matrix in matrices})
    done: dict[str, Measured] = {}
    with contextlib.closing(stream):  # an interruption drops what is queued, there and then
        for measured in stream:
            done[measured.layer.name] = measured
            if run.on_layer is not None:
                run.on_layer(measured)
    return _assemble(listed, done, settings, run.shard)


def check(settings: Settings) -> None:
    """Raise :class:`~frog.errors.UsageError` for a setting that is out of range."""
    if settings.estimator not in ESTIMATORS:
        raise UnknownName("estimator", settings.estimator, ESTIMATORS)
    if settings.window not in WINDOWS:
        raise UnknownName("window", settings.window, WINDOWS)
    if settings.precision not in PRECISIONS:
        raise UnknownName("precision", settings.precision, PRECISIONS)
    if settings.compat is not None and settings.compat not in COMPATS:
        raise UnknownName("compat mode", settings.compat, COMPATS)
    if settings.compat is not None and settings.estimator != "ks":
        raise UsageError(f"compat mode fits by 'ks' only, got estimator {settings.estimator!r}")
    if settings.compat is not None and settings.window != "full":
        raise UsageError(f"compat mode fits the whole matrix, got window {settings.window!r}")
    if settings.min_evals < 2:
        raise UsageError(f"min_evals must be at least 2, got {settings.min_evals}")
    for name in ("bootstrap", "goodness"):
        draws = getattr(settings, name)
        if draws != 0 and draws < 20:
            raise UsageError(f"{name} must be 0 or at least 20, got {draws}")
    if settings.randomize < 0:
        raise UsageError(f"randomize must be at least 0, got {settings.randomize}")
    farms = settings.farms
    for name, least in (("side", 2), ("per_dimension", 1), ("budget", 1)):
        if getattr(farms, name) < least:
            raise UsageError(f"farms.{name} must be at least {least}, got {getattr(farms, name)}")
    if not 0.0 < farms.ratio < math.inf:
        raise UsageError(f"farms.ratio must be a positive number, got {farms.ratio}")


def device_of(name: str) -> str:
    """Resolve ``auto``; raises :class:`~frog.errors.UsageError` where CUDA is not there."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise UnknownName("device", name, ["auto", "cpu", "cuda"])
    if not torch.cuda.is_available():
        raise UsageError("device 'cuda' must be there, got a torch without CUDA: use --device cpu")
    return name


def matrices_of(path: str, base: str | None, compat: bool) -> dict[str, WeightMatrix]:
    """The matrices of a model by name: what every node of a cluster calls for itself."""
    listed = catalogue(list_tensors(path, base=base), as_weightwatcher=compat)
    return {matrix.name: matrix for matrix in listed.matrices}


def _stream(matrices: Sequence[WeightMatrix], settings: Settings, run: Run, model: Any,
            base: Any) -> Any:  # fmt: skip
    cache = None
    if run.cache:
        cache = Cache.default() if run.cache is True else Cache(Path(run.cache))
    if run.cluster:
        from frog.metrics.cluster import measure_on_cluster

        if run.device not in ("auto", "cpu"):
            raise UsageError(f"device must be auto or cpu on a cluster, got {run.device!r}")
        compat = settings.compat == "weightwatcher"
        return measure_on_cluster(
            matrices,
            settings,
            listing=matrices_of,
            arguments=(_for_all_nodes(model), base and _for_all_nodes(base), compat),
            jobs=run.jobs,
            cache=cache,
        )
    device = device_of(run.device)
    jobs = run.jobs if run.jobs is not None else (1 if device != "cpu" else default_jobs())
    return measure_all(matrices, settings, jobs=jobs, device=device, cache=cache)


def _for_all_nodes(model: Any) -> str:
    """The absolute path or the hub id by which another process finds the same model."""
    if not isinstance(model, str | PathLike):
        raise UsageError(
            f"on a cluster a model must be a path or a hub id, which every node can open, got "
            f"{type(model).__name__}: save it first"
        )
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else str(model)


def _assemble(listed: Catalogue, done: Mapping[str, Measured], settings: Settings,
              shard: tuple[int, int] | None) -> ModelReport:  # fmt: skip
    """The report, in the order of the listing; matrices of other shards are left out."""
    # a part of which nothing could be read is still needed for merging
    if shard is None and done and all(m.layer.skipped and m.layer.failed for m in done.values()):
        first = next(iter(done.values())).layer
        raise ModelError(f"{listed.path}: no tensor could be read; the first: {first.skipped}")
    layers = []
    for position, part in enumerate((*listed.matrices, *listed.skipped)):
        if isinstance(part, SkippedTensor):
            layers.append(replace(skipped_row(part), position=position))
        elif part.name in done:
            found = done[part.name]
            layers.append(replace(found.layer, position=position, digest=found.fingerprint))
    return complete(
        ModelReport(
            path=listed.path,
            digest=digest_of(layers),
            format=listed.format,
            frog_version=__version__,
            settings=settings,
            layers=tuple(layers),
            findings=tuple(f for measured in done.values() for f in measured.findings),
            notes=listed.notes,
            shard=shard,
        )
    )


def restrict(listed: Catalogue, include: str | None, exclude: str | None) -> Catalogue:
    """Move matrices that the patterns leave out to the skipped ones, with the pattern."""
    reasons = left_out([matrix.name for matrix in listed.matrices], include, exclude)
    return replace(
        listed,
        matrices=tuple(x for x in listed.matrices if x.name not in reasons),
        skipped=(
            *listed.skipped,
            *(_left_out(x, reasons[x.name]) for x in listed.matrices if x.name in reasons),
        ),
    )


def left_out(names: Sequence[str], include: str | None, exclude: str | None) -> dict[str, str]:
    """The names that the patterns leave out, with the reason.

    Raises :class:`~frog.errors.UsageError` where they leave none, and for a pattern that is none.

    >>> left_out(["h.0.q", "h.0.k"], "q", None)
    {'h.0.k': 'not in --include q'}
    """
    wanted = _pattern(include, "include")
    unwanted = _pattern(exclude, "exclude")
    reasons = {}
    for name in names:
        if wanted is not None and not wanted.search(name):
            reasons[name] = f"not in --include {include}"
        elif unwanted is not None and unwanted.search(name):
            reasons[name] = f"in --exclude {exclude}"
    if (include or exclude) and len(reasons) == len(names):
        flags = {"--include": include, "--exclude": exclude}
        given = " with ".join(f"{flag} {text!r}" for flag, text in flags.items() if text)
        raise UsageError(
            f"{given} leaves no matrix of "
            f"{len(names)}; the first names are {', '.join(names[:3])}; frog inspect lists all"
        )
    return reasons


def _pattern(text: str | None, flag: str) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"--{flag} must be a regular expression, got {text!r}: {error}") from None


def _left_out(matrix: WeightMatrix, reason: str) -> SkippedTensor:
    return SkippedTensor(
        name=matrix.name,
        role=matrix.role,
        block=matrix.block,
        shape=matrix.shape,
        dtype=matrix.dtype,
        params=matrix.params,
        reason=reason,
        aliases=matrix.aliases,
        rule=matrix.rule,
    )


def _shard(matrices: Sequence[WeightMatrix], shard: tuple[int, int]) -> list[WeightMatrix]:
    """The i-th of n parts: every n-th matrix by cost, so that parts take alike."""
    part, parts = shard
    if parts < 1 or not 1 <= part <= parts:
        raise UsageError(f"--shard must be i/n with 1 <= i <= n, got {part}/{parts}")
    by_cost = sorted(range(len(matrices)), key=lambda i: -cost(matrices[i]))
    return [matrices[i] for i in sorted(by_cost[part - 1 :: parts])]
