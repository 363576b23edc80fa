"""From a recipe to what the Trainer needs: task, plan, selection, tuner, learning rate."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from frog.allocation.rules import RULES
from frog.api.allocating import allocate
from frog.api.measuring import Run, analyze
from frog.api.selecting import Choice, select
from frog.errors import UnknownName, UsageError
from frog.selection.expression import parse
from frog.serial.recipe import Known, recipe_from_yaml, yaml_of
from frog.types import Budget, ModelReport, Plan, Selection, Settings
from frog.types.recipes import GuardSpec, HeadFit, LearningRate, Recipe
from frog.weights.catalogue import catalogue
from frog.weights.source import list_tensors

RATE_BATCHES = 4
"""Batches on which the gradient share of the mask is measured, others than those that chose it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Whom a run tells of itself, and who may end it.

    ``on_stage`` gets a few words when a stage begins, ``on_plan`` the :class:`Setup` before the
    first step; ``on_step`` (done, total, epoch) comes after every optimizer step, ``on_log`` with
    what the Trainer logs; ``run`` is how layers are measured (:class:`~frog.Run`). Once
    ``asked_to_stop()`` is true the step is finished, a checkpoint saved, and KeyboardInterrupt
    raised.
    """

    on_stage: Callable[[str], None] = lambda text: None
    on_step: Callable[[int, int, float], None] = lambda done, total, epoch: None
    on_log: Callable[[dict[str, Any]], None] = lambda values: None
    on_plan: Callable[[Any], None] = lambda setup: None
    asked_to_stop: Callable[[], bool] = lambda: False
    run: Run = field(default_factory=Run)


@dataclass(kw_only=True, eq=False)
class Setup:
    """A recipe made ready: what is trained, by what, at which rate.

    ``drawn`` are the values that a head which was fitted now had before, ``keep_change`` the share
    of the change that will be kept, None where the loss will say it.
    """

    recipe: Recipe
    prepared: Any
    arguments: Any
    plan: Plan
    selection: Selection | None
    trainer: Any
    optimizer: Any
    make_optimizer: Callable[[Any], Any]
    rate: LearningRate
    weights: int
    params: int
    whole: Mapping[str, int] = field(default_factory=dict)
    head: HeadFit | None = None
    drawn: Mapping[str, Any] = field(default_factory=dict)
    keep_change: float | None = 1.0
    notes: tuple[str, ...] = ()

    @property
    def tuner(self) -> Any:
        """The tuner of chosen weights; None where whole layers take turns."""
        return self.trainer if self.recipe.mode == "select" else None


def read_recipe(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str], overrides: Sequence[str] = ()
) -> Recipe:
    """Read and validate a recipe: a YAML file, a mapping like one, or a recipe as it is.

    Paths in a file are relative to it, those of a mapping to the working directory. ``overrides``
    are words such as ``selection.budget=2%``. Raises :class:`~frog.errors.UsageError` with the
    line of what is wrong.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise UsageError("overrides are for a file or a mapping: use dataclasses.replace")
        return recipe
    if isinstance(recipe, Mapping):
        text = yaml_of(recipe)
        origin, folder = "the recipe", Path.cwd()
    else:
        path = Path(recipe).expanduser()
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise UsageError(f"{path}: no such file") from None
        except OSError as error:
            raise UsageError(f"{path}: must be a readable file, {error.strerror}") from None
        origin, folder = str(recipe), path.resolve().parent
    return recipe_from_yaml(
        text,
        origin,
        folder=folder,
        known=_known(),
        overrides=overrides,
        numbered=not isinstance(recipe, Mapping),
    )


def check_packages() -> None:
    """:class:`~frog.errors.MissingPackage` where something of the extra ``tune`` is missing."""
    from frog.recipes.rows import need

    for package in ("transformers", "accelerate", "datasets"):
        need(package)


def prepare(recipe: Recipe) -> Any:
    """Read the data and load the model, in float parameters that are finite."""
    from frog.recipes import TASKS

    return TASKS[recipe.task](recipe)


def choose(
    recipe: Recipe, prepared: Any, watch: Watch, planned: Callable[[], None] = lambda: None
) -> tuple[Plan, Selection]:
    """The plan and the selection that a recipe asks for, on the model that is loaded.

    ``planned`` is called when the plan is made, before weights are chosen.
    """
    spec = recipe.selection
    with placed(recipe.where("selection")):
        if spec.selection:
            chosen = Selection.load(spec.selection)
            planned()
            return chosen.plan, chosen
        plan = plan_of(recipe, prepared, watch)
        planned()
        watch.on_stage("selecting weights")
        expression = parse(spec.score)
        gradients = None
        if expression.needs_gradient:
            gradients = gradients_of(recipe, prepared, [x.name for x in plan.layers if x.count])
        chosen = select(
            _home(recipe, prepared, plan),
            plan,
            score=spec.score,
            granularity=spec.granularity,
            seed=seed_of(recipe),
            choice=Choice(
                rank=spec.rank,
                block_size=spec.block_size,
                protect=spec.protect,
                protect_strength=spec.protect_strength,
                keep=None if spec.keep == "all" else spec.keep,
                bits=spec.bits,
                group=None if spec.group == "row" else int(spec.group),
                gradients=gradients,
                report=report_of(recipe, prepared, watch) if expression.quality else None,
            ),
        )
        named = replace(chosen, path=recipe.model, plan=replace(chosen.plan, path=recipe.model))
        return named.plan, named


