"""The methods: importing this package registers them all."""

from benchmarks.tuning.methods import (
    adapters,
    by_loss,
    columns,
    default,
    even_steps,
    frog,
    full,
    head_last,
    layers,
    masks,
    noisy,
    refined,
    with_ideas,
)

__all__ = [
    "adapters",
    "by_loss",
    "columns",
    "default",
    "even_steps",
    "frog",
    "full",
    "head_last",
    "layers",
    "masks",
    "noisy",
    "refined",
    "with_ideas",
]
