"""What a Trainer is told of layer sampling."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frog.tuning.sampling import Sampler

logger = logging.getLogger(__name__)


class SamplingCallback:
    """Logs, with everything that the Trainer logs, which units train and how many weights.

    Only the events that it needs are methods; it answers all others of a ``TrainerCallback``, of
    which it is none: layer sampling does not need transformers.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The chances, once; refuses an optimizer that does not hold what is sampled."""
        sampler = self._sampler
        optimizer = getattr(rest.get("optimizer"), "optimizer", rest.get("optimizer"))
        if optimizer is not None:
            sampler.check(optimizer)
        chances = ", ".join(f"{name} {chance:.3f}" for name, chance in sampler.chances.items())
        logger.info("%r; chances in a draw: %s", sampler, chances)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """Adds the places of the units of the last step to what is logged."""
        sampler = self._sampler
        if logs is None or not sampler.attached:
            return
        names = [unit.name for unit in sampler.units]
        units = sampler.units_at(max(sampler.step - 1, 0))
        told = {f"sampling/unit_{i}": names.index(name) for i, name in enumerate(units)}
        logs.update(told)
        if state.log_history:
            state.log_history[-1].update(told)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return _nothing
        raise AttributeError(name)


def _nothing(args: Any, state: Any, control: Any, **rest: Any) -> None:
    """An event that does not matter here."""
