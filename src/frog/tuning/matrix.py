"""One tuned matrix: where its chosen entries lie in the live model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from frog.numerics.units import unit_entries
from frog.numerics.views import take
from frog.tuning.compact import Compact
from frog.types import MatrixView


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TunedMatrix:
    """A matrix (m, n) of the live model of which k entries train.

    ``view`` says how it lies in its parameter, ``disk_view`` how in the tensor ``tensor`` of the
    file. ``index`` numbers the chosen units, as in :class:`frog.types.Chosen`; their entries are
    the ``slot`` of the parameter's change. ``call`` says how the owning ``module`` uses it:
    ``linear``, ``conv1d``, ``conv``, ``embedding`` or ``other``.
    """

    name: str
    tensor: str
    kind: str
    role: str
    block: int | None
    shape: tuple[int, int]
    view: MatrixView
    disk_view: MatrixView
    module: nn.Module = field(repr=False)
    module_name: str
    call: str
    granularity: str
    block_size: tuple[int, int]
    index: np.ndarray = field(repr=False)
    compact: Compact = field(repr=False)
    slot: slice
    lr_ratio: float = 1.0

    @property
    def count(self) -> int:
        """Number of chosen entries, k."""
        return self.slot.stop - self.slot.start

    @property
    def params(self) -> int:
        """Number of all entries, m * n."""
        return self.shape[0] * self.shape[1]

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the chosen entries, (k,) int64 each, in the order of the slot.

        Made anew at every call: kept, they would weigh more than what trains.
        """
        return unit_entries(self.index, self.shape, self.granularity, self.block_size)

    def weight(self) -> Tensor:
        """The live values, (m, n), detached; a view wherever the layout allows it."""
        return take(self.compact.weight.data, self.view)

    def change(self) -> Tensor:
        """The change of the chosen entries, (k,) float32, a detached view of what trains."""
        return self.compact.change.detach()[self.slot]

    def base(self) -> Tensor:
        """The chosen entries at the start, (k,), in the stored dtype."""
        return self.compact.base[self.slot]

    @torch.no_grad()
    def set_change(self, values: Tensor) -> None:
        """Set the change, in place, and write it to the weight."""
        self.change().copy_(values)
        self.compact.write()
