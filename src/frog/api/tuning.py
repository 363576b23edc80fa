"""Tune: a recipe becomes a tuned model, trained by the Trainer of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

from frog.api.comparing import compare
from frog.api.fitting import (
    FILE,
    as_drawn,
    asks_for_fitted,
    at_the_end,
    autocast_of,
    finish,
    fit,
    head_fit,
    load_head,
    save_head,
)
from frog.api.recipes import (
    Setup,
    Watch,
    check_packages,
    choose,
    placed,
    prepare,
    rate_of,
    read_recipe,
    report_of,
    sampler_of,
    tuner_of,
    whole_names,
)
from frog.exports.card import card_section
from frog.serial.plain import null
from frog.serial.recipe import recipe_to_yaml
from frog.serial.tuned import metrics_to_json
from frog.types import Plan, Selection, Settings, SparseDelta
from frog.types.recipes import Recipe, TunePlan, TuneResult
from frog.version import __version__


def tune(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str],
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> TuneResult:
    """Fine-tune the model of a recipe and write the result to its output folder.

    ``recipe`` is a YAML file (docs/recipes.md), a mapping like one, or a
    :class:`~frog.types.recipes.Recipe`; ``overrides`` are words such as ``selection.budget=2%``.
    ``resume`` goes on from the latest checkpoint of the same recipe in the output folder,
    ``overwrite`` starts anew where a run is. The Trainer of transformers does the training. The
    output folder gets the model, as plain transformers loads it, and what was done to it; an
    earlier result stays until the new one is whole.

    Raises :class:`~frog.errors.UsageError` for what is wrong in the recipe, with its line, and for
    an output folder that is not free; :class:`~frog.errors.ModelError` for a model that cannot be
    read; :class:`~frog.errors.MissingPackage` without the extra ``tune``; KeyboardInterrupt when
    ``watch`` asked to stop, after a checkpoint.
    """
    made = read_recipe(recipe, overrides)
    watch = watch or Watch()
    check_packages()
    from frog.recipes.output import check_output
    from frog.recipes.training import calm

    run = check_output(made, resume=resume, overwrite=overwrite)
    with calm():
        setup = _set_up(made, watch, resumed=run is not None)
        return _train(setup, watch, run)


def preview(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str],
    *,
    overrides: Sequence[str] = (),
    watch: Watch | None = None,
) -> TunePlan:
    """What :func:`tune` would do: plan, trainable weights, rate, memory, steps; writes nothing.

    A new head is fitted in memory where the choice or the rate depends on it. Raises as
    :func:`tune`, but for the output folder.
    """
    made = read_recipe(recipe, overrides)
    check_packages()
    from frog.recipes.memory import estimate
    from frog.recipes.training import batch_of, calm, steps_of

    with calm():
        setup = _set_up(made, watch or Watch(), resumed=False, dry=True)
        trained = [x for x in setup.prepared.model.parameters() if x.requires_grad]
        if setup.arguments.gradient_checkpointing:
            setup.prepared.model.gradient_checkpointing_enable()
        compacts = setup.tuner.compacts if setup.tuner else ()
        matrices = setup.tuner.matrices if setup.tuner else ()
        elements = [x for x in matrices if x.granularity == "element"]
        memory = estimate(
            setup.prepared,
            trained,
            counted={
                "weights": setup.weights,
                "indices": sum(x.index.nbytes + x.base.nbytes for x in compacts),
                "transient": max((x.compact.weight.nbytes for x in elements), default=0),
            },
            optimizer=setup.make_optimizer,
            batch=setup.arguments.train_batch_size,
            autocast=autocast_of(setup.arguments),
        )
    rows = {split: len(x) for split, x in setup.prepared.splits.items()}
    steps, epochs = steps_of(setup.arguments, rows["train"])
    return TunePlan(
        recipe=made,
        plan=setup.plan,
        selection=setup.selection,
        trainable=setup.trainer.trainable,
        chosen=sum(len(x.change) for x in compacts),
        whole=setup.whole,
        params=setup.params,
        rate=setup.rate,
        memory=memory,
        rows=rows,
        epochs=epochs,
        steps=steps,
        batch=batch_of(setup.arguments),
        head=setup.head,
        keep_change=setup.keep_change,
        notes=(*setup.prepared.notes, *setup.notes),
    )


def checkpoint_step(recipe: Recipe) -> int | None:
    """The step of the checkpoint that a run would go on from: 0 without one, None without a run."""
    from frog.recipes.output import read_run
    from frog.recipes.training import last_checkpoint

    if read_run(Path(recipe.output)) is None:
        return None
    found = last_checkpoint(Path(recipe.output))
    return int(found.name.rpartition("-")[2]) if found else 0


# ------------------------------------------------------------------------- before training


def _set_up(recipe: Recipe, watch: Watch, *, resumed: bool, dry: bool = False) -> Setup:
    """Everything up to the first step."""
    from frog.recipes.training import CHECKPOINTS, arguments_of, optimizer_of

    watch.on_stage("reading data and model")
    prepared = prepare(recipe)
    arguments = arguments_of(recipe, prepared)
    prepared.model.to(arguments.device)
    weights = sum(x.nbytes for x in (*prepared.model.parameters(), *prepared.model.buffers()))
    sizes = {name: x.numel() for name, x in prepared.model.named_parameters()}
    kind, settings = optimizer_of(arguments, prepared.model, recipe)
    head = head_fit(recipe, prepared, kind)
    drawn: dict[str, Any] = {}

    def fit_the_head() -> None:
        if head is None or head.steps == 0:
            return
        if resumed:
            path = Path(recipe.output) / CHECKPOINTS / FILE
            drawn.update(load_head(head, recipe, prepared.model, path))
        elif not dry or asks_for_fitted(recipe):
            watch.on_stage("fitting the new head")
            with placed(recipe.where("head_first")):
                drawn.update(fit(head, recipe, prepared, arguments))

    plan, chosen = _chosen(recipe, prepared, watch, resumed, fit_the_head)
    with as_drawn(prepared.model, drawn):  # the delta starts from the base, not from a fitted head
        if recipe.mode == "layers":
            trainer = sampler_of(recipe, prepared, report_of(recipe, prepared, watch))
        else:
            assert chosen is not None
            with placed(recipe.where("selection")):
                trainer = tuner_of(recipe, prepared, chosen, plan)
    head, kept = at_the_end(head, recipe, prepared, trainer)
    watch.on_stage("finding the learning rate")
    rate, also = rate_of(recipe, prepared, trainer, kind, kept=kept or 1.0)
    more = {} if also is None else {"also_lr": also}
    optimizer = trainer.optimizer(kind, lr=rate.value, **more, **settings)
    return Setup(
        recipe=recipe,
        prepared=prepared,
        arguments=arguments,
        plan=plan,
        selection=chosen,
        trainer=trainer,
        optimizer=optimizer,
        make_optimizer=lambda x: kind(x, lr=rate.value, **settings),
        rate=rate,
        weights=weights,
        params=sum(sizes.values()),
        whole={name: sizes[name] for name in whole_names(recipe, prepared)},
        head=head,
        drawn=drawn,
        keep_change=kept,
        notes=() if chosen is None else chosen.notes,
    )


def _chosen(
    recipe: Recipe, prepared: Any, watch: Watch, resumed: bool, planned: Callable[[], None]
) -> tuple[Plan, Selection | None]:
    """Plan and selection: those of the run that goes on, else made now; ``planned`` is called
    in between."""
    from frog.recipes.training import CHECKPOINTS

    if recipe.mode == "layers":
        planned()
        return _no_plan(recipe), None
    if resumed:
        planned()
        chosen = Selection.load(Path(recipe.output) / CHECKPOINTS / "selection.safetensors")
        return chosen.plan, chosen
    return choose(recipe, prepared, watch, planned)


def _no_plan(recipe: Recipe) -> Plan:
    from frog.types import Budget

    return Plan(path=recipe.model, digest="", rule="layers", budget=Budget(share=1.0), layers=())


# --------------------------------------------------------------------------------- training


def _train(setup: Setup, watch: Watch, run: Any) -> TuneResult:
    from frog.recipes import output as folder
    from frog.recipes import training
    from frog.recipes.rows import digest_of
    from frog.recipes.spent import Meter, Spent, name_of

    recipe, prepared, tuner = setup.recipe, setup.prepared, setup.trainer
    trainer = training.trainer_of(prepared, setup.arguments, setup.optimizer)
    there = folder.read_run(Path(recipe.output))
    if run is None:
        watch.on_stage("measuring the task before")
        with as_drawn(prepared.model, setup.drawn):
            before = training.measure(trainer, prepared)
        output = folder.begin(recipe)
        digest = "" if setup.selection is None else setup.selection.digest
        run = folder.RunState(
            status="running", recipe=folder.state_of(recipe), selection=digest,
            before=null(before), files=there.files if there is not None else (),
        )  # fmt: skip
        if setup.selection is not None:
            setup.selection.save(output / training.CHECKPOINTS / "selection.safetensors")
        if setup.head is not None and setup.head.steps:
            save_head(setup.head, prepared.model, output / training.CHECKPOINTS / FILE)
    else:
        output, before = Path(recipe.output), _numbers(run.before or {})
    run = run.with_status("running", output)
    for callback in _callbacks(setup, watch):
        trainer.add_callback(callback)
    checkpoint = training.last_checkpoint(output)
    watch.on_plan(setup)
    watch.on_stage("training")
    earlier = Spent(seconds=run.seconds, cpu_seconds=run.cpu_seconds, memory=run.memory)
    meter = Meter(setup.arguments.device, earlier)
    training.reseed(setup.arguments)
    try:
        training.train(trainer, checkpoint)
    except BaseException:
        run.with_status("interrupted", output, **asdict(meter.read()))
        raise
    spent = meter.read()
    head, kept, noted = finish(setup, watch)
    watch.on_stage("measuring the task after")
    after = training.measure(trainer, prepared)
    result = TuneResult(
        output=str(output),
        model=recipe.model,
        task=recipe.task,
        metric=prepared.metric,
        before=before,
        after=after,
        trainable=tuner.trainable,
        changed=0,
        params=setup.params,
        steps=trainer.state.global_step,
        **asdict(spent),
        rate=setup.rate,
        head=head,
        keep_change=kept,
        resumed_at=int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0,
        stopped=_stopped(setup.tuner),
        alarms=len(setup.tuner.alarms) if setup.tuner else 0,
        mode=recipe.mode,
        higher=prepared.higher,
        rows={split: len(prepared.splits[split]) for split in after},
        digests={split: digest_of(prepared.splits[split]) for split in after},
        device=name_of(setup.arguments.device),
        notes=(*prepared.notes, *setup.notes, *noted),
    )
    watch.on_stage("writing the result")
    result = _write(setup, result, trainer, run)
    return _compared(setup, result, run, watch)


def _callbacks(setup: Setup, watch: Watch) -> list[Any]:
    from frog.recipes.training import watching

    def stopped() -> bool:
        return setup.tuner is not None and setup.tuner.stopped

    first = watching(watch.on_step, watch.on_log, watch.asked_to_stop, stopped)
    return [first, setup.trainer.callback()]


def _stopped(tuner: Any) -> str:
    """Why a guard ended the run; "" where none did, or none watched."""
    if tuner is None or not tuner.stopped:
        return ""
    return str(tuner.alarms[-1]) if tuner.alarms else "a guard asked for it"


# ---------------------------------------------------------------------------- the result


def _write(setup: Setup, result: TuneResult, trainer: Any, run: Any) -> TuneResult:
    """Write every file of the result beside the output, and move them there when all are whole."""
    from frog.recipes.output import staged
    from frog.recipes.training import versions

    recipe, prepared, tuner = setup.recipe, setup.prepared, setup.trainer
    delta = tuner.delta()
    delta = replace(delta, path=recipe.model)
    certificate = setup.tuner.certificate() if setup.tuner and recipe.guards else None
    tuner.keep()
    result = replace(result, changed=delta.count)
    with staged(Path(result.output), run.files) as folder:
        prepared.model.save_pretrained(folder)
        prepared.processor.save_pretrained(folder)
        for name, data in prepared.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        delta.save(folder / "delta.safetensors")
        size = (folder / "delta.safetensors").stat().st_size
        result = replace(result, delta_bytes=size)
        if setup.selection is not None:
            setup.selection.save(folder / "selection.safetensors")
            setup.selection.plan.to_json(folder / "plan.json")
        if certificate is not None:
            certificate.to_json(folder / "certificate.json")
        made_with = {"frog": __version__, **versions()}
        (folder / "recipe.yaml").write_text(recipe_to_yaml(recipe, made_with))
        told = metrics_to_json(result, trainer.state.log_history)
        (folder / "metrics.json").write_text(told)
        (folder / "README.md").write_text(_card(result, delta))
        files = tuple(sorted(x.name for x in folder.iterdir()))
    return replace(result, files=files)


def _compared(setup: Setup, result: TuneResult, run: Any, watch: Watch) -> TuneResult:
    """Measure the result beside the model before, and close the run."""
    output, status = Path(result.output), "stopped" if result.stopped else "finished"
    if setup.recipe.compare:
        watch.on_stage("comparing before and after")
        found = compare(
            setup.recipe.model, result.output, settings=Settings(bootstrap=0), run=watch.run
        )
        found.to_json(output / "compare.json")
        found.to_html(output / "compare.html")
        result = replace(
            result,
            verdict=found.verdict,
            files=(*result.files, "compare.html", "compare.json"),
        )
    spent = {name: getattr(result, name) for name in ("seconds", "cpu_seconds", "memory")}
    run.with_status(status, output, files=result.files, **spent)
    return result


def _card(result: TuneResult, delta: SparseDelta) -> str:
    """The model card: what was tuned, and the metrics before and after."""
    lines = [f"# {Path(result.output).name}", "", card_section(delta).rstrip(), ""]
    rows = []
    for split, metrics in result.after.items():
        for name, value in metrics.items():
            before = result.before.get(split, {}).get(name, math.nan)
            rows.append(f"| {split} | {name} | {before:.4g} | {value:.4g} |")
    if rows:
        head = ["## Metrics", "", "| rows | metric | before | after |", "|---|---|--:|--:|"]
        lines += [*head, *rows, ""]
    lines += [f"Task: {result.task}. Steps: {result.steps}. The run: `recipe.yaml`.", ""]
    return "\n".join(lines)


def _numbers(given: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Metrics as they were saved: null is NaN again."""
    return {
        split: {k: math.nan if v is None else float(v) for k, v in metrics.items()}
        for split, metrics in given.items()
    }
