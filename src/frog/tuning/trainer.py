"""The one place that knows transformers' Trainer: what a tuner does in its callbacks."""

from __future__ import annotations

import logging
import sys
from typing import Any

from transformers import TrainerCallback

LOG = logging.getLogger("frog.tuning")


class TunerCallback(TrainerCallback):
    """Ties a tuner to a trainer: total steps, losses to the guards, metrics to its log, stopping.

    Made by ``tuner.callback()``; goes into ``Trainer(callbacks=[...])`` or ``add_callback``. The
    guards' newest values go with the trainer's next line of training metrics, through its own
    ``log``: to the history, TensorBoard, W&B and whatever else is set up there.
    """

    def __init__(self, tuner: Any) -> None:
        self.tuner = tuner
        self._trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Tell the schedules how long the run is; say what trains; find the trainer."""
        plan_steps = getattr(self.tuner, "plan_steps", None)
        if plan_steps is not None:
            plan_steps(state.max_steps)
        if state.is_world_process_zero:
            LOG.info("%r", self.tuner)
            for fact in getattr(self.tuner, "facts", ()):
                LOG.info("%s", fact)
        self._follow(_trainer_of(self))

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """End the run where a guard asks for it."""
        if getattr(self.tuner, "stopped", False):
            control.should_training_stop = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **rest: Any
    ) -> None:
        """Pass the training loss on."""
        self._report(logs, "loss", "training")
        if self._trainer is None and logs is not None and state.log_history:
            # an unknown kind of trainer: the history, and the callbacks after this one, get them
            news = self._metrics(logs)
            logs.update(news)
            state.log_history[-1].update(news)

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        metrics: dict[str, Any] | None = None,
        **rest: Any,
    ) -> None:
        """Pass the evaluation loss on; a guard may end the run."""
        self._report(metrics, "eval_loss", "evaluation")
        self.on_step_end(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Leave the trainer as it was."""
        self._leave()

    def _report(self, values: dict[str, Any] | None, key: str, kind: str) -> None:
        report = getattr(self.tuner, "report_loss", None)
        if report is not None and values is not None and isinstance(values.get(key), float | int):
            report(float(values[key]), kind)

    def _metrics(self, logs: dict[str, Any]) -> dict[str, float]:
        """The guards' newest values, for a line of training metrics."""
        watch = getattr(self.tuner, "_watch", None)
        if watch is None or any(key.startswith("eval_") for key in logs):
            return {}
        return watch.record.take_metrics()

    # The handler of callbacks calls them with everything but the trainer, and those that report
    # to the outside come before the user's own. So the trainer's log itself is what must know.

    def _follow(self, trainer: Any) -> None:
        self._leave()
        self._trainer = trainer
        if trainer is None:
            return
        inner = trainer.log

        def log(logs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            logs.update(self._metrics(logs))
            return inner(logs, *args, **kwargs)

        trainer.log = log

    def _leave(self) -> None:
        if self._trainer is not None:
            self._trainer.__dict__.pop("log", None)
        self._trainer = None


def _trainer_of(callback: TrainerCallback) -> Any:
    """The trainer that is calling ``callback`` right now: found on the stack; None if none is."""
    frame = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("self")
        handler = getattr(found, "callback_handler", None)
        callbacks = getattr(handler, "callbacks", ())
        if any(x is callback for x in callbacks) and callable(getattr(found, "log", None)):
            return found
        frame = frame.f_back
    return None
