"""Train only what was selected: the dense weight in place, a short vector that trains."""

from frog.tuning.attach import Tuner

__all__ = ["Tuner"]
