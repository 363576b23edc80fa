"""The one place that knows transformers' Trainer: what tuner and sampler do in its callbacks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from frog.tuning.trainer_log import TrainerLog

if TYPE_CHECKING:
    from frog.tuning.attach import Tuner
    from frog.tuning.sampling import Sampler

LOG = logging.getLogger("frog.tuning")


class TunerCallback(TrainerCallback):
    """Ties a tuner to a trainer: total steps, losses to the guards, metrics to its log, stopping.

    Made by ``tuner.callback()``; goes into ``Trainer(callbacks=[...])`` or ``add_callback``. The
    guards' newest values go with the trainer's next line of training metrics, through its own
    ``log``: to the history, TensorBoard, W&B and whatever else is set up there.
    """

    def __init__(self, tuner: Tuner) -> None:
        self.tuner = tuner
        self._log = TrainerLog(self._metrics)

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Tell the schedules how long the run is; say what trains; find the trainer."""
        self.tuner.plan_steps(state.max_steps)
        if state.is_world_process_zero:
            LOG.info("%r", self.tuner)
            for fact in self.tuner.facts:
                LOG.info("%s", fact)
        self._log.follow(self)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """End the run where a guard asks for it."""
        if self.tuner.stopped:
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
        if values is not None and isinstance(values.get(key), float | int):
            self.tuner.report_loss(float(values[key]), kind)

    def _metrics(self) -> dict[str, float]:
        """The guards' newest values, for a line of training metrics."""
        return self.tuner.take_metrics()


class SamplingCallback(TrainerCallback):
    """Logs, with every line of training metrics, which units trained."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._log = TrainerLog(self._news)

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The chances, once; refuses an optimizer that does not hold what is sampled."""
        sampler = self._sampler
        optimizer = getattr(rest.get("optimizer"), "optimizer", rest.get("optimizer"))
        if optimizer is not None:
            sampler.check(optimizer)
        chances = ", ".join(f"{name} {chance:.3f}" for name, chance in sampler.chances.items())
        LOG.info("%r; chances in a draw: %s", sampler, chances)
        self._log.follow(self)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """A line was logged: with what is new where the trainer's own log could not be joined."""
        self._log.told(state, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Leave the trainer as it was."""
        self._log.leave()

    def _news(self) -> dict[str, int]:
        """The places of the units that trained in the last step."""
        sampler = self._sampler
        if not sampler.attached:
            return {}
        names = [unit.name for unit in sampler.units]
        units = sampler.units_at(max(sampler.step - 1, 0))
        return {f"sampling/unit_{i}": names.index(name) for i, name in enumerate(units)}
