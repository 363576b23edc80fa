"""What a Trainer is told of layer sampling."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from frog.tuning.trainer_log import TrainerLog

if TYPE_CHECKING:
    from frog.tuning.sampling import Sampler

logger = logging.getLogger(__name__)


class SamplingCallback:
    """Logs, with every line of training metrics, which units trained.

    Only the events that it needs are methods; it answers all others of a ``TrainerCallback``, of
    which it is none: layer sampling does not need transformers.
    """

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
        logger.info("%r; chances in a draw: %s", sampler, chances)
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

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return _nothing
        raise AttributeError(name)


def _nothing(args: Any, state: Any, control: Any, **rest: Any) -> None:
    """An event that does not matter here."""
