"""The Trainer of a run: arguments from a recipe, optimizer class, callbacks, checkpoints."""

from __future__ import annotations

import json
import logging
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from frog.errors import UsageError
from frog.recipes.rows import need
from frog.recipes.task import TASKS, Prepared
from frog.types.recipes import Recipe

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints within the output."""

COMPLETE = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
"""Files of a checkpoint that a run can go on from; the first is the last to be written."""


def training_fields() -> dict[str, Any]:
    """The fields of TrainingArguments that can be given, with their types."""
    kind = need("transformers").TrainingArguments
    need("accelerate")
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind) if f.init}


def arguments_of(recipe: Recipe, prepared: Prepared) -> Any:
    """TrainingArguments of a recipe: what it gives over the task's defaults over frog's."""
    transformers = need("transformers")
    known = training_fields()
    watched = "validation" in prepared.splits
    given: dict[str, Any] = {
        "seed": 0,
        "report_to": "none",
        "eval_strategy": "epoch" if watched else "no",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "logging_steps": 0.02,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **({"warmup_ratio": 0.1} if "warmup_ratio" in known else {"warmup_steps": 0.1}),
        **TASKS[recipe.task].defaults,
        **recipe.training,
        "output_dir": str(Path(recipe.output) / CHECKPOINTS),
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "label_names": ["score" if prepared.predict else "labels"],
    }
    if given["eval_strategy"] != "no" and not watched:
        raise UsageError(
            f"{recipe.where('training', 'eval_strategy')}: needs validation rows: set "
            "data.validation or data.validation_share"
        )
    try:
        made = transformers.TrainingArguments(**given)
        alone = made.world_size == 1
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        words = " ".join(str(error).split())
        raise UsageError(f"{recipe.where('training')}: {words}") from None
    check_reporters(recipe, made)
    if not alone:
        raise UsageError(
            f"frog tune must run in one process, got {made.world_size}: for several, use the tuner "
            "in your own Trainer (docs/tuning.md)"
        )
    made._n_gpu = min(made._n_gpu, 1)  # copies of the model for several GPUs would not be tuned
    return made


def steps_of(arguments: Any, rows: int) -> tuple[int, float]:
    """Optimizer steps and epochs of a run over so many rows, as the Trainer counts them."""
    size = arguments.train_batch_size * max(1, arguments.world_size)
    batches = rows // size if arguments.dataloader_drop_last else math.ceil(rows / size)
    accumulated = arguments.gradient_accumulation_steps
    each = max(math.ceil(batches / accumulated), 1)
    if arguments.max_steps > 0:
        return arguments.max_steps, arguments.max_steps / each
    return math.ceil(arguments.num_train_epochs * each), float(arguments.num_train_epochs)


def batch_of(arguments: Any) -> int:
    """Rows of one optimizer step."""
    size = arguments.train_batch_size * max(1, arguments.world_size)
    return size * arguments.gradient_accumulation_steps


def optimizer_of(arguments: Any, model: Any, recipe: Recipe) -> tuple[Any, dict[str, Any]]:
    """Class and settings of the optimizer that ``training.optim`` names, without its rate."""
    transformers = need("transformers")
    try:
        kind, settings = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{recipe.where('training', 'optim')}: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise UsageError(f"{recipe.where('training', 'optim')}: is no optimizer of torch's kind")
    settings = {k: v for k, v in settings.items() if k not in ("lr", "params", "optimizer_dict")}
    return kind, {**settings, "weight_decay": arguments.weight_decay}


def check_reporters(recipe: Recipe, arguments: Any) -> None:
    """UsageError where a package that ``training.report_to`` names is missing, before any work."""
    integrations = need("transformers").integrations.integration_utils
    installed = integrations.get_available_reporting_integrations()
    for name in arguments.report_to:
        if name not in installed:
            known = name in integrations.INTEGRATION_TO_CALLBACK
            told = f"needs the package of {name}: install it" if known else f"knows no '{name}'"
            raise UsageError(
                f"{recipe.where('training', 'report_to')}: {told}, or set report_to: none"
            )


def trainer_of(prepared: Prepared, arguments: Any, optimizer: Any) -> Any:
    """A Trainer over the prepared model; its callbacks that print are left out."""
    transformers = need("transformers")
    kind = _with_own_loss(transformers.Trainer) if prepared.loss else transformers.Trainer
    trainer = kind(
        model=prepared.model,
        args=arguments,
        data_collator=prepared.collate,
        train_dataset=prepared.splits["train"],
        eval_dataset=prepared.splits.get("validation"),
        processing_class=_saved_with(prepared.processor),
        compute_metrics=prepared.metrics,
        preprocess_logits_for_metrics=prepared.reduce,
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if prepared.loss:
        trainer.frog_prepared = prepared
    return trainer


def measure(trainer: Any, prepared: Prepared) -> dict[str, dict[str, float]]:
    """Metrics of every split but the training rows."""
    found = {}
    for split, rows in prepared.splits.items():
        if split == "train":
            continue
        told = trainer.evaluate(rows, metric_key_prefix=split)
        kept = {k.removeprefix(f"{split}_"): float(v) for k, v in told.items() if k != "epoch"}
        speed = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time",
                 "jit_compilation_time")  # fmt: skip
        found[split] = {k: v for k, v in kept.items() if k not in speed}
    return found


def reseed(arguments: Any) -> None:
    """Start the random numbers of training anew: what was evaluated before changes nothing."""
    need("transformers").set_seed(arguments.seed)


class Trained(Exception):
    """The checkpoint that was loaded is that of the end."""


def train(trainer: Any, checkpoint: Path | None) -> None:
    """Train, from a checkpoint on if there is one.

    One of the last step is only loaded: the Trainer of transformers would train one step more
    where that step is in the middle of an epoch, or where a guard ended the run.
    """
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Trained:
        if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
            trainer._load_best_model()


def watching(
    on_step: Callable[[int, int, float], None],
    on_log: Callable[[dict[str, Any]], None],
    asked_to_stop: Callable[[], bool],
    stopped: Callable[[], bool],
) -> Any:
    """A callback that tells of steps (done, total, epoch) and logs, and that ends a run in order.

    It raises :class:`Trained` before a run that is at its end, or that was ``stopped()``. Once
    ``asked_to_stop()`` is true the step is finished, a checkpoint saved, and KeyboardInterrupt
    raised.
    """
    transformers = need("transformers")

    class Watch(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step and (state.global_step >= state.max_steps or stopped()):
                raise Trained

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_step(state.global_step, state.max_steps, float(state.epoch or 0.0))
            if asked_to_stop():
                control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if asked_to_stop():
                raise KeyboardInterrupt

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            on_log(dict(logs or {}))

    return Watch()


def last_checkpoint(output: Path) -> Path | None:
    """The latest whole checkpoint of a run; one that was cut off while it was written is none."""
    found = []
    for path in (output / CHECKPOINTS).glob("checkpoint-*"):
        number = path.name.rpartition("-")[2]
        if number.isdigit() and all((path / name).is_file() for name in COMPLETE):
            try:
                json.loads((path / COMPLETE[0]).read_text())
            except ValueError:
                continue
            found.append((int(number), path))
    return max(found)[1] if found else None


NOISY = ("torchao", "torch.utils._pytree")
"""Loggers that warn of kernels for other machines while a model is loaded."""


@contextmanager
def calm() -> Iterator[None]:
    """Libraries neither log nor show bars in here; afterwards they are as they were."""
    logs = need("transformers").utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    datasets = need("datasets")
    shown = datasets.are_progress_bars_disabled()
    noisy = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, before in zip(noisy, levels, strict=True):
            logger.setLevel(before)
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
        if not shown:
            datasets.enable_progress_bars()


def versions() -> Mapping[str, str]:
    """Versions of what a run is made with."""
    names = ("torch", "transformers", "accelerate", "datasets")
    return {name: str(need(name).__version__) for name in names}


def _saved_with(processor: Any) -> Any:
    """What the Trainer saves beside a checkpoint: of processors it knows transformers' own."""
    return processor if hasattr(processor, "pad") else None


def _with_own_loss(kind: Any) -> Any:
    """A Trainer whose loss and predictions are those of the prepared task."""

    class OwnLoss(kind):
        frog_prepared: Prepared

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False,
                         num_items_in_batch: Any = None) -> Any:  # fmt: skip
            assert self.frog_prepared.loss is not None
            loss = self.frog_prepared.loss(model, inputs)
            return (loss, None) if return_outputs else loss

        def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool,
                            ignore_keys: Any = None) -> Any:  # fmt: skip
            assert self.frog_prepared.predict is not None
            inputs = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                loss, made, labels = self.frog_prepared.predict(model, inputs)
            return loss, (None if prediction_loss_only else made), labels

    OwnLoss.__name__ = "Trainer"
    return OwnLoss
