"""Round-to-nearest: a matrix at 1..8 bits, without data.

Of a group of weights w of one row (all inputs, or ``group`` of them), with b bits:

    symmetric    s = max|w| / ((2^b - 1) / 2)        c = clip(round(w / s), -2^(b-1), 2^(b-1) - 1)
    one bit      s = mean|w|                         c = +1 where w >= 0, else -1
    asymmetric   s = max(w, 0) / (2^b - 1) - min(w, 0) / (2^b - 1)
                 z = round(-min(w, 0) / s)           c = clip(round(w / s) + z, 0, 2^b - 1)

and Q = s c, or s (c - z): zero stays zero but for the symmetric form at one bit, whose scale is the
least-squares one (Rastegari et al. 2016, XNOR-Net, arXiv:1603.05279, eq. 6). The scale of the
symmetric form is that of torchao and compressed-tensors. Ties go to the even code. A group of
zeros has scale 0 and Q = 0. The arithmetic is float32, float64 for weights of float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from frog.errors import UsageError

GROUP = 64
"""Inputs that share a scale, unless asked otherwise."""

SLAB_ENTRIES = 1 << 20
"""Entries that are rounded at a time: 4 MB of float32 and a few copies of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How to round: ``bits`` 1..8, inputs that share a scale (None: the whole row), form."""

    bits: int
    group: int | None = GROUP
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UsageError(f"bits must lie in 1..8, got {self.bits}: choose a width of integers")
        if self.group is not None and self.group < 1:
            raise UsageError(
                f"a group must be 1 or more inputs, got {self.group}: None takes a whole row"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rounded:
    """Codes (m, n), int8 (uint8 where asymmetric), with scales and zero points (m, groups).

    The last group of a row may be smaller than ``group``. ``zeros`` is None where symmetric.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    group: int

    def values(self) -> Tensor:
        """The dequantised matrix (m, n), in the type of the scales."""
        n = self.codes.shape[1]
        codes = self.codes.to(self.scales.dtype)
        if self.zeros is not None:
            codes -= _spread(self.zeros, self.group, n).to(codes.dtype)
        return codes.mul_(_spread(self.scales, self.group, n))

    def steps(self) -> Tensor:
        """Scales that each weight lies from zero (m, n): codes less zero points, int8 or int16."""
        if self.zeros is None:
            return self.codes
        zeros = _spread(self.zeros, self.group, self.codes.shape[1])
        return self.codes.to(torch.int16) - zeros.to(torch.int16)


def round_to_nearest(weight_mn: Tensor, how: Rounding) -> Rounded:
    """Codes and scales of an (m, n) matrix; :class:`~frog.errors.UsageError` for NaN or Inf.

    >>> found = round_to_nearest(torch.tensor([[1.5, -0.4, 0.6]]), Rounding(bits=2))
    >>> found.codes.tolist(), found.scales.tolist(), found.values().tolist()
    ([[1, 0, 1]], [[1.0]], [[1.0, 0.0, 1.0]])
    """
    refuse_odd(weight_mn)
    parts = [_rounded(slab, how) for _, slab in _slabs(weight_mn)]
    zeros = [x.zeros for x in parts if x.zeros is not None]
    return Rounded(
        codes=torch.cat([x.codes for x in parts]),
        scales=torch.cat([x.scales for x in parts]),
        zeros=torch.cat(zeros) if zeros else None,
        group=parts[0].group,
    )


def rounded_values(weight_mn: Tensor, how: Rounding) -> Tensor:
    """The matrix as it is after rounding, in its own type."""
    made = weight_mn.detach().clone()
    round_in_place(made, how)
    return made


def round_in_place(weight_mn: Tensor, how: Rounding) -> None:
    """Put the rounded values in the place of the weights; a slab of codes at a time."""
    refuse_odd(weight_mn)
    for _, slab in _slabs(weight_mn):
        slab.copy_(_rounded(slab, how).values())


def rounding_error(weight_mn: Tensor, how: Rounding) -> float:
    """||W - Q|| / ||W|| in the Frobenius norm; 0 for a matrix of zeros."""
    lost, whole = squared_error(weight_mn, how)
    return math.sqrt(lost / whole) if whole > 0 else 0.0


def squared_error(weight_mn: Tensor, how: Rounding) -> tuple[float, float]:
    """||W - Q||^2 and ||W||^2, summed in float64."""
    refuse_odd(weight_mn)
    lost = whole = 0.0
    for _, slab in _slabs(weight_mn):
        values, exact = _rounded(slab, how).values().double(), slab.double()
        whole += float(exact.square().sum())
        lost += float(exact.sub_(values).square_().sum())
    return lost, whole


