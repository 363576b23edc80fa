"""Is a plan better than no plan? Held against uniform or random plans of its size, on other data.

What a plan was made on cannot prove it: its damages were chosen to look small there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from frog.compression.baselines import Plan, dealt, pattern_of, shuffled, size_of, uniform
from frog.compression.curves import Outputs, digest_of, follow, model_digest, named
from frog.compression.distortion import checked_output, distortions, relative
from frog.compression.live import inference, restored, write
from frog.errors import UsageError
from frog.types import WeightMatrix
from frog.types.judgements import Difference, Judged, Judgement

FEWEST_EXAMPLES = 8
"""An interval by resampling fewer examples says nothing."""

FEWEST_DEALT = 5
"""Random plans whose mean a plan of a pattern is held against."""

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number of the task that can be taken over any examples, so that it can be resampled.

    ``examples(outputs, batch)`` gives what each example contributes, (E, K); ``value`` makes the
    number of any (E, K) of them. ``higher`` says which way is good. Ready-made ones:
    :mod:`frog.compression.task_metrics`.
    """

    name: str
    examples: Callable[[Tensor, Any], np.ndarray]
    value: Callable[[np.ndarray], float]
    higher: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The data that judge: batches that the plan was not made on, and what is measured on them.

    ``outputs(model, batch)`` gives a tensor whose first axis is that of the examples, its rows
    along the last. ``by`` is the measure that decides: ``error``, ``angle`` or the name of a
    metric. ``seen`` holds digests (:func:`~frog.compression.curves.digest_of`) of what the plan
    was made on: the ``data`` of the cells of a sweep, of whole lists of batches or single ones.
    """

    batches: Sequence[Any]
    outputs: Outputs
    metrics: tuple[Metric, ...] = ()
    by: str = "error"
    seen: Collection[str] = ()

    def __post_init__(self) -> None:
        names = ["error", "angle", *(x.name for x in self.metrics)]
        if len(set(names)) < len(names):
            raise UsageError(f"measures must have different names, got {', '.join(names)}")
        if self.by not in names:
            raise UsageError(f"by must be one of {', '.join(names)}, got '{self.by}'")
        if not self.batches:
            raise UsageError("a trial needs one batch or more, got none")


def judge(
    model: nn.Module,
    plan: Plan,
    *,
    matrices: Iterable[WeightMatrix],
    trial: Trial,
    randoms: int = 3,
    seed: int = 0,
) -> Judgement:
    """The plan, the uniform plan of its size and ``randoms`` random ones, on the trial's data.

    ``plan`` gives levels by name of matrix; what it does not name stays as it is in all plans.
    ``matrices`` are located in the model. The others are at least as large as the plan
    (:mod:`frog.compression.baselines`). The verdict is that of a paired bootstrap over examples:
    worse where the whole interval is. :meth:`~frog.types.judgements.Judgement.require` makes it
    an error. A plan of a pattern, such as 2:4, has no uniform one of its size: it is held against
    the mean of five random plans or more, of the same pattern dealt out to other matrices; the
    interval holds for these plans. Memory: the model, its own outputs, and a copy of all matrices
    of the plan. The weights are put back bit for bit, also after an error.

    Raises UsageError for data that the plan was made on, fewer than 8 examples, a plan of both
    bits and sparsities, or matrices that the model has not.
    """
    if not plan or randoms < 0:
        raise UsageError(
            f"a plan must name a matrix, and there must be 0 random ones or more, got {len(plan)} "
            f"matrices and {randoms}"
        )
    data = digest_of(trial.batches)
    _refuse_seen(trial, data)
    places = named(matrices, plan)
    params = {x.name: math.prod(x.shape) for x in places}
    plan = {x.name: plan[x.name] for x in places}  # in the order of the model
    pattern = pattern_of(plan)
    if pattern is None:
        plans = {"plan": plan, "uniform": uniform(plan, params)}
        for number in range(randoms):
            plans[f"random {number + 1}"] = shuffled(plan, params, seed=seed + number)
    else:
        plans = {"plan": plan}
        able = {x.name for x in places if x.shape[1] % pattern.of == 0}
        for number in range(max(randoms, FEWEST_DEALT)):
            plans[f"random {number + 1}"] = dealt(plan, params, able=able, seed=seed + number)
    found = measure(model, {"": {}, **plans}, matrices=places, trial=trial)
    unchanged = found.pop("")
    others = [
        seen
        for name, seen in found.items()
        if name == "uniform" or (pattern is not None and name != "plan")
    ]
    return Judgement(
        levels={name: level.key for name, level in plan.items()},
        plans=tuple(
            Judged(
                name=name,
                size=size_of(plans[name], params),
                error=seen.error,
                angle=seen.angle,
                metrics=seen.values(trial.metrics),
            )
            for name, seen in found.items()
        ),
        differences=tuple(differences(found["plan"], others, trial.metrics, seed=seed)),
        by=trial.by,
        examples=len(found["plan"].moved),
        metrics=unchanged.values(trial.metrics),
        model=model_digest(model),
        data=data,
        unseen=bool(trial.seen),
        seed=seed,
        against="uniform" if pattern is None else "random",
    )


def _refuse_seen(trial: Trial, data: str) -> None:
    if not trial.seen:
        return
    seen = set(trial.seen)
    if data in seen:
        raise UsageError("the plan was made on these very batches: judge it on others")
    for number, batch in enumerate(trial.batches):
        if digest_of(batch) in seen:
            raise UsageError(f"the plan was made on batch {number} of these: judge it on others")


# --------------------------------------------------------------------------- measurement


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """One plan, by example: ||Y - Y0||^2, ||Y0||^2, mean 1 - cosine, (E,); parts of metrics."""

    moved: np.ndarray
    whole: np.ndarray
    turned: np.ndarray
    metrics: Mapping[str, np.ndarray]

    @property
    def error(self) -> float:
        """||Y - Y0|| / ||Y0|| over all examples; infinite where an output is not finite."""
        return _finite(relative(float(self.moved.sum()), float(self.whole.sum())))

    @property
    def angle(self) -> float:
        """Mean of 1 - cosine; infinite where an output is not finite."""
        return _finite(float(self.turned.mean()))

    def values(self, metrics: Sequence[Metric]) -> dict[str, float]:
        """The metrics over all examples."""
        return {x.name: float(x.value(self.metrics[x.name])) for x in metrics}


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def measure(
    model: nn.Module,
    plans: Mapping[str, Plan],
    *,
    matrices: Iterable[WeightMatrix],
    trial: Trial,
) -> dict[str, Measured]:
    """Any number of plans on the trial's data, by name; an empty plan changes nothing."""
    places = named(
        matrices, {name: level for plan in plans.values() for name, level in plan.items()}
    )
    found = {}
    with inference(model):
        base = [checked_output(trial.outputs(model, batch)).clone() for batch in trial.batches]
        examples = sum(1 if x.ndim == 1 else len(x) for x in base)
        if examples < FEWEST_EXAMPLES:
            raise UsageError(
                f"a trial needs {FEWEST_EXAMPLES} examples or more for its intervals, got "
                f"{examples}"
            )
        with restored(model, places) as copies:
            for name, plan in plans.items():
                for place, copy in zip(places, copies, strict=True):
                    write(model, place, copy)
                follow(model, named(places, plan), plan)
                found[name] = _measured(model, trial, base, same=not plan)
    return found


