"""The tasks, by name: nothing is read before one is made."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from benchmarks.tuning.task import Task


def _later(module: str, name: str) -> Callable[[], Task]:
    def make() -> Task:
        return getattr(import_module(f"{__name__}.{module}"), name)()

    make.__module__ = f"{__name__}.{module}"  # whose code it is, for digests
    return make


TASKS: dict[str, Callable[[], Task]] = {
    "signs": _later("signs", "Signs"),
    "photos": _later("photos", "Photos"),
    "plays": _later("plays", "Plays"),
    "sentiment": _later("sentiment", "Sentiment"),
    "intents": _later("intents", "Intents"),
}
