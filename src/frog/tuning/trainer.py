"""The one place that knows transformers' Trainer: what a tuner does in its callbacks."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback

from frog.tuning.trainer_log import TrainerLog

LOG = logging.getLogger("frog.tuning")


class TunerCallback(TrainerCallback):
    """Ties a tuner to a trainer: total steps, losses to the guards, metrics to its log, stopping.

    Made by ``tuner.callback()``; goes into ``Trainer(callbacks=[...])`` or ``add_callback``. The
    guards' newest values go with the trainer's next line of training metrics, through its own
    ``log``: to the history, TensorBoard, W&B and whatever else is set up there.
    """

    def __init__(self, tuner: Any) -> None:
        self.tuner = tuner
        self._log = TrainerLog(self._metrics)

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Tell the schedules how long the run is; say what trains; find the trainer."""
        plan_steps = getattr(self.tuner, "plan_steps", None)
        if plan_steps is not None:
            plan_steps(state.max_steps)
        if state.is_world_process_zero:
            LOG.info("%r", self.tuner)
            for fact in getattr(self.tuner, "facts", ()):
                LOG.info("%s", fact)
        self._log.follow(self)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """End the run where a guard asks for it."""
        if getattr(self.tuner, "stopped", False):
            control.should_training_stop = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **rest: Any
    ) -> None:
        """Pass the training loss on."""
        self._report(logs, "loss", "training")
        self._log.told(state, logs)

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
        self._log.leave()

    def _report(self, values: dict[str, Any] | None, key: str, kind: str) -> None:
        report = getattr(self.tuner, "report_loss", None)
        if report is not None and values is not None and isinstance(values.get(key), float | int):
            report(float(values[key]), kind)

    def _metrics(self) -> dict[str, float]:
        """The guards' newest values, for a line of training metrics."""
        watch = getattr(self.tuner, "_watch", None)
        return {} if watch is None else watch.record.take_metrics()
