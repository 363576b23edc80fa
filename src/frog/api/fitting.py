"""What is fitted around a run: a new head, first and last, and how much of the change is kept."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from frog.api.recipes import Setup, Watch, seed_of, whole_names
from frog.errors import UsageError
from frog.selection.expression import parse
from frog.serial.whole_file import write_whole
from frog.types.recipes import KEEP_CHANGE, HeadFit, Recipe

FILE = "head.pt"
"""The fitted head beside the checkpoints: a run that goes on starts from the same bits."""

FIRST, LAST, KEPT = 1, 2, 3
"""Added to the seed of the run: rows in other orders than training has."""

SEARCHED = 8
"""Batches over which the loss says how much of the change is kept."""


def head_fit(recipe: Recipe, prepared: Any, kind: Any) -> HeadFit | None:
    """How the head of a recipe is fitted; None where nothing is: no new head, or none asked for.

    What ``head_last: auto`` comes to, :func:`at_the_end` says. ``kind`` is the class of the run's
    optimizer. Raises :class:`~frog.errors.UsageError` where steps are asked for and no parameter is
    new.
    """
    from frog.tuning.head import HEAD_STEPS

    names = tuple(x for x in whole_names(recipe, prepared) if x in prepared.new)
    if not names:
        for key, asked in (("head_first", recipe.head_first), ("head_last", recipe.head_last)):
            if asked:
                raise UsageError(
                    f"{recipe.where(key)}: must be 0 or auto where no new parameters train whole "
                    f"(the model brings its head), got {asked}: leave it out"
                )
        return None
    steps = HEAD_STEPS if recipe.head_first is None else recipe.head_first
    last = recipe.head_last or 0
    if steps == last == 0:
        return None
    return HeadFit(names=names, steps=steps, rate=_rate(recipe, prepared, kind), last=last)


def at_the_end(
    head: HeadFit | None, recipe: Recipe, prepared: Any, trainer: Any
) -> tuple[HeadFit | None, float | None]:
    """The head with its steps at the end, and the share of the change that is kept.

    By ``auto`` the share is None where weights are chosen and nothing new trains beside them: the
    loss will say it. By ``auto`` steps and share are 0 and 1 where the head does not train all the
    time (``layers.always`` that leave it out): what is frozen stays. Raises
    :class:`~frog.errors.UsageError` where steps are asked for there.
    """
    trains = {id(x) for x in trainer.whole.values()}
    whole = head is not None and all(
        id(x) in trains for x in _parameters(trainer.model, head).values()
    )
    kept = recipe.keep_change
    is_new = any(name in prepared.new for name in whole_names(recipe, prepared))
    if kept is None and (is_new or recipe.mode != "select"):
        kept = KEEP_CHANGE if head is not None and head.steps and whole else 1.0
    if head is None:
        return None, kept
    if recipe.head_last is None:
        moved = kept is not None and kept < 1
        return replace(head, last=head.steps if whole and moved else 0), kept
    if recipe.head_last and not whole:
        raise UsageError(
            f"{recipe.where('head_last')}: must be 0 or auto where the head does not train all the "
            f"time, got {recipe.head_last}: name it under layers.always, or leave this out"
        )
    return head, kept


def asks_for_fitted(recipe: Recipe) -> bool:
    """Whether the choice of weights or the learning rate depends on what the head has learnt."""
    spec = recipe.selection
    chosen_by_gradients = not spec.selection and parse(spec.score).needs_gradient
    return recipe.mode == "select" and (recipe.learning_rate is None or chosen_by_gradients)


def fit(fitted: HeadFit, recipe: Recipe, prepared: Any, arguments: Any) -> dict[str, Any]:
    """Fit the head on training rows, in an order that the run does not have; gives it as it was
    drawn."""
    parameters = _parameters(prepared.model, fitted)
    drawn = {name: x.detach().clone() for name, x in parameters.items()}
    _fit(fitted, fitted.steps, seed_of(recipe) + FIRST, prepared, arguments)
    return drawn


def finish(setup: Setup, watch: Watch) -> tuple[HeadFit | None, float, tuple[str, ...]]:
    """Keep the share of the change and fit the head once more, when training is over.

    Gives how the head was fitted, the share, and notes: where the loss is not finite (a run that
    went astray) all stays as it was trained, so that the run is written and can be looked at.
    """
    kept, noted = _keep(setup, watch)
    head = setup.head
    if head is None or head.last == 0:
        return head, kept, noted
    watch.on_stage("fitting the head once more")
    try:
        _fit(head, head.last, seed_of(setup.recipe) + LAST, setup.prepared, setup.arguments)
    except UsageError as error:
        note = f"the head was not fitted once more at the end: {error}"
        return (replace(head, last=0) if head.steps else None), kept, (*noted, note)
    return head, kept, noted


def _keep(setup: Setup, watch: Watch) -> tuple[float, tuple[str, ...]]:
    """Keep the share that was settled, else what the loss on rows of the training data asks for."""
    if setup.keep_change is not None:
        if setup.keep_change < 1:
            setup.trainer.scale_change(setup.keep_change)
        return setup.keep_change, ()
    watch.on_stage("finding how much of the change to keep")
    prepared, arguments = setup.prepared, setup.arguments
    rows = prepared.shuffled("train", arguments.train_batch_size, seed_of(setup.recipe) + KEPT)
    try:
        with _autocast(prepared.model, arguments):
            return setup.trainer.fit_change(islice(rows, SEARCHED), loss=prepared.loss), ()
    except UsageError as error:
        return 1.0, (f"all of the change was kept: {error}",)


@contextmanager
def as_drawn(model: Any, drawn: Mapping[str, Any]) -> Iterator[None]:
    """The head as it was before it was fitted, for a while."""
    named = dict(model.named_parameters())
    now = {name: named[name].data for name in drawn}
    try:
        for name, value in drawn.items():
            named[name].data = value
        yield
    finally:
        for name, value in now.items():
            named[name].data = value


def save_head(fitted: HeadFit, model: Any, path: Path) -> None:
    """Write the head for a run that may go on, whole or not at all."""
    import torch

    data = io.BytesIO()
    torch.save({k: x.detach().cpu() for k, x in _parameters(model, fitted).items()}, data)
    write_whole(data.getvalue(), path)


def load_head(fitted: HeadFit, recipe: Recipe, model: Any, path: Path) -> dict[str, Any]:
    """Put the head of the run that goes on into the model; gives it as it was drawn."""
    import torch

    parameters = _parameters(model, fitted)
    drawn = {name: x.detach().clone() for name, x in parameters.items()}
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(held[name])
    except Exception as error:
        raise UsageError(
            f"{recipe.where('output')}: {path} must hold the head that the run was begun with, "
            f"cannot be read ({type(error).__name__}): start anew with --overwrite"
        ) from None
    return drawn


def autocast_of(arguments: Any) -> Any:
    """The dtype of forward passes, None where it is that of the model."""
    import torch

    if arguments.bf16:
        return torch.bfloat16
    return torch.float16 if arguments.fp16 else None


def _fit(fitted: HeadFit, steps: int, seed: int, prepared: Any, arguments: Any) -> None:
    """So many steps on the head alone, in forward passes as those of training."""
    from frog.tuning import fit_head

    with _autocast(prepared.model, arguments):
        fit_head(
            prepared.model,
            prepared.shuffled("train", arguments.train_batch_size, seed),
            head=[rf"^{re.escape(name)}$" for name in fitted.names],
            steps=steps,
            lr=fitted.rate,
            loss=prepared.loss,
        )


def _autocast(model: Any, arguments: Any) -> Any:
    """Forward passes in the dtype of those of training."""
    import torch

    dtype = autocast_of(arguments)
    device = next(model.parameters()).device.type
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)


def _parameters(model: Any, fitted: HeadFit) -> dict[str, Any]:
    return {name: model.get_parameter(name) for name in fitted.names}


def _rate(recipe: Recipe, prepared: Any, kind: Any) -> float:
    """AdamW's rate for the head: that of the run, in AdamW's units."""
    from frog.tuning.rates.defaults import ALSO, FAMILIES, family_of, full_rate

    try:
        family, _ = family_of(kind, told=True)
    except UsageError:  # an optimizer that finds its own rate tells nothing of AdamW's
        return ALSO * full_rate(prepared.model, "adam")[0]
    if recipe.learning_rate is not None:
        return recipe.learning_rate / FAMILIES[family]
    if recipe.full_learning_rate is not None:
        return ALSO * recipe.full_learning_rate / FAMILIES[family]
    return ALSO * full_rate(prepared.model, "adam")[0]
