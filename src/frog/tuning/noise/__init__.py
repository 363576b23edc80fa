"""Guided noise on the unselected weights of tuned layers, added at their outputs.

tuner_noise   the noise of one tuner: which layers carry it, how strong it is now
layers        the noise of one output, for each kind of layer
spread        standard deviations of the noise on one matrix; guide gives them their shape
calls         which call of a layer this is, also when checkpointing repeats it
"""

from frog.tuning.noise.tuner_noise import TunerNoise, attach_noise

__all__ = ["TunerNoise", "attach_noise"]
