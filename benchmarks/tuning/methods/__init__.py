"""The methods: importing this package registers them all."""

from benchmarks.tuning.methods import adapters, frog, full, layers, masks, with_ideas

__all__ = ["adapters", "frog", "full", "layers", "masks", "with_ideas"]
