"""Health of a run: finite numbers, steps and changes of a sound size, losses that do not rise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from frog.tuning.guards.guard import Watcher, guard
from frog.tuning.guards.losses import Losses
from frog.tuning.guards.reading import Reading, used_of

if TYPE_CHECKING:
    from frog.tuning.guards.run import Run

FEW = 5
"""Steps whose median is the first level of the gradient norm."""

IN_A_ROW = 3
"""Gradients that are not finite, one after the other, from which on it is no accident."""


@guard
class Health(Watcher):
    """Not-finite gradients, steps or changes beyond all measure, exploding gradients, rising loss.

    Per matrix, over r = ||W||_F / sqrt(m n) at the start or the RMS of all tuned weights, whichever
    is larger (one rate serves small and large matrices), after every ``every`` steps:

    - ``step``: RMS of the last step of the chosen entries. A share b of the weights needs a rate
      that grows as 1 / b, so the limit is ``moved`` / b, at most ``step``: twice the largest that
      the automatic learning rate gives;
    - ``change``: ||dW||_F / sqrt(m n). Beyond its limit the run is slowed, never put back: it got
      there by many steps;
    - ``gradient``: norm of the whole gradient as the optimizer gets it (clipping hides its
      growth), median of 5 steps, over that of the first 5;
    - ``loss``: the losses that the model gives itself, or that are reported to the tuner: median
      of 5 over the best such median, or half the first where that is larger; it must also rise
      by more than the noise of the series explains. For evaluations each value. The limit is a
      ratio.

    A gradient with NaN or infinity never reaches the optimizer unless the action is ``log``: the
    step is left out, which keeps the moments clean; from three in a row on, the action follows.
    Parameters that train whole (``also``) are only asked whether they are finite: a new head has
    no scale yet.
    """

    name = "health"
    every = 1
    action = "restore"

    def __init__(
        self,
        *,
        step: float = 2.0,
        moved: float = 0.03,
        change: float = 1.0,
        gradient: float = 20.0,
        loss: float = 1.5,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.step, self.moved, self.change = step, moved, change
        self.gradient, self.loss = gradient, loss
        self._begin()

    def start(self, run: Run) -> None:
        """Nothing has moved, nothing was heard: also of a run before this one."""
        self._begin()

    def _begin(self) -> None:
        self._bad = 0
        self._first: list[float] = []
        self._norms: list[float] = []
        self._norm: Tensor | None = None
        self._before: list[Tensor] = []
        self._losses = {"loss": Losses(FEW), "training": Losses(FEW), "evaluation": Losses(1)}

    # ---------------------------------------------------------------- before the step

    def before_step(self, run: Run, optimizer: torch.optim.Optimizer) -> Iterable[Reading]:
        """Keep the changes; leave a step out whose gradient is not finite."""
        if (run.step + 1) % self.every:
            return ()
        self._keep(run)
        if getattr(optimizer, "found_inf", None) is not None:
            # a fused step under GradScaler: scaled gradients, of which it leaves out the bad ones
            self._norm = None
            return ()
        trains = run.parameters()
        gradients = [x.grad for x in trains.values() if x.grad is not None]
        self._norm = torch.nn.utils.get_total_norm(gradients) if gradients else None
        if self._norm is None or math.isfinite(float(self._norm)):
            self._bad = 0
            return ()
        self._norm = None
        self._bad += 1
        where = next(
            (k for k, x in trains.items() if x.grad is not None and not _finite(x.grad)), ""
        )
        if self.action != "log":
            held = [x for group in optimizer.param_groups for x in group["params"]]
            for parameter in (*trains.values(), *held):  # those of other optimizers, too
                parameter.grad = None
        skips = self._bad < IN_A_ROW and self.action in ("slow", "restore")
        return (
            Reading(
                layer=where, kind="not finite", before=0.0, value=float(self._bad), limit=0.0,
                words="steps in a row whose gradient is not finite:", used=1.0 + self._bad,
                act="skip" if skips else "",
            ),
        )  # fmt: skip

    def previous(self) -> list[Tensor]:
        """The changes before the last step that was looked at."""
        return self._before

    @torch.no_grad()
    def _keep(self, run: Run) -> None:
        changes = [x.change.detach() for x in run.compacts]
        if any(x.device != y.device for x, y in zip(self._before, changes, strict=False)):
            self._before = []
        if not self._before:
            self._before = [x.clone() for x in changes]
            return
        for before, change in zip(self._before, changes, strict=True):
            before.copy_(change)

    # ------------------------------------------------------------------ after the step

    @torch.no_grad()
    def check(self, run: Run) -> Iterable[Reading]:
        """Steps, changes, gradient norm and losses, in one transfer from the device."""
        norm = torch.linalg.vector_norm
        changes = [x.change.detach() for x in run.compacts]
        moved = [norm(x - y) for x, y in zip(changes, self._before, strict=True)]
        size = [norm(x) for x in changes]
        dense = [norm(x.detach().float()) for x in run.dense.values()]
        loss = run.take_loss()
        rest = [x for x in (loss, self._norm) if x is not None]
        scalars = [*moved, *size, *dense, *rest]
        if not scalars:
            return
        numbers = torch.stack([x.to(scalars[0].device, torch.float32) for x in scalars]).tolist()
        count = len(changes)
        yield from self._sizes(run, numbers[:count], numbers[count : 2 * count])
        yield from self._of_dense(run, numbers[2 * count : 2 * count + len(dense)])
        if self._norm is not None:
            yield from self._of_gradient(numbers.pop())
        if loss is not None:
            yield from self._of_loss("loss", numbers.pop())
        self._norm = None

    def _sizes(self, run: Run, moved: list[float], size: list[float]) -> Iterable[Reading]:
        """The largest step beside its limit, and the largest change, over their matrices."""
        steps, limits, changes = [], [], []
        for compact, whole, step, change in zip(run.compacts, run.norms, moved, size, strict=True):
            share = len(compact.change) / compact.weight.numel()
            if not math.isfinite(change):
                step = change = math.nan
            # an all-zero weight among others that are zero has no scale: only NaN counts there
            entries = compact.weight.numel()
            scale = max(whole / math.sqrt(entries), run.rms) or math.inf
            steps.append(step / math.sqrt(len(compact.change)) / scale)
            changes.append(change / math.sqrt(entries) / scale)
            limits.append(min(self.step, self.moved / share))
        if not steps:
            return
        names = [x.name for x in run.compacts]
        place = _largest([x / limit for x, limit in zip(steps, limits, strict=True)])
        yield Reading(
            layer=names[place], kind="step", before=0.0, value=steps[place], limit=limits[place],
            words="RMS of a step of the chosen entries, over that of the weights,", undo=True,
        )  # fmt: skip
        place = _largest(changes)
        lost = math.isnan(changes[place])
        yield Reading(
            layer=names[place], kind="change", before=0.0, value=changes[place],
            limit=self.change, words="RMS of the change, over that of the weights,", undo=lost,
            act="slow" if self.action == "restore" and not lost else "",
        )  # fmt: skip

    def _of_dense(self, run: Run, norms: list[float]) -> Iterable[Reading]:
        for name, norm in zip(run.dense, norms, strict=True):
            if not math.isfinite(norm):
                yield Reading(
                    layer=name, kind="change", before=0.0, value=math.nan, limit=self.change,
                    words="its norm is",
                )  # fmt: skip

    def _of_gradient(self, norm: float) -> Iterable[Reading]:
        if len(self._first) < FEW:
            self._first.append(norm)
            return
        self._norms = [*self._norms[-FEW + 1 :], norm]
        level, first = statistics.median(self._norms), statistics.median(self._first)
        if first > 0 and len(self._norms) == FEW:
            yield Reading(
                layer="", kind="gradient", before=1.0, value=level / first, limit=self.gradient,
                words="norm of the gradient, over that of the first steps,",
            )  # fmt: skip

    def on_loss(self, run: Run, value: float, kind: str) -> Iterable[Reading]:
        """A reported loss; those that the model gave itself are not counted twice."""
        if kind == "training" and not math.isnan(self._losses["loss"].first):
            return ()
        return tuple(self._of_loss(kind, value))

    def _of_loss(self, kind: str, value: float) -> Iterable[Reading]:
        held = self._losses[kind].add(value)
        if held is None:
            return
        level, best, clear = held
        ratio = level / best if best > 0 else (1.0 if level == best else math.nan)
        ratio = ratio if math.isfinite(ratio) else math.nan
        words = {"evaluation": "evaluation loss over its best", "loss": "loss over its best"}
        yield Reading(
            layer="", kind="evaluation loss" if kind == "evaluation" else "loss", before=1.0,
            value=ratio, limit=self.loss, words=words.get(kind, "training loss over its best"),
            used=min(used_of(1.0, ratio, self.loss), clear),
        )  # fmt: skip

    def restored(self, run: Run) -> None:
        """The last norms and losses belong to other weights."""
        self._norms, self._bad = [], 0
        for losses in self._losses.values():
            losses.forget_recent()

    def state_dict(self) -> dict[str, Any]:
        """Levels and counters; what trains is saved by the tuner."""
        return {
            "bad": self._bad,
            "first": list(self._first),
            "norms": list(self._norms),
            "losses": {kind: x.state_dict() for kind, x in self._losses.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._bad = state["bad"]
        self._first, self._norms = list(state["first"]), list(state["norms"])
        for kind, losses in self._losses.items():
            losses.load_state_dict(state["losses"][kind])


def _largest(values: list[float]) -> int:
    """Place of the largest value; of one that is no number where there is one."""
    return max(range(len(values)), key=lambda i: (math.isnan(values[i]), values[i]))


def _finite(gradient: Tensor) -> bool:
    return bool(torch.isfinite(gradient).all())
