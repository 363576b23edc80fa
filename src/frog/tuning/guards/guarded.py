"""The side of a tuner that its guards show: alarms, stopping, losses, certificate, callback."""

from __future__ import annotations

from typing import Any

from frog.errors import UsageError
from frog.tuning.attached import trainer_callback
from frog.tuning.guards.guard import guards_from
from frog.tuning.guards.watch import Watch
from frog.types import Alarm, Certificate


class Guarded:
    """What a class that tunes gains from guards; ``_watch`` is None without any."""

    _watch: Watch | None = None

    def _set_guards(self, asked: Any) -> None:
        guards = guards_from(asked)
        self._watch = Watch(self, guards) if guards else None
        if self._watch is not None:
            from frog.tuning.guards.certify import Reference

            self._reference = Reference(self, self._watch)

    def _dismiss_guards(self) -> None:
        if self._watch is not None:
            self._watch.remove()

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """What the guards saw beyond its limit so far, oldest first."""
        return tuple(self._watch.record.alarms) if self._watch is not None else ()

    @property
    def stopped(self) -> bool:
        """Whether a guard asks the loop to end: ``if tuner.stopped: break``."""
        return self._watch is not None and self._watch.stopped

    def report_loss(self, value: float, kind: str = "training") -> None:
        """Tell the guards a loss (``training`` or ``evaluation``) that they cannot see.

        They see ``output.loss`` of transformers models by themselves, and Trainer's losses
        through :meth:`callback`. Without guards it does nothing.
        """
        if self._watch is not None:
            self._watch.report_loss(value, kind)

    def take_metrics(self) -> dict[str, float]:
        """The guards' newest values since they were last taken, by the names that a log shows."""
        return {} if self._watch is None else self._watch.record.take_metrics()

    def certificate(self) -> Certificate:
        """How the run went: worst values, alarms, what was done, cost, and a check of all bits.

        Every weight outside the selection is compared with the digest that it had at the start
        (one pass over the model). Also after :meth:`keep` or :meth:`revert`. Raises
        :class:`~frog.errors.UsageError` without guards.
        """
        if self._watch is None:
            raise UsageError("a certificate needs guards: Tuner(model, chosen, guards='auto')")
        from frog.tuning.guards.certify import certify

        return certify(self, self._watch, self._reference)

    def callback(self) -> Any:
        """A ``TrainerCallback`` for Trainer and its kin: logs, losses, stopping.

        Spectral metrics go through the trainer's own ``log`` with its next line.
        """
        return trainer_callback("TunerCallback", self)