def nearness(weight_mn: Tensor, how: Rounding) -> Tensor:
    """1 - 2 d for the distance d, in steps, to the nearest midpoint of two levels; at least 0.

    (m, n) float32: 1 where the weight is undecided between two codes, 0 on a level, beyond the
    outermost levels, and in a group of zeros. A weight changes its code when it passes a midpoint.

    >>> nearness(torch.tensor([[1.5, -0.375, 0.625]]), Rounding(bits=2)).tolist()
    [[0.0, 0.75, 0.75]]
    """
    made = torch.empty(weight_mn.shape, dtype=torch.float32, device=weight_mn.device)
    for start, slab in _slabs(weight_mn):
        made[start : start + len(slab)] = _nearness(slab, how)
    return made


def _nearness(slab: Tensor, how: Rounding) -> Tensor:
    found = _rounded(slab, how)
    n = slab.shape[1]
    scales = _spread(found.scales, found.group, n)
    at = _over(slab.detach().to(scales.dtype), scales)
    low, high = -(2 ** (how.bits - 1)), 2 ** (how.bits - 1) - 1
    if found.zeros is not None:
        at += _spread(found.zeros, found.group, n).to(at.dtype)
        low, high = 0, 2**how.bits - 1
    elif how.bits == 1:
        at = at / 2 - 0.5  # the two levels lie two scales apart, at codes of 1 and -1
    middle = torch.floor(at).add_(0.5).clamp_(low + 0.5, high - 0.5)
    near = at.sub_(middle).abs_().mul_(-2).add_(1).clamp_(min=0)
    return near.masked_fill_(scales == 0, 0).float()


def refuse_odd(weight_mn: Tensor) -> None:
    """UsageError for what is no finite floating-point matrix with entries."""
    if weight_mn.ndim != 2 or weight_mn.numel() == 0 or not weight_mn.is_floating_point():
        raise UsageError(
            "a matrix to compress must be floating-point, two-dimensional and not empty, got "
            f"{weight_mn.dtype} {tuple(weight_mn.shape)}: view it as (m, n)"
        )
    if not all(bool(torch.isfinite(slab).all()) for _, slab in _slabs(weight_mn)):
        raise UsageError("a matrix to compress must be finite, got NaN or Inf: repair the model")


def _slabs(weight_mn: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Consecutive rows, with the number of the first."""
    rows = max(1, SLAB_ENTRIES // weight_mn.shape[1])
    for start in range(0, len(weight_mn), rows):
        yield start, weight_mn[start : start + rows]


def _rounded(slab: Tensor, how: Rounding) -> Rounded:
    """Codes and scales of some rows."""
    m, n = slab.shape
    group = min(how.group or n, n)
    w = slab.detach().to(torch.promote_types(slab.dtype, torch.float32))
    # zeros at the end of the last group change neither max|w| nor max(w, 0) nor min(w, 0)
    grouped = torch.nn.functional.pad(w, (0, -n % group)).reshape(m, -1, group)
    zeros = None
    if not how.symmetric:
        top = 2**how.bits - 1
        low = grouped.amin(2).clamp_(max=0)
        # the two ends apart: their difference may overflow
        scales = grouped.amax(2).clamp_(min=0) / top - low / top
        zeros = torch.round(_over(-low, scales)).clamp_(0, top)
        codes = torch.round(_over(grouped, scales[..., None])).add_(zeros[..., None])
        codes, zeros = codes.clamp_(0, top).to(torch.uint8), zeros.to(torch.uint8)
    elif how.bits == 1:
        sizes = torch.full((scales_of(n, group),), float(group), dtype=torch.float64)
        sizes[-1] = n - (len(sizes) - 1) * group
        scales = (grouped.abs().sum(2, dtype=torch.float64) / sizes.to(w.device)).to(w.dtype)
        codes = (grouped >= 0).to(torch.int8).mul_(2).sub_(1)
    else:
        half = 2 ** (how.bits - 1)
        scales = grouped.abs().amax(2) / (half - 0.5)
        codes = torch.round(_over(grouped, scales[..., None])).clamp_(-half, half - 1)
        codes = codes.to(torch.int8)
    return Rounded(
        codes=codes.view(m, -1)[:, :n].contiguous(), scales=scales, zeros=zeros, group=group
    )


def scales_of(n: int, group: int | None) -> int:
    """Scales that a row of ``n`` inputs has."""
    return 1 if group is None else math.ceil(n / group)


def _over(x: Tensor, scales: Tensor) -> Tensor:
    """x / scale, 0 where the scale is: of zeros, or too small for a scale of its own."""
    return torch.where(scales > 0, x / scales, torch.zeros_like(x))


def _spread(per_group: Tensor, group: int, n: int) -> Tensor:
    """(m, groups) -> (m, n)."""
    return per_group.repeat_interleave(group, 1)[:, :n]