def _measured(model: nn.Module, trial: Trial, base: Sequence[Tensor], *, same: bool) -> Measured:
    """The model as it is now, against its outputs as they were."""
    each, parts = [], []
    for batch, before in zip(trial.batches, base, strict=True):
        after = before if same else trial.outputs(model, batch)
        each.append(distortions(after, before))
        parts.append(_parts(trial.metrics, after, batch))
    return Measured(
        moved=np.concatenate([x.moved.cpu().numpy() for x in each]),
        whole=np.concatenate([x.whole.cpu().numpy() for x in each]),
        turned=np.concatenate([(x.turned / x.rows).cpu().numpy() for x in each]),
        metrics={x.name: np.concatenate([part[x.name] for part in parts]) for x in trial.metrics},
    )


def _parts(metrics: Sequence[Metric], outputs: Tensor, batch: Any) -> dict[str, np.ndarray]:
    found = {}
    for metric in metrics:
        part = np.asarray(metric.examples(outputs, batch), dtype=np.float64)
        if part.ndim != 2:
            raise UsageError(
                f"'{metric.name}' must give an array (examples, numbers) for a batch, got shape "
                f"{part.shape}"
            )
        found[metric.name] = part
    return found


# ----------------------------------------------------------------------------- intervals


def differences(
    plan: Measured,
    others: Measured | Sequence[Measured],
    metrics: Sequence[Metric],
    *,
    seed: int = 0,
) -> Iterator[Difference]:
    """The plan against another, or the mean of several, in error, angle and every metric.

    Intervals are paired: all plans have the same examples in a resample.
    """
    others = [others] if isinstance(others, Measured) else others
    rng = np.random.default_rng(seed)
    count = len(plan.moved)
    # how often each example is drawn: (resamples, E)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
    for name, root, both in (
        ("error", math.sqrt, (plan.moved, [x.moved for x in others])),
        ("angle", float, (plan.turned, [x.turned for x in others])),
    ):
        ours, theirs = _sums(both[0], drawn), [_sums(x, drawn) for x in both[1]]
        pairs = zip(ours, _mean(theirs, squares=name == "error"), strict=True)
        changes = [root(1 + _change(x, y)) - 1 for x, y in pairs]
        yield _difference(name, changes)
    for metric in metrics:
        ours = plan.metrics[metric.name]
        theirs = [x.metrics[metric.name] for x in others]
        picks = rng.integers(0, len(ours), (RESAMPLES, len(ours)))
        changes = [
            _gap(metric, metric.value(ours[x]), _average([metric.value(y[x]) for y in theirs]))
            for x in (np.arange(len(ours)), *picks)
        ]
        yield _difference(metric.name, changes, metric=metric)


