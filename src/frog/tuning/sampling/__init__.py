"""Layer sampling: whole layers train in turns.

units      what is drawn: the blocks or modules of a model, and what always trains
draws      which units train when: a pure function of seed, chances and step
sampler    trains them, drops the state of those that are drawn out, leaves the model
reducing   the gradients of what trains, averaged over processes
"""

from frog.tuning.sampling.draws import Draws, Turn, draw
from frog.tuning.sampling.sampler import Sampler
from frog.tuning.sampling.units import Division, Unit, divide

__all__ = ["Division", "Draws", "Sampler", "Turn", "Unit", "divide", "draw"]
