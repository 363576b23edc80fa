"""Guided noise on a tuned model: which layers carry it, how strong it is now, whose call it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from frog.errors import UsageError
from frog.numerics.rounding import Rounding
from frog.numerics.views import entries
from frog.tuning.matrix import TunedMatrix
from frog.tuning.noise.calls import Call, Calls
from frog.tuning.noise.guide import guide_of, rounding_rows
from frog.tuning.noise.layers import AddNoise, Noisy, NoisyConv, NoisyEmbedding, NoisyLinear, Part
from frog.tuning.noise.spread import Spread, spread_of
from frog.tuning.owner import PLACE, Owner
from frog.types import Noise
from frog.types.noise import checked_steps

if TYPE_CHECKING:
    from frog.tuning.attach import Tuner

OTHER = "its module uses the weight in a way of its own, not as a linear layer, a convolution or "\
    "an embedding does"  # fmt: skip
DIRECT = "its module hands the weight to others without being called itself"
LAYOUT = "the rows of the matrix are not the outputs of its layer"
ZERO = "all weights are zero"
EXACT = "rounding does not change it"


class TunerNoise:
    """The noise of one tuner: ``tuner.noise``.

    ``setting`` is what was asked for; ``level`` is nu_t now; ``layers`` are the names of the
    modules that carry noise; ``left_out`` maps the names of tuned matrices that carry none to the
    reason. Raises :class:`~frog.errors.UsageError` where no layer at all can.
    """

    def __init__(self, tuner: Tuner, setting: Noise, modules: list[nn.Module]) -> None:
        self.setting = setting
        self.left_out: dict[str, str] = {}
        self._tuner = tuner
        self._planned: int | None = setting.steps
        self._calls = Calls()
        names = {id(module): name for name, module in tuner.model.named_modules()}
        spreads: dict[str, Spread] = {}
        made: list[tuple[Owner, LayerNoise]] = []
        for module in modules:
            owner: Owner = module.__dict__[PLACE]
            layer = self._layer(module, owner, spreads)
            if layer is not None:
                made.append((owner, LayerNoise(self, names[id(module)], layer)))
        if not made:
            reasons = "; ".join(f"{k}: {v}" for k, v in list(self.left_out.items())[:3])
            raise UsageError(
                f"noise must have a layer to act on, and none of the selection can carry it "
                f"({reasons}): train without noise, or select other layers too"
            )
        for owner, noise in made:
            owner.output = noise
        self.layers = tuple(noise.name for _, noise in made)

    def __repr__(self) -> str:
        out = f", {len(self.left_out)} matrices left out" if self.left_out else ""
        return f"TunerNoise({self.setting}, on {len(self.layers)} layers{out})"

    @property
    def level(self) -> float:
        """nu_t at the tuner's step."""
        return self.level_at(self._tuner.step)

    def level_at(self, step: int) -> float:
        """nu_t at an optimizer step; UsageError where the schedule must know their number."""
        return self.setting.level(step, self._planned)

    def plan(self, total: int) -> None:
        """Take the number of optimizer steps of the run; ``steps`` of the setting goes before."""
        self._planned = self.setting.steps or checked_steps(total)

    def key(self, layer: str, call: Call) -> int:
        """The seed of the random numbers of one call of a layer, 63 bits."""
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        words = f"{self.setting.seed}/{rank}/{call[0]}/{call[1]}/{layer}"
        digest = hashlib.blake2b(words.encode("utf-8", "backslashreplace"), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def call(self, layer: str) -> Call | None:
        """Which call of ``layer`` this is; None where it is no part of training."""
        return self._calls.number(layer, self._tuner.step)

    def state_dict(self) -> dict[str, Any]:
        """The setting, the planned steps and the calls so far: saved with the optimizer."""
        return {
            "setting": _plain(self.setting),
            "steps": self._planned,
            "step": self._calls.step,
            "calls": dict(self._calls.counts),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """UsageError for the state of another noise."""
        mine, theirs = _plain(self.setting), state["setting"]
        differing = sorted(k for k in {*mine, *theirs} if mine.get(k) != theirs.get(k))
        if differing:
            told = ", ".join(f"{k}={theirs.get(k)!r} (now {mine.get(k)!r})" for k in differing)
            raise UsageError(
                f"the saved run had other noise: {told}; resume with the same (nothing was changed)"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a :meth:`state_dict` was taken; UsageError for another noise."""
        self.check_state(state)
        self._planned = self._planned or state["steps"]
        self._calls.step, self._calls.counts = state["step"], dict(state["calls"])

    # ------------------------------------------------------------------------- private

    def _layer(self, module: nn.Module, owner: Owner, spreads: dict[str, Spread]) -> Noisy | None:
        """The noise of one module, or None and the reasons in ``left_out``."""
        mine = [x for x in self._tuner.matrices if x.compact in owner.compacts.values()]
        if owner.call == "other" or type(module).__name__ == "NonDynamicallyQuantizableLinear":
            reason = OTHER if owner.call == "other" else DIRECT
            self.left_out |= {x.name: reason for x in mine}
            return None
        shape = mine[0].compact.weight.shape
        wide = (shape[0], shape[1:].numel())
        turned = owner.call == "conv1d"
        parts = []
        still = ZERO if self.setting.bits is None else EXACT
        for matrix in mine:
            sides = _sides(matrix, wide, turned)
            spread = None if sides is None else self._spread(matrix, spreads)
            if sides is None or spread is None:
                self.left_out[matrix.name] = LAYOUT if sides is None else still
            else:
                parts.append(Part(spread, *sides))
        whole = len(parts) == 1 and parts[0].outputs is None and parts[0].inputs is None
        if owner.call in ("linear", "conv1d"):
            outputs = wide[1] if turned else wide[0]
            return NoisyLinear(parts, outputs, self.setting.draw) if parts else None
        if not whole:
            self.left_out |= {x.name: LAYOUT for x in mine if x.name not in self.left_out}
            return None
        if owner.call == "conv":
            return NoisyConv(module, parts[0].spread, self.setting.draw)
        return NoisyEmbedding(parts[0].spread, self.setting.draw)

    def _spread(self, matrix: TunedMatrix, known: dict[str, Spread]) -> Spread | None:
        """The spread of one matrix, made once where two modules share it; None where it is 0."""
        if matrix.name not in known:
            weight = matrix.weight().detach().float().cpu().numpy()
            kept = None
            if self._tuner.selection.keep != "all":
                kept = weight != 0
                kept = None if kept.all() else kept
            bits, rms = self.setting.bits, 1.0
            if bits is None:
                guide = guide_of(self.setting.guide, weight)
                rms = _rms(weight) * (
                    1 if kept is None else (kept.size / max(1, kept.sum())) ** 0.5
                )
            else:
                how = Rounding(bits=bits, group=self.setting.group)
                guide = rounding_rows(weight, how, kept)
            if rms == 0 or not guide[0].any():
                return None
            known[matrix.name] = spread_of(matrix, guide, rms, kept)
        return known[matrix.name]


class LayerNoise:
    """Adds its noise to the output of one module."""

    def __init__(self, noise: TunerNoise, name: str, layer: Noisy) -> None:
        self.noise, self.name, self.layer = noise, name, layer

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The output ``y`` for the input ``x``, with the noise of this call."""
        noise = self.noise
        if noise.setting.nu == 0 or y.numel() == 0:
            return y
        call = noise.call(self.name)
        level = 0.0 if call is None else noise.level_at(call[0])
        if call is None or level == 0:
            return y
        made: Any = AddNoise.apply(y, x, self.layer, level, noise.key(self.name, call))
        return made


def attach_noise(tuner: Tuner, setting: Noise | None, modules: list[nn.Module]) -> Any:
    """The noise of a tuner that has just been attached, or None."""
    if setting is None:
        return None
    if not isinstance(setting, Noise):
        raise UsageError(f"noise must be a frog.Noise, as of Noise.guided(0.01): got {setting!r}")
    made = TunerNoise(tuner, setting, modules)
    tuner.add("noise", made)
    return made


def _sides(
    matrix: TunedMatrix, wide: tuple[int, int], turned: bool
) -> tuple[Tensor | None, Tensor | None] | None:
    """Which outputs and inputs of its layer a matrix holds (None: all), or None if it mixes them.

    ``wide`` are rows and columns of the weight as it lies; ``turned`` if its rows are the inputs.
    """
    m, n = matrix.shape
    down = np.divmod(entries(matrix.view, np.arange(m), 0), wide[1])
    along = np.divmod(entries(matrix.view, 0, np.arange(n)), wide[1])
    outputs, inputs = (down[1], along[0]) if turned else (down[0], along[1])
    fixed = (down[0], along[1]) if turned else (down[1], along[0])
    if any(len(np.unique(x)) > 1 for x in fixed):
        return None
    lengths = wide[::-1] if turned else wide
    made = []
    for index, length in zip((outputs, inputs), lengths, strict=True):
        whole = len(index) == length and (index == np.arange(length)).all()
        made.append(None if whole else torch.from_numpy(index).to(matrix.compact.weight.device))
    return made[0], made[1]


def _rms(weight: np.ndarray) -> float:
    """||W||_F / sqrt(m n), in float64 a row slab at a time."""
    step = max(1, (1 << 20) // max(1, weight.shape[1]))
    total = 0.0
    for start in range(0, len(weight), step):
        slab = weight[start : start + step].astype(np.float64)
        total += float(np.vdot(slab, slab))
    return float(np.sqrt(total / max(1, weight.size)))


def _plain(setting: Noise) -> dict[str, Any]:
    """What two runs must have in common to draw the same noise."""
    guide = setting.guide
    return {
        "nu": float(setting.nu),
        "schedule": setting.schedule,
        "until": setting.until,
        "draw": setting.draw,
        "guide": guide if isinstance(guide, str) else getattr(guide, "__qualname__", repr(guide)),
        "seed": setting.seed,
        **({} if setting.bits is None else {"bits": setting.bits, "group": setting.group}),
    }
