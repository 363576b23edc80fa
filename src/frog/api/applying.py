"""Plans of compression carried out, and held against the uniform one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from frog.api.compressing import digest_of_matrices
from frog.api.planned_units import Group, Located, located
from frog.api.sweeping import norms_of
from frog.compression.checkpoints import FORMATS, write_checkpoint
from frog.compression.curves import Bits, Level, digest_of
from frog.compression.judging import Trial, judge
from frog.compression.live import LiveUnit, change
from frog.compression.planned import is_judged, levels_of
from frog.compression.task_metrics import perplexity
from frog.errors import UnknownName, UsageError
from frog.exports.auto_round import layer_config
from frog.exports.llm_compressor import compressor_recipe
from frog.serial.whole_file import write_whole
from frog.types.level_plans import Calibration, LevelPlan
from frog.types.levels import Unit
from frog.weights.rewriting import rewrite, stored_at

CHECKPOINTS = ("plain", "torchao", "compressed-tensors")
TEXTS = ("llm-compressor", "auto-round")
"""Formats of what :func:`apply_plan` writes: models, and files that tell other tools the plan."""


def read_calibration(
    model: str,
    file: Any,
    *,
    task: str | None = None,
    column: str | None = None,
    rows: int = 64,
    length: int | None = None,
    log: Any = None,
) -> Calibration:
    """Load ``model`` with transformers and up to ``rows`` rows of ``file`` to run it on.

    ``file`` is text (.txt, a line a row), a table with ``column`` (.jsonl, .csv, .parquet; ``text``
    or ``image`` unless named), or tensors ``input_ids`` or ``pixel_values`` (.safetensors, .npz).
    ``task`` is that of recipes, by default that of the model's class; ``length`` are tokens.
    ``log`` keeps what is measured. Raises :class:`~frog.errors.UsageError` for the file,
    :class:`~frog.errors.ModelError` for the model.
    """
    from frog.api.recipes import check_packages
    from frog.recipes.calibration import Asked, calibration

    asked = Asked(task=task, column=column, rows=rows, length=length)
    check_packages()
    made = calibration(str(model), Path(file), asked)
    return replace(made, log=None if log is None else Path(log))


def apply_plan(
    model: Any,
    plan: LevelPlan,
    *,
    out: Any = None,
    format: str = "plain",
    calibration: Calibration | None = None,
    force: bool = False,
) -> Any:
    """Carry a plan of compression out, exactly as it says.

    A module is changed in place and given back: keep a copy to undo it. Of a path a changed copy is
    written to ``out``, which must not exist: ``plain`` has the names, types and files of the model
    with the rounded or pruned values, ``torchao`` and ``compressed-tensors`` hold codes that those
    libraries and transformers read (bits alone). ``llm-compressor`` is a recipe and ``auto-round``
    a layer_config as text: those tools round by themselves. A plan by Wanda needs the
    ``calibration`` it was made with.

    Raises :class:`~frog.errors.UsageError` where the weights are not those that the plan was made
    for, :class:`~frog.errors.PlanRefused` where :func:`verify_plan` found the plan to be worse than
    the uniform one, unless ``force``.

    >>> import torch, frog
    >>> layer = torch.nn.Linear(8, 8)
    >>> made = apply_plan(layer, frog.plan_prune(layer, 0.25))
    >>> int((made.weight == 0).sum())
    16
    """
    known = (*CHECKPOINTS, *TEXTS)
    if format not in known:
        raise UnknownName("format of a compressed model", format, known)
    if plan.verification is not None and is_judged(plan) and not force:
        plan.verification.require()
    if format != "plain" and plan.action != "bits":
        raise UsageError(f"'{format}' is for bits, got a plan that prunes: 'plain' holds its zeros")
    if not isinstance(model, str | PathLike):
        if out is not None or format != "plain":
            raise UsageError("out= and format= are for paths: a live model is changed in place")
        found, levels = bound(model, plan, None, calibration)
        for matrix in found.matrices:
            if matrix.name in levels:
                change(found.live, matrix, _of(levels, matrix.name))
        return model
    if out is None:
        raise UsageError("out= must name the folder or file of the result")
    path, out = stored_at(str(model)), Path(out)
    found, levels = bound(str(path), plan, None, calibration)
    if format in TEXTS:
        write_whole(_text(plan, levels, format).encode(), out)
        return out
    if format != "plain":
        rounded = {name: level for name, level in levels.items() if isinstance(level, Bits)}
        return write_checkpoint(path, rounded, out, format=FORMATS[format]).path
    return rewrite(
        path,
        {x: found.stored[x] for x in levels},
        lambda name, weight: levels[name].apply(name, weight),
        out,
    )


def _text(plan: LevelPlan, levels: Mapping[str, Any], format: str) -> str:
    """The plan for another tool."""
    if format == "llm-compressor":
        return compressor_recipe(levels)
    kept = [x for x in plan.left_out if x.endswith(".weight")]
    return layer_config(levels, kept=kept)


def bound(
    model: Any, plan: LevelPlan, running: Calibration | None, planned_on: Calibration | None
) -> tuple[Located, dict[str, Level]]:
    """The model's matrices, located in the module that ``running`` runs, and the level of each.

    Raises :class:`~frog.errors.UsageError` for another model, or other data than Wanda's.
    """
    found = located(model, running)
    for planned in plan.matrices:
        matrix = found.stored.get(planned.name)
        if matrix is None or matrix.shape != planned.shape:
            got = "there is none" if matrix is None else f"it is {matrix.shape}"
            raise UsageError(
                f"the plan has {planned.name} of {planned.shape}, but in this model {got}: make a "
                "plan from this model"
            )
    if digest_of_matrices(found, [x.name for x in plan.matrices]) != plan.digest:
        raise UsageError(
            f"{found.path}: its weights are not those that the plan was made for ({plan.path}): "
            "make a plan from this model; a model that was compressed already is another one"
        )
    norms: Mapping[str, Any] = {}
    if planned_on is not None and getattr(plan.how, "importance", "") == "wanda":
        if digest_of(planned_on.batches) != plan.data:
            raise UsageError(
                f"a plan by Wanda must be carried out with the data that it was made with "
                f"({plan.calibration or 'unnamed'}), got others: the same file, rows and length"
            )
        there = located(model, planned_on)
        norms = norms_of(there, _groups(there, plan), plan.how, planned_on)
    return found, levels_of(plan, norms)


def verify_plan(
    model: Any,
    plan: LevelPlan,
    *,
    calibration: Calibration,
    planned_on: Calibration | None = None,
    by: str = "error",
    randoms: int = 3,
    seed: int = 0,
) -> LevelPlan:
    """The plan with a verdict: better than the uniform one of its size, no different, or worse.

    The uniform plan and ``randoms`` random ones of the same size run on ``calibration``, which must
    be other data than the plan was made on. ``by`` is what decides: ``error`` or ``angle`` of the
    outputs, ``perplexity`` for language models; a paired bootstrap over the examples gives the
    interval. The weights are put back bit for bit. ``planned_on`` is for plans by Wanda. A plan of
    a pattern, which has no uniform one of its size, is held against the mean of five random plans
    or more of the same pattern.

    Raises :class:`~frog.errors.UsageError` for the same data, another model or fewer than 8
    examples.

    >>> import torch, frog
    >>> layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8))
    >>> rows = frog.Calibration(batches=[torch.randn(16, 64)], outputs=lambda model, x: model(x))
    >>> plan = frog.plan_bits(layers, 4, rule="uniform")
    >>> verify_plan(layers, plan, calibration=rows).verification.verdict
    'no different'
    """
    found, levels = bound(model, plan, calibration, planned_on)
    metrics = ()
    if calibration.tokens is not None:
        metrics = (perplexity(calibration.tokens),)
    trial = Trial(
        batches=calibration.batches,
        outputs=calibration.outputs,
        metrics=metrics,
        by=by,
        seen=(plan.data,) if plan.data else (),
    )
    judgement = judge(
        found.live, levels, matrices=found.matrices, trial=trial, randoms=randoms, seed=seed
    )
    return replace(plan, verification=judgement)


def default_log(model: str) -> Path:
    """Where cells of a model are kept when no file is named: in the user's cache."""
    from hashlib import blake2b

    from frog.metrics.cache import Cache

    name = blake2b(str(Path(model).absolute()).encode(), digest_size=8).hexdigest()
    return Cache.default().folder / "sweeps" / f"{name}.jsonl"


def _groups(found: Located, plan: LevelPlan) -> list[Group]:
    matrices = {x.name: x for x in found.matrices}
    made = []
    for unit in plan.units:
        members = tuple(matrices[x.name] for x in unit.matrices)
        made.append(
            Group(
                name=unit.name,
                matrices=members,
                unit=Unit(name=unit.name, params=unit.params),
                live=LiveUnit(name=unit.name, matrices=members),
            )
        )
    return made


def _of(levels: Mapping[str, Level], name: str) -> Callable[[Any], None]:
    return lambda weight: levels[name].apply(name, weight)