def plan_of(recipe: Recipe, prepared: Any, watch: Watch) -> Plan:
    """The plan of a file, or a budget split over the matrices that do not train whole."""
    spec = recipe.selection
    if spec.plan:
        return Plan.from_json(spec.plan)
    report = report_of(recipe, prepared, watch)
    names = [layer.name for layer in report.layers]
    for word, pattern in (("exclude", spec.exclude), ("include", spec.include)):
        if pattern is not None and not any(re.search(pattern, name) for name in names):
            raise UsageError(
                f"{word} '{pattern}' must match the name of a matrix, matches none. Names here "
                f"are such as {', '.join(names[:4])}"
            )
    whole = [rf"^{re.escape(name)}$" for name in whole_names(recipe, prepared)]
    out = [*whole, *([prepared.unused] if prepared.unused else [])]
    out = [x for x in out if any(re.search(x, name) for name in names)]
    patterns = [x for x in (spec.exclude, *out) if x]
    plan = allocate(
        report,
        Budget.trainable(spec.budget, floor=spec.floor, cap=spec.cap),
        rule=spec.rule,
        include=spec.include,
        exclude="|".join(f"(?:{x})" for x in patterns) or None,
        roles=spec.roles,
        knobs=spec.knobs,
    )
    return with_layer_rates(plan, report, spec.layer_rates)


def report_of(recipe: Recipe, prepared: Any, watch: Watch) -> ModelReport:
    """The report of the recipe's file, or one measured now on the loaded model."""
    if recipe.selection.report:
        return ModelReport.from_json(recipe.selection.report)
    watch.on_stage("measuring the model")
    report = analyze(prepared.model, Settings(bootstrap=0), run=watch.run)
    return replace(report, path=recipe.model)


def whole_names(recipe: Recipe, prepared: Any) -> list[str]:
    """The parameters that train whole: those that ``train_also`` finds, else what is new."""
    if recipe.train_also is None:
        return list(prepared.new) if not prepared.loss else []
    found: list[str] = []
    names = [name for name, _ in prepared.model.named_parameters()]
    for pattern in recipe.train_also:
        hits = [name for name in names if re.search(pattern, name)]
        if not hits:
            raise UsageError(
                f"{recipe.where('train_also')}: '{pattern}' must match the name of a parameter, "
                f"matches none. Names here are such as {', '.join(names[:3])}"
            )
        found += hits
    return list(dict.fromkeys(found))


def seed_of(recipe: Recipe) -> int:
    """The seed of random choices: the selection's own, else that of training."""
    seed = recipe.selection.seed
    return int(recipe.training.get("seed", 0)) if seed is None else seed


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Errors of use in here begin with the place in the recipe."""
    try:
        yield
    except UsageError as error:
        text = str(error)
        if text.startswith((place.partition(":")[0], "override ")):
            raise
        raise UsageError(f"{place}: {text}") from None


# ------------------------------------------- the places where other parts of tuning are built


def gradients_of(recipe: Recipe, prepared: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """Gradients of the named matrices over a few batches, for the scores that need them."""
    from frog.tuning import collect_gradients

    size = int(recipe.training.get("per_device_train_batch_size", 16))
    batches = prepared.batches("train", size, recipe.selection.gradient_batches, seed_of(recipe))
    return collect_gradients(prepared.model, batches, names=names, loss=prepared.loss)


def gradients_from(
    model: str, plan: Plan, data: Path, *, task: str | None, batches: int, seed: int
) -> Mapping[str, Any]:
    """Gradients of a plan's matrices, from a file of rows and a task, or from a recipe's data.

    ``data`` may be a recipe (``.yaml``), whose task and columns are taken for ``model``.
    """
    if data.suffix in (".yaml", ".yml"):
        if task is not None:
            raise UsageError("--task is for a file of rows: a recipe names its own")
        recipe = replace(read_recipe(data), model=model)
    elif task is None:
        from frog.recipes import TASKS

        raise UsageError(
            f"--data {data} needs --task: one of {', '.join(TASKS)}; or give a recipe (.yaml)"
        )
    else:
        recipe = read_recipe({"version": 1, "model": model, "task": task,
                              "data": {"train": str(data)}, "output": "unused"})  # fmt: skip
    check_packages()
    from frog.recipes.training import calm

    spec = replace(recipe.selection, gradient_batches=batches, seed=seed)
    recipe = replace(recipe, selection=spec)
    with calm():
        prepared = prepare(recipe)
        return gradients_of(recipe, prepared, [x.name for x in plan.layers if x.count])


def with_layer_rates(plan: Plan, report: ModelReport, asked: Mapping[str, Any]) -> Plan:
    """The plan with a learning-rate ratio for each layer, where the recipe asks for some."""
    if not asked:
        return plan
    from frog.api import layer_rates

    return layer_rates(plan, report, **asked)


def tuner_of(recipe: Recipe, prepared: Any, chosen: Selection, plan: Plan) -> Any:
    """The tuner of a recipe's selection, with the noise and the guards that it asks for."""
    from frog.tuning import Tuner

    more: dict[str, Any] = {}
    if recipe.noise is not None:
        settings = dict(recipe.noise)
        with placed(recipe.where("noise")):
            from frog.types import Noise

            if "bits" not in settings:
                more["noise"] = Noise.guided(settings.pop("nu"), **settings)
            else:
                plain = {"nu": 1.0, "schedule": "constant", "guide": "rounding", **settings}
                plain["group"] = None if plain.get("group") == "row" else plain.get("group", 64)
                more["noise"] = Noise(**plain)
    if recipe.guards:
        with placed(recipe.where("guards")):
            more["guards"] = guards_of(recipe.guards)
    also = [rf"^{re.escape(name)}$" for name in whole_names(recipe, prepared)]
    return Tuner(prepared.model, chosen, plan=plan, also=also, **more)


