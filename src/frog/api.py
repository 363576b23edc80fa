"""The verbs: each joins rooms, takes values and gives a value."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from frog.errors import ModelError, ReportError, UnknownName, UsageError
from frog.metrics.cache import Cache
from frog.metrics.measure import skipped_row
from frog.metrics.schedule import Measured, cost, default_jobs, measure_all
from frog.metrics.summary import summarise
from frog.types import (
    Catalogue,
    Finding,
    LayerReport,
    ModelReport,
    Settings,
    SkippedTensor,
    WeightMatrix,
)
from frog.version import __version__
from frog.weights.catalogue import catalogue
from frog.weights.source import list_tensors

ESTIMATORS = ("ks", "hill", "tpl")
WINDOWS = ("full",)
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
    return _restrict(catalogue(list_tensors(model, base=base)), include, exclude)


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
    compat = settings.compat == "weightwatcher"
    listed = catalogue(list_tensors(model, base=base), as_weightwatcher=compat)
    listed = _restrict(listed, include, exclude)
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


def merge_reports(reports: Sequence[ModelReport]) -> ModelReport:
    """Join the reports of all shards of one model into the report of the whole.

    Raises :class:`~frog.errors.ReportError` when a part is missing, double, or of other settings.
    """
    if not reports:
        raise ReportError("merging needs at least one report, got none")
    first = reports[0]
    for report in reports:
        _check_part(report, first)
    count = first.shard[1] if first.shard else 0
    parts = sorted(report.shard[0] for report in reports if report.shard)
    if len(parts) != count or parts != list(range(1, count + 1)):
        got = ", ".join(str(part) for part in parts)
        raise ReportError(f"merging needs the parts 1 to {count}, each once, got {got}")
    layers = _join_layers(reports)
    return replace(
        first,
        layers=layers,
        digest=_digest(layers),
        findings=_in_order((f for report in reports for f in report.findings), layers),
        summary=summarise(layers, compat=first.settings.compat),
        shard=None,
    )


def _check_part(report: ModelReport, first: ModelReport) -> None:
    """Raise :class:`~frog.errors.ReportError` unless both are parts of one measurement."""
    if report.shard is None:
        raise ReportError(
            f"every report must be a part (--shard i/n), got a whole one of {report.path}"
        )
    for what in ("path", "format", "frog_version", "settings"):
        mine, theirs = getattr(report, what), getattr(first, what)
        if mine != theirs:
            raise ReportError(
                f"parts must be of one model, with the same settings and version of frog, got "
                f"{what} {mine!r} beside {theirs!r}: measure all parts with the same flags"
            )
    if first.shard is not None and report.shard[1] != first.shard[1]:
        raise ReportError(
            f"parts must be of one division, got part {report.shard[0]} of {report.shard[1]} "
            f"beside one of {first.shard[1]}: measure all with the same --shard i/n"
        )


def _join_layers(reports: Sequence[ModelReport]) -> tuple[LayerReport, ...]:
    """The layers of all parts by position: skipped ones are in every part, others in one."""
    by_position: dict[int, LayerReport] = {}
    for report in reports:
        for layer in report.layers:
            other = by_position.get(layer.position)
            if other is None:
                by_position[layer.position] = layer
            elif layer.skipped is None or other.name != layer.name:
                raise ReportError(
                    f"position {layer.position} must be in one part, got {other.name} and "
                    f"{layer.name}: measure all parts again"
                )
    absent = next((i for i in range(len(by_position)) if i not in by_position), None)
    if absent is not None:
        raise ReportError(f"position {absent} is in no part: measure all parts again")
    return tuple(by_position[i] for i in range(len(by_position)))


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
    if settings.min_evals < 2:
        raise UsageError(f"min_evals must be at least 2, got {settings.min_evals}")
    for name in ("bootstrap", "goodness"):
        draws = getattr(settings, name)
        if draws != 0 and draws < 20:
            raise UsageError(f"{name} must be 0 or at least 20, got {draws}")


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
    findings = (finding for measured in done.values() for finding in measured.findings)
    return ModelReport(
        path=listed.path,
        digest=_digest(layers),
        format=listed.format,
        frog_version=__version__,
        settings=settings,
        layers=tuple(layers),
        findings=_in_order(findings, layers),
        summary=summarise(layers, compat=settings.compat),
        notes=listed.notes,
        shard=shard,
    )


def _in_order(findings: Iterable[Finding], layers: Sequence[LayerReport]) -> tuple[Finding, ...]:
    place = {layer.name: layer.position for layer in layers}
    return tuple(sorted(findings, key=lambda finding: place.get(finding.layer, -1)))


def _restrict(listed: Catalogue, include: str | None, exclude: str | None) -> Catalogue:
    """Move matrices that the patterns leave out to the skipped ones, with the pattern."""
    wanted = _pattern(include, "include")
    unwanted = _pattern(exclude, "exclude")
    kept, left_out = [], []
    for matrix in listed.matrices:
        if wanted is not None and not wanted.search(matrix.name):
            left_out.append(_left_out(matrix, f"not in --include {include}"))
        elif unwanted is not None and unwanted.search(matrix.name):
            left_out.append(_left_out(matrix, f"in --exclude {exclude}"))
        else:
            kept.append(matrix)
    if (include or exclude) and not kept:
        names = ", ".join(m.name for m in listed.matrices[:3])
        flags = {"--include": include, "--exclude": exclude}
        given = " with ".join(f"{flag} {text!r}" for flag, text in flags.items() if text)
        raise UsageError(
            f"{given} leaves no matrix of "
            f"{len(listed.matrices)}; the first names are {names}; frog inspect lists all"
        )
    return replace(listed, matrices=tuple(kept), skipped=(*listed.skipped, *left_out))


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


def _digest(layers: Iterable[LayerReport]) -> str:
    """A digest of the measured content: names and bytes of all matrices, in order."""
    joined = hashlib.blake2b(digest_size=16)
    for layer in layers:
        # as a file of ours spells a name that is no Unicode: parts come from files
        joined.update(f"{layer.name} {layer.digest}\n".encode("utf-8", "backslashreplace"))
    return joined.hexdigest()


def list_metrics() -> list[dict[str, Any]]:
    """Every metric: name, symbol, meaning, which way is better, scale degree, source."""
    from frog.metrics import METRICS

    return [
        {
            "name": name,
            "symbol": metric.symbol,
            "meaning": metric.meaning,
            "better": metric.better,
            "degree": metric.degree,
            "source": metric.source,
        }
        for name, metric in METRICS.items()
    ]
