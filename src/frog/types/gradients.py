"""What a few batches say of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gradient:
    """What a few batches said of one matrix: mean gradient and mean squared gradient, (m, n).

    ``mean`` is the mean over the batches of the gradient of the loss, ``square`` the mean of its
    entries squared; both in the shape in which the matrix is listed.
    """

    mean: np.ndarray = field(repr=False)
    square: np.ndarray = field(repr=False)


class Gradients(dict[str, Gradient]):
    """Gradients by the name of the matrix, as ``frog.collect_gradients`` gives them.

    ``left_out`` gives the reason for every matrix that has none; ``losses`` are those of the
    batches, in order.
    """

    def __init__(
        self,
        found: Mapping[str, Gradient],
        *,
        left_out: Mapping[str, str],
        losses: tuple[float, ...],
    ) -> None:
        super().__init__(found)
        self.left_out = dict(left_out)
        self.losses = losses
