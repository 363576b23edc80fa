"""The methods: importing this package registers them all."""

from benchmarks.tuning.methods import adapters, full, layers, masks

__all__ = ["adapters", "full", "layers", "masks"]
