"""Train only what was selected: the dense weight in place, a short vector that trains."""

from frog.tuning.attach import Tuner
from frog.tuning.collect import collect_gradients
from frog.tuning.head import fit_head

__all__ = ["Tuner", "collect_gradients", "fit_head"]