def guards_of(given: Sequence[GuardSpec] | str) -> Any:
    """Guards as the tuner takes them: ``auto``, names, and guards with settings of their own."""
    if isinstance(given, str):
        return given
    made: list[Any] = []
    for spec in given:
        if not spec.settings:
            made.append(spec.name)
            continue
        from frog.tuning.guards.guard import kind_of

        kind = kind_of(spec.name)
        known = settings_of(kind)
        for name in spec.settings:
            if name not in known:
                told = UnknownName(f"setting of the guard {spec.name}", name, known)
                raise UsageError(str(told))
        try:
            made.append(kind(**spec.settings))
        except TypeError as error:
            raise UsageError(f"guard {spec.name}: {error}") from None
    return made


def settings_of(kind: Callable[..., Any]) -> list[str]:
    """What a guard can be given: the named arguments of its class and of what it is made of."""
    found: dict[str, None] = {}
    made: list[Any] = [kind]
    if isinstance(kind, type):
        made = [vars(x)["__init__"] for x in kind.__mro__[:-1] if "__init__" in vars(x)]
    for function in made:
        for name, value in inspect.signature(function).parameters.items():
            if value.kind is value.KEYWORD_ONLY:
                found[name] = None
    return list(found)


def sampler_of(recipe: Recipe, prepared: Any, report: ModelReport) -> Any:
    """The sampler of whole layers, for ``mode: layers``."""
    from frog.api.sampling import LayerSampler

    with placed(recipe.where("layers")):
        return LayerSampler(prepared.model, report, seed=seed_of(recipe), **dict(recipe.layers))


def rate_of(
    recipe: Recipe, prepared: Any, tuner: Any, kind: Any, *, kept: float
) -> tuple[LearningRate, Any]:
    """The learning rate of the chosen weights with its reason, and that of whole parameters.

    A number of the recipe is taken as it is; ``auto`` asks the tuner, with batches that were not
    used to choose, and is divided by the share of the change that is ``kept``.
    """
    if recipe.learning_rate is not None:
        return LearningRate(value=recipe.learning_rate, reason="as the recipe says"), None
    if recipe.mode == "layers":
        found = tuner.rate(full=recipe.full_learning_rate, cls=kind, kept=kept)
        return LearningRate(value=found.lr, reason=found.reason), found.also
    size = int(recipe.training.get("per_device_train_batch_size", 16))
    skipped = recipe.selection.gradient_batches
    batches = prepared.batches("train", size, skipped + RATE_BATCHES, seed_of(recipe))
    batches = batches[skipped:] or batches
    full = recipe.full_learning_rate
    found = tuner.rate(batches, loss=prepared.loss, full=full, cls=kind, kept=kept)
    return LearningRate(value=found.lr, reason=found.reason), found.also or None


# ------------------------------------------------------------------------------- private


def _known() -> Known:
    from frog.recipes import TASKS
    from frog.recipes.training import training_fields

    return Known(
        tasks={name: task.keys for name, task in TASKS.items()},
        rules=list(RULES),
        guards=_guard_names(),
        score=parse,
        training=training_fields,
    )


def _guard_names() -> list[str]:
    from frog.tuning.guards.guard import GUARDS, SHORT

    return [*GUARDS, *SHORT]


def _home(recipe: Recipe, prepared: Any, plan: Plan) -> Any:
    """What a plan is carried out on: the loaded model, or the files where their names are meant."""
    live = {x.name for x in catalogue(list_tensors(prepared.model)).matrices}
    return prepared.model if {x.name for x in plan.layers} <= live else recipe.model
