"""The automatic learning rate.

automatic   the rate from the share of the gradient that trains; the optimizer's groups
defaults    the rate of full tuning where none is told
"""

from frog.tuning.rates.automatic import (
    CAP,
    Loss,
    Measured,
    Optimizer,
    Shares,
    groups,
    measure,
    rate_of,
)

__all__ = ["CAP", "Loss", "Measured", "Optimizer", "Shares", "groups", "measure", "rate_of"]
