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
from frog.tuning.guards.reading import Reading

if TYPE_CHECKING:
    from frog.tuning.guards.run import Run

FEW = 5
"""Steps whose median is the first level of the gradient norm."""

IN_A_ROW = 3
"""Gradients that are not finite, one after the other, from which on it is no accident."""


@guard
class Health(Watcher):
    """Not-finite gradients, steps or changes beyond all measure, exploding gradients, rising loss.

    Per matrix of RMS r = ||W||_F / sqrt(m n) at the start, after every ``every`` steps:

    - ``step``: RMS of the last step of the chosen entries, over r;
    - ``change``: ||dW||_F / ||W||_F;
    - ``gradient``: norm of the whole gradient as the optimizer gets it (clipping hides its
      growth), median of 5 steps, over that of the first 5;
    - ``loss``: the losses that the model gives itself, or that are reported to the tuner: median
      of 5 over the best such median, or half the first where that is larger; for evaluations
      each value. The limit is a ratio.

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
        step: float = 0.5,
        change: float = 0.75,
        gradient: float = 20.0,
        loss: float = 1.5,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.step, self.change, self.gradient, self.loss = step, change, gradient, loss
        self._bad = 0
        self._first: list[float] = []
        self._norms: list[float] = []
        self._norm: Tensor | None = None
        self._losses = {"loss": Losses(FEW), "training": Losses(FEW), "evaluation": Losses(1)}

    def start(self, run: Run) -> None:
        """Keep the norms of the weights."""
        norms = [torch.linalg.vector_norm(x.weight.data.float()) for x in run.compacts]
        self._size = [float(x) for x in norms]
        self._before: list[Tensor] = []

    # ---------------------------------------------------------------- before the step

    def before_step(self, run: Run, optimizer: torch.optim.Optimizer) -> Iterable[Reading]:
        """Keep the changes; leave a step out whose gradient is not finite."""
        if (run.step + 1) % self.every:
            return ()
        self._keep(run)
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
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        skips = self._bad < IN_A_ROW and self.action in ("slow", "restore")
        return (
            Reading(
                layer=where, kind="not finite", before=0.0, value=float(self._bad), limit=0.0,
                words="steps in a row whose gradient is not finite:",
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
        """The largest step and the largest change, each over the size of its matrix."""
        steps, changes = [], []
        for compact, whole, step, change in zip(run.compacts, self._size, moved, size, strict=True):
            share = math.sqrt(len(compact.change) / compact.weight.numel())
            if not math.isfinite(change):
                step = change = math.nan
            # an all-zero weight has no scale: only NaN counts there
            unit = whole or math.inf
            steps.append(step / unit / share)
            changes.append(change / unit)
        for kind, values, limit, words in (
            ("step", steps, self.step, "RMS of a step of the chosen entries, over the matrix's,"),
            ("change", changes, self.change, "||dW||_F / ||W||_F"),
        ):
            if not values:
                continue
            worst = max(range(len(values)), key=lambda i: -1.0 if values[i] < math.inf else 1.0)
            if values[worst] < math.inf:
                worst = max(range(len(values)), key=values.__getitem__)
            yield Reading(
                layer=run.compacts[worst].name, kind=kind, before=0.0, value=values[worst],
                limit=limit, words=words, undo=kind == "step" or math.isnan(values[worst]),
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
        level, best = held
        ratio = level / best if best > 0 else (1.0 if level == best else math.nan)
        words = {"evaluation": "evaluation loss over its best", "loss": "loss over its best"}
        yield Reading(
            layer="", kind="evaluation loss" if kind == "evaluation" else "loss", before=1.0,
            value=ratio if math.isfinite(ratio) else math.nan, limit=self.loss,
            words=words.get(kind, "training loss over its best"),
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


def _finite(gradient: Tensor) -> bool:
    return bool(torch.isfinite(gradient).all())
