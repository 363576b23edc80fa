"""The noise that weights would give the output of a layer, for each kind of layer.

    linear, Conv1D   token: std_ti = sqrt(sum_j s_ij^2 x_tj^2) times a normal number (Kingma et al.
                     2015, local reparameterisation, arXiv:1506.02557)
                     sequence: the noise E of the weight itself, drawn a slab of rows at a time,
                     y_t += r * ((x_t * c) E^T), with signs r (m,) and c (n,) of each sequence
                     (Wen et al. 2018, Flipout, arXiv:1803.04386)
    convolutions     the same, with a convolution in place of each product; a token is a place of
                     the output, a sequence an image
    embeddings       the noise of the rows looked up; those of one id in one sequence are equal

Tokens are all axes between the first, which counts sequences, and the last. In the mode
``sequence`` each sequence sees one exact draw of noise in the weight. The draws of two sequences
are uncorrelated, though made of one E; of embeddings they are independent.

Everything is drawn again on the way back from the same random numbers: nothing the size of an
activation is kept but the input itself, and nothing the size of a weight is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from frog.tuning.noise.spread import Spread

TOKENS = 64
SLAB = 1 << 19
"""Entries of a weight's noise that exist at a time: 2 MB of float32."""


class Numbers:
    """The random numbers of one call: those of its key, whatever torch has drawn meanwhile."""

    def __init__(self, key: int, like: Tensor) -> None:
        self.like = like
        # of the key a CPU uses 32 bits
        self.generator = torch.Generator(like.device).manual_seed(key)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32 or float64."""
        made = torch.empty(shape, dtype=self.like.dtype, device=self.like.device)
        return made.normal_(generator=self.generator)

    def signs(self, *shape: int) -> Tensor:
        """1 or -1, equally likely."""
        made = torch.empty(shape, dtype=self.like.dtype, device=self.like.device)
        return made.bernoulli_(0.5, generator=self.generator).mul_(2).sub_(1)


class Noisy(Protocol):
    """The noise of one layer."""

    def noise(self, x: Tensor, numbers: Numbers) -> Tensor:
        """What to add to the output for the input ``x``, at nu_t = 1."""
        ...

    def gradient(self, x: Tensor, dy: Tensor, numbers: Numbers) -> Tensor:
        """The gradient of ``x``, of its shape, that comes through the noise from ``dy``."""
        ...


class AddNoise(torch.autograd.Function):
    """y + nu_t times the noise of a layer, computed in float32, with its gradient for x."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, layer: Noisy, level: float, key: int) -> Tensor:
        """``y`` of any floating dtype, ``x`` the input of the layer."""
        ctx.layer, ctx.level, ctx.key = layer, level, key
        ctx.save_for_backward(x)
        made = _run(layer.noise, key, _work(x))
        return made.mul_(level).reshape(y.shape).add_(y).to(y.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """The gradient of y as it is, and that of x through the noise."""
        dy, dx = gradients[0], None
        if ctx.needs_input_grad[1]:
            (x,) = ctx.saved_tensors
            work = _work(x)
            made = _run(ctx.layer.gradient, ctx.key, work, dy.to(work.dtype))
            dx = made.mul_(ctx.level).reshape(x.shape).to(x.dtype)
        return dy, dx, None, None, None


def _work(x: Tensor) -> Tensor:
    """``x`` in the dtype that noise is computed in; what is no number (ids) stays."""
    return x.float() if x.is_floating_point() and x.dtype != torch.float64 else x


def _run(function: Any, key: int, x: Tensor, *rest: Tensor) -> Tensor:
    like = x if x.is_floating_point() else x.new_empty(0, dtype=torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return function(x, *rest, Numbers(key, like))


# ------------------------------------------------------------------------------- linear


@dataclass(slots=True)
class Part:
    """One matrix of a layer: which outputs are its rows, which inputs its columns (None: all)."""

    spread: Spread
    outputs: Tensor | None = None
    inputs: Tensor | None = None

    def to(self, device: torch.device) -> None:
        """Move to another device, if it is one."""
        if self.spread.a.device != device:
            self.spread = self.spread.to(device)
            self.outputs = None if self.outputs is None else self.outputs.to(device)
            self.inputs = None if self.inputs is None else self.inputs.to(device)


class NoisyLinear:
    """Of y = x W^T, for W of one matrix or several: ``outputs`` is their number of rows."""

    def __init__(self, parts: list[Part], outputs: int, draw: str) -> None:
        self.parts, self.outputs = parts, outputs
        self._each = _token if draw == "token" else _sequence
        self._each_gradient = _token_gradient if draw == "token" else _sequence_gradient

    def noise(self, x: Tensor, numbers: Numbers) -> Tensor:
        """For ``x`` (..., n): (..., m)."""
        x = _in_sequences(x)
        made = None
        for part in self.parts:
            part.to(x.device)
            some = self._each(_some(x, part.inputs), part.spread, numbers)
            if part.outputs is None:
                made = some
            else:
                made = x.new_zeros(*x.shape[:2], self.outputs) if made is None else made
                made[..., part.outputs] = some
        assert made is not None
        return made

    def gradient(self, x: Tensor, dy: Tensor, numbers: Numbers) -> Tensor:
        """Of ``x`` (..., n) from ``dy`` (..., m)."""
        x, dy = _in_sequences(x), _in_sequences(dy)
        made = None
        for part in self.parts:
            part.to(x.device)
            mine = _some(x, part.inputs), _some(dy, part.outputs)
            some = self._each_gradient(*mine, part.spread, numbers)
            if part.inputs is None:
                made = some if made is None else made.add_(some)
            else:
                made = torch.zeros_like(x) if made is None else made
                made[..., part.inputs] += some
        assert made is not None
        return made


def _in_sequences(x: Tensor) -> Tensor:
    """(sequences, tokens, features): of an input of two axes each row is a sequence."""
    if x.dim() == 1:
        return x.view(1, 1, -1)
    return x.reshape(x.shape[0], x.shape[1:-1].numel(), x.shape[-1])


def _some(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x[..., index]


def _token(x: Tensor, spread: Spread, numbers: Numbers) -> Tensor:
    flat, m = x.flatten(0, 1), len(spread.a)
    made = flat.new_empty(len(flat), m)
    for some, part in zip(_chunks(flat), _chunks(made), strict=True):
        torch.mul(numbers.normal(len(some), m), spread.energy(some).sqrt_(), out=part)
        part.mul_(spread.a)
    return made.view(*x.shape[:2], m)


def _token_gradient(x: Tensor, dy: Tensor, spread: Spread, numbers: Numbers) -> Tensor:
    """noise = a sqrt(q) z, so that d noise / d q = a z / (2 sqrt(q)); 0 where q is 0."""
    flat = x.flatten(0, 1)
    made = torch.empty_like(flat)
    parts = (_chunks(v) for v in (flat, dy.flatten(0, 1), made))
    for some, given, part in zip(*parts, strict=True):
        dq = numbers.normal(*given.shape).mul_(given).mul_(spread.a)
        dq.mul_(_inverse_root(spread.energy(some)))
        part.copy_(spread.energy_gradient(some, dq))
    return made.view(x.shape)


def _chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Some tokens at a time on a CPU, so that what is made of them stays in its cache."""
    return x.split(TOKENS) if x.device.type == "cpu" else (x,)


def _inverse_root(q: Tensor) -> Tensor:
    return q.rsqrt().nan_to_num_(float("nan"), posinf=0.0)


def _sequence(x: Tensor, spread: Spread, numbers: Numbers) -> Tensor:
    r, turned = _signed(x, spread, numbers)
    made = x.new_empty(*x.shape[:2], len(spread.a))
    for rows, e in _weight_noise(spread, numbers):
        made[..., rows] = turned @ e.T
    return made.mul_(r).mul_(spread.a)


def _sequence_gradient(x: Tensor, dy: Tensor, spread: Spread, numbers: Numbers) -> Tensor:
    r, c = _signs(x, spread, numbers)
    dy = dy * r * spread.a
    made = torch.zeros_like(x)
    for rows, e in _weight_noise(spread, numbers):
        made += dy[..., rows] @ e
    return made.mul_(c).mul_(spread.b)


def _signs(x: Tensor, spread: Spread, numbers: Numbers) -> tuple[Tensor, Tensor]:
    """r (s, 1, m) and c (s, 1, n), for s sequences."""
    return numbers.signs(len(x), 1, len(spread.a)), numbers.signs(len(x), 1, len(spread.b))


def _signed(x: Tensor, spread: Spread, numbers: Numbers) -> tuple[Tensor, Tensor]:
    r, c = _signs(x, spread, numbers)
    return r, x * spread.b * c


def _weight_noise(spread: Spread, numbers: Numbers) -> Iterator[tuple[slice, Tensor]]:
    """Standard normal noise of a weight, 0 on chosen entries, a slab of rows at a time."""
    m, n = len(spread.a), len(spread.b)
    for start in range(0, m, size := max(1, SLAB // max(1, n))):
        rows = slice(start, min(start + size, m))
        yield rows, _blanked(numbers.normal(rows.stop - start, n), rows, spread)


def _blanked(e: Tensor, rows: slice, spread: Spread) -> Tensor:
    allowed = spread.allowed(torch.arange(rows.start, rows.stop, device=e.device))
    return e if allowed is None else e.mul_(allowed)


# ------------------------------------------------------------------------- convolutions


class NoisyConv:
    """Of a convolution whose kernel (out, in / groups, ...) is one matrix (out, the rest)."""

    def __init__(self, module: Any, spread: Spread, draw: str) -> None:
        self.spread, self.draw = spread, draw
        self.kernel = tuple(module.kernel_size)
        self.groups = module.groups
        self._settings = (module.stride, module.padding, module.dilation)
        self._pad = None
        if module.padding_mode != "zeros":
            self._pad = (module._reversed_padding_repeated_twice, module.padding_mode)
            self._settings = (module.stride, 0, module.dilation)
        self._convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(self.kernel)]

    def noise(self, x: Tensor, numbers: Numbers) -> Tensor:
        """For images ``x`` (s, in, ...), or one (in, ...): (s, out, ...)."""
        x, spread = self._ready(x)
        if self.draw == "token":
            q = self._energy(x)
            made = numbers.normal(len(x), len(spread.a), *q.shape[2:])
            return made.mul_(self._whole(q.clamp_(min=0).sqrt_())).mul_(self._rowwise(spread.a))
        r, c = self._signs(x, numbers)
        turned, made = x * c, []
        for rows, groups in self._slabs():
            made.append(self._slab(turned, self._noisy(rows, numbers), groups))
        return torch.cat(made, 1).mul_(r).mul_(self._rowwise(spread.a))

    def gradient(self, x: Tensor, dy: Tensor, numbers: Numbers) -> Tensor:
        """Of ``x`` from ``dy``, both as in :meth:`noise`."""
        x, spread = self._ready(x)
        dy = dy.reshape(len(x), *dy.shape[-len(self.kernel) - 1 :]) * self._rowwise(spread.a)
        if self.draw == "token":
            return self._token_gradient(x, dy, numbers)
        r, c = self._signs(x, numbers)
        dy, turned = dy * r, (x * c).requires_grad_()
        made = torch.zeros_like(x)
        for rows, groups in self._slabs():
            e = self._noisy(rows, numbers)
            with torch.enable_grad():
                y = self._slab(turned, e, groups)
            made += torch.autograd.grad(y, turned, dy[:, rows])[0]
        return made * c

    def _token_gradient(self, x: Tensor, dy: Tensor, numbers: Numbers) -> Tensor:
        dq = numbers.normal(*dy.shape).mul_(dy)
        leaf = x.detach().requires_grad_()
        if self.spread.units is not None:
            made = torch.zeros_like(x)
            for rows, groups in self._slabs():
                with torch.enable_grad():
                    q = self._slab(leaf.square(), self._squares(rows), groups)
                some = dq[:, rows] * _inverse_root(q.detach())
                made += torch.autograd.grad(q, leaf, some)[0]
            return made / 2
        with torch.enable_grad():
            q = self._energy(leaf)
        whole = dq * self._whole(_inverse_root(q.detach()))
        sums = whole.unflatten(1, (self.groups, -1)).sum(2)
        return torch.autograd.grad(q, leaf, sums)[0] / 2

    def _ready(self, x: Tensor) -> tuple[Tensor, Spread]:
        self.spread = self.spread.to(x.device)
        return (x if x.dim() == len(self.kernel) + 2 else x[None]), self.spread

    def _energy(self, x: Tensor) -> Tensor:
        """sum_j b_j^2 x_j^2: (s, groups, ...) where equal within a group, else (s, out, ...)."""
        squares = x.square()
        if self.spread.units is not None:
            made = [self._slab(squares, self._squares(*at[:1]), at[1]) for at in self._slabs()]
            return torch.cat(made, 1)
        kernel = self.spread.b.square().to(x.dtype).expand(self.groups, -1)
        return self._slab(squares, kernel, slice(0, self.groups))

    def _whole(self, q: Tensor) -> Tensor:
        """One channel for each output, from one for each group."""
        m = len(self.spread.a)
        return q if q.shape[1] == m else q.repeat_interleave(m // self.groups, 1)

    def _squares(self, rows: slice) -> Tensor:
        """b_j^2 off the chosen entries of these rows, (rows, n)."""
        b = self.spread.b.square().expand(rows.stop - rows.start, -1)
        return _blanked(b.clone(), rows, self.spread)

    def _noisy(self, rows: slice, numbers: Numbers) -> Tensor:
        """b_j times normal numbers off the chosen entries of these rows, (rows, n)."""
        e = numbers.normal(rows.stop - rows.start, len(self.spread.b))
        return _blanked(e.mul_(self.spread.b), rows, self.spread)

    def _signs(self, x: Tensor, numbers: Numbers) -> tuple[Tensor, Tensor]:
        """r (s, out, 1...) and c (s, in, 1...), for s images."""
        ones = (1,) * len(self.kernel)
        r = numbers.signs(len(x), len(self.spread.a), *ones)
        return r, numbers.signs(len(x), x.shape[1], *ones)

    def _rowwise(self, a: Tensor) -> Tensor:
        return a.view(-1, *(1,) * len(self.kernel))

    def _slabs(self) -> Iterator[tuple[slice, slice]]:
        """Rows of the kernel that exist at a time, and the groups they belong to."""
        m, n = len(self.spread.a), len(self.spread.b)
        each, size = m // self.groups, max(1, SLAB // max(1, n))
        if size >= each:  # several groups at once
            step = size // each
            for first in range(0, self.groups, step):
                last = min(first + step, self.groups)
                yield slice(first * each, last * each), slice(first, last)
            return
        for group in range(self.groups):
            for start in range(group * each, (group + 1) * each, size):
                stop = min(start + size, (group + 1) * each)
                yield slice(start, stop), slice(group, group + 1)

    def _slab(self, x: Tensor, kernel: Tensor, groups: slice) -> Tensor:
        """The convolution of the channels of some groups with some rows of a kernel."""
        wide = x.shape[1] // self.groups
        some = x[:, groups.start * wide : groups.stop * wide]
        if self._pad is not None:
            some = F.pad(some, self._pad[0], mode=self._pad[1])
        shaped = kernel.to(x.dtype).reshape(len(kernel), wide, *self.kernel)
        return self._convolution(some, shaped, None, *self._settings, groups.stop - groups.start)


# --------------------------------------------------------------------------- embeddings


class NoisyEmbedding:
    """Of rows looked up by ids in a weight (ids, features)."""

    def __init__(self, spread: Spread, draw: str) -> None:
        self.spread, self.draw = spread, draw

    def noise(self, x: Tensor, numbers: Numbers) -> Tensor:
        """For ids ``x`` (s, ...), s sequences: (s, ..., n)."""
        self.spread = self.spread.to(x.device)
        if self.draw == "token":
            return self._rows(x.reshape(-1), numbers)
        m, flat = len(self.spread.a), x.reshape(len(x) if x.dim() else 1, -1)
        places = flat + m * torch.arange(len(flat), device=x.device)[:, None]
        unique, inverse = torch.unique(places, return_inverse=True)
        return self._rows(unique % m, numbers)[inverse.reshape(-1)]

    def gradient(self, x: Tensor, dy: Tensor, numbers: Numbers) -> Tensor:
        """Ids have none."""
        raise NotImplementedError

    def _rows(self, ids: Tensor, numbers: Numbers) -> Tensor:
        spread = self.spread
        made = numbers.normal(len(ids), len(spread.b)).mul_(spread.a[ids, None]).mul_(spread.b)
        allowed = spread.allowed(ids)
        return made if allowed is None else made.mul_(allowed)