def _sums(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The sum over the examples, then over each resample, (1 + resamples,).

    What is not finite is endless in every resample, drawn or not.
    """
    known = np.where(np.isfinite(values), values, math.nan)
    return np.array([known.sum(), *(drawn @ known)])


def _mean(sums: Sequence[np.ndarray], *, squares: bool) -> np.ndarray:
    """The mean over plans, of roots where these are sums of squares, as a square again."""
    if len(sums) == 1:
        return sums[0]
    return np.sqrt(sums).mean(0) ** 2 if squares else np.mean(sums, 0)


def _average(values: Sequence[float]) -> float:
    return float(values[0]) if len(values) == 1 else float(np.mean(values))


def _gap(metric: Metric, one: float, two: float) -> float:
    """One - two; endlessly bad where only the first is no number, NaN where neither is."""
    if one == two or (math.isnan(one) and math.isnan(two)):
        return 0.0 if one == two else math.nan
    bad = -math.inf if metric.higher else math.inf
    return bad if math.isnan(one) else -bad if math.isnan(two) else one - two


def _change(ours: float, theirs: float) -> float:
    """Ours / theirs - 1; 0 where neither is finite or both are 0."""
    ours, theirs = (float(x) if math.isfinite(x) else math.inf for x in (ours, theirs))
    if ours == theirs:
        return 0.0
    if math.isinf(ours) or theirs <= 0:
        return math.inf
    return -1.0 if math.isinf(theirs) else ours / theirs - 1


def _difference(
    measure: str, changes: Sequence[float], *, metric: Metric | None = None
) -> Difference:
    """The first change, and an interval from the others."""
    known = np.asarray(changes[1:], dtype=np.float64)
    known = np.sort(known[~np.isnan(known)])  # a resample of equal labels has no correlation
    ends = (math.nan, math.nan)
    if 2 * len(known) >= len(changes):
        # by order, not between two: one of them may be infinite
        places = [round(q * (len(known) - 1)) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
        ends = (float(known[places[0]]), float(known[places[1]]))
    return Difference(
        measure=measure,
        change=float(changes[0]),
        low=ends[0],
        high=ends[1],
        higher=metric is not None and metric.higher,
        relative=metric is None,
    )
