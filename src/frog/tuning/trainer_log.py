"""Values of ours in a trainer's own log: history, TensorBoard, W&B and whatever else it tells.

The handler of callbacks calls them with everything but the trainer, and those that report to the
outside come before the user's own. So the trainer's ``log`` itself is what must know.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class TrainerLog:
    """Adds ``news()`` to every line that a trainer logs while it trains, but for evaluations."""

    def __init__(self, news: Callable[[], dict[str, Any]]) -> None:
        self._news = news
        self._trainer: Any = None
        self._own: Any = None

    def follow(self, callback: Any) -> None:
        """Find the trainer that is calling ``callback`` right now, and join its log."""
        self.leave()
        trainer = self._trainer = _trainer_of(callback)
        if trainer is None:
            return
        inner, self._own = trainer.log, trainer.__dict__.get("log")

        def log(logs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            logs.update(self._fitting(logs))
            return inner(logs, *args, **kwargs)

        trainer.log = log

    def told(self, state: Any, logs: dict[str, Any] | None) -> None:
        """A line was logged. Of an unknown kind of trainer, the history and later callbacks get
        what is new.
        """
        if self._trainer is None and logs is not None and state.log_history:
            news = self._fitting(logs)
            logs.update(news)
            state.log_history[-1].update(news)

    def leave(self) -> None:
        """Give the trainer back the log that it had."""
        if self._trainer is not None:
            self._trainer.__dict__.pop("log", None)
            if self._own is not None:
                self._trainer.log = self._own
        self._trainer = self._own = None

    def _fitting(self, logs: dict[str, Any]) -> dict[str, Any]:
        return {} if any(key.startswith("eval_") for key in logs) else self._news()


def _trainer_of(callback: Any) -> Any:
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
