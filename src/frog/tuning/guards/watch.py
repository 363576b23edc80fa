"""Calls the guards, does what they ask for, and keeps account: one for a tuner."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from frog.errors import UsageError
from frog.tuning.guards.account import Account
from frog.tuning.guards.guard import Guard
from frog.tuning.guards.health import Health
from frog.tuning.guards.processes import Verdict, agreed, several
from frog.tuning.guards.reading import Reading
from frog.tuning.guards.record import Record
from frog.tuning.guards.run import Run
from frog.types.certificates import RESPONSES

SNAPSHOT_EVERY = 10
"""Steps after which a run without alarms is healthy enough to come back to."""

AT_EASE = 0.5
"""No snapshot is taken while the loss has used up more than this share of its way to the limit."""

SLOWEST = 1e-3
"""A learning rate slowed to this share or below ends the run: slowing does not help it."""

STRETCH = 64
"""Times its interval that a guard's checks may become apart where they cost too much."""

ELSEWHERE = Reading(
    layer="", kind="in another process", before=0.0, value=1.0, limit=0.0,
    words="processes beside this one raised an alarm:",
)  # fmt: skip
"""What a process writes down that acts on an alarm of another."""


class Watch:
    """The guards of a tuner at work, and their state as a part of it.

    Around every step of an optimizer that trains the tuner: learning rates are multiplied with
    ``factor`` for the length of the step (schedulers see their own values), then the guards that
    are due check, and the strongest action of what is news follows.
    """

    def __init__(self, tuner: Any, guards: tuple[Guard, ...]) -> None:
        self.guards = guards
        self.run = Run(tuner)
        self.record = Record()
        self.account = Account()
        self.factor = 1.0
        self.stopped = False
        self.stretch = {x.name: 1 for x in guards}
        self.checks = {x.name: 0 for x in guards}
        self._tuner = weakref.ref(tuner)
        self._held: dict[int, list[Any]] = {}
        self._found: list[tuple[Guard, tuple[Reading, ...]]] = []
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        for guard in guards:
            with self.account.of(guard.name, self.run.device, "start"):
                guard.start(self.run)
        self.run.started()
        self.snapshot = tuner.snapshot() if any(x.action == "restore" for x in guards) else {}
        self.snapshot_step = tuner.step
        before, after = weakref.WeakMethod(self._before), weakref.WeakMethod(self._after)
        heard = weakref.WeakMethod(self._heard)
        self._handles = [
            register_optimizer_step_pre_hook(lambda *x: _call(before, x[0])),
            register_optimizer_step_post_hook(lambda *x: _call(after, x[0])),
            tuner.model.register_forward_hook(AfterForward(heard), with_kwargs=True),
        ]
        tuner.add("guards", self)
        tuner.on_step(self._stepped)

    def remove(self) -> None:
        """Leave optimizers and model alone; what was seen stays."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    # ------------------------------------------------------------------- around a step

    def _before(self, optimizer: torch.optim.Optimizer) -> None:
        tuner = self._tuner()
        if tuner is None or not tuner.trains_in(optimizer):
            return
        self._optimizers.add(optimizer)
        self._after(optimizer)  # of a step that was broken off
        if self._counts(optimizer):
            self.account.tick()
            self.run.step = tuner.step
            for guard in self.guards:
                with self.account.of(guard.name, self.run.device):
                    readings = tuple(guard.before_step(self.run, optimizer))
                self._found.append((guard, readings))
        if self.factor != 1.0:
            self._held[id(optimizer)] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self.factor

    def _after(self, optimizer: torch.optim.Optimizer) -> None:
        held = self._held.pop(id(optimizer), None)
        if held is not None:
            for group, lr in zip(optimizer.param_groups, held, strict=True):
                group["lr"] = lr

    def _stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """After the weights are written."""
        tuner = self._tuner()
        assert tuner is not None
        self._after(optimizer)  # who saves the optimizer in its step saves its own rates
        self.run.step = tuner.step
        for guard in self.guards:
            with self.account.of(guard.name, self.run.device):
                guard.after_step(self.run)
        found, self._found = self._found, []
        for guard in self.guards:
            if tuner.step % (guard.every * self.stretch[guard.name]) == 0:
                with self.account.of(guard.name, self.run.device):
                    found.append((guard, tuple(guard.check(self.run))))
                self.checks[guard.name] += 1
        self.run.losses.clear()
        verdict = self._act(found, tuner.step)
        self.account.tick()
        self._spare()
        healthy = self.snapshot and not verdict.beyond and not verdict.uneasy
        if healthy and tuner.step - self.snapshot_step >= SNAPSHOT_EVERY:
            self.snapshot = tuner.snapshot()
            self.snapshot_step = tuner.step

    def _heard(self, output: Any, inputs: Any) -> None:
        if self.run.model.training and torch.is_grad_enabled():
            self.run.heard(output, inputs)

    def report_loss(self, value: float, kind: str) -> None:
        """A loss of the training or of an evaluation, as the loop knows it."""
        if kind not in ("training", "evaluation"):
            raise UsageError(f"kind must be training or evaluation, got {kind!r}")
        found = [(x, tuple(x.on_loss(self.run, float(value), kind))) for x in self.guards]
        if several():
            self._found += found  # not all of them may be told: they act together, after a step
        else:
            self._act(found, self.run.step)

    # ------------------------------------------------------------------------ actions

    def _act(self, found: Sequence[tuple[Guard, Sequence[Reading]]], step: int) -> Verdict:
        """Write alarms down and do what the strongest of all processes asks for."""
        mine = self._judge(found, step)
        verdict = agreed(mine, self.run.device)
        if verdict.action > mine.action:
            guard = self.guards[verdict.guard].name
            self.record.alarm(guard, ELSEWHERE, step, verdict.word)
        if verdict.word in ("slow", "restore"):
            self.factor *= verdict.slow
        if verdict.word == "stop":
            self.stopped = True
        if verdict.restore:
            self._restore(only_last=not verdict.whole)
        self.record.metrics["frog/slow"] = self.factor
        return verdict

    def _judge(self, found: Sequence[tuple[Guard, Sequence[Reading]]], step: int) -> Verdict:
        """What the alarms of this process ask for; writes them down."""
        asked: list[tuple[str, Guard, Reading]] = []
        for guard, readings in found:
            for reading in self.record.add(guard.name, readings, step):
                action = reading.act or guard.action
                after = self.factor * guard.slow
                if action in ("slow", "restore") and after <= SLOWEST * 1.001:
                    action = "stop"
                self.record.alarm(guard.name, reading, step, action)
                if action in RESPONSES:
                    asked.append((action, guard, reading))
        seen = [x for _, readings in found for x in readings]
        beyond = any(x.beyond for x in seen)
        uneasy = any(not x.used <= AT_EASE for x in seen if "loss" in x.kind)
        if not asked:
            return Verdict(beyond=beyond, uneasy=uneasy)
        strongest, guard, _ = max(asked, key=lambda x: RESPONSES.index(x[0]))
        back = strongest == "restore" or (strongest == "stop" and guard.action == "restore")
        return Verdict(
            action=RESPONSES.index(strongest),
            guard=self.guards.index(guard),
            slow=guard.slow if strongest in ("slow", "restore") else 1.0,
            restore=back,
            whole=back and not all(x[2].undo for x in asked if x[0] == strongest),
            beyond=beyond,
            uneasy=uneasy,
        )

    def _restore(self, only_last: bool) -> None:
        """Put the last healthy weights back, and forget the moments that led away from them."""
        tuner = self._tuner()
        assert tuner is not None
        health: Any = next((x for x in self.guards if isinstance(x, Health)), None)
        last = health.previous() if health is not None else []
        if only_last and last:
            for compact, change in zip(self.run.compacts, last, strict=True):
                compact.set(change)
        else:
            tuner.restore(self.snapshot)
        for optimizer in self._optimizers:
            for parameter in self.run.parameters().values():
                optimizer.state.pop(parameter, None)
        for guard in self.guards:
            guard.restored(self.run)
        self.record.restored()

    def _spare(self) -> None:
        """Make checks rarer that take more than their share of the time."""
        if several():
            return  # clocks differ, and all processes must do the same
        for guard in self.guards:
            stretched = self.stretch[guard.name]
            checked = self.run.step % (guard.every * stretched) == 0
            costly = guard.cost is not None and self.account.share(guard.name) > guard.cost
            if checked and costly and self.checks[guard.name] >= 2 and stretched < STRETCH:
                self.stretch[guard.name] = 2 * stretched

    def _counts(self, optimizer: torch.optim.Optimizer) -> bool:
        first = self.run.compacts[0].change if self.run.compacts else None
        return any(x is first for group in optimizer.param_groups for x in group["params"])

    # -------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """All of it, and the last healthy changes."""
        return {
            "factor": self.factor,
            "stopped": self.stopped,
            "stretch": dict(self.stretch),
            "checks": dict(self.checks),
            "snapshot": dict(self.snapshot),
            "snapshot_step": self.snapshot_step,
            "record": self.record.state_dict(),
            "account": self.account.state_dict(),
            "guards": {x.name: x.state_dict() for x in self.guards},
            "found": [[x.name, [asdict(r) for r in readings]] for x, readings in self._found],
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """UsageError for the state of other guards."""
        mine = [x.name for x in self.guards]
        if sorted(state["guards"]) != sorted(mine):
            raise UsageError(
                f"the saved run had the guards {', '.join(sorted(state['guards']))}, this one has "
                f"{', '.join(sorted(mine))}: make the tuner with the same (nothing was changed)"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was; UsageError for other guards."""
        self.check_state(state)
        self.factor, self.stopped = state["factor"], state["stopped"]
        self.stretch, self.checks = dict(state["stretch"]), dict(state["checks"])
        self.snapshot = {
            name: value.to(self.snapshot[name].device) if name in self.snapshot else value
            for name, value in state["snapshot"].items()
        }
        self.snapshot_step = state["snapshot_step"]
        self.record.load_state_dict(state["record"])
        self.account.load_state_dict(state["account"])
        for guard in self.guards:
            guard.load_state_dict(state["guards"][guard.name])
        named = {x.name: x for x in self.guards}
        self._found = [
            (named[name], tuple(Reading(**x) for x in readings))
            for name, readings in state["found"]
        ]


class AfterForward:
    """A hook that tells a watch what the model gave; a copy of it does nothing."""

    def __init__(self, heard: Any) -> None:
        self._heard = heard

    def __call__(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        """What torch calls with the module, its inputs and its output."""
        heard = self._heard() if self._heard is not None else None
        if heard is not None and not torch.compiler.is_compiling():
            heard(output, kwargs)

    def __reduce__(self) -> Any:
        return AfterForward, (None,)


def _call(method: weakref.WeakMethod, optimizer: torch.optim.Optimizer) -> None:
    found = method()
    if found is not None:
        found(optimizer)
