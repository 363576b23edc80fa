"""One tuned parameter: the dense weight in place, and the short vector that trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frog.errors import UsageError
from frog.weights.module import BESIDE

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> the integers of that width: bit patterns are compared as these."""


class Compact:
    """The chosen entries of one parameter.

    ``weight`` is the dense parameter, frozen, under its own name in its own module; ``index``
    (k,) int64 are flat positions in it; ``base`` (k,) their values at the start, in the stored
    dtype; ``change`` (k,) is what trains: float32, the difference to ``base``. In float32 small
    steps survive on a bf16 weight, and weight decay pulls towards the base model.

    >>> weight = nn.Parameter(torch.ones(2, 2))
    >>> compact = Compact("weight", weight, torch.tensor([1, 2]))
    >>> compact.set(torch.tensor([0.5, 0.0]))
    >>> weight.tolist()
    [[1.0, 1.5], [1.0, 1.0]]
    """

    def __init__(self, name: str, weight: nn.Parameter, index: Tensor) -> None:
        self.name = name
        self.weight = weight
        self._index = index.to(weight.device)
        self._base = self._flat()[self._index].clone()
        self.change = nn.Parameter(
            torch.zeros(len(index), dtype=torch.float32, device=weight.device)
        )
        setattr(self.change, BESIDE, True)
        # -0.0 + 0 is 0.0, and subnormal numbers may be flushed: only then a sum can lose bits
        self._delicate = bool(
            (self._base.double().abs() < torch.finfo(self._base.dtype).tiny).any()
        )
        self._size = weight.numel()
        self._held: tuple[Tensor, Tensor] | None = None

    @property
    def index(self) -> Tensor:
        """(k,) int64, on the device of the weight of now."""
        self._move()
        return self._index

    @property
    def base(self) -> Tensor:
        """(k,) in the stored dtype, on the device of the weight of now."""
        self._move()
        return self._base

    def values(self) -> Tensor:
        """The chosen entries as the change says, (k,), in the stored dtype.

        An entry without a change keeps the very bits of its base.
        """
        change = self.change.detach()
        moved = _sum(self.base, change)
        if self._delicate:
            moved = torch.where(change == 0, self.base, moved)
        if self._held is not None:
            at, values = self._held
            moved = torch.where(change == at, values, moved)
        return moved

    @torch.no_grad()
    def write(self) -> None:
        """Put base + change, rounded to the stored dtype, into the dense weight."""
        self._check()
        self._flat().scatter_(0, self.index, self.values())

    @torch.no_grad()
    def set(self, change: Tensor) -> None:
        """Set the whole change, (k,), in place, and write it."""
        self.change.copy_(change)
        self.write()

    @torch.no_grad()
    def read(self) -> None:
        """Take the change from the dense weight, after a checkpoint was loaded into it.

        A change that gives these very bits stays: a rounded weight knows less than it does. Where
        no float32 change gives them, the bits are held until the entry trains again.
        """
        self._check()
        now = self._flat()[self.index]
        known = equal_bits(now, self.values())
        fresh = torch.where(equal_bits(now, self.base), 0.0, (now.double() - self.base).float())
        self.change.copy_(torch.where(known, self.change.detach(), fresh))
        self._held = (self.change.detach().clone(), now) if not known.all() else self._held

    @torch.no_grad()
    def revert(self) -> None:
        """Put the bits of the start back."""
        self._held = None
        self.set(torch.zeros_like(self.change))

    def _flat(self) -> Tensor:
        # .data has a version counter of its own: what autograd saved of the weight stays valid
        return self.weight.data.view(-1)

    def _check(self) -> None:
        """Refuse where the model was spread or cast in between."""
        if self.weight.numel() != self._size or hasattr(self.weight, "full_tensor"):
            raise UsageError(
                f"{self.name} was spread over processes: sharded training (FSDP, ZeRO-3) is not "
                "supported; use one process, or DDP, which holds the model in each"
            )
        if self.weight.dtype != self.base.dtype or self.change.dtype != torch.float32:
            raise UsageError(
                f"{self.name} must stay {self.base.dtype} while it is tuned, got "
                f"{self.weight.dtype} (and its change {self.change.dtype}): cast the model before "
                "the Tuner is made"
            )

    def _move(self) -> None:
        """Go where the weight went: a trainer moves the model after the Tuner is made."""
        if self._index.device != self.weight.device:
            self._index = self._index.to(self.weight.device)
            self._base = self._base.to(self.weight.device)
            if self._held is not None:
                at, values = self._held
                self._held = (at.to(self.weight.device), values.to(self.weight.device))


def _sum(base: Tensor, change: Tensor) -> Tensor:
    """base + change, rounded once to the dtype of base."""
    if base.dtype == torch.float64:
        return base + change
    return (base.float() + change).to(base.dtype)


def equal_bits(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors of one dtype hold the same bit patterns; bool."""
    width = BITS[a.element_size()]
    return a.view(width) == b.view(width)
